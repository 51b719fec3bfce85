//! Peers that go on under other export rules (behaviour 56). They leave their group for a copy of it that knows all
//! that they have been sent; then the routes are judged anew in pieces, and only what the new rules change is told.
//! Only where a group with the new rules exists already is the whole table sent instead, for what that one's log has
//! passed nobody can tell any more.

use manx_net::Prefix;

use super::{
    GroupKey, Kept, PeerSlot, Rib, RouteId,
    export::ExportRules,
    group_paths::judged_paths,
    jobs::Job,
    judged, source,
    table::{OWN, Path},
};
use crate::view::Export;

impl Rib {
    /// The peer's group becomes the one with this key, without its whole table. False: it cannot.
    pub(super) fn follow_rules(&mut self, slot: PeerSlot, key: &GroupKey) -> bool {
        let Some(from) = self.peer(slot).and_then(|peer| peer.members[key.family].as_ref()).map(|m| m.group)
        else {
            return false;
        };
        let Some(Some(group)) = self.groups.get(from) else { return false };
        let same_but_for_rules = GroupKey { rules: key.rules.clone(), ..group.key.clone() } == *key;
        // In the middle of an earlier change nobody knows under which rules a route was sent.
        if !same_but_for_rules || group.transition.is_some() {
            return false;
        }
        let cursor = group.cursor(slot);
        let to = match self.group_of(key) {
            // Split off for a peer before this one: nothing has happened since.
            Some(to) if self.splits.contains(&(from, to)) => to,
            Some(_) => return false,
            None => {
                self.transitions += 1;
                let split = group.split(key.rules.clone(), self.transitions);
                let to = self.add_group(split);
                self.splits.push((from, to));
                self.jobs.push_back(Job::rules(self.transitions, key.family));
                to
            }
        };
        let Some(mut member) = self.leave(slot, key.family) else { return false };
        member.group = to;
        if let Some(Some(group)) = self.groups.get_mut(to) {
            group.move_to(slot, cursor);
        }
        if let Some(peer) = self.peer_mut(slot) {
            peer.members[key.family] = Some(member);
        }
        self.touch(to);
        true
    }

    /// What follows is another change.
    pub fn end_moves(&mut self) {
        self.moves.clear();
        for (_, to) in std::mem::take(&mut self.splits) {
            // Whoever was to come has come, and what all of them have passed holds no route's number any more.
            if let Some(Some(group)) = self.groups.get_mut(to) {
                group.trim();
            }
        }
    }

    fn in_transition(&self, transition: u64) -> Option<usize> {
        self.groups.iter().position(|group| {
            let its = group.as_ref().and_then(|group| group.transition.as_ref());
            its.is_some_and(|its| its.number == transition)
        })
    }

    pub(super) fn end_transition(&mut self, transition: u64) {
        if let Some(number) = self.in_transition(transition)
            && let Some(Some(group)) = self.groups.get_mut(number)
        {
            group.transition = None;
        }
    }

    pub(super) fn judge_by_new_rules<P: Kept>(&mut self, id: RouteId, transition: u64) {
        let Some(number) = self.in_transition(transition) else { return };
        let table = P::table(&self.tables);
        let (Some(route), Some(Some(group))) = (table.get(id), self.groups.get_mut(number)) else { return };
        if group.key.add_path > 0 {
            let policy = self.policy.judge(route.prefix.into());
            let judged =
                judged_paths(route, self.wanted, |slot| source(&self.peers, slot), policy, &group.key);
            let seen = group.export(id).is_some();
            let key = group.key.clone();
            let Some(transition) = group.transition.as_mut() else { return };
            transition.next = id + 1;
            let earlier = transition.earlier.clone();
            let changed = |which| {
                route.path_at(which).is_none_or(|path| differs(&earlier, &key, route.prefix.into(), path))
            };
            if seen && group.record_paths(id, &judged, changed, table.len()) {
                self.touch(number);
            }
            return;
        }
        let (export, slot) = judged(route, &self.peers, self.policy.judge(route.prefix.into()), &group.key);
        let Some(transition) = group.transition.as_mut() else { return };
        transition.next = id + 1;
        let prefix = route.prefix.into();
        let changed = route.best().is_some_and(|best| differs(&transition.earlier, &group.key, prefix, best));
        let told = match group.export(id) {
            Some(Export::Sent) if export == Export::Sent && changed => {
                group.record(id, export, slot, table.len())
            }
            _ => group.rejudge(id, export, slot, table.len()),
        };
        if told {
            self.touch(number);
        }
    }
}

/// Do the rules make something else of this path than earlier ones did?
fn differs(earlier: &ExportRules, key: &GroupKey, prefix: Prefix, path: &Path) -> bool {
    let (set, learned, now) = (&path.attributes, path.peer != OWN, &key.rules);
    earlier.graceful_shutdown != now.graceful_shutdown
        || earlier.judge(prefix, set, learned, key.kind).changes()
            != now.judge(prefix, set, learned, key.kind).changes()
}
