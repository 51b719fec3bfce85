//! Next hops against the kernel's other routes.

use manx_dataplane::resolve::{Gateway, Resolution, Unreachable};

use crate::lab::*;

fn gateway(address: &str) -> Gateway {
    Gateway::from(address.parse::<std::net::IpAddr>().unwrap())
}

/// The next hop's gateway, its metric, and whether it is a neighbour.
fn reached(resolution: &Resolution) -> Option<(String, u32, bool)> {
    match resolution {
        Resolution::Reachable { next_hops, metric, onlink } => {
            Some((next_hops[0].gateway.to_string(), *metric, *onlink))
        }
        Resolution::Unreachable(_) => None,
    }
}

#[test]
fn a_neighbour_is_reached_directly_and_the_rest_by_the_router() {
    isolated(|| async {
        uplink();
        ip("route add 10.44.0.0/16 via 192.168.80.121 metric 30");
        ip("route add blackhole 10.45.0.0/16");
        let mut dataplane = open();
        let mut of = |address: &str| dataplane.watch(gateway(address));
        assert_eq!(reached(&of("192.168.80.125")), Some(("192.168.80.125".into(), 0, true)));
        assert_eq!(reached(&of("203.0.113.1")), Some(("192.168.80.2".into(), 0, false)));
        assert_eq!(reached(&of("10.44.1.1")), Some(("192.168.80.121".into(), 30, false)));
        assert_eq!(reached(&of("fd80::125")), Some(("fd80::125".into(), 256, true)));
        assert_eq!(of("10.45.1.1"), Resolution::Unreachable(Unreachable::Refused));
        assert_eq!(of("192.168.80.124"), Resolution::Unreachable(Unreachable::OwnAddress));
        assert_eq!(of("fd81::1"), Resolution::Unreachable(Unreachable::NoRoute));
        assert_eq!(of("fe80::1"), Resolution::Unreachable(Unreachable::NoInterface));
        let ifindex = nix::net::if_::if_nametoindex("ens33").unwrap();
        let scoped = Gateway { address: "fe80::1".parse().unwrap(), ifindex: Some(ifindex) };
        assert_eq!(reached(&dataplane.watch(scoped)), Some(("fe80::1".into(), 0, true)));
    });
}

#[test]
fn our_own_routes_never_resolve_a_next_hop() {
    isolated(|| async {
        uplink();
        ip("route del default");
        let mut dataplane = open();
        dataplane.set_path(p("10.0.0.0/8"), gateways(&["192.168.80.125"]));
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["10.1.1.1"]));
        settle(&mut dataplane).await;
        assert_eq!(ours(&mut dataplane), [p("10.0.0.0/8")]);
    });
}

#[test]
fn a_link_that_goes_down_takes_its_next_hops_and_brings_them_back() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.watch(gateway("192.168.80.125"));
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        dataplane.set_path(p("fd10::/64"), gateways(&["fd80::125"]));
        dataplane.configure(owning(&["172.16.36.192/26"]));
        settle(&mut dataplane).await;
        ip("link set ens33 down");
        let step = settle(&mut dataplane).await;
        let unreachable = Resolution::Unreachable(Unreachable::NoRoute);
        assert_eq!(step.next_hops, [(gateway("192.168.80.125"), unreachable)]);
        assert!(step.map.removals.contains(&p("172.16.118.64/26")));
        assert!(!step.reports.iter().any(is_tampering), "the kernel did that: {:?}", step.reports);
        assert_eq!(ours(&mut dataplane), [p("172.16.36.192/26")]);

        ip("link set ens33 up");
        ip("addr replace fd80::124/64 dev ens33 nodad");
        let all = ["172.16.36.192/26", "172.16.118.64/26", "fd10::/64"].map(p);
        settle_until(&mut dataplane, |dataplane| ours(dataplane) == all).await;
        assert!(reached(&dataplane.watch(gateway("192.168.80.125"))).is_some());
    });
}

#[test]
fn a_link_without_carrier_takes_its_next_hops_too() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        settle(&mut dataplane).await;
        ip("-n wire link set wire0 down");
        let down = Resolution::Unreachable(Unreachable::LinkDown);
        settle_until(&mut dataplane, |dataplane| dataplane.watch(gateway("192.168.80.125")) == down).await;
        assert_eq!(ours(&mut dataplane), []);
        ip("-n wire link set wire0 up");
        settle_until(&mut dataplane, |dataplane| ours(dataplane) == [p("172.16.118.64/26")]).await;
    });
}

#[test]
fn a_link_that_flaps_faster_than_we_look_costs_no_route() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        settle(&mut dataplane).await;
        // The kernel drops our IPv4 route without a word; the link is up again when we look.
        ip("link set ens33 down");
        ip("link set ens33 up");
        assert_eq!(shown("172.16.118.64/26"), "");
        settle_until(&mut dataplane, |dataplane| ours(dataplane) == [p("172.16.118.64/26")]).await;
        assert!(dataplane.audit().unwrap().is_clean());
    });
}

#[test]
fn a_removed_address_takes_the_next_hops_of_its_network() {
    isolated(|| async {
        uplink();
        ip("route del default");
        let mut dataplane = open();
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        settle(&mut dataplane).await;
        ip("addr del 192.168.80.124/24 dev ens33");
        settle(&mut dataplane).await;
        assert_eq!(ours(&mut dataplane), []);
        ip("addr add 192.168.80.124/24 dev ens33");
        settle(&mut dataplane).await;
        assert_eq!(ours(&mut dataplane), [p("172.16.118.64/26")]);
    });
}
