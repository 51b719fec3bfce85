//! What a group may have told its members until they left it for another one, where they get the table anew and
//! withdrawals for the rest. All who leave in one change of configuration share one account of it: it says what some
//! member may have been told, and for who was not, a withdrawal is nothing (behaviour 48).

use std::sync::Arc;

use super::{Kept, Membership, PeerSlot, Rib, RouteId, by_family};
use crate::{config::Family, message::update::PathId, view::Export};

/// What a peer may have been sent by the group that it was in before.
#[derive(Debug, Default)]
pub struct Announced {
    /// The routes, a bit each.
    routes: Vec<u64>,
    /// By which names, where it takes several paths for a prefix; in order.
    names: Vec<(RouteId, PathId)>,
}

impl Announced {
    pub fn names(&self, id: RouteId) -> impl Iterator<Item = PathId> {
        let first = self.names.partition_point(|&(of, _)| of < id);
        self.names.iter().skip(first).take_while(move |&&(of, _)| of == id).map(|&(_, name)| name)
    }

    pub fn contains(&self, id: RouteId) -> bool {
        self.routes.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 != 0)
    }
}

impl Rib {
    /// What the members of this group may have been told, by it and by those that they were in before.
    pub(super) fn announced_by(&mut self, number: usize) -> Option<Arc<Announced>> {
        if let Some((_, known)) = self.moves.iter().find(|&&(from, _)| from == number) {
            return Some(known.clone());
        }
        let group = self.groups.get(number)?.as_ref()?;
        let family = group.key.family;
        let earlier = self.earlier(group.members(), family);
        let end = by_family!(family, P => P::table(&self.tables).end());
        let mut announced = Announced { routes: vec![0; end.div_ceil(64) as usize], names: Vec::new() };
        for id in 0..end {
            let held = || earlier.iter().filter(|&&(from, _)| id >= from).map(|(_, held)| held);
            let told = group.export(id) == Some(Export::Sent) || group.refers_to(id);
            if !told && !held().any(|held| held.contains(id)) {
                continue;
            }
            #[expect(clippy::indexing_slicing, reason = "`routes` was made to hold `end` of them")]
            let word = &mut announced.routes[id as usize / 64];
            *word |= 1 << (id % 64);
            if group.key.add_path > 0 {
                let mut names = group.names_known(id);
                names.extend(held().flat_map(|held| held.names(id)));
                names.sort_unstable();
                names.dedup();
                announced.names.extend(names.into_iter().map(|name| (id, name)));
            }
        }
        let announced = Arc::new(announced);
        self.moves.push((number, announced.clone()));
        Some(announced)
    }

    /// What such peers have yet to be told of by their present tables, from which route on: each account once.
    fn earlier(
        &self,
        members: impl Iterator<Item = PeerSlot>,
        family: Family,
    ) -> Vec<(RouteId, Arc<Announced>)> {
        let mut earlier: Vec<(RouteId, Arc<Announced>)> = Vec::new();
        let members = members.filter_map(|slot| self.peer(slot)?.members[family].as_ref());
        for (next, held) in members.filter_map(Membership::held) {
            match earlier.iter_mut().find(|(_, known)| Arc::ptr_eq(known, held)) {
                Some((from, _)) => *from = next.min(*from),
                None => earlier.push((next, held.clone())),
            }
        }
        earlier
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::{
        config::{ExportRule, NextHopMode, NormalPriority, Originated, PeerKey},
        rib::{
            PeerKind,
            export::{ExportRules, GroupKey, Policy},
        },
    };

    fn key(cluster_id: Ipv4Addr) -> GroupKey {
        GroupKey {
            family: Family::Ipv4Unicast,
            kind: PeerKind::Ibgp { client: true },
            next_hop_mode: NextHopMode::Auto,
            self_next_hop: Some(Ipv4Addr::LOCALHOST.into()),
            extended_next_hop: false,
            role: None,
            link_local: None,
            cluster_id,
            client_to_client: true,
            four_octet: true,
            extended_messages: false,
            long_lived: true,
            add_path: 4,
            rules: ExportRules::default(),
        }
    }

    /// Ten clients that take several paths, and a thousand routes; each has read a little more than the one before.
    fn clients() -> (Rib, Vec<PeerSlot>) {
        let mut rib = Rib::new(7, false, false);
        let prefix = |n: u32| format!("10.{}.{}.0/24", n / 256, n % 256).parse().unwrap();
        let own = (0..1000).map(|n| Originated { prefix: prefix(n), communities: Vec::new() });
        let own: Vec<Originated> = own.collect();
        rib.set_policy(Policy::new(
            ExportRule::default(),
            NormalPriority::default(),
            own.iter().map(|own| own.prefix),
        ));
        rib.originate(&own, &[]);
        let mut slots = Vec::new();
        for n in 0..10 {
            let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, n));
            let slot = rib.add_peer(PeerKey { address, port: 179 }, PeerKind::Ibgp { client: true });
            rib.join(slot, key(Ipv4Addr::LOCALHOST));
            rib.pull(slot, Family::Ipv4Unicast, 100 * usize::from(n), &mut Vec::new());
            slots.push(slot);
        }
        (rib, slots)
    }

    /// One for each of hundreds of clients would be gigabytes.
    #[test]
    fn all_who_leave_a_group_at_once_share_one_account_of_what_it_told() {
        let (mut rib, slots) = clients();
        for round in 1..4 {
            slots.iter().for_each(|&slot| rib.join(slot, key(Ipv4Addr::new(9, 9, 9, round))));
            rib.end_moves();
            let accounts: Vec<*const Announced> = slots
                .iter()
                .filter_map(|&slot| rib.peer(slot)?.members[Family::Ipv4Unicast].as_ref()?.held())
                .map(|(_, held)| Arc::as_ptr(held))
                .collect();
            assert_eq!(accounts.len(), slots.len());
            assert!(accounts.iter().all(|account| *account == accounts[0]), "{round}");
            // Some go on a little.
            rib.pull(slots[3], Family::Ipv4Unicast, 100, &mut Vec::new());
        }
        let (_, held) =
            rib.peer(slots[0]).unwrap().members[Family::Ipv4Unicast].as_ref().unwrap().held().unwrap();
        assert!((0..1000).all(|id| held.contains(id) && held.names(id).eq([1])));
        assert!(!held.contains(1000) && held.names(1000).next().is_none());
    }
}
