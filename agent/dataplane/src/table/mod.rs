//! The desired table: best paths, own blocks, pools, pods and what the kernel knows better, made into one
//! action per prefix. Which sink takes which action is decided here (`decide`) and nowhere else.
//!
//! The table is pure: it is told facts, recomputes the prefixes that they touch, and says what changed. What it
//! holds after any sequence of facts is what it would hold if it had been told the last of them at once.

mod cover;
mod decide;
mod delta;
mod inputs;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    net::IpAddr,
    ops::Bound,
    sync::Arc,
};

use manx_net::Prefix;

use crate::{
    kernel::within,
    pods::Pod,
    resolve::{Gateway, Resolution},
    route::{Action, Route},
};
use cover::Cover;
pub(crate) use decide::Withheld;
use decide::decide;
pub use delta::Delta;
pub use inputs::{Blackhole, Plan, Pool, PoolWrite, Reply};

/// What the kernel has for a prefix that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// The kernel would take it rather than our route for the same prefix.
    pub wins: bool,
}

/// What one prefix is to each sink. Mostly the same, and then one copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    fib: Option<Arc<Action>>,
    map: Option<Arc<Action>>,
    withheld: Option<Withheld>,
}

impl Entry {
    fn is_nothing(&self) -> bool {
        self.fib.is_none() && self.map.is_none() && self.withheld.is_none()
    }

    fn map_route(&self, prefix: Prefix) -> Option<Route> {
        let action = Action::clone(self.map.as_ref()?);
        Some(Route { prefix, action })
    }
}

/// What a round of recomputation changed.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub fib: Delta,
    pub map: Delta,
    /// Prefixes with a best path that is not written, and why; only where that is news.
    pub withheld: Vec<(Prefix, Withheld)>,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    plan: Plan,
    blocks: BTreeMap<Prefix, Reply>,
    /// Pools that are blackholes where nothing more specific is known.
    closed: BTreeMap<Prefix, Reply>,
    /// All is known that peers and an earlier run had to say.
    learned: bool,
    paths: HashMap<Prefix, Vec<Gateway>>,
    /// Of paths whose priority is better than the usual one.
    priorities: HashMap<Prefix, u32>,
    /// Prefixes that peers ask to be explicit blackholes.
    blackholes: HashSet<Prefix>,
    /// Those of an operator.
    ordered: BTreeMap<Prefix, Reply>,
    resolutions: HashMap<Gateway, Resolution>,
    /// How many paths lead by each gateway.
    uses: HashMap<Gateway, usize>,
    pods: HashMap<Prefix, Pod>,
    foreign: BTreeMap<Prefix, Foreign>,
    /// Blocks, paths, blackholes and pools: inside them the kernel's own routes matter to the map.
    cover: Cover,
    entries: BTreeMap<Prefix, Entry>,
    dirty: BTreeSet<Prefix>,
    /// Gateways that are reached in another way now; a link takes many of them along.
    moved: HashSet<Gateway>,
    /// The places of pools and services in the plan mean something else now: say again what is withheld.
    pools_changed: bool,
}

impl Table {
    pub fn set_plan(&mut self, plan: Plan) {
        if plan == self.plan {
            return;
        }
        let by_prefix = |holes: &[Blackhole]| holes.iter().map(|hole| (hole.prefix, hole.reply)).collect();
        let blocks_before = mem::replace(&mut self.blocks, by_prefix(&plan.own_blocks));
        for (prefix, reply) in &blocks_before {
            match self.blocks.get(prefix) {
                Some(now) if now == reply => {}
                Some(_) => drop(self.dirty.insert(*prefix)),
                None => self.uncover(*prefix),
            }
        }
        for prefix in self.blocks.keys().copied().collect::<Vec<_>>() {
            if !blocks_before.contains_key(&prefix) {
                self.cover(prefix);
            }
        }
        // A closed pool is a pool, and covered as such.
        self.dirty.extend(self.closed.keys());
        self.closed = by_prefix(&plan.closed_pools);
        self.dirty.extend(self.closed.keys());
        let before = mem::replace(&mut self.plan, plan);
        self.routers_changed(&before);
        if before.services != self.plan.services {
            self.pools_changed = true;
            self.dirty.extend(self.blocks.keys().chain(self.ordered.keys()).chain(&self.blackholes));
            self.dirty.extend(self.paths.keys());
        }
        if before.pools != self.plan.pools {
            self.pools_changed = true;
            for pool in &before.pools {
                self.uncover(pool.prefix);
            }
            for pool in self.plan.pools.clone() {
                self.cover(pool.prefix);
            }
            // A pool's rule and mark concern every route inside it, before and after.
            self.dirty.extend(self.entries.keys());
            self.dirty.extend(self.paths.keys());
            self.dirty.extend(self.pods.keys());
        }
    }

    fn routers_changed(&mut self, before: &Plan) {
        if before.routers == self.plan.routers {
            return;
        }
        let either = before.routers.iter().chain(&self.plan.routers);
        let changed = either.filter(|(peer, _)| before.routers.get(peer) != self.plan.routers.get(peer));
        self.dirty.extend(changed.map(|(peer, _)| Prefix::host(*peer)));
        for router in self.plan.routers.values() {
            *self.uses.entry(Gateway::from(*router)).or_default() += 1;
        }
        before.routers.values().for_each(|router| self.forget_use(Gateway::from(*router)));
    }

    /// The router by which a peer with this address is reached, if it is for us to lead there.
    pub fn router_of(&self, prefix: Prefix) -> Option<IpAddr> {
        prefix.is_host().then(|| self.plan.routers.get(&prefix.addr()).copied()).flatten()
    }

    fn forget_use(&mut self, gateway: Gateway) {
        if let Some(uses) = self.uses.get_mut(&gateway) {
            *uses -= 1;
            if *uses == 0 {
                self.uses.remove(&gateway);
            }
        }
    }

    /// The next hops of the best path; none withdraws it. Returns those that it had before.
    pub fn set_path(&mut self, prefix: Prefix, gateways: Vec<Gateway>) -> Vec<Gateway> {
        for gateway in &gateways {
            *self.uses.entry(*gateway).or_default() += 1;
        }
        let before = if gateways.is_empty() {
            self.paths.remove(&prefix)
        } else {
            self.paths.insert(prefix, gateways)
        };
        match (&before, self.paths.contains_key(&prefix)) {
            (None, true) => self.cover(prefix),
            (Some(_), false) => self.uncover(prefix),
            _ => {}
        }
        self.dirty.insert(prefix);
        let before = before.unwrap_or_default();
        for gateway in &before {
            self.forget_use(*gateway);
        }
        before
    }

    /// Of the best path, if it is better than the usual one. Returns whether it is another.
    pub fn set_priority(&mut self, prefix: Prefix, priority: Option<u32>) -> bool {
        let before = match priority {
            Some(priority) => self.priorities.insert(prefix, priority),
            None => self.priorities.remove(&prefix),
        };
        if before != priority {
            self.dirty.insert(prefix);
        }
        before != priority
    }

    /// All is learned: pools may be closed.
    pub fn finish_startup(&mut self) {
        self.learned = true;
        self.dirty.extend(self.closed.keys());
    }

    /// Whether an operator wants the prefix to be a blackhole, whatever else is known of it.
    pub fn set_ordered_blackhole(&mut self, prefix: Prefix, reply: Option<Reply>) {
        match reply {
            Some(reply) => match self.ordered.insert(prefix, reply) {
                Some(_) => drop(self.dirty.insert(prefix)),
                None => self.cover(prefix),
            },
            None => {
                if self.ordered.remove(&prefix).is_some() {
                    self.uncover(prefix);
                }
            }
        }
    }

    /// Whether a peer asks for the prefix to be a blackhole, whatever else is known of it.
    pub fn set_blackhole(&mut self, prefix: Prefix, blackhole: bool) {
        if blackhole {
            if self.blackholes.insert(prefix) {
                self.cover(prefix);
            }
        } else if self.blackholes.remove(&prefix) {
            self.uncover(prefix);
        }
    }

    /// How a gateway is reached now. `None` once no path uses it.
    pub fn set_resolution(&mut self, gateway: Gateway, resolution: Option<Resolution>) {
        let changed = match resolution {
            Some(resolution) if self.resolutions.get(&gateway) == Some(&resolution) => false,
            Some(resolution) => {
                self.resolutions.insert(gateway, resolution);
                true
            }
            None => self.resolutions.remove(&gateway).is_some(),
        };
        // With many gateways most of them are told before their first path and after their last.
        if changed && self.uses.contains_key(&gateway) {
            self.moved.insert(gateway);
        }
    }

    pub fn set_pod(&mut self, prefix: Prefix, pod: Option<Pod>) {
        match pod {
            Some(pod) => self.pods.insert(prefix, pod),
            None => self.pods.remove(&prefix),
        };
        self.dirty.insert(prefix);
    }

    pub fn set_foreign(&mut self, prefix: Prefix, foreign: Option<Foreign>) {
        match foreign {
            Some(foreign) => self.foreign.insert(prefix, foreign),
            None => self.foreign.remove(&prefix),
        };
        self.dirty.insert(prefix);
    }

    fn cover(&mut self, prefix: Prefix) {
        self.dirty.insert(prefix);
        if self.cover.add(prefix) {
            self.look_inside(prefix);
        }
    }

    fn uncover(&mut self, prefix: Prefix) {
        self.dirty.insert(prefix);
        if self.cover.remove(prefix) {
            self.look_inside(prefix);
        }
    }

    /// What the map passes to the kernel inside of a prefix that covers, and not elsewhere.
    fn look_inside(&mut self, prefix: Prefix) {
        self.dirty.extend(self.foreign.range(within(prefix)).map(|(inside, _)| *inside));
        let peers = self.plan.routers.keys().map(|peer| Prefix::host(*peer));
        self.dirty.extend(peers.filter(|peer| prefix.covers(*peer)));
    }

    /// The prefixes that the facts since the last commit touch.
    fn touched(&self) -> Cow<'_, BTreeSet<Prefix>> {
        if self.moved.is_empty() {
            return Cow::Borrowed(&self.dirty);
        }
        let mut touched = self.dirty.clone();
        let moved = |gateways: &[Gateway]| gateways.iter().any(|gateway| self.moved.contains(gateway));
        touched.extend(self.paths.iter().filter(|(_, gateways)| moved(gateways)).map(|(prefix, _)| *prefix));
        let peers = self.plan.routers.iter().filter(|(_, router)| moved(&[Gateway::from(**router)]));
        touched.extend(peers.map(|(peer, _)| Prefix::host(*peer)));
        Cow::Owned(touched)
    }

    /// Recomputes what the facts since the last call touch.
    pub fn commit(&mut self) -> Changed {
        let mut changed = Changed::default();
        let pools_changed = mem::take(&mut self.pools_changed);
        let touched = if self.moved.is_empty() {
            mem::take(&mut self.dirty)
        } else {
            let touched = self.touched().into_owned();
            self.dirty.clear();
            self.moved.clear();
            touched
        };
        let nothing = Entry::default();
        let mut last = Entry::default();
        for prefix in touched {
            let mut now = decide(self, prefix);
            let before = self.entries.get(&prefix).unwrap_or(&nothing);
            if let Some(withheld) = now.withheld.filter(|_| pools_changed || now.withheld != before.withheld)
            {
                changed.withheld.push((prefix, withheld));
            }
            if now == *before {
                continue;
            }
            difference(prefix, &before.fib, &now.fib, &mut changed.fib);
            difference(prefix, &before.map, &now.map, &mut changed.map);
            if now.is_nothing() {
                self.entries.remove(&prefix);
            } else {
                // Whole tables lead to one next hop: one copy of what they say.
                if now == last {
                    now = last.clone();
                } else {
                    last = now.clone();
                }
                self.entries.insert(prefix, now);
            }
        }
        changed.fib.sort();
        changed.map.sort();
        changed
    }

    /// What the map should hold as of the last fact, committed or not, in the order of a delta's upserts.
    pub fn map_routes(&self) -> Vec<Route> {
        let touched = self.touched();
        let settled = self.entries.iter().filter(|(prefix, _)| !touched.contains(prefix));
        let mut upserts: Vec<Route> =
            settled.filter_map(|(prefix, entry)| entry.map_route(*prefix)).collect();
        upserts.extend(touched.iter().filter_map(|prefix| decide(self, *prefix).map_route(*prefix)));
        let mut delta = Delta { upserts, removals: Vec::new() };
        delta.sort();
        delta.upserts
    }

    /// As [`Self::map_routes`], for one prefix.
    pub fn map_route(&self, prefix: Prefix) -> Option<Route> {
        let paths = self.paths.get(&prefix);
        let moved = paths.is_some_and(|paths| paths.iter().any(|gateway| self.moved.contains(gateway)))
            || self.router_of(prefix).is_some_and(|router| self.moved.contains(&Gateway::from(router)));
        if moved || self.dirty.contains(&prefix) {
            return decide(self, prefix).map_route(prefix);
        }
        self.entries.get(&prefix)?.map_route(prefix)
    }

    /// What the FIB should have for a prefix, as of the last commit.
    pub fn fib_action(&self, prefix: Prefix) -> Option<&Action> {
        self.entries.get(&prefix)?.fib.as_deref()
    }

    /// Prefixes of which something is wanted or withheld as of the last commit, in order, after `after`.
    pub fn prefixes_after(&self, after: Option<Prefix>) -> impl Iterator<Item = Prefix> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((from, Bound::Unbounded)).map(|(prefix, _)| *prefix)
    }

    /// Why the best path for this prefix is not written, as of the last commit.
    pub fn withheld(&self, prefix: Prefix) -> Option<Withheld> {
        self.entries.get(&prefix).and_then(|entry| entry.withheld)
    }

    pub fn service(&self, index: usize) -> Option<Prefix> {
        self.plan.services.get(index).copied()
    }

    pub fn path(&self, prefix: Prefix) -> &[Gateway] {
        self.paths.get(&prefix).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn pool(&self, index: usize) -> Option<&Pool> {
        self.plan.pools.get(index)
    }
}

fn difference(prefix: Prefix, before: &Option<Arc<Action>>, now: &Option<Arc<Action>>, delta: &mut Delta) {
    match now {
        Some(now) if before.as_ref() != Some(now) => {
            delta.upserts.push(Route { prefix, action: Action::clone(now) });
        }
        None if before.is_some() => delta.removals.push(prefix),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
