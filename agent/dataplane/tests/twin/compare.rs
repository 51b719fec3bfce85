//! What has to be the same, and what rightly differs. A difference is narrowed down to one packet, which is shown
//! with what the table says of it and with what came out of both nodes.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    lab::{Frames, Lab, counted},
    model::{INTERFACES, NODE, OWN, TUNNEL, in_pool, is_routable, on_wire},
    packets::{Sent, checksum},
    tables::{Lead, Table, Way},
};

/// Packets are sent in batches of one kind, so that what may differ for some is not forgiven to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The same octets on the same interfaces.
    Plain,
    /// The kernel cuts off what stands after the packet before it sends it on; the programs do not, and no
    /// receiver minds.
    Padded,
    /// From a pod, with a source that is neither its own nor of the link, neighbour discovery for another or as a
    /// router, or a priority tag behind another that would hide them: nothing comes out, whatever the kernel does, which checks sources only in IPv4.
    Spoofed,
    /// To a blackhole: nothing comes out that does not without the programs. The kernel reads options before it looks for a route, and may answer to
    /// those with an error; so it does for a pod that only it knows, all of whose packets are the stack's.
    Blackholed,
    /// The kernel answers only a few of a sender's packets a second so (`ip_error`), and there is no setting of a
    /// namespace against it.
    Unreachable,
    /// Too large for one of several next hops, and not for another: which of them a flow takes is each node's to
    /// choose. Or for somebody on a wire who is not there: the error comes when the kernel has asked for seconds.
    Skipped,
}

pub fn kind(sent: &Sent, table: &Table) -> Kind {
    let unpadded = {
        let mut frame = sent.frame.clone();
        cut_padding(&mut frame);
        frame.len() == sent.frame.len()
    };
    let usual = if unpadded { Kind::Plain } else { Kind::Padded };
    if let Some((_, to)) = addresses(&without_tags(&sent.frame))
        && table.is_nobody_on_a_wire(to)
    {
        return Kind::Skipped;
    }
    let unreachable = addresses(&without_tags(&sent.frame))
        .is_some_and(|(_, to)| to.is_ipv4() && matches!(table.entry(to), Some((_, Way::Unreachable))));
    let usual = if unreachable { Kind::Unreachable } else { usual };
    let interface = &INTERFACES[sent.interface];
    // Those to another's MAC no stack takes.
    if interface.is_pod()
        && (sent.frame[..6] == interface.mac || sent.frame[0] & 1 == 1)
        && is_forged(sent, table)
    {
        return Kind::Spoofed;
    }
    let Some((_, to)) = addresses(&sent.frame) else { return usual };
    if let Some((_, Way::Via(hops))) = table.entry(to)
        && hops.len() > 1
        && sent.frame.len() > 14 + 1280
    {
        return Kind::Skipped;
    }
    let judged = sent.frame[..6] == interface.mac && is_routable(to);
    if judged && matches!(table.entry(to), Some((_, Way::Blackhole(_)))) {
        return Kind::Blackholed;
    }
    usual
}

fn is_forged(sent: &Sent, table: &Table) -> bool {
    let priority = |frame: &[u8]| {
        matches!(frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]))
            && matches!(frame.get(14..16), Some([high, 0]) if high & 0x0f == 0)
    };
    let mut frame = sent.frame.clone();
    if priority(&frame) {
        frame.drain(12..16);
        if priority(&frame) {
            return true;
        }
    }
    let Some((from, _)) = addresses(&frame) else { return false };
    let strange = |address: IpAddr| table.lead(address) != Lead::Out(vec![sent.interface]);
    // Neighbour discovery: hop limit 255, ICMPv6, type, target.
    if let (true, Some([58, 255]), Some(message)) = (from.is_ipv6(), frame.get(20..22), frame.get(54..)) {
        let target = message.get(8..24).and_then(|octets| <[u8; 16]>::try_from(octets).ok());
        let target = Ipv6Addr::from(target.unwrap_or_default());
        match message.first() {
            Some(134 | 137) => return true,
            Some(136) if !target.is_unicast_link_local() && strange(target.into()) => return true,
            _ => {}
        }
    }
    if from.is_ipv6() && frame.get(21) == Some(&255) && hides_discovery(&frame) {
        return true;
    }
    let of_link = from.is_unspecified() || matches!(from, IpAddr::V6(from) if from.is_unicast_link_local());
    !of_link && strange(from)
}

/// Neighbour discovery behind extension headers, or more of those than anybody reads.
fn hides_discovery(frame: &[u8]) -> bool {
    let (mut next, mut at) = (frame[20], 54);
    for header in 0..8 {
        let Some(octets) = frame.get(at..at + 4) else {
            return header > 0 && next == 58 && matches!(frame.get(at), Some(133..=137));
        };
        match next {
            58 => return header > 0 && (133..=137).contains(&octets[0]),
            44 if octets[2] != 0 || octets[3] & 0xf8 != 0 => return false,
            44 => at += 8,
            51 => at += (usize::from(octets[1]) + 2) * 4,
            0 | 43 | 60 | 135 | 139 | 140 | 253 | 254 => at += (usize::from(octets[1]) + 1) * 8,
            _ => return false,
        }
        next = octets[0];
    }
    true
}

/// The kernel takes a tag of VLAN 0 for none.
fn without_tags(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    while frame.len() > 18 && matches!(frame[12..14], [0x81, 0x00] | [0x88, 0xa8]) {
        frame.drain(12..16);
    }
    frame
}

/// Source and destination of an untagged frame's IP header, if it has one that the kernel would read.
pub fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let packet = frame.get(14..)?;
    match (frame.get(12..14)?, packet.first()? >> 4) {
        ([0x08, 0x00], 4) => {
            let header = packet.get(..20)?;
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let header_length = usize::from(header[0] & 15) * 4;
            if header_length < 20 || length < header_length || length > packet.len() {
                return None;
            }
            if checksum(packet.get(..header_length)?) != 0 {
                return None;
            }
            let address = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).map(Ipv4Addr::from);
            Some((address(12).ok()?.into(), address(16).ok()?.into()))
        }
        ([0x86, 0xdd], 6) => {
            let header = packet.get(..40)?;
            let length = usize::from(u16::from_be_bytes([header[4], header[5]])) + 40;
            if length > packet.len() && (length > 40 || header[6] != 0) {
                return None;
            }
            let address = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).map(Ipv6Addr::from);
            Some((address(8).ok()?.into(), address(24).ok()?.into()))
        }
        _ => None,
    }
}

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
    let seen = |frames: Frames| normal(frames, kind, &lab.table);
    let (with, without) = (seen(with), seen(without));
    let same = match kind {
        Kind::Spoofed => with.is_empty(),
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
fn normal(frames: Frames, kind: Kind, table: &Table) -> Frames {
    let mut frames: Frames = frames
        .into_iter()
        .filter(|(_, _, frame)| !by_the_clock(frame))
        .map(|(interface, offload, mut frame)| {
            if kind == Kind::Padded {
                cut_padding(&mut frame);
            }
            without_chance(&mut frame);
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

/// The identification of the node's own packets is random, and its checksum follows it.
fn without_chance(frame: &mut [u8]) {
    if !by_node(frame) {
        return;
    }
    match frame[12..14] {
        [0x08, 0x00] => {
            frame[18..20].fill(0);
            frame[24..26].fill(0);
            let end = 14 + usize::from(frame[14] & 15) * 4;
            let sum = checksum(&frame[14..end]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        // A fragment header's.
        [0x86, 0xdd] if frame[20] == 44 && frame.len() >= 62 => frame[58..62].fill(0),
        _ => {}
    }
}

fn cut_padding(frame: &mut Vec<u8>) {
    let Some(packet) = frame.get(14..) else { return };
    let length = match (&frame[12..14], packet) {
        ([0x08, 0x00], [_, _, high, low, ..]) => usize::from(u16::from_be_bytes([*high, *low])),
        ([0x86, 0xdd], [_, _, _, _, high, low, ..]) => 40 + usize::from(u16::from_be_bytes([*high, *low])),
        _ => return,
    };
    frame.truncate(14 + length);
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
