//! The article's three states, each as what must be true of every node in it: sessions, connections, routes, and who
//! reaches whom. Tests assert it and the demo shows it, so that both mean the same by "the mesh is up".

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use manx_api::{Counters, PeerKind};

use crate::{
    cluster::{Cluster, Node, ROLES, Role, apply_line},
    kernel::{self, Family},
    wait::eventually,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Section 1: every node talks to every other.
    Mesh,
    /// Section 2.1 and 2.2: nobody is to talk to anybody. What came before is kept until it comes by another way, or its
    /// time is over.
    Kept,
    /// Nothing of it is kept any longer, as BIRD would have it at once.
    Off,
    /// Section 2.3: the workers talk to km01, which reflects.
    Reflector,
}

/// Where a route of ours leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Via(Ipv4Addr),
    Blackhole,
}

const REFLECTOR: &str = "km01";

/// A stage is reached within this where Manx speaks: many times what it takes, for machines with much else to do.
pub const SETTLED: Duration = Duration::from_secs(20);
/// BIRD waits 2 s before it dials, 5 s between attempts, and up to 30 s after an error.
pub const SETTLED_WITH_BIRD: Duration = Duration::from_secs(90);

/// The article's documents in its order.
pub const DOCUMENTS: [&str; 3] = ["2.1-bgpconfiguration.yaml", "2.2-node.yaml", "2.3-bgppeer.yaml"];

/// The article's three steps, and four that lead back to the mesh: command lines for the repository's root.
pub static SEED_LINES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let back = [
        "manxctl patch bgpconfig default -p '{spec: {nodeToNodeMeshEnabled: true}}'",
        "manxctl patch node k8s-master-01 -p '{spec: {bgp: {routeReflectorClusterID: null}}}'",
        "manxctl delete bgppeer bgppeer-global",
        "manxctl patch bgpconfig default -p '{spec: {asNumber: null}}'",
    ];
    DOCUMENTS.map(apply_line).into_iter().chain(back.map(str::to_owned)).collect()
});

/// The cluster with Manx on every node, in full mesh.
pub fn mesh() -> Result<Cluster> {
    let mut cluster = Cluster::new(&[])?;
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    Ok(cluster)
}

impl Stage {
    /// The peers that a node must have, by address.
    pub fn peers(self, role: &Role) -> Vec<(IpAddr, PeerKind)> {
        let kind = match self {
            Stage::Kept | Stage::Off => return Vec::new(),
            Stage::Mesh => PeerKind::Mesh,
            // The BGPPeer names no node: it is global where it is used, and the reflector's side of it is implied.
            Stage::Reflector if role.host == REFLECTOR => PeerKind::Node,
            Stage::Reflector => PeerKind::Global,
        };
        let wanted = |other: &Role| match self {
            Stage::Reflector => (role.host == REFLECTOR) != (other.host == REFLECTOR),
            _ => role.host != other.host,
        };
        ROLES.iter().filter(|other| wanted(other)).map(|other| (other.address.into(), kind)).collect()
    }

    /// The routes that a node must have written, and no others: its own block, and those of others when it hears of
    /// them. A reflected route keeps its next hop (RFC 4456 §10), so mesh and reflector end in the same table.
    pub fn routes(self, role: &Role) -> BTreeSet<(String, Way)> {
        let mut routes = BTreeSet::new();
        for owner in &ROLES {
            let Some((block, _)) = owner.block else { continue };
            if owner.host == role.host {
                routes.insert((block.to_owned(), Way::Blackhole));
            } else if self != Stage::Off {
                routes.insert((block.to_owned(), Way::Via(owner.address)));
            }
        }
        routes
    }
}

/// Exactly the peers of this stage, all Established.
pub fn sessions_are(node: &Node, stage: Stage) -> Result<()> {
    let wanted = stage.peers(node.role);
    let found = node.sessions()?;
    for session in &found {
        let Some((_, kind)) = wanted.iter().find(|(peer, _)| *peer == session.peer) else {
            bail!("{} still has the peer {}", node.role.host, session.peer);
        };
        ensure!(
            session.kind == Some(*kind),
            "{}: peer {} is {:?}",
            node.role.host,
            session.peer,
            session.kind
        );
        ensure!(session.established, "{}: peer {} is {}", node.role.host, session.peer, session.text);
    }
    ensure!(found.len() == wanted.len(), "{} has {} peers of {}", node.role.host, found.len(), wanted.len());
    Ok(())
}

/// One TCP connection for each session, and none besides.
pub fn connections_are(node: &Node, stage: Stage) -> Result<()> {
    // Sessions that nobody wants go on for a while.
    if stage == Stage::Kept {
        return Ok(());
    }
    let wanted: Vec<IpAddr> = stage.peers(node.role).into_iter().map(|(peer, _)| peer).collect();
    let mut found: Vec<IpAddr> = kernel::bgp_connections(&node.host)?.iter().map(|c| c.remote.ip()).collect();
    found.sort();
    ensure!(found == wanted, "{}: connections with {found:?}, not {wanted:?}", node.role.host);
    Ok(())
}

/// Exactly the routes of this stage carry the speaker's protocol in the kernel's table.
pub fn routes_are(node: &Node, stage: Stage) -> Result<()> {
    let stage = if stage == Stage::Kept && node.is_bird() { Stage::Off } else { stage };
    let wanted = stage.routes(node.role);
    let found = written(node)?;
    ensure!(found == wanted, "{}: proto {} has {found:?}, not {wanted:?}", node.role.host, node.protocol());
    Ok(())
}

/// What the node's speaker has in the kernel's main table.
pub fn written(node: &Node) -> Result<BTreeSet<(String, Way)>> {
    let mut found = BTreeSet::new();
    for route in kernel::routes(&node.host, Family::V4)? {
        if route.protocol.as_deref() != Some(node.protocol()) {
            continue;
        }
        let way = match (route.kind.as_deref(), &route.gateway) {
            (Some("blackhole"), _) => Way::Blackhole,
            (None, Some(gateway)) => Way::Via(gateway.parse().with_context(|| format!("{route:?}"))?),
            _ => bail!("{}: an odd route: {route:?}", node.role.host),
        };
        found.insert((route.dst, way));
    }
    Ok(found)
}

/// BGP, the kernel's table and the eBPF map say the same of every route that Manx wants, by its own account.
pub fn sinks_agree(node: &Node) -> Result<()> {
    let routes = node.bgp_routes()?;
    for row in &routes.routes {
        ensure!(row.agree, "{}: the sinks differ in {row:?}", node.role.host);
    }
    Ok(())
}

/// Packets to which `program` gave this verdict since its maps were made.
pub fn counted(counters: &Counters, program: &str, verdict: &str) -> u64 {
    let rows = counters.rows.iter().filter(|row| row.program == program);
    rows.flat_map(|row| &row.verdicts).filter(|v| v.verdict == verdict).map(|v| v.packets).sum()
}

/// Waits until every node is in `stage` in all respects.
pub fn settled(cluster: &Cluster, stage: Stage, limit: Duration) -> Result<()> {
    for node in &cluster.nodes {
        eventually(&format!("{}: {stage:?}", node.role.host), limit, || {
            sessions_are(node, stage)?;
            connections_are(node, stage)?;
            routes_are(node, stage)
        })
        .with_context(|| {
            format!("the log of {} ends:\n{}", node.role.host, crate::process::tail(&node.log(), 40))
        })?;
    }
    Ok(())
}

/// One answered ping within a second, or the error that there was none.
pub fn ping(from: &crate::netns::Netns, to: IpAddr) -> Result<()> {
    from.sh(&format!("ping -n -c 1 -W 1 {to}")).map(drop)
}

/// Every ordered pair of pods on different workers, by place in `nodes` and in `pods`.
pub fn pods_across(cluster: &Cluster) -> Vec<(&crate::host::Pod, &crate::host::Pod)> {
    let mut pairs = Vec::new();
    for a in cluster.workers() {
        for b in cluster.workers().filter(|b| b.role.host != a.role.host) {
            pairs.extend(a.pods.iter().flat_map(|from| b.pods.iter().map(move |to| (from, to))));
        }
    }
    pairs
}

/// Applies the third document and measures until both workers have the other's block from the reflector, and their kernels
/// have it, from the moment at which `manxctl apply` is started. Gives what it printed, too.
pub fn apply_the_reflector(cluster: &Cluster, limit: Duration) -> Result<(String, Duration)> {
    let started = Instant::now();
    let said = cluster.apply(DOCUMENTS[2])?;
    loop {
        if workers_know_each_other(cluster)? {
            return Ok((said, started.elapsed()));
        }
        if started.elapsed() > limit {
            bail!("after {limit:?} the workers do not have each other's block");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn workers_know_each_other(cluster: &Cluster) -> Result<bool> {
    for worker in cluster.workers() {
        let table = kernel::destinations4(&worker.host)?;
        for other in cluster.workers().filter(|o| o.role.host != worker.role.host) {
            let Some((block, _)) = other.role.block else { continue };
            let (address, length) = block.split_once('/').context("a block is a prefix")?;
            if !table.contains(&(address.parse()?, length.parse()?)) {
                return Ok(false);
            }
            // It may be there still from before.
            if !worker.is_bird() && !worker.has_from_reflector(block)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
