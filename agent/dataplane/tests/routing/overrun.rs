//! Events that are lost, or that are too many for one turn, while a thread writes.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use manx_dataplane::{Config, Dataplane, Report, fib::FibState};
use tokio::time::timeout;

use crate::lab::*;

const HOP: &str = "192.168.80.121";
const HOP6: &str = "fd80::121";

/// Every other one IPv6, whose tree is walked anew when it changes during a dump.
fn block(n: u32) -> String {
    if n.is_multiple_of(2) {
        format!("10.{}.{}.{}/26", n / 1024, n / 4 % 256, n % 4 * 64)
    } else {
        format!("fd10:{n:x}::/48")
    }
}

fn want(dataplane: &mut Dataplane, blocks: impl Iterator<Item = u32>) {
    for n in blocks {
        dataplane.set_path(p(&block(n)), gateways(&[if n.is_multiple_of(2) { HOP } else { HOP6 }]));
    }
}

/// The places of others, as `ip` shows them.
fn foreign() -> BTreeSet<String> {
    let shown = ip("-4 route show proto static") + &ip("-6 route show proto static");
    shown.lines().map(|line| line.trim().to_owned()).collect()
}

/// More events than there is room for, the last of them in places that we want; returns those places.
fn others_write(blocks: u32) -> BTreeSet<u32> {
    // Not on their way yet where all are more than can be.
    let taken: BTreeSet<u32> = (blocks - 4000..blocks).step_by(101).collect();
    let mut commands: String = (0..3000)
        .map(|n| format!("route add blackhole 192.0.{}.{}/32 table 100\n", n / 250, n % 250))
        .collect();
    for n in &taken {
        let hop = if n.is_multiple_of(2) { "192.168.80.126" } else { "fd80::126" };
        commands += &format!("route add {} via {hop} proto static\n", block(*n));
    }
    ip_batch(&commands);
    taken
}

/// How it was when everything had been read again.
struct Reading {
    steps: usize,
    /// In which it did not go on by itself.
    waits: usize,
    /// Routes that were not written by then.
    pending: usize,
}

/// Until everything was read again and is written.
async fn resynchronised(dataplane: &mut Dataplane) -> Reading {
    let (mut read_at, mut waits) = (None, 0);
    for steps in 1.. {
        let step = dataplane.step(Instant::now());
        if step.reports.contains(&Report::Resynchronised) {
            let pending = dataplane.fib_status().pending;
            read_at.get_or_insert(Reading { steps, waits, pending });
        }
        if step.more {
            continue;
        }
        if let (Some(_), false) = (&read_at, dataplane.is_writing()) {
            break;
        }
        waits += 1;
        // Nothing else happens: what is due must not wait for somebody's next change.
        let heard = timeout(Duration::from_secs(2), dataplane.changed()).await;
        heard.expect("it waits for an event that does not come").unwrap();
    }
    read_at.expect("it goes on until then")
}

async fn all_is_as_it_should_be(dataplane: &mut Dataplane, blocks: u32, taken: &BTreeSet<u32>) {
    let before = foreign();
    assert_eq!(before.len(), taken.len());
    settle(dataplane).await;
    for n in taken {
        let state = dataplane.fib_state(p(&block(*n)));
        assert!(matches!(state, None | Some(FibState::Failed(_))), "{}: {state:?}", block(*n));
    }
    let ours = ours(dataplane);
    let distinct: BTreeSet<_> = ours.iter().collect();
    assert_eq!((ours.len(), distinct.len()), (blocks as usize - taken.len(), ours.len()));
    assert!(dataplane.audit().unwrap().is_clean());
    assert_eq!(foreign(), before);

    // Nobody is left in the view who is not in the kernel.
    let commands = |n: &u32| format!("route del {} proto static\n", block(*n));
    ip_batch(&taken.iter().map(commands).collect::<String>());
    settle_until(dataplane, |dataplane| dataplane.fib_status().installed == blocks as usize).await;
    let mut newcomer = open();
    want(&mut newcomer, 0..blocks);
    settle_for(&mut newcomer, Duration::ZERO).await;
    assert_eq!(newcomer.fib_status().writes, 0);
}

/// It writes on its thread, and a few events are more than its socket holds.
fn overrun_soon() -> Dataplane {
    let config = Config { receive_buffer: 4096, written_at_once: 0, ..Config::default() };
    let mut dataplane = Dataplane::open(config).unwrap();
    dataplane.finish_startup();
    dataplane
}

#[test]
fn events_lost_while_a_whole_table_waits_to_be_written_are_made_up_for_before_it_is() {
    isolated(|| async {
        const BLOCKS: u32 = 40_000;
        uplink();
        let mut dataplane = overrun_soon();
        want(&mut dataplane, 0..BLOCKS);
        dataplane.step(Instant::now());
        assert!(dataplane.is_writing());
        let taken = others_write(BLOCKS);
        let Reading { steps, pending, .. } = resynchronised(&mut dataplane).await;
        // One for each batch that was on its way, and a few.
        assert!(steps < 64, "{steps} steps");
        assert!(pending > 10_000, "{pending} routes were left to be written");
        all_is_as_it_should_be(&mut dataplane, BLOCKS, &taken).await;
    });
}

#[test]
fn events_lost_while_the_last_routes_are_written_are_made_up_for_at_once() {
    isolated(|| async {
        const BLOCKS: u32 = 4000;
        uplink();
        let mut dataplane = overrun_soon();
        let taken = others_write(BLOCKS);
        settle(&mut dataplane).await;
        want(&mut dataplane, 0..BLOCKS);
        dataplane.step(Instant::now());
        assert!(dataplane.is_writing());
        let other =
            (0..3000).map(|n| format!("route del blackhole 192.0.{}.{}/32 table 100\n", n / 250, n % 250));
        ip_batch(&other.collect::<String>());
        // All answers and events have come, and nobody wakes us again.
        while timeout(Duration::from_millis(100), dataplane.changed()).await.is_ok() {}
        let read = resynchronised(&mut dataplane).await;
        assert_eq!((read.steps, read.waits), (2, 0), "the answers, and then the reading");
        all_is_as_it_should_be(&mut dataplane, BLOCKS, &taken).await;
    });
}

#[test]
fn what_others_did_before_our_write_is_no_tampering_however_much_is_unread() {
    isolated(|| async {
        uplink();
        let mut dataplane = open_with_thread();
        dataplane.finish_startup();
        settle(&mut dataplane).await;
        // More than is read in two turns, and then somebody in our place, who is gone when we come.
        let mut commands: String = (0..10_000)
            .map(|n| format!("route add blackhole 192.0.{}.{}/32 table 100\n", n / 250, n % 250))
            .collect();
        let prefix = block(0);
        commands += &format!("route add {prefix} via 192.168.80.126 proto 77\nroute del {prefix} proto 77\n");
        ip_batch(&commands);
        want(&mut dataplane, 0..1);
        let mut reports = Vec::new();
        for _ in 0..8 {
            reports.extend(dataplane.step(Instant::now()).reports);
            std::thread::sleep(Duration::from_millis(20));
        }
        reports.extend(settle(&mut dataplane).await.reports);
        assert_eq!(reports, []);
        assert_eq!(dataplane.fib_state(p(&prefix)), Some(FibState::Installed));
        assert_eq!(ours(&mut dataplane), [p(&prefix)]);
        assert_eq!(dataplane.fib_status().writes, 1);
    });
}
