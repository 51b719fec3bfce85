//! What the maps hold, known without asking the kernel: which entry names which slot, and which routes could not
//! be written. Turns routes into entries and back.

use std::{collections::BTreeMap, time::Instant};

use manx_abi as abi;
use manx_net::Prefix;

use super::{
    Applied, Error, Refusal, Refused,
    ids::Ids,
    interface::Interface,
    maps::{EndpointSlot, Maps, NextHopSlot},
};
use crate::route::{Action, BlackholeKind, Mac, NextHop, Route};

#[derive(Debug)]
pub(super) struct Held {
    entries: BTreeMap<Prefix, abi::Route>,
    next_hops: Ids<NextHopSlot>,
    endpoints: Ids<EndpointSlot>,
    /// Routes to pods as they are desired: what is known of an interface may not allow the map to hold the MAC.
    pods: BTreeMap<Prefix, Route>,
    unwritten: BTreeMap<Prefix, Unwritten>,
}

/// A route that the map does not hold as it is desired.
#[derive(Debug)]
struct Unwritten {
    desired: Route,
    /// `None`: it could be written, but a more specific route could not; until then its packets are the stack's,
    /// for this entry would lead them astray.
    refusal: Option<Refusal>,
}

/// The route as the map can hold it. The stack balances over several next hops; and no IPv6 packet leaves by an
/// IPv4 next hop.
pub fn held_as(route: &Route) -> Route {
    let holds = match &route.action {
        Action::Via(hops) => match hops.as_slice() {
            [hop] => hop.gateway.is_ipv6() || route.prefix.is_v4(),
            _ => false,
        },
        _ => true,
    };
    if holds { route.clone() } else { Route { action: Action::Pass, ..route.clone() } }
}

impl Held {
    /// What is in the maps now, by an earlier run or by ours.
    pub fn read(maps: &Maps, now: Instant) -> Result<Held, Error> {
        let entries = maps.routes()?;
        let (mut via, mut local) = (BTreeMap::new(), BTreeMap::new());
        for entry in entries.values() {
            match entry.action {
                abi::Action::Via => *via.entry(entry.target).or_default() += 1,
                abi::Action::Local => *local.entry(entry.target).or_default() += 1,
                _ => {}
            }
        }
        let mut held = Held {
            entries,
            next_hops: Ids::adopt(abi::capacity::NEXTHOPS as u32, &maps.next_hops()?, &via, now),
            endpoints: Ids::adopt(abi::capacity::ENDPOINTS as u32, &maps.endpoints()?, &local, now),
            pods: BTreeMap::new(),
            unwritten: BTreeMap::new(),
        };
        let to_pods = held.entries.iter().filter(|(_, entry)| entry.action == abi::Action::Local);
        held.pods =
            to_pods.filter_map(|(prefix, entry)| Some((*prefix, held.decode(*prefix, *entry)?))).collect();
        Ok(held)
    }

    /// Entries of the IPv4 and of the IPv6 map.
    pub fn counts(&self) -> (usize, usize) {
        let routes4 = self.entries.range(..=Prefix::V4(manx_net::Prefix4::host([255; 4].into()))).count();
        (routes4, self.entries.len() - routes4)
    }

    pub fn next_hops(&self) -> usize {
        self.next_hops.len()
    }

    pub fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.entries.keys().copied()
    }

    pub fn routes(&self) -> Vec<Route> {
        self.entries.iter().filter_map(|(prefix, entry)| self.decode(*prefix, *entry)).collect()
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

    /// Longest prefixes first, then what is removed, shortest first. `interface` tells what is known of a pod's.
    pub fn apply<'a>(
        &mut self,
        maps: &mut Maps,
        upserts: impl IntoIterator<Item = &'a Route>,
        removals: impl IntoIterator<Item = Prefix>,
        interface: &mut dyn FnMut(u32) -> Option<Interface>,
    ) -> Result<Applied, Error> {
        let (mut applied, now) = (Applied::default(), Instant::now());
        let mut upserts: Vec<&Route> = upserts.into_iter().collect();
        upserts.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        for route in upserts {
            applied.written += usize::from(self.upsert(maps, route, now, interface));
        }
        let mut removals: Vec<Prefix> = removals.into_iter().collect();
        removals.sort_by_key(|prefix| prefix.len());
        let mut room = false;
        for prefix in removals {
            self.pods.remove(&prefix);
            room |= self.unwritten.remove(&prefix).is_some();
            if let Some(entry) = self.entries.get(&prefix).copied() {
                maps.remove_route(prefix)?;
                self.entries.remove(&prefix);
                self.release(entry, now);
                applied.removed += 1;
                room = true;
            }
        }
        if room && !self.unwritten.is_empty() {
            let mut again: Vec<Route> = self.unwritten.values().map(|found| found.desired.clone()).collect();
            again.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
            for route in &again {
                applied.written += usize::from(self.upsert(maps, route, now, interface));
            }
        }
        applied.refused = self.refused();
        Ok(applied)
    }

    /// Routes that the maps could not take so far.
    pub fn refused(&self) -> Vec<Refused> {
        let refused = |(prefix, unwritten): (&Prefix, &Unwritten)| {
            Some(Refused { prefix: *prefix, reason: unwritten.refusal.clone()? })
        };
        self.unwritten.iter().filter_map(refused).collect()
    }

    /// True if the map was written.
    fn upsert(
        &mut self,
        maps: &mut Maps,
        route: &Route,
        now: Instant,
        interface: &mut dyn FnMut(u32) -> Option<Interface>,
    ) -> bool {
        let prefix = route.prefix;
        if matches!(route.action, Action::Local { .. }) {
            self.pods.insert(prefix, route.clone());
        } else {
            self.pods.remove(&prefix);
        }
        self.unwritten.remove(&prefix);
        let hides_refused = |(other, unwritten): (&Prefix, &Unwritten)| {
            unwritten.refusal.is_some() && *other != prefix && prefix.covers(*other)
        };
        let written = if route.action != Action::Pass && self.unwritten.iter().any(hides_refused) {
            self.unwritten.insert(prefix, Unwritten { desired: route.clone(), refusal: None });
            self.write(maps, prefix, pass(route.in_pool), now)
        } else {
            self.encode(maps, route, now, interface).and_then(|entry| self.write(maps, prefix, entry, now))
        };
        written.unwrap_or_else(|refusal| {
            self.unwritten.insert(prefix, Unwritten { desired: route.clone(), refusal: Some(refusal) });
            self.leave_to_stack(maps, prefix, now)
        })
    }

    /// A route that could not be written must not be answered by an older or a shorter one. An entry that exists
    /// can always be overwritten. True if the map was written.
    fn leave_to_stack(&mut self, maps: &mut Maps, prefix: Prefix, now: Instant) -> bool {
        let holder = if self.entries.contains_key(&prefix) { Some(prefix) } else { self.cover(prefix) };
        let Some(holder) = holder else { return false };
        let Some(entry) = self.entries.get(&holder).copied() else { return false };
        if entry.action == abi::Action::Pass {
            return false;
        }
        if holder != prefix
            && let Some(desired) = self.decode(holder, entry)
        {
            self.unwritten.entry(holder).or_insert(Unwritten { desired, refusal: None });
        }
        self.write(maps, holder, pass(entry.in_pool != 0), now).unwrap_or(false)
    }

    /// The entry that answers for `prefix` as long as it has none of its own.
    fn cover(&self, prefix: Prefix) -> Option<Prefix> {
        let shorter = (0..prefix.len()).rev().filter_map(|length| Prefix::new(prefix.addr(), length));
        shorter.into_iter().find(|cover| self.entries.contains_key(cover))
    }

    /// True if the map did not say so already. Takes over the reference of `entry` to its slot.
    fn write(
        &mut self,
        maps: &mut Maps,
        prefix: Prefix,
        entry: abi::Route,
        now: Instant,
    ) -> Result<bool, Refusal> {
        let old = self.entries.get(&prefix).copied();
        if old == Some(entry) {
            self.release(entry, now);
            return Ok(false);
        }
        if let Err(refusal) = maps.write_route(prefix, entry) {
            self.release(entry, now);
            return Err(refusal);
        }
        self.entries.insert(prefix, entry);
        if let Some(old) = old {
            self.release(old, now);
        }
        Ok(true)
    }

    fn release(&mut self, entry: abi::Route, now: Instant) {
        match entry.action {
            abi::Action::Via => self.next_hops.release(entry.target, now),
            abi::Action::Local => self.endpoints.release(entry.target, now),
            _ => {}
        }
    }

    /// The entry for a route, its slot written and named once more.
    fn encode(
        &mut self,
        maps: &mut Maps,
        route: &Route,
        now: Instant,
        interface: &mut dyn FnMut(u32) -> Option<Interface>,
    ) -> Result<abi::Route, Refusal> {
        let entry = |action, target| abi::Route { action, target, in_pool: u32::from(route.in_pool) };
        Ok(match held_as(route).action {
            // `held_as` leaves one next hop or none.
            Action::Via(hops) => match hops.first() {
                Some(hop) => entry(abi::Action::Via, self.next_hop_id(maps, hop, now)?),
                None => entry(abi::Action::Pass, 0),
            },
            Action::Local { ifindex, mac } => {
                let slot = endpoint(ifindex, mac, interface(ifindex).as_ref());
                entry(abi::Action::Local, self.endpoint_id(maps, slot, now)?)
            }
            Action::Blackhole(BlackholeKind::Own) => entry(abi::Action::BlackholeOwn, 0),
            Action::Blackhole(BlackholeKind::Explicit) => entry(abi::Action::BlackholeExplicit, 0),
            Action::Unreachable => entry(abi::Action::Unreachable, 0),
            Action::Pass => entry(abi::Action::Pass, 0),
        })
    }

    fn next_hop_id(&mut self, maps: &mut Maps, hop: &NextHop, now: Instant) -> Result<u32, Refusal> {
        let slot = next_hop(hop);
        let acquired = self.next_hops.acquire(slot, now).ok_or(Refusal::NoNextHopId)?;
        if acquired.is_new
            && let Err(refusal) = maps.write_next_hop(acquired.id, slot)
        {
            self.next_hops.release(acquired.id, now);
            return Err(refusal);
        }
        Ok(acquired.id)
    }

    fn endpoint_id(&mut self, maps: &mut Maps, slot: EndpointSlot, now: Instant) -> Result<u32, Refusal> {
        let acquired = self.endpoints.acquire(slot, now).ok_or(Refusal::NoEndpointId)?;
        if acquired.is_new
            && let Err(refusal) = maps.write_endpoint(acquired.id, slot)
        {
            self.endpoints.release(acquired.id, now);
            return Err(refusal);
        }
        Ok(acquired.id)
    }

    /// `None` if the entry names a slot that says nothing.
    fn decode(&self, prefix: Prefix, entry: abi::Route) -> Option<Route> {
        let action = match entry.action {
            abi::Action::Pass => Action::Pass,
            abi::Action::Unreachable => Action::Unreachable,
            abi::Action::BlackholeOwn => Action::Blackhole(BlackholeKind::Own),
            abi::Action::BlackholeExplicit => Action::Blackhole(BlackholeKind::Explicit),
            abi::Action::Via => {
                let hop = abi::NextHop::from_bytes(self.next_hops.content(entry.target)?).ok()?;
                let [a, b, c, d, ..] = hop.gateway;
                let gateway = match hop.family {
                    abi::Family::Inet => [a, b, c, d].into(),
                    abi::Family::Inet6 => hop.gateway.into(),
                    abi::Family::None => return None,
                };
                Action::Via(vec![NextHop { gateway, ifindex: hop.ifindex }])
            }
            abi::Action::Local => {
                let endpoint = abi::Endpoint::from_bytes(self.endpoints.content(entry.target)?);
                let mac = (endpoint.pod_mac != [0; 6]).then_some(Mac(endpoint.pod_mac));
                Action::Local { ifindex: endpoint.ifindex, mac }
            }
        };
        Some(Route { prefix, action, in_pool: entry.in_pool != 0 })
    }
}

fn pass(in_pool: bool) -> abi::Route {
    abi::Route { action: abi::Action::Pass, target: 0, in_pool: u32::from(in_pool) }
}

fn next_hop(hop: &NextHop) -> NextHopSlot {
    let (family, gateway) = match hop.gateway {
        std::net::IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            (abi::Family::Inet, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        std::net::IpAddr::V6(address) => (abi::Family::Inet6, address.octets()),
    };
    abi::NextHop { ifindex: hop.ifindex, family, gateway }.to_bytes()
}

/// Without a MAC the programs take the source as the pod's and leave what goes there to the stack: so it is where
/// the pod's MAC is not known, where the interface is gone, and where a redirect would drop.
fn endpoint(ifindex: u32, mac: Option<Mac>, interface: Option<&Interface>) -> EndpointSlot {
    let macs = interface.filter(|found| found.leads_elsewhere).and_then(|found| Some((mac?, found.mac?)));
    let (Mac(pod_mac), Mac(host_mac)) = macs.unwrap_or((Mac([0; 6]), Mac([0; 6])));
    abi::Endpoint { ifindex, pod_mac, host_mac }.to_bytes()
}
