//! What the programs have to know of an interface before they are attached to it or redirect to it.

use std::{collections::BTreeMap, io};

use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage},
};

use super::foreign::{self, Filters, Hook};
use crate::{netlink::Requests, route::Mac};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub ifindex: u32,
    pub name: String,
    pub mac: Option<Mac>,
    pub is_ethernet: bool,
    /// A veth whose other end is in another namespace: `bpf_redirect_peer` drops what it cannot hand over, so it
    /// is used for nothing else.
    pub leads_elsewhere: bool,
    /// What packets to its other end have to pass there: "a qdisc (tbf)", or others' programs. A veth comes without.
    pub passes: Option<String>,
}

/// In the network namespace of this thread. `None` if there is no such interface.
pub(super) fn find(ifindex: u32) -> io::Result<Option<Interface>> {
    let mut request = LinkMessage::default();
    request.header.index = ifindex;
    // By its index: a node has as many links as pods, and this is asked for each of them.
    let found = Requests::open()?.get(RouteNetlinkMessage::GetLink(request))?;
    let Some(RouteNetlinkMessage::NewLink(link)) = found else { return Ok(None) };
    let mut interface = read(&link);
    if interface.leads_elsewhere && interface.passes.is_none() {
        interface.passes = foreign_on_egress(ifindex, &foreign::filters()?)?;
    }
    Ok(Some(interface))
}

fn foreign_on_egress(ifindex: u32, filters: &BTreeMap<u32, Filters>) -> io::Result<Option<String>> {
    let programs = foreign::programs(ifindex, Hook::Egress)?;
    let filters = filters.get(&ifindex).map_or(&[][..], |found| &found.egress);
    let found = foreign::around(None, &programs, filters);
    let all: Vec<String> = found.before.into_iter().chain(found.behind).collect();
    Ok((!all.is_empty()).then(|| format!("on egress {}", all.join(", "))))
}

/// Of all interfaces in the network namespace of this thread, which have these filters: how each is now.
pub(super) fn all(filters: &BTreeMap<u32, Filters>) -> io::Result<Vec<Interface>> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let mut found = Requests::open()?.dump(request, |message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(read(&link)),
        _ => None,
    })?;
    for interface in found.iter_mut().filter(|found| found.leads_elsewhere && found.passes.is_none()) {
        interface.passes = foreign_on_egress(interface.ifindex, filters)?;
    }
    Ok(found)
}

fn read(link: &LinkMessage) -> Interface {
    let mut interface = Interface {
        ifindex: link.header.index,
        name: String::new(),
        mac: None,
        is_ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        leads_elsewhere: false,
        passes: None,
    };
    let (mut is_veth, mut is_elsewhere) = (false, false);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Address(address) => interface.mac = address.as_slice().try_into().ok().map(Mac),
            // "noop" is what an interface has that is down.
            LinkAttribute::Qdisc(kind) if kind != "noqueue" && kind != "noop" => {
                interface.passes = Some(format!("a qdisc ({kind})"));
            }
            // Only set where the peer is in another namespace.
            LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
            LinkAttribute::LinkInfo(parts) => {
                is_veth = parts.iter().any(|part| matches!(part, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    interface.leads_elsewhere = is_veth && is_elsewhere;
    interface
}
