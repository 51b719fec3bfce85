//! The fields of Node.

use crate::{
    fields::{Fields, Form},
    read::{annotations::Annotations, extensions, value},
    spec::{Node, NodeBgp},
};

pub(super) fn read(document: &mut Fields<'_, '_>, annotations: &mut Annotations<'_, '_>) -> Option<Node> {
    let graceful_shutdown = extensions::graceful_shutdown(annotations);
    let Some(mut spec) = document.object("spec") else {
        return (!document.is_set("spec")).then_some(Node { bgp: None, graceful_shutdown });
    };
    let bgp = spec.object("bgp").map(|bgp| read_bgp(bgp));
    for mut address in spec.objects("addresses") {
        // With or without the length of its network.
        let host = |text: &str| value::ip(text.split_once('/').map_or(text, |(host, _)| host)).map(drop);
        address.parse("address", host);
        address.accept(&[("type", Form::Text)]);
        address.finish();
    }
    spec.accept(&[
        // A back-reference to the orchestrator's name of the node.
        ("orchRefs", Form::List),
        ("interfaces", Form::List),
        ("ipv4VXLANTunnelAddr", Form::Text),
        ("ipv6VXLANTunnelAddr", Form::Text),
        ("vxlanTunnelMACAddr", Form::Text),
        ("vxlanTunnelMACAddrV6", Form::Text),
        ("wireguard", Form::Mapping),
    ]);
    spec.finish();
    Some(Node { bgp, graceful_shutdown })
}

fn read_bgp(mut bgp: Fields<'_, '_>) -> NodeBgp {
    let read = NodeBgp {
        as_number: bgp.parse("asNumber", str::parse),
        ipv4: bgp.parse("ipv4Address", value::interface4),
        ipv6: bgp.parse("ipv6Address", value::interface6),
        route_reflector_cluster_id: bgp.parse("routeReflectorClusterID", value::ipv4),
    };
    bgp.accept(&[("ipv4IPIPTunnelAddr", Form::Text)]);
    if bgp.is_empty() {
        bgp.refuse_all("Spec.BGP should not be empty; leave bgp out, or set ipv4Address or ipv6Address");
    }
    // RFC 4456 §7: the cluster id is four octets; none is reserved, but zero means "none" to other speakers.
    if read.route_reflector_cluster_id.is_some_and(|id| id.is_unspecified()) {
        bgp.refuse("routeReflectorClusterID", "0.0.0.0 is no cluster id; write for example 224.0.0.1");
    }
    bgp.finish();
    read
}
