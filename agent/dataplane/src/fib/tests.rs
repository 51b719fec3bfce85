//! The sink alone, with a view of the kernel that is out of date: what only the kernel's refusal can tell.

use super::{
    message::Mode,
    writer::{Change, carry_out},
    *,
};
use crate::{
    isolated::ip,
    kernel::{KernelView, Naming, TABLE_MAIN},
    route::{Action, NextHop, Route},
};

mod under_way;

const PLACE: Place = Place { protocol: 77, table: TABLE_MAIN, metric: None };

/// Runs a test in a fresh network namespace, with `e0` (10.0.0.1/24) up.
fn isolated(test: impl FnOnce(&mut Requests, &KernelView) + Send + 'static) {
    crate::isolated::isolated(move || {
        let stale = KernelView::new(Naming::new("e.*", "cali").unwrap(), PLACE.protocol);
        test(&mut Requests::open().unwrap(), &stale);
    });
}

fn prefix() -> Prefix {
    "172.16.118.64/26".parse().unwrap()
}

fn wish(gateway: &str) -> Delta {
    let ifindex = nix::net::if_::if_nametoindex("e0").unwrap();
    let action = Action::Via(vec![NextHop { gateway: gateway.parse().unwrap(), ifindex }]);
    Delta { upserts: vec![Route { prefix: prefix(), action }], removals: Vec::new() }
}

fn step(sink: &mut FibSink, requests: &mut Requests, view: &KernelView) {
    let now = Instant::now();
    while sink.has_work() {
        sink.step(now, view, requests).unwrap();
    }
}

impl FibSink {
    /// In place of the thread one that ends with the first batch.
    pub(crate) fn fail_writer(&mut self) {
        let writer = Writer::start_with(|_| panic!("something that cannot be"));
        self.writer = Some(writer.unwrap());
    }

    /// In place of the thread one that waits before each batch until nobody holds the gate.
    pub(crate) fn gate_writer(&mut self) -> std::sync::mpsc::Sender<()> {
        under_way::gated(self).0
    }
}

#[test]
fn a_foreign_route_that_no_event_told_of_is_not_overwritten() {
    isolated(|requests, stale| {
        let mut sink = FibSink::open(PLACE, requests).unwrap();
        ip("route add 172.16.118.64/26 via 10.0.0.9 proto static");
        sink.want(wish("10.0.0.2"));
        step(&mut sink, requests, stale);
        let foreign = FibError::Foreign { protocol: 4, table: TABLE_MAIN };
        assert_eq!(sink.take_events(), [Event::Failed(prefix(), foreign)]);
        assert!(read_back(requests, PLACE.protocol).unwrap().is_empty());
    });
}

#[test]
fn a_route_of_ours_that_no_event_told_of_is_taken_over_and_corrected() {
    isolated(|requests, stale| {
        let mut sink = FibSink::open(PLACE, requests).unwrap();
        ip("route add 172.16.118.64/26 via 10.0.0.9 proto 77");
        sink.want(wish("10.0.0.2"));
        step(&mut sink, requests, stale);
        assert_eq!(sink.state(prefix()), Some(FibState::Installed));
        let routes = read_back(requests, PLACE.protocol).unwrap();
        assert_eq!(routes.len(), 1);
        assert_eq!(routes[0].legs[0].gateway, Some("10.0.0.2".parse().unwrap()));
    });
}

#[test]
fn the_pause_between_attempts_grows_and_ends_with_the_cause() {
    isolated(|requests, stale| {
        let mut sink = FibSink::open(PLACE, requests).unwrap();
        ip("route add 172.16.118.64/26 via 10.0.0.9 proto static");
        sink.want(wish("10.0.0.2"));
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            sink.step(now, stale, requests).unwrap();
            let due = sink.next_wakeup().unwrap();
            pauses.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        ip("route del 172.16.118.64/26");
        sink.places_changed(&[prefix()].into());
        sink.step(now, stale, requests).unwrap();
        assert_eq!(sink.state(prefix()), Some(FibState::Installed));
        assert_eq!(sink.take_events().last(), Some(&Event::Recovered(prefix())));
        assert_eq!(sink.next_wakeup(), None);
    });
}

#[test]
fn a_vanished_interface_fails_its_route_only() {
    isolated(|requests, stale| {
        let mut sink = FibSink::open(PLACE, requests).unwrap();
        let mut wishes = wish("10.0.0.2");
        let gone = NextHop { gateway: "10.0.0.2".parse().unwrap(), ifindex: 4711 };
        let other: Prefix = "172.16.118.128/26".parse().unwrap();
        wishes.upserts.push(Route { prefix: other, action: Action::Via(vec![gone]) });
        sink.want(wishes);
        step(&mut sink, requests, stale);
        assert_eq!(sink.state(prefix()), Some(FibState::Installed));
        assert_eq!(sink.state(other), Some(FibState::Failed(FibError::Interface)));
    });
}

#[test]
fn a_refused_ipv6_multipath_route_is_looked_after() {
    isolated(|requests, stale| {
        ip("addr add fd80::1/64 dev e0 nodad");
        let mut sink = FibSink::open(PLACE, requests).unwrap();
        let prefix: Prefix = "fd10::/64".parse().unwrap();
        let ifindex = nix::net::if_::if_nametoindex("e0").unwrap();
        let hop = |gateway: &str, ifindex| NextHop { gateway: gateway.parse().unwrap(), ifindex };
        let route = |hops: Vec<NextHop>| Delta {
            upserts: vec![Route { prefix, action: Action::Via(hops) }],
            removals: Vec::new(),
        };
        sink.want(route(vec![hop("fd80::2", ifindex), hop("fd80::3", ifindex)]));
        step(&mut sink, requests, stale);
        assert!(!sink.take_doubt(Instant::now()));
        sink.want(route(vec![hop("fd80::2", ifindex), hop("fd80::3", 4711)]));
        step(&mut sink, requests, stale);
        assert_eq!(sink.state(prefix), Some(FibState::Failed(FibError::Interface)));
        assert!(sink.take_doubt(Instant::now()));
        sink.audit(requests).unwrap();
        sink.want(route(vec![hop("fd80::4", ifindex)]));
        step(&mut sink, requests, stale);
        assert_eq!(sink.state(prefix), Some(FibState::Installed));
        assert!(sink.audit(requests).unwrap().is_clean());
    });
}

/// Routes by one next hop, side by side.
fn many(count: u8, gateway: &str) -> Delta {
    let mut wishes = wish(gateway);
    let action = wishes.upserts[0].action.clone();
    wishes.upserts = (0..count)
        .map(|n| Route { prefix: format!("172.16.{n}.0/24").parse().unwrap(), action: action.clone() })
        .collect();
    wishes
}

#[test]
fn a_thread_that_dies_is_told_of_and_the_caller_writes_all_that_it_owed() {
    isolated(|requests, stale| {
        let mut sink = FibSink::open(PLACE, requests).unwrap();
        let mut own = Requests::open().unwrap();
        let mut batches = 0;
        let dies = move |batch: &[Change]| {
            batches += 1;
            assert!(batches < 2, "something that cannot be");
            carry_out(PLACE, batch, &mut own)
        };
        sink.writer = Some(Writer::start_with(dies).unwrap());
        let mut now = Instant::now();
        for gateway in ["10.0.0.2", "10.0.0.3"] {
            sink.want(many(200, gateway));
            sink.step(now, stale, requests).unwrap();
            sink.wait(now, requests).unwrap();
        }
        assert!(
            matches!(&sink.take_events()[..], [Event::WriterEnded(why)] if why == "something that cannot be")
        );
        assert!(!sink.is_writing());
        assert!(sink.take_doubt(Instant::now()), "what it was given last is open");
        sink.audit(requests).unwrap();
        while sink.has_work() {
            now += Duration::from_secs(1);
            sink.step(now, stale, requests).unwrap();
        }
        assert_eq!(sink.status().installed, 200);
        let routes = read_back(requests, PLACE.protocol).unwrap();
        assert_eq!(routes.len(), 200);
        assert!(routes.iter().all(|route| route.legs[0].gateway == Some("10.0.0.3".parse().unwrap())));
    });
}

#[test]
fn a_prefix_that_is_being_written_is_not_given_out_again_nor_is_what_surrounds_it() {
    isolated(|requests, stale| {
        let mut sink = FibSink::open(PLACE, requests).unwrap();
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel::<Vec<Change>>();
        let mut own = Requests::open().unwrap();
        let waits = move |batch: &[Change]| {
            gate.recv().unwrap();
            tell.send(batch.to_vec()).unwrap();
            carry_out(PLACE, batch, &mut own)
        };
        sink.writer = Some(Writer::start_with(waits).unwrap());
        let now = Instant::now();
        let around: Prefix = "172.16.0.0/16".parse().unwrap();
        let blackhole = Route { prefix: around, action: Action::Blackhole(crate::route::BlackholeKind::Own) };
        sink.want(many(3, "10.0.0.2"));
        sink.step(now, stale, requests).unwrap();
        // While these are on their way one is wanted otherwise, and a blackhole around all of them.
        let mut wishes = many(1, "10.0.0.3");
        wishes.upserts.push(blackhole);
        sink.want(wishes);
        for _ in 0..3 {
            sink.step(now, stale, requests).unwrap();
        }
        assert!(!sink.can_go_on(), "there is nothing to do before the answer");
        release.send(()).unwrap();
        assert_eq!(told.recv().unwrap().len(), 3);
        release.send(()).unwrap();
        sink.wait(now, requests).unwrap();
        sink.step(now, stale, requests).unwrap();
        sink.wait(now, requests).unwrap();
        let second = told.recv().unwrap();
        assert!(
            matches!(&second[..], [
                Change::Write { prefix: first, mode: Mode::Replace, .. },
                Change::Write { prefix: last, mode: Mode::Create, .. },
            ] if *first == "172.16.0.0/24".parse().unwrap() && *last == around),
            "{second:?}"
        );
        assert_eq!(sink.status().installed, 4);
    });
}
