//! What the programs have to know of an interface before they are attached to it or redirect to it.

use std::io;

use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage},
};

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
    /// The kind of qdisc that packets to its other end have to pass, such as "tbf"; a veth comes without.
    pub qdisc: Option<String>,
}

/// In the network namespace of this thread. `None` if there is no such interface.
pub(super) fn find(ifindex: u32) -> io::Result<Option<Interface>> {
    let mut request = LinkMessage::default();
    request.header.index = ifindex;
    // By its index: a node has as many links as pods, and this is asked for each of them.
    let found = Requests::open()?.get(RouteNetlinkMessage::GetLink(request))?;
    Ok(match found {
        Some(RouteNetlinkMessage::NewLink(link)) => Some(read(&link)),
        _ => None,
    })
}

/// Of all interfaces in the network namespace of this thread: how each is now.
pub(super) fn all() -> io::Result<Vec<Interface>> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    Requests::open()?.dump(request, |message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(read(&link)),
        _ => None,
    })
}

fn read(link: &LinkMessage) -> Interface {
    let mut interface = Interface {
        ifindex: link.header.index,
        name: String::new(),
        mac: None,
        is_ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        leads_elsewhere: false,
        qdisc: None,
    };
    let (mut is_veth, mut is_elsewhere) = (false, false);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Address(address) => interface.mac = address.as_slice().try_into().ok().map(Mac),
            // "noop" is what an interface has that is down.
            LinkAttribute::Qdisc(kind) if kind != "noqueue" && kind != "noop" => {
                interface.qdisc = Some(kind.clone());
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
