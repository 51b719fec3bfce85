//! What the maps hold, known without asking the kernel: which entry names which slot, what the index says, and
//! which routes could not be written. Turns routes into entries and back; [`super::apply`] brings them into the maps.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use manx_abi as abi;
use manx_net::Prefix;

use super::{
    Applied, Error, Refusal, Refused,
    counter_ids::CounterIds,
    entries::Entries,
    groups::{self, Groups, Hops},
    ids::Ids,
    index::{Index, Known},
    interface::Interface,
    maps::{EndpointSlot, Maps, NextHopSlot},
    outside::Outside,
    pools::{Pools, known_pages},
};
use crate::route::{Action, BlackholeKind, Mac, NextHop, Route};

#[derive(Debug)]
pub(super) struct Held {
    pub entries: Entries,
    pub index: Index,
    pub pools: Pools,
    pub groups: Groups,
    pub endpoints: Ids<EndpointSlot>,
    pub counters: CounterIds,
    /// Routes to pods as they are desired: what is known of an interface may not allow the map to hold the MAC.
    pub pods: BTreeMap<Prefix, Route>,
    pub unwritten: BTreeMap<Prefix, Unwritten>,
    /// Refused by the present call, and before it not.
    pub news: BTreeSet<Prefix>,
    /// Refused before, and tried again by the present call.
    pub tried: BTreeSet<Prefix>,
    /// Entries of nobody's that were found and mean nothing.
    pub strangers: Vec<Prefix>,
    /// Entries for whose sake the tries are asked outside the indexed pools.
    pub outside: Outside,
}

/// A route that the map does not hold as it is desired.
#[derive(Debug)]
pub(super) struct Unwritten {
    pub desired: Route,
    /// `None`: it could be written, but a more specific route could not; until then its packets are the stack's,
    /// for this entry would lead them astray.
    pub refusal: Option<Refusal>,
}

/// The route as the map can hold it. No IPv6 packet leaves by an IPv4 next hop; and the stack balances over more
/// next hops than a set has buckets.
pub fn held_as(route: &Route) -> Route {
    let holds = match &route.action {
        Action::Via(hops) => {
            (1..=abi::BUCKETS).contains(&hops.len())
                && (route.prefix.is_v4() || hops.iter().all(|hop| hop.gateway.is_ipv6()))
        }
        _ => true,
    };
    if holds { route.clone() } else { Route { action: Action::Pass, ..route.clone() } }
}

impl Held {
    /// What is in the maps now, by an earlier run or by ours. `pools` as they are known; without, as the maps say.
    /// The index is made anew from the tries, and its words stay where they are.
    pub fn read(maps: &Maps, pools: Option<Pools>, clean: bool, now: Instant) -> Result<Held, Error> {
        let (mut via, mut local) = (BTreeMap::new(), BTreeMap::new());
        let (mut entries, mut counters) = (Entries::default(), HashMap::new());
        let mut strangers = Vec::new();
        for (prefix, entry) in maps.routes()? {
            let Some(entry) = entry else {
                strangers.push(prefix);
                continue;
            };
            match entry.action {
                abi::Action::Via => *via.entry(entry.target).or_default() += 1,
                abi::Action::Local => *local.entry(entry.target).or_default() += 1,
                _ => {}
            }
            if entry.counter != 0 {
                counters.insert(entry.counter, prefix);
            }
            entries.insert(prefix, entry);
        }
        let sizes = groups::Sizes {
            next_hops: maps.capacity(abi::map::NEXTHOPS)?,
            sets: maps.capacity(abi::map::BUCKETS)?,
            groups: maps.capacity(abi::map::GROUPS)? * abi::PACKED as u32,
        };
        let found = groups::Found {
            next_hops: maps.next_hops()?,
            sets: maps.bucket_sets(),
            groups: maps.groups(),
            routes: via,
        };
        let in_maps = Pools::read(maps)?;
        let known =
            Known { pages: known_pages(maps, &in_maps)?, pools: in_maps.indexed, used: maps.words_used() };
        let words = maps.capacity(abi::map::WORDS)? * abi::PACKED as u32;
        let index = Index::adopt(words, known, &entries, now);
        let mut held = Held {
            index,
            pools: pools.unwrap_or(in_maps.pools),
            groups: Groups::adopt(sizes, found, now),
            endpoints: Ids::adopt(maps.capacity(abi::map::ENDPOINTS)?, &maps.endpoints()?, &local, now),
            counters: CounterIds::adopt(maps.capacity(abi::map::PREFIX_COUNTS)?, counters, clean, now),
            pods: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            news: BTreeSet::new(),
            tried: BTreeSet::new(),
            strangers,
            outside: Outside::default(),
            entries,
        };
        let to_pods = held.entries.iter().filter(|(_, entry)| entry.action == abi::Action::Local);
        held.pods =
            to_pods.filter_map(|(prefix, entry)| Some((prefix, held.decode(prefix, entry)?))).collect();
        held.count_outside();
        Ok(held)
    }

    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.entries.iter().map(|(prefix, _)| prefix)
    }

    /// Routes to pods behind an interface, as they are desired.
    pub fn routes_to(&self, ifindex: u32) -> Vec<Route> {
        let is_there =
            |route: &&Route| matches!(route.action, Action::Local { ifindex: i, .. } if i == ifindex);
        self.pods.values().filter(is_there).cloned().collect()
    }

    /// A desired route as its entry should read now.
    pub fn expected(&self, route: &Route, interface: Option<&Interface>) -> Route {
        let mut expected = held_as(route);
        if self.unwritten.contains_key(&route.prefix) {
            expected.action = Action::Pass;
        }
        if let Action::Local { ifindex, mac } = &mut expected.action {
            let slot = abi::Endpoint::from_bytes(endpoint(*ifindex, *mac, interface));
            *mac = mac.filter(|_| slot.pod_mac != [0; 6]);
        }
        expected
    }

    /// Routes that the maps could not take so far, and why.
    pub fn refused(&self) -> impl Iterator<Item = (Prefix, &Refusal)> {
        self.unwritten.iter().filter_map(|(prefix, unwritten)| Some((*prefix, unwritten.refusal.as_ref()?)))
    }

    pub fn refusal(&self, prefix: Prefix) -> Option<&Refusal> {
        self.unwritten.get(&prefix)?.refusal.as_ref()
    }

    /// What a call says at its end of the routes that it left without an entry: of very many each call would else tell
    /// all.
    fn take_news(&mut self) -> Vec<Refused> {
        self.tried.clear();
        let news = std::mem::take(&mut self.news).into_iter();
        news.filter_map(|prefix| Some(Refused { prefix, reason: self.refusal(prefix)?.clone() })).collect()
    }

    /// The action of an entry; of a next hop or a pod its slot is written if need be, and named once more. `from` is
    /// what the entry was, whose flows stay where they can.
    pub fn encode(
        &mut self,
        maps: &Maps,
        route: &Route,
        from: Option<abi::Route>,
        now: Instant,
        interface: &mut dyn FnMut(u32) -> Option<Interface>,
    ) -> Result<(abi::Action, u32), Refusal> {
        Ok(match held_as(route).action {
            Action::Via(hops) => {
                let from = from.filter(|entry| entry.action == abi::Action::Via).map(|entry| entry.target);
                (abi::Action::Via, self.groups.acquire(&Hops::from(hops), from, now)?)
            }
            Action::Local { ifindex, mac } => {
                let slot = endpoint(ifindex, mac, interface(ifindex).as_ref());
                (abi::Action::Local, self.endpoint_id(maps, slot, now)?)
            }
            Action::Blackhole(BlackholeKind::Own) => (abi::Action::BlackholeOwn, 0),
            Action::Blackhole(BlackholeKind::Explicit) => (abi::Action::BlackholeExplicit, 0),
            Action::Unreachable => (abi::Action::Unreachable, 0),
            Action::Pass => (abi::Action::Pass, 0),
        })
    }

    fn endpoint_id(&mut self, maps: &Maps, slot: EndpointSlot, now: Instant) -> Result<u32, Refusal> {
        let acquired = self.endpoints.acquire(slot, now).ok_or(Refusal::NoEndpointId)?;
        if acquired.is_new
            && let Err(refusal) = maps.write_endpoint(acquired.id, slot)
        {
            self.endpoints.give_back(acquired.id, now);
            return Err(refusal);
        }
        Ok(acquired.id)
    }

    /// One entry less names what this one named.
    pub fn release(&mut self, entry: abi::Route, now: Instant) {
        match entry.action {
            abi::Action::Via => self.groups.release(entry.target, now),
            abi::Action::Local => self.endpoints.release(entry.target, now),
            _ => {}
        }
    }

    /// `None` if the entry names a slot that says nothing.
    pub fn decode(&self, prefix: Prefix, entry: abi::Route) -> Option<Route> {
        let action = match entry.action {
            abi::Action::Pass => Action::Pass,
            abi::Action::Unreachable => Action::Unreachable,
            abi::Action::BlackholeOwn => Action::Blackhole(BlackholeKind::Own),
            abi::Action::BlackholeExplicit => Action::Blackhole(BlackholeKind::Explicit),
            abi::Action::Via => Action::Via(self.groups.hops(entry.target)?.to_vec()),
            abi::Action::Local => {
                let endpoint = abi::Endpoint::from_bytes(self.endpoints.content(entry.target)?);
                let mac = (endpoint.pod_mac != [0; 6]).then_some(Mac(endpoint.pod_mac));
                Action::Local { ifindex: endpoint.ifindex, mac }
            }
        };
        Some(Route { prefix, action })
    }

    /// Of an address in no pool nothing is carried, so there a way says no more than no entry at all.
    pub fn is_outside(&self, prefix: Prefix, entry: abi::Route) -> bool {
        let is_said = entry.action != abi::Action::Pass;
        let is_heeded = entry.pool != 0 || entry.action != abi::Action::Via;
        is_said && is_heeded && !self.index.covers(prefix)
    }

    pub fn count_outside(&mut self) {
        let outside = self.entries.iter().filter(|(prefix, entry)| self.is_outside(*prefix, *entry));
        self.outside = Outside::of(outside.map(|(prefix, _)| prefix));
    }

    pub fn applied(&mut self, written: usize, removed: usize) -> Applied {
        Applied { written, removed, refused: self.take_news(), repaired: Vec::new() }
    }
}

pub(super) fn slot_of(hop: &NextHop) -> NextHopSlot {
    let (family, gateway) = match hop.gateway {
        std::net::IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            (abi::Family::Inet, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        std::net::IpAddr::V6(address) => (abi::Family::Inet6, address.octets()),
    };
    abi::NextHop { ifindex: hop.ifindex, family, gateway }.to_bytes()
}

/// `None` if the slot says nothing.
pub(super) fn hop_of(slot: NextHopSlot) -> Option<NextHop> {
    let hop = abi::NextHop::from_bytes(slot).ok()?;
    let [a, b, c, d, ..] = hop.gateway;
    let gateway = match hop.family {
        abi::Family::Inet => [a, b, c, d].into(),
        abi::Family::Inet6 => hop.gateway.into(),
        abi::Family::None => return None,
    };
    Some(NextHop { gateway, ifindex: hop.ifindex })
}

/// Without a MAC the programs take the source as the pod's and leave what goes there to the stack: so it is where
/// the pod's MAC is not known, where the interface is gone, where a redirect would drop, and where it would pass by a
/// qdisc or others' programs.
fn endpoint(ifindex: u32, mac: Option<Mac>, interface: Option<&Interface>) -> EndpointSlot {
    let is_of_use = |found: &&Interface| found.leads_elsewhere && found.passes.is_none();
    let macs = interface.filter(is_of_use).and_then(|found| Some((mac?, found.mac?)));
    let (Mac(pod_mac), Mac(host_mac)) = macs.unwrap_or((Mac([0; 6]), Mac([0; 6])));
    abi::Endpoint { ifindex, pod_mac, host_mac }.to_bytes()
}
