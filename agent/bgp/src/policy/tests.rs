use proptest::prelude::*;

use super::*;
use crate::attr::as_path::{AsPath, tests::path as as_path};

fn asn(number: u32) -> Asn {
    Asn::new(number).unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn rule(name: &str, matches: Match, action: Action) -> Rule {
    Rule { name: RuleName::new(name), matches, action }
}

fn accept(changes: &[Change]) -> Action {
    Action::Accept(changes.into())
}

fn candidate<'a>(prefix: Prefix, attributes: &'a Attributes) -> Candidate<'a> {
    Candidate { prefix, attributes, learned: true, peer_type: PeerType::Ibgp, interface: None }
}

fn fits(matches: &Match, route: &Candidate<'_>) -> bool {
    matches.fits(route)
}

#[test]
fn each_operator_compares_as_calico_and_bird_do() {
    let set = "10.0.0.0/16";
    let routes = ["10.0.0.0/16", "10.0.1.0/24", "10.0.0.0/8", "10.1.0.0/16", "10.0.1.1/32"];
    for (operator, lengths, expected) in [
        (Operator::Equal, None, [true, false, false, false, false]),
        (Operator::NotEqual, None, [false, true, true, true, true]),
        (Operator::In, None, [true, true, false, false, true]),
        (Operator::NotIn, None, [false, false, true, true, false]),
        (Operator::In, Some((24, 30)), [false, true, false, false, false]),
        // What the set of lengths leaves out is not in.
        (Operator::NotIn, Some((24, 30)), [true, false, true, true, true]),
        (Operator::Equal, Some((24, 30)), [false; 5]),
        (Operator::NotEqual, Some((24, 30)), [true; 5]),
        (Operator::In, Some((25, 24)), [false; 5]),
    ] {
        let matches = Match {
            prefix: Some(PrefixMatch { prefix: prefix(set), operator, lengths }),
            ..Match::default()
        };
        let attributes = Attributes::own(&[]);
        let found = routes.map(|route| fits(&matches, &candidate(prefix(route), &attributes)));
        assert_eq!(found, expected, "{operator:?} {lengths:?}");
    }
}

#[test]
fn every_criterion_must_hold() {
    let mut attributes = Attributes::own(&[64512 << 16 | 1]);
    attributes.large = [[1, 2, 3]].into();
    attributes.as_path = as_path(&[65001, 65002]);
    attributes.local_pref = Some(local_pref_of_priority(1024));
    let route = Candidate {
        prefix: prefix("10.0.0.0/16"),
        attributes: &attributes,
        learned: true,
        peer_type: PeerType::Ebgp,
        interface: Some("eth0"),
    };
    let full = Match {
        prefix: None,
        learned: true,
        interface: Some("eth*".into()),
        peer_type: Some(PeerType::Ebgp),
        community: Some(Community::Standard(64512 << 16 | 1)),
        as_path_prefix: [asn(65001)].into(),
        local_pref: Some(local_pref_of_priority(1024)),
    };
    assert!(fits(&full, &route) && fits(&Match::default(), &route));
    let large = Match { community: Some(Community::Large([1, 2, 3])), ..full.clone() };
    assert!(fits(&large, &route));
    let both = Match { as_path_prefix: [asn(65001), asn(65002)].into(), ..full.clone() };
    assert!(fits(&both, &route));
    for other in [
        Match { interface: Some("ens*".into()), ..full.clone() },
        Match { peer_type: Some(PeerType::Ibgp), ..full.clone() },
        Match { community: Some(Community::Standard(1)), ..full.clone() },
        Match { community: Some(Community::Large([1, 2, 4])), ..full.clone() },
        Match { as_path_prefix: [asn(65002)].into(), ..full.clone() },
        Match { as_path_prefix: [asn(65001), asn(65002), asn(65003)].into(), ..full.clone() },
        Match { local_pref: Some(100), ..full.clone() },
    ] {
        assert!(!fits(&other, &route), "{other:?}");
    }
    assert!(!fits(&full, &Candidate { learned: false, ..route }));
    // Where nobody knows the interface no pattern fits, not even `*`.
    let any = Match { interface: Some("*".into()), ..Match::default() };
    assert!(!fits(&any, &Candidate { interface: None, ..route }));
}

#[test]
fn a_set_in_the_path_fits_any_of_its_members() {
    let mixed = AsPath::parse(&[2, 1, 0, 0, 0, 9, 1, 2, 0, 0, 0, 7, 0, 0, 0, 8], true).unwrap();
    for (begin, expected) in [(&[9][..], true), (&[9, 7], true), (&[9, 8], true), (&[9, 7, 8], false)] {
        let begin: Vec<Asn> = begin.iter().map(|&n| asn(n)).collect();
        assert_eq!(mixed.begins_with(&begin), expected, "{begin:?}");
    }
    assert!(!AsPath::default().begins_with(&[asn(9)]));
}

#[test]
fn the_first_match_decides_and_no_match_falls_through() {
    let in_16 = |text| Match {
        prefix: Some(PrefixMatch { prefix: prefix(text), operator: Operator::In, lengths: None }),
        ..Match::default()
    };
    let rules: Rules = [
        rule("one", in_16("10.0.1.0/24"), Action::Reject),
        rule("two", in_16("10.0.0.0/16"), accept(&[Change::SetLocalPref(7)])),
        rule("three", in_16("10.0.0.0/8"), Action::Reject),
    ]
    .into_iter()
    .collect();
    let attributes = Attributes::own(&[]);
    let judge = |text| rules.judge(&candidate(prefix(text), &attributes));
    assert_eq!(judge("10.0.1.0/26"), Verdict::Reject(&RuleName::new("one")));
    assert_eq!(judge("10.0.2.0/26"), Verdict::Accept(&RuleName::new("two"), &[Change::SetLocalPref(7)]));
    assert_eq!(judge("10.1.0.0/26"), Verdict::Reject(&RuleName::new("three")));
    assert_eq!(judge("11.0.0.0/26"), Verdict::Fallthrough);
    assert_eq!(Rules::default().judge(&candidate(prefix("::/0"), &attributes)), Verdict::Fallthrough);
}

#[test]
fn changes_are_made_in_order_and_a_community_stands_once() {
    let mut attributes = Attributes::own(&[1]);
    attributes.as_path = as_path(&[3]);
    let changes = [
        Change::AddCommunity(Community::Standard(1)),
        Change::AddCommunity(Community::Standard(2)),
        Change::AddCommunity(Community::Large([4, 5, 6])),
        Change::Prepend([asn(65001), asn(65002)].into()),
        Change::Prepend([asn(65003)].into()),
        Change::SetLocalPref(local_pref_of_priority(1024)),
    ];
    let out = changed(&attributes, &changes);
    assert_eq!(*out.communities, [1, 2]);
    assert_eq!(*out.large, [[4, 5, 6]]);
    assert_eq!(out.as_path.to_string(), "65003 65001 65002 3");
    assert_eq!(out.local_pref, Some(2_147_482_623));
    let nothing = [Change::AddCommunity(Community::Standard(1))];
    assert!(matches!(changed(&attributes, &nothing), Cow::Borrowed(_)), "no change makes no new set");
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    (0u32..16, 28u8..=32).prop_map(|(low, len)| {
        let addr = std::net::Ipv4Addr::from_bits(0x0a00_0000 | low);
        Prefix::new(addr.into(), len).unwrap()
    })
}

fn any_match() -> impl Strategy<Value = Match> {
    let operator =
        prop::sample::select(vec![Operator::Equal, Operator::NotEqual, Operator::In, Operator::NotIn]);
    let prefix = (any_prefix(), operator, prop::option::of((28u8..=32, 28u8..=32)))
        .prop_map(|(prefix, operator, lengths)| PrefixMatch { prefix, operator, lengths });
    (prop::option::of(prefix), any::<bool>(), prop::option::of(0u32..3)).prop_map(
        |(prefix, learned, community)| Match {
            prefix,
            learned,
            community: community.map(Community::Standard),
            ..Match::default()
        },
    )
}

proptest! {
    /// Two filters one after the other are one list: what the first does not decide the second does.
    #[test]
    fn lists_in_a_row_decide_as_one_list(
        first in prop::collection::vec((any_match(), any::<bool>()), 0..4),
        second in prop::collection::vec((any_match(), any::<bool>()), 0..4),
        route in any_prefix(), communities in prop::collection::vec(0u32..3, 0..3), learned: bool,
    ) {
        let make = |list: &[(Match, bool)], of: &str| -> Vec<Rule> {
            let numbered = list.iter().enumerate();
            numbered
                .map(|(n, (matches, reject))| {
                    let action = if *reject { Action::Reject } else { accept(&[]) };
                    rule(&format!("{of}[{n}]"), matches.clone(), action)
                })
                .collect()
        };
        let (first, second) = (make(&first, "a"), make(&second, "b"));
        let attributes = Attributes::own(&communities);
        let route = Candidate { learned, ..candidate(route, &attributes) };
        let joined: Rules = first.iter().chain(&second).cloned().collect();
        let (first, second): (Rules, Rules) = (first.into_iter().collect(), second.into_iter().collect());
        let one_by_one = match first.judge(&route) {
            Verdict::Fallthrough => second.judge(&route),
            decided => decided,
        };
        prop_assert_eq!(joined.judge(&route), one_by_one);
    }

    #[test]
    fn not_is_the_opposite(route in any_prefix(), of in any_prefix(), lengths in prop::option::of((28u8..=32, 28u8..=32))) {
        let fits = |operator| PrefixMatch { prefix: of, operator, lengths }.fits(route);
        prop_assert_ne!(fits(Operator::In), fits(Operator::NotIn));
        prop_assert_ne!(fits(Operator::Equal), fits(Operator::NotEqual));
        prop_assert!(fits(Operator::In) || !fits(Operator::Equal), "equal is in");
    }
}
