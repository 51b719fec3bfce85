//! The rules that a peer's configuration calls for, in both directions.

use crate::{
    config::{Config, Family, PeerConfig},
    policy::{Action, Match, PeerRules, Rule, RuleName, Rules},
    rib::{export::ExportRules, import::Import},
    session::{negotiation::Ours, peer::Peer},
};

pub(super) fn import_of(config: &Config, peer: &Peer) -> Import {
    let of = |family| or_nothing(peer.config.import.of(family), config, &peer.ours);
    Import {
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
