//! BIRD 2 in a node's place: the configuration that Calico would give it, written from the node's plan, and what its
//! `birdc` answers. The rules are Calico's (its confd templates), so that a mixed cluster in the lab is one that
//! exists: global and mesh peers are passive where Calico makes them so, node peers never, and both ends dial.

use std::{fmt::Write, net::IpAddr, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_api::PeerKind;

use crate::{
    host::Host,
    plan::{Dial, NextHop, Peer, Plan},
    process::Daemon,
    wait::eventually,
};

const CONFIG: &str = "/etc/bird/bird.conf";
const BGP_PORT: u16 = 179;
/// Only to give up by: a busy machine lets it wait.
const STARTED: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Bird {
    daemon: Daemon,
}

/// A line of `show protocols` that is a BGP session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    pub name: String,
    /// The address in the name, where Calico's names have one.
    pub peer: Option<IpAddr>,
    pub kind: Option<PeerKind>,
    /// BIRD's own word: up, start, down.
    pub state: String,
    pub since: String,
    /// BGP's state and what follows.
    pub info: String,
}

impl Bird {
    pub fn start(host: &Host, plan: &Plan, log: &std::path::Path) -> Result<Bird> {
        write_config(host, plan)?;
        host.sh("mkdir -p /run/bird")?;
        let mut command = Command::new("bird");
        // With -R, as Calico starts it: it restarts gracefully (RFC 4724) if its neighbours remember it.
        command.args(["-R", "-f", "-c", CONFIG]);
        let mut daemon = Daemon::start(host, "bird", command, log)?;
        eventually("BIRD answers birdc", STARTED, || {
            daemon.check_running()?;
            host.sh("birdc show status")
        })?;
        Ok(Bird { daemon })
    }

    /// What confd does when a resource has changed.
    pub fn configure(&self, host: &Host, plan: &Plan) -> Result<()> {
        write_config(host, plan)?;
        let answer = host.sh("birdc configure")?;
        ensure!(
            answer.contains("Reconfigured") || answer.contains("Reconfiguration in progress"),
            "birdc: {answer}"
        );
        Ok(())
    }

    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    pub fn into_daemon(self) -> Daemon {
        self.daemon
    }
}

fn write_config(host: &Host, plan: &Plan) -> Result<()> {
    host.write_file(CONFIG, &config(plan)?)
}

/// The BGP sessions in the answer to `show protocols`.
pub fn sessions(show_protocols: &str) -> Vec<Protocol> {
    let mut found = Vec::new();
    for line in show_protocols.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, "BGP", _table, state, since, info @ ..] = words.as_slice() else { continue };
        let (kind, peer) = match name.split_once('_') {
            Some(("Mesh", address)) => (Some(PeerKind::Mesh), address_of(address)),
            Some(("Global", address)) => (Some(PeerKind::Global), address_of(address)),
            Some(("Node", address)) => (Some(PeerKind::Node), address_of(address)),
            _ => (None, None),
        };
        found.push(Protocol {
            name: (*name).to_owned(),
            peer,
            kind,
            state: (*state).to_owned(),
            since: (*since).to_owned(),
            info: info.join(" "),
        });
    }
    found
}

fn address_of(name: &str) -> Option<IpAddr> {
    let name = name.split_once("_port_").map_or(name, |(address, _)| address);
    name.replace('_', ".").parse().or_else(|_| name.replace('_', ":").parse()).ok()
}

/// Calico's name for a peer, which is also what tells its kind.
fn name_of(peer: &Peer) -> String {
    let kind = match peer.kind {
        PeerKind::Mesh => "Mesh",
        PeerKind::Global => "Global",
        PeerKind::Node => "Node",
        PeerKind::LocalWorkload => "Local_Workload",
    };
    let address = peer.address.to_string().replace(['.', ':'], "_");
    let port = if peer.port == BGP_PORT { String::new() } else { format!("_port_{}", peer.port) };
    format!("{kind}_{address}{port}")
}

/// bird.conf for a node with this plan.
pub fn config(plan: &Plan) -> Result<String> {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# {}\nlog stderr all;\nrouter id {};", plan.node, plan.router_id);
    out.push_str("protocol device { scan time 2; }\n");
    for family in [Family::V4, Family::V6] {
        write_family(&mut out, plan, family);
    }
    for peer in &plan.peers {
        write_peer(&mut out, plan, peer).with_context(|| format!("{} for BIRD", peer.resource))?;
    }
    Ok(out)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(prefix: &str) -> Family {
        if prefix.contains(':') { Family::V6 } else { Family::V4 }
    }

    fn channel(self) -> &'static str {
        match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        }
    }

    fn host_length(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

/// The kernel's and the static routes of a family, and the filter for its peers: own blocks exactly, nothing else
/// inside them, whatever lies in an exportable pool, and no more.
fn write_family(out: &mut String, plan: &Plan, family: Family) {
    let channel = family.channel();
    let blocks = || plan.blocks.iter().filter(move |b| Family::of(b) == family);
    let pools = || plan.pools.iter().filter(move |p| Family::of(&p.cidr) == family && !p.disabled);

    let _ = writeln!(
        out,
        "protocol direct {{ {channel}; interface -\"cali*\", -\"kube-ipvs*\", \"*\"; }}\n\
         protocol kernel {{\n  learn; persist; scan time 2; merge paths on; graceful restart; metric 0;\n  \
         {channel} {{ import all; export all; }};\n}}"
    );
    let _ = writeln!(out, "protocol static {{\n  {channel};");
    for block in blocks().filter(|b| !b.ends_with(&format!("/{}", family.host_length()))) {
        let _ = writeln!(out, "  route {block} blackhole;");
    }
    let _ = writeln!(out, "}}\nfilter to_peers_{channel} {{");
    for pool in pools().filter(|p| p.disable_bgp_export) {
        let _ = writeln!(out, "  if (net ~ [ {}+ ]) then reject;", pool.cidr);
    }
    for block in blocks() {
        let _ = writeln!(out, "  if (net = {block}) then accept;\n  if (net ~ [ {block}+ ]) then reject;");
    }
    for pool in pools().filter(|p| !p.disable_bgp_export) {
        let _ = writeln!(out, "  if (net ~ [ {}+ ]) then accept;", pool.cidr);
    }
    out.push_str("  reject;\n}\n");
}

fn write_peer(out: &mut String, plan: &Plan, peer: &Peer) -> Result<()> {
    ensure!(peer.password_from.is_none(), "the lab's BIRD has no passwords");
    ensure!(peer.filters.is_empty(), "the lab's BIRD has no BGPFilters");
    let _ = writeln!(out, "protocol bgp {} {{", name_of(peer));
    let own_as = peer.local_as_number.unwrap_or(plan.as_number);
    match peer.source_address {
        Some(source) => {
            let _ = writeln!(out, "  local {source} port {} as {own_as};", plan.listen_port);
        }
        None => {
            let _ = writeln!(out, "  local port {} as {own_as};", plan.listen_port);
        }
    }
    let _ = writeln!(out, "  neighbor {} port {} as {};", peer.address, peer.port, peer.as_number);
    out.push_str("  connect delay time 2; connect retry time 5; error wait time 5,30; graceful restart;\n");
    match peer.ttl_security {
        Some(hops) => {
            let _ = writeln!(out, "  ttl security on; multihop {hops};");
        }
        None => out.push_str("  ttl security off; multihop;\n"),
    }
    if peer.kind != PeerKind::Node && peer.dial != Dial::First {
        out.push_str("  passive on;\n");
    }
    if let (true, Some(cluster)) = (peer.rr_client, peer.cluster_id) {
        let _ = writeln!(out, "  rr client; rr cluster id {cluster};");
    }
    if let Some(seconds) = peer.restart_time {
        let _ = writeln!(out, "  graceful restart time {seconds};");
    }
    if let Some(seconds) = peer.keepalive_time {
        let _ = writeln!(out, "  keepalive time {seconds};");
    }
    if peer.allow_local_as > 0 {
        let _ = writeln!(out, "  allow local as {};", peer.allow_local_as);
    }
    let next_hop = match peer.next_hop {
        NextHop::Auto => "",
        NextHop::Own => " next hop self;",
        NextHop::Keep => " next hop keep;",
    };
    let channel = if peer.address.is_ipv4() { Family::V4 } else { Family::V6 }.channel();
    let _ = writeln!(
        out,
        "  {channel} {{ gateway recursive; add paths on; import all; export filter to_peers_{channel};{next_hop} }};\n}}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn show_protocols_gives_address_kind_and_state_of_each_session() {
        let text = "BIRD 2.0.12 ready.\n\
                    Name       Proto      Table      State  Since         Info\n\
                    device1    Device     ---        up     10:00:00.123  \n\
                    Mesh_192_168_80_124 BGP        ---        up     10:00:02.001  Established   \n\
                    Node_192_168_80_125_port_1790 BGP        ---        start  10:00:01.000  Active        Socket: Connection refused\n";
        let found = sessions(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].kind, found[0].info.as_str()), (Some(PeerKind::Mesh), "Established"));
        assert_eq!(found[1].peer, Some("192.168.80.125".parse().unwrap()));
        assert_eq!(found[1].info, "Active Socket: Connection refused");
    }

    fn plan(peers: &str) -> Plan {
        let text = format!(
            r#"{{"node": "k8s-master-01", "asNumber": 61234, "routerId": "192.168.80.121", "clusterId": "224.0.0.1",
                "listenPort": 179, "blocks": ["172.16.36.192/26"], "peers": [{peers}], "warnings": [],
                "pools": [{{"cidr": "172.16.0.0/16", "disabled": false, "disableBGPExport": false}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    const CLIENT: &str = r#"{"address": "192.168.80.124", "port": 179, "asNumber": 61234, "localAsNumber": null,
        "kind": "node", "rrClient": true, "clusterId": "224.0.0.1", "dial": "later",
        "sourceAddress": "192.168.80.121", "nextHop": "auto", "ttlSecurity": null, "passwordFrom": null,
        "restartTime": null, "keepaliveTime": null, "allowLocalAs": 0, "filters": [],
        "resource": "BGPPeer/bgppeer-global"}"#;

    #[test]
    fn a_node_peer_is_never_passive_and_a_global_one_is_where_the_other_dials() {
        let node = config(&plan(CLIENT)).unwrap();
        assert!(node.contains("protocol bgp Node_192_168_80_124 {"), "{node}");
        assert!(node.contains("rr client; rr cluster id 224.0.0.1;") && !node.contains("passive"), "{node}");
        assert!(node.contains("route 172.16.36.192/26 blackhole;"), "{node}");
        let global = config(&plan(&CLIENT.replace("\"node\"", "\"global\""))).unwrap();
        assert!(global.contains("Global_192_168_80_124") && global.contains("passive on;"), "{global}");
    }

    #[test]
    fn a_peer_that_needs_what_bird_is_not_given_here_is_refused_by_name() {
        let secret = CLIENT.replace("\"passwordFrom\": null", r#""passwordFrom": {"name": "s", "key": "k"}"#);
        let text = format!("{:#}", config(&plan(&secret)).unwrap_err());
        assert!(text.contains("BGPPeer/bgppeer-global"), "{text}");
    }
}
