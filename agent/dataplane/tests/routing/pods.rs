//! Pods, found by the kernel's host routes.

use manx_dataplane::{
    Dataplane, LinkChange,
    kernel::Role,
    route::{Action, Mac, Route},
    table::{Plan, Pool, PoolWrite},
};

use crate::lab::*;

/// What the map should hold for an address.
fn local(routes: &[Route], prefix: &str) -> Option<(u32, Option<Mac>)> {
    routes.iter().find(|route| route.prefix == p(prefix)).and_then(|route| match route.action {
        Action::Local { ifindex, mac } => Some((ifindex, mac)),
        _ => None,
    })
}

fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// The MAC address of a pod's own side.
fn pod_mac(name: &str) -> Mac {
    let text = ip(&format!("-n {name} -br link show eth0"));
    let mac = text.split_whitespace().nth(2).unwrap();
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    Mac(bytes.try_into().unwrap())
}

#[test]
fn pods_are_found_with_their_mac_addresses_before_any_traffic() {
    isolated(|| async {
        uplink();
        pod("web", "172.16.36.193");
        let mut dataplane = open();
        settle(&mut dataplane).await;
        pod("db", "172.16.36.194");
        pod("six", "fd10:0:0:1::5");
        // Nothing is left to ask for once all have answered.
        settle_until(&mut dataplane, |dataplane| dataplane.next_wakeup().is_none()).await;
        let map = dataplane.map_routes();
        for (name, prefix) in
            [("web", "172.16.36.193/32"), ("db", "172.16.36.194/32"), ("six", "fd10:0:0:1::5/128")]
        {
            let interface = ifindex(&format!("cali{name}"));
            assert_eq!(local(&map, prefix), Some((interface, Some(pod_mac(name)))), "{name}");
        }
        assert_eq!(ours(&mut dataplane), [], "the kernel has these routes already");
    });
}

#[test]
fn a_pods_route_that_only_the_stack_heeds_is_the_stacks() {
    isolated(|| async {
        uplink();
        for (name, address) in [("a", "172.16.36.193"), ("b", "172.16.36.194"), ("six", "fd10:0:0:1::5")] {
            pod(name, address);
        }
        let mut dataplane = open();
        dataplane.configure(owning(&["172.16.36.192/26", "fd10:0:0:1::/122"]));
        settle(&mut dataplane).await;
        let is_local = |dataplane: &Dataplane, prefix: &str| local(&dataplane.map_routes(), prefix).is_some();
        for (prefix, changed, usual) in [
            (
                "172.16.36.193/32",
                "route replace 172.16.36.193 dev calia mtu lock 1400",
                "route replace 172.16.36.193 dev calia",
            ),
            (
                "172.16.36.193/32",
                "route add 172.16.36.193 tos 0x10 dev calib",
                "route del 172.16.36.193 tos 0x10 dev calib",
            ),
            (
                "172.16.36.194/32",
                "route replace 172.16.36.194 dev calib mtu 1300",
                "route replace 172.16.36.194 dev calib hoplimit 9",
            ),
            (
                "fd10:0:0:1::5/128",
                "-6 route change fd10:0:0:1::5 dev calisix mtu 1300",
                "-6 route change fd10:0:0:1::5 dev calisix",
            ),
        ] {
            assert!(is_local(&dataplane, prefix), "before {changed}");
            ip(changed);
            settle_until(&mut dataplane, |dataplane| !is_local(dataplane, prefix)).await;
            let map = dataplane.map_routes();
            let action = map.iter().find(|route| route.prefix == p(prefix)).map(|route| &route.action);
            assert_eq!(action, Some(&Action::Pass), "{changed}");
            ip(usual);
            settle_until(&mut dataplane, |dataplane| is_local(dataplane, prefix)).await;
        }
    });
}

#[test]
fn a_pod_is_lost_with_its_route_or_its_interface() {
    isolated(|| async {
        uplink();
        for (name, address) in [("a", "172.16.36.193"), ("b", "172.16.36.194"), ("c", "172.16.36.195")] {
            pod(name, address);
        }
        let mut dataplane = open();
        settle(&mut dataplane).await;
        ip("route del 172.16.36.193/32");
        ip("link del calib");
        ip("link set calic down");
        let step = settle(&mut dataplane).await;
        let mut removed = step.map.removals;
        removed.sort();
        assert_eq!(removed, ["172.16.36.193/32", "172.16.36.194/32", "172.16.36.195/32"].map(p));
        assert!(
            step.links
                .iter()
                .any(|change| matches!(change, LinkChange::Gone { name, .. } if name == "calib"))
        );
        assert!(dataplane.kernel().routes().exact(p("172.16.36.194/32")).is_empty());
    });
}

#[test]
fn a_forgotten_neighbour_costs_a_pod_nothing_and_a_new_mac_is_followed() {
    isolated(|| async {
        uplink();
        pod("web", "172.16.36.193");
        let mut dataplane = open();
        settle(&mut dataplane).await;
        let before = Some((ifindex("caliweb"), Some(pod_mac("web"))));
        settle_until(&mut dataplane, |dataplane| {
            local(&dataplane.map_routes(), "172.16.36.193/32") == before
        })
        .await;
        ip("neigh flush dev caliweb");
        let step = settle(&mut dataplane).await;
        assert_eq!(local(&dataplane.map_routes(), "172.16.36.193/32"), before);
        assert!(step.map.is_empty(), "the map is not touched: {:?}", step.map);

        ip("-n web link set eth0 address 02:00:00:00:00:42");
        ip("neigh flush dev caliweb");
        let now = Some((ifindex("caliweb"), Some(Mac([2, 0, 0, 0, 0, 0x42]))));
        settle_until(&mut dataplane, |dataplane| local(&dataplane.map_routes(), "172.16.36.193/32") == now)
            .await;
    });
}

#[test]
fn a_pod_that_moves_to_another_interface_is_followed() {
    isolated(|| async {
        uplink();
        pod("old", "172.16.36.193");
        pod("new", "172.16.36.200");
        let mut dataplane = open();
        settle(&mut dataplane).await;
        ip("-n new addr add 172.16.36.193/32 dev eth0");
        ip("route replace 172.16.36.193/32 dev calinew scope link");
        let now = Some((ifindex("calinew"), Some(pod_mac("new"))));
        settle_until(&mut dataplane, |dataplane| local(&dataplane.map_routes(), "172.16.36.193/32") == now)
            .await;
    });
}

#[test]
fn a_host_route_in_another_table_or_to_another_interface_is_no_pod() {
    isolated(|| async {
        uplink();
        pod("web", "172.16.36.193");
        ip("route add 172.16.36.194/32 dev caliweb scope link table 100");
        ip("route add 172.16.36.195/32 dev ens33 scope link");
        ip("route add 172.16.36.196/32 via 192.168.80.125 dev ens33");
        let mut dataplane = open();
        settle(&mut dataplane).await;
        let found: Vec<_> = dataplane.map_routes().into_iter().map(|route| route.prefix).collect();
        assert_eq!(found, [p("172.16.36.193/32")]);
        // A link becomes a pod's by its name, whenever it gets it.
        ip("link set caliweb down");
        ip("link set caliweb name web0");
        ip("link set web0 up");
        ip("route add 172.16.36.193/32 dev web0 scope link");
        settle(&mut dataplane).await;
        assert_eq!(dataplane.map_routes(), []);
        ip("link set web0 down");
        ip("link set web0 name caliweb");
        ip("link set caliweb up");
        ip("route add 172.16.36.193/32 dev caliweb scope link");
        settle(&mut dataplane).await;
        assert!(local(&dataplane.map_routes(), "172.16.36.193/32").is_some());
    });
}

#[test]
fn a_pod_beats_a_peers_route_for_its_address_in_both_sinks() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.configure(Plan {
            pools: vec![Pool {
                name: "default".to_owned(),
                prefix: p("172.16.0.0/16"),
                write: PoolWrite::Always,
                fast_path: true,
            }],
            own_blocks: vec![p("172.16.36.192/26").into()],
            ..Plan::default()
        });
        // It lived elsewhere; the peer withdraws it late.
        dataplane.set_path(p("172.16.36.193/32"), gateways(&["192.168.80.125"]));
        settle(&mut dataplane).await;
        assert!(shown("172.16.36.193/32").contains("via"));
        pod_over("web", "172.16.36.193");
        settle(&mut dataplane).await;
        assert_eq!(shown("172.16.36.193/32"), "172.16.36.193 dev caliweb scope link");
        assert!(local(&dataplane.map_routes(), "172.16.36.193/32").is_some());
    });
}

#[test]
fn links_are_told_with_their_roles() {
    isolated(|| async {
        uplink();
        pod("web", "172.16.36.193");
        ip("link add br0 type bridge");
        let mut dataplane = open();
        let step = settle(&mut dataplane).await;
        let role = |wanted: &str| {
            step.links.iter().find_map(|change| match change {
                LinkChange::Present(link) if link.name == wanted => Some((link.role, link.kind.clone())),
                _ => None,
            })
        };
        assert_eq!(role("ens33"), Some((Role::Uplink, Some("veth".to_owned()))));
        assert_eq!(role("caliweb"), Some((Role::Pod, Some("veth".to_owned()))));
        assert_eq!(role("br0"), Some((Role::Other, Some("bridge".to_owned()))));
        ip("link set caliweb mtu 1400");
        ip("link set ens33 master br0");
        let step = settle(&mut dataplane).await;
        let uplink = dataplane.links().find(|link| link.name == "ens33").unwrap();
        assert_eq!(uplink.master, Some(ifindex("br0")));
        assert!(
            step.links
                .iter()
                .any(|c| matches!(c, LinkChange::Present(l) if l.name == "caliweb" && l.mtu == 1400))
        );
        assert_eq!(uplink.role, Role::Other, "the bridge routes what its port receives");
        ip("link set ens33 nomaster");
        settle(&mut dataplane).await;
        let uplink = dataplane.links().find(|link| link.name == "ens33").unwrap();
        assert_eq!((uplink.role, uplink.master), (Role::Uplink, None));
    });
}
