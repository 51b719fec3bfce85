//! Pods on this node, as the kernel's host routes to pod interfaces show them (`172.16.36.193 dev cali…`), with
//! their MAC addresses from the neighbour table.
//!
//! A neighbour entry exists only once traffic asked for it, so we ask: a request with NTF_USE makes the kernel
//! resolve the address and leaves nothing of ours behind. An entry that the kernel throws away for want of use
//! (the fast path does not use it) costs the pod nothing: the address is kept and asked for again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use manx_net::Prefix;
use rtnetlink::{
    packet_core::NLM_F_CREATE,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    },
};

use crate::{
    kernel::{Changes, KernelView, Role, RouteKind, TABLE_DEFAULT, TABLE_MAIN},
    netlink::Requests,
    route::Mac,
};

/// Between the first two questions for a pod's MAC address; doubles up to [`PROBE_LONGEST`].
const PROBE_FIRST: Duration = Duration::from_millis(250);
const PROBE_LONGEST: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    pub ifindex: u32,
    pub mac: Option<Mac>,
    /// Of the kernel's route to it. A peer's path of a better priority says that the pod is about to be there.
    pub metric: u32,
}

#[derive(Debug)]
struct Probe {
    due: Instant,
    pause: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Pods {
    pods: BTreeMap<Prefix, Pod>,
    probes: BTreeMap<Prefix, Probe>,
    /// Addresses of pods of this node, those too that the stack alone can reach, with the metric of the kernel's route.
    hosted: BTreeMap<Prefix, u32>,
    hosted_changed: bool,
}

/// The pod interface to which the kernel's best host route for this address leads, and that route's metric. None where that route says more than
/// "out there" (another MTU, a tunnel) or holds for some packets only (a TOS): the stack alone heeds it.
fn interface(prefix: Prefix, view: &KernelView) -> Option<(u32, u32)> {
    if !prefix.is_host() {
        return None;
    }
    // What another table says holds only for those whom a policy rule sends there. The main one is asked first.
    let place = |table| [TABLE_MAIN, TABLE_DEFAULT].iter().position(|known| *known == table);
    let routes = view.routes().exact(prefix).iter();
    let routes: Vec<_> = routes.filter_map(|route| Some((place(route.key.table)?, route))).collect();
    if routes.iter().any(|(_, route)| route.key.tos != 0) {
        return None;
    }
    let (_, best) = routes.into_iter().min_by_key(|(place, route)| (*place, route.key.metric))?;
    match best.legs.as_slice() {
        [leg] if best.kind == RouteKind::Unicast && !best.special && leg.gateway.is_none() => {
            (view.link(leg.ifindex)?.role == Role::Pod).then_some((leg.ifindex, best.key.metric))
        }
        _ => None,
    }
}

/// The least metric of the routes by which the kernel sends what is for this address out of a pod's interface, in whatever
/// way; None: by none.
fn hosted(prefix: Prefix, view: &KernelView) -> Option<u32> {
    if !prefix.is_host() {
        return None;
    }
    let routes = view.routes().exact(prefix).iter().filter(|route| {
        [TABLE_MAIN, TABLE_DEFAULT].contains(&route.key.table) && route.kind == RouteKind::Unicast
    });
    let is_pods = |ifindex: u32| view.link(ifindex).is_some_and(|link| link.role == Role::Pod);
    let to_pod =
        routes.filter(|route| route.legs.iter().any(|leg| leg.gateway.is_none() && is_pods(leg.ifindex)));
    to_pod.map(|route| route.key.metric).min()
}

impl Pods {
    pub fn hosted(&self) -> &BTreeMap<Prefix, u32> {
        &self.hosted
    }

    /// Whether [`Self::hosted`] is another since this was last asked.
    pub fn take_hosted_changed(&mut self) -> bool {
        std::mem::take(&mut self.hosted_changed)
    }

    pub fn get(&self, prefix: Prefix) -> Option<Pod> {
        self.pods.get(&prefix).copied()
    }

    /// Takes in what changed in the kernel, and returns the prefixes whose pod changed, came or went.
    pub fn refresh(&mut self, changes: &Changes, view: &KernelView, now: Instant) -> Vec<Prefix> {
        let mut suspects: BTreeSet<Prefix> = changes.routes.iter().copied().collect();
        let moved = |ifindex: &u32| changes.links.contains(ifindex) || changes.gone.contains_key(ifindex);
        suspects.extend(self.pods.iter().filter(|(_, pod)| moved(&pod.ifindex)).map(|(prefix, _)| *prefix));
        if !changes.gone.is_empty() {
            // Their routes go without an event each.
            suspects.extend(self.hosted.keys());
        }
        if changes.links.iter().any(|ifindex| view.link(*ifindex).is_some_and(|link| link.role == Role::Pod))
        {
            // A link that got a pod's name after its route: the route is no event, the name is.
            suspects.extend(
                view.routes()
                    .iter()
                    .filter(|route| route.legs.iter().any(|leg| changes.links.contains(&leg.ifindex)))
                    .map(|route| route.key.prefix),
            );
        }
        suspects.extend(changes.neighbours.iter().map(|(_, address)| Prefix::host(*address)));

        suspects.into_iter().filter(|prefix| self.refresh_one(*prefix, view, now)).collect()
    }

    fn refresh_one(&mut self, prefix: Prefix, view: &KernelView, now: Instant) -> bool {
        self.hosted_changed |= match hosted(prefix, view) {
            Some(metric) => self.hosted.insert(prefix, metric) != Some(metric),
            None => self.hosted.remove(&prefix).is_some(),
        };
        let before = self.pods.get(&prefix).copied();
        let Some((ifindex, metric)) = interface(prefix, view) else {
            self.probes.remove(&prefix);
            return self.pods.remove(&prefix).is_some();
        };
        let mac = match view.neighbour(ifindex, prefix.addr()) {
            Some(neighbour) if neighbour.valid && neighbour.mac.is_some() => {
                self.probes.remove(&prefix);
                neighbour.mac
            }
            known => {
                self.probes.entry(prefix).or_insert(Probe { due: now, pause: PROBE_FIRST });
                // No entry: the kernel forgot one that it did not need. An invalid one: the pod did not answer.
                before.filter(|pod| pod.ifindex == ifindex && known.is_none()).and_then(|pod| pod.mac)
            }
        };
        let pod = Pod { ifindex, mac, metric };
        self.pods.insert(prefix, pod);
        before != Some(pod)
    }

    pub fn next_probe(&self) -> Option<Instant> {
        self.probes.values().map(|probe| probe.due).min()
    }

    /// Asks the kernel to resolve the addresses that are due.
    pub fn probe(&mut self, requests: &mut Requests, now: Instant) {
        let mut due = Vec::new();
        for (prefix, probe) in self.probes.iter_mut().filter(|(_, probe)| probe.due <= now) {
            probe.due = now + probe.pause;
            probe.pause = (probe.pause * 2).min(PROBE_LONGEST);
            if let Some(pod) = self.pods.get(prefix) {
                due.push((question(pod.ifindex, prefix.addr()), NLM_F_CREATE));
            }
        }
        if due.is_empty() {
            return;
        }
        // A refusal (the interface is just going) is answered by an event or by the next question.
        if let Err(error) = requests.transact(due) {
            tracing::debug!(%error, "asking for pods' MAC addresses");
        }
    }
}

pub(crate) fn question(ifindex: u32, address: IpAddr) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match address {
        IpAddr::V4(a) => (AddressFamily::Inet, NeighbourAddress::Inet(a)),
        IpAddr::V6(a) => (AddressFamily::Inet6, NeighbourAddress::Inet6(a)),
    };
    message.header.family = family;
    message.header.ifindex = ifindex;
    message.header.flags = NeighbourFlags::Use;
    message.attributes.push(NeighbourAttribute::Destination(destination));
    RouteNetlinkMessage::NewNeighbour(message)
}
