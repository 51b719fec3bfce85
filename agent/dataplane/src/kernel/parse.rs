//! From netlink's messages to this crate's types. What has no meaning here gives `None`.

use std::net::IpAddr;

use manx_net::Prefix;
use rtnetlink::packet_route::{
    AddressFamily,
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType,
        RouteVia,
    },
};

use super::{KernelRoute, Leg, Link, Naming, Neighbour, RouteKey, RouteKind};
use crate::route::Mac;

pub(super) fn link(message: LinkMessage, naming: &Naming) -> Option<Link> {
    // A bridge announces its ports in the same messages, of this family and without most attributes.
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let admin_up = message.header.flags.contains(LinkFlags::Up);
    let mut link = Link {
        ifindex: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: admin_up && message.header.flags.contains(LinkFlags::LowerUp),
        admin_up,
        kind: None,
        master: None,
        role: super::Role::Other,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(address) => link.mac = mac(&address),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link.role = naming.role(&link.name, link.master);
    Some(link)
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    <[u8; 6]>::try_from(bytes).ok().map(Mac)
}

/// A route of a dump that asked for `family`: a kernel without IPv6 answers a question for it with IPv4 routes.
pub(crate) fn dumped_route(message: RouteMessage, family: AddressFamily) -> Option<KernelRoute> {
    (message.header.address_family == family).then(|| route(message)).flatten()
}

pub(crate) fn route(message: RouteMessage) -> Option<KernelRoute> {
    let header = message.header;
    // Cloned entries are the cache of path MTUs and redirects, not routes.
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => RouteKind::NotUnicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        other => RouteKind::Other(other.into()),
    };
    let mut destination = any;
    let mut table = u32::from(header.table);
    let mut metric = 0;
    let mut single = Leg { gateway: None, ifindex: 0, onlink: header.flags.contains(RouteFlags::Onlink) };
    let mut legs = Vec::new();
    let mut special = false;
    for attribute in message.attributes {
        special |= is_special(&attribute);
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(&address)?,
            RouteAttribute::Table(id) => table = id,
            RouteAttribute::Priority(value) => metric = value,
            RouteAttribute::Oif(ifindex) => single.ifindex = ifindex,
            RouteAttribute::Gateway(address) => single.gateway = ip(&address),
            RouteAttribute::Via(via) => single.gateway = via_ip(&via),
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    special |= hop.attributes.iter().any(is_special);
                    let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
                        RouteAttribute::Gateway(address) => ip(address),
                        RouteAttribute::Via(via) => via_ip(via),
                        _ => None,
                    });
                    let onlink = hop.flags.contains(RouteNextHopFlags::Onlink);
                    legs.push(Leg { gateway, ifindex: hop.interface_index, onlink });
                }
            }
            _ => {}
        }
    }
    // IPv6 names the loopback interface on its reject routes; it says nothing.
    let rejects = matches!(
        kind,
        RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw
    );
    if rejects {
        legs.clear();
    } else if legs.is_empty() && (single.ifindex != 0 || single.gateway.is_some()) {
        legs.push(single);
    }
    legs.sort_unstable();
    let prefix = Prefix::new(destination, header.destination_prefix_length)?;
    Some(KernelRoute {
        key: RouteKey { prefix, table, tos: header.tos, metric },
        protocol: header.protocol.into(),
        kind,
        legs,
        special,
    })
}

/// The other metrics (`hoplimit`, `advmss`, `congctl`, ...) are for what the host itself sends.
fn is_special(attribute: &RouteAttribute) -> bool {
    match attribute {
        RouteAttribute::Metrics(metrics) => {
            metrics.iter().any(|metric| matches!(metric, RouteMetric::Mtu(mtu) if *mtu != 0))
        }
        RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => true,
        _ => false,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(a) => Some(IpAddr::V4(*a)),
        RouteVia::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

pub(super) fn neighbour(message: NeighbourMessage) -> Option<((u32, IpAddr), Neighbour)> {
    let mut address = None;
    let mut hardware = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
            NeighbourAttribute::LinkLayerAddress(bytes) => hardware = mac(bytes),
            _ => {}
        }
    }
    let valid = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    let failed = message.header.state == NeighbourState::Failed;
    Some(((message.header.ifindex, address?), Neighbour { mac: hardware, valid, failed }))
}
