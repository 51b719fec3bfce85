//! UPDATEs into the Adj-RIB-In: what RFC 7606 leaves of them, and which of their routes are refused.

use std::net::IpAddr;

use manx_net::{Prefix, Prefix4, Prefix6};

use super::Speaker;
use crate::event::{About, Output, Warning};
use crate::{
    ConnId, Time,
    attr::{
        Attributes,
        parse::{Outcome, Reading},
    },
    config::{Family, PerFamily, Role},
    message::update::{Prefixes, Update},
    rib::{
        Kept,
        import::next_hop_from,
        table::{NO_NEXT_HOP, PeerSlot},
    },
    view::RefusedBy,
};

impl Speaker {
    pub(super) fn update(&mut self, conn: ConnId, body: &[u8], now: Time) {
        let Some(connection) = self.connections.get(&conn) else { return };
        let slot = connection.peer;
        let (Some(negotiated), Some(peer)) = (&connection.negotiated, self.peer_at(slot)) else { return };
        let carried = PerFamily::from_fn(|family| negotiated.families.contains(&family));
        let reading = Reading {
            families: carried,
            ebgp: peer.ours.is_ebgp(),
            four_octet: negotiated.four_octet,
            extended_next_hop: negotiated.extended_next_hop,
            add_path: PerFamily::from_fn(|family| negotiated.add_path[family].receive),
        };
        let carries = |family: Family| carried[family];
        let update = match Update::parse(body, reading) {
            Ok(update) => update,
            Err(error) => {
                let (notification, why) = (error.notification(), error.to_string());
                return self.fail_because(conn, notification, Some(why), now);
            }
        };
        let withdraw = update.treat_as_withdraw();
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.counters.updates_received += 1;
            peer.counters.treated_as_withdraw += u64::from(withdraw);
            let discarded = update.attributes.errors.iter().filter(|(_, o)| *o == Outcome::Discard);
            peer.counters.attributes_discarded += discarded.count() as u64;
            if let Some((fault, outcome)) = update.attributes.worst_fault()
                && let Some(untold) = peer.faults.report(outcome, now)
            {
                let peer = peer.config.key();
                let about = About::Malformed { fault, outcome, prefix: update.first_prefix(), untold };
                self.outputs.push_back(Output::Warning(Warning { at: now, peer, about }));
            }
        }
        if let Some(family) = update.end_of_rib {
            if carries(family) {
                self.end_of_rib(slot, family);
            }
            return;
        }

        // Behaviour 34: withdrawals first, so that a prefix in both parts ends up announced.
        if carries(Family::Ipv4Unicast) {
            self.withdraw_all(slot, update.withdrawn);
        }
        if let Some(unreach) = update.attributes.mp_unreach {
            let with_ids = update.with_ids[unreach.family];
            // The parser has seen these prefixes whole.
            match unreach.family {
                Family::Ipv4Unicast => {
                    Prefixes::<Prefix4>::parse(unreach.nlri, with_ids)
                        .into_iter()
                        .for_each(|p| self.withdraw_all(slot, p));
                }
                Family::Ipv6Unicast => {
                    Prefixes::<Prefix6>::parse(unreach.nlri, with_ids)
                        .into_iter()
                        .for_each(|p| self.withdraw_all(slot, p));
                }
            }
        }
        if carries(Family::Ipv4Unicast) && !update.announced.is_empty() {
            let next_hop = update.attributes.next_hop.filter(|_| !withdraw).map(IpAddr::V4);
            let attributes = next_hop.and_then(|next_hop| update.attributes.attributes(next_hop));
            self.announce_all(slot, update.announced, attributes);
        }
        if let Some(reach) = update.attributes.mp_reach {
            let attributes = if withdraw { None } else { update.attributes.attributes(reach.next_hop) };
            let with_ids = update.with_ids[reach.family];
            match reach.family {
                Family::Ipv4Unicast => {
                    if let Ok(prefixes) = Prefixes::<Prefix4>::parse(reach.nlri, with_ids) {
                        self.announce_all(slot, prefixes, attributes);
                    }
                }
                Family::Ipv6Unicast => {
                    if let Ok(prefixes) = Prefixes::<Prefix6>::parse(reach.nlri, with_ids) {
                        self.announce_all(slot, prefixes, attributes);
                    }
                }
            }
        }
        self.check_limits(slot, body.len(), now);
    }

    fn withdraw_all<P: Kept>(&mut self, slot: PeerSlot, prefixes: Prefixes<'_, P>) {
        for (id, prefix) in prefixes {
            self.rib.withdraw(slot, prefix, id);
        }
    }

    /// Without attributes the routes are treated as withdrawn (RFC 7606 §2).
    fn announce_all<P: Kept>(
        &mut self,
        slot: PeerSlot,
        prefixes: Prefixes<'_, P>,
        attributes: Option<Attributes>,
    ) {
        let Some(mut attributes) = attributes else { return self.withdraw_all(slot, prefixes) };
        // RFC 9234 §5, whatever the peer says of its role: ours says what it is to us.
        let ours = self.peer_at(slot).map(|peer| (peer.ours.role, peer.ours.remote_as.get()));
        if let Some((Some(Role::Customer | Role::Peer | Role::RouteServerClient), remote_as)) = ours {
            attributes.only_to_customers.get_or_insert(remote_as);
        }
        let refused = self.refuses(slot, &attributes);
        let Some(key) = self.peer_at(slot).map(|peer| peer.config.key()) else { return };
        let next_hop = match refused {
            Some(_) => NO_NEXT_HOP,
            None => self.rib.next_hop(next_hop_from(key, attributes.next_hop)),
        };
        let attributes = self.rib.intern(attributes);
        let own = self.own_addresses(slot);
        let judged = prefixes.into_iter().map(|(id, prefix)| {
            let invalid = prefix.is_bogus()
                || (prefix.names_host() && own.contains(&Some(Into::<Prefix>::into(prefix).addr())));
            (id, prefix, refused.or(invalid.then_some(RefusedBy::InvalidPrefix)))
        });
        self.rib.import(slot, judged, &attributes, next_hop);
        self.rib.release(attributes);
    }

    /// Behaviours 35, 40 and 47, as far as the attributes show it: such a route replaces what the peer announced before, and is not considered.
    fn refuses(&self, slot: PeerSlot, attributes: &Attributes) -> Option<RefusedBy> {
        let peer = self.peer_at(slot)?;
        if let Some(number) = attributes.only_to_customers {
            let leaked = match peer.ours.role {
                Some(Role::Provider | Role::RouteServer) => true,
                Some(Role::Peer) => number != peer.ours.remote_as.get(),
                _ => false,
            };
            if leaked {
                return Some(RefusedBy::RouteLeak);
            }
        }
        let own = [peer.ours.local_as, self.config.local_as];
        let allowed = usize::from(peer.config.allow_local_as);
        if own.iter().any(|&number| attributes.as_path.count(number) > allowed) {
            return Some(RefusedBy::AsLoop);
        }
        if attributes.originator_id == Some(self.config.router_id) {
            return Some(RefusedBy::OriginatorIsUs);
        }
        if !attributes.cluster_list.is_empty() {
            let own = self.config.cluster_id.unwrap_or(self.config.router_id);
            let templates = self.config.dynamic_peers.iter().map(|peers| &peers.template);
            let peers = self.config.peers.iter().chain(templates);
            let mut ids = peers.filter_map(|peer| peer.cluster_id).chain([own]);
            if ids.any(|id| attributes.cluster_list.contains(&id)) {
                return Some(RefusedBy::ClusterLoop);
            }
        }
        (!self.is_usable(slot, attributes.next_hop)).then_some(RefusedBy::InvalidNextHop)
    }

    fn is_usable(&self, slot: PeerSlot, next_hop: IpAddr) -> bool {
        let reserved = match next_hop {
            // RFC 1122 §3.2.1.3: 0/8 and 240/4 name nobody either.
            IpAddr::V4(a) => a.octets()[0] == 0 || a.is_loopback() || a.octets()[0] >= 224,
            IpAddr::V6(a) => a.is_unspecified() || a.is_loopback() || a.is_multicast(),
        };
        !reserved && !self.own_addresses(slot).contains(&Some(next_hop))
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
