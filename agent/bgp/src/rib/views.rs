//! The RIB's answers to questions.

use std::collections::BTreeSet;

use manx_net::Prefix;
use smallvec::SmallVec;

use super::{
    Kept, PeerSlot, Rib, Table, by_family,
    table::{OWN, PackedStanding, Path, Route, RouteId},
};
use crate::{
    config::{Family, PeerKey},
    event::BestPath,
    message::update::Nlri,
    policy::RuleName,
    view::{Export, PathView, PrefixView, RouteView, SentPathView, SentView, Walk},
};

impl Rib {
    fn path_view(&self, family: Family, prefix: Prefix, path: &Path) -> PathView {
        let generation = self.peer(path.peer).map(|peer| peer.generation[family]);
        PathView {
            source: self.path_source(path.peer),
            standing: path.standing.unpack(),
            path_id: path.received_id(),
            rule: self.import_rule(family, prefix, path),
            stale: generation.is_some_and(|now| now != path.generation),
            next_hop: self.next_hops.get(path.next_hop),
            metric: if path.peer == OWN { None } else { self.next_hops.metric(path.next_hop) },
            attributes: path.attributes.view(),
        }
    }

    fn route_view<P: Kept>(&self, route: &Route<P>) -> Option<RouteView> {
        let view = |path| self.path_view(P::FAMILY, route.prefix.into(), path);
        let others = route.used_beside_best().map(view).collect();
        Some(RouteView { prefix: route.prefix.into(), best: view(route.best()?), others })
    }

    pub fn best(&self, prefix: Prefix) -> Option<RouteView> {
        by_family!(Family::of(prefix), P => {
            let table = P::table(&self.tables);
            self.route_view(table.get(table.find(P::of(prefix)?)?)?)
        })
    }

    /// The best path as [`Rib::next_best`] told it last. The outer `None`: it has something new to tell.
    pub fn told(&self, prefix: Prefix) -> Option<Option<BestPath>> {
        by_family!(Family::of(prefix), P => {
            let table = P::table(&self.tables);
            let route = P::of(prefix).and_then(|key| table.get(table.find(key)?));
            let Some(route) = route else { return Some(None) };
            if route.to_tell {
                return None;
            }
            let others: SmallVec<[Path; 1]> = route.used_beside_best().cloned().collect();
            Some(route.best().map(|path| self.best_path(prefix, path, &others)))
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

    /// The prefixes with a best path, or with one that only its next hop keeps from being it, among the next `slots` places of the tables, in no order, and where the walk goes
    /// on. What stands throughout a walk is met once.
    pub fn walk(&self, from: Walk, slots: u32) -> (Vec<Prefix>, Option<Walk>) {
        let family = if from.ipv6 { Family::Ipv6Unicast } else { Family::Ipv4Unicast };
        by_family!(family, P => {
            let table = P::table(&self.tables);
            let end = from.next.saturating_add(slots).min(table.end());
            let routes = (from.next..end).filter_map(|id| table.get(id));
            let waits = |path: &Path| path.standing == PackedStanding::UNREACHABLE;
            let counts = |route: &&Route<P>| route.best().is_some() || route.paths.iter().any(waits);
            let found = routes.filter(counts).map(|route| route.prefix.into());
            let next = match (end < table.end(), from.ipv6) {
                (true, ipv6) => Some(Walk { ipv6, next: end }),
                (false, false) => Some(Walk { ipv6: true, next: 0 }),
                (false, true) => None,
            };
            (found.collect(), next)
        })
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
                    if let Some(paths) = self.paths_to(slot, P::FAMILY, id, route) {
                        return sent_view(peer, paths);
                    }
                    let export = self.export_to(slot, P::FAMILY, id, route);
                    let rule = route.best().and_then(|best| self.export_rule(slot, P::FAMILY, export, prefix, best));
                    SentView { peer, export, rule, paths: Vec::new() }
                })
                .collect();
            Some(PrefixView { prefix, paths, sent })
        })
    }

    /// `None`: the peer takes no more than the best path.
    fn paths_to<P>(
        &self,
        slot: PeerSlot,
        family: Family,
        id: RouteId,
        route: &Route<P>,
    ) -> Option<Vec<SentPathView>>
    where
        P: Nlri,
    {
        let member = self.peer(slot)?.members[family].as_ref()?;
        let group = self.groups.get(member.group)?.as_ref().filter(|group| group.key.add_path > 0)?;
        let waits = member.awaits(id) || group.is_ahead(id, group.cursor(slot));
        let views = route.ranked(self.wanted.ranked).map(|path| {
            let decided = group.path_exports(id).find(|out| out.key == path.key());
            let export = match decided.map_or(Export::Queued, |out| out.export) {
                _ if path.peer == slot => Export::FromThisPeer,
                Export::Sent if waits => Export::Queued,
                export => export,
            };
            SentPathView {
                source: self.path_source(path.peer),
                path_id: path.key().name(),
                received_id: path.received_id(),
                export,
                rule: self.export_rule(slot, family, export, route.prefix.into(), path),
            }
        });
        Some(views.collect())
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
    fn export_rule(
        &self,
        slot: PeerSlot,
        family: Family,
        export: Export,
        prefix: Prefix,
        path: &Path,
    ) -> Option<RuleName> {
        if !matches!(export, Export::Sent | Export::Queued | Export::Filter) {
            return None;
        }
        let member = self.peer(slot)?.members[family].as_ref()?;
        let key = &self.groups.get(member.group)?.as_ref()?.key;
        let learned = path.peer != OWN;
        key.rules.judge(prefix, &path.attributes, learned, key.kind).rule().cloned()
    }

    /// Sizes that must return to where they began: routes, attribute sets, next hops.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.tables.v4.len() + self.tables.v6.len(), self.interner.len(), self.next_hops.len())
    }
}

/// The whole in a word: what became of the best path, unless another one goes there.
fn sent_view(peer: PeerKey, paths: Vec<SentPathView>) -> SentView {
    let goes = |path: &&SentPathView| matches!(path.export, Export::Sent | Export::Queued);
    let most = paths.iter().find(goes).or(paths.first());
    let export = most.map_or(Export::NoRoute, |path| path.export);
    SentView { peer, export, rule: most.and_then(|path| path.rule.clone()), paths }
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
