//! The fields of BGPPeer, and which of them exclude one another.

use crate::{
    fields::Fields,
    read::{annotations::Annotations, extensions, value},
    spec::{BgpPeer, NextHopMode},
};

/// What says who the peer is.
const REMOTES: [&str; 3] = ["peerIP", "peerSelector", "localWorkloadSelector"];

pub(super) fn read(document: &mut Fields<'_, '_>, annotations: &mut Annotations<'_, '_>) -> Option<BgpPeer> {
    let mut extensions = extensions::of_peer(annotations);
    let Some(mut spec) = document.object("spec") else {
        if !document.is_set("spec") {
            document.refuse(
                "spec",
                "is missing; a BGPPeer needs spec.peerIP and spec.asNumber, or spec.peerSelector",
            );
        }
        return None;
    };
    let named = REMOTES.iter().find(|field| spec.is_set(field));
    if let (Some(field), true) = (named, extensions.range.is_some()) {
        annotations.warn(extensions::PEER_RANGE, format!("has no effect beside spec.{field}"));
        extensions.range = None;
    }
    let mode = [("Auto", NextHopMode::Auto), ("Self", NextHopMode::SelfAddress), ("Keep", NextHopMode::Keep)];
    let source = spec.choice("sourceAddress", &[("UseNodeIP", false), ("None", true)]);
    let reverse = spec.choice("reversePeering", &[("Auto", false), ("Manual", true)]);
    let allow_local_as = spec.integer("numAllowedLocalASNumbers", 0..=i64::from(i32::MAX));
    let ttl_security = spec.integer("ttlSecurity", 0..=255).and_then(|hops| u8::try_from(hops).ok());
    let read = BgpPeer {
        node: spec.parse("node", value::name),
        node_selector: spec.parse("nodeSelector", value::selector),
        peer_ip: spec.parse("peerIP", value::peer_ip),
        // Calico's object has 0 where none is set.
        as_number: spec
            .parse("asNumber", |text| if text == "0" { Ok(None) } else { text.parse().map(Some) })
            .flatten(),
        local_as_number: spec.parse("localASNumber", str::parse),
        peer_selector: spec.parse("peerSelector", value::selector),
        next_hop_mode: spec.choice("nextHopMode", &mode),
        keep_original_next_hop: spec.boolean("keepOriginalNextHop").unwrap_or(false),
        password: value::secret(&mut spec, "password"),
        source_address_none: source.unwrap_or(false),
        max_restart_time: value::seconds(&mut spec, "maxRestartTime", 0, 4095),
        keepalive_time: value::seconds(&mut spec, "keepaliveTime", 1, 65535),
        allow_local_as: allow_local_as.and_then(|times| u32::try_from(times).ok()).unwrap_or(0),
        ttl_security: ttl_security.filter(|hops| *hops > 0),
        reachable_by: spec.parse("reachableBy", value::ip),
        filters: spec.parse_each("filters", value::name),
        local_workload_selector: spec.parse("localWorkloadSelector", value::selector),
        reverse_peering_manual: reverse.unwrap_or(false),
        extensions,
    };
    exclusions(&mut spec, &read);
    if named.is_none() && !annotations.is_set(extensions::PEER_RANGE) {
        // Calico takes it, and makes nothing of it.
        spec.warn("peerIP", "is missing; without peerIP or peerSelector this object makes no peer");
    }
    if let (Some(gateway), Some(peer)) = (read.reachable_by, read.peer_ip)
        && gateway.is_ipv4() != peer.addr.is_ipv4()
    {
        let message = "ReachableBy and PeerIP address family mismatched";
        spec.refuse("reachableBy", format!("{message}: {gateway} and {}", peer.addr));
    }
    spec.finish();
    Some(read)
}

/// The rules of Calico's resource definition.
fn exclusions(spec: &mut Fields<'_, '_>, read: &BgpPeer) {
    let is_set = |spec: &Fields<'_, '_>, field: &str| match field {
        "asNumber" => read.as_number.is_some(),
        // Only true says anything beside nextHopMode.
        "keepOriginalNextHop" => read.keep_original_next_hop,
        field => spec.is_set(field),
    };
    let both = [
        ("nodeSelector", "node", "node and nodeSelector cannot both be set"),
        ("peerSelector", "peerIP", "peerIP and peerSelector cannot both be set"),
        ("asNumber", "peerSelector", "asNumber must be empty when peerSelector is set"),
        (
            "keepOriginalNextHop",
            "nextHopMode",
            "keepOriginalNextHop and nextHopMode cannot both be set; keepOriginalNextHop is deprecated, use nextHopMode instead",
        ),
        ("peerIP", "localWorkloadSelector", "peerIP must be empty when localWorkloadSelector is set"),
        (
            "peerSelector",
            "localWorkloadSelector",
            "peerSelector must be empty when localWorkloadSelector is set",
        ),
    ];
    for (field, other, message) in both {
        if is_set(spec, field) && is_set(spec, other) {
            spec.refuse(field, message);
        }
    }
    let needs = [
        ("reachableBy", "peerIP", "reachableBy must be empty when peerIP is empty"),
        ("localWorkloadSelector", "asNumber", "asNumber is required when localWorkloadSelector is set"),
    ];
    for (field, other, message) in needs {
        if is_set(spec, field) && !is_set(spec, other) {
            spec.refuse(field, message);
        }
    }
}
