//! One prefix's action for each sink, from the facts about it. The order of the questions is the rule:
//! 0. Asked to be a blackhole (RFC 7999): it is, though a pod lives there, for that is whom it is asked for. The
//!    kernel's own route to the pod is not ours to replace; the map drops. What else the kernel has there passes.
//! 1. A pod on this node: the kernel has the route, the map takes it.
//! 2. An own block: a blackhole, whatever a peer says about exactly this prefix. A peer's more specific route (an
//!    address that another node borrowed) is another prefix, and wins by its length. A block of one address is no
//!    blackhole: it would stand in the place of its pod's route, and keep it out while nobody is there to yield.
//! 3. A best path whose next hop can be used and whose pool allows it.
//! 4. A foreign route inside any of the above, or in the place of ours and preferred by the kernel: the map passes.
//! 5. A pool's own prefix: the map passes, and knows that its addresses are pods'.

use std::sync::Arc;

use manx_net::Prefix;

use super::{Entry, PoolWrite, Table};
use crate::{
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
    /// No next hop can be reached, or none is of a family that the kernel could take.
    NoNextHop,
}

pub(super) fn decide(table: &Table, prefix: Prefix) -> Entry {
    let in_pool = table.plan.pools.iter().any(|pool| pool.fast_path && pool.prefix.covers(prefix));
    let explicit = table.blackholes.contains(&prefix);
    if let Some(pod) = table.pods.get(&prefix) {
        if explicit {
            let drop = Action::Blackhole(BlackholeKind::Explicit);
            let withheld = Some(Withheld::PodInPlace);
            return Entry { fib: None, map: Some(Arc::new(drop)), in_pool, withheld };
        }
        let local = Action::Local { ifindex: pod.ifindex, mac: pod.mac };
        return Entry { fib: None, map: Some(Arc::new(local)), in_pool, withheld: None };
    }
    let (ours, withheld) = if explicit {
        (Some(Action::Blackhole(BlackholeKind::Explicit)), None)
    } else if table.blocks.contains(&prefix) && !prefix.is_host() {
        (Some(Action::Blackhole(BlackholeKind::Own)), None)
    } else if let Some(gateways) = table.paths.get(&prefix) {
        match via(table, prefix, gateways) {
            Ok(action) => (Some(action), None),
            Err(withheld) => (None, Some(withheld)),
        }
    } else {
        (None, None)
    };
    let ours = ours.map(Arc::new);
    let foreign = table.foreign.get(&prefix).filter(|_| table.cover.covers(prefix));
    let pool_itself = table.plan.pools.iter().any(|pool| pool.fast_path && pool.prefix == prefix);
    let map = match (&ours, foreign) {
        (Some(_), Some(foreign)) if foreign.wins => Some(Arc::new(Action::Pass)),
        (Some(action), _) => Some(action.clone()),
        (None, Some(_)) => Some(Arc::new(Action::Pass)),
        (None, None) => pool_itself.then(|| Arc::new(Action::Pass)),
    };
    Entry { fib: ours, map, in_pool, withheld }
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
