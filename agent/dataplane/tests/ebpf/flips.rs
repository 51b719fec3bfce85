//! Whole tables that change while packets are looked up as fast as they can be: each packet has the old answer or the
//! new one, and none is left to the stack because there was none for a moment.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aya::{
    EbpfLoader,
    programs::{SchedClassifier, TestRun, TestRunOptions},
};
use manx_abi::{Program, Verdict, map};
use manx_dataplane::{
    ebpf::{Mode, OBJECT, PoolSpec},
    route::{Action, BlackholeKind, NextHop, Route},
};
use manx_net::{Prefix, Prefix4};

use crate::{
    frame::udp,
    nodes::{UPLINK, pair, pools},
};

const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;
/// Offset of `ifindex` in `struct __sk_buff`, and that structure's size.
const IFINDEX: usize = 40;
const SKB: usize = 192;

/// The n-th block, of 10.0.0.0/8.
fn block(number: u32) -> Prefix {
    Prefix::V4(Prefix4::from_bits(0x0a00_0000 + (number << 6), 26).unwrap())
}

/// `MANX_FLIP_ROUTES` routes for `MANX_FLIP_SECONDS`.
fn setting(name: &str, usual: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn whole_tables_that_flip_leave_no_packet_without_an_answer() {
    let (count, seconds) = (setting("MANX_FLIP_ROUTES", 4000), setting("MANX_FLIP_SECONDS", 4));
    let (kw01, kw02) = pair();
    let mut sink = kw01.sink(&kw02);
    let uplink = kw01.namespace.ifindex(UPLINK);
    let ifindex = kw01.namespace.ifindex("cali1");
    kw01.namespace.run(move || {
        let all = PoolSpec {
            name: "all".into(),
            prefix: "10.0.0.0/8".parse().unwrap(),
            block_len: 26,
            mode: Mode::Unguarded,
        };
        assert_eq!(sink.set_pools(&[pools(), vec![all]].concat()).unwrap(), []);
        let hop = |last: u8| NextHop { gateway: [192, 168, 80, last].into(), ifindex: uplink };
        let via = |hops: &[u8]| Action::Via(hops.iter().map(|last| hop(*last)).collect());
        let drop = Action::Blackhole(BlackholeKind::Explicit);
        let table = |action: &Action, every: usize| -> Vec<Route> {
            (0..count).step_by(every).map(|n| Route { prefix: block(n), action: action.clone() }).collect()
        };
        let hosts: Vec<Route> = (0..count)
            .step_by(7)
            .map(|n| Route { prefix: Prefix::host(address(n, 9).into()), action: via(&[126]) })
            .collect();
        let wide = Route { prefix: "10.0.0.0/8".parse().unwrap(), action: via(&[125]) };
        sink.apply(&table(&via(&[125]), 1), &[]).unwrap();
        let before = sink.counters().unwrap();

        let (done, runs) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let packets = {
            let (done, runs) = (done.clone(), runs.clone());
            std::thread::spawn(move || send(ifindex, count, &done, &runs))
        };
        let end = Instant::now() + Duration::from_secs(seconds.into());
        let prefixes = |routes: &[Route]| routes.iter().map(|route| route.prefix).collect::<Vec<_>>();
        let mut rounds = 0;
        while Instant::now() < end {
            // Another next hop, several, and one again: a store each.
            for hops in [&[126][..], &[125, 126], &[125]] {
                sink.apply(&table(&via(hops), 1), &[]).unwrap();
            }
            // Every third its own way, which writes entries and words.
            sink.apply(&table(&via(&[126]), 3), &[]).unwrap();
            sink.apply(&table(&drop, 3), &[]).unwrap();
            sink.apply(&table(&via(&[125]), 1), &[]).unwrap();
            // Pages come and go.
            sink.apply(&hosts, &[]).unwrap();
            sink.apply(&[], &prefixes(&hosts)).unwrap();
            // One for all, and each for itself.
            sink.apply(std::slice::from_ref(&wide), &prefixes(&table(&drop, 1))).unwrap();
            sink.apply(&table(&via(&[125]), 1), &[wide.prefix]).unwrap();
            rounds += 1;
        }
        done.store(true, Ordering::Relaxed);
        let wrong = packets.join().unwrap();
        assert_eq!(wrong, [], "what a packet got that was neither redirected nor dropped, of {runs:?}");
        let after = sink.counters().unwrap();
        println!("{rounds} rounds of {count} routes, {runs:?} packets");
        assert!(runs.load(Ordering::Relaxed) > 1000 && rounds > 0);
        for verdict in [Verdict::NoRoute, Verdict::BadEntry, Verdict::RouteSaysPass, Verdict::OutsidePools] {
            assert_eq!(after.pod_tc.get(verdict), before.pod_tc.get(verdict), "{verdict:?}");
        }
        assert_eq!(sink.faults().unwrap(), []);
    });
}

fn address(block: u32, last: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + (block << 6) + last)
}

/// Packets of the pod to all blocks in turn, until it is done; what the program returned that it never should.
fn send(ifindex: u32, count: u32, done: &AtomicBool, runs: &AtomicU64) -> Vec<(Ipv4Addr, u32)> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    for name in map::ALL {
        let pin = format!("/sys/fs/bpf/manx/v{}/{name}", manx_abi::ABI_VERSION);
        loader.map_pin_path(name, std::path::PathBuf::from(pin));
    }
    let mut ebpf = loader.load(OBJECT).unwrap();
    let program = ebpf.program_mut(Program::PodTc.name()).unwrap();
    let program: &mut SchedClassifier = program.try_into().unwrap();
    program.load().unwrap();
    let mut context = vec![0u8; SKB];
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    let mut wrong = Vec::new();
    let mut number = 0u32;
    while !done.load(Ordering::Relaxed) && wrong.len() < 5 {
        // 9 is the address that has a route of its own now and then.
        let to = address(number % count, if number.is_multiple_of(2) { 9 } else { 33 });
        number = number.wrapping_add(7919);
        let to_mac = [0xee, 0, 0, 0, 36, 193];
        let frame = udp("172.16.36.193", &to.to_string()).macs(to_mac, [2, 0, 0, 0, 0, 1]).bytes();
        let options =
            TestRunOptions { data_in: Some(&frame), ctx_in: Some(&context), ..TestRunOptions::new() };
        let action = program.test_run(options).unwrap().return_value;
        runs.fetch_add(1, Ordering::Relaxed);
        if action != TC_ACT_REDIRECT && action != TC_ACT_SHOT {
            wrong.push((to, action));
        }
    }
    wrong
}
