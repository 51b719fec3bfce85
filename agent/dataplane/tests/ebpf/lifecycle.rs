//! The sink over time: restarts, other sizes, full maps, interfaces that go, and an end without a trace.

use std::path::Path;

use aya::{
    maps::{LpmTrie, Map, MapData, lpm_trie::Key},
    programs::{SchedClassifier, TcAttachType},
};
use manx_dataplane::{
    ebpf::{EbpfSink, Error, Mode, Options, Refusal, XdpState, cleanup, take_off},
    route::{Action, BlackholeKind, NextHop, Route},
};

use crate::{
    namespace::{Namespace, ip, run},
    nodes::{UPLINK, attach, pair, since},
};

const PINS: &str = "/sys/fs/bpf/manx";

fn via(prefix: &str, gateway: &str) -> Route {
    let action = Action::Via(vec![NextHop { gateway: gateway.parse().unwrap(), ifindex: 1 }]);
    Route { prefix: prefix.parse().unwrap(), action }
}

fn action(prefix: &str, action: Action) -> Route {
    Route { prefix: prefix.parse().unwrap(), action }
}

/// What the maps say, as text, sorted.
fn held(sink: &EbpfSink) -> Vec<String> {
    sink.dump().unwrap().iter().map(|route| format!("{} {:?}", route.prefix, route.action)).collect()
}

fn sorted(routes: &[Route]) -> Vec<Route> {
    let mut routes = routes.to_vec();
    routes.sort_by_key(|route| route.prefix);
    routes
}

/// Ids of the programs on the uplink's and the first pod's ingress.
fn attached() -> Vec<u32> {
    [UPLINK, "cali1"]
        .iter()
        .flat_map(|name| SchedClassifier::query_tcx(name, TcAttachType::Ingress).unwrap().1)
        .map(|program| program.id())
        .collect()
}

#[test]
fn a_dead_agent_forwards_and_the_next_takes_over_without_a_loss() {
    let (kw01, kw02) = pair();
    let (sink, there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    let before = sink.counters().unwrap();
    drop(sink);
    assert_eq!(kw01.pods[0].answers(&kw02.pods[0].v4, 5, 0.01), 5);

    let old = kw01.namespace.run(attached);
    let (pod, address) = (&kw01.pods[0], kw02.pods[0].v4.clone());
    let expected = sorted(&kw01.routes(&kw02));
    std::thread::scope(|scope| {
        let pings = scope.spawn(move || pod.answers(&address, 300, 0.005));
        for _ in 0..10 {
            let expected = expected.clone();
            let counted = kw01.namespace.run(move || {
                let (mut sink, opened) = EbpfSink::open(&Options::default()).unwrap();
                assert!(opened.adopted && opened.replaced.is_empty(), "{opened:?}");
                assert_eq!(sink.status().unwrap().mode, Mode::Unguarded);
                assert!(sink.status().unwrap().attachments.iter().all(|found| !found.claimed));
                assert_eq!(sink.dump().unwrap(), expected);
                attach(&mut sink, &["cali1", "cali2"]);
                assert_eq!(sink.detach_unclaimed().unwrap(), Vec::<u32>::new());
                sink.counters().unwrap()
            });
            assert!(since(&before, &counted).pod_tc.redirected_neigh >= 5);
        }
        assert_eq!(pings.join().unwrap(), 300);
    });
    let new = kw01.namespace.run(attached);
    assert_eq!(old.len(), 2);
    assert_eq!(new.len(), 2, "one program on each hook, not one more for each start");
    assert!(old.iter().all(|id| !new.contains(id)), "the programs are the new agent's");
    drop(there);
}

#[test]
fn cleanup_leaves_nothing() {
    let (kw01, kw02) = pair();
    drop(kw01.sink(&kw02));
    kw01.namespace.run(|| {
        assert!(run("ip", "link show ens33").contains("xdp"));
        // All maps, two links on the uplink, one on each pod.
        assert_eq!(cleanup(Path::new(PINS)).unwrap(), manx_abi::map::ALL.len() + 2 + 2);
        assert!(!Path::new(PINS).exists());
        assert_eq!(attached(), Vec::<u32>::new());
        assert!(!run("ip", "link show ens33").contains("xdp"));
        assert_eq!(cleanup(Path::new(PINS)).unwrap(), 0);
    });
    assert_eq!(kw01.pods[0].answers(&kw02.pods[0].v4, 3, 0.01), 3);
}

#[test]
fn programs_are_taken_off_where_no_sink_lives_that_keeps_them_and_their_maps_stay() {
    let (kw01, kw02) = pair();
    let sink = kw01.sink(&kw02);
    kw01.namespace.run(|| {
        let taken = take_off(Path::new(PINS));
        assert_eq!((taken.gone, taken.left.len()), (vec![], 4), "{:?}", taken.left);
        assert_eq!(attached().len(), 2);
        drop(sink);
        let taken = take_off(Path::new(PINS));
        assert_eq!((taken.gone.len(), taken.left.len()), (4, 0), "{:?}", taken.left);
        assert_eq!(attached(), Vec::<u32>::new());
        assert!(!run("ip", "link show ens33").contains("xdp"));
        assert_eq!(cleanup(Path::new(PINS)).unwrap(), manx_abi::map::ALL.len());
        assert_eq!(take_off(Path::new(PINS)).left.len(), 0);
    });
    assert_eq!(kw01.pods[0].answers(&kw02.pods[0].v4, 3, 0.01), 3);
}

#[test]
fn links_that_nobody_claims_any_more_go() {
    let (kw01, kw02) = pair();
    drop(kw01.sink(&kw02));
    kw01.namespace.run(|| {
        let (mut sink, _) = EbpfSink::open(&Options::default()).unwrap();
        attach(&mut sink, &["cali1"]);
        let gone = nix::net::if_::if_nametoindex("cali2").unwrap();
        assert_eq!(sink.detach_unclaimed().unwrap(), [gone]);
        assert!(SchedClassifier::query_tcx("cali2", TcAttachType::Ingress).unwrap().1.is_empty());
        assert_eq!(attached().len(), 2);
    });
}

#[test]
fn a_program_that_somebody_detached_is_attached_again() {
    let (kw01, kw02) = pair();
    let mut sink = kw01.sink(&kw02);
    kw01.namespace.run(move || {
        let index = nix::net::if_::if_nametoindex("cali1").unwrap();
        run("bpftool", &format!("link detach pinned {PINS}/links/pod_tc-{index}"));
        assert_eq!(attached().len(), 1);
        attach(&mut sink, &["cali1"]);
        assert_eq!(attached().len(), 2);
    });
}

#[test]
fn an_interface_with_the_number_of_one_that_is_gone_gets_a_program_of_its_own() {
    let node = Namespace::new();
    node.run(|| {
        let (mut sink, _) = EbpfSink::open(&Options::default()).unwrap();
        for _ in 0..2 {
            ip("link add name veth7 index 77 type veth peer name veth8 index 78");
            ip("link set veth7 up");
            sink.attach_pod(77).unwrap();
            let attachment = sink.attach_uplink(78).unwrap();
            assert_eq!(attachment.xdp, Some(XdpState::Native));
            assert_eq!(SchedClassifier::query_tcx("veth7", TcAttachType::Ingress).unwrap().1.len(), 1);
            assert_eq!(SchedClassifier::query_tcx("veth8", TcAttachType::Ingress).unwrap().1.len(), 1);
            ip("link del veth7");
        }
        sink.detach(77).unwrap();
        sink.detach(78).unwrap();
        assert_eq!(std::fs::read_dir(format!("{PINS}/links")).unwrap().count(), 0);
    });
}

#[test]
fn a_pods_mac_is_held_as_soon_as_its_interface_allows_a_redirect() {
    let (node, pod) = (Namespace::new(), Namespace::new());
    let to = pod.id();
    node.run(move || {
        let (mut sink, _) = EbpfSink::open(&Options::default()).unwrap();
        let mac = Some(manx_dataplane::route::Mac([0x0a, 0, 0, 0, 0, 7]));
        let route = action("172.16.36.193/32", Action::Local { ifindex: 77, mac });
        let without = action("172.16.36.193/32", Action::Local { ifindex: 77, mac: None });
        sink.apply(std::slice::from_ref(&route), &[]).unwrap();
        assert_eq!(sink.dump().unwrap(), std::slice::from_ref(&without), "there is no such interface");
        ip("link add name veth7 index 77 type veth peer name veth8");
        sink.attach_pod(77).unwrap();
        assert_eq!(sink.expected(&route), without);
        assert_eq!(sink.dump().unwrap(), [without], "the kernel drops what is redirected within a namespace");
        ip(&format!("link set veth8 netns {to}"));
        sink.attach_pod(77).unwrap();
        assert_eq!(sink.dump().unwrap(), std::slice::from_ref(&route));
        ip("link set veth7 address 02:00:00:00:00:99");
        sink.attach_pod(77).unwrap();
        assert_eq!(sink.dump().unwrap(), [route]);
    });
}

#[test]
fn an_uplink_without_native_xdp_does_with_tc_and_says_why() {
    let node = Namespace::new();
    node.run(|| {
        ip("link add br0 type bridge");
        let (mut sink, _) = EbpfSink::open(&Options::default()).unwrap();
        let bridge = nix::net::if_::if_nametoindex("br0").unwrap();
        let attachment = sink.attach_uplink(bridge).unwrap();
        assert_eq!(attachment.xdp, Some(XdpState::Absent("the driver has no native XDP".into())));
        assert_eq!(SchedClassifier::query_tcx("br0", TcAttachType::Ingress).unwrap().1.len(), 1);
    });
}

#[test]
fn another_ones_xdp_program_is_left_alone() {
    let node = Namespace::new();
    node.run(|| {
        ip("link add veth7 type veth peer name veth8");
        let index = nix::net::if_::if_nametoindex("veth7").unwrap();
        let elsewhere = Options { bpf_dir: "/sys/fs/bpf/other".into(), ..Options::default() };
        let (mut other, _) = EbpfSink::open(&elsewhere).unwrap();
        assert_eq!(other.attach_uplink(index).unwrap().xdp, Some(XdpState::Native));
        let (mut sink, _) = EbpfSink::open(&Options::default()).unwrap();
        assert_eq!(
            sink.attach_uplink(index).unwrap().xdp,
            Some(XdpState::Absent("another XDP program is on this interface".into()))
        );
    });
}

#[test]
fn what_is_no_ethernet_or_not_there_is_refused_by_name() {
    Namespace::new().run(|| {
        let (mut sink, _) = EbpfSink::open(&Options::default()).unwrap();
        assert!(matches!(sink.attach_uplink(1), Err(Error::NotEthernet { ifindex: 1 })));
        assert!(matches!(sink.attach_pod(4711), Err(Error::NoInterface { ifindex: 4711 })));
        sink.detach(4711).unwrap();
    });
}

#[test]
fn maps_of_another_size_are_made_anew_and_the_running_programs_keep_theirs_until_then() {
    let (kw01, kw02) = pair();
    drop(kw01.sink(&kw02));
    let routes = kw01.routes(&kw02);
    let (pod, other) = (&kw01.pods[0], &kw02.pods[0].v4);
    let larger = Options { sizes: "routes4=1000".parse().unwrap(), ..Options::default() };
    let mut sink = kw01.namespace.run(move || {
        let (sink, opened) = EbpfSink::open(&larger).unwrap();
        assert!(!opened.adopted);
        assert_eq!(
            opened.replaced,
            ["ROUTES4 (LpmTrie, key 8, value 16, 262144 entries) instead of \
              ROUTES4 (LpmTrie, key 8, value 16, 1000 entries)"]
        );
        assert_eq!(sink.status().unwrap().mode, Mode::Off, "new maps start with the fast path off");
        sink
    });
    assert_eq!(pod.answers(other, 3, 0.01), 3);
    assert_eq!(sink.counters().unwrap().pod_tc.redirected_neigh, 0, "the old programs count in the old maps");
    kw01.namespace.run(move || {
        sink.reconcile(&routes).unwrap();
        sink.set_whole_mode(Mode::Unguarded);
        attach(&mut sink, &["cali1", "cali2"]);
    });
    assert_eq!(pod.answers(other, 3, 0.01), 3);
}

#[test]
fn every_route_is_read_back_as_it_is_held() {
    Namespace::new().run(|| {
        let (mut sink, opened) = EbpfSink::open(&Options::default()).unwrap();
        assert_eq!((opened.adopted, opened.replaced), (false, vec![]));
        let routes = [
            via("172.16.118.64/26", "192.168.80.125"),
            via("172.16.119.0/26", "fd00:80::125"),
            via("fd00:118::/64", "fd00:80::125"),
            via("0.0.0.0/0", "192.168.80.2"),
            action("172.16.36.192/26", Action::Blackhole(BlackholeKind::Own)),
            action("192.0.2.1/32", Action::Blackhole(BlackholeKind::Explicit)),
            action("172.16.36.200/32", Action::Local { ifindex: 4711, mac: None }),
            action("172.16.122.0/26", Action::Unreachable),
            action("::/0", Action::Pass),
        ];
        let applied = sink.apply(&routes, &[]).unwrap();
        assert_eq!((applied.written, applied.removed), (routes.len(), 0));
        assert_eq!(sink.dump().unwrap(), sorted(&routes));
        let reader = sink.reader().unwrap();
        let beside = std::thread::spawn(move || reader.dump().unwrap()).join().unwrap();
        assert_eq!(beside, sorted(&routes));
        let again = sink.apply(&routes, &[]).unwrap();
        assert_eq!(again.written, 0, "what is right already is not written");
        let status = sink.status().unwrap();
        assert_eq!((status.routes4, status.routes6), (7, 2));
        assert_eq!((status.next_hops, status.endpoints), (3, 1));
        let prefixes: Vec<_> = routes.iter().map(|route| route.prefix).collect();
        assert_eq!(sink.apply(&[], &prefixes).unwrap().removed, routes.len());
        assert_eq!(held(&sink), Vec::<String>::new());
        assert_eq!(sink.status().unwrap().next_hops, 0);
    });
}

#[test]
fn what_a_map_cannot_hold_is_the_stacks() {
    Namespace::new().run(|| {
        let (mut sink, _) = EbpfSink::open(&Options::default()).unwrap();
        let hop = |last| NextHop { gateway: std::net::IpAddr::from([192, 168, 80, last]), ifindex: 1 };
        sink.apply(&[via("172.16.1.0/26", "192.168.80.1"), via("fd00:1::/64", "192.168.80.1")], &[]).unwrap();
        let many: Vec<NextHop> = (1..=65).map(hop).collect();
        sink.apply(&[action("172.16.2.0/26", Action::Via(many))], &[]).unwrap();
        let [_, two, six] = <[String; 3]>::try_from(held(&sink)).unwrap();
        assert_eq!([two, six], ["172.16.2.0/26 Pass", "fd00:1::/64 Pass"]);
    });
}

#[test]
fn somebody_elses_hand_in_the_map_is_undone() {
    Namespace::new().run(|| {
        let (mut sink, _) = EbpfSink::open(&Options::default()).unwrap();
        let routes = [via("172.16.118.64/26", "192.168.80.125"), via("172.16.119.0/26", "192.168.80.125")];
        sink.apply(&routes, &[]).unwrap();
        let map =
            Map::LpmTrie(MapData::from_pin(format!("{PINS}/v{}/ROUTES4", manx_abi::ABI_VERSION)).unwrap());
        let mut map: LpmTrie<_, [u8; 4], [u8; 16]> = map.try_into().unwrap();
        map.remove(&Key::new(26, [172, 16, 118, 64])).unwrap();
        map.insert(&Key::new(26, [172, 16, 119, 0]), [0xff; 16], 0).unwrap();
        map.insert(&Key::new(8, [9, 0, 0, 0]), [0; 16], 0).unwrap();
        let repaired = sink.reconcile(&routes).unwrap();
        assert_eq!((repaired.written, repaired.removed), (2, 1));
        assert_eq!(sink.dump().unwrap(), routes);
        assert_eq!(sink.reconcile(&routes).unwrap().written, 0);
    });
}

#[test]
fn a_full_map_leaves_what_it_cannot_hold_to_the_stack_and_recovers() {
    Namespace::new().run(|| {
        let (mut sink, _) =
            EbpfSink::open(&Options { sizes: "routes4=3".parse().unwrap(), ..Options::default() }).unwrap();
        let wide = via("172.16.0.0/16", "192.168.80.1");
        let (a, b) = (via("172.16.1.0/26", "192.168.80.2"), via("172.16.2.0/26", "192.168.80.3"));
        sink.apply(&[wide.clone(), a.clone(), b.clone()], &[]).unwrap();

        let late = via("172.16.3.0/26", "192.168.80.4");
        let applied = sink.apply(std::slice::from_ref(&late), &[]).unwrap();
        assert_eq!(applied.refused.len(), 1);
        let full = Refusal::MapFull("ROUTES4");
        assert_eq!((applied.refused[0].prefix, &applied.refused[0].reason), (late.prefix, &full));
        let said = "the map ROUTES4 is full; raise its size (--map-size routes4=...)";
        assert_eq!(full.to_string(), said);
        // Or its packets would go to 192.168.80.1.
        assert!(held(&sink).contains(&"172.16.0.0/16 Pass".into()), "{:?}", held(&sink));
        assert_eq!(sink.expected(&wide).action, Action::Pass);
        // The same where the shorter one comes again meanwhile.
        assert_eq!(sink.apply(std::slice::from_ref(&wide), &[]).unwrap().refused, [], "that was told");
        assert!(held(&sink).contains(&"172.16.0.0/16 Pass".into()));
        assert_eq!(sink.apply(std::slice::from_ref(&late), &[]).unwrap().refused, [], "that too");
        assert_eq!(sink.refused().collect::<Vec<_>>(), [(late.prefix, &full)]);
        // And an audit reads everything anew.
        let all = [wide.clone(), a.clone(), b.clone(), late.clone()];
        assert_eq!(sink.reconcile(&all).unwrap().refused, [], "that still");
        assert_eq!(sink.refused().collect::<Vec<_>>(), [(late.prefix, &full)]);

        let applied = sink.apply(&[], &[a.prefix]).unwrap();
        assert_eq!((applied.refused, sink.refused().count(), sink.refusal(late.prefix)), (vec![], 0, None));
        assert_eq!(sink.dump().unwrap(), sorted(&[wide.clone(), b, late.clone()]));
        // It is news again when it is lost again.
        let (c, d) = (via("172.16.4.0/26", "192.168.80.5"), via("172.16.5.0/26", "192.168.80.6"));
        sink.apply(&[c], &[late.prefix]).unwrap();
        let refused = sink.apply(&[late.clone(), d.clone()], &[]).unwrap().refused;
        assert_eq!(refused.iter().map(|refused| refused.prefix).collect::<Vec<_>>(), [late.prefix, d.prefix]);
        // Of two that lack room one finds it, the other is as before.
        let applied = sink.apply(&[], &[wide.prefix]).unwrap();
        assert_eq!((applied.refused, sink.refused().count()), (vec![], 1));
    });
}

#[test]
fn nothing_is_pinned_outside_of_a_bpf_filesystem() {
    Namespace::new().run(|| {
        let dir = std::env::temp_dir().join("manx-no-bpffs");
        let options = Options { bpf_dir: dir.clone(), ..Options::default() };
        let error = EbpfSink::open(&options).unwrap_err();
        assert!(matches!(error, Error::NoBpfFs { .. }), "{error}");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert!(!dir.exists());
    });
}

#[test]
fn a_missing_bpf_filesystem_is_mounted_where_it_belongs() {
    Namespace::new().run(|| {
        nix::mount::umount("/sys/fs/bpf").unwrap();
        while nix::mount::umount("/sys/fs/bpf").is_ok() {}
        EbpfSink::open(&Options::default()).unwrap();
        assert!(Path::new(PINS).join("links").exists());
    });
}

#[test]
fn bpftool_shows_addresses_and_names() {
    Namespace::new().run(|| {
        let (mut sink, _) = EbpfSink::open(&Options::default()).unwrap();
        sink.apply(&[via("172.16.118.64/26", "192.168.80.125")], &[]).unwrap();
        let map = run("bpftool", &format!("map dump pinned {PINS}/v{}/ROUTES4", manx_abi::ABI_VERSION));
        println!("{map}");
        for part in
            ["\"prefix_len\": 26", "172,16,118,64", "\"action\": \"Via\"", "\"pool\": 0", "\"counter\": 1"]
        {
            assert!(map.contains(part), "{part} in\n{map}");
        }
        let counters = run("bpftool", &format!("map dump pinned {PINS}/v{}/COUNTERS", manx_abi::ABI_VERSION));
        assert!(counters.contains("\"redirected_peer\": 0"), "{counters}");
    });
}
