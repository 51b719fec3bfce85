//! Routes at the door: the peer's rules, and GRACEFUL_SHUTDOWN. A refused route stays in the Adj-RIB-In as it came,
//! and a changed one remembers the set that was received, so that other rules can be asked about the same routes
//! later without the peer's help (behaviour 56).

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use manx_net::Prefix;
use smallvec::SmallVec;

use super::{
    Acting, Kept, PeerSlot, Rib, RouteId,
    checks::Checks,
    export::PeerKind,
    jobs::Job,
    table::{NO_NEXT_HOP, NextHopId, OWN, PackedStanding, Path},
};
use crate::{
    attr::{Attributes, Received},
    config::{Family, PeerKey, PerFamily, WellKnown},
    event::{BestChange, NextHop},
    message::update::PathId,
    policy::{Candidate, Change, PeerRules, PeerType, RuleName, Verdict, changed},
    view::RefusedBy,
};

/// What decides on a peer's routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Import {
    /// Asked before the rules.
    pub checks: Checks,
    pub rules: PeerRules,
    /// Within these the peer may ask for host routes to be blackholes (RFC 7999).
    pub blackholes: Vec<Prefix>,
}

impl Import {
    /// RFC 7999 §3.3: only for what the peer may speak for. Manx takes host routes only, so that nobody can silence
    /// a block with one announcement.
    pub fn is_blackhole(&self, prefix: Prefix, attributes: &Attributes) -> bool {
        prefix.is_host()
            && attributes.has_community(WellKnown::BLACKHOLE)
            && self.blackholes.iter().any(|within| within.covers(prefix))
    }
}

impl PeerKind {
    pub fn peer_type(self) -> PeerType {
        match self {
            PeerKind::Ebgp { .. } => PeerType::Ebgp,
            PeerKind::Ibgp { .. } => PeerType::Ibgp,
        }
    }
}

/// A next hop as this peer means it.
pub fn next_hop_from(peer: PeerKey, address: IpAddr) -> NextHop {
    let link_local = matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
    NextHop { address, link_of: link_local.then_some(peer) }
}

impl Rib {
    /// The peer's rules are these from now on. Its routes are judged anew in pieces; only differences go on.
    pub fn set_import(&mut self, slot: PeerSlot, import: Import) {
        let Some(peer) = self.peer_mut(slot) else { return };
        if peer.import != import {
            peer.import = import;
            if peer.received != PerFamily::default() {
                self.jobs.push_back(Job::reimport(slot));
            }
        }
    }

    /// A peer announces prefixes with one set of attributes.
    pub fn import<P: Kept>(
        &mut self,
        slot: PeerSlot,
        prefixes: impl Iterator<Item = (PathId, P)>,
        attributes: Attributes,
    ) {
        self.acting = Acting { slot, what: BestChange::Announced };
        let Some(peer) = self.peer(slot) else { return };
        let (key, checks) = (peer.key, peer.import.checks.clone());
        let refused = checks.refuse(&attributes);
        let next_hop = match refused {
            Some(_) => NO_NEXT_HOP,
            None => self.next_hop(next_hop_from(key, attributes.next_hop)),
        };
        let received = self.intern(attributes);
        let Some(peer) = self.peer(slot) else { return };
        let (rules, peer_type) = (peer.import.rules.of(P::FAMILY).clone(), peer.kind.peer_type());
        let generation = peer.generation[P::FAMILY];
        let interface = self.interface_of(next_hop).cloned();
        // What each list of changes made of the set; nearly always there is one.
        let mut made: SmallVec<[(&[Change], Arc<Attributes>); 2]> = SmallVec::new();
        for (id, prefix) in prefixes {
            if refused == Some(RefusedBy::ClusterLoop)
                && let Some(route) = P::table(&self.tables).find(prefix)
                && self.withholds::<P>(route, slot, id)
            {
                continue;
            }
            let verdict = if rules.is_empty() {
                Verdict::Fallthrough
            } else {
                rules.judge(&candidate(prefix.into(), &received, peer_type, interface.as_deref()))
            };
            let changes = match (refused.or_else(|| checks.refuse_prefix(prefix)), verdict.changes()) {
                (None, Some(changes)) => changes,
                (Some(refused), _) => {
                    self.put(slot, id, prefix, &received, NO_NEXT_HOP, Some(refused), generation);
                    continue;
                }
                (None, None) => {
                    let held = self.held_though_refused(next_hop);
                    self.put(slot, id, prefix, &received, held, Some(RefusedBy::Filter), generation);
                    continue;
                }
            };
            let at = made.iter().position(|(of, _)| std::ptr::eq(*of, changes)).unwrap_or_else(|| {
                made.push((changes, self.imported(&received, changes, interface.clone())));
                made.len() - 1
            });
            #[expect(clippy::indexing_slicing, reason = "just found or made")]
            self.put(slot, id, prefix, &made[at].1, next_hop, None, generation);
        }
        for (_, set) in made {
            self.release(set);
        }
        self.release(received);
    }

    /// The set as it counts here. RFC 8326 §4.2: a path with GRACEFUL_SHUTDOWN is the last that is chosen, whatever
    /// preference it came with or a rule gave it.
    fn imported(
        &mut self,
        received: &Arc<Attributes>,
        changes: &[Change],
        interface: Option<Arc<str>>,
    ) -> Arc<Attributes> {
        let mut set = changed(received, changes);
        if set.has_community(WellKnown::GRACEFUL_SHUTDOWN) && set.local_pref != Some(0) {
            set.to_mut().local_pref = Some(0);
        }
        match set {
            Cow::Borrowed(_) if interface.is_none() => received.clone(),
            set => {
                let received = Box::new(Received { set: received.clone(), interface });
                self.intern(Attributes { received: Some(received), ..set.into_owned() })
            }
        }
    }

    /// Only where some rule asks.
    fn interface_of(&self, next_hop: NextHopId) -> Option<&Arc<str>> {
        if self.ask_interfaces { self.next_hops.interface(next_hop) } else { None }
    }

    /// A path that the rules refuse needs no next hop, unless they may say otherwise once that is reached by another
    /// interface.
    fn held_though_refused(&self, next_hop: NextHopId) -> NextHopId {
        if self.ask_interfaces { next_hop } else { NO_NEXT_HOP }
    }

    /// Asks the rules again about such paths, whichever peers they are from.
    pub(super) fn judge_imports<P: Kept>(&mut self, id: RouteId, such: impl Fn(&Path) -> bool) {
        let Some(route) = P::table(&self.tables).get(id) else { return };
        let such = route.paths.iter().filter(|path| path.peer != OWN && such(path));
        let such: SmallVec<[(PeerSlot, PathId, Arc<Attributes>); 1]> =
            such.map(|path| (path.peer, path.id, path.attributes.as_received().clone())).collect();
        for (slot, path_id, received) in such {
            self.judge_import::<P>(id, slot, path_id, &received);
            self.release(received);
        }
    }

    /// Asks the rules again about the peer's paths for a route.
    pub(super) fn reimport<P: Kept>(&mut self, id: RouteId, slot: PeerSlot) {
        let Some(route) = P::table(&self.tables).get(id) else { return };
        let its = route.paths.iter().filter(|path| path.peer == slot);
        let received: SmallVec<[(PathId, Arc<Attributes>); 1]> =
            its.map(|path| (path.id, path.attributes.as_received().clone())).collect();
        for (path_id, received) in received {
            self.judge_import::<P>(id, slot, path_id, &received);
            self.release(received);
        }
    }

    /// Puts what the rules make of this set in the place of the peer's path, which is as old or new as before.
    pub(super) fn judge_import<P: Kept>(
        &mut self,
        id: RouteId,
        slot: PeerSlot,
        path_id: PathId,
        received: &Arc<Attributes>,
    ) {
        let Some(peer) = self.peer(slot) else { return };
        let (key, peer_type) = (peer.key, peer.kind.peer_type());
        let Some(route) = P::table(&self.tables).get(id) else { return };
        let Some(path) = route.path_of(slot, path_id) else { return };
        let (prefix, generation) = (route.prefix, path.generation);
        let checks = &peer.import.checks;
        if let Some(refused) = checks.refuse(received).or_else(|| checks.refuse_prefix(prefix)) {
            // A node that becomes one of a cluster's reflectors has had its routes by the cluster's others.
            if refused == RefusedBy::ClusterLoop && self.withholds::<P>(id, slot, path_id) {
                return;
            }
            return self.put(slot, path_id, prefix, received, NO_NEXT_HOP, Some(refused), generation);
        }
        let rules = peer.import.rules.of(P::FAMILY).clone();
        let next_hop = next_hop_from(key, received.next_hop);
        // The driver need not be asked about what a refused path does not use.
        let asked = self.ask_interfaces.then(|| self.next_hop(next_hop));
        let interface = asked.and_then(|id| self.interface_of(id)).cloned();
        match rules.judge(&candidate(prefix.into(), received, peer_type, interface.as_deref())).changes() {
            Some(changes) => {
                let set = self.imported(received, changes, interface.clone());
                let next_hop = asked.unwrap_or_else(|| self.next_hop(next_hop));
                self.put(slot, path_id, prefix, &set, next_hop, None, generation);
                self.release(set);
            }
            None => {
                let held = asked.unwrap_or(NO_NEXT_HOP);
                self.put(slot, path_id, prefix, received, held, Some(RefusedBy::Filter), generation);
            }
        }
        // The path may be the same and yet a blackhole now, or none any more. A rule may ask for one, too.
        let path = P::table(&self.tables).get(id).and_then(|route| route.path_of(slot, path_id));
        if path.is_some_and(|path| path.attributes.has_community(WellKnown::BLACKHOLE)) {
            self.tell::<P>(id);
        }
    }

    /// The rule that let a path in or refused it; none where no rule matches or the built-in checks refused it.
    pub(super) fn import_rule(&self, family: Family, prefix: Prefix, path: &Path) -> Option<RuleName> {
        let peer = self.peer(path.peer)?;
        if path.standing.is_refused() && path.standing != PackedStanding::refused(RefusedBy::Filter) {
            return None;
        }
        let interface = self.interface_of(path.next_hop).map(|interface| &**interface);
        let route = candidate(prefix, path.attributes.as_received(), peer.kind.peer_type(), interface);
        peer.import.rules.of(family).judge(&route).rule().cloned()
    }
}

fn candidate<'a>(
    prefix: Prefix,
    attributes: &'a Attributes,
    peer_type: PeerType,
    interface: Option<&'a str>,
) -> Candidate<'a> {
    Candidate { prefix, attributes, learned: true, peer_type, interface }
}
