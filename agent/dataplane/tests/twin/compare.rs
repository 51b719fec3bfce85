//! What has to be the same, and what rightly differs. A difference is narrowed down to one packet, which is shown
//! with what the table says of it and with what came out of both nodes.

use std::{fmt::Write, net::IpAddr};

use crate::{
    kinds::{Kind, addresses, cut_padding},
    lab::{Frames, Lab, counted},
    model::{INTERFACES, NODE, OWN, TUNNEL, in_pool, on_wire},
    packets::{Sent, checksum},
    tables::{Table, Way},
};

/// Sends a batch of one kind at both nodes; a difference is a panic that names one packet.
pub fn check(lab: &mut Lab, kind: Kind, batch: &[Sent], context: &str) {
    let all: Vec<&Sent> = batch.iter().collect();
    let Some(together) = differs(lab, kind, &all) else { return };
    for sent in &all {
        let before = lab.counters();
        if let Some((with, without)) = differs(lab, kind, &[*sent]) {
            let verdicts = counted(&before, &lab.counters());
            panic!("{context}\n{}", report(lab, kind, sent, &with, &without, &verdicts));
        }
    }
    let came = came_out(&together.0, &together.1);
    panic!("{context}\n{} packets ({kind:?}) differ together and none of them alone\n{came}", all.len());
}

fn differs(lab: &mut Lab, kind: Kind, packets: &[&Sent]) -> Option<(Frames, Frames)> {
    let (with, without) = lab.exchange(packets);
    let (table, tracks) = (&lab.table, lab.tracks);
    let seen = |frames: Frames| normal(frames, kind, table, tracks);
    let (with, without) = (seen(with), seen(without));
    let same = match kind {
        Kind::Spoofed | Kind::Discovery => with.is_empty(),
        Kind::Blackholed => with.iter().all(|frame| without.contains(frame)),
        Kind::Unreachable => {
            let only = |here: &Frames, there: &Frames| {
                here.iter()
                    .filter(|frame| !there.contains(frame))
                    .all(|(_, _, frame)| says_unreachable(frame))
            };
            only(&with, &without) && only(&without, &with)
        }
        _ => with == without,
    };
    (!same).then_some((with, without))
}

/// Without what depends on the clock or on chance, in an order of their own.
fn normal(frames: Frames, kind: Kind, table: &Table, tracks: bool) -> Frames {
    let mut frames: Frames = frames
        .into_iter()
        .filter(|(_, _, frame)| !by_the_clock(frame))
        .map(|(interface, offload, mut frame)| {
            if kind == Kind::Padded {
                cut_padding(&mut frame);
            }
            without_chance(&mut frame, tracks);
            // Conntrack verifies the checksums of what it sees, which is not everything in the one.
            let offload = if tracks { offload.unverified() } else { offload };
            let (interface, frame) = one_of_several(interface, frame, table);
            (interface, offload, frame)
        })
        .collect();
    frames.sort();
    frames
}

/// Which of several next hops a flow takes is each node's choice; that it is one of them is not.
fn one_of_several(interface: usize, mut frame: Vec<u8>, table: &Table) -> (usize, Vec<u8>) {
    if let Some((_, to)) = addresses(&frame)
        && let Some((_, Way::Via(hops))) = table.entry(to)
        && hops.len() > 1
        && hops.iter().any(|hop| hop.interface == interface && frame.starts_with(&hop.mac()))
    {
        frame[..12].fill(0);
        return (INTERFACES.len(), frame);
    }
    (interface, frame)
}

/// What the node's tables of neighbours and of groups say by themselves, and ICMP redirects, which are limited per
/// peer and second.
fn by_the_clock(frame: &[u8]) -> bool {
    let Some(packet) = frame.get(14..) else { return false };
    match frame[12..14] {
        // A request; answers are owed.
        [0x08, 0x06] => packet.get(6..8) == Some(&[0, 1]),
        [0x08, 0x00] => {
            packet.get(9) == Some(&2) && by_node(frame)
                || packet.get(9) == Some(&1) && packet.get(20) == Some(&5) && by_node(frame)
        }
        [0x86, 0xdd] if by_node(frame) || packet.get(8..24) == Some(&[0; 16]) => {
            let (next, kind) = (packet.get(6), packet.get(40));
            let listener_report = next == Some(&0) && packet.get(40) == Some(&58);
            listener_report || next == Some(&58) && matches!(kind, Some(131 | 132 | 133 | 135 | 137 | 143))
        }
        _ => false,
    }
}

/// The node's ICMP error for a host that cannot be reached.
fn says_unreachable(frame: &[u8]) -> bool {
    by_node(frame)
        && frame.get(12..15) == Some(&[8, 0, 0x45])
        && frame[23] == 1
        && frame.get(34..36) == Some(&[3, 1])
}

/// The packet's source is the node itself.
fn by_node(frame: &[u8]) -> bool {
    let Some((from, _)) = addresses(frame) else { return false };
    let v4 = from.is_ipv4();
    let link_local = matches!(from, IpAddr::V6(from) if from.is_unicast_link_local());
    let wires = INTERFACES.iter().filter(|interface| !interface.is_pod());
    link_local
        || from == in_pool(OWN, TUNNEL, v4)
        || wires.into_iter().any(|interface| from == on_wire(interface.subnet, NODE, v4))
}

/// The identification of the node's own packets is random, and its checksum follows it. So is that of the fragments of
/// an IPv6 packet that conntrack has put together.
fn without_chance(frame: &mut [u8], tracks: bool) {
    let by_node = by_node(frame);
    match frame[12..14] {
        [0x08, 0x00] if by_node => {
            frame[18..20].fill(0);
            frame[24..26].fill(0);
            let end = 14 + usize::from(frame[14] & 15) * 4;
            let sum = checksum(&frame[14..end]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        // A fragment header's.
        [0x86, 0xdd] if (by_node || tracks) && frame.len() >= 62 && frame[20] == 44 => frame[58..62].fill(0),
        _ => {}
    }
}

fn report(
    lab: &Lab,
    kind: Kind,
    sent: &Sent,
    with: &Frames,
    without: &Frames,
    verdicts: &[(manx_abi::Verdict, u64)],
) -> String {
    let mut text = String::new();
    let mut line = |words: String| writeln!(text, "{words}").expect("a string takes it");
    line(format!("a packet ({kind:?}) into {}:", INTERFACES[sent.interface].name));
    line(format!("  {:?}", sent.offload));
    line(format!("  {}", hex(&sent.frame)));
    if let Some((from, to)) = addresses(&sent.frame) {
        for (says, address) in [("from", from), ("to", to)] {
            let entry = lab.table.entry(address);
            line(format!("  {says} {address}: {entry:?}, so the kernel: {:?}", lab.table.lead(address)));
        }
    }
    line(format!("counted, markers included: {verdicts:?}"));
    text + &came_out(with, without)
}

/// What did so only once.
fn came_out(with: &Frames, without: &Frames) -> String {
    let mut text = String::new();
    for (says, here, there) in [("with the programs", with, without), ("without", without, with)] {
        let mut line = |words: String| writeln!(text, "{words}").expect("a string takes it");
        let only: Vec<_> = here.iter().filter(|frame| !there.contains(frame)).collect();
        line(format!("{says} {} came out, {} of them only here:", here.len(), only.len()));
        for (interface, offload, frame) in only {
            let name = INTERFACES.get(*interface).map_or("one of several next hops", |one| one.name);
            line(format!(
                "  {name}, {} octets, {offload:?}: {}",
                frame.len(),
                hex(&frame[..frame.len().min(200)])
            ));
        }
    }
    text
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
