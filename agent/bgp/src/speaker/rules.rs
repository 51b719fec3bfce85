//! The rules that a peer's configuration calls for, in both directions.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use super::Speaker;
use crate::{
    config::{Config, Family, PeerConfig},
    policy::{Action, Match, PeerRules, Rule, RuleName, Rules},
    rib::{checks::Checks, export::ExportRules, import::Import, table::PeerSlot},
    session::{negotiation::Ours, peer::Peer},
};

impl Speaker {
    /// Its routes are judged by what the configuration and its connection say now.
    pub(super) fn judge_imports(&mut self, slot: PeerSlot) {
        let own_addresses = self.own_addresses(slot);
        let Some(peer) = self.peer_at(slot) else { return };
        let checks = Checks {
            role: peer.ours.role,
            remote_as: peer.ours.remote_as.get(),
            own_as: [Some(peer.ours.local_as), Some(self.config.local_as)],
            allow_own_as: peer.config.allow_local_as,
            router_id: self.config.router_id,
            clusters: self.clusters.clone(),
            own_addresses,
        };
        let import = import_of(&self.config, peer, checks);
        self.rib.set_import(slot, import);
    }

    /// Those that we know to be ours: nobody else can be the way to them.
    fn own_addresses(&self, slot: PeerSlot) -> [Option<IpAddr>; 4] {
        let conn = self.peer_at(slot).and_then(|peer| peer.established);
        let connection = conn.and_then(|conn| self.connections.get(&conn));
        [
            self.local_address(slot),
            connection.and_then(|connection| connection.link_local).map(IpAddr::V6),
            self.config.next_hop_v4.map(IpAddr::V4),
            self.config.next_hop_v6.map(IpAddr::V6),
        ]
    }
}

/// Of all clusters that we reflect in.
pub(super) fn clusters_of(config: &Config) -> Arc<[Ipv4Addr]> {
    let templates = config.dynamic_peers.iter().map(|peers| &peers.template);
    let of_peers = config.peers.iter().chain(templates).filter_map(|peer| peer.cluster_id);
    let own = config.cluster_id.unwrap_or(config.router_id);
    let all: BTreeSet<Ipv4Addr> = of_peers.chain([own]).collect();
    all.into_iter().collect()
}

fn import_of(config: &Config, peer: &Peer, checks: Checks) -> Import {
    let of = |family| or_nothing(peer.config.import.of(family), config, &peer.ours);
    Import {
        checks,
        rules: PeerRules { ipv4: of(Family::Ipv4Unicast), ipv6: of(Family::Ipv6Unicast) },
        blackholes: peer.config.blackholes.clone(),
    }
}

pub(super) fn export_of(config: &Config, peer: &PeerConfig, ours: &Ours, family: Family) -> ExportRules {
    ExportRules {
        rules: or_nothing(peer.export.of(family), config, ours),
        graceful_shutdown: config.graceful_shutdown,
    }
}

/// Some peer's rules ask by which interface a route leads.
pub(super) fn ask_interfaces(config: &Config) -> bool {
    let of_ranges = config.dynamic_peers.iter().map(|range| &range.template);
    config
        .peers
        .iter()
        .chain(of_ranges)
        .flat_map(|peer| [&peer.import, &peer.export])
        .any(|rules| Family::ALL.into_iter().any(|family| rules.of(family).ask_interfaces()))
}

/// RFC 8212 §2: where a policy is required of eBGP and there is none, nothing passes.
fn or_nothing(rules: &Rules, config: &Config, ours: &Ours) -> Rules {
    if config.ebgp_requires_policy && ours.is_ebgp() && !rules.decide() {
        let name = RuleName::new("no policy for an eBGP peer (RFC 8212)");
        return Rules::from_iter([Rule { name, matches: Match::default(), action: Action::Reject }]);
    }
    rules.clone()
}
