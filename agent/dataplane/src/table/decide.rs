//! One prefix's action for each sink, from the facts about it. The order of the questions is the rule:
//! 0. Asked to be a blackhole by an operator or a peer (RFC 7999): it is, though a pod lives there, for that is whom
//!    it is asked for. The kernel's own route to the pod is not ours to replace; the map drops. What else the kernel
//!    has there passes where a peer asked, who must not cut a node off.
//! 1. A pod on this node: the kernel has the route, the map takes it. But a peer's path of a better priority than that route's
//!    says that the pod is about to be there (a virtual machine that moves): where the kernel would take our route rather
//!    than the pod's, it is as if there were no pod.
//! 2. An own block: a blackhole, whatever a peer says about exactly this prefix. A peer's more specific route (an
//!    address that another node borrowed) is another prefix, and wins by its length. A block of one address is no
//!    blackhole: it would stand in the place of its pod's route, and keep it out while nobody is there to yield.
//! 3. A peer that a router on a link leads to: the FIB has the route, whatever peers announce there; the map has none.
//! 4. A best path whose next hop can be used and whose pool allows it.
//! 5. A closed pool: a blackhole, but only when all has been learned: blocks of others may still be on their way.
//! 6. A foreign route inside any of the above, or in the place of ours and preferred by the kernel: the map passes.
//! 7. A pool's own prefix: the map passes, and knows that its addresses are pods'.
//!
//! What overlaps a prefix of services is no blackhole, whoever asks; and what leads to services is not written: it is for
//! whoever is outside, and here packets to them are translated.

use std::{net::IpAddr, sync::Arc};

use manx_net::Prefix;

use super::{Entry, PoolWrite, Reply, Table};
use crate::{
    pods::Pod,
    resolve::{Gateway, Resolution},
    route::{Action, BlackholeKind, NextHop},
};

/// Why a best path is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Withheld {
    /// The pool (its place in the plan) asks for encapsulation.
    PoolNever(usize),
    /// The pool (its place in the plan) asks for encapsulation beyond a router, and the next hop is beyond one.
    PoolNotOnLink(usize),
    /// It is to be a blackhole, and the kernel's own route to a pod stands in its place: only the map drops.
    PodInPlace,
    /// It is to be a blackhole, and overlaps a prefix of services (its place in the plan).
    Service(usize),
    /// It leads to services (their prefix's place in the plan), which this node reaches by its own netfilter.
    ToService(usize),
    /// The router that leads to a peer is on no link of this node.
    RouterNotOnLink,
    /// No next hop can be reached, or none is of a family that the kernel could take.
    NoNextHop,
}

pub(super) fn decide(table: &Table, prefix: Prefix) -> Entry {
    let (explicit, mut withheld) = match (explicit(table, prefix), service(table, prefix)) {
        (Some(_), Some(service)) => (None, Some(Withheld::Service(service))),
        (explicit, _) => (explicit, None),
    };
    if let Some(pod) = table.pods.get(&prefix) {
        if explicit.is_some() {
            let drop = Action::Blackhole(BlackholeKind::Explicit);
            let withheld = Some(Withheld::PodInPlace);
            return Entry { fib: None, map: Some(Arc::new(drop)), withheld };
        }
        if !is_leaving(table, prefix, pod) {
            let local = Action::Local { ifindex: pod.ifindex, mac: pod.mac };
            return Entry { fib: None, map: Some(Arc::new(local)), withheld };
        }
    }
    let own_block = table.blocks.get(&prefix).filter(|_| !prefix.is_host());
    let mut leads_to_peer = false;
    let ours = if let Some(explicit) = &explicit {
        Some(blackhole(BlackholeKind::Explicit, explicit.reply))
    } else if let Some(reply) = own_block {
        match service(table, prefix) {
            None => Some(blackhole(BlackholeKind::Own, *reply)),
            Some(service) => {
                withheld = Some(Withheld::Service(service));
                None
            }
        }
    } else if let Some(router) = table.router_of(prefix) {
        let action = by_router(table, router);
        if action.is_none() {
            withheld = Some(Withheld::RouterNotOnLink);
        }
        leads_to_peer = action.is_some();
        action
    } else if let Some(gateways) = table.paths.get(&prefix) {
        match via(table, prefix, gateways) {
            Ok(action) => Some(action),
            Err(why) => {
                withheld = Some(why);
                None
            }
        }
    } else {
        None
    };
    let ours = ours.or_else(|| closed_pool(table, prefix)).map(Arc::new);
    let foreign = table.foreign.get(&prefix).filter(|_| table.cover.covers(prefix));
    let passes = table.plan.pools.iter().any(|pool| pool.fast_path && pool.prefix == prefix)
        || (own_block.is_some() && matches!(withheld, Some(Withheld::Service(_))));
    let map = match (&ours, foreign) {
        (Some(_), Some(foreign)) if foreign.wins => match &explicit {
            // Only the map can drop what the kernel has a route for.
            Some(Explicit { insists: true, .. }) => {
                Some(Arc::new(Action::Blackhole(BlackholeKind::Explicit)))
            }
            _ => Some(Arc::new(Action::Pass)),
        },
        (Some(_), _) if leads_to_peer => table.cover.covers(prefix).then(|| Arc::new(Action::Pass)),
        (Some(action), _) => Some(action.clone()),
        (None, Some(_)) => Some(Arc::new(Action::Pass)),
        (None, None) => passes.then(|| Arc::new(Action::Pass)),
    };
    Entry { fib: ours, map, withheld }
}

/// A peer says with a better priority that the pod is there, leads there, and the kernel would heed our route for it.
fn is_leaving(table: &Table, prefix: Prefix, pod: &Pod) -> bool {
    let is_better = || table.priorities.get(&prefix).is_some_and(|priority| *priority < pod.metric);
    let kernel_stays = || table.foreign.get(&prefix).is_none_or(|foreign| foreign.wins);
    let leads = || table.paths.get(&prefix).is_some_and(|gateways| via(table, prefix, gateways).is_ok());
    is_better() && !kernel_stays() && leads()
}

/// A blackhole that somebody asked for.
struct Explicit {
    reply: Reply,
    /// Also over what the kernel itself has there.
    insists: bool,
}

/// An operator's word comes before a peer's.
fn explicit(table: &Table, prefix: Prefix) -> Option<Explicit> {
    if let Some(reply) = table.ordered.get(&prefix) {
        return Some(Explicit { reply: *reply, insists: true });
    }
    table.blackholes.contains(&prefix).then_some(Explicit { reply: Reply::Drop, insists: false })
}

/// The first prefix of services that the prefix overlaps, by its place in the plan.
fn service(table: &Table, prefix: Prefix) -> Option<usize> {
    table.plan.services.iter().position(|service| service.overlaps(prefix))
}

/// By a router that is a neighbour. By any other the kernel's own routes lead there, if any does.
fn by_router(table: &Table, router: IpAddr) -> Option<Action> {
    match table.resolutions.get(&Gateway::from(router)).filter(|_| !table.plan.routers.contains_key(&router))
    {
        Some(Resolution::Reachable { next_hops, onlink: true, .. }) => Some(Action::Via(next_hops.clone())),
        _ => None,
    }
}

fn closed_pool(table: &Table, prefix: Prefix) -> Option<Action> {
    let reply = table.closed.get(&prefix).filter(|_| table.learned && !prefix.is_host())?;
    service(table, prefix).is_none().then(|| blackhole(BlackholeKind::Own, *reply))
}

fn blackhole(kind: BlackholeKind, reply: Reply) -> Action {
    match reply {
        Reply::Drop => Action::Blackhole(kind),
        Reply::Unreachable => Action::Unreachable,
    }
}

fn via(table: &Table, prefix: Prefix, gateways: &[Gateway]) -> Result<Action, Withheld> {
    let pool = table
        .plan
        .pools
        .iter()
        .enumerate()
        .filter(|(_, pool)| pool.prefix.covers(prefix))
        .max_by_key(|(_, pool)| pool.prefix.len());
    if let Some((index, pool)) = pool
        && pool.write == PoolWrite::Never
    {
        return Err(Withheld::PoolNever(index));
    }
    // Pods' addresses are, even where a prefix of services overlaps their pool by mistake.
    let is_of_services =
        |pool: &super::Pool| table.plan.services.iter().any(|service| service.covers(pool.prefix));
    if pool.is_none_or(|(_, pool)| is_of_services(pool))
        && let Some(index) = table.plan.services.iter().position(|service| service.covers(prefix))
    {
        return Err(Withheld::ToService(index));
    }
    let mut beyond_router = false;
    let mut usable: Vec<NextHop> = Vec::new();
    for gateway in gateways {
        let Some(Resolution::Reachable { next_hops, onlink, .. }) = table.resolutions.get(gateway) else {
            continue;
        };
        if !onlink && pool.is_some_and(|(_, pool)| pool.write == PoolWrite::OnLinkOnly) {
            beyond_router = true;
            continue;
        }
        // IPv4 may leave by an IPv6 gateway (RFC 8950); the kernel knows no IPv6 route by an IPv4 one.
        usable.extend(next_hops.iter().filter(|hop| prefix.is_v4() || hop.gateway.is_ipv6()));
    }
    usable.sort_unstable();
    usable.dedup();
    match (usable.is_empty(), pool) {
        (false, _) => Ok(Action::Via(usable)),
        (true, Some((index, _))) if beyond_router => Err(Withheld::PoolNotOnLink(index)),
        (true, _) => Err(Withheld::NoNextHop),
    }
}
