//! The RIB's answers to questions.

use std::collections::BTreeSet;

use manx_net::Prefix;

use super::{
    Kept, PeerSlot, Rib, Table, by_family,
    table::{OWN, Path, Route, RouteId},
};
use crate::{
    config::{Family, PeerKey},
    message::update::Nlri,
    policy::RuleName,
    view::{Export, PathView, PrefixView, RouteView, SentView},
};

impl Rib {
    fn path_view(&self, family: Family, prefix: Prefix, path: &Path) -> PathView {
        let generation = self.peer(path.peer).map(|peer| peer.generation[family]);
        PathView {
            source: self.path_source(path.peer),
            standing: path.standing.unpack(),
            rule: self.import_rule(family, prefix, path),
            stale: generation.is_some_and(|now| now != path.generation),
            next_hop: self.next_hops.get(path.next_hop),
            metric: if path.peer == OWN { None } else { self.next_hops.metric(path.next_hop) },
            attributes: path.attributes.view(),
        }
    }

    fn route_view<P: Kept>(&self, route: &Route<P>) -> Option<RouteView> {
        let best = self.path_view(P::FAMILY, route.prefix.into(), route.best()?);
        Some(RouteView { prefix: route.prefix.into(), best })
    }

    pub fn best(&self, prefix: Prefix) -> Option<RouteView> {
        by_family!(Family::of(prefix), P => {
            let table = P::table(&self.tables);
            self.route_view(table.get(table.find(P::of(prefix)?)?)?)
        })
    }

    /// In order: up to `limit` routes with a best path, after `after`.
    pub fn routes(&self, after: Option<Prefix>, limit: usize) -> Vec<RouteView> {
        let mut first = BTreeSet::new();
        for family in Family::ALL {
            by_family!(family, P => collect_first(P::table(&self.tables), after, limit, &mut first));
        }
        let views = first.into_iter().filter_map(|(prefix, id)| {
            by_family!(Family::of(prefix), P => self.route_view(P::table(&self.tables).get(id)?))
        });
        views.collect()
    }

    /// `sessions`: the peers whose sessions carry the prefix's family.
    pub fn explain(&self, prefix: Prefix, sessions: &[(PeerSlot, PeerKey)]) -> Option<PrefixView> {
        by_family!(Family::of(prefix), P => {
            let table = P::table(&self.tables);
            let id = table.find(P::of(prefix)?)?;
            let route = table.get(id)?;
            let paths = route.paths.iter().map(|path| self.path_view(P::FAMILY, prefix, path)).collect();
            let sent = sessions
                .iter()
                .map(|&(slot, peer)| {
                    let export = self.export_to(slot, P::FAMILY, id, route);
                    SentView { peer, export, rule: self.export_rule(slot, P::FAMILY, export, route) }
                })
                .collect();
            Some(PrefixView { prefix, paths, sent })
        })
    }

    fn export_to<P>(&self, slot: PeerSlot, family: Family, id: RouteId, route: &Route<P>) -> Export {
        let Some(best) = route.best() else { return Export::NoRoute };
        if best.peer == slot {
            return Export::FromThisPeer;
        }
        let member = self.peer(slot).and_then(|peer| peer.members[family].as_ref());
        let Some((member, Some(group))) =
            member.and_then(|member| Some((member, self.groups.get(member.group)?.as_ref())))
        else {
            return Export::Queued;
        };
        match group.export(id) {
            None => Export::Queued,
            Some(Export::Sent) if member.awaits(id) || group.is_ahead(id, group.cursor(slot)) => {
                Export::Queued
            }
            Some(export) => export,
        }
    }

    /// The rule behind a verdict; none where no rule had a word in it.
    fn export_rule<P: Nlri>(
        &self,
        slot: PeerSlot,
        family: Family,
        export: Export,
        route: &Route<P>,
    ) -> Option<RuleName> {
        if !matches!(export, Export::Sent | Export::Queued | Export::Filter) {
            return None;
        }
        let member = self.peer(slot)?.members[family].as_ref()?;
        let key = &self.groups.get(member.group)?.as_ref()?.key;
        let best = route.best()?;
        let learned = best.peer != OWN;
        key.rules.judge(route.prefix.into(), &best.attributes, learned, key.kind).rule().cloned()
    }

    /// Sizes that must return to where they began: routes, attribute sets, next hops.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.tables.v4.len() + self.tables.v6.len(), self.interner.len(), self.next_hops.len())
    }
}

fn collect_first<P: Kept>(
    table: &Table<P>,
    after: Option<Prefix>,
    limit: usize,
    first: &mut BTreeSet<(Prefix, RouteId)>,
) {
    for (id, route) in table.iter() {
        let prefix: Prefix = route.prefix.into();
        if after.is_some_and(|after| prefix <= after) || route.best().is_none() {
            continue;
        }
        first.insert((prefix, id));
        if first.len() > limit {
            first.pop_last();
        }
    }
}
