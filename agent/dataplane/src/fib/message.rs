//! Routes of ours as netlink messages, encoded in place: a hundred thousand of them are written in a row, and building
//! each as a tree of attributes costs as much as a fifth of what the kernel takes to carry it out.

use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};

use super::spec::Spec;
use crate::{kernel::RouteKey, route::NextHop};

/// rtnetlink(7), linux/rtnetlink.h.
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTN_UNICAST: u8 = 1;
const RTN_BLACKHOLE: u8 = 6;
const RTN_UNREACHABLE: u8 = 7;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_NOWHERE: u8 = 255;
const RTNH_F_ONLINK: u8 = 4;

/// How to write over what may be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nothing of ours is there. NLM_F_EXCL: fails if anybody's is.
    Create,
    /// A route of ours is there. NLM_F_REPLACE looks at prefix, table, DSCP and metric, not at the protocol, so
    /// nothing else may be in that place.
    Replace,
}

impl Mode {
    fn flags(self) -> u16 {
        match self {
            Mode::Create => NLM_F_CREATE | NLM_F_EXCL,
            Mode::Replace => NLM_F_CREATE | NLM_F_REPLACE,
        }
    }
}

/// What a message carries besides the route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub sequence: u32,
    /// The kernel answers even if all goes well.
    pub answer: bool,
}

impl Head {
    fn flags(self) -> u16 {
        NLM_F_REQUEST | if self.answer { NLM_F_ACK } else { 0 }
    }
}

/// RTM_NEWROUTE. `onlink`: the gateways are neighbours even though the kernel's own check says otherwise. An IPv4
/// link-local one is never behind a router (RFC 3927 §2.7), and mostly the kernel knows no network of it.
pub(super) fn write(
    out: &mut Vec<u8>,
    head: Head,
    (key, protocol): (&RouteKey, u8),
    spec: &Spec,
    mode: Mode,
    onlink: bool,
) {
    let (kind, scope) = match spec {
        Spec::Via(_) => (RTN_UNICAST, RT_SCOPE_UNIVERSE),
        Spec::Blackhole => (RTN_BLACKHOLE, RT_SCOPE_UNIVERSE),
        Spec::Unreachable => (RTN_UNREACHABLE, RT_SCOPE_UNIVERSE),
    };
    let flags = |hop: &NextHop| if onlink || is_link_local(hop.gateway) { RTNH_F_ONLINK } else { 0 };
    let start = out.len();
    let on_route = match spec {
        Spec::Via(hops) if let [only] = hops.as_slice() => u32::from(flags(only)),
        _ => 0,
    };
    begin(out, RTM_NEWROUTE, head.flags() | mode.flags(), head.sequence);
    skeleton(out, (key, protocol), scope, kind, on_route);
    if let Spec::Via(next_hops) = spec {
        match next_hops.as_slice() {
            [only] => {
                gateway(out, key, only.gateway);
                attribute(out, RTA_OIF, &[&only.ifindex.to_ne_bytes()]);
            }
            several => {
                let nest = out.len();
                attribute(out, RTA_MULTIPATH, &[]);
                several.iter().for_each(|hop| leg(out, key, hop, flags(hop)));
                close16(out, nest);
            }
        }
    }
    close32(out, start);
}

/// RTM_DELROUTE of whatever of our protocol is in this place. The kernel compares the protocol when deleting.
pub(super) fn delete(out: &mut Vec<u8>, head: Head, key: &RouteKey, protocol: u8) {
    let start = out.len();
    begin(out, RTM_DELROUTE, head.flags(), head.sequence);
    // IPv4 takes any scope; IPv6 does not look.
    skeleton(out, (key, protocol), RT_SCOPE_NOWHERE, 0, 0);
    close32(out, start);
}

/// struct nlmsghdr; its length comes last. The port is the kernel's to fill in.
fn begin(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32) {
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    out.extend_from_slice(&[0; 4]);
}

/// struct rtmsg, and the attributes that every message of ours has.
fn skeleton(out: &mut Vec<u8>, (key, protocol): (&RouteKey, u8), scope: u8, kind: u8, flags: u32) {
    let family = if key.prefix.is_v4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
    // Tables beyond a byte have their number in the attribute only.
    let table = u8::try_from(key.table).unwrap_or(0);
    out.extend_from_slice(&[family, key.prefix.len(), 0, key.tos, table, protocol, scope, kind]);
    out.extend_from_slice(&flags.to_ne_bytes());
    attribute(out, RTA_TABLE, &[&key.table.to_ne_bytes()]);
    if key.prefix.len() > 0 {
        address(out, RTA_DST, &[], key.prefix.addr());
    }
    if key.metric != 0 {
        attribute(out, RTA_PRIORITY, &[&key.metric.to_ne_bytes()]);
    }
}

/// struct rtnexthop with its gateway.
fn leg(out: &mut Vec<u8>, key: &RouteKey, hop: &NextHop, flags: u8) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, flags, 0]);
    out.extend_from_slice(&hop.ifindex.to_ne_bytes());
    gateway(out, key, hop.gateway);
    close16(out, start);
}

fn is_link_local(gateway: IpAddr) -> bool {
    matches!(gateway, IpAddr::V4(gateway) if gateway.is_link_local())
}

/// A gateway of the other family goes into RTA_VIA (RFC 8950).
fn gateway(out: &mut Vec<u8>, key: &RouteKey, gateway: IpAddr) {
    if gateway.is_ipv6() && key.prefix.is_v4() {
        address(out, RTA_VIA, &(libc::AF_INET6 as u16).to_ne_bytes(), gateway);
    } else {
        address(out, RTA_GATEWAY, &[], gateway);
    }
}

fn address(out: &mut Vec<u8>, kind: u16, before: &[u8], address: IpAddr) {
    match address {
        IpAddr::V4(address) => attribute(out, kind, &[before, &address.octets()]),
        IpAddr::V6(address) => attribute(out, kind, &[before, &address.octets()]),
    }
}

/// Padded to four octets, which its length does not count.
fn attribute(out: &mut Vec<u8>, kind: u16, value: &[&[u8]]) {
    let start = out.len();
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&kind.to_ne_bytes());
    value.iter().for_each(|part| out.extend_from_slice(part));
    close16(out, start);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Writes the length of what began at `start`. The sink has at most as many next hops as BGP may tell of in one
/// attribute: they stay far below 64 KiB.
fn close16(out: &mut [u8], start: usize) {
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    if let Some(place) = out.get_mut(start..start + 2) {
        place.copy_from_slice(&length.to_ne_bytes());
    }
}

fn close32(out: &mut [u8], start: usize) {
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::{
        packet_core::{NetlinkHeader, NetlinkPayload},
        packet_route::{
            RouteNetlinkMessage,
            route::{
                RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteScope,
                RouteType, RouteVia,
            },
        },
    };

    use super::*;
    use crate::netlink::messages;

    const HEAD: Head = Head { sequence: 7, answer: false };

    fn key(prefix: &str) -> RouteKey {
        RouteKey { prefix: prefix.parse().unwrap(), table: 254, tos: 0, metric: 0 }
    }

    fn hop(gateway: &str, ifindex: u32) -> NextHop {
        NextHop { gateway: gateway.parse().unwrap(), ifindex }
    }

    /// Read by the library that reads what the kernel says.
    fn read(packet: &[u8]) -> Vec<(NetlinkHeader, RouteMessage)> {
        let read = messages(packet).map(|message| {
            let message = message.unwrap();
            match message.payload {
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
                ) => (message.header, route),
                other => panic!("{other:?}"),
            }
        });
        read.collect()
    }

    fn written(key: &RouteKey, spec: &Spec, mode: Mode, onlink: bool) -> (NetlinkHeader, RouteMessage) {
        let mut packet = Vec::new();
        write(&mut packet, HEAD, (key, 77), spec, mode, onlink);
        assert_eq!(packet.len() % 4, 0);
        read(&packet).remove(0)
    }

    #[test]
    fn a_route_by_one_gateway_says_where_it_stands_and_where_it_leads() {
        let place = RouteKey { table: 1000, metric: 5, ..key("10.0.0.0/26") };
        let (header, route) = written(&place, &Spec::Via(vec![hop("192.0.2.1", 7)]), Mode::Create, true);
        assert_eq!((header.message_type, header.sequence_number), (RTM_NEWROUTE, 7));
        assert_eq!(u8::from(route.header.protocol), 77);
        assert_eq!((route.header.kind, route.header.scope), (RouteType::Unicast, RouteScope::Universe));
        assert_eq!((route.header.destination_prefix_length, route.header.table), (26, 0));
        assert!(route.header.flags.contains(RouteFlags::Onlink));
        let expected = [
            RouteAttribute::Table(1000),
            RouteAttribute::Destination(RouteAddress::Inet("10.0.0.0".parse().unwrap())),
            RouteAttribute::Priority(5),
            RouteAttribute::Gateway(RouteAddress::Inet("192.0.2.1".parse().unwrap())),
            RouteAttribute::Oif(7),
        ];
        assert_eq!(route.attributes, expected);
    }

    #[test]
    fn each_leg_of_several_has_its_gateway_and_its_interface() {
        let hops = vec![hop("fd00::1", 3), hop("fd00::2", 4)];
        let (_, route) = written(&key("fd10::/64"), &Spec::Via(hops), Mode::Replace, true);
        let [_, _, RouteAttribute::MultiPath(legs)] = route.attributes.as_slice() else {
            panic!("{:?}", route.attributes)
        };
        assert!(!route.header.flags.contains(RouteFlags::Onlink));
        let said: Vec<_> =
            legs.iter().map(|leg| (leg.interface_index, leg.flags, leg.attributes.clone())).collect();
        let gateway =
            |address: &str| vec![RouteAttribute::Gateway(RouteAddress::Inet6(address.parse().unwrap()))];
        let onlink = RouteNextHopFlags::Onlink;
        assert_eq!(said, [(3, onlink, gateway("fd00::1")), (4, onlink, gateway("fd00::2"))]);
    }

    #[test]
    fn an_ipv4_route_by_an_ipv6_gateway_uses_rta_via() {
        let (_, route) =
            written(&key("10.0.0.0/26"), &Spec::Via(vec![hop("fe80::1", 7)]), Mode::Create, false);
        assert!(route.attributes.contains(&RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()))));
        assert!(!route.attributes.iter().any(|a| matches!(a, RouteAttribute::Gateway(_))));
    }

    #[test]
    fn a_link_local_ipv4_gateway_is_onlink_from_the_first_and_no_other_leg_is() {
        let link_local = hop("169.254.1.1", 3);
        let key = key("10.0.0.0/26");
        let (_, route) = written(&key, &Spec::Via(vec![link_local]), Mode::Create, false);
        assert!(route.header.flags.contains(RouteFlags::Onlink));
        let (_, route) =
            written(&key, &Spec::Via(vec![link_local, hop("192.0.2.1", 4)]), Mode::Create, false);
        let [.., RouteAttribute::MultiPath(legs)] = route.attributes.as_slice() else {
            panic!("{:?}", route.attributes)
        };
        let flags: Vec<_> = legs.iter().map(|leg| leg.flags).collect();
        assert_eq!(flags, [RouteNextHopFlags::Onlink, RouteNextHopFlags::empty()]);
    }

    #[test]
    fn only_what_is_known_to_be_ours_is_replaced() {
        let (create, _) = written(&key("10.0.0.0/26"), &Spec::Blackhole, Mode::Create, false);
        let (replace, _) = written(&key("10.0.0.0/26"), &Spec::Blackhole, Mode::Replace, false);
        assert_eq!(create.flags & (NLM_F_EXCL | NLM_F_REPLACE), NLM_F_EXCL);
        assert_eq!(replace.flags & (NLM_F_EXCL | NLM_F_REPLACE), NLM_F_REPLACE);
    }

    #[test]
    fn a_deletion_carries_the_protocol_and_a_packet_has_many_messages() {
        let mut packet = Vec::new();
        delete(&mut packet, HEAD, &key("0.0.0.0/0"), 77);
        delete(&mut packet, Head { sequence: 8, answer: true }, &key("fd10::/64"), 77);
        let [(first, default), (last, other)] = read(&packet).try_into().unwrap();
        assert_eq!((first.message_type, first.flags & NLM_F_ACK), (RTM_DELROUTE, 0));
        assert_eq!((last.sequence_number, last.flags & NLM_F_ACK), (8, NLM_F_ACK));
        assert_eq!(u8::from(default.header.protocol), 77);
        assert_eq!(default.attributes, [RouteAttribute::Table(254)]);
        assert_eq!(other.header.destination_prefix_length, 64);
    }
}
