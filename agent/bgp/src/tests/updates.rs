//! UPDATEs as a peer may send them: RFC 7606 attribute by attribute, and what becomes of their routes.

use super::{
    network::prefix,
    script::{Script, attribute, config, mandatory, raw_update, their_open, update, with},
};
use crate::{
    Family,
    attr::flag::{OPTIONAL, PARTIAL, TRANSITIVE},
    message::Message,
    view::{PathView, RefusedBy, SessionState, Standing},
};

const A: &str = "10.1.0.0/16";
const IBGP: u32 = 64512;
const EBGP: u32 = 64600;

fn established(remote_as: u32) -> Script {
    Script::established(config(remote_as))
}

/// The AS_PATH that a peer of this AS would send.
fn good(remote_as: u32) -> Vec<Vec<u8>> {
    if remote_as == IBGP { mandatory(&[]) } else { mandatory(&[remote_as]) }
}

fn path(script: &Script) -> Option<PathView> {
    script.explain(A).map(|view| view.paths[0].clone())
}

#[derive(Debug, PartialEq)]
enum Seen {
    Kept,
    Withdrawn,
    Reset(u8, u8),
}

/// A good route first, then this UPDATE for it.
fn outcome_of(remote_as: u32, update: &[u8]) -> (Seen, Script) {
    let mut script = established(remote_as);
    // MED tells the first announcement from the second.
    let first = with(good(remote_as), attribute(OPTIONAL, 4, &[0, 0, 0, 77]));
    script.give(&super::script::update(&[], &first, &[A]));
    assert_eq!(path(&script).unwrap().standing, Standing::Best);
    script.give(update);
    let seen = if script.state() == SessionState::Established {
        match path(&script) {
            Some(path) => {
                assert_ne!(path.attributes.med, Some(77), "the new announcement replaces the old one");
                Seen::Kept
            }
            None => Seen::Withdrawn,
        }
    } else {
        let (code, subcode, _) = script.notification();
        Seen::Reset(code, subcode)
    };
    (seen, script)
}

fn outcome(remote_as: u32, attributes: &[Vec<u8>]) -> Seen {
    outcome_of(remote_as, &update(&[], attributes, &[A])).0
}

/// In place of the attribute with the same code, or besides the others.
fn replaced(remote_as: u32, bad: Vec<u8>) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = good(remote_as).into_iter().filter(|held| held[1] != bad[1]).collect();
    all.push(bad);
    all
}

/// Behaviour 30.
#[test]
fn what_is_discarded_is_not_there_and_the_rest_is() {
    let mut attributes = good(EBGP);
    attributes.extend([
        attribute(TRANSITIVE, 5, &[0, 0, 1, 0]),
        attribute(OPTIONAL, 9, &[1, 1, 1, 1]),
        attribute(OPTIONAL, 10, &[1, 1, 1, 1]),
        attribute(OPTIONAL | TRANSITIVE, 7, &[0; 3]),
        attribute(OPTIONAL | TRANSITIVE, 8, &[0xfc, 0, 0, 100]),
        attribute(OPTIONAL | TRANSITIVE, 99, &[7]),
        attribute(OPTIONAL, 98, &[7]),
    ]);
    let (_, script) = outcome_of(EBGP, &update(&[], &attributes, &[A]));
    let attributes = path(&script).unwrap().attributes;
    assert_eq!(
        (attributes.local_pref, attributes.originator_id, attributes.cluster_list.len()),
        (None, None, 0)
    );
    assert_eq!((attributes.aggregator, attributes.unknown), (None, vec![99]));
    assert_eq!(attributes.communities, ["64512:100"]);
    assert_eq!(script.view().counters.attributes_discarded, 4);
}

/// Behaviour 24.
#[test]
fn an_attribute_that_overruns_its_block_costs_the_routes_only() {
    let mut block = good(IBGP).concat();
    block.extend([OPTIONAL, 4, 200, 0, 0]);
    let bytes = raw_update(&[], &block, &[16, 10, 1]);
    assert_eq!(outcome_of(IBGP, &bytes).0, Seen::Withdrawn);
    // Fewer than three octets are left over.
    let mut block = good(IBGP).concat();
    block.extend([OPTIONAL, 4]);
    assert_eq!(outcome_of(IBGP, &raw_update(&[], &block, &[16, 10, 1])).0, Seen::Withdrawn);
}

/// Behaviour 25.
#[test]
fn lengths_that_do_not_add_up_reset_the_session() {
    for body in [[0, 9, 0, 0], [0, 0, 0, 9], [255, 255, 0, 0]] {
        let mut bytes = bytes::BytesMut::new();
        crate::message::write_message(&mut bytes, 2, |out| out.extend_from_slice(&body));
        assert_eq!(outcome_of(IBGP, &bytes).0, Seen::Reset(3, 1));
    }
}

/// Behaviour 26.
#[test]
fn a_prefix_that_is_too_long_or_cut_off_resets_the_session() {
    let block = good(IBGP).concat();
    for nlri in [&[33, 1, 2, 3, 4, 5][..], &[24, 10, 1], &[16, 10, 1, 32]] {
        assert_eq!(outcome_of(IBGP, &raw_update(&[], &block, nlri)).0, Seen::Reset(3, 10), "{nlri:?}");
        assert_eq!(outcome_of(IBGP, &raw_update(nlri, &[], &[])).0, Seen::Reset(3, 10), "{nlri:?}");
    }
    let reach = |nlri: &[u8]| {
        let mut value = vec![0, 2, 1, 16];
        value.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        value.extend_from_slice(nlri);
        with(good(IBGP), attribute(OPTIONAL, 14, &value)).concat()
    };
    assert_eq!(outcome_of(IBGP, &raw_update(&[], &reach(&[129]), &[])).0, Seen::Reset(3, 10));
}

/// Behaviour 27.
#[test]
fn the_first_of_two_counts_but_two_multiprotocol_ones_reset_the_session() {
    let mut twice = good(IBGP);
    twice.push(attribute(OPTIONAL, 4, &[0, 0, 0, 1]));
    twice.push(attribute(OPTIONAL, 4, &[0, 0, 0, 2]));
    let (seen, script) = outcome_of(IBGP, &update(&[], &twice, &[A]));
    assert_eq!((seen, path(&script).unwrap().attributes.med), (Seen::Kept, Some(1)));
    let unreach = attribute(OPTIONAL, 15, &[0, 2, 1]);
    assert_eq!(outcome(IBGP, &[unreach.clone(), unreach]), Seen::Reset(3, 1));
}

/// Behaviour 28.
#[test]
fn a_missing_mandatory_attribute_withdraws_and_withdrawals_need_none() {
    for missing in [1, 2, 3] {
        let rest: Vec<_> = good(IBGP).into_iter().filter(|held| held[1] != missing).collect();
        assert_eq!(outcome(IBGP, &rest), Seen::Withdrawn, "{missing}");
    }
    assert_eq!(outcome(IBGP, &[]), Seen::Withdrawn);
    assert_eq!(outcome_of(IBGP, &update(&[A], &[], &[])).0, Seen::Withdrawn);
    // IPv6 needs no NEXT_HOP.
    let (seen, script) = outcome_of(IBGP, &raw_update(&[], &v6_block(), &[16, 10, 1]));
    assert_eq!(seen, Seen::Withdrawn, "the IPv4 part lacks one");
    assert!(script.explain("2001:db8:1::/48").is_none(), "RFC 7606 counts per UPDATE");
    let mut script = established(IBGP);
    script.give(&raw_update(&[], &v6_block(), &[]));
    assert_eq!(script.explain("2001:db8:1::/48").unwrap().paths[0].standing, Standing::Best);
}

/// 2001:db8:1::/48 via 2001:db8::2, without NEXT_HOP.
fn v6_block() -> Vec<u8> {
    v6_attributes().concat()
}

fn v6_attributes() -> Vec<Vec<u8>> {
    let mut value = vec![0, 2, 1, 16];
    value.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    value.extend([48, 0x20, 1, 0xd, 0xb8, 0, 1]);
    let mut all = vec![attribute(OPTIONAL, 14, &value)];
    all.extend(good(IBGP).into_iter().filter(|held| held[1] != 3));
    all
}

/// Behaviour 33.
#[test]
fn the_order_of_attributes_changes_nothing() {
    let mut all = good(IBGP);
    all.push(attribute(OPTIONAL | TRANSITIVE, 99, &[1]));
    all.push(attribute(OPTIONAL | TRANSITIVE, 120, &[2]));
    let straight = outcome_of(IBGP, &update(&[], &all, &[A])).1;
    all.reverse();
    let reversed = outcome_of(IBGP, &update(&[], &all, &[A])).1;
    assert_eq!(path(&straight), path(&reversed));
}

/// Behaviour 34.
#[test]
fn announced_beats_withdrawn_and_host_bits_are_masked() {
    let (seen, _) = outcome_of(IBGP, &update(&[A], &good(IBGP), &[A]));
    assert_eq!(seen, Seen::Kept);
    let mut script = established(IBGP);
    script.give(&raw_update(&[], &good(IBGP).concat(), &[12, 10, 0x1f]));
    assert_eq!(seen_best(&script, "10.16.0.0/12"), Some(Standing::Best));
}

fn seen_best(script: &Script, prefix: &str) -> Option<Standing> {
    Some(script.explain(prefix)?.paths[0].standing)
}

/// Behaviour 35.
#[test]
fn a_next_hop_that_can_be_nobodys_is_refused_and_the_session_stays() {
    for bad in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255], [10, 0, 0, 1]] {
        let (_, script) =
            outcome_of(IBGP, &update(&[], &replaced(IBGP, attribute(TRANSITIVE, 3, &bad)), &[A]));
        assert_eq!(seen_best(&script, A), Some(Standing::Refused(RefusedBy::InvalidNextHop)), "{bad:?}");
        assert!(script.speaker.best(prefix(A)).is_none());
    }
}

/// Behaviour 36.
#[test]
fn end_of_rib_is_no_error_in_either_form_once_twice_or_never() {
    let mut script = established(IBGP);
    for family in Family::ALL {
        for _ in 0..2 {
            script.give(&crate::message::update::end_of_rib(family));
        }
    }
    assert_eq!(script.state(), SessionState::Established);
    assert_eq!(script.view().counters.treated_as_withdraw, 0);
}

/// Behaviour 37.
#[test]
fn multiprotocol_next_hops_have_the_lengths_of_their_family() {
    let reach = |family: [u8; 3], next_hop: &[u8], nlri: &[u8]| {
        let mut value = family.to_vec();
        value.push(next_hop.len() as u8);
        value.extend_from_slice(next_hop);
        value.push(0);
        value.extend_from_slice(nlri);
        let mut all = vec![attribute(OPTIONAL, 14, &value)];
        all.extend(good(IBGP).into_iter().filter(|held| held[1] != 3));
        raw_update(&[], &all.concat(), &[])
    };
    let (v6, v4, v6_nlri) = ([0, 2, 1], [0, 1, 1], [48, 0x20, 1, 0xd, 0xb8, 0, 1]);
    let global = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let hop_of = |bytes: &[u8], prefix: &str| {
        let mut script = established(IBGP);
        script.give(bytes);
        script.explain(prefix).map(|view| view.paths[0].next_hop.unwrap())
    };
    let six = "2001:db8:1::/48";
    let plain = hop_of(&reach(v6, &global, &v6_nlri), six).unwrap();
    assert_eq!((plain.address.to_string().as_str(), plain.link_of), ("2001:db8::2", None));
    let both = hop_of(&reach(v6, &[global, local].concat(), &v6_nlri), six).unwrap();
    assert_eq!(both, plain);
    let only_local = hop_of(&reach(v6, &[[0; 16], local].concat(), &v6_nlri), six).unwrap();
    assert_eq!(only_local.address.to_string(), "fe80::9");
    assert!(only_local.link_of.is_some());
    let four = hop_of(&reach(v4, &[10, 0, 0, 2], &[16, 10, 1]), A).unwrap();
    assert_eq!(four.address.to_string(), "10.0.0.2");
    // RFC 8950: IPv4 by IPv6, where both sides said so.
    let extended = || {
        let mut config = config(IBGP);
        config.peers[0].extended_next_hop = true;
        Script::established(config)
    };
    for (octets, expected) in [
        (global.to_vec(), "2001:db8::2"),
        ([global, local].concat(), "2001:db8::2"),
        ([[0; 16], local].concat(), "fe80::9"),
        (local.to_vec(), "fe80::9"),
        (vec![10, 0, 0, 2], "10.0.0.2"),
    ] {
        let mut script = extended();
        script.give(&reach(v4, &octets, &[16, 10, 1]));
        let hop = script.explain(A).unwrap().paths[0].next_hop.unwrap();
        assert_eq!(hop.address.to_string(), expected);
        assert_eq!(hop.link_of.is_some(), expected == "fe80::9");
        // Withdrawn in the plain form as in the other.
        script.give(&update(&[A], &[], &[]));
        assert!(script.explain(A).is_none());
    }
    for (negotiated, family, length) in [
        (false, v6, 0),
        (false, v6, 4),
        (false, v6, 17),
        (false, v6, 24),
        (false, v4, 5),
        (false, v4, 16),
        (false, v4, 32),
        (true, v4, 24),
        (true, v6, 4),
    ] {
        let mut script = if negotiated { extended() } else { established(IBGP) };
        script.give(&reach(family, &global.repeat(2)[..length], &[]));
        let (code, subcode, data) = script.notification();
        assert_eq!((code, subcode, data[1]), (3, 9, 14), "{family:?} {length}");
    }
}

/// Behaviour 22.
#[test]
fn routes_of_a_family_that_was_not_negotiated_are_ignored() {
    let mut open = their_open(&config(IBGP));
    open.capabilities.families = vec![Family::Ipv4Unicast];
    let mut script = Script::established_with(config(IBGP), &open);
    script.give(&raw_update(&[], &v6_block(), &[]));
    assert_eq!(script.state(), SessionState::Established);
    assert!(script.explain("2001:db8:1::/48").is_none());
    // And one that Manx has never heard of.
    let evpn = attribute(OPTIONAL, 14, &[0, 25, 70, 4, 1, 1, 1, 1, 0, 9, 9]);
    script.give(&update(&[], &with(good(IBGP), evpn), &[A]));
    assert_eq!(seen_best(&script, A), Some(Standing::Best));
}

/// Behaviour 22: RFC 4760 §7 asks for no more than that its routes go and are ignored, and that is how it stands.
#[test]
fn a_fault_in_a_family_that_was_not_negotiated_costs_neither_the_session_nor_a_route() {
    let mut open = their_open(&config(IBGP));
    open.capabilities.families = vec![Family::Ipv4Unicast];
    let [six, evpn] = [[0, 2, 1], [0, 25, 70]];
    for (code, value) in [
        // No next hop, one that runs past the end, one of a length that no address has.
        (14, &[][..]),
        (14, &[16, 0x20, 1]),
        (14, &[5, 1, 2, 3, 4, 5, 0]),
        // A prefix that is too long, one that is cut off.
        (14, &[4, 1, 2, 3, 4, 0, 200]),
        (15, &[129]),
        (15, &[48, 0x20]),
    ] {
        for family in [six, evpn] {
            let mut script = Script::established_with(config(IBGP), &open);
            script.give(&update(&[], &good(IBGP), &["10.9.0.0/16"]));
            let bad = attribute(OPTIONAL, code, &[&family[..], value].concat());
            script.give(&update(&[], &with(good(IBGP), bad.clone()), &[A]));
            // And alone, where nothing but it says of what it is.
            script.give(&raw_update(&[], &bad, &[]));
            assert_eq!(script.state(), SessionState::Established, "{code} {family:?} {value:?}");
            for prefix in [A, "10.9.0.0/16"] {
                assert_eq!(seen_best(&script, prefix), Some(Standing::Best), "{code} {family:?} {value:?}");
            }
        }
    }
    // Which family it is of has to be there, and neither attribute may be there twice (RFC 7606 §3 g).
    for bad in [vec![attribute(OPTIONAL, 14, &[0, 2])], vec![attribute(OPTIONAL, 15, &six); 2]] {
        let mut script = Script::established_with(config(IBGP), &open);
        script.give(&update(&[], &[good(IBGP), bad].concat(), &[A]));
        assert_eq!(script.notification().0, 3);
    }
}

/// Behaviour 21.
#[test]
fn a_two_octet_peer_is_read_and_its_as4_attributes_are_merged() {
    let mut open = their_open(&config(EBGP));
    open.capabilities.four_octet_as = None;
    let mut script = Script::established_with(config(EBGP), &open);
    let attributes = |as4: &[u8], aggregator: [u8; 2]| {
        vec![
            attribute(TRANSITIVE, 1, &[0]),
            attribute(TRANSITIVE, 2, &[2, 3, 0xfc, 0x58, 0x5b, 0xa0, 0x5b, 0xa0]),
            attribute(TRANSITIVE, 3, &[10, 0, 0, 2]),
            attribute(OPTIONAL | TRANSITIVE, 7, &[aggregator[0], aggregator[1], 9, 9, 9, 9]),
            attribute(OPTIONAL | TRANSITIVE, 17, as4),
            attribute(OPTIONAL | TRANSITIVE, 18, &[0, 1, 0x11, 0x70, 8, 8, 8, 8]),
        ]
    };
    let as4 = [2, 2, 0, 1, 0x11, 0x70, 0, 1, 0x11, 0x71];
    script.give(&update(&[], &attributes(&as4, [0x5b, 0xa0]), &[A]));
    let merged = path(&script).unwrap().attributes;
    assert_eq!(
        (merged.as_path.as_str(), merged.aggregator.as_deref()),
        ("64600 70000 70001", Some("70000 8.8.8.8"))
    );
    // An AGGREGATOR that is not AS_TRANS: both AS4 attributes say nothing.
    script.give(&update(&[], &attributes(&as4, [0xfc, 0x58]), &[A]));
    let plain = path(&script).unwrap().attributes;
    assert_eq!(
        (plain.as_path.as_str(), plain.aggregator.as_deref()),
        ("64600 23456 23456", Some("64600 9.9.9.9"))
    );
}

/// RFC 6793 §6: what a confederation has left in AS4_PATH is not counted, and the rest is.
#[test]
fn confederation_segments_in_as4_path_are_left_out() {
    let mut open = their_open(&config(EBGP));
    open.capabilities.four_octet_as = None;
    for (as4, expected) in [
        (&[3, 1, 0, 0, 0xff, 1, 2, 1, 0, 1, 0x11, 0x70][..], "64600 70000"),
        (&[2, 1, 0, 1, 0x11, 0x70, 4, 1, 0, 0, 0xff, 1], "64600 70000"),
        // Cut off, or nothing a path can have: the attribute is gone.
        (&[3, 9, 0, 0, 0xff, 1], "64600 23456"),
        (&[2, 1, 0, 1, 0x11, 0x70, 3], "64600 23456"),
        (&[5, 1, 0, 1, 0x11, 0x70], "64600 23456"),
    ] {
        let mut script = Script::established_with(config(EBGP), &open);
        let attributes = vec![
            attribute(TRANSITIVE, 1, &[0]),
            attribute(TRANSITIVE, 2, &[2, 2, 0xfc, 0x58, 0x5b, 0xa0]),
            attribute(TRANSITIVE, 3, &[10, 0, 0, 2]),
            attribute(OPTIONAL | TRANSITIVE, 17, as4),
        ];
        script.give(&update(&[], &attributes, &[A]));
        assert_eq!(path(&script).unwrap().attributes.as_path, expected, "{as4:?}");
    }
}

/// RFC 4271 §5: once set, the Partial bit of a recognised attribute goes on, and nobody else's does.
#[test]
fn the_partial_bit_of_an_attribute_that_we_know_is_kept() {
    use super::limits::two_peers;
    for bit in [0, PARTIAL] {
        let (mut script, first, second) = two_peers(config(IBGP), |_, _| ());
        let mut clients = script.speaker.config().clone();
        clients.peers.iter_mut().for_each(|peer| peer.rr_client = true);
        script.speaker.configure(clients, script.now);
        let flags = OPTIONAL | TRANSITIVE | bit;
        let plain = attribute(OPTIONAL | TRANSITIVE, 16, &[0, 2, 0, 1, 0, 0, 0, 1]);
        let partial = [
            attribute(flags, 7, &[0, 0, 0, 9, 9, 9, 9, 9]),
            attribute(flags, 8, &[0, 1, 0, 1]),
            attribute(flags, 32, &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]),
            attribute(flags, 35, &[0, 0, 0, 7]),
        ];
        let mut attributes = mandatory(&[]);
        attributes.extend(partial.clone());
        script.give_on(first, &update(&[], &with(attributes, plain.clone()), &[A]));
        let sent = script.take_on(second);
        let there = |part: &[u8]| {
            sent.iter().any(|message| {
                matches!(message, Message::Update(body) if body.windows(part.len()).any(|window| window == part))
            })
        };
        assert!(there(&plain) && partial.iter().all(|part| there(part)), "{bit}: {sent:?}");
    }
}

/// Behaviours 40 and 47.
#[test]
fn loops_are_refused_and_replace_what_was_announced_before() {
    let own_id = attribute(OPTIONAL, 9, &[10, 0, 0, 1]);
    let own_cluster = attribute(OPTIONAL, 10, &[[9, 9, 9, 9], [10, 0, 0, 1]].concat());
    for (attributes, by) in [
        (with(good(IBGP), own_id), RefusedBy::OriginatorIsUs),
        (with(good(IBGP), own_cluster), RefusedBy::ClusterLoop),
        (mandatory(&[1, 64512]), RefusedBy::AsLoop),
    ] {
        let (_, script) = outcome_of(IBGP, &update(&[], &attributes, &[A]));
        assert_eq!(seen_best(&script, A), Some(Standing::Refused(by)));
        assert!(script.speaker.best(prefix(A)).is_none());
        let counters = script.view().counters;
        assert_eq!((counters.prefixes_received, counters.prefixes_accepted), (1, 0));
    }
}

#[test]
fn our_as_may_stand_in_the_path_as_often_as_allowed() {
    let mut allowing = config(EBGP);
    allowing.peers[0].allow_local_as = 1;
    let mut script = Script::established(allowing);
    script.give(&update(&[], &mandatory(&[EBGP, 64512]), &[A]));
    assert_eq!(seen_best(&script, A), Some(Standing::Best));
    script.give(&update(&[], &mandatory(&[EBGP, 64512, 64512]), &[A]));
    assert_eq!(seen_best(&script, A), Some(Standing::Refused(RefusedBy::AsLoop)));
}

/// What was refused stays as it came, and is judged anew without the peer's help.
#[test]
fn routes_that_were_refused_are_judged_anew_by_a_new_configuration() {
    let allowing = |times| {
        let mut config = config(EBGP);
        config.peers[0].allow_local_as = times;
        config
    };
    let mut script = Script::established(allowing(0));
    script.give(&update(&[], &mandatory(&[EBGP, 64512]), &[A]));
    // Whatever is allowed, nobody leads to an address of our own.
    let mut to_us = mandatory(&[EBGP, 64512]);
    to_us[2] = attribute(TRANSITIVE, 3, &[10, 0, 0, 1]);
    script.give(&update(&[], &to_us, &["10.2.0.0/16"]));
    let as_loop = Some(Standing::Refused(RefusedBy::AsLoop));
    for (times, first, second) in [
        (0, as_loop, as_loop),
        (1, Some(Standing::Best), Some(Standing::Refused(RefusedBy::InvalidNextHop))),
        (0, as_loop, as_loop),
    ] {
        script.speaker.configure(allowing(times), script.now);
        script.wait(super::network::ms(1));
        script.speaker.advance(script.now);
        script.drain();
        assert_eq!((seen_best(&script, A), seen_best(&script, "10.2.0.0/16")), (first, second));
        assert_eq!(script.speaker.best(prefix(A)).is_some(), times > 0);
        assert_eq!(script.view().counters.prefixes_accepted, u64::from(times));
    }
    assert_eq!(script.view().established_count, 1);
}

/// Behaviour 48.
#[test]
fn a_withdrawal_of_nothing_is_nothing_and_all_memory_returns() {
    let mut script = established(IBGP);
    script.give(&update(&[A], &[], &[]));
    assert!(script.explain(A).is_none());
    for round in 0..3u8 {
        let marked = with(good(IBGP), attribute(OPTIONAL, 4, &[0, 0, 0, round]));
        script.give(&update(&[], &marked, &[A, "10.2.0.0/16"]));
    }
    assert_eq!(script.speaker.sizes(), (2, 1, 1));
    script.give(&update(&[A, "10.2.0.0/16"], &[], &[]));
    script.wait(super::network::ms(1));
    script.speaker.advance(script.now);
    script.drain();
    assert_eq!(script.speaker.sizes(), (0, 0, 0));
    assert_eq!(script.view().counters.prefixes_received, 0);
}

/// An UPDATE with these IPv6 prefixes via 2001:db8::2.
fn v6_update(prefixes: &[&str]) -> bytes::Bytes {
    let mut value = vec![0, 2, 1, 16];
    value.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    for text in prefixes {
        let manx_net::Prefix::V6(prefix) = text.parse().unwrap() else { panic!("IPv6 only") };
        value.push(prefix.len());
        value.extend(&prefix.addr().octets()[..usize::from(prefix.len()).div_ceil(8)]);
    }
    let mut all = vec![attribute(OPTIONAL, 14, &value)];
    all.extend(good(IBGP).into_iter().filter(|held| held[1] != 3));
    raw_update(&[], &all.concat(), &[])
}

#[test]
fn a_prefix_that_can_be_nobodys_is_refused_and_those_beside_it_are_not() {
    let mut script = Script::established(crate::Config {
        next_hop_v6: Some("2001:db8::1".parse().unwrap()),
        ..config(IBGP)
    });
    let refused = [
        "0.0.0.0/8",
        "0.1.0.0/16",
        "127.0.0.0/8",
        "127.0.0.1/32",
        "169.254.0.0/16",
        "169.254.7.0/24",
        "224.0.0.0/3",
        "224.0.0.0/4",
        "239.1.1.1/32",
        "240.0.0.0/4",
        "255.255.255.255/32",
        "10.0.0.1/32",
    ];
    let accepted = [
        "0.0.0.0/0",
        "0.0.0.0/1",
        "128.0.0.0/1",
        "192.0.0.0/2",
        "126.0.0.0/8",
        "169.252.0.0/14",
        "169.255.0.0/16",
        "223.255.255.0/24",
        "10.0.0.0/31",
        "10.0.0.2/32",
    ];
    let all: Vec<&str> = refused.iter().chain(&accepted).copied().collect();
    script.give(&update(&[], &good(IBGP), &all));
    let refused6 = ["::/128", "::1/128", "::/127", "fe80::/10", "fe80::1/128", "ff00::/8", "ff02::1/128"];
    let refused6: Vec<&str> = refused6.into_iter().chain(["2001:db8::1/128"]).collect();
    let accepted6 = ["::/0", "::/3", "fc00::/7", "fe00::/9", "2001:db8::2/128"];
    script.give(&v6_update(&[&refused6[..], &accepted6[..]].concat()));
    for prefix in refused.iter().chain(&refused6) {
        let standing = seen_best(&script, prefix);
        assert_eq!(standing, Some(Standing::Refused(RefusedBy::InvalidPrefix)), "{prefix}");
    }
    for prefix in accepted.iter().chain(&accepted6) {
        assert_eq!(seen_best(&script, prefix), Some(Standing::Best), "{prefix}");
    }
    assert_eq!(script.state(), SessionState::Established);
    let counters = script.view().counters;
    assert_eq!(counters.prefixes_received - counters.prefixes_accepted, 20);
}

#[test]
fn a_malformed_update_is_told_once_a_minute_for_each_outcome_with_its_fault_and_its_first_prefix() {
    let mut script = established(IBGP);
    let bad_med = replaced(IBGP, attribute(OPTIONAL, 4, &[1]));
    let bad_aggregate = replaced(IBGP, attribute(TRANSITIVE, 6, &[1]));
    for _ in 0..3 {
        script.give(&update(&[], &bad_med, &[A, "10.2.0.0/16"]));
        script.give(&update(&[], &bad_aggregate, &[A]));
    }
    let told = |script: &mut Script| -> Vec<String> {
        std::mem::take(&mut script.warnings).into_iter().map(|warning| warning.about.to_string()).collect()
    };
    assert_eq!(
        told(&mut script),
        [
            "sent a malformed UPDATE (MULTI_EXIT_DISC with length 1); its routes were treated as \
             withdrawn, first 10.1.0.0/16",
            "sent a malformed UPDATE (ATOMIC_AGGREGATE with length 1); the attribute was discarded, \
             first 10.1.0.0/16",
        ]
    );
    script.wait(super::network::secs(60));
    script.give(&crate::message::keepalive());
    let missing: Vec<_> = v6_attributes().into_iter().filter(|held| held[1] != 1).collect();
    script.give(&raw_update(&[], &missing.concat(), &[]));
    assert_eq!(
        told(&mut script),
        ["sent a malformed UPDATE (ORIGIN missing); its routes were treated as withdrawn, first \
          2001:db8:1::/48; 2 more since the last report"]
    );
    // Good ones, and what only has no place here, are not worth a word.
    let mut ebgp = established(EBGP);
    ebgp.give(&update(&[], &with(good(EBGP), attribute(TRANSITIVE, 5, &[0, 0, 0, 9])), &[A]));
    assert_eq!(told(&mut ebgp), Vec::<String>::new());
}
