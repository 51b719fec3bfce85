//! Several next hops: a flow keeps the one that it has, all are used, and one that is lost takes its own flows only.

use std::collections::BTreeMap;

use crate::{
    flows,
    lab::Lab,
    model::{GATEWAYS, Gateway, INTERFACES, KNOWN, OWN, in_pool},
    packets::Sent,
    random::Random,
    tables::{Table, Way},
};

const FLOWS: u16 = 600;
/// The last block of the known ones.
const BLOCK: u8 = 192;

/// Where each flow goes, by its number.
type Ways = BTreeMap<u16, Gateway>;

fn table(hops: &[Gateway]) -> Table {
    let mut table = Table::plain();
    for (prefix, way) in &mut table.entries {
        if matches!(way, Way::Via(hops) if hops.len() > 1) {
            assert_eq!(prefix.addr(), in_pool(KNOWN, BLOCK, prefix.is_v4()));
            *way = Way::Via(hops.to_vec());
        }
    }
    table
}

/// Sends a packet of each flow by the programs and looks whose MAC it gets.
fn ways(lab: &mut Lab, v4: bool, make: impl Fn(&mut Random, u16) -> Sent) -> Ways {
    let mut random = Random::new(7);
    let mut ways = Ways::new();
    let all: Vec<u16> = (0..FLOWS).collect();
    for some in all.chunks(32) {
        let packets: Vec<Sent> = some.iter().map(|flow| make(&mut random, *flow)).collect();
        let out = lab.with.exchange(&packets.iter().collect::<Vec<_>>());
        for (interface, _, frame) in out {
            let hop = GATEWAYS.into_iter().find(|hop| frame.starts_with(&hop.mac()));
            let Some(hop) = hop.filter(|hop| hop.interface == interface) else { continue };
            // The number stands in the last two octets.
            let number = u16::from_be_bytes([frame[frame.len() - 2], frame[frame.len() - 1]]);
            assert!(ways.insert(number, hop).is_none_or(|before| before == hop), "flow {number}, IPv4: {v4}");
        }
    }
    assert_eq!(ways.len(), FLOWS.into(), "each arrives");
    ways
}

fn flow(random: &mut Random, v4: bool, number: u16) -> Sent {
    let (from, to) = (in_pool(OWN, 193, v4), in_pool(KNOWN, BLOCK + 8, v4));
    let mut sent = flows::datagram(random, 0, from, to, [20_000 + number, 443], &number.to_be_bytes());
    assert_eq!(sent.frame[..6], INTERFACES[0].mac);
    // Neither expires.
    let hops = if v4 { 22 } else { 21 };
    sent.frame[hops] = 64;
    if v4 {
        flows::mend_header(&mut sent.frame);
    }
    sent
}

fn counts(ways: &Ways) -> BTreeMap<Gateway, usize> {
    let mut counts = BTreeMap::new();
    for hop in ways.values() {
        *counts.entry(*hop).or_default() += 1;
    }
    counts
}

#[test]
fn a_flow_keeps_its_next_hop_and_a_lost_one_takes_its_own_flows_only() {
    let three = [GATEWAYS[0], GATEWAYS[2], GATEWAYS[4]];
    let two = [GATEWAYS[0], GATEWAYS[4]];
    for v4 in [true, false] {
        let mut lab = Lab::new();
        lab.set_table(table(&three), [true; 4]);
        let first = ways(&mut lab, v4, |random, number| flow(random, v4, number));
        let again = ways(&mut lab, v4, |random, number| flow(random, v4, number));
        assert_eq!(first, again, "a flow keeps its next hop");
        for hop in three {
            let share = counts(&first)[&hop];
            assert!((FLOWS as usize / 5..FLOWS as usize / 2).contains(&share), "{:?}", counts(&first));
        }
        lab.set_table(table(&two), [true; 4]);
        let after = ways(&mut lab, v4, |random, number| flow(random, v4, number));
        for (number, hop) in &first {
            if *hop == three[1] {
                assert!(two.contains(&after[number]), "flow {number} goes on");
            } else {
                assert_eq!(after[number], *hop, "flow {number} has lost nothing");
            }
        }
        lab.set_table(table(&three), [true; 4]);
        let back = ways(&mut lab, v4, |random, number| flow(random, v4, number));
        let share = counts(&back)[&three[1]];
        assert!((FLOWS as usize / 5..FLOWS as usize / 2).contains(&share), "{:?}", counts(&back));
        let moved = after.iter().filter(|(number, hop)| back[number] != **hop).count();
        assert_eq!(moved, share, "only what goes to the one that is back has moved");
    }
}

#[test]
fn what_was_sent_to_each_next_hop_is_counted() {
    let mut lab = Lab::new();
    lab.set_table(table(&[GATEWAYS[0], GATEWAYS[2]]), [true; 4]);
    let before = lab.sink(|sink| sink.next_hop_counts().unwrap());
    let ways = ways(&mut lab, true, |random, number| flow(random, true, number));
    let after = lab.sink(|sink| sink.next_hop_counts().unwrap());
    let ifindex = lab.with_ifindex();
    for (hop, share) in counts(&ways) {
        let of = |counts: &[(manx_dataplane::route::NextHop, manx_abi::Tally)]| {
            let found = counts.iter().find(|(next_hop, _)| {
                next_hop.gateway == hop.address(true) && next_hop.ifindex == ifindex[hop.interface]
            });
            found.map_or(0, |(_, tally)| tally.packets)
        };
        // Markers go to the first one, too: three from the pods and one after, for each exchange.
        let markers = if hop == GATEWAYS[0] { 4 * u64::from(FLOWS.div_ceil(32)) } else { 0 };
        assert_eq!(of(&after) - of(&before), share as u64 + markers, "{hop:?}");
    }
}

#[test]
fn fragments_of_a_packet_stay_together() {
    let mut lab = Lab::new();
    lab.set_table(table(&[GATEWAYS[0], GATEWAYS[2], GATEWAYS[4]]), [true; 4]);
    // All flows have the same addresses; of a fragment nothing else counts, of the first one neither.
    for fragment in [0x2000u16, 0x2010, 0x0020] {
        let ways = ways(&mut lab, true, |random, number| {
            let mut sent = flow(random, true, number);
            sent.frame[20..22].copy_from_slice(&fragment.to_be_bytes());
            flows::mend_header(&mut sent.frame);
            sent
        });
        assert_eq!(counts(&ways).len(), 1, "{fragment:04x}: {:?}", counts(&ways));
    }
}
