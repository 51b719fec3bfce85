//! Rules as iptables-nft writes them: matches and targets by name, with the parameters that the kernel hands back.

use super::{
    Reading, Rules, analyse,
    expression::{Expression, Verdict, ct},
    ruleset::{Base, Chain, Key, Rule, Ruleset, Set, TableKey, family},
};
use crate::reach::Family;

fn matching(name: &str, revision: u32, parameters: Vec<u8>) -> Expression {
    Expression::Match { name: name.into(), revision, parameters }
}

fn target(name: &str) -> Expression {
    Expression::Target { name: name.into(), parameters: Vec::new() }
}

/// `struct xt_conntrack_mtinfo3` with a match of the state alone.
fn state(mask: u16, inverted: bool) -> Expression {
    let mut parameters = vec![0; 164];
    parameters[146..148].copy_from_slice(&1u16.to_ne_bytes());
    parameters[148..150].copy_from_slice(&u16::from(inverted).to_ne_bytes());
    parameters[150..152].copy_from_slice(&mask.to_ne_bytes());
    matching("conntrack", 3, parameters)
}

const NEW: u16 = 1 << 3;
const ESTABLISHED_AND_RELATED: u16 = 1 << 1 | 1 << 2;

/// Of a chain FORWARD of iptables.
fn forward(rules: Vec<Vec<Expression>>) -> Ruleset {
    chain(2, "filter", rules)
}

fn chain(hook: u32, kind: &str, rules: Vec<Vec<Expression>>) -> Ruleset {
    let table: TableKey = (family::IPV4, "filter".into());
    let base = Base { hook, priority: 0, kind: kind.into(), drops: false, devices: Vec::new() };
    let rule = |(handle, expressions)| Rule { table: table.clone(), chain: "C".into(), handle, expressions };
    Ruleset {
        chains: vec![Chain { table: table.clone(), name: "C".into(), base: Some(base) }],
        rules: (1..).zip(rules).map(rule).collect(),
        ..Ruleset::default()
    }
}

fn every_and_first(rules: &Rules) -> (usize, usize) {
    (rules.every_packet.len(), rules.first_packets.len())
}

#[test]
fn a_match_of_iptables_tracks_by_its_name_and_a_comment_does_not() {
    let tracks = forward(vec![vec![matching("conntrack", 3, Vec::new()), target("LOG")]]);
    let found = analyse::tracking(&tracks);
    assert_eq!(found[&Family::Ipv4], "table ip filter, chain C, handle 1: conntrack");
    assert!(!found.contains_key(&Family::Ipv6));
    assert!(analyse::tracking(&forward(vec![vec![matching("comment", 0, Vec::new())]])).is_empty());
}

#[test]
fn limits_of_iptables_are_judged_by_the_state_that_they_are_for() {
    let limited = |before: Vec<Expression>| {
        let mut rule = before;
        rule.extend([matching("hashlimit", 3, Vec::new()), Expression::Verdict(Verdict::Accept)]);
        every_and_first(&analyse::rules(&forward(vec![rule])))
    };
    assert_eq!(limited(vec![]), (1, 0));
    assert_eq!(limited(vec![state(NEW, false)]), (0, 1));
    assert_eq!(limited(vec![state(NEW, true)]), (1, 0));
    assert_eq!(limited(vec![state(ESTABLISHED_AND_RELATED, true)]), (0, 1));
    assert_eq!(limited(vec![matching("state", 0, (1u32 << 3).to_ne_bytes().to_vec())]), (0, 1));
    // --syn: SYN of SYN, RST, ACK and FIN.
    let syn = |inverted| matching("tcp", 0, vec![0, 0, 255, 255, 0, 0, 255, 255, 0, 0x17, 0x02, inverted]);
    assert_eq!(limited(vec![syn(0)]), (0, 1));
    assert_eq!(limited(vec![syn(0x04)]), (1, 0));
}

#[test]
fn what_comes_after_the_established_are_accepted_meets_no_packet_of_theirs() {
    let accept = vec![state(ESTABLISHED_AND_RELATED, false), Expression::Verdict(Verdict::Accept)];
    let limit = vec![matching("limit", 0, Vec::new()), target("TOS")];
    let after = analyse::rules(&forward(vec![accept.clone(), limit.clone()]));
    assert_eq!(every_and_first(&after), (0, 1), "{after:?}");
    let before = analyse::rules(&forward(vec![limit, accept]));
    assert_eq!(every_and_first(&before), (1, 0), "{before:?}");
}

#[test]
fn targets_of_iptables_are_known_by_their_names() {
    for (name, every, closed) in [
        ("TPROXY", 1, 0),
        ("NFQUEUE", 1, 0),
        ("DSCP", 1, 0),
        ("REJECT", 0, 1),
        ("LOG", 0, 0),
        ("TCPMSS", 0, 0),
    ] {
        let rules = analyse::rules(&forward(vec![vec![target(name)]]));
        assert_eq!((rules.every_packet.len(), rules.closed.len()), (every, closed), "{name}");
    }
    let marks = |hook, kind| analyse::rules(&chain(hook, kind, vec![vec![target("MARK")]])).marks.len();
    assert_eq!((marks(0, "filter"), marks(2, "filter"), marks(0, "nat")), (1, 0, 0));
}

#[test]
fn what_is_not_known_is_taken_to_need_every_packet() {
    let unknown = Expression::Other { name: "newthing".into(), to: None };
    let rules = analyse::rules(&forward(vec![vec![unknown]]));
    assert_eq!(rules.every_packet[0].what, "newthing, which is not known");
    // As of xtables-addons.
    let rules = analyse::rules(&forward(vec![vec![target("TARPIT")]]));
    assert_eq!(rules.every_packet[0].what, "TARPIT, which is not known");
}

#[test]
fn a_map_by_a_part_of_the_state_says_nothing_of_the_established() {
    let refused = |mask: Option<u32>, key: u32| {
        let mut rule = vec![Expression::Ct { key: ct::STATE, to: 4 }];
        rule.extend(mask.map(|mask| Expression::Mask { from: 4, to: 4, mask: mask.to_ne_bytes().to_vec() }));
        rule.push(Expression::Lookup { set: "m".into(), register: 4, inverted: false, to: None });
        let mut ruleset = forward(vec![rule]);
        let elements = vec![(Key::Exact(key.to_ne_bytes().to_vec()), Verdict::Drop)];
        ruleset.sets.insert(((family::IPV4, "filter".into()), "m".into()), Set::Verdicts(elements));
        let rules = analyse::rules(&ruleset);
        rules.running.len() + rules.closed.len()
    };
    assert_eq!((refused(None, ct::ESTABLISHED), refused(None, 8)), (1, 0));
    // Whatever is not new.
    assert_eq!(refused(Some(8), 0), 1);
}

#[test]
fn chains_that_call_each_other_in_rings_end() {
    let jump = |to: &str| vec![Expression::Verdict(Verdict::Jump(to.into()))];
    let rules = analyse::rules(&forward(vec![jump("C"), jump("C"), jump("C"), jump("C"), jump("C")]));
    assert_eq!(rules.every_packet[0].to_string(), "nftables: more rules than are followed");
}

#[test]
fn while_the_rules_do_not_hold_still_what_was_known_of_them_stands() {
    let reading = |rules: Vec<Vec<Expression>>, whole| {
        let ruleset = forward(rules);
        Reading { tracking: Ok(analyse::tracking(&ruleset)), rules: analyse::rules(&ruleset), whole }
    };
    let limit =
        || vec![state(ESTABLISHED_AND_RELATED, false), matching("limit", 0, Vec::new()), target("TOS")];
    let before = reading(vec![limit()], true);
    let torn = reading(vec![vec![target("NFQUEUE")]], false).with(&before);
    assert!(torn.tracking.as_ref().is_ok_and(|found| found.contains_key(&Family::Ipv4)), "{torn:?}");
    let words = |reading: &Reading| -> Vec<String> {
        reading.rules.every_packet.iter().map(|finding| finding.what.clone()).collect()
    };
    assert!(words(&torn).contains(&"limit".to_owned()), "{torn:?}");
    let whole = reading(vec![vec![target("NFQUEUE")]], true).with(&torn);
    assert_eq!(words(&whole), ["NFQUEUE"]);
    assert!(whole.tracking.is_ok_and(|found| found.is_empty()));
    // What was found is not held against a reading that failed: nothing is known then.
    let failed = Reading { tracking: Err("no socket".to_owned()), rules: Rules::default(), whole: false };
    assert!(failed.with(&before).tracking.is_err());
}
