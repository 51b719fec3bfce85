//! Facts as nodes have them, and what is chosen.

use manx_dataplane::{
    netfilter::{Conntrack, Place, Rules},
    reach::{Addresses, InterfaceMatch},
};

use super::*;
use Mode::{Guarded, Off, Unguarded};

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// A kernel that says nothing of them: it forwards.
static NO_SWITCHES: std::sync::LazyLock<Switches> = std::sync::LazyLock::new(Switches::default);

const RULE: &str = "table inet t, chain forward, handle 2: ct";

fn tracked(rules: Rules) -> Survey {
    let by = Tracking::Yes(RULE.to_owned());
    Survey { ipv4: by.clone(), ipv6: by, rules, conntrack: None::<Conntrack> }
}

fn untracked(rules: Rules) -> Survey {
    Survey { rules, ..Survey::default() }
}

fn pool(name: &'static str, prefix: &str) -> PoolFacts<'static> {
    PoolFacts { name, prefix: p(prefix), setting: None, excluded: None }
}

fn facts(survey: &Survey) -> Facts<'_> {
    Facts {
        flag: FastPathMode::Auto,
        whole: None,
        pools: vec![pool("a", "172.16.0.0/16"), pool("b", "172.17.0.0/16"), pool("six", "fd00:10::/64")],
        interfaces: vec![
            InterfaceFacts {
                ifindex: 2,
                name: "ens33",
                setting: None,
                is_loose: false,
                vrf: None,
                behind: &[],
                before: &[],
            },
            InterfaceFacts {
                ifindex: 7,
                name: "cali0",
                setting: None,
                is_loose: false,
                vrf: None,
                behind: &[],
                before: &[],
            },
        ],
        exits: Vec::new(),
        survey,
        switches: &NO_SWITCHES,
        diverting: Vec::new(),
        no_guard: None,
        not_liberal: None,
        tracked_before: Vec::new(),
    }
}

fn modes(choice: &Choice) -> Vec<Mode> {
    choice.pools.iter().map(|pool| pool.mode).collect()
}

fn texts(choice: &Choice) -> Vec<&str> {
    choice.found.iter().map(|found| found.text.as_str()).collect()
}

fn finding(what: &str, reach: Reach) -> Finding {
    let place = Place { family: 1, table: "t".into(), chain: "forward".into(), handle: Some(5) };
    Finding { place, what: what.into(), reach, more: 0 }
}

fn from(prefix: &str) -> Reach {
    Reach { from: Addresses { any_of: Some(vec![p(prefix)]), none_of: Vec::new() }, ..Reach::default() }
}

fn by(name: &str) -> Reach {
    Reach { by: InterfaceMatch::Name(name.into()).into(), ..Reach::default() }
}

#[test]
fn where_nothing_tracks_all_pools_are_fast_without_a_guard() {
    let survey = untracked(Rules::default());
    let choice = decide(&facts(&survey));
    assert_eq!(modes(&choice), [Unguarded; 3]);
    assert_eq!((choice.whole, choice.reason.as_str()), (Unguarded, "netfilter tracks no connections here"));
    assert!(choice.is_on() && choice.guarded.is_empty() && choice.found.is_empty());
}

#[test]
fn where_connections_are_tracked_the_guard_is_asked_and_the_rule_is_named() {
    let survey = tracked(Rules::default());
    let choice = decide(&facts(&survey));
    assert_eq!((modes(&choice), choice.guarded), (vec![Guarded; 3], vec![Family::Ipv4, Family::Ipv6]));
    assert!(choice.reason.contains(RULE), "{}", choice.reason);
}

#[test]
fn each_family_is_judged_for_itself() {
    let survey = Survey { ipv6: Tracking::No, ..tracked(Rules::default()) };
    assert_eq!(modes(&decide(&facts(&survey))), [Guarded, Guarded, Unguarded]);
}

#[test]
fn without_the_guard_tracked_packets_are_the_stacks_and_there_is_a_sentence() {
    let survey = tracked(Rules::default());
    for no_guard in [true, false] {
        let mut facts = facts(&survey);
        let why = Some("this kernel has no bpf_skb_ct_lookup".to_owned());
        *(if no_guard { &mut facts.no_guard } else { &mut facts.not_liberal }) = why;
        let choice = decide(&facts);
        assert_eq!(modes(&choice), [Off; 3]);
        assert!(choice.reason.contains("no bpf_skb_ct_lookup") && !choice.is_on(), "{}", choice.reason);
    }
}

#[test]
fn what_cannot_be_read_is_not_passed_by() {
    let survey = Survey { ipv4: Tracking::Unknown("legacy iptables".into()), ..Survey::default() };
    let choice = decide(&facts(&survey));
    assert_eq!(modes(&choice), [Off, Off, Unguarded]);
    assert!(choice.pools[0].reason.contains("legacy iptables"));
}

#[test]
fn once_tracked_auto_stays_guarded() {
    let survey = untracked(Rules::default());
    let mut facts = facts(&survey);
    facts.tracked_before = vec![Family::Ipv4];
    assert_eq!(modes(&decide(&facts)), [Guarded, Guarded, Unguarded]);
}

#[test]
fn that_connections_were_tracked_is_remembered_of_pools_that_a_rule_kept_off() {
    let limit = finding("limit", Reach::default());
    let survey = tracked(Rules { every_packet: vec![limit], ..Rules::default() });
    let choice = decide(&facts(&survey));
    assert_eq!((modes(&choice), choice.guarded), (vec![Off; 3], vec![]));
    assert_eq!(choice.tracked, [Family::Ipv4, Family::Ipv6]);
    let mut enabled = facts(&survey);
    enabled.pools[2].setting = Some(FastPathSetting::Enabled);
    assert_eq!(decide(&enabled).tracked, [Family::Ipv4], "where all is Enabled nothing is remembered");
}

#[test]
fn the_operators_words_stand_in_their_order() {
    let survey = tracked(Rules::default());
    let settings = |flag, whole, own| {
        let mut facts = facts(&survey);
        (facts.flag, facts.whole, facts.pools[0].setting) = (flag, whole, own);
        let choice = decide(&facts);
        (choice.whole.min(choice.pools[0].mode), choice.whole.min(choice.pools[1].mode))
    };
    use FastPathMode as Flag;
    use FastPathSetting::{Auto, Disabled, Enabled};
    assert_eq!(settings(Flag::Off, Some(Enabled), Some(Enabled)), (Off, Off));
    assert_eq!(settings(Flag::On, None, None), (Unguarded, Unguarded));
    assert_eq!(settings(Flag::On, Some(Auto), None), (Guarded, Guarded));
    assert_eq!(settings(Flag::Auto, Some(Enabled), Some(Auto)), (Guarded, Unguarded));
    assert_eq!(settings(Flag::Auto, None, Some(Disabled)), (Off, Guarded));
    assert_eq!(settings(Flag::Auto, Some(Disabled), Some(Enabled)), (Off, Off));
}

#[test]
fn a_limit_keeps_the_pools_that_it_meets_and_no_others() {
    let limit = finding("limit", from("172.16.36.0/24"));
    let survey = tracked(Rules { every_packet: vec![limit.clone()], ..Rules::default() });
    let choice = decide(&facts(&survey));
    assert_eq!(modes(&choice), [Off, Guarded, Guarded]);
    assert_eq!(
        texts(&choice),
        ["table inet t, chain forward, handle 5: limit (from 172.16.36.0/24) has to see every packet: \
          by the stack, pool a"]
    );
    let mut enabled = facts(&survey);
    enabled.pools[0].setting = Some(FastPathSetting::Enabled);
    assert_eq!(modes(&decide(&enabled)), [Unguarded, Guarded, Guarded]);
    // What the guard leaves to the stack counts only where there is no guard.
    let first = Rules { first_packets: vec![limit], ..Rules::default() };
    assert_eq!(modes(&decide(&facts(&tracked(first.clone())))), [Guarded; 3]);
    assert_eq!(modes(&decide(&facts(&untracked(first)))), [Off, Unguarded, Unguarded]);
}

#[test]
fn a_filter_holds_where_nothing_tracks() {
    let rules = Rules { filters: vec![finding("drop", from("172.17.0.0/16"))], ..Rules::default() };
    assert_eq!(modes(&decide(&facts(&untracked(rules.clone())))), [Unguarded, Off, Unguarded]);
    assert_eq!(modes(&decide(&facts(&tracked(rules)))), [Guarded; 3]);
}

#[test]
fn a_rule_for_an_interface_concerns_what_comes_by_it() {
    let of = |name| Rules { every_packet: vec![finding("limit", by(name))], ..Rules::default() };
    let choice = decide(&facts(&tracked(of("ens33"))));
    assert_eq!(modes(&choice), [Guarded; 3]);
    let interfaces: Vec<_> = choice.interfaces.iter().map(|interface| interface.mode).collect();
    assert_eq!(interfaces, [Some(Off), None]);
    assert!(choice.found[0].text.ends_with("what comes by ens33"), "{:?}", choice.found);
    // Not one that our programs are on.
    let choice = decide(&facts(&tracked(of("docker0"))));
    assert!(choice.found.is_empty() && choice.interfaces.iter().all(|interface| interface.mode.is_none()));
}

fn out(name: &str) -> Reach {
    Reach { out: InterfaceMatch::Name(name.into()).into(), ..Reach::default() }
}

#[test]
fn what_may_refuse_an_answer_counts_beside_a_guard() {
    for rules in [
        Rules { running: vec![finding("drop", from("172.17.0.0/16"))], ..Rules::default() },
        Rules { closed: vec![finding("drop", from("172.17.0.0/16"))], ..Rules::default() },
    ] {
        assert_eq!(modes(&decide(&facts(&tracked(rules.clone())))), [Guarded, Off, Guarded]);
        assert_eq!(modes(&decide(&facts(&untracked(rules)))), [Unguarded, Off, Unguarded]);
    }
}

#[test]
fn a_rule_for_what_leaves_concerns_packets_that_the_programs_would_send_there() {
    let modes_with = |reach: Reach| {
        let survey = tracked(Rules { running: vec![finding("drop", reach)], ..Rules::default() });
        modes(&decide(&facts(&survey)))
    };
    assert_eq!(modes_with(out("cali0")), [Off; 3]);
    assert_eq!(modes_with(out("docker0")), [Guarded; 3], "no next hop is there");
    // What comes by the only uplink and leaves by it is the stack's.
    let transit = Reach { by: InterfaceMatch::Name("ens33".into()).into(), ..out("ens33") };
    assert_eq!(modes_with(transit), [Guarded; 3]);
    let survey = tracked(Rules { running: vec![finding("drop", out("wg0"))], ..Rules::default() });
    let mut facts = facts(&survey);
    facts.exits = vec![(9, "wg0")];
    assert_eq!(modes(&decide(&facts)), [Off; 3]);
}

/// As while Felix has not heard of a pod yet: nothing of it passes, and running flows of other pods stay where they are.
#[test]
fn an_interface_that_nothing_passes_is_no_reason_to_close_the_pools() {
    let of = |list: fn(&mut Rules, Vec<Finding>)| {
        let mut rules = Rules { closed: vec![finding("drop", out("cali0"))], ..Rules::default() };
        list(&mut rules, vec![finding("drop", by("cali0"))]);
        let survey = tracked(rules);
        let choice = decide(&facts(&survey));
        (modes(&choice), choice.interfaces[1].mode)
    };
    let closed = |rules: &mut Rules, mut found: Vec<Finding>| rules.closed.append(&mut found);
    let shut = |rules: &mut Rules, found: Vec<Finding>| {
        rules.shut.clone_from(&found);
        rules.closed.extend(found);
    };
    assert_eq!(of(shut), (vec![Guarded; 3], Some(Off)));
    // Other flows were let in before.
    assert_eq!(of(closed).0, [Off; 3]);
    // Some packets of a flow may come in, and be answered.
    assert_eq!(of(|rules, found| rules.running = found).0, [Off; 3]);
}

/// Without a guard a packet to it is carried though nothing ever came from there.
#[test]
fn an_interface_that_nothing_passes_closes_the_pools_where_nothing_tracks() {
    let closed = vec![finding("drop", out("cali0")), finding("drop", by("cali0"))];
    let shut = vec![finding("drop", by("cali0"))];
    let survey = untracked(Rules { closed: closed.clone(), shut: shut.clone(), ..Rules::default() });
    let choice = decide(&facts(&survey));
    assert_eq!(modes(&choice), [Off; 3]);
    // Of one family alone.
    let rules = Rules { closed, shut: shut.clone(), ..Rules::default() };
    let survey = Survey { ipv6: Tracking::No, ..tracked(rules) };
    let choice = decide(&facts(&survey));
    assert_eq!((modes(&choice), choice.interfaces[1].mode), (vec![Guarded, Guarded, Off], Some(Off)));
    // Between two interfaces, neither of which lets anything in.
    let between = Reach { by: InterfaceMatch::Name("ens33".into()).into(), ..out("cali0") };
    let closed = vec![finding("drop", between), finding("drop", by("cali0"))];
    let survey = untracked(Rules { closed, shut, ..Rules::default() });
    let choice = decide(&facts(&survey));
    let interfaces: Vec<_> = choice.interfaces.iter().map(|interface| interface.mode).collect();
    assert_eq!((modes(&choice), interfaces), (vec![Unguarded; 3], vec![Some(Off), Some(Off)]));
}

#[test]
fn what_the_kernel_forwards_has_to_be_known_whatever_the_setting() {
    let survey = untracked(Rules::default());
    let switches = Switches::unknown("IPsec's policies: Too many open files".to_owned());
    let mut facts = facts(&survey);
    (facts.flag, facts.switches) = (FastPathMode::On, &switches);
    let choice = decide(&facts);
    assert_eq!(modes(&choice), [Off; 3]);
    assert_eq!(
        texts(&choice),
        ["cannot tell what the kernel forwards (IPsec's policies: Too many open files): \
          by the stack, pools a, b, six"]
    );
}

#[test]
fn where_every_interface_is_the_stacks_nothing_is_on_and_the_sentence_says_why() {
    let survey = untracked(Rules::default());
    let mut facts = facts(&survey);
    for interface in &mut facts.interfaces {
        interface.setting = Some(FastPathSetting::Disabled);
    }
    let choice = decide(&facts);
    assert!(!choice.is_on());
    assert_eq!(
        choice.reason,
        "what comes by every interface is the stack's: Disabled by manx.dev/fastPathInterfaces"
    );
    let behind = ["filter 7".to_owned()];
    let names: Vec<String> = (0..200).map(|n| format!("cali{n}")).collect();
    facts.interfaces = (0..)
        .zip(&names)
        .map(|(ifindex, name)| InterfaceFacts {
            ifindex,
            name,
            setting: None,
            is_loose: false,
            vrf: None,
            behind: &behind,
            before: &[],
        })
        .collect();
    let choice = decide(&facts);
    assert!(!choice.is_on());
    assert!(choice.reason.ends_with("; and 197 more") && choice.reason.len() < 500, "{}", choice.reason);
    facts.interfaces.clear();
    let choice = decide(&facts);
    assert!(!choice.is_on());
    assert_eq!(choice.reason, "there is no uplink, and no interface of a pod");
}

#[test]
fn an_interface_that_is_disabled_says_so() {
    let survey = untracked(Rules::default());
    let mut facts = facts(&survey);
    facts.interfaces[1].setting = Some(FastPathSetting::Disabled);
    let choice = decide(&facts);
    assert_eq!((choice.interfaces[0].mode, choice.interfaces[1].mode), (None, Some(Off)));
}

fn diverted(rules: Rules, reach: Reach, needs_mark: bool) -> Choice {
    let survey = tracked(rules);
    let mut facts = facts(&survey);
    facts.flag = FastPathMode::On;
    facts.diverting = vec![Diversion { text: "100: from all lookup 52", reach: &reach, needs_mark }];
    decide(&facts)
}

#[test]
fn a_policy_rule_switches_off_whatever_it_may_divert_though_it_is_enabled() {
    let ipv4 = Reach { family: Some(Family::Ipv4), ..Reach::default() };
    let choice = diverted(Rules::default(), ipv4, false);
    assert_eq!(modes(&choice), [Off, Off, Unguarded]);
    assert_eq!(
        texts(&choice),
        ["policy rule \"100: from all lookup 52\" chooses another table: by the stack, pools a, b"]
    );
    let choice = diverted(Rules::default(), from("172.17.3.0/24"), false);
    assert_eq!(modes(&choice), [Unguarded, Off, Unguarded]);
    let choice = diverted(Rules::default(), Reach { family: Some(Family::Ipv4), ..by("ens33") }, false);
    assert_eq!((modes(&choice), choice.interfaces[0].mode), (vec![Unguarded; 3], Some(Off)));
}

#[test]
fn a_policy_rule_for_a_mark_diverts_only_if_some_rule_sets_one() {
    let choice = diverted(Rules::default(), Reach::default(), true);
    assert_eq!(modes(&choice), [Unguarded; 3]);
    let marks = Rules { marks: vec![finding("meta mark set", Reach::default())], ..Rules::default() };
    let choice = diverted(marks, Reach::default(), true);
    assert_eq!(modes(&choice), [Off; 3]);
    assert!(
        choice.found[0].text.contains("which table inet t, chain forward, handle 5 sets"),
        "{:?}",
        choice.found
    );
}

#[test]
fn a_pool_that_is_not_for_the_fast_path_says_why_though_it_is_enabled() {
    let survey = untracked(Rules::default());
    let mut facts = facts(&survey);
    facts.pools[1].setting = Some(FastPathSetting::Enabled);
    facts.pools[1].excluded = Some("the pool is encapsulated");
    let choice = decide(&facts);
    assert_eq!(modes(&choice), [Unguarded, Off, Unguarded]);
    assert_eq!(choice.pools[1].reason, "the pool is encapsulated");
    assert!(choice.reason.contains("pool b off: the pool is encapsulated"), "{}", choice.reason);
}

#[test]
fn an_interface_of_a_vrf_is_the_stacks_and_the_vrf_is_named() {
    let survey = untracked(Rules::default());
    let mut facts = facts(&survey);
    facts.interfaces[1].vrf = Some("red");
    let choice = decide(&facts);
    assert_eq!((modes(&choice), choice.interfaces[0].mode), (vec![Unguarded; 3], None));
    assert_eq!(choice.interfaces[1].mode, Some(Off));
    assert!(texts(&choice)[0].starts_with("cali0 belongs to the VRF red"), "{:?}", choice.found);
}

#[test]
fn a_rule_against_sources_without_a_way_back_makes_its_interfaces_strict() {
    let reach = Reach { family: Some(Family::Ipv6), ..by("ens33") };
    let survey = tracked(Rules { ways_back: vec![finding("drop", reach)], ..Rules::default() });
    let choice = decide(&facts(&survey));
    assert_eq!(modes(&choice), [Guarded; 3]);
    assert_eq!(choice.interfaces[0].way_back, WayBack { ipv4: false, ipv6: true });
    assert_eq!(choice.interfaces[1].way_back, WayBack::default());
}

#[test]
fn a_pod_that_is_checked_loosely_is_the_stacks_where_the_kernel_is_strict() {
    let rules = Rules { ways_back: vec![finding("drop", by("cali0"))], ..Rules::default() };
    for (rules, expected) in [(rules, Some(Off)), (Rules::default(), None)] {
        let survey = tracked(rules);
        let mut facts = facts(&survey);
        facts.interfaces[1].is_loose = true;
        assert_eq!(decide(&facts).interfaces[1].mode, expected);
    }
}

#[test]
fn what_others_have_behind_ours_takes_the_interface_though_it_is_enabled() {
    let survey = untracked(Rules::default());
    let behind = ["program count (TCX, id 17)".to_owned(), "tc filter (bpf, pref 1)".to_owned()];
    let mut facts = facts(&survey);
    facts.flag = FastPathMode::On;
    facts.interfaces[1].behind = &behind;
    let choice = decide(&facts);
    assert_eq!((choice.interfaces[0].mode, choice.interfaces[1].mode), (None, Some(Off)));
    assert_eq!(
        texts(&choice),
        [
            "on cali0 others stand behind ours on TC ingress, and would not see what is carried: program count \
          (TCX, id 17), tc filter (bpf, pref 1): by the stack, what comes by cali0"
        ]
    );
}

#[test]
fn a_program_before_ours_may_set_the_mark_that_a_policy_rule_wants() {
    let survey = untracked(Rules::default());
    let (reach, before) = (Reach::default(), ["program mark (TCX, id 17)".to_owned()]);
    let mut facts = facts(&survey);
    facts.diverting =
        vec![Diversion { text: "100: from all fwmark 0x1 lookup 52", reach: &reach, needs_mark: true }];
    assert_eq!(modes(&decide(&facts)), [Unguarded; 3]);
    facts.interfaces[0].before = &before;
    let choice = decide(&facts);
    assert_eq!(modes(&choice), [Off; 3]);
    assert!(texts(&choice)[0].contains("which program mark (TCX, id 17) on ens33 may set"), "{choice:?}");
}
