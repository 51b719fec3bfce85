//! Whether every node has exactly the routes that exist, and holds nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use manx_bgp::{
    Config, Family, PathSource, PeerKey,
    view::{PeerView, SessionState},
};
use manx_net::{Asn, Prefix};

use super::{Cluster, Topology, address, address_v6, node_at};

/// No way in these topologies is longer.
const HOPS: usize = 16;

/// The first thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("node {node} has no route to {prefix}")]
    Missing { node: usize, prefix: Prefix },
    #[error("node {node} has a route to {prefix}, which does not exist")]
    Extra { node: usize, prefix: Prefix },
    #[error("node {node} forwards {prefix} to {to:?}, which is not right: {why}")]
    Astray { node: usize, prefix: Prefix, to: Option<usize>, why: &'static str },
    #[error("node {node} holds a path to {prefix} that is stale or from somebody who cannot have it")]
    Stale { node: usize, prefix: Prefix },
    #[error("node {node} and its peer {peer} are in state {state:?}")]
    Session { node: usize, peer: usize, state: Option<SessionState> },
    #[error("node {node} has sent {sent} paths to {peer}, which has received {received}")]
    Counts { node: usize, peer: usize, sent: u64, received: u64 },
    #[error("node {node} has not settled")]
    Unsettled { node: usize },
    #[error("node {node} holds (routes, attribute sets, next hops) {held:?}, but {expected}")]
    Leak { node: usize, held: (usize, usize, usize), expected: String },
}

impl Cluster {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        let expected = self.expected();
        let alive = |node: &usize| self.members[*node].alive;
        // What is cheap to find out comes first: this is asked often.
        for node in (0..self.members.len()).filter(alive) {
            let (best, own) = (&self.network.nodes[node].best, self.own(node));
            let wanted = if self.members[node].joined { expected.len() } else { own.len() };
            if best.len() != wanted {
                self.compare(node, &expected)?;
            }
        }
        let views: Vec<BTreeMap<usize, PeerView>> =
            (0..self.members.len()).map(|node| self.views(node)).collect();
        for node in (0..self.members.len()).filter(alive) {
            self.compare(node, &expected)?;
            self.sessions(node, &views)?;
            self.held(node, &expected)?;
        }
        for node in
            (0..self.members.len()).filter(|&node| self.members[node].alive && self.members[node].joined)
        {
            for (prefix, owners) in &expected {
                self.walk(node, *prefix, owners, HOPS)?;
            }
        }
        Ok(())
    }

    fn own(&self, node: usize) -> BTreeSet<Prefix> {
        self.prefixes(node).collect()
    }

    fn views(&self, node: usize) -> BTreeMap<usize, PeerView> {
        let speaker = self.network.nodes[node].speaker.as_ref();
        speaker.into_iter().flat_map(|s| s.peers()).map(|view| (node_at(view.address), view)).collect()
    }

    /// Exactly the prefixes that exist; none of them stale.
    fn compare(&self, node: usize, expected: &BTreeMap<Prefix, BTreeSet<usize>>) -> Result<(), Wrong> {
        let there = &self.network.nodes[node];
        let own;
        let wanted: Vec<&Prefix> = if self.members[node].joined {
            expected.keys().collect()
        } else {
            own = self.own(node);
            own.iter().collect()
        };
        if !there.best.keys().eq(wanted.iter().copied()) {
            let wanted: BTreeSet<Prefix> = wanted.into_iter().copied().collect();
            if let Some(&prefix) = wanted.iter().find(|prefix| !there.best.contains_key(prefix)) {
                return Err(Wrong::Missing { node, prefix });
            }
            if let Some(&prefix) = there.best.keys().find(|prefix| !wanted.contains(prefix)) {
                return Err(Wrong::Extra { node, prefix });
            }
        }
        Ok(())
    }

    /// What the tables hold is what is known, no more.
    fn held(&self, node: usize, exists: &BTreeMap<Prefix, BTreeSet<usize>>) -> Result<(), Wrong> {
        let there = &self.network.nodes[node];
        let Some(speaker) = &there.speaker else { return Ok(()) };
        if !there.settled {
            return Err(Wrong::Unsettled { node });
        }
        let neighbours: BTreeSet<usize> = self.neighbours(node).into_iter().collect();
        for route in speaker.routes(None, usize::MAX) {
            let from_neighbour = match route.best.source {
                PathSource::Own => true,
                PathSource::Peer(PeerKey { address, .. }) => neighbours.contains(&node_at(address)),
            };
            if route.best.stale || !from_neighbour {
                return Err(Wrong::Stale { node, prefix: route.prefix });
            }
        }
        // All paths of one prefix, a different one on each node.
        if let Some(&prefix) = there.best.keys().nth(node % there.best.len().max(1))
            && let Some(view) = speaker.explain(prefix)
        {
            let stale = view.paths.iter().any(|path| path.stale);
            if stale || self.members[node].joined && !exists.contains_key(&prefix) {
                return Err(Wrong::Stale { node, prefix });
            }
        }
        let held = speaker.sizes();
        let expected = |expected: String| Err(Wrong::Leak { node, held, expected });
        if held.0 != there.best.len() {
            return expected(format!("{} routes are best", there.best.len()));
        }
        if held.2 != there.watched.len() {
            return expected(format!("{} next hops are watched", there.watched.len()));
        }
        Ok(())
    }

    /// Sessions stand with all neighbours that live and with nobody else; both ends count the same routes.
    fn sessions(&self, node: usize, views: &[BTreeMap<usize, PeerView>]) -> Result<(), Wrong> {
        let neighbours = self.neighbours(node);
        if views[node].len() != neighbours.len() {
            let peer = views[node].keys().find(|peer| !neighbours.contains(peer)).copied().unwrap_or(node);
            return Err(Wrong::Session { node, peer, state: None });
        }
        for peer in neighbours {
            let Some(view) = views[node].get(&peer) else {
                return Err(Wrong::Session { node, peer, state: None });
            };
            if (view.state == SessionState::Established) != self.members[peer].alive {
                return Err(Wrong::Session { node, peer, state: Some(view.state) });
            }
            let Some(far) = views[peer].get(&node) else { continue };
            let (sent, received) = (view.counters.prefixes_sent, far.counters.prefixes_received);
            if sent != received {
                return Err(Wrong::Counts { node, peer, sent, received });
            }
        }
        Ok(())
    }

    /// By whatever next hops it goes, a packet for the prefix comes to one who has it, and in one hop where all speak
    /// iBGP.
    fn walk(&self, at: usize, prefix: Prefix, owners: &BTreeSet<usize>, hops: usize) -> Result<(), Wrong> {
        let astray = |to, why| Err(Wrong::Astray { node: at, prefix, to, why });
        let Some(best) = self.network.nodes[at].best.get(&prefix) else {
            return astray(None, "there is no route on the way");
        };
        if owners.contains(&at) {
            return match best.source {
                PathSource::Own => Ok(()),
                PathSource::Peer(_) => astray(None, "it is the node's own"),
            };
        }
        let to: Vec<usize> = best.next_hops.iter().map(|hop| node_at(hop.address)).collect();
        let first = to.first().copied();
        if to.is_empty() || to.len() > self.most_next_hops(at) {
            return astray(first, "it has no next hop, or too many");
        }
        if hops == 0 {
            return astray(first, "the packet goes in a circle");
        }
        // Of equal paths the lowest identifiers' come first (RFC 4271 §9.1.2.2 f).
        if self.scenario.topology == Topology::Mesh && !owners.iter().take(self.most_next_hops(at)).eq(&to) {
            return astray(first, "another owner is nearer");
        }
        for (hop, &next) in best.next_hops.iter().zip(&to) {
            if next == at || self.network.nodes.len() <= next {
                return astray(Some(next), "nobody is there");
            }
            let wanted: IpAddr = match Family::of(prefix) {
                Family::Ipv4Unicast => address(next).into(),
                Family::Ipv6Unicast => address_v6(next).into(),
            };
            if hop.address != wanted {
                return astray(Some(next), "the next hop is not the node's address");
            }
            match self.scenario.topology {
                Topology::Mesh => {}
                Topology::Reflectors(_) | Topology::MeshedClients(_) | Topology::Sites(_) => {
                    if !owners.contains(&next) {
                        return astray(Some(next), "it has no such route");
                    }
                }
                Topology::Racks(_) => self.walk(next, prefix, owners, hops - 1)?,
            }
        }
        Ok(())
    }

    /// Sessions, counted at both ends, and best paths of all nodes.
    pub(super) fn totals(&self) -> (usize, usize) {
        let states = (0..self.members.len()).flat_map(|node| self.views(node).into_values());
        let sessions = states.filter(|view| view.state == SessionState::Established).count();
        (sessions, self.network.nodes.iter().map(|node| node.best.len()).sum())
    }

    /// The end: nobody peers with anybody or has anything. No table may keep a thing.
    pub(super) fn dissolve(&mut self) -> Result<(), Wrong> {
        for node in 0..self.members.len() {
            if self.members[node].alive {
                let config = Config::new(Asn::CALICO_DEFAULT, Ipv4Addr::new(10, 0, 0, 1));
                self.network.configure(node, config);
            }
        }
        self.network.run(Duration::from_secs(10));
        self.network.wake_all();
        for (node, there) in self.network.nodes.iter().enumerate() {
            let Some(speaker) = &there.speaker else { continue };
            let held = speaker.sizes();
            if held != (0, 0, 0) || !there.watched.is_empty() || !there.best.is_empty() {
                return Err(Wrong::Leak { node, held, expected: "all is gone".into() });
            }
        }
        Ok(())
    }
}
