//! Frames with a tag, which the kernel takes out of the frame before the programs see it: what a VLAN's frame is to an
//! interface that is no VLAN's, and that a tag of mere priority hides nothing.

use manx_abi::Verdict;

use crate::{
    flows,
    lab::{Frames, Lab, counted},
    model::{KNOWN, OWN, in_pool},
    packets::Sent,
    random::Random,
    tables::Table,
};

const PAYLOAD: &[u8] = b"a frame with a tag";

/// From the first pod, or as the second one, to a pod of another node, with these tags.
fn tagged(v4: bool, honest: bool, tags: &[(u16, u16)]) -> Sent {
    let from = in_pool(OWN, if honest { 193 } else { 194 }, v4);
    let mut random = Random::new(1);
    let mut sent = flows::datagram(&mut random, 0, from, in_pool(KNOWN, 1, v4), [40_000, 53], PAYLOAD);
    sent.frame[if v4 { 22 } else { 21 }] = 64;
    if v4 {
        flows::mend_header(&mut sent.frame);
    }
    let octets: Vec<u8> = tags
        .iter()
        .flat_map(|(protocol, tag)| [protocol.to_be_bytes(), tag.to_be_bytes()].concat())
        .collect();
    sent.frame.splice(12..12, octets);
    sent
}

/// What came out of both nodes, and whether the verdict was counted.
fn outcome(lab: &mut Lab, sent: &Sent, verdict: Verdict) -> (Frames, Frames, bool) {
    let before = lab.counters();
    let (with, without) = lab.exchange(&[sent]);
    // Beside what the node says by itself.
    let ours = |frames: Frames| frames.into_iter().filter(|(_, _, frame)| frame.ends_with(PAYLOAD)).collect();
    let (with, without) = (ours(with), ours(without));
    let counted = counted(&before, &lab.counters());
    (with, without, counted.iter().any(|(seen, _)| *seen == verdict))
}

#[test]
fn a_tag_of_priority_hides_no_forged_source_and_costs_an_honest_pod_nothing() {
    let mut lab = Lab::new();
    lab.set_table(Table::plain(), [true; 4]);
    for v4 in [true, false] {
        for tag in [(0x8100, 0), (0x8100, 0xe000), (0x88a8, 0)] {
            let (with, without, stack) = outcome(&mut lab, &tagged(v4, true, &[tag]), Verdict::NotIp);
            assert!(stack && with.len() == 1, "{tag:04x?} is the stack's to take off: {with:02x?}");
            assert_eq!(with, without, "{tag:04x?}");
            let (with, without, spoofed) = outcome(&mut lab, &tagged(v4, false, &[tag]), Verdict::Spoofed);
            assert!(spoofed && with.is_empty(), "{tag:04x?}: {with:02x?}");
            // IPv6 has no check of its own.
            assert_eq!(without.len(), usize::from(!v4), "{tag:04x?}");
        }
        let two = [(0x8100, 0), (0x8100, 0)];
        let (with, _, spoofed) = outcome(&mut lab, &tagged(v4, false, &two), Verdict::Spoofed);
        assert!(spoofed && with.is_empty(), "one behind another: {with:02x?}");
    }
}

#[test]
fn a_vlans_frame_is_not_the_interfaces_below_it() {
    let mut lab = Lab::new();
    lab.set_table(Table::plain(), [true; 4]);
    for v4 in [true, false] {
        for tags in
            [&[(0x8100, 7)][..], &[(0x88a8, 7)], &[(0x88a8, 7), (0x8100, 8)], &[(0x8100, 0), (0x8100, 7)]]
        {
            let (with, without, stack) = outcome(&mut lab, &tagged(v4, true, tags), Verdict::NotIp);
            assert!(stack, "{tags:04x?}");
            assert_eq!((with.len(), without.len()), (0, 0), "{tags:04x?}");
        }
    }
}
