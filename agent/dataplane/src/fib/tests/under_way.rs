//! What is on its way to the kernel, and what others and later wishes do meanwhile. The thread waits at a gate.

use std::sync::mpsc::{self, Receiver, Sender};

use super::*;
use crate::{
    kernel::{Author, Changes, OwnEvent},
    route::BlackholeKind,
};

/// Each batch that the kernel is given waits for a word, until nobody can say it any more.
pub(super) fn gated(sink: &mut FibSink) -> (Sender<()>, Receiver<Vec<Change>>) {
    let (release, gate) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let mut own = Requests::open().unwrap();
    let waits = move |batch: &[Change]| {
        let _ = gate.recv();
        let _ = tell.send(batch.to_vec());
        carry_out(PLACE, batch, &mut own)
    };
    sink.writer = Some(Writer::start_with(waits).unwrap());
    (release, told)
}

fn next(told: &Receiver<Vec<Change>>) -> Vec<Change> {
    told.recv_timeout(Duration::from_secs(5)).expect("a batch is given")
}

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn via(prefixes: impl IntoIterator<Item = Prefix>, gateway: &str) -> Delta {
    let action = wish(gateway).upserts.remove(0).action;
    let route = |prefix| Route { prefix, action: action.clone() };
    Delta { upserts: prefixes.into_iter().map(route).collect(), removals: Vec::new() }
}

fn without(prefixes: &[&str]) -> Delta {
    Delta { upserts: Vec::new(), removals: prefixes.iter().map(|prefix| p(prefix)).collect() }
}

/// Side by side.
fn blocks(count: u32) -> impl Iterator<Item = Prefix> {
    (0..count).map(|n| p(&format!("172.{}.{}.{}/26", 16 + n / 1024, n / 4 % 256, n % 4 * 64)))
}

fn removed(batch: &[Change]) -> Vec<Prefix> {
    let of = |change: &Change| match change {
        Change::Remove(prefix) => *prefix,
        other => panic!("{other:?}"),
    };
    batch.iter().map(of).collect()
}

#[test]
fn a_foreign_route_that_comes_before_its_turn_survives_a_change_of_all_next_hops() {
    isolated(|requests, stale| {
        let now = Instant::now();
        let count = 4 * REPLACES as u32;
        let mut sink = FibSink::open(PLACE, requests).unwrap();
        let (release, _) = gated(&mut sink);
        sink.want(via(blocks(count), "10.0.0.2"));
        sink.step(now, stale, requests).unwrap();
        assert_eq!(sink.flying, count as usize, "NLM_F_EXCL hits nobody: these go all at once");
        drop(release);
        sink.wait(now, requests).unwrap();

        let (release, _told) = gated(&mut sink);
        sink.want(via(blocks(count), "10.0.0.3"));
        sink.step(now, stale, requests).unwrap();
        let last = blocks(count).last().unwrap();
        ip(&format!("route replace {last} via 10.0.0.9 proto static"));
        let mut view = KernelView::new(Naming::new("e.*", "cali").unwrap(), PLACE.protocol);
        view.resynchronise(requests, &mut Changes::default()).unwrap();
        drop(release);
        while sink.has_work() || sink.is_writing() {
            sink.wait(now, requests).unwrap();
            sink.step(now, &view, requests).unwrap();
        }
        let foreign = FibError::Foreign { protocol: 4, table: TABLE_MAIN };
        assert_eq!(sink.state(last), Some(FibState::Failed(foreign)));
        let shown =
            std::process::Command::new("ip").args(["route", "show", &last.to_string()]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains("proto static"), "{shown}");
        let ours = read_back(requests, PLACE.protocol).unwrap();
        assert_eq!(ours.len(), count as usize - 1);
        let third = "10.0.0.3".parse().unwrap();
        assert!(ours.iter().all(|route| route.legs[0].gateway == Some(third)));
    });
}

#[test]
fn a_removal_waits_only_for_what_is_to_be_written_inside_or_around_it() {
    isolated(|requests, stale| {
        let now = Instant::now();
        let mut sink = FibSink::open(PLACE, requests).unwrap();
        let busy = ["172.16.0.0/24", "172.20.0.0/16"].map(p);
        let apart = ["172.17.0.0/24", "172.21.0.0/17", "172.21.0.0/18"];
        let related = ["172.16.0.0/16", "172.16.9.0/24", "172.20.1.0/24"];
        sink.want(via(busy.into_iter().chain(apart.map(p)).chain(related.map(p)), "10.0.0.2"));
        step(&mut sink, requests, stale);
        let (release, told) = gated(&mut sink);
        // On their way, and wanted otherwise already: there is something to write that has to wait.
        sink.want(via(busy, "10.0.0.3"));
        sink.step(now, stale, requests).unwrap();
        sink.want(via(busy, "10.0.0.4"));
        sink.want(without(&apart));
        sink.want(without(&related));
        for _ in 0..3 {
            sink.step(now, stale, requests).unwrap();
        }
        assert!(!sink.can_go_on());
        drop(release);
        assert_eq!(next(&told).len(), 2);
        // The one around the other first.
        assert_eq!(removed(&next(&told)), ["172.21.0.0/17", "172.21.0.0/18", "172.17.0.0/24"].map(p));
        sink.wait(now, requests).unwrap();
        step(&mut sink, requests, stale);
        sink.wait(now, requests).unwrap();
        let left: Vec<_> = read_back(requests, PLACE.protocol).unwrap().iter().map(|r| r.prefix).collect();
        assert_eq!(left, busy);
    });
}

#[test]
fn many_removals_that_have_to_wait_keep_no_other_from_its_turn() {
    isolated(|requests, stale| {
        let now = Instant::now();
        let mut sink = FibSink::open(PLACE, requests).unwrap();
        let around = p("172.16.0.0/12");
        let inside: Vec<_> = blocks(2 * REMOVALS_COMPARED as u32 + 7).collect();
        let apart = p("192.168.7.0/28");
        sink.want(via(inside.iter().copied().chain([around, apart]), "10.0.0.2"));
        step(&mut sink, requests, stale);
        let (_release, _told) = gated(&mut sink);
        sink.want(via([around], "10.0.0.3"));
        sink.step(now, stale, requests).unwrap();
        sink.want(via([around], "10.0.0.4"));
        sink.want(Delta { upserts: Vec::new(), removals: inside.into_iter().chain([apart]).collect() });
        for _ in 0..3 {
            sink.step(now, stale, requests).unwrap();
        }
        assert!(sink.routes.get(&apart).unwrap().flying);
        assert_eq!(sink.flying, 2);
    });
}

#[test]
fn who_keeps_changing_what_is_on_its_way_costs_one_reading_a_second() {
    isolated(|requests, stale| {
        let mut sink = FibSink::open(PLACE, requests).unwrap();
        let (release, _told) = gated(&mut sink);
        drop(release);
        let begun = Instant::now();
        let mut readings = Vec::new();
        for tenth in 0..=25 {
            let now = begun + Duration::from_millis(100 * tenth);
            sink.want(via([prefix()], if tenth % 2 == 0 { "10.0.0.2" } else { "10.0.0.3" }));
            sink.step(now, stale, requests).unwrap();
            let key = PLACE.key(prefix());
            sink.observe(vec![OwnEvent::Overwritten { key, by: Author::at(0) }]);
            sink.wait(now, requests).unwrap();
            if sink.take_doubt(now) {
                readings.push(tenth);
                assert!(sink.audit(requests).unwrap().is_clean());
            }
        }
        assert_eq!(readings, [0, 10, 20]);
        // The last of it is not forgotten.
        let due = sink.next_wakeup().unwrap();
        assert_eq!(due, begun + Duration::from_secs(3));
        assert!(sink.take_doubt(due) && !sink.take_doubt(due));
        assert_eq!(sink.next_wakeup(), None);
    });
}

#[test]
fn a_route_of_an_earlier_configuration_that_is_being_removed_is_no_finding() {
    isolated(|requests, stale| {
        ip("route add 172.16.118.64/26 via 10.0.0.9 table 1000 proto 77");
        let mut sink = FibSink::open(PLACE, requests).unwrap();
        sink.finish_startup();
        let (release, _told) = gated(&mut sink);
        let now = Instant::now();
        sink.step(now, stale, requests).unwrap();
        assert!(sink.is_writing());
        let found = read_back(requests, PLACE.protocol).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(sink.compare(prefix(), &found), None);
        assert_eq!(sink.status().elsewhere, 1);
        drop(release);
        sink.wait(now, requests).unwrap();
        assert_eq!((sink.status().elsewhere, sink.has_work()), (0, false));
        assert_eq!(sink.compare(prefix(), &found), Some(Difference::Unwanted));
    });
}

/// What the kernel tells about IPv4 routes, in order: the prefix's length, and whether it was deleted.
fn told_of_routes(listener: &rtnetlink::sys::Socket) -> Vec<(u8, bool)> {
    use rtnetlink::{packet_core::NetlinkPayload, packet_route::RouteNetlinkMessage};
    let mut told = Vec::new();
    let mut datagram = Vec::with_capacity(1 << 16);
    while listener.recv(&mut datagram, libc::MSG_DONTWAIT).is_ok() {
        for message in crate::netlink::messages(&datagram) {
            told.push(match message.unwrap().payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                    (route.header.destination_prefix_length, false)
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) => {
                    (route.header.destination_prefix_length, true)
                }
                other => panic!("{other:?}"),
            });
        }
        datagram.clear();
    }
    told
}

#[test]
fn what_is_written_only_at_the_second_try_is_there_before_the_blackhole_around_it_and_before_removals() {
    isolated(|requests, stale| {
        let mut sink = FibSink::open(PLACE, requests).unwrap();
        sink.want(via([p("172.16.118.0/24")], "10.0.0.2"));
        step(&mut sink, requests, stale);
        let mut listener = rtnetlink::sys::Socket::new(rtnetlink::sys::protocols::NETLINK_ROUTE).unwrap();
        listener.bind(&rtnetlink::sys::SocketAddr::new(0, 1 << (libc::RTNLGRP_IPV4_ROUTE - 1))).unwrap();
        // No network of ours: ENETUNREACH, unless it is called onlink.
        let mut wishes = via([prefix()], "198.51.100.1");
        let around = p("172.16.0.0/16");
        wishes.upserts.push(Route { prefix: around, action: Action::Blackhole(BlackholeKind::Own) });
        wishes.removals = vec![p("172.16.118.0/24")];
        let (release, _told) = gated(&mut sink);
        drop(release);
        sink.want(wishes);
        let now = Instant::now();
        sink.step(now, stale, requests).unwrap();
        sink.wait(now, requests).unwrap();
        assert_eq!(told_of_routes(&listener), [(26, false), (16, false), (24, true)]);
        assert_eq!(sink.status().installed, 2);
    });
}

#[test]
fn a_refused_leg_that_goes_as_onlink_leaves_a_whole_route_and_no_doubt() {
    isolated(|requests, stale| {
        ip("addr add fd80::1/64 dev e0 nodad");
        ip("route add fd81::/64 via fd80::9 dev e0");
        let mut sink = FibSink::open(PLACE, requests).unwrap();
        let prefix = p("fd10::/64");
        let ifindex = nix::net::if_::if_nametoindex("e0").unwrap();
        for gateways in [["fd80::2", "fd80::3"], ["fd80::4", "fd81::5"], ["fd81::6", "fd81::7"]] {
            let hops = gateways.map(|gateway| NextHop { gateway: gateway.parse().unwrap(), ifindex });
            let route = Route { prefix, action: Action::Via(hops.to_vec()) };
            sink.want(Delta { upserts: vec![route], removals: Vec::new() });
            step(&mut sink, requests, stale);
            assert_eq!(sink.state(prefix), Some(FibState::Installed), "{gateways:?}");
            assert!(!sink.take_doubt(Instant::now()), "{gateways:?}");
            let found = read_back(requests, PLACE.protocol).unwrap();
            let legs: Vec<_> = found[0].legs.iter().map(|leg| leg.gateway.unwrap().to_string()).collect();
            assert_eq!((found.len(), legs), (1, gateways.map(str::to_owned).to_vec()));
        }
        assert!(sink.audit(requests).unwrap().is_clean());
    });
}
