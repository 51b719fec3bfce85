//! The kernel's foreign routes: those of any protocol but ours, in all tables.
//!
//! The table follows single events where they are unambiguous. Where netlink's semantics are not (a leg of an
//! IPv6 multipath route goes away, a route is appended behind another), it says so and is read anew.

use std::{collections::BTreeMap, net::IpAddr, ops::Bound};

use manx_net::Prefix;

use super::{KernelRoute, Lengths, RouteKey, RouteKind, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};

#[derive(Clone, Debug, Default)]
pub struct Routes {
    by_prefix: BTreeMap<Prefix, Vec<KernelRoute>>,
    lengths: Lengths,
}

/// What an event did to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Unchanged,
    Changed,
    /// The event fits more than one state of the kernel: read the routes anew.
    Ambiguous,
}

impl Routes {
    /// All routes for exactly this prefix.
    pub fn exact(&self, prefix: Prefix) -> &[KernelRoute] {
        self.by_prefix.get(&prefix).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = &KernelRoute> {
        self.by_prefix.values().flatten()
    }

    /// In order, those after a prefix.
    pub fn prefixes_after(&self, after: Option<Prefix>) -> impl Iterator<Item = Prefix> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_prefix.range((from, Bound::Unbounded)).map(|(prefix, _)| *prefix)
    }

    /// Who holds this very place in a table: the route that would make NLM_F_EXCL fail.
    pub fn holder(&self, key: &RouteKey) -> Option<&KernelRoute> {
        self.exact(key.prefix).iter().find(|route| route.key == *key)
    }

    /// The route that the kernel would take, were ours not there: the tables in the order of the standing rules,
    /// in each the longest prefix, of these the lowest metric.
    pub fn lookup(&self, address: IpAddr) -> Option<&KernelRoute> {
        [TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT].into_iter().find_map(|table| {
            self.lengths
                .covering(Prefix::host(address))
                .find_map(|prefix| {
                    self.exact(prefix)
                        .iter()
                        .filter(|route| route.key.table == table && route.key.tos == 0)
                        .min_by_key(|route| route.key.metric)
                })
                // A throw route ends the search in this table and no other.
                .filter(|route| route.kind != RouteKind::Throw)
        })
    }

    /// A walk of the IPv6 tree that begins anew because somebody writes tells some routes twice; two of the same legs it
    /// has only if they differ in a tunnel (`rt6_duplicate_nexthop`). IPv4 may have two that differ in what is not read.
    pub(super) fn insert_dumped(&mut self, route: KernelRoute) {
        let routes = self.by_prefix.entry(route.key.prefix).or_default();
        if !route.key.prefix.is_v4() && !route.special && routes.contains(&route) {
            return;
        }
        if routes.is_empty() {
            self.lengths.add(route.key.prefix);
        }
        routes.push(route);
        routes.sort_unstable();
    }

    pub(super) fn added(&mut self, route: KernelRoute, replaces: bool, appended: bool) -> Outcome {
        let held = self.exact(route.key.prefix);
        if held.contains(&route) {
            return Outcome::Unchanged;
        }
        let alike = held.iter().filter(|other| other.key == route.key).count();
        match (alike, replaces) {
            (1, true) => {
                let prefix = route.key.prefix;
                let held = self.by_prefix.get_mut(&prefix);
                if let Some(other) =
                    held.and_then(|held| held.iter_mut().find(|other| other.key == route.key))
                {
                    *other = route;
                }
                Outcome::Changed
            }
            (0, _) if !appended => {
                self.insert_dumped(route);
                Outcome::Changed
            }
            // IPv6 has many routes of one key on different interfaces (fe80::/64): a plain addition.
            (_, false) if !appended => {
                self.insert_dumped(route);
                Outcome::Changed
            }
            _ => Outcome::Ambiguous,
        }
    }

    pub(super) fn deleted(&mut self, route: &KernelRoute) -> Outcome {
        let Some(held) = self.by_prefix.get_mut(&route.key.prefix) else { return Outcome::Unchanged };
        if let Some(position) = held.iter().position(|other| other == route) {
            held.remove(position);
            if held.is_empty() {
                self.by_prefix.remove(&route.key.prefix);
                self.lengths.remove(route.key.prefix);
            }
            return Outcome::Changed;
        }
        if held.iter().any(|other| other.key == route.key) { Outcome::Ambiguous } else { Outcome::Unchanged }
    }

    /// The interface lost its routes. IPv4 says nothing about it (`fib_sync_down_dev`), IPv6 perhaps. Returns the
    /// prefixes that changed.
    pub(super) fn interface_lost(&mut self, ifindex: u32) -> Vec<Prefix> {
        let mut changed = Vec::new();
        let lost = |route: &KernelRoute| {
            !route.legs.is_empty() && route.legs.iter().all(|leg| leg.ifindex == ifindex)
        };
        self.by_prefix.retain(|prefix, routes| {
            if !routes.iter().any(lost) {
                return true;
            }
            changed.push(*prefix);
            routes.retain(|route| !lost(route));
            if routes.is_empty() {
                self.lengths.remove(*prefix);
            }
            !routes.is_empty()
        });
        changed
    }

    /// The prefixes whose routes differ.
    pub(super) fn differences(&self, other: &Routes) -> Vec<Prefix> {
        let mut differing: Vec<Prefix> = self
            .by_prefix
            .iter()
            .filter(|(prefix, routes)| other.exact(**prefix) != routes.as_slice())
            .map(|(prefix, _)| *prefix)
            .collect();
        differing.extend(other.by_prefix.keys().filter(|prefix| !self.by_prefix.contains_key(prefix)));
        differing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Leg;

    fn route(prefix: &str, table: u32, metric: u32, ifindex: u32) -> KernelRoute {
        KernelRoute {
            key: RouteKey { prefix: prefix.parse().unwrap(), table, tos: 0, metric },
            protocol: 3,
            kind: RouteKind::Unicast,
            legs: vec![Leg { gateway: None, ifindex, onlink: false }],
            special: false,
        }
    }

    fn found(routes: &Routes, address: &str) -> Option<u32> {
        routes.lookup(address.parse().unwrap()).map(|route| route.legs[0].ifindex)
    }

    #[test]
    fn the_local_table_comes_first_then_the_longest_prefix_then_the_lowest_metric() {
        let mut routes = Routes::default();
        for route in [
            route("0.0.0.0/0", TABLE_MAIN, 0, 1),
            route("10.0.0.0/8", TABLE_MAIN, 100, 2),
            route("10.0.0.0/8", TABLE_MAIN, 50, 3),
            route("10.1.0.0/16", TABLE_LOCAL, 0, 4),
            route("10.1.1.0/24", TABLE_MAIN, 0, 5),
            route("10.2.0.0/16", 100, 0, 6),
        ] {
            routes.insert_dumped(route);
        }
        assert_eq!(found(&routes, "10.9.9.9"), Some(3));
        assert_eq!(found(&routes, "10.1.1.1"), Some(4));
        assert_eq!(found(&routes, "10.2.0.1"), Some(3), "other tables are not looked at");
        assert_eq!(found(&routes, "8.8.8.8"), Some(1));
        assert_eq!(found(&routes, "fd00::1"), None);
    }

    #[test]
    fn an_ipv6_route_that_a_dump_tells_twice_is_gone_when_it_is_deleted_and_of_two_ipv4_routes_one_stays() {
        for (prefix, left) in [("fd10::/64", 0), ("10.0.0.0/8", 1)] {
            let mut routes = Routes::default();
            let route = route(prefix, TABLE_MAIN, 0, 1);
            routes.insert_dumped(route.clone());
            routes.insert_dumped(route.clone());
            assert_eq!(routes.deleted(&route), Outcome::Changed);
            assert_eq!(routes.exact(route.key.prefix).len(), left, "{prefix}");
        }
    }

    #[test]
    fn a_deleted_route_that_does_not_match_what_is_held_is_ambiguous() {
        let mut routes = Routes::default();
        routes.insert_dumped(route("10.0.0.0/8", TABLE_MAIN, 0, 1));
        assert_eq!(routes.deleted(&route("10.0.0.0/8", TABLE_MAIN, 0, 2)), Outcome::Ambiguous);
        assert_eq!(routes.deleted(&route("10.0.0.0/8", TABLE_MAIN, 5, 2)), Outcome::Unchanged);
        assert_eq!(routes.deleted(&route("10.0.0.0/8", TABLE_MAIN, 0, 1)), Outcome::Changed);
        assert_eq!(found(&routes, "10.0.0.1"), None);
    }

    #[test]
    fn a_replacing_route_takes_the_place_of_the_only_one_like_it() {
        let mut routes = Routes::default();
        routes.insert_dumped(route("10.0.0.0/8", TABLE_MAIN, 0, 1));
        assert_eq!(routes.added(route("10.0.0.0/8", TABLE_MAIN, 0, 2), true, false), Outcome::Changed);
        assert_eq!(routes.exact("10.0.0.0/8".parse().unwrap()).len(), 1);
        assert_eq!(found(&routes, "10.0.0.1"), Some(2));
    }

    #[test]
    fn a_lost_interface_takes_the_routes_that_only_it_carried() {
        let mut routes = Routes::default();
        routes.insert_dumped(route("10.0.0.0/8", TABLE_MAIN, 0, 1));
        let mut both = route("11.0.0.0/8", TABLE_MAIN, 0, 1);
        both.legs.push(Leg { gateway: None, ifindex: 2, onlink: false });
        routes.insert_dumped(both);
        assert_eq!(routes.interface_lost(1), ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(found(&routes, "10.0.0.1"), None);
        assert_eq!(found(&routes, "11.0.0.1"), Some(1));
    }
}
