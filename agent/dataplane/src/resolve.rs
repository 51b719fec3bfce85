//! Whether and how a BGP next hop can be reached: a lookup in the kernel's other routes, never our own.
//!
//! The kernel stores every gateway already resolved to an interface and refuses one that is not a neighbour
//! there, so one lookup resolves any depth of recursion; a next hop behind a router becomes that router.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use serde::Serialize;

use crate::{
    kernel::{KernelView, RouteKind},
    route::NextHop,
};

/// A next hop as BGP names it. A link-local address means something only together with its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    pub address: IpAddr,
    /// Needed for an IPv6 link-local address, ignored otherwise.
    pub ifindex: Option<u32>,
}

impl From<IpAddr> for Gateway {
    fn from(address: IpAddr) -> Gateway {
        Gateway { address, ifindex: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Resolution {
    Reachable {
        /// One or more, sorted and distinct: what to put into a route.
        next_hops: Vec<NextHop>,
        /// The metric of the kernel's route, for BGP's comparison of interior cost.
        metric: u32,
        /// The next hop is itself a neighbour on the interface.
        onlink: bool,
    },
    Unreachable(Unreachable),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum Unreachable {
    #[error("no route to it")]
    NoRoute,
    #[error("it is this node's own address")]
    OwnAddress,
    #[error("its route is a blackhole, unreachable or prohibit route")]
    Refused,
    #[error("the interface towards it is down or has no carrier")]
    LinkDown,
    #[error("a link-local next hop without an interface")]
    NoInterface,
}

/// What the kernel says about one next hop.
pub fn resolve(gateway: Gateway, view: &KernelView) -> Resolution {
    let up = |ifindex: u32| view.link(ifindex).is_some_and(|link| link.up);
    if let IpAddr::V6(address) = gateway.address
        && address.is_unicast_link_local()
    {
        return match gateway.ifindex {
            None => Resolution::Unreachable(Unreachable::NoInterface),
            Some(ifindex) if !up(ifindex) => Resolution::Unreachable(Unreachable::LinkDown),
            Some(ifindex) => Resolution::Reachable {
                next_hops: vec![NextHop { gateway: gateway.address, ifindex }],
                metric: 0,
                onlink: true,
            },
        };
    }
    let Some(route) = view.routes().lookup(gateway.address) else {
        return Resolution::Unreachable(Unreachable::NoRoute);
    };
    match route.kind {
        RouteKind::Unicast => {}
        RouteKind::Local => return Resolution::Unreachable(Unreachable::OwnAddress),
        _ => return Resolution::Unreachable(Unreachable::Refused),
    }
    let mut next_hops: Vec<NextHop> = route
        .legs
        .iter()
        .filter(|leg| up(leg.ifindex))
        .map(|leg| NextHop { gateway: leg.gateway.unwrap_or(gateway.address), ifindex: leg.ifindex })
        .collect();
    next_hops.sort_unstable();
    next_hops.dedup();
    // The kernel does not fall through to a shorter prefix when a link loses its carrier, nor do we.
    if next_hops.is_empty() {
        return Resolution::Unreachable(Unreachable::LinkDown);
    }
    let onlink = route.legs.iter().all(|leg| leg.gateway.is_none_or(|via| via == gateway.address));
    Resolution::Reachable { next_hops, metric: route.key.metric, onlink }
}

/// The same, where our own routes lead to some by a router. One that is itself behind another, or that is on no link, leads
/// nowhere: so no route of ours ever stands on itself.
fn resolve_by(gateway: Gateway, routers: &BTreeMap<IpAddr, IpAddr>, view: &KernelView) -> Resolution {
    let kernels = || resolve(gateway, view);
    let Some(router) = routers.get(&gateway.address).filter(|router| !routers.contains_key(router)) else {
        return kernels();
    };
    // Ours is not written where the kernel has a route to exactly that address.
    let exact = view.routes().lookup(gateway.address).is_some_and(|route| route.key.prefix.is_host());
    match resolve(Gateway::from(*router), view) {
        Resolution::Reachable { next_hops, metric, onlink: true } if !exact => {
            Resolution::Reachable { next_hops, metric, onlink: false }
        }
        _ => kernels(),
    }
}

/// The next hops in use, each with its current resolution.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    gateways: HashMap<Gateway, Watched>,
    /// By which router an address is reached. The routes to them are our own, which no lookup finds.
    routers: BTreeMap<IpAddr, IpAddr>,
}

#[derive(Debug)]
struct Watched {
    resolution: Resolution,
    /// Paths that lead there.
    paths: usize,
    /// The speaker asked to be told of changes.
    reported: bool,
}

impl Resolver {
    fn entry(&mut self, gateway: Gateway, view: &KernelView) -> &mut Watched {
        let Resolver { gateways, routers } = self;
        gateways.entry(gateway).or_insert_with(|| Watched {
            resolution: resolve_by(gateway, routers, view),
            paths: 0,
            reported: false,
        })
    }

    /// What holds from the next [`Self::refresh`] on. True if it is other than before.
    pub fn set_routers(&mut self, routers: &BTreeMap<IpAddr, IpAddr>) -> bool {
        let changed = self.routers != *routers;
        if changed {
            self.routers.clone_from(routers);
        }
        changed
    }

    pub fn resolve(&self, gateway: Gateway, view: &KernelView) -> Resolution {
        resolve_by(gateway, &self.routers, view)
    }

    pub fn watch(&mut self, gateway: Gateway, view: &KernelView) -> Resolution {
        let watched = self.entry(gateway, view);
        watched.reported = true;
        watched.resolution.clone()
    }

    pub fn unwatch(&mut self, gateway: Gateway) {
        if let Some(watched) = self.gateways.get_mut(&gateway) {
            watched.reported = false;
            self.forget_unused(gateway);
        }
    }

    /// A path leads there now. If it is the first, how.
    pub fn use_for_path(&mut self, gateway: Gateway, view: &KernelView) -> Option<Resolution> {
        let watched = self.entry(gateway, view);
        watched.paths += 1;
        (watched.paths == 1).then(|| watched.resolution.clone())
    }

    /// A path leads there no more. True if none does.
    pub fn release(&mut self, gateway: Gateway) -> bool {
        let Some(watched) = self.gateways.get_mut(&gateway) else { return true };
        watched.paths = watched.paths.saturating_sub(1);
        let last = watched.paths == 0;
        self.forget_unused(gateway);
        last
    }

    fn forget_unused(&mut self, gateway: Gateway) {
        if self.gateways.get(&gateway).is_some_and(|watched| watched.paths == 0 && !watched.reported) {
            self.gateways.remove(&gateway);
        }
    }

    /// The interfaces by which next hops are reached.
    pub fn exits(&self) -> BTreeSet<u32> {
        let hops = self.gateways.values().filter_map(|watched| match &watched.resolution {
            Resolution::Reachable { next_hops, .. } => Some(next_hops),
            Resolution::Unreachable(_) => None,
        });
        hops.flatten().map(|hop| hop.ifindex).collect()
    }

    /// Those of these by which next hops are reached.
    pub fn used(&self, among: &BTreeSet<NextHop>) -> BTreeSet<NextHop> {
        let resolutions = self.gateways.values().map(|watched| &watched.resolution);
        let hops = resolutions.filter_map(|resolution| match resolution {
            Resolution::Reachable { next_hops, .. } => Some(next_hops),
            Resolution::Unreachable(_) => None,
        });
        hops.flatten().filter(|hop| among.contains(hop)).copied().collect()
    }

    /// Resolves everything anew. Returns what changed.
    pub fn refresh(&mut self, view: &KernelView) -> Vec<Moved> {
        let mut moved = Vec::new();
        for (gateway, watched) in &mut self.gateways {
            let resolution = resolve_by(*gateway, &self.routers, view);
            if resolution != watched.resolution {
                watched.resolution = resolution.clone();
                let (used, reported) = (watched.paths > 0, watched.reported);
                moved.push(Moved { gateway: *gateway, resolution, used, reported });
            }
        }
        moved.sort_unstable_by_key(|moved| moved.gateway);
        moved
    }
}

/// A next hop that is reached in another way than before, or no more, or again.
#[derive(Debug)]
pub(crate) struct Moved {
    pub gateway: Gateway,
    pub resolution: Resolution,
    /// Paths lead there.
    pub used: bool,
    /// The speaker asked to be told.
    pub reported: bool,
}
