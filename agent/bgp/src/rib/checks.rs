//! What refuses a route before any rule is asked: behaviours 35, 40 and 47, as far as the route itself shows it.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use manx_net::{Asn, Prefix};

use super::Kept;
use crate::{attr::Attributes, config::Role, view::RefusedBy};

/// What the speaker knows of itself and of a peer, as far as that peer's routes are checked by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks {
    pub role: Option<Role>,
    pub remote_as: u32,
    /// Towards the peer and towards all others.
    pub own_as: [Option<Asn>; 2],
    pub allow_own_as: u8,
    pub router_id: Ipv4Addr,
    /// Of all clusters that we reflect in.
    pub clusters: Arc<[Ipv4Addr]>,
    /// Those that we know to be ours: nobody else can be the way to them.
    pub own_addresses: [Option<IpAddr>; 4],
}

impl Default for Checks {
    /// Of nobody: what it refuses is only what nobody may announce.
    fn default() -> Checks {
        Checks {
            role: None,
            remote_as: 0,
            own_as: [None; 2],
            allow_own_as: 0,
            router_id: Ipv4Addr::UNSPECIFIED,
            clusters: Arc::default(),
            own_addresses: [None; 4],
        }
    }
}

impl Checks {
    pub fn refuse(&self, attributes: &Attributes) -> Option<RefusedBy> {
        if let Some(number) = attributes.only_to_customers {
            let leaked = match self.role {
                Some(Role::Provider | Role::RouteServer) => true,
                Some(Role::Peer) => number != self.remote_as,
                _ => false,
            };
            if leaked {
                return Some(RefusedBy::RouteLeak);
            }
        }
        let allowed = usize::from(self.allow_own_as);
        if self.own_as.iter().flatten().any(|&number| attributes.as_path.count(number) > allowed) {
            return Some(RefusedBy::AsLoop);
        }
        if attributes.originator_id == Some(self.router_id) {
            return Some(RefusedBy::OriginatorIsUs);
        }
        if attributes.cluster_list.iter().any(|id| self.clusters.contains(id)) {
            return Some(RefusedBy::ClusterLoop);
        }
        (!self.is_usable(attributes.next_hop)).then_some(RefusedBy::InvalidNextHop)
    }

    pub fn refuse_prefix<P: Kept>(&self, prefix: P) -> Option<RefusedBy> {
        let own =
            || prefix.names_host() && self.own_addresses.contains(&Some(Into::<Prefix>::into(prefix).addr()));
        (prefix.is_bogus() || own()).then_some(RefusedBy::InvalidPrefix)
    }

    fn is_usable(&self, next_hop: IpAddr) -> bool {
        let reserved = match next_hop {
            // RFC 1122 §3.2.1.3: 0/8 and 240/4 name nobody either.
            IpAddr::V4(a) => a.octets()[0] == 0 || a.is_loopback() || a.octets()[0] >= 224,
            IpAddr::V6(a) => a.is_unspecified() || a.is_loopback() || a.is_multicast(),
        };
        !reserved && !self.own_addresses.contains(&Some(next_hop))
    }
}
