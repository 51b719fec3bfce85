//! Groups whose members take several paths for a prefix (RFC 7911). For each route such a group keeps which of the
//! best paths it announces, which of these are news, and which names are gone since all members last knew the same.
//! The log and its cursors are those of every group.

use std::sync::Arc;

use bytes::BytesMut;
use smallvec::SmallVec;

use super::{
    RouteId,
    batch::{Audience, Batch, close_part},
    export::{GroupKey, Ruling, Source, outgoing, verdict},
    forms::{Form, Sorted},
    group::Group,
    select::Wanted,
    table::{OWN, PathKey, PeerSlot, Route, Table},
};
use crate::{
    attr::{Attributes, encode::encode},
    message::update::{Named, Nlri, PathId, write_announcements, write_withdrawals},
    view::Export,
};

/// What a group keeps of a path: eight octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathOut {
    pub key: PathKey,
    pub export: Export,
    /// Some member may not know it yet, or not as it is now.
    news: bool,
}

/// What a group keeps of a route's paths.
#[derive(Clone, Debug, Default)]
pub struct PathsOut {
    /// In the order of preference.
    ranked: SmallVec<[PathOut; 3]>,
    /// Announced before, and some member may not know yet that it is no longer.
    gone: SmallVec<[PathId; 2]>,
}

/// The routes' paths that are announced by a group, each with its verdict: the best that may go there, as many as the
/// members take. Worse ones are [`Export::NotAmongBest`].
pub fn judged_paths<P: Nlri>(
    route: &Route<P>,
    wanted: Wanted,
    source: impl Fn(PeerSlot) -> Option<Source>,
    policy: Ruling,
    key: &GroupKey,
) -> SmallVec<[(PathKey, Export); 4]> {
    let mut sent = 0;
    let judge = |path: &super::Path| {
        let export = if sent == key.add_path {
            Export::NotAmongBest
        } else {
            verdict(route.prefix.into(), path, source(path.peer), policy, key)
        };
        sent += u8::from(export == Export::Sent);
        (path.key(), export)
    };
    route.ranked(wanted.ranked).map(judge).collect()
}

impl Group {
    /// The verdicts on a route's paths, the best first.
    pub fn path_exports(&self, id: RouteId) -> impl Iterator<Item = PathOut> {
        self.paths.get(id as usize).into_iter().flat_map(|paths| paths.ranked.iter().copied())
    }

    /// The attributes of the paths that are announced of a route.
    pub fn sets<'a, P>(&self, id: RouteId, route: &'a Route<P>) -> impl Iterator<Item = &'a Arc<Attributes>> {
        let sent = self.path_exports(id).filter(|path| path.export == Export::Sent);
        sent.filter_map(|path| route.path_at(path.key)).map(|path| &path.attributes)
    }

    /// The names that some member may know.
    pub fn names_known(&self, id: RouteId) -> SmallVec<[PathId; 2]> {
        let sent = self.path_exports(id).filter(|path| path.export == Export::Sent);
        let mut names: SmallVec<[PathId; 2]> = sent.map(|path| path.key.name()).collect();
        if self.refers_to(id)
            && let Some(paths) = self.paths.get(id as usize)
        {
            names.extend(paths.gone.iter().copied());
        }
        names
    }

    /// What goes of a route is this from now on. `changed`: leaves otherwise than before, though it was announced. True
    /// if the members have to be told.
    pub fn record_paths(
        &mut self,
        id: RouteId,
        judged: &[(PathKey, Export)],
        changed: impl Fn(PathKey) -> bool,
        routes: usize,
    ) -> bool {
        let told = self.set_paths(id, judged, changed);
        if told {
            self.append(id, routes);
        }
        told
    }

    /// A member's first table reaches a route that nobody has looked at.
    pub fn see_paths(&mut self, id: RouteId, judged: impl FnOnce() -> SmallVec<[(PathKey, Export); 4]>) {
        if self.export(id).is_none() {
            self.set_paths(id, &judged(), |_| false);
        }
    }

    fn set_paths(
        &mut self,
        id: RouteId,
        judged: &[(PathKey, Export)],
        changed: impl Fn(PathKey) -> bool,
    ) -> bool {
        let at = id as usize;
        self.make_room(id);
        if self.paths.len() <= at {
            self.paths.resize_with(at + 1, PathsOut::default);
        }
        let awaited = self.refers_to(id);
        #[expect(clippy::indexing_slicing, reason = "just made to reach it")]
        let PathsOut { ranked: before, mut gone } = std::mem::take(&mut self.paths[at]);
        if !awaited {
            gone.clear();
        }
        let mut told = false;
        let mut ranked: SmallVec<[PathOut; 3]> = SmallVec::with_capacity(judged.len());
        for &(key, export) in judged {
            let earlier = before.iter().find(|path| path.key == key);
            let export = match earlier {
                // It is as long as it was.
                Some(PathOut { export: Export::TooLong, .. }) if export == Export::Sent && !changed(key) => {
                    Export::TooLong
                }
                _ => export,
            };
            let mut news = false;
            if export == Export::Sent {
                let known = earlier.filter(|path| path.export == Export::Sent);
                let is_new = known.is_none_or(|_| changed(key));
                news = is_new || (awaited && known.is_some_and(|path| path.news));
                told |= is_new;
                gone.retain(|name| *name != key.name());
            }
            ranked.push(PathOut { key, export, news });
        }
        let announced =
            |paths: &[PathOut], key| paths.iter().any(|path| path.key == key && path.export == Export::Sent);
        for path in before.iter().filter(|path| path.export == Export::Sent) {
            self.count(path.key.peer, false);
            if !announced(&ranked, path.key) {
                gone.push(path.key.name());
                told = true;
            }
        }
        for path in ranked.iter().filter(|path| path.export == Export::Sent) {
            self.count(path.key.peer, true);
        }
        let any_sent = ranked.iter().any(|path| path.export == Export::Sent);
        let of_best = ranked.first().map_or(Export::NoRoute, |path| path.export);
        self.set_export(id, if any_sent { Export::Sent } else { of_best });
        #[expect(clippy::indexing_slicing, reason = "made to reach it above")]
        let place = &mut self.paths[at];
        *place = PathsOut { ranked, gone };
        told
    }

    pub(super) fn forget_paths(&mut self, id: RouteId) {
        if let Some(paths) = self.paths.get_mut(id as usize) {
            *paths = PathsOut::default();
        }
    }

    /// The present state of these routes: what is news of them and what is gone, or with `whole` all that is announced
    /// of them. `gone` are withdrawn besides.
    pub fn encode_paths<P: Nlri>(
        &mut self,
        ids: &[RouteId],
        gone: Vec<Named<P>>,
        whole: bool,
        table: &Table<P>,
        source: impl Fn(PeerSlot) -> Option<Source>,
    ) -> Batch {
        let rules = self.key.rules.clone();
        let mut sorted = Sorted::withdrawing(gone);
        for &id in ids {
            let Some(route) = table.get(id) else { continue };
            let Some(paths) = self.paths.get(id as usize) else { continue };
            let named = |id| Named { id, prefix: route.prefix };
            if !whole {
                sorted.withdrawn.extend(paths.gone.iter().map(|&name| named(name)));
            }
            for out in paths.ranked.iter().filter(|out| out.export == Export::Sent && (whole || out.news)) {
                let name = out.key.name();
                let Some(path) = route.path_at(out.key) else {
                    sorted.withdrawn.push(named(name));
                    continue;
                };
                let verdict =
                    rules.judge(route.prefix.into(), &path.attributes, path.peer != OWN, self.key.kind);
                // What the rules refuse is not sent even while the verdicts of earlier ones still stand.
                let Some(changes) = verdict.changes() else {
                    sorted.withdrawn.push(named(name));
                    continue;
                };
                let form =
                    Form { attributes: &path.attributes, changes, source: path.peer, displaced: false };
                sorted.announce(id, named(name), form);
            }
        }

        let mut out = BytesMut::new();
        let mut parts = Vec::new();
        write_withdrawals(&mut out, &sorted.withdrawn);
        close_part(&mut parts, out.len(), Audience::All);
        let mut attributes = BytesMut::new();
        let mut too_long = Vec::new();
        for bucket in sorted.buckets() {
            let form = bucket.form;
            let set = rules.changed(form.attributes, form.changes);
            let written = outgoing(&set, source(form.source), &self.key).and_then(|outgoing| {
                attributes.clear();
                encode(&mut attributes, &set, &outgoing);
                let extended = self.key.extended_messages;
                write_announcements(
                    &mut out,
                    &bucket.prefixes,
                    &attributes,
                    &outgoing.mp_next_hop(),
                    extended,
                )
            });
            if written.is_some() {
                close_part(&mut parts, out.len(), Audience::AllBut(form.source));
            } else {
                // Behaviour 51.
                write_withdrawals(&mut out, &bucket.prefixes);
                close_part(&mut parts, out.len(), Audience::All);
                too_long.extend(bucket.ids.into_iter().zip(bucket.prefixes.iter().map(|named| named.id)));
            }
        }
        for (id, name) in too_long {
            self.set_too_long(id, name);
        }
        Batch::new(out.freeze(), parts)
    }

    fn set_too_long(&mut self, id: RouteId, name: PathId) {
        let Some(paths) = self.paths.get_mut(id as usize) else { return };
        let Some(path) = paths.ranked.iter_mut().find(|path| path.key.name() == name) else { return };
        if path.export == Export::Sent {
            path.export = Export::TooLong;
            let source = path.key.peer;
            let any_sent = paths.ranked.iter().any(|path| path.export == Export::Sent);
            self.count(source, false);
            if !any_sent {
                self.set_export(id, Export::TooLong);
            }
        }
    }
}
