//! Routes that change under traffic: every packet sees the old one or the new one.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use manx_dataplane::route::{Action, BlackholeKind, NextHop, Route};
use manx_net::Prefix;

use crate::nodes::{UPLINK, pair};

const PINGS: u32 = 400;

#[test]
fn a_next_hop_that_changes_all_the_time_loses_no_packet() {
    let (kw01, kw02) = pair();
    let (mut sink, _there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    let prefix: Prefix = kw02.block4().parse().unwrap();
    let ifindex = kw01.namespace.ifindex(UPLINK);
    let (pod, address) = (&kw01.pods[0], kw02.pods[0].v4.clone());
    let done = Arc::new(AtomicBool::new(false));
    let (until, ended) = (done.clone(), done);
    let sink = std::thread::scope(|scope| {
        let pings = scope.spawn(move || {
            let answers = pod.answers(&address, PINGS, 0.002);
            ended.store(true, Ordering::Relaxed);
            answers
        });
        let sink = kw01.namespace.run(move || {
            for turn in 0.. {
                if until.load(Ordering::Relaxed) {
                    break;
                }
                let gateway = ["192.168.80.125", "fd00:80::125"][turn % 2usize].parse().unwrap();
                let action = Action::Via(vec![NextHop { gateway, ifindex }]);
                let applied = sink.apply(&[Route { prefix, action }], &[]).unwrap();
                assert_eq!(applied.written, usize::from(turn > 0), "the first is what was there");
            }
            sink
        });
        assert_eq!(pings.join().unwrap(), PINGS);
        sink
    });
    let counted = sink.counters().unwrap();
    assert_eq!(
        counted.pod_tc.redirected_neigh,
        u64::from(PINGS),
        "and none went through the stack: {counted:?}"
    );
}

#[test]
fn a_blackhole_that_comes_and_goes_around_a_living_pod_loses_no_packet() {
    let (kw01, kw02) = pair();
    let (mut sink, _there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    let block: Prefix = kw01.block4().parse().unwrap();
    let (pod, to) = (&kw02.pods[0], kw01.pods[0].v4.clone());
    let mac = Some(kw01.pods[0].mac());
    let ifindex = kw01.namespace.ifindex("cali1");
    let host: Prefix = format!("{to}/32").parse().unwrap();
    let local = Route { prefix: host, action: Action::Local { ifindex, mac } };
    // The map alone decides on an explicit one: nothing but the order of writes saves the pod.
    let blackhole = Route { prefix: block, action: Action::Blackhole(BlackholeKind::Explicit) };
    let done = Arc::new(AtomicBool::new(false));
    let (until, ended) = (done.clone(), done);
    let sink = std::thread::scope(|scope| {
        let pings = scope.spawn(move || {
            let answers = pod.answers(&to, PINGS, 0.002);
            ended.store(true, Ordering::Relaxed);
            answers
        });
        let sink = kw01.namespace.run(move || {
            sink.apply(&[], &[host, block]).unwrap();
            while !until.load(Ordering::Relaxed) {
                // In the order that would lose packets.
                sink.apply(&[blackhole.clone(), local.clone()], &[]).unwrap();
                sink.apply(&[], &[host, block]).unwrap();
            }
            sink
        });
        assert_eq!(pings.join().unwrap(), PINGS);
        sink
    });
    assert_eq!(sink.counters().unwrap().total(manx_abi::Verdict::BlackholeExplicit), 0);
}
