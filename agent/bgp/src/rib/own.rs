//! Routes of our own, which stand in the table beside what peers announce and win against it.

use std::{collections::BTreeMap, sync::Arc};

use manx_net::Prefix;

use super::{
    Acting, Kept, Rib, by_family,
    settle::identity,
    table::{NO_NEXT_HOP, OWN, PackedStanding, Path, YIELDING},
};
use crate::{
    attr::Attributes,
    config::{Family, Originated, OwnHost},
    message::update::Nlri,
    policy::local_pref_of_priority,
};

impl Rib {
    /// Own prefixes are these from now on.
    pub fn originate(&mut self, originated: &[Originated], hosts: &[OwnHost]) {
        self.acting = Acting::default();
        let mut wanted: BTreeMap<Prefix, (&[u32], Option<OwnHost>)> = BTreeMap::new();
        for own in originated {
            wanted.entry(own.prefix).or_insert((&own.communities, None));
        }
        for host in hosts {
            wanted.entry(host.prefix).or_insert((&[], Some(*host)));
        }
        let gone: Vec<Prefix> = self.own.keys().filter(|own| !wanted.contains_key(own)).copied().collect();
        for prefix in gone {
            if let Some(attributes) = self.own.remove(&prefix) {
                by_family!(Family::of(prefix), P => if let Some(prefix) = P::of(prefix)
                    && let Some(id) = P::table(&self.tables).find(prefix)
                {
                    self.remove_paths::<P>(id, |path| path.peer == OWN);
                });
                self.release(attributes);
            }
        }
        for (prefix, (communities, host)) in wanted {
            let usual = self.normal_priority.of(Family::of(prefix));
            let priority = host.and_then(|host| host.priority).or(usual);
            let local_pref = priority.map(local_pref_of_priority);
            let attributes = Attributes { local_pref, ..Attributes::own(communities) };
            let attributes = self.intern(attributes);
            by_family!(Family::of(prefix), P => if let Some(prefix) = P::of(prefix) {
                self.announce_own(prefix, &attributes, host.is_some());
            });
            if let Some(old) = self.own.insert(prefix, attributes) {
                self.release(old);
            }
        }
    }

    fn announce_own<P: Kept>(&mut self, prefix: P, attributes: &Arc<Attributes>, yields: bool) {
        let path = Path {
            attributes: attributes.clone(),
            next_hop: NO_NEXT_HOP,
            id: if yields { YIELDING } else { 0 },
            peer: OWN,
            number: 0,
            generation: 0,
            standing: PackedStanding::DEFERRED,
        };
        let wanted = self.wanted;
        let table = P::table_mut(&mut self.tables);
        let id = table.insert(prefix);
        let Some(route) = table.get_mut(id) else { return };
        let before = identity(route, wanted);
        let old = match route.paths.iter_mut().find(|path| path.peer == OWN) {
            Some(held) if Arc::ptr_eq(&held.attributes, attributes) && held.id == path.id => return,
            Some(held) => Some(std::mem::replace(held, path)),
            None => {
                route.paths.push(path);
                None
            }
        };
        self.settle::<P>(id, before, old.as_ref());
        if let Some(old) = old {
            self.let_go(old);
        }
    }
}
