//! What may differ for a packet, by what it is: read from the packet and the table alone, before anything is sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    model::{INTERFACES, Interface, is_routable},
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
    /// From a pod, with a source that is not its own: nothing comes out, whatever the kernel does, which checks
    /// sources only in IPv4. So it is with ARP for another's address or by another's MAC.
    Spoofed,
    /// From a pod: a neighbour discovery message that no pod may send, to whomever. Nothing comes out; the kernel
    /// would forward it, with a hop limit by which no receiver believes it (RFC 4861 §6.1).
    Discovery,
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
    let interface = &INTERFACES[sent.interface];
    let (frame, tagged) = without_priority(&sent.frame);
    let seen = addresses(&frame);
    if seen.is_some_and(|(_, to)| table.is_nobody_on_a_wire(to)) {
        return Kind::Skipped;
    }
    if interface.is_pod()
        && let Some(kind) = unfit_for_a_pod(&frame, sent.interface, table)
    {
        return kind;
    }
    let Some((_, to)) = seen else { return usual(&frame, None, table) };
    if let Some((_, Way::Via(hops))) = table.entry(to)
        && hops.len() > 1
        && frame.len() > 14 + 1280
    {
        return Kind::Skipped;
    }
    let judged = !tagged && frame[..6] == interface.mac && is_routable(to);
    if judged && matches!(table.entry(to), Some((_, Way::Blackhole(_)))) {
        return Kind::Blackholed;
    }
    usual(&frame, Some(to), table)
}

fn usual(frame: &[u8], to: Option<IpAddr>, table: &Table) -> Kind {
    let unreachable = |to: IpAddr| to.is_ipv4() && matches!(table.entry(to), Some((_, Way::Unreachable)));
    let mut unpadded = frame.to_vec();
    cut_padding(&mut unpadded);
    if to.is_some_and(unreachable) {
        Kind::Unreachable
    } else if unpadded.len() == frame.len() {
        Kind::Plain
    } else {
        Kind::Padded
    }
}

/// What a pod may not send, to whomever, be it for the node or for all.
fn unfit_for_a_pod(frame: &[u8], number: usize, table: &Table) -> Option<Kind> {
    let Interface { mac, .. } = INTERFACES[number];
    if frame[..6] != mac && frame[0] & 1 == 0 {
        return None;
    }
    let is_its = |address: IpAddr| table.lead(address) == Lead::Out(vec![number]);
    match frame[12..14] {
        [0x08, 0x06] => {
            let arp = frame.get(14..14 + 28)?;
            let is_arp = matches!(arp[..6], [0, 1 | 6, 8, 0, 6, 4]);
            let (claimed, from) = (&arp[8..14], [arp[14], arp[15], arp[16], arp[17]]);
            let honest = *claimed == frame[6..12] && (from == [0; 4] || is_its(from.into()));
            (is_arp && !honest).then_some(Kind::Spoofed)
        }
        // A second tag of priority only, which the kernel takes off as well.
        [0x81, 0x00] | [0x88, 0xa8] => (vlan(frame) == Some(0)).then_some(Kind::Spoofed),
        _ => {
            let (from, _) = addresses(frame)?;
            if is_forged_discovery(frame, is_its) {
                return Some(Kind::Discovery);
            }
            let of_link = match from {
                IpAddr::V4(from) => from.is_unspecified(),
                IpAddr::V6(from) => from.is_unspecified() || from.is_unicast_link_local(),
            };
            (!of_link && !is_its(from)).then_some(Kind::Spoofed)
        }
    }
}

/// Router advertisements and redirects, advertisements for another's address, and whatever of neighbour discovery
/// stands behind extension headers, or behind more of them than anybody reads.
fn is_forged_discovery(frame: &[u8], is_its: impl Fn(IpAddr) -> bool) -> bool {
    if frame[12..14] != [0x86, 0xdd] || frame[21] != 255 {
        return false;
    }
    let (mut next, mut at, mut headers) = (frame[20], 54, 0);
    while next != 58 {
        if !matches!(next, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 | 253 | 254) {
            return false;
        }
        let Some(header) = frame.get(at..at + 4) else { return false };
        if next == 44 && (header[2] != 0 || header[3] & 0xf8 != 0) {
            return false;
        }
        at += match next {
            44 => 8,
            51 => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        (next, headers) = (header[0], headers + 1);
        if headers == 8 {
            return true;
        }
    }
    let target = frame.get(at + 8..at + 24).and_then(|target| <[u8; 16]>::try_from(target).ok());
    let target = Ipv6Addr::from(target.unwrap_or_default());
    match frame.get(at) {
        Some(133..=137) if headers > 0 => true,
        Some(134 | 137) => true,
        Some(136) => !target.is_unicast_link_local() && !is_its(target.into()),
        _ => false,
    }
}

/// The kernel takes a tag of VLAN 0 for none: it is only a priority.
fn without_priority(frame: &[u8]) -> (Vec<u8>, bool) {
    let mut frame = frame.to_vec();
    let tagged = vlan(&frame) == Some(0);
    if tagged {
        frame.drain(12..16);
    }
    (frame, tagged)
}

fn vlan(frame: &[u8]) -> Option<u16> {
    let tag = matches!(frame[12..14], [0x81, 0x00] | [0x88, 0xa8]).then(|| frame.get(14..18)).flatten()?;
    Some(u16::from_be_bytes([tag[0], tag[1]]) & 0xfff)
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

/// What stands behind the packet.
pub fn cut_padding(frame: &mut Vec<u8>) {
    let Some(packet) = frame.get(14..) else { return };
    let length = match (&frame[12..14], packet) {
        ([0x08, 0x00], [_, _, high, low, ..]) => usize::from(u16::from_be_bytes([*high, *low])),
        ([0x86, 0xdd], [_, _, _, _, high, low, ..]) => 40 + usize::from(u16::from_be_bytes([*high, *low])),
        _ => return,
    };
    frame.truncate(14 + length);
}
