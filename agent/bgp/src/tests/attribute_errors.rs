//! RFC 7606, attribute by attribute, from iBGP and from eBGP: what a fault costs, and what remains: of the session,
//! of the peer's other routes, and of what the others were told.

use std::net::SocketAddr;

use super::{
    network::{ip, peer},
    script::{Script, attribute, config, mandatory, raw_update, their_open, update},
};
use manx_net::Prefix6;

use crate::{
    ConnId, Family,
    attr::flag::{EXTENDED_LENGTH, OPTIONAL, PARTIAL, TRANSITIVE},
    attr::parse::Reading,
    message::{
        Message, keepalive,
        update::{Prefixes, Update},
    },
    view::{SessionState, Standing},
};

/// The route that a faulty UPDATE is about, one that came before, and one that is new in it.
const A: &str = "10.1.0.0/16";
const BEFORE: &str = "10.2.0.0/16";
const NEW: &str = "10.3.0.0/16";
/// The same in IPv6.
const SIX: &str = "2001:db8:1::/48";

const IBGP: u32 = 64512;
const EBGP: u32 = 64600;

/// What an UPDATE cost.
#[derive(Clone, Debug, PartialEq)]
enum Cost {
    Nothing,
    /// So many attributes.
    Discarded(u64),
    Withdrawn,
    /// The NOTIFICATION's code, subcode and data.
    Reset(u8, u8, Vec<u8>),
}

use Cost::{Discarded, Nothing, Reset, Withdrawn};

/// A peer under test, from whom A, BEFORE and SIX have come, and another who was told of them.
struct Pair {
    script: Script,
    other: ConnId,
}

impl Pair {
    fn new(remote_as: u32, four_octet: bool) -> Pair {
        let mut config = config(remote_as);
        config.peers[0].rr_client = true;
        config.peers.push({
            let mut other = peer("10.0.0.3", IBGP);
            other.dial = crate::Dial::Never;
            other.rr_client = true;
            other
        });
        let mut open = their_open(&config);
        if !four_octet {
            open.capabilities.four_octet_as = None;
        }
        let mut script = Script::established_with(config.clone(), &open);
        let (local, remote) = (SocketAddr::new(ip("10.0.0.1"), 179), SocketAddr::new(ip("10.0.0.3"), 9));
        let other = script.speaker.accept(local, remote, script.now).unwrap();
        let mut open = their_open(&config);
        open.my_as = IBGP as u16;
        open.capabilities.four_octet_as = Some(IBGP);
        open.identifier = [10, 0, 0, 3].into();
        script.give_on(other, &open.encode());
        script.give_on(other, &keepalive());
        // The empty table.
        script.take_on(other);
        script.give(&update(&[], &good(remote_as, four_octet), &[A, BEFORE]));
        script.give(&raw_update(&[], &six(remote_as, four_octet).concat(), &[]));
        let mut pair = Pair { script, other };
        let mut told = pair.told();
        told.sort();
        assert_eq!(told, [format!("+{A}"), format!("+{BEFORE}"), format!("+{SIX}")]);
        pair
    }

    /// What the other peer has been told since: prefixes with + or -.
    fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        for message in self.script.take_on(self.other) {
            let Message::Update(body) = message else { continue };
            let update = Update::parse(&body, plain_reading()).unwrap();
            told.extend(update.withdrawn.map(|(_, prefix)| format!("-{prefix}")));
            told.extend(update.announced.map(|(_, prefix)| format!("+{prefix}")));
            let six = |nlri| Prefixes::<Prefix6>::parse(nlri, false).unwrap();
            if let Some(reach) = update.attributes.mp_reach {
                told.extend(six(reach.nlri).map(|(_, prefix)| format!("+{prefix}")));
            }
            if let Some(unreach) = update.attributes.mp_unreach {
                told.extend(six(unreach.nlri).map(|(_, prefix)| format!("-{prefix}")));
            }
        }
        told
    }

    fn is_best(&self, prefix: &str) -> bool {
        self.script.explain(prefix).is_some_and(|view| view.paths[0].standing == Standing::Best)
    }

    /// The cost of an UPDATE, with everything around it checked that follows from the cost. `withdraws` are routes that
    /// go by this UPDATE if the session stays, `announces` those of it that come if they are not treated as withdrawn.
    fn cost(mut self, bytes: &[u8], announces: &[&str], withdraws: &[&str], what: &str) -> Cost {
        let before = self.script.view().counters;
        self.script.give(bytes);
        let counters = self.script.view().counters;
        let mut told = self.told();
        told.sort();
        if self.script.state() != SessionState::Established {
            // All that came over the session is gone, for everybody; and the peer is left alone for a while.
            assert_eq!(told, [format!("-{A}"), format!("-{BEFORE}"), format!("-{SIX}")], "{what}");
            assert_eq!(self.script.state(), SessionState::Idle, "{what}");
            let (code, subcode, data) = self.script.notification();
            return Reset(code, subcode, data);
        }
        let answered = self.script.take().iter().any(|message| matches!(message, Message::Notification(_)));
        assert!(!answered, "{what}: a fault that costs no session is not answered");
        assert!(self.is_best(BEFORE), "{what}: {BEFORE} is not concerned");
        assert!(!told.iter().any(|told| told.contains(BEFORE)), "{what}: {told:?}");
        let treated = counters.treated_as_withdraw - before.treated_as_withdraw;
        for prefix in withdraws {
            assert!(self.script.explain(prefix).is_none(), "{what}: {prefix} was withdrawn");
            assert!(told.contains(&format!("-{prefix}")), "{what}: {told:?}");
        }
        for prefix in announces {
            assert_eq!(self.is_best(prefix), treated == 0, "{what}: {prefix}");
            // A route that was there and goes is taken from the others, too; a new one they never hear of.
            let line = match (treated, *prefix) {
                (0, _) => format!("+{prefix}"),
                (_, NEW) => {
                    assert!(!told.iter().any(|told| told.contains(NEW)), "{what}: {told:?}");
                    continue;
                }
                _ => format!("-{prefix}"),
            };
            assert!(told.contains(&line), "{what}: {line} not in {told:?}");
        }
        let discarded = counters.attributes_discarded - before.attributes_discarded;
        // And the next good UPDATE is as good as ever.
        self.script.give(&update(&[BEFORE], &[], &[]));
        assert_eq!(self.told(), [format!("-{BEFORE}")], "{what}");
        match (treated, discarded) {
            (0, 0) => Nothing,
            (0, discarded) => Discarded(discarded),
            (1, _) => Withdrawn,
            more => panic!("{what}: {more:?}"),
        }
    }
}

fn plain_reading() -> Reading {
    let families = crate::config::PerFamily::both(true);
    Reading {
        families,
        ebgp: false,
        four_octet: true,
        add_path: Default::default(),
        extended_next_hop: false,
    }
}

/// ORIGIN, AS_PATH and NEXT_HOP, well formed, with a MED that the first announcement has not.
fn good(remote_as: u32, four_octet: bool) -> Vec<Vec<u8>> {
    let path: &[u32] = if remote_as == IBGP { &[] } else { &[remote_as] };
    let mut all = mandatory(path);
    if !four_octet && !path.is_empty() {
        all[1] = attribute(TRANSITIVE, 2, &[2, 1, 0xfc, 0x58]);
    }
    all
}

/// MP_REACH for SIX, with what else it needs.
fn six(remote_as: u32, four_octet: bool) -> Vec<Vec<u8>> {
    let mut all = good(remote_as, four_octet);
    all[2] = attribute(OPTIONAL, 14, &reach_six());
    all
}

fn reach_six() -> Vec<u8> {
    let mut value = vec![0, 2, 1, 16];
    value.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    value.extend([48, 0x20, 1, 0xd, 0xb8, 0, 1]);
    value
}

fn unreach_six() -> Vec<u8> {
    vec![0, 2, 1, 48, 0x20, 1, 0xd, 0xb8, 0, 1]
}

/// The faulty attribute in the place of the good one with its code, in an UPDATE for A and NEW.
fn cost_of(remote_as: u32, four_octet: bool, bad: &[Vec<u8>], what: &str) -> Cost {
    let kind = if remote_as == IBGP { "iBGP" } else { "eBGP" };
    let mut all = good(remote_as, four_octet);
    // The first announcement again would be no news to the others.
    all.push(attribute(OPTIONAL | TRANSITIVE, 200, &[1]));
    all.retain(|held| bad.iter().all(|bad| bad[1] != held[1]));
    all.extend_from_slice(bad);
    let bytes = update(&[], &all, &[A, NEW]);
    Pair::new(remote_as, four_octet).cost(&bytes, &[A, NEW], &[], &format!("{what}, {kind}"))
}

/// One row of the matrix.
struct Row {
    name: &'static str,
    code: u8,
    flags: u8,
    good: &'static [u8],
    bad: &'static [&'static [u8]],
    /// What an error costs, from iBGP and from eBGP.
    cost: [Cost; 2],
    /// What the attribute costs where nothing is wrong with it.
    well: [Cost; 2],
    missing: Cost,
}

fn rows() -> Vec<Row> {
    let (well_known, optional, both) = (TRANSITIVE, OPTIONAL, OPTIONAL | TRANSITIVE);
    let row = |name, code, flags, good, bad, cost: [Cost; 2]| Row {
        name,
        code,
        flags,
        good,
        bad,
        cost,
        well: [Nothing, Nothing],
        missing: Nothing,
    };
    let withdrawn = || [Withdrawn, Withdrawn];
    let discarded = || [Discarded(1), Discarded(1)];
    let mut rows = vec![
        // RFC 7606 §7.1: the length is 1, the value 0, 1 or 2.
        row("ORIGIN", 1, well_known, &[1], &[&[], &[0, 0], &[3], &[255]], withdrawn()),
        // §7.2; AS 0 by RFC 7607 §2; confederation segments by RFC 5065 §5. No row for an empty one, which is legal.
        row(
            "AS_PATH",
            2,
            well_known,
            &[2, 1, 0, 0, 0xfc, 0x58],
            &[
                &[2],
                &[2, 0],
                &[2, 1, 0, 0, 0],
                &[2, 1, 0, 0, 0xfc, 0x58, 2],
                &[2, 2, 0, 0, 0xfc, 0x58],
                &[0, 1, 0, 0, 0, 1],
                &[5, 1, 0, 0, 0, 1],
                &[3, 1, 0, 0, 0, 1],
                &[4, 1, 0, 0, 0, 1],
                &[2, 1, 0, 0, 0, 0],
                &[1, 2, 0, 0, 0, 1, 0, 0, 0, 0],
            ],
            withdrawn(),
        ),
        row("NEXT_HOP", 3, well_known, &[10, 0, 0, 2], &[&[], &[10, 0, 0], &[10, 0, 0, 2, 0]], withdrawn()),
        row("MULTI_EXIT_DISC", 4, optional, &[0, 0, 0, 9], &[&[], &[0; 3], &[0; 5]], withdrawn()),
        // §7.5: from another AS it is discarded, whatever it says.
        row("LOCAL_PREF", 5, well_known, &[0, 0, 0, 9], &[&[], &[0; 3], &[0; 5]], [Withdrawn, Discarded(1)]),
        row("ATOMIC_AGGREGATE", 6, well_known, &[], &[&[0], &[0; 4]], discarded()),
        row(
            "AGGREGATOR",
            7,
            both,
            &[0, 0, 0xfc, 0, 9, 9, 9, 9],
            &[&[], &[0xfc, 0, 9, 9, 9, 9], &[0, 0, 0xfc, 0, 9, 9, 9], &[1; 9], &[0, 0, 0, 0, 9, 9, 9, 9]],
            discarded(),
        ),
        row("COMMUNITIES", 8, both, &[0xfc, 0, 0, 1], &[&[], &[0; 3], &[0; 5]], withdrawn()),
        // §7.9 and §7.10: not from another AS.
        row("ORIGINATOR_ID", 9, optional, &[7, 7, 7, 7], &[&[], &[0; 3], &[0; 5]], [Withdrawn, Discarded(1)]),
        row("CLUSTER_LIST", 10, optional, &[7, 7, 7, 7], &[&[], &[0; 3], &[0; 5]], [Withdrawn, Discarded(1)]),
        row(
            "EXTENDED COMMUNITIES",
            16,
            both,
            &[0, 2, 0, 1, 0, 0, 0, 1],
            &[&[], &[0; 7], &[0; 9]],
            withdrawn(),
        ),
        // RFC 6793 §3: between two speakers of four octets they mean nothing.
        row("AS4_PATH", 17, both, &[2, 1, 0, 0, 0, 9], &[&[], &[2, 0], &[9; 5]], discarded()),
        row(
            "AS4_AGGREGATOR",
            18,
            both,
            &[0, 1, 0, 0, 9, 9, 9, 9],
            &[&[], &[1; 7], &[1; 9], &[0; 8]],
            discarded(),
        ),
        row("LARGE_COMMUNITY", 32, both, &[1; 12], &[&[], &[0; 11], &[0; 13]], withdrawn()),
        // RFC 9234 §5. Well formed it concerns those who have agreed on roles only.
        row("ONLY_TO_CUSTOMER", 35, both, &[0, 0, 0xfc, 0], &[&[], &[0; 3], &[0; 5]], withdrawn()),
        // RFC 7311 §3.3: never enabled here, so nobody looks at the value.
        row("AIGP", 26, optional, &[1, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1], &[], discarded()),
        row(
            "PREFIX_SID",
            40,
            both,
            &[1, 0, 7, 0, 0, 0, 0, 0, 0, 1],
            &[&[1, 0], &[1, 0, 7, 0], &[1, 0, 6, 0, 0, 0, 0, 0, 0], &[3, 0, 2, 0, 0, 9]],
            discarded(),
        ),
    ];
    for row in &mut rows {
        match row.code {
            1..=3 => row.missing = Withdrawn,
            5 | 9 | 10 => row.well = [Nothing, Discarded(1)],
            17 | 18 => row.well = discarded(),
            _ => {}
        }
    }
    rows
}

/// Behaviours 24, 27, 28, 29, 30 and 31: every attribute Manx knows, with each thing that can be wrong with it.
#[test]
fn each_fault_in_each_attribute_costs_what_rfc_7606_says_and_nothing_else() {
    for row in rows() {
        for (at, remote_as) in [IBGP, EBGP].into_iter().enumerate() {
            let name = row.name;
            let cost = |bad: &[Vec<u8>], what: &str| cost_of(remote_as, true, bad, &format!("{name} {what}"));
            let well = |flags| cost(&[attribute(row.flags | flags, row.code, row.good)], "well formed");
            assert_eq!(well(0), row.well[at], "{name}");
            if row.flags == OPTIONAL | TRANSITIVE {
                assert_eq!(well(PARTIAL), row.well[at], "{name}: Partial alone is no error");
            }
            let long = [&[row.flags | EXTENDED_LENGTH, row.code, 0, row.good.len() as u8], row.good].concat();
            assert_eq!(cost(&[long], "with a long length"), row.well[at], "{name}");
            for wrong in [OPTIONAL, TRANSITIVE, OPTIONAL | TRANSITIVE] {
                let bad = attribute(row.flags ^ wrong, row.code, row.good);
                assert_eq!(cost(&[bad], "flags"), row.cost[at], "{name} with wrong flags");
            }
            for bad in row.bad {
                let seen = cost(&[attribute(row.flags, row.code, bad)], "value");
                assert_eq!(seen, row.cost[at], "{name} {bad:?}");
            }
            // §3 g: the first counts. Whatever else is wrong with a later one is not looked at.
            let first = attribute(row.flags, row.code, row.good);
            let second = attribute(row.flags ^ OPTIONAL, row.code, &[1; 3]);
            let expected = match &row.well[at] {
                Discarded(n) => Discarded(n + 1),
                _ => Discarded(1),
            };
            assert_eq!(cost(&[first, second], "twice"), expected, "{name} twice");
            let all = good(remote_as, true).into_iter().filter(|held| held[1] != row.code);
            let all: Vec<_> = all.chain([attribute(OPTIONAL | TRANSITIVE, 200, &[1])]).collect();
            let bytes = update(&[], &all, &[A, NEW]);
            let seen = Pair::new(remote_as, true).cost(&bytes, &[A, NEW], &[], name);
            assert_eq!(seen, row.missing, "{name} missing");
        }
    }
}

/// RFC 7606 §5.2: where there should be routes and are none, nobody can say that none was overlooked.
#[test]
fn a_fault_beside_no_routes_ends_the_session_unless_it_only_costs_the_attribute() {
    for row in rows() {
        for (at, remote_as) in [IBGP, EBGP].into_iter().enumerate() {
            let name = row.name;
            let expected = match &row.cost[at] {
                Withdrawn => Reset(3, 1, vec![]),
                other => other.clone(),
            };
            let flags = attribute(row.flags ^ OPTIONAL, row.code, row.good);
            let values = row.bad.iter().map(|bad| attribute(row.flags, row.code, bad));
            for bad in values.chain([flags]) {
                let alone = raw_update(&[], &bad, &[]);
                assert_eq!(Pair::new(remote_as, true).cost(&alone, &[], &[], name), expected, "{name}");
            }
        }
    }
    let bad = attribute(OPTIONAL, 4, &[1]);
    for (what, bytes, announces, withdraws, expected) in [
        (
            "with withdrawals",
            update(&[A], std::slice::from_ref(&bad), &[]),
            &[][..],
            &[][..],
            Reset(3, 1, vec![]),
        ),
        (
            "with withdrawals of IPv6",
            raw_update(&[], &[attribute(OPTIONAL, 15, &unreach_six()), bad.clone()].concat(), &[]),
            &[],
            &[],
            Reset(3, 1, vec![]),
        ),
        // The only attribute that may stand alone: its routes are withdrawn in any case.
        (
            "MP_UNREACH with wrong flags",
            raw_update(&[], &attribute(TRANSITIVE, 15, &unreach_six()), &[]),
            &[],
            &[SIX],
            Withdrawn,
        ),
        // It stands beside routes, though beside none of ours.
        (
            "beside routes of another family",
            raw_update(
                &[],
                &[attribute(OPTIONAL, 14, &[0, 25, 70, 4, 1, 1, 1, 1, 0, 9, 9]), bad].concat(),
                &[],
            ),
            &[],
            &[],
            Withdrawn,
        ),
        ("a cut off header", raw_update(&[], &[0x40], &[]), &[], &[], Reset(3, 1, vec![])),
    ] {
        assert_eq!(Pair::new(IBGP, true).cost(&bytes, announces, withdraws, what), expected, "{what}");
    }
}

/// Behaviours 24, 26, 27 and 37: where the routes themselves are in doubt the session goes, else they do.
#[test]
fn multiprotocol_attributes_cost_the_session_where_their_routes_cannot_be_told() {
    for remote_as in [IBGP, EBGP] {
        let run = |attributes: &[Vec<u8>], announces: &[&str], withdraws: &[&str], what: &str| {
            let mut all: Vec<_> = good(remote_as, true);
            all.push(attribute(OPTIONAL | TRANSITIVE, 200, &[1]));
            all.extend_from_slice(attributes);
            Pair::new(remote_as, true).cost(&update(&[], &all, &[A, NEW]), announces, withdraws, what)
        };
        let reach = attribute(OPTIONAL, 14, &reach_six());
        let unreach = attribute(OPTIONAL, 15, &unreach_six());
        assert_eq!(run(std::slice::from_ref(&reach), &[A, NEW, SIX], &[], "MP_REACH"), Nothing);
        assert_eq!(run(std::slice::from_ref(&unreach), &[A, NEW], &[SIX], "MP_UNREACH"), Nothing);
        for wrong in [OPTIONAL, TRANSITIVE, OPTIONAL | TRANSITIVE] {
            let bent = |bytes: &Vec<u8>| [&[bytes[0] ^ wrong], &bytes[1..]].concat();
            assert_eq!(run(&[bent(&reach)], &[A, NEW, SIX], &[], "MP_REACH flags"), Withdrawn);
            assert_eq!(run(&[bent(&unreach)], &[A, NEW], &[SIX], "MP_UNREACH flags"), Withdrawn);
        }
        // A fault in another attribute takes both families' routes.
        let med = attribute(OPTIONAL, 4, &[1]);
        assert_eq!(run(&[reach.clone(), med.clone()], &[A, NEW, SIX], &[], "MED and MP_REACH"), Withdrawn);
        assert_eq!(run(&[unreach.clone(), med], &[A, NEW], &[SIX], "MED and MP_UNREACH"), Withdrawn);
        for twice in [&reach, &unreach] {
            let seen = run(&[twice.clone(), twice.clone()], &[], &[], "twice");
            assert_eq!(seen, Reset(3, 1, vec![]));
        }
        let six = reach_six();
        let whole = |flags, code, value: &[u8]| {
            let bytes = attribute(flags, code, value);
            (bytes.clone(), Reset(3, 9, bytes))
        };
        for (code, value) in [
            (14, &[][..]),
            (14, &six[..2]),
            (14, &six[..3]),
            (14, &six[..4]),
            (14, &six[..19]),
            // The next hop is there, the reserved octet is not.
            (14, &six[..20]),
            (15, &[]),
            (15, &[0]),
            (15, &[0, 2]),
        ] {
            let (bad, expected) = whole(OPTIONAL, code, value);
            assert_eq!(run(&[bad], &[], &[], "cut off"), expected, "{code} {value:?}");
        }
        for (code, head, nlri) in [
            (14, &six[..21], &[129, 1][..]),
            (14, &six[..21], &[48, 0x20]),
            (15, &[0, 2, 1], &[129]),
            (15, &[0, 2, 1], &[64, 1, 2, 3]),
            // IPv4 in the attribute is held to IPv4's lengths.
            (15, &[0, 1, 1], &[33, 1, 2, 3, 4, 5]),
        ] {
            let bad = attribute(OPTIONAL, code, &[head, nlri].concat());
            assert_eq!(run(&[bad], &[], &[], "prefix"), Reset(3, 10, vec![]), "{code} {nlri:?}");
        }
        // §5.3: a fault in an attribute does not hide one in the prefixes.
        let block = [good(remote_as, true).concat(), attribute(OPTIONAL, 4, &[1])].concat();
        let both = raw_update(&[], &block, &[33, 1, 2, 3, 4, 5]);
        assert_eq!(Pair::new(remote_as, true).cost(&both, &[], &[], "both"), Reset(3, 10, vec![]));
    }
}

/// Behaviour 24: the block is intact, what is in it is not.
#[test]
fn attributes_that_run_past_their_block_cost_the_routes() {
    for remote_as in [IBGP, EBGP] {
        for tail in [&[0x80, 4, 9, 0][..], &[0x80], &[0x80, 4], &[0x90, 4, 0], &[0x90, 4, 1, 0, 0]] {
            let block = [&good(remote_as, true).concat(), tail].concat();
            let bytes = raw_update(&[], &block, &[16, 10, 1, 16, 10, 3]);
            let seen = Pair::new(remote_as, true).cost(&bytes, &[A, NEW], &[], "overrun");
            assert_eq!(seen, Withdrawn, "{tail:?}");
        }
        // A NEXT_HOP whose length swallows the rest: ORIGIN and AS_PATH were read, and it does not matter.
        let mut all = good(remote_as, true);
        all[2][2] = 200;
        let bytes = update(&[], &all, &[A, NEW]);
        let seen = Pair::new(remote_as, true).cost(&bytes, &[A, NEW], &[], "swallowed");
        assert_eq!(seen, Withdrawn);
    }
}

/// Behaviours 21, 30 and 31, from a peer that knows no four-octet numbers.
#[test]
fn on_a_two_octet_session_as_attributes_have_their_other_lengths() {
    let (well_known, both) = (TRANSITIVE, OPTIONAL | TRANSITIVE);
    for remote_as in [IBGP, EBGP] {
        for (what, bytes, expected) in [
            ("AS_PATH in four octets", attribute(well_known, 2, &[2, 2, 0, 0, 0xfc]), Withdrawn),
            ("AS_PATH", attribute(well_known, 2, &[2, 1, 0xfc, 0x58]), Nothing),
            ("AS_PATH with AS 0", attribute(well_known, 2, &[2, 1, 0, 0]), Withdrawn),
            ("AGGREGATOR", attribute(both, 7, &[0xfc, 0, 9, 9, 9, 9]), Nothing),
            ("AGGREGATOR in four octets", attribute(both, 7, &[0, 0, 0xfc, 0, 9, 9, 9, 9]), Discarded(1)),
            ("AGGREGATOR with AS 0", attribute(both, 7, &[0, 0, 9, 9, 9, 9]), Discarded(1)),
            ("AS4_PATH", attribute(both, 17, &[2, 1, 0, 1, 0, 0]), Nothing),
            ("AS4_PATH flags", attribute(OPTIONAL, 17, &[2, 1, 0, 1, 0, 0]), Discarded(1)),
            ("AS4_PATH empty", attribute(both, 17, &[]), Discarded(1)),
            ("AS4_PATH cut off", attribute(both, 17, &[2, 1, 0, 1]), Discarded(1)),
            ("AS4_PATH with AS 0", attribute(both, 17, &[2, 1, 0, 0, 0, 0]), Discarded(1)),
            ("AS4_AGGREGATOR", attribute(both, 18, &[0, 1, 0, 0, 9, 9, 9, 9]), Nothing),
            ("AS4_AGGREGATOR flags", attribute(well_known, 18, &[0, 1, 0, 0, 9, 9, 9, 9]), Discarded(1)),
            ("AS4_AGGREGATOR short", attribute(both, 18, &[0, 1, 0, 0, 9, 9]), Discarded(1)),
            ("AS4_AGGREGATOR long", attribute(both, 18, &[1; 9]), Discarded(1)),
            ("AS4_AGGREGATOR with AS 0", attribute(both, 18, &[0, 0, 0, 0, 9, 9, 9, 9]), Discarded(1)),
        ] {
            assert_eq!(cost_of(remote_as, false, &[bytes], what), expected, "{what} {remote_as}");
        }
    }
}

/// Behaviour 32: what Manx does not know, by its flags.
#[test]
fn an_unknown_attribute_is_passed_on_dropped_or_fatal_by_its_flags() {
    for remote_as in [IBGP, EBGP] {
        for (flags, carried) in [(OPTIONAL | TRANSITIVE, true), (OPTIONAL, false)] {
            for partial in [0, PARTIAL] {
                let mut pair = Pair::new(remote_as, true);
                let mut all = good(remote_as, true);
                all.push(attribute(OPTIONAL | TRANSITIVE, 200, &[1]));
                all.push(attribute(flags | partial, 99, &[7, 8]));
                pair.script.give(&update(&[], &all, &[A]));
                let sent = pair.script.take_on(pair.other);
                let [Message::Update(body)] = &sent[..] else { panic!("{sent:?}") };
                let unknown = [OPTIONAL | TRANSITIVE | PARTIAL, 99, 2, 7, 8];
                let seen = body.windows(unknown.len()).any(|window| window == unknown);
                assert_eq!(seen, carried, "flags {flags:#x}");
                assert_eq!(body.contains(&99), carried);
            }
        }
        for flags in [0, TRANSITIVE, PARTIAL] {
            let bad = attribute(flags, 99, &[7]);
            let expected = Reset(3, 2, bad.clone());
            assert_eq!(cost_of(remote_as, true, &[bad], "unknown well-known"), expected);
        }
        // Twice the same unknown one: the first.
        let twice = [1, 2].map(|value| attribute(OPTIONAL | TRANSITIVE, 99, &[value]));
        assert_eq!(cost_of(remote_as, true, &twice, "unknown twice"), Discarded(1));
    }
}

/// RFC 7606 §3 h: the strongest of several outcomes counts; a discarded attribute is gone and the others are there.
#[test]
fn of_several_faults_the_worst_decides() {
    let discard = attribute(TRANSITIVE, 6, &[1]);
    let withdraw = attribute(OPTIONAL, 4, &[1]);
    let reset = attribute(TRANSITIVE, 99, &[1]);
    for (bad, expected) in [
        (vec![discard.clone(), attribute(OPTIONAL | TRANSITIVE, 7, &[0])], Discarded(2)),
        (vec![discard.clone(), withdraw.clone()], Withdrawn),
        (vec![withdraw.clone(), discard.clone()], Withdrawn),
        (vec![discard, withdraw, reset.clone()], Reset(3, 2, reset)),
    ] {
        assert_eq!(cost_of(IBGP, true, &bad, "several"), expected);
    }
}

/// RFC 7606 §2: a session that is reset for a fault takes only its own routes; both families', though only one was in
/// the UPDATE. (That each reset withdraws them from the others stands in [`Pair::cost`].)
#[test]
fn what_other_peers_announced_survives_a_reset() {
    let mut pair = Pair::new(EBGP, true);
    let other = pair.other;
    pair.script.give_on(other, &update(&[], &mandatory(&[64999]), &[A, "10.7.0.0/16"]));
    pair.script.give(&raw_update(&[], &attribute(OPTIONAL, 14, &[]), &[]));
    assert_eq!(pair.script.state(), SessionState::Idle);
    for prefix in [A, "10.7.0.0/16"] {
        let view = pair.script.explain(prefix).unwrap();
        assert_eq!((view.paths.len(), view.paths[0].standing), (1, Standing::Best), "{prefix}");
    }
    let counts =
        |family| pair.script.speaker.peers()[1].negotiated.as_ref().unwrap().families.contains(&family);
    assert!(Family::ALL.into_iter().all(counts));
}
