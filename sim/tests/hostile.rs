//! What a peer that means harm can cost: a bounded amount of memory, measured, and nothing that another peer notices.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::Ipv4Addr,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use manx_bgp::{About, ConnId, Event, Family, view::SessionState};
use manx_net::{Prefix, Prefix4};
use manx_sim::{
    stage::{OUR_AS, Stage, US, config, key},
    wire::{self, Attributes, Hello},
};

/// Counts what each thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // A thread that ends has nobody left who asks.
    let _ = HELD.try_with(|held| held.set(held.get() + change));
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn held() -> isize {
    HELD.with(Cell::get)
}

const GOOD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 8);
const BAD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const KIB: isize = 1024;

fn hello(address: Ipv4Addr) -> Hello {
    Hello::new(OUR_AS, address)
}

fn prefix(number: u32) -> Prefix {
    Prefix4::from_bits(0x0a40_0000 + number * 64, 26).unwrap().into()
}

/// A good client with a session, which has read everything, and a bad one that has yet to come.
struct Scene {
    stage: Stage,
    good: ConnId,
}

impl Scene {
    fn new() -> Scene {
        let mut stage = Stage::new(config(&[(hello(GOOD), true), (hello(BAD), true)]));
        let good = stage.session(hello(GOOD)).unwrap();
        stage.read_all(good).unwrap();
        Scene { stage, good }
    }

    /// Twenty seconds pass, in which the good peer says that it lives.
    fn beat(&mut self) {
        self.stage.pass(Duration::from_secs(20));
        self.stage.give(self.good, wire::keepalive());
        self.stage.read_all(self.good).unwrap();
    }

    fn good_is_undisturbed(&mut self) {
        self.stage.give(self.good, wire::keepalive());
        self.stage.read_all(self.good).unwrap();
        let view = self.stage.speaker.peer(key(GOOD)).unwrap();
        assert_eq!((view.state, view.established_count), (SessionState::Established, 1));
    }

    /// The bad peer does this again and again; after a first time, memory must not grow by more than `bound`.
    fn bounded(&mut self, times: u32, bound: isize, mut harm: impl FnMut(&mut Stage, u32)) {
        let mut before = 0;
        for n in 0..times {
            // A tenth of the way: by then every buffer has its size.
            if n == times / 10 {
                before = held();
            }
            harm(&mut self.stage, n);
            if n % 64 == 0 {
                self.good_is_undisturbed();
            }
        }
        self.good_is_undisturbed();
        let grown = held() - before;
        assert!(grown <= bound, "{} KiB more after {times} times", grown / KIB);
    }
}

#[test]
fn a_thousand_open_connections_cost_no_more_than_a_few() {
    let mut scene = Scene::new();
    scene.bounded(1000, 16 * KIB, |stage, n| {
        if let Some(conn) = stage.connect(BAD) {
            // Half an OPEN, on every other one.
            let open = hello(BAD).open();
            stage.give(conn, open.slice(..if n % 2 == 0 { 20 } else { 0 }));
        }
    });
}

#[test]
fn strangers_cost_nothing() {
    let mut scene = Scene::new();
    scene.bounded(1000, 0, |stage, n| {
        assert_eq!(stage.connect(Ipv4Addr::from_bits(0xc0a8_0000 + n)), None);
    });
}

#[test]
fn sessions_that_come_and_break_for_every_reason_leave_nothing() {
    let mut scene = Scene::new();
    scene.bounded(3000, 64 * KIB, |stage, n| {
        stage.pass(Duration::from_millis(50));
        let Some(conn) = stage.session(hello(BAD)) else { return };
        let mut attributes = Attributes::new(BAD);
        attributes.communities = vec![n];
        stage.give(conn, wire::announce(&attributes, prefix(n % 50)));
        match n % 4 {
            0 => stage.give(conn, Bytes::from(vec![n as u8; 400])),
            1 => stage.tell(Event::Closed { conn, reason: format!("broken, {n}") }),
            2 => stage.give(conn, wire::frame(wire::NOTIFICATION, &[6, 2, 3, b'b', b'y', b'e'])),
            _ => stage.give(conn, hello(BAD).open()),
        }
    });
}

#[test]
fn a_message_that_never_ends_costs_a_message() {
    let mut scene = Scene::new();
    let bad = scene.stage.session(hello(BAD)).unwrap();
    let before = held();
    // 4096 octets are promised; one comes at a time, and the last never.
    let mut head = BytesMut::from(&wire::frame(wire::UPDATE, &[0; 4])[..]);
    head[16..18].copy_from_slice(&4096u16.to_be_bytes());
    scene.stage.give(bad, head.freeze());
    for _ in 0..4000 {
        scene.stage.give(bad, Bytes::from_static(&[0]));
    }
    assert!(held() - before < 16 * KIB, "{}", held() - before);
    scene.good_is_undisturbed();
}

#[test]
fn a_peer_that_never_reads_holds_no_history_and_delays_nobody() {
    let mut scene = Scene::new();
    let bad = scene.stage.session(hello(BAD)).unwrap();
    let good = scene.good;
    let mut n = 0;
    scene.bounded(20_000, 256 * KIB, |stage, _| {
        n += 1;
        let mut attributes = Attributes::new(GOOD);
        attributes.communities = vec![n];
        let flap = match n % 3 {
            0 => wire::withdraw(prefix(n % 100)),
            _ => wire::announce(&attributes, prefix(n % 100)),
        };
        stage.give(good, flap);
        // It asks for everything again, and never takes it.
        let family = Family::ALL[(n % 2) as usize];
        stage.give(bad, wire::refresh(family, 0));
    });
    let table = |stage: &Stage, conn| stage.followers.get(&conn).map(|f| f.table.len()).unwrap_or_default();
    assert_eq!(table(&scene.stage, bad), 0);
    scene.stage.read_all(bad).unwrap();
    assert_eq!(table(&scene.stage, bad), scene.stage.speaker.routes(None, usize::MAX).len());
}

/// Each request is answered by a mark, and the marks must not pile up.
#[test]
fn a_peer_that_asks_for_everything_again_and_again_and_stops_reading_holds_one_answer() {
    let mut scene = Scene::new();
    let bad = scene.stage.session(hello(BAD)).unwrap();
    scene.stage.read_all(bad).unwrap();
    let good = scene.good;
    scene.stage.give(good, wire::announce(&Attributes::new(GOOD), prefix(1)));
    scene.bounded(20_000, 16 * KIB, |stage, n| {
        stage.give(bad, wire::refresh(Family::ALL[(n % 2) as usize], 0));
    });
    scene.stage.read_all(bad).unwrap();
    assert_eq!(scene.stage.followers[&bad].table.len(), 1);
}

#[test]
fn a_peer_that_never_reads_is_given_up_and_the_others_stay() {
    let mut scene = Scene::new();
    let bad = scene.stage.session(hello(BAD)).unwrap();
    for _ in 0..60 {
        scene.beat();
        scene.stage.give(bad, wire::keepalive());
    }
    assert_ne!(scene.stage.speaker.peer(key(BAD)).unwrap().state, SessionState::Established);
    scene.good_is_undisturbed();
}

#[test]
fn attribute_sets_without_end_are_forgotten_with_their_routes() {
    let mut scene = Scene::new();
    let bad = scene.stage.session(hello(BAD)).unwrap();
    scene.bounded(20_000, 64 * KIB, |stage, n| {
        let mut attributes = Attributes::new(BAD);
        attributes.communities = (0..40).map(|k| n * 64 + k).collect();
        stage.give(bad, wire::announce(&attributes, prefix(n % 64)));
    });
    let (routes, sets, _) = scene.stage.speaker.sizes();
    assert!((64..=80).contains(&routes) && sets <= 64, "{routes} routes, {sets} sets");
}

fn discard(stage: &mut Stage, conn: ConnId) {
    let mut out = Vec::new();
    while stage.speaker.transmit(conn, 64 * 1024, &mut out, stage.now) > 0 {
        out.clear();
    }
}

/// Five million routes from a peer without a limit, where the RIB holds four; in the long tests just that, else a tenth.
#[test]
fn a_peer_that_fills_the_rib_is_named_and_sent_away_with_its_routes() {
    let scale = if std::env::var_os("MANX_RUNS").is_some() { 10 } else { 1 };
    let mut config = config(&[(hello(GOOD), true), (hello(BAD), true)]);
    assert_eq!(config.max_paths, 4_000_000, "what stands in the configuration's own page");
    config.max_paths = 400_000 * scale;
    let mut stage = Stage::new(config);
    let good = stage.session(hello(GOOD)).unwrap();
    stage.give(good, wire::announce(&Attributes::new(GOOD), prefix(9_000_000)));
    let bad = stage.session(hello(BAD)).unwrap();
    let before = held();
    let (mut peak, mut routes) = (0, 0);
    for first in (0..500_000 * scale as u32).step_by(800) {
        let some = (first..first + 800).map(|n| Prefix4::from_bits(0x0a40_0000 + n * 64, 26).unwrap());
        stage.give(bad, wire::announce_all(&Attributes::new(BAD), some));
        peak = peak.max(held() - before);
        let view = stage.speaker.peer(key(BAD)).unwrap();
        if view.state != SessionState::Established {
            break;
        }
        routes = view.counters.prefixes_received;
        // The other one is told of everything; what it remembers is not the speaker's memory.
        discard(&mut stage, good);
    }
    assert!(routes >= 399_000 * scale && routes <= 400_000 * scale + 20_000, "{routes}");
    let view = stage.speaker.peer(key(BAD)).unwrap();
    assert_eq!(view.notification_sent.unwrap().name, "Cease / Out of Resources");
    let over: Vec<String> = stage
        .warnings
        .iter()
        .filter(|warning| matches!(warning.about, About::PathsOverBound { .. }))
        .map(|warning| format!("{}: {}", warning.peer, warning.about))
        .collect();
    assert!(over.len() == 1 && over[0].starts_with("10.0.0.2: holds "), "{over:?}");
    // One set of attributes, one group: less than 100 octets a route, with what a growing table needs for a moment.
    let each = peak / routes as isize;
    assert!(each < 160, "{each} octets a route");
    // Once the others have read that the routes are gone, nothing waits for anybody's timer.
    discard(&mut stage, good);
    while stage.speaker.advance(stage.now) {}
    assert!(stage.speaker.sizes().0 <= 1025, "{:?}", stage.speaker.sizes());
    stage.speaker.advance(stage.now);
    assert_eq!(stage.speaker.sizes(), (1, 1, 1));
    let view = stage.speaker.peer(key(GOOD)).unwrap();
    assert_eq!((view.state, view.established_count), (SessionState::Established, 1));
    println!("{routes} routes, {} MiB at most, {} KiB afterwards", peak >> 20, (held() - before) >> 10);
}

#[test]
fn prefixes_that_come_and_go_are_forgotten() {
    let mut scene = Scene::new();
    let bad = scene.stage.session(hello(BAD)).unwrap();
    scene.bounded(10_000, 64 * KIB, |stage, n| {
        stage.give(bad, wire::announce(&Attributes::new(BAD), prefix(n)));
        stage.give(bad, wire::withdraw(prefix(n)));
        stage.read_all(bad).unwrap();
        if n % 64 == 0 {
            stage.speaker.advance(stage.now);
        }
    });
}

/// What has gone must be told to everybody before its place is free, and who never reads must not keep all for ever.
#[test]
fn a_peer_that_never_reads_does_not_keep_what_others_have_withdrawn() {
    let mut config = config(&[(hello(GOOD), true), (hello(BAD), true)]);
    config.max_paths = 5000;
    let mut stage = Stage::new(config);
    let good = stage.session(hello(GOOD)).unwrap();
    stage.session(hello(BAD)).unwrap();
    let mut most = 0;
    for n in 0..16_000 {
        stage.give(good, wire::announce(&Attributes::new(GOOD), prefix(n)));
        stage.give(good, wire::withdraw(prefix(n)));
        stage.read_all(good).unwrap();
        // Eight seconds in all: neither the hold timer nor the send hold timer has a part in it.
        stage.pass(Duration::from_micros(500));
        most = most.max(stage.speaker.sizes().0);
    }
    let state = |stage: &Stage, peer| stage.speaker.peer(key(peer)).unwrap().state;
    assert_eq!((state(&stage, GOOD), state(&stage, BAD)), (SessionState::Established, SessionState::Idle));
    let [warning] = &stage.warnings[..] else { panic!("{:?}", stage.warnings) };
    assert_eq!(warning.peer, key(BAD));
    assert!(matches!(warning.about, About::UnreadOverBound { bound: 5000, .. }), "{warning:?}");
    // What comes within the five seconds after which a peer counts as stuck, and until the next look at the RIB.
    assert!(most <= 12_000, "{most} routes");
    while stage.speaker.advance(stage.now) {}
    assert_eq!(stage.speaker.sizes(), (0, 0, 0));
}

#[test]
fn nonsense_in_every_message_is_survived() {
    let mut scene = Scene::new();
    let mut dice = manx_sim::dice::Dice::new(1);
    scene.bounded(3000, 64 * KIB, |stage, _| {
        stage.pass(Duration::from_millis(40));
        let Some(conn) = stage.session(hello(BAD)) else { return };
        for _ in 0..5 {
            let body: Vec<u8> = (0..dice.roll(300)).map(|_| dice.number() as u8).collect();
            stage.give(conn, wire::frame(dice.roll(7) as u8, &body));
        }
    });
    assert_eq!(scene.stage.speaker.config().router_id, US);
}
