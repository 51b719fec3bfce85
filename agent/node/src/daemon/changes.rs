//! How changes of the peerings are carried out: which peers are to go at once, for how long the others stay, and what is
//! said of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use manx_api as api;
use manx_bgp::{Parted, Parting, PartingEvent, Speaker};
use manx_resources::{Key, Kind, NodePlan, PeerKind, Resource, Snapshot};

use super::Daemon;

/// A change and the word that it is to be carried out at once may come as two, in any order.
const TOGETHER: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Changes {
    /// The nodes' addresses, and whose they are.
    nodes: BTreeMap<IpAddr, Arc<str>>,
    /// Addresses of nodes that were deleted.
    deleted: BTreeSet<IpAddr>,
    /// The pods that peer with this node.
    pods: BTreeSet<IpAddr>,
    /// Such as did before the last plan: a pod is no node, and what it announced leads nowhere without it.
    former_pods: BTreeSet<IpAddr>,
    /// The last `manx.dev/now`.
    now: Option<String>,
    /// A change is carried out at once until then.
    at_once_until: Option<Instant>,
}

impl Changes {
    /// True if another node was deleted.
    pub fn follow_nodes(&mut self, snapshot: &Snapshot) -> bool {
        let mut names = BTreeSet::new();
        let mut nodes = BTreeMap::new();
        for node in snapshot.nodes() {
            let name: Arc<str> = node.name().into();
            names.insert(name.clone());
            let bgp = node.spec.bgp.iter();
            let own = bgp
                .flat_map(|bgp| [bgp.ipv4.map(|own| own.addr.into()), bgp.ipv6.map(|own| own.addr.into())]);
            nodes.extend(own.flatten().map(|address: IpAddr| (address, name.clone())));
        }
        let before = self.deleted.len();
        let gone = self
            .nodes
            .iter()
            .filter(|&(address, name)| !nodes.contains_key(address) && !names.contains(name));
        self.deleted.extend(gone.map(|(address, _)| *address));
        let more = self.deleted.len() > before;
        self.deleted.retain(|address| !nodes.contains_key(address));
        self.nodes = nodes;
        more
    }

    /// `first`: there was no plan before, and so nothing that changes.
    pub fn follow_plan(&mut self, plan: &NodePlan, first: bool, now: Instant) {
        if self.now != plan.speaker.now {
            self.now.clone_from(&plan.speaker.now);
            if self.now.is_some() && !first {
                self.at_once_until = Some(now + TOGETHER);
                tracing::info!("this change is carried out at once, and nothing is held (manx.dev/now)");
            }
        }
        let pods = plan.peers.iter().filter(|peer| peer.kind == PeerKind::LocalWorkload);
        let pods: BTreeSet<IpAddr> = pods.map(|peer| peer.address).collect();
        self.former_pods = &self.pods - &pods;
        self.pods = pods;
    }

    /// The name of the Node resource with this address.
    pub fn node_at(&self, address: IpAddr) -> Option<&str> {
        self.nodes.get(&address).map(|name| &**name)
    }

    pub fn parting(&self, plan: &NodePlan, now: Instant) -> Parting {
        let at_once = self.at_once_until.is_some_and(|until| now < until);
        let unless_at_once = |seconds: u32| Duration::from_secs(if at_once { 0 } else { u64::from(seconds) });
        Parting {
            close_after: unless_at_once(plan.speaker.close_after),
            hold: unless_at_once(plan.speaker.hold_routes),
            within: plan.pools.iter().filter(|pool| !pool.disabled).map(|pool| pool.cidr).collect(),
            at_once: &self.deleted | &self.former_pods,
        }
    }
}

/// Which resources that make a plan are others, as far as a line has room.
pub fn changed(old: &Snapshot, new: &Snapshot) -> String {
    const SHOWN: usize = 5;
    /// Comparing more of them takes longer than it is worth.
    const COMPARED: usize = 5000;
    const KINDS: [Kind; 6] = [
        Kind::BgpConfiguration,
        Kind::BgpPeer,
        Kind::BgpFilter,
        Kind::Node,
        Kind::IpPool,
        Kind::BlockAffinity,
    ];
    if old.len() + new.len() > 2 * COMPARED {
        return "resources".to_owned();
    }
    let mut changed: BTreeSet<Key> = BTreeSet::new();
    for kind in KINDS {
        let by_key = |of: &Snapshot| -> BTreeMap<Key, Resource> {
            of.of_kind(kind).into_iter().map(|resource| (resource.key(), resource)).collect()
        };
        let (old, new) = (by_key(old), by_key(new));
        changed.extend(old.keys().filter(|key| old.get(key) != new.get(key)).cloned());
        changed.extend(new.keys().filter(|key| !old.contains_key(key)).cloned());
    }
    let mut shown: Vec<String> = changed.iter().take(SHOWN).map(ToString::to_string).collect();
    if changed.len() > SHOWN {
        shown.push(format!("{} more", changed.len() - SHOWN));
    }
    if shown.is_empty() { "resources".to_owned() } else { shown.join(", ") }
}

/// A sentence without its subject, the peer, and whether somebody should look.
pub fn text(event: &PartingEvent, node: Option<&str>) -> (String, bool) {
    let node = node.map(|node| format!(" ({node})")).unwrap_or_default();
    match event.what {
        Parted::Kept { at_most } => (
            format!(
                "no longer wanted{node}: the session goes on until all its routes have come by another way, {} s at most",
                at_most.as_secs()
            ),
            false,
        ),
        Parted::Closed { replaced: true, .. } => (
            format!("no longer wanted{node}, and all its routes have come by another way: the session ends"),
            false,
        ),
        Parted::Closed { held: 0, .. } => {
            (format!("no longer wanted{node}: the session ends; there is nothing of it to hold"), false)
        }
        Parted::Closed { held, at_most, .. } => (
            format!(
                "no longer wanted{node}: the session ends; {held} routes that came by it are held as stale until they come by \
                 another way, {} s at most",
                at_most.as_secs()
            ),
            true,
        ),
        Parted::Over { expired: 0 } => {
            (format!("no longer wanted{node}: nothing of it is held any longer"), false)
        }
        Parted::Over { expired } => (
            format!(
                "no longer wanted{node}: {expired} routes that were held for it have come by no other way and are gone now"
            ),
            true,
        ),
        Parted::StillClient { at_most } => (
            format!(
                "no longer a client of this reflector{node}: it is still treated as one for {} s, for the sake of those who \
                 have no other way yet",
                at_most.as_secs()
            ),
            false,
        ),
    }
}

impl Daemon {
    /// Peers that are no longer wanted, and those whose routes are held for the session that they had.
    pub(super) fn partings(&self) -> Vec<api::PartingStatus> {
        let Some(speaker) = &self.speaker else { return Vec::new() };
        partings(speaker)
            .map(|view| api::PartingStatus {
                address: view.address,
                port: view.port,
                node: self.changes.node_at(view.address).map(str::to_owned),
                wanted: view.parting_since.is_none(),
                since: self.clock.rfc3339(view.parting_since.unwrap_or(view.session_since)),
                closes_at: view.closes_at.map(|at| self.clock.rfc3339(at)),
                routes: if view.closes_at.is_some() { view.counters.prefixes_accepted } else { view.stale },
                until: view.stale_until.map(|at| self.clock.rfc3339(at)),
            })
            .collect()
    }
}

fn partings(speaker: &Speaker) -> impl Iterator<Item = manx_bgp::view::PeerView> {
    speaker.peers().into_iter().filter(|view| view.parting_since.is_some() || (view.held && view.stale > 0))
}
