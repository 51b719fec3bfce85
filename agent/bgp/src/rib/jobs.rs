//! Work on many routes, in pieces, so that no event keeps a keepalive waiting. A job walks the tables by route
//! number; what changes behind its back while it is under way has been settled with the new facts anyway.

use super::{
    Acting, Kept, NextHopId, PeerSlot, Rib, RouteId, by_family,
    settle::{Why, WhyPaths, identity},
    table::OWN,
};
use crate::{config::Family, event::BestChange};

/// Routes looked at in one piece.
const PIECE: u32 = 8192;

#[derive(Debug)]
pub struct Job {
    kind: Kind,
    family: Family,
    next: RouteId,
    /// Of the family's numbers when the first of them was looked at. What came after has been settled with the new
    /// facts, and a job that followed a growing table would look at all of it.
    end: RouteId,
    both: bool,
}

#[derive(Debug)]
enum Kind {
    /// Remove what the peer has not announced for more than `grace` generations.
    Sweep {
        slot: PeerSlot,
        generation: u8,
        grace: i8,
    },
    /// Mark what the peer has not announced in this generation as long-lived stale.
    LongLive {
        slot: PeerSlot,
        generation: u8,
    },
    /// Choose anew where these next hops matter.
    NextHops(Vec<NextHopId>),
    /// Ask the import rules anew about paths by these next hops, which are reached by other interfaces now.
    Interfaces(Vec<NextHopId>),
    Reselect,
    /// Choose anew where the peer has a path, and tell of it anew where its identifier goes along.
    Identifier(PeerSlot),
    /// Ask a peer's import rules anew about its routes.
    Reimport(PeerSlot),
    /// Ask every peer's.
    ReimportAll,
    /// Judge anew what goes where.
    Rejudge,
    /// Judge under its new rules what the group with this transition has sent.
    Rules(u64),
    /// See [`Rib::look_at`].
    Look,
    /// After a restart's deferral.
    FirstChoice,
}

impl Kind {
    fn acting(&self) -> Acting {
        let (slot, what) = match *self {
            Kind::Sweep { slot, .. } | Kind::LongLive { slot, .. } => (slot, BestChange::Dropped),
            Kind::NextHops(_) | Kind::Interfaces(_) => (OWN, BestChange::NextHop),
            Kind::Identifier(slot) | Kind::Reimport(slot) => (slot, BestChange::Configured),
            Kind::Reselect | Kind::ReimportAll | Kind::Rejudge | Kind::Rules(_) => {
                (OWN, BestChange::Configured)
            }
            Kind::Look => (OWN, BestChange::Replaced),
            Kind::FirstChoice => (OWN, BestChange::FirstChoice),
        };
        Acting { slot, what }
    }
}

impl Job {
    fn over_both(kind: Kind) -> Job {
        Job { kind, family: Family::Ipv4Unicast, next: 0, end: 0, both: true }
    }

    pub fn sweep(slot: PeerSlot, family: Family, generation: u8, grace: i8) -> Job {
        Job { kind: Kind::Sweep { slot, generation, grace }, family, next: 0, end: 0, both: false }
    }

    pub fn long_live(slot: PeerSlot, family: Family, generation: u8) -> Job {
        Job { kind: Kind::LongLive { slot, generation }, family, next: 0, end: 0, both: false }
    }

    pub fn next_hops(id: NextHopId) -> Job {
        Job::over_both(Kind::NextHops(vec![id]))
    }

    pub fn interfaces(id: NextHopId) -> Job {
        Job::over_both(Kind::Interfaces(vec![id]))
    }

    pub fn reselect() -> Job {
        Job::over_both(Kind::Reselect)
    }

    pub fn identifier(slot: PeerSlot) -> Job {
        Job::over_both(Kind::Identifier(slot))
    }

    pub fn reimport(slot: PeerSlot) -> Job {
        Job::over_both(Kind::Reimport(slot))
    }

    pub fn reimport_all() -> Job {
        Job::over_both(Kind::ReimportAll)
    }

    pub fn rejudge() -> Job {
        Job::over_both(Kind::Rejudge)
    }

    pub fn rules(transition: u64, family: Family) -> Job {
        Job { kind: Kind::Rules(transition), family, next: 0, end: 0, both: false }
    }

    pub fn look() -> Job {
        Job::over_both(Kind::Look)
    }

    pub fn first_choice() -> Job {
        Job::over_both(Kind::FirstChoice)
    }

    /// The list of a job that has yet to look at its first route.
    pub fn next_hops_not_begun(&mut self) -> Option<&mut Vec<NextHopId>> {
        match &mut self.kind {
            Kind::NextHops(ids) if self.next == 0 && self.family == Family::Ipv4Unicast => Some(ids),
            _ => None,
        }
    }

    /// As [`Self::next_hops_not_begun`].
    pub fn interfaces_not_begun(&mut self) -> Option<&mut Vec<NextHopId>> {
        match &mut self.kind {
            Kind::Interfaces(ids) if self.next == 0 && self.family == Family::Ipv4Unicast => Some(ids),
            _ => None,
        }
    }

    pub fn concerns(&self, slot: PeerSlot) -> bool {
        matches!(self.kind, Kind::Sweep { slot: of, .. } | Kind::LongLive { slot: of, .. } | Kind::Reimport(of) | Kind::Identifier(of) if of == slot)
    }
}

/// So many empty routes wait until there is something else to do; more are work of their own.
const EMPTY_IN_PASSING: usize = 1024;
/// Empty routes that are still referred to, and that one look may find.
const MOST_SPARED: usize = 64;

impl Rib {
    pub fn has_work(&self) -> bool {
        !self.jobs.is_empty() || (self.freeing && self.empty.len() > EMPTY_IN_PASSING)
    }

    /// Does a piece of the first job.
    pub fn work(&mut self) {
        self.free_empty_routes();
        let Some(mut job) = self.jobs.pop_front() else { return };
        if job.next == 0 {
            job.end = by_family!(job.family, P => P::table(&self.tables).end());
        }
        self.acting = job.kind.acting();
        let end = job.end;
        let piece = job.next..end.min(job.next.saturating_add(PIECE));
        by_family!(job.family, P => for id in piece.clone() {
            self.work_on::<P>(&job.kind, id);
        });
        job.next = piece.end;
        let over = matches!(job.kind, Kind::Sweep { slot, .. }
            if self.peer(slot).is_none_or(|peer| peer.received[job.family] == 0));
        if job.next < end && !over {
            self.jobs.push_front(job);
            return;
        }
        if job.both && job.family == Family::Ipv4Unicast {
            job.family = Family::Ipv6Unicast;
            job.next = 0;
            if by_family!(job.family, P => P::table(&self.tables).end()) > 0 {
                self.jobs.push_front(job);
                return;
            }
        }
        if let Kind::Rules(transition) = job.kind {
            self.end_transition(transition);
        }
        if let Kind::Look = job.kind {
            self.end_look();
        }
        if let Kind::FirstChoice = job.kind {
            self.release_members();
            self.settled = true;
        }
    }

    fn work_on<P: Kept>(&mut self, kind: &Kind, id: RouteId) {
        let wanted = self.wanted;
        let Some(route) = P::table(&self.tables).get(id) else { return };
        match *kind {
            Kind::Sweep { slot, generation, grace } => {
                let old = |path: &super::Path| {
                    path.peer == slot && generation.wrapping_sub(path.generation) as i8 > grace
                };
                if route.paths.iter().any(old) {
                    self.remove_paths::<P>(id, old);
                }
            }
            Kind::LongLive { slot, generation } => self.long_live::<P>(id, slot, generation),
            Kind::NextHops(ref ids) => {
                if route.paths.iter().any(|path| ids.contains(&path.next_hop)) {
                    let before = identity(route, wanted);
                    self.settle::<P>(id, before, None);
                }
            }
            Kind::Interfaces(ref ids) => {
                self.judge_imports::<P>(id, |path| ids.contains(&path.next_hop));
            }
            Kind::ReimportAll => self.judge_imports::<P>(id, |_| true),
            Kind::Reselect | Kind::FirstChoice => {
                let before = identity(route, wanted);
                self.settle::<P>(id, before, None);
            }
            Kind::Identifier(slot) => {
                if route.paths.iter().any(|path| path.peer == slot) {
                    let before = identity(route, wanted);
                    self.settle::<P>(id, before, None);
                    self.judge::<P>(id, Why::Identifier(slot));
                    self.judge_paths::<P>(id, WhyPaths::Identifier(slot));
                }
            }
            Kind::Look => self.look_at::<P>(id),
            Kind::Reimport(slot) => self.reimport::<P>(id, slot),
            Kind::Rules(transition) => self.judge_by_new_rules::<P>(id, transition),
            Kind::Rejudge => {
                self.judge::<P>(id, Why::Rules);
                self.judge_paths::<P>(id, WhyPaths::Rules);
            }
        }
    }

    /// Routes that have no path any more, and stay until every peer has read so.
    pub fn empty_routes(&self) -> u64 {
        self.empty.len() as u64
    }

    /// Frees the numbers of routes that nobody refers to any more. A peer that does not read may keep many referred
    /// to for minutes; they are looked at a few at a time and in turn.
    fn free_empty_routes(&mut self) {
        self.freeing = false;
        let mut spared = 0;
        for _ in 0..self.empty.len().min(PIECE as usize) {
            let Some((family, id)) = self.empty.pop_front() else { return };
            by_family!(family, P => {
                let Some(route) = P::table(&self.tables).get(id) else { continue };
                if !route.paths.is_empty() {
                    continue;
                }
                if route.to_tell || self.is_referred_to(family, id) {
                    self.empty.push_back((family, id));
                    spared += 1;
                    if spared == MOST_SPARED {
                        return;
                    }
                    continue;
                }
                self.freeing = true;
                P::table_mut(&mut self.tables).remove(id);
                for group in self.groups.iter_mut().flatten().filter(|group| group.key.family == family) {
                    group.forget(id);
                }
            });
        }
    }

    fn is_referred_to(&self, family: Family, id: RouteId) -> bool {
        let in_group = |group: &super::Group| group.key.family == family && group.refers_to(id);
        self.groups.iter().flatten().any(in_group)
            || self
                .peers
                .iter()
                .flatten()
                .any(|peer| peer.members[family].as_ref().is_some_and(|member| member.holds(id)))
    }
}
