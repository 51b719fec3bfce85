//! A route of ours as the kernel stores it, and its netlink messages.

use std::net::IpAddr;

use manx_net::Prefix;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop,
            RouteNextHopFlags, RouteScope, RouteType, RouteVia,
        },
    },
};

use crate::{
    kernel::{KernelRoute, RouteKey, RouteKind},
    route::{Action, NextHop},
};

/// What of a route the sink decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Spec {
    /// Sorted and distinct.
    Via(Vec<NextHop>),
    Blackhole,
    Unreachable,
}

impl Spec {
    /// `None` for what the kernel has or does by itself.
    pub fn wanted(action: &Action) -> Option<Spec> {
        match action {
            Action::Via(next_hops) => Some(Spec::Via(next_hops.clone())),
            Action::Blackhole(_) => Some(Spec::Blackhole),
            Action::Unreachable => Some(Spec::Unreachable),
            Action::Local { .. } | Action::Pass => None,
        }
    }

    /// `None` for a route that we would never write, whatever protocol it carries. The onlink flag is left out: it
    /// says how the gateway was checked, not where packets go.
    pub fn found(route: &KernelRoute) -> Option<Spec> {
        match route.kind {
            RouteKind::Blackhole => Some(Spec::Blackhole),
            RouteKind::Unreachable => Some(Spec::Unreachable),
            RouteKind::Unicast => route
                .legs
                .iter()
                .map(|leg| leg.gateway.map(|gateway| NextHop { gateway, ifindex: leg.ifindex }))
                .collect::<Option<Vec<_>>>()
                .filter(|legs| !legs.is_empty())
                .map(Spec::Via),
            _ => None,
        }
    }

    pub fn gateway(&self) -> Option<IpAddr> {
        match self {
            Spec::Via(next_hops) => next_hops.first().map(|hop| hop.gateway),
            _ => None,
        }
    }
}

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

fn skeleton(key: &RouteKey, protocol: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family =
        if key.prefix.is_v4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = key.prefix.len();
    message.header.tos = key.tos;
    message.header.protocol = protocol.into();
    // Tables beyond a byte have their number in the attribute only.
    message.header.table = u8::try_from(key.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes.push(RouteAttribute::Table(key.table));
    if key.prefix.len() > 0 {
        message.attributes.push(RouteAttribute::Destination(key.prefix.addr().into()));
    }
    if key.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(key.metric));
    }
    message
}

/// RTM_NEWROUTE. `onlink`: the gateways are neighbours even though the kernel's own check says otherwise.
pub(super) fn write(
    key: &RouteKey,
    protocol: u8,
    spec: &Spec,
    mode: Mode,
    onlink: bool,
) -> (RouteNetlinkMessage, u16) {
    let mut message = skeleton(key, protocol);
    message.header.scope = RouteScope::Universe;
    match spec {
        Spec::Blackhole => message.header.kind = RouteType::BlackHole,
        Spec::Unreachable => message.header.kind = RouteType::Unreachable,
        Spec::Via(next_hops) => {
            message.header.kind = RouteType::Unicast;
            match next_hops.as_slice() {
                [only] => {
                    message.attributes.push(gateway(key.prefix, only.gateway));
                    message.attributes.push(RouteAttribute::Oif(only.ifindex));
                    if onlink {
                        message.header.flags |= RouteFlags::Onlink;
                    }
                }
                several => {
                    let legs = several.iter().map(|hop| leg(key.prefix, hop, onlink)).collect();
                    message.attributes.push(RouteAttribute::MultiPath(legs));
                }
            }
        }
    }
    (RouteNetlinkMessage::NewRoute(message), mode.flags())
}

fn leg(prefix: Prefix, hop: &NextHop, onlink: bool) -> RouteNextHop {
    let mut leg = RouteNextHop::default();
    leg.interface_index = hop.ifindex;
    leg.attributes.push(gateway(prefix, hop.gateway));
    if onlink {
        leg.flags |= RouteNextHopFlags::Onlink;
    }
    leg
}

/// A gateway of the other family goes into RTA_VIA (RFC 8950).
fn gateway(prefix: Prefix, gateway: IpAddr) -> RouteAttribute {
    match gateway {
        IpAddr::V6(gateway) if prefix.is_v4() => RouteAttribute::Via(RouteVia::Inet6(gateway)),
        same => RouteAttribute::Gateway(RouteAddress::from(same)),
    }
}

/// RTM_DELROUTE of whatever of our protocol is in this place. The kernel compares the protocol when deleting.
pub(super) fn delete(key: &RouteKey, protocol: u8) -> (RouteNetlinkMessage, u16) {
    let mut message = skeleton(key, protocol);
    // IPv4 takes any scope; IPv6 does not look.
    message.header.scope = RouteScope::NoWhere;
    (RouteNetlinkMessage::DelRoute(message), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Leg;

    fn key(prefix: &str) -> RouteKey {
        RouteKey { prefix: prefix.parse().unwrap(), table: 254, tos: 0, metric: 0 }
    }

    #[test]
    fn an_ipv4_route_by_an_ipv6_gateway_uses_rta_via() {
        let hop = NextHop { gateway: "fe80::1".parse().unwrap(), ifindex: 7 };
        let (message, _) = write(&key("10.0.0.0/26"), 77, &Spec::Via(vec![hop]), Mode::Create, false);
        let RouteNetlinkMessage::NewRoute(message) = message else { panic!("not a new route") };
        assert!(
            message.attributes.contains(&RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap())))
        );
        assert!(!message.attributes.iter().any(|a| matches!(a, RouteAttribute::Gateway(_))));
    }

    #[test]
    fn only_what_is_known_to_be_ours_is_replaced() {
        let (_, create) = write(&key("10.0.0.0/26"), 77, &Spec::Blackhole, Mode::Create, false);
        let (_, replace) = write(&key("10.0.0.0/26"), 77, &Spec::Blackhole, Mode::Replace, false);
        assert_eq!(create & (NLM_F_EXCL | NLM_F_REPLACE), NLM_F_EXCL);
        assert_eq!(replace & (NLM_F_EXCL | NLM_F_REPLACE), NLM_F_REPLACE);
    }

    #[test]
    fn a_deletion_carries_the_protocol() {
        let (message, _) = delete(&key("10.0.0.0/26"), 77);
        let RouteNetlinkMessage::DelRoute(message) = message else { panic!("not a deletion") };
        assert_eq!(u8::from(message.header.protocol), 77);
    }

    #[test]
    fn a_route_without_gateway_is_nothing_that_we_wrote() {
        let connected = KernelRoute {
            key: key("10.0.0.0/26"),
            protocol: 77,
            kind: RouteKind::Unicast,
            legs: vec![Leg { gateway: None, ifindex: 3, onlink: false }],
            special: false,
        };
        assert_eq!(Spec::found(&connected), None);
    }
}
