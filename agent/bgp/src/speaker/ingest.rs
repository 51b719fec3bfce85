//! UPDATEs into the Adj-RIB-In: what RFC 7606 leaves of them, and which of their routes are refused.

use std::net::IpAddr;

use manx_net::{Prefix4, Prefix6};

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
    rib::{Kept, table::PeerSlot},
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
                self.end_of_rib(slot, family, now);
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
        self.rib.import(slot, prefixes.into_iter(), attributes);
    }
}
