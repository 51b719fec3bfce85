use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::{
    resolve::Unreachable,
    route::{Action, BlackholeKind, Mac, NextHop},
};

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn gateway(text: &str) -> Gateway {
    Gateway::from(text.parse::<IpAddr>().unwrap())
}

fn reachable(text: &str, onlink: bool) -> Resolution {
    let next_hops = vec![NextHop { gateway: text.parse().unwrap(), ifindex: 2 }];
    Resolution::Reachable { next_hops, metric: 0, onlink }
}

fn pool(prefix: &str, write: PoolWrite) -> Pool {
    Pool { name: prefix.to_owned(), prefix: p(prefix), write, fast_path: true }
}

/// A worker: the pool 172.16.0.0/16, the own block 172.16.36.192/26, a path to the other worker's block.
fn worker() -> Table {
    let mut table = Table::default();
    table.set_plan(Plan {
        pools: vec![pool("172.16.0.0/16", PoolWrite::Always)],
        own_blocks: vec![p("172.16.36.192/26").into()],
        ..Plan::default()
    });
    table.set_resolution(gateway("192.168.80.125"), Some(reachable("192.168.80.125", true)));
    table.set_path(p("172.16.118.64/26"), vec![gateway("192.168.80.125")]);
    table
}

fn action(routes: &[Route], prefix: &str) -> Option<Action> {
    routes.iter().find(|route| route.prefix == p(prefix)).map(|route| route.action.clone())
}

#[test]
fn each_sink_takes_what_is_its_own() {
    let mut table = worker();
    table.set_pod(p("172.16.36.193/32"), Some(Pod { ifindex: 9, mac: None, metric: 0 }));
    let changed = table.commit();
    let prefixes = |delta: &Delta| delta.upserts.iter().map(|route| route.prefix).collect::<Vec<_>>();
    assert_eq!(prefixes(&changed.fib), [p("172.16.36.192/26"), p("172.16.118.64/26")]);
    assert_eq!(
        prefixes(&changed.map),
        [p("172.16.36.193/32"), p("172.16.36.192/26"), p("172.16.118.64/26"), p("172.16.0.0/16")]
    );
    assert_eq!(table.map_routes(), changed.map.upserts);
    assert!(table.commit().map.is_empty(), "nothing changed since");
}

#[test]
fn the_whole_map_includes_what_was_told_since_the_last_commit() {
    let mut table = worker();
    table.commit();
    table.set_path(p("172.16.118.128/26"), vec![gateway("192.168.80.125")]);
    table.set_path(p("172.16.118.64/26"), Vec::new());
    let whole = table.map_routes();
    assert!(action(&whole, "172.16.118.128/26").is_some() && action(&whole, "172.16.118.64/26").is_none());
    table.commit();
    assert_eq!(table.map_routes(), whole);
}

#[test]
fn an_own_block_of_one_address_leaves_its_place_to_a_pod_here_or_elsewhere() {
    let mut table = worker();
    table.set_plan(Plan {
        own_blocks: vec![p("172.16.36.193/32").into(), p("fd10::1/128").into()],
        ..Plan::default()
    });
    let changed = table.commit();
    assert_eq!(action(&changed.fib.upserts, "172.16.36.193/32"), None);
    assert_eq!(action(&changed.fib.upserts, "fd10::1/128"), None);
    table.set_path(p("172.16.36.193/32"), vec![gateway("192.168.80.125")]);
    let changed = table.commit();
    assert!(matches!(action(&changed.fib.upserts, "172.16.36.193/32"), Some(Action::Via(_))));
    table.set_pod(p("172.16.36.193/32"), Some(Pod { ifindex: 9, mac: Some(Mac([2; 6])), metric: 0 }));
    let changed = table.commit();
    assert_eq!(changed.fib.removals, [p("172.16.36.193/32")]);
    assert!(matches!(action(&changed.map.upserts, "172.16.36.193/32"), Some(Action::Local { .. })));
}

#[test]
fn a_path_to_the_own_block_changes_nothing_and_a_borrowed_address_in_it_wins() {
    let mut table = worker();
    table.commit();
    table.set_path(p("172.16.36.192/26"), vec![gateway("192.168.80.125")]);
    assert!(table.commit().fib.is_empty());
    table.set_path(p("172.16.36.200/32"), vec![gateway("192.168.80.125")]);
    let changed = table.commit();
    assert!(matches!(action(&changed.fib.upserts, "172.16.36.200/32"), Some(Action::Via(_))));
    assert!(matches!(action(&changed.map.upserts, "172.16.36.200/32"), Some(Action::Via(_))));
}

#[test]
fn only_a_usable_next_hop_makes_a_route() {
    let mut table = worker();
    table.commit();
    table.set_resolution(gateway("192.168.80.125"), Some(Resolution::Unreachable(Unreachable::LinkDown)));
    let changed = table.commit();
    assert_eq!(changed.fib.removals, [p("172.16.118.64/26")]);
    assert_eq!(changed.withheld, [(p("172.16.118.64/26"), Withheld::NoNextHop)]);
}

#[test]
fn a_foreign_route_inside_our_prefixes_passes_in_the_map_and_outside_does_not_concern_us() {
    let mut table = worker();
    table.commit();
    table.set_foreign(p("172.16.118.100/32"), Some(Foreign { wins: true }));
    table.set_foreign(p("192.168.80.0/24"), Some(Foreign { wins: true }));
    let changed = table.commit();
    assert_eq!(action(&changed.map.upserts, "172.16.118.100/32"), Some(Action::Pass));
    assert_eq!(changed.map.upserts.len(), 1);
    assert!(changed.fib.is_empty());
    // A default route from a peer surrounds everything.
    table.set_path(p("0.0.0.0/0"), vec![gateway("192.168.80.125")]);
    assert_eq!(action(&table.commit().map.upserts, "192.168.80.0/24"), Some(Action::Pass));
    table.set_path(p("0.0.0.0/0"), Vec::new());
    assert!(table.commit().map.removals.contains(&p("192.168.80.0/24")));
}

#[test]
fn a_foreign_route_in_our_place_passes_in_the_map_while_the_fib_still_wants_ours() {
    let mut table = worker();
    table.set_foreign(p("172.16.118.64/26"), Some(Foreign { wins: true }));
    let changed = table.commit();
    assert!(matches!(action(&changed.fib.upserts, "172.16.118.64/26"), Some(Action::Via(_))));
    assert_eq!(action(&changed.map.upserts, "172.16.118.64/26"), Some(Action::Pass));
    table.set_foreign(p("172.16.118.64/26"), Some(Foreign { wins: false }));
    let changed = table.commit();
    assert!(changed.fib.is_empty());
    assert!(matches!(action(&changed.map.upserts, "172.16.118.64/26"), Some(Action::Via(_))));
}

#[test]
fn a_changed_pool_rule_reaches_the_routes_inside() {
    let mut table = worker();
    table.commit();
    let mut plan = table.plan.clone();
    plan.pools[0].write = PoolWrite::Never;
    table.set_plan(plan.clone());
    let changed = table.commit();
    assert_eq!(changed.fib.removals, [p("172.16.118.64/26")]);
    assert_eq!(changed.withheld, [(p("172.16.118.64/26"), Withheld::PoolNever(0))]);
    plan.pools.clear();
    table.set_plan(plan);
    let changed = table.commit();
    assert_eq!(changed.map.removals, [p("172.16.0.0/16")]);
}

/// A virtual machine that moves: Felix gives the route to where it will run a better metric than the old node's route has.
#[test]
fn a_pod_that_moves_away_is_led_to_where_a_better_priority_says_if_the_kernel_would_follow() {
    let host = "172.16.36.193/32";
    let is_local = |map: &[Route]| matches!(action(map, host), Some(Action::Local { .. }));
    let mut table = worker();
    table.set_pod(p(host), Some(Pod { ifindex: 9, mac: None, metric: 1024 }));
    table.set_foreign(p(host), Some(Foreign { wins: false }));
    table.set_path(p(host), vec![gateway("192.168.80.125")]);
    let changed = table.commit();
    assert!(is_local(&changed.map.upserts) && action(&changed.fib.upserts, host).is_none());

    assert!(table.set_priority(p(host), Some(512)) && !table.set_priority(p(host), Some(512)));
    let changed = table.commit();
    assert!(matches!(action(&changed.fib.upserts, host), Some(Action::Via(_))));
    assert!(matches!(action(&changed.map.upserts, host), Some(Action::Via(_))));

    // The kernel would go on to the pod; the path leads nowhere; the pod's own route is as good; nobody says so any more.
    table.set_foreign(p(host), Some(Foreign { wins: true }));
    let changed = table.commit();
    assert!(is_local(&changed.map.upserts) && changed.fib.removals == [p(host)]);
    table.set_foreign(p(host), Some(Foreign { wins: false }));
    assert!(!is_local(&table.commit().map.upserts));
    let nowhere = Some(Resolution::Unreachable(Unreachable::NoRoute));
    table.set_resolution(gateway("192.168.80.125"), nowhere);
    assert!(is_local(&table.commit().map.upserts));
    table.set_resolution(gateway("192.168.80.125"), Some(reachable("192.168.80.125", true)));
    assert!(!is_local(&table.commit().map.upserts));
    table.set_pod(p(host), Some(Pod { ifindex: 9, mac: None, metric: 512 }));
    assert!(is_local(&table.commit().map.upserts));
    table.set_pod(p(host), Some(Pod { ifindex: 9, mac: None, metric: 1024 }));
    assert!(!is_local(&table.commit().map.upserts));
    table.set_priority(p(host), None);
    assert!(is_local(&table.commit().map.upserts));
}

#[test]
fn an_explicit_blackhole_is_one_in_both_sinks_and_over_a_pod_in_the_map_alone() {
    let host = "172.16.118.100/32";
    let drop = Some(Action::Blackhole(BlackholeKind::Explicit));
    let mut table = worker();
    table.set_path(p(host), vec![gateway("192.168.80.125")]);
    table.commit();
    table.set_blackhole(p(host), true);
    let changed = table.commit();
    assert_eq!(action(&changed.fib.upserts, host), drop);
    assert_eq!(action(&changed.map.upserts, host), drop);

    // A pod appears there: the kernel's route is the pod's, and the packets still die.
    table.set_pod(p(host), Some(Pod { ifindex: 9, mac: None, metric: 0 }));
    table.set_foreign(p(host), Some(Foreign { wins: true }));
    let changed = table.commit();
    assert_eq!((changed.fib.removals, changed.map), (vec![p(host)], Delta::default()));
    assert_eq!(changed.withheld, [(p(host), Withheld::PodInPlace)]);

    // Nobody asks for it any more.
    table.set_blackhole(p(host), false);
    let changed = table.commit();
    assert!(changed.fib.is_empty());
    assert!(matches!(action(&changed.map.upserts, host), Some(Action::Local { .. })));
}

#[test]
fn an_explicit_blackhole_leaves_an_address_to_the_host_that_has_it() {
    let host = "172.16.36.192/32";
    let mut table = worker();
    table.set_foreign(p(host), Some(Foreign { wins: true }));
    table.commit();
    table.set_blackhole(p(host), true);
    let changed = table.commit();
    assert_eq!(action(&changed.fib.upserts, host), Some(Action::Blackhole(BlackholeKind::Explicit)));
    assert_eq!(action(&table.map_routes(), host), Some(Action::Pass));
    table.set_blackhole(p(host), false);
    let changed = table.commit();
    assert_eq!((changed.fib.removals, changed.map), (vec![p(host)], Delta::default()));
}

/// [`worker`], whose pool is closed: no packet for it leaves by a route that surrounds it.
fn closed(reply: Reply) -> (Table, Plan) {
    let mut table = worker();
    let mut plan = table.plan.clone();
    plan.closed_pools = vec![Blackhole { prefix: p("172.16.0.0/16"), reply }];
    table.set_plan(plan.clone());
    (table, plan)
}

#[test]
fn a_closed_pool_is_a_blackhole_once_all_is_learned() {
    let pool = "172.16.0.0/16";
    let (mut table, mut plan) = closed(Reply::Drop);
    let changed = table.commit();
    assert_eq!(action(&changed.fib.upserts, pool), None);
    assert_eq!(action(&changed.map.upserts, pool), Some(Action::Pass));
    table.finish_startup();
    let changed = table.commit();
    let drop = Some(Action::Blackhole(BlackholeKind::Own));
    assert_eq!(
        (action(&changed.fib.upserts, pool), action(&changed.map.upserts, pool)),
        (drop.clone(), drop)
    );
    assert_eq!(changed.fib.upserts.len(), 1, "the blocks inside are as they were");

    plan.closed_pools[0].reply = Reply::Unreachable;
    table.set_plan(plan.clone());
    let changed = table.commit();
    assert_eq!(action(&changed.fib.upserts, pool), Some(Action::Unreachable));
    assert_eq!(action(&changed.map.upserts, pool), Some(Action::Unreachable));

    plan.closed_pools.clear();
    table.set_plan(plan);
    let changed = table.commit();
    assert_eq!(changed.fib.removals, [p(pool)]);
    assert_eq!(action(&changed.map.upserts, pool), Some(Action::Pass));
}

#[test]
fn who_announces_a_closed_pool_as_a_whole_gets_its_packets_while_he_can_be_reached() {
    let (mut table, _) = closed(Reply::Drop);
    table.finish_startup();
    table.set_path(p("172.16.0.0/16"), vec![gateway("192.168.80.125")]);
    assert!(matches!(action(&table.commit().fib.upserts, "172.16.0.0/16"), Some(Action::Via(_))));
    table.set_resolution(gateway("192.168.80.125"), Some(Resolution::Unreachable(Unreachable::LinkDown)));
    let changed = table.commit();
    assert_eq!(action(&changed.fib.upserts, "172.16.0.0/16"), Some(Action::Blackhole(BlackholeKind::Own)));
}

#[test]
fn an_own_block_answers_unreachable_where_the_pool_says_so() {
    let mut table = worker();
    table.commit();
    let mut plan = table.plan.clone();
    plan.own_blocks[0].reply = Reply::Unreachable;
    table.set_plan(plan);
    let changed = table.commit();
    assert_eq!(action(&changed.fib.upserts, "172.16.36.192/26"), Some(Action::Unreachable));
    assert_eq!(action(&changed.map.upserts, "172.16.36.192/26"), Some(Action::Unreachable));
}

#[test]
fn what_overlaps_services_is_no_blackhole_whoever_asks() {
    let mut table = worker();
    table.commit();
    table.set_blackhole(p("172.16.36.200/32"), true);
    table.set_ordered_blackhole(p("172.16.118.64/26"), Some(Reply::Drop));
    let mut plan = table.plan.clone();
    plan.services = vec![p("172.16.0.0/17")];
    plan.closed_pools = vec![p("172.16.0.0/16").into()];
    table.set_plan(plan.clone());
    table.finish_startup();
    let changed = table.commit();
    assert_eq!(changed.fib.removals, [p("172.16.36.192/26")]);
    assert_eq!(changed.fib.upserts, []);
    assert_eq!(action(&table.map_routes(), "172.16.36.192/26"), Some(Action::Pass));
    assert_eq!(action(&table.map_routes(), "172.16.0.0/16"), Some(Action::Pass));
    assert!(matches!(action(&table.map_routes(), "172.16.118.64/26"), Some(Action::Via(_))));
    let withheld: Vec<Prefix> = changed.withheld.iter().map(|(prefix, _)| *prefix).collect();
    assert_eq!(withheld, [p("172.16.36.192/26"), p("172.16.36.200/32"), p("172.16.118.64/26")]);
    assert_eq!(table.withheld(p("172.16.36.200/32")), Some(Withheld::Service(0)));

    plan.services.clear();
    table.set_plan(plan);
    assert_eq!(table.commit().fib.upserts.len(), 4, "all of them are blackholes again");
}

#[test]
fn a_route_to_services_is_not_written_unless_pods_are_there() {
    let mut table = worker();
    let mut plan = table.plan.clone();
    plan.services = vec![p("10.96.0.0/12"), p("172.16.0.0/17")];
    table.set_plan(plan);
    let pods = table.path(p("172.16.118.64/26")).to_vec();
    for prefix in ["10.96.0.0/12", "10.97.1.1/32", "10.0.0.0/8"] {
        table.set_path(p(prefix), pods.clone());
    }
    let changed = table.commit();
    let written = |prefix: &str| action(&changed.fib.upserts, prefix);
    assert_eq!(written("10.96.0.0/12"), None);
    assert_eq!(written("10.97.1.1/32"), None);
    assert_eq!(table.withheld(p("10.97.1.1/32")), Some(Withheld::ToService(0)));
    // What reaches farther is another route, and pods are reached though somebody calls their prefix one of services.
    assert!(matches!(written("10.0.0.0/8"), Some(Action::Via(_))));
    assert!(matches!(action(&table.map_routes(), "172.16.118.64/26"), Some(Action::Via(_))));
    // It is written when they are no services any more.
    let plan = Plan { services: Vec::new(), ..table.plan.clone() };
    table.set_plan(plan);
    assert_eq!(table.commit().fib.upserts.len(), 3, "and the own block is a blackhole again");
}

#[test]
fn a_peer_behind_a_router_has_a_route_in_the_fib_and_no_pod_has_it() {
    let (router, peer) = (gateway("192.168.80.1"), "10.9.0.2/32");
    let led = |table: &Table, peer: &str, router: &str| Plan {
        routers: BTreeMap::from([(peer.parse().unwrap(), router.parse().unwrap())]),
        ..table.plan.clone()
    };
    let mut table = worker();
    table.commit();
    table.set_resolution(router, Some(reachable("192.168.80.1", true)));
    table.set_plan(led(&table, "10.9.0.2", "192.168.80.1"));
    let changed = table.commit();
    assert!(matches!(action(&changed.fib.upserts, peer), Some(Action::Via(hops)) if hops.len() == 1));
    assert!(changed.map.is_empty());
    table.set_path(p("10.9.0.0/16"), vec![gateway("192.168.80.125")]);
    assert_eq!(
        action(&table.commit().map.upserts, peer),
        Some(Action::Pass),
        "the map has what is around it now"
    );
    table.set_path(p("10.9.0.0/16"), Vec::new());
    assert_eq!(table.commit().map.removals, [p("10.9.0.0/16"), p(peer)]);
    // Not by a router that is itself behind one, for that route could be ours.
    table.set_resolution(router, Some(reachable("192.168.80.7", false)));
    let changed = table.commit();
    assert_eq!(changed.fib.removals, [p(peer)]);
    assert_eq!(changed.withheld, [(p(peer), Withheld::RouterNotOnLink)]);
    table.set_resolution(router, Some(reachable("192.168.80.1", true)));
    // Where the map has pods all around, the kernel knows better.
    table.set_plan(led(&table, "172.16.200.1", "192.168.80.1"));
    let changed = table.commit();
    assert!(matches!(action(&changed.fib.upserts, "172.16.200.1/32"), Some(Action::Via(_))));
    assert_eq!(action(&changed.map.upserts, "172.16.200.1/32"), Some(Action::Pass));
    table.set_plan(Plan { routers: BTreeMap::new(), ..table.plan.clone() });
    assert_eq!(table.commit().fib.removals, [p("172.16.200.1/32")]);
}

#[test]
fn an_operators_blackhole_stands_over_what_the_kernel_has_and_may_answer_elsewhere() {
    let host = "172.16.118.100/32";
    let mut table = worker();
    table.set_foreign(p(host), Some(Foreign { wins: true }));
    table.set_ordered_blackhole(p(host), Some(Reply::Unreachable));
    table.commit();
    let drop = Some(Action::Blackhole(BlackholeKind::Explicit));
    assert_eq!(action(&table.map_routes(), host), drop, "the stack would not answer, but forward");
    table.set_foreign(p(host), None);
    table.commit();
    assert_eq!(action(&table.map_routes(), host), Some(Action::Unreachable));
    // A peer that asks for it, too, changes nothing, and keeps it when the operator has done.
    table.set_blackhole(p(host), true);
    table.commit();
    assert_eq!(action(&table.map_routes(), host), Some(Action::Unreachable));
    table.set_ordered_blackhole(p(host), None);
    table.commit();
    assert_eq!(action(&table.map_routes(), host), drop);
    // Over a pod there is nobody who would answer.
    table.set_ordered_blackhole(p(host), Some(Reply::Unreachable));
    table.set_pod(p(host), Some(Pod { ifindex: 9, mac: None, metric: 0 }));
    table.commit();
    assert_eq!(action(&table.map_routes(), host), drop);
}

/// A fact about the small world in which the property is tested: few prefixes, deeply nested.
#[derive(Clone, Debug)]
enum Fact {
    Plan {
        pools: Vec<(usize, u8, bool)>,
        blocks: Vec<usize>,
        closed: bool,
        services: Vec<usize>,
        routers: Vec<(usize, usize)>,
    },
    Path(usize, Vec<usize>),
    Resolution(usize, Option<bool>),
    Priority(usize, Option<u32>),
    Blackhole(usize, bool),
    Ordered(usize, Option<bool>),
    Learned,
    Pod(usize, Option<u32>),
    Foreign(usize, Option<bool>),
    Commit,
}

const PREFIXES: [&str; 10] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.1.0/24",
    "10.0.1.0/26",
    "10.0.1.1/32",
    "10.0.1.2/32",
    "10.9.0.0/16",
    "fd00::/16",
    "fd00::1/128",
];
/// The last is a gateway, too.
const HOSTS: [&str; 4] = ["10.0.1.1", "10.0.1.2", "fd00::1", "192.0.2.2"];
const GATEWAYS: [&str; 3] = ["192.0.2.1", "192.0.2.2", "fd99::1"];

fn fact() -> impl Strategy<Value = Fact> {
    let prefix = 0..PREFIXES.len();
    prop_oneof![
        (
            proptest::collection::vec((prefix.clone(), 0..3u8, any::<bool>()), 0..3),
            proptest::collection::vec(prefix.clone(), 0..3),
            any::<bool>(),
            proptest::collection::vec(prefix.clone(), 0..2),
            proptest::collection::vec((0..HOSTS.len(), 0..GATEWAYS.len()), 0..3),
        )
            .prop_map(|(pools, blocks, closed, services, routers)| Fact::Plan {
                pools,
                blocks,
                closed,
                services,
                routers
            }),
        (prefix.clone(), any::<Option<bool>>())
            .prop_map(|(prefix, unreachable)| Fact::Ordered(prefix, unreachable)),
        Just(Fact::Learned),
        (prefix.clone(), proptest::collection::vec(0..GATEWAYS.len(), 0..3))
            .prop_map(|(prefix, gateways)| Fact::Path(prefix, gateways)),
        (0..GATEWAYS.len(), any::<Option<bool>>())
            .prop_map(|(gateway, onlink)| Fact::Resolution(gateway, onlink)),
        (prefix.clone(), proptest::option::of(510..1030u32))
            .prop_map(|(prefix, priority)| Fact::Priority(prefix, priority)),
        (prefix.clone(), any::<bool>()).prop_map(|(prefix, asked)| Fact::Blackhole(prefix, asked)),
        (prefix.clone(), any::<Option<u32>>()).prop_map(|(prefix, pod)| Fact::Pod(prefix, pod)),
        (prefix, any::<Option<bool>>()).prop_map(|(prefix, wins)| Fact::Foreign(prefix, wins)),
        Just(Fact::Commit),
    ]
}

fn tell(table: &mut Table, fact: &Fact) {
    match fact {
        Fact::Plan { pools, blocks, closed, services, routers } => {
            let writes = [PoolWrite::Always, PoolWrite::OnLinkOnly, PoolWrite::Never];
            let pools = pools.iter().map(|(prefix, write, fast_path)| Pool {
                fast_path: *fast_path,
                ..pool(PREFIXES[*prefix], writes[usize::from(*write)])
            });
            let pools: Vec<Pool> = pools.collect();
            let closed_pools = pools.iter().filter(|_| *closed).map(|pool| pool.prefix.into()).collect();
            let own_blocks = blocks.iter().map(|prefix| Blackhole {
                prefix: p(PREFIXES[*prefix]),
                reply: if *closed { Reply::Unreachable } else { Reply::Drop },
            });
            let services = services.iter().map(|prefix| p(PREFIXES[*prefix])).collect();
            let routers = routers
                .iter()
                .map(|(peer, router)| (HOSTS[*peer].parse().unwrap(), GATEWAYS[*router].parse().unwrap()));
            let routers = routers.collect();
            table.set_plan(Plan { own_blocks: own_blocks.collect(), closed_pools, services, pools, routers });
        }
        Fact::Path(prefix, gateways) => {
            let gateways = gateways.iter().map(|index| gateway(GATEWAYS[*index])).collect();
            table.set_path(p(PREFIXES[*prefix]), gateways);
        }
        Fact::Resolution(index, onlink) => {
            let resolution = match onlink {
                Some(onlink) => reachable(GATEWAYS[*index], *onlink),
                None => Resolution::Unreachable(Unreachable::NoRoute),
            };
            table.set_resolution(gateway(GATEWAYS[*index]), Some(resolution));
        }
        Fact::Priority(prefix, priority) => drop(table.set_priority(p(PREFIXES[*prefix]), *priority)),
        Fact::Blackhole(prefix, asked) => table.set_blackhole(p(PREFIXES[*prefix]), *asked),
        Fact::Ordered(prefix, unreachable) => {
            let reply = unreachable.map(|yes| if yes { Reply::Unreachable } else { Reply::Drop });
            table.set_ordered_blackhole(p(PREFIXES[*prefix]), reply);
        }
        Fact::Learned => table.finish_startup(),
        Fact::Pod(prefix, pod) => {
            table.set_pod(p(PREFIXES[*prefix]), pod.map(|ifindex| Pod { ifindex, mac: None, metric: 1024 }));
        }
        Fact::Foreign(prefix, wins) => {
            table.set_foreign(p(PREFIXES[*prefix]), wins.map(|wins| Foreign { wins }));
        }
        Fact::Commit => {
            table.commit();
        }
    }
}

fn apply(held: &mut BTreeMap<Prefix, Route>, delta: Delta) {
    for route in delta.upserts {
        held.insert(route.prefix, route);
    }
    for prefix in delta.removals {
        assert!(held.remove(&prefix).is_some(), "{prefix} is removed though nothing was there");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn after_any_sequence_of_facts_the_table_is_as_if_it_were_told_the_last_ones_at_once(
        facts in proptest::collection::vec(fact(), 0..40)
    ) {
        let mut incremental = Table::default();
        let mut fib = BTreeMap::new();
        let mut map = BTreeMap::new();
        for fact in &facts {
            let whole = incremental.map_routes();
            if let Fact::Commit = fact {
                let changed = incremental.commit();
                apply(&mut fib, changed.fib);
                apply(&mut map, changed.map);
                prop_assert_eq!(&whole, &incremental.map_routes(), "what was foretold came");
            } else {
                tell(&mut incremental, fact);
            }
        }
        let changed = incremental.commit();
        apply(&mut fib, changed.fib);
        apply(&mut map, changed.map);

        let mut scratch = Table::default();
        for fact in facts.iter().filter(|fact| !matches!(fact, Fact::Commit)) {
            tell(&mut scratch, fact);
        }
        // Only the facts that stand are left now: everything is computed from them.
        scratch.entries.clear();
        let all: Vec<Prefix> = PREFIXES.iter().map(|prefix| p(prefix)).collect();
        scratch.dirty.extend(all);
        scratch.dirty.extend(HOSTS.iter().map(|host| Prefix::host(host.parse().unwrap())));
        let expected = scratch.commit();

        prop_assert_eq!(&incremental.entries, &scratch.entries);
        prop_assert_eq!(fib.into_values().collect::<HashSet<_>>(), expected.fib.upserts.into_iter().collect());
        prop_assert_eq!(map.into_values().collect::<HashSet<_>>(), expected.map.upserts.into_iter().collect());
    }
}
