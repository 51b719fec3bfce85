//! What of a route the sink decides, as it is wanted and as the kernel stores it.

use std::net::IpAddr;

use crate::{
    kernel::{KernelRoute, RouteKind},
    route::{Action, NextHop},
};

/// What of a route the sink decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Spec {
    /// Sorted and distinct.
    Via(Vec<NextHop>),
    Blackhole,
    Unreachable,
}

impl Spec {
    /// `None` for what the kernel has or does by itself.
    pub fn wanted(action: &Action) -> Option<Spec> {
        match action {
            Action::Via(next_hops) => Some(Spec::Via(next_hops.clone())),
            Action::Blackhole(_) => Some(Spec::Blackhole),
            Action::Unreachable => Some(Spec::Unreachable),
            Action::Local { .. } | Action::Pass => None,
        }
    }

    /// `None` for a route that we would never write, whatever protocol it carries. The onlink flag is left out: it
    /// says how the gateway was checked, not where packets go.
    pub fn found(route: &KernelRoute) -> Option<Spec> {
        match route.kind {
            RouteKind::Blackhole => Some(Spec::Blackhole),
            RouteKind::Unreachable => Some(Spec::Unreachable),
            RouteKind::Unicast => route
                .legs
                .iter()
                .map(|leg| leg.gateway.map(|gateway| NextHop { gateway, ifindex: leg.ifindex }))
                .collect::<Option<Vec<_>>>()
                .filter(|legs| !legs.is_empty())
                .map(Spec::Via),
            _ => None,
        }
    }

    pub fn next_hops(&self) -> Option<&[NextHop]> {
        match self {
            Spec::Via(next_hops) => Some(next_hops),
            Spec::Blackhole | Spec::Unreachable => None,
        }
    }

    pub fn gateway(&self) -> Option<IpAddr> {
        self.next_hops()?.first().map(|hop| hop.gateway)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Leg, RouteKey};

    fn key(prefix: &str) -> RouteKey {
        RouteKey { prefix: prefix.parse().unwrap(), table: 254, tos: 0, metric: 0 }
    }

    #[test]
    fn a_route_without_gateway_is_nothing_that_we_wrote() {
        let connected = KernelRoute {
            key: key("10.0.0.0/26"),
            protocol: 77,
            kind: RouteKind::Unicast,
            legs: vec![Leg { gateway: None, ifindex: 3, onlink: false }],
            special: false,
        };
        assert_eq!(Spec::found(&connected), None);
    }
}
