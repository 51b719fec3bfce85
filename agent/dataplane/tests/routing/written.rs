//! What a thread writes while the loop goes on: in the order that the routes need, the newest wish last, each refusal with
//! its own prefix, and everything by the time the dataplane is gone.

use std::{collections::BTreeMap, time::Instant};

use manx_dataplane::{
    Report, WRITTEN_AT_ONCE,
    fib::{FibError, FibState},
    read_back,
};

use crate::lab::*;

/// Blocks of a burst; far more than the loop writes itself.
const BLOCKS: u32 = 1000;
const HOPS: [&str; 3] = ["192.168.80.121", "192.168.80.125", "192.168.80.126"];

fn block(n: u32) -> String {
    format!("10.{}.{}.{}/26", n / 1024, n / 4 % 256, n % 4 * 64)
}

/// An address in the block.
fn inside(n: u32) -> String {
    format!("10.{}.{}.{}/32", n / 1024, n / 4 % 256, n % 4 * 64 + 7)
}

#[test]
fn bursts_that_overtake_each_other_end_with_the_last_wish_in_fib_and_map() {
    isolated(|| async {
        uplink();
        let mut dataplane = open_with_thread();
        dataplane.finish_startup();
        let mut wanted: BTreeMap<u32, usize> = BTreeMap::new();
        let mut map = BTreeMap::new();
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut roll = |sides: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % sides
        };
        let mut overlapped = 0;
        for _ in 0..60 {
            for _ in 0..400 {
                let (n, hop) = (roll(u64::from(BLOCKS)) as u32, roll(4) as usize);
                match HOPS.get(hop) {
                    Some(address) => {
                        wanted.insert(n, hop);
                        dataplane.set_path(p(&block(n)), gateways(&[address]));
                    }
                    None => {
                        wanted.remove(&n);
                        dataplane.set_path(p(&block(n)), Vec::new());
                    }
                }
            }
            overlapped += u32::from(dataplane.is_writing());
            let step = dataplane.step(Instant::now());
            assert_eq!(step.reports, []);
            for prefix in step.map.removals {
                map.remove(&prefix);
            }
            map.extend(step.map.upserts.into_iter().map(|route| (route.prefix, route.action)));
            // What is under way is no finding of an audit.
            if dataplane.is_writing() && roll(4) == 0 {
                dataplane.note_changes(true);
                let found = read_back(MANX).unwrap();
                for n in 0..BLOCKS {
                    let prefix = p(&block(n));
                    let of: Vec<_> = found.iter().filter(|route| route.prefix == prefix).cloned().collect();
                    let differs = dataplane.compare(prefix, &of).is_some();
                    assert!(!differs || dataplane.has_noted(prefix), "{prefix}: {of:?}");
                }
                dataplane.note_changes(false);
            }
        }
        assert!(overlapped > 10, "bursts met writes that were under way {overlapped} times only");
        write_all(&mut dataplane).await;

        let expected: BTreeMap<_, _> =
            wanted.iter().map(|(n, hop)| (p(&block(*n)), HOPS[*hop].parse().unwrap())).collect();
        let found = dataplane.read_back().unwrap();
        let found: BTreeMap<_, std::net::IpAddr> =
            found.into_iter().map(|route| (route.prefix, route.legs[0].gateway.unwrap())).collect();
        assert_eq!(found, expected);
        let desired: BTreeMap<_, _> =
            dataplane.map_routes().into_iter().map(|route| (route.prefix, route.action)).collect();
        assert_eq!(map, desired);
        assert_eq!(map.len(), expected.len());
        assert!(dataplane.audit().unwrap().is_clean());
        settle(&mut dataplane).await;
        assert_eq!(dataplane.fib_status().installed, expected.len());
    });
}

#[test]
fn what_lies_inside_blackholes_comes_before_them_and_leaves_after_them() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.finish_startup();
        let monitor = Monitor::start();
        let blocks: Vec<String> = (0..BLOCKS).map(block).collect();
        let blocks: Vec<&str> = blocks.iter().map(String::as_str).collect();
        for round in 0..3 {
            // The blackholes are told first, and in the round after they go while the addresses are still on their way.
            dataplane.configure(owning(&blocks));
            for n in 0..BLOCKS {
                dataplane.set_path(p(&inside(n)), gateways(&[HOPS[0]]));
            }
            dataplane.step(Instant::now());
            assert!(dataplane.is_writing());
            if round == 0 {
                write_all(&mut dataplane).await;
            }
            for n in 0..BLOCKS {
                dataplane.set_path(p(&inside(n)), Vec::new());
            }
            dataplane.configure(owning(&[]));
            dataplane.step(Instant::now());
            if round == 1 {
                write_all(&mut dataplane).await;
            }
        }
        write_all(&mut dataplane).await;
        assert_eq!(ours(&mut dataplane), []);

        // As the kernel told it: where there is a blackhole, the address inside it is there.
        let mut there: BTreeMap<u32, (bool, bool)> = BTreeMap::new();
        let mut blackholes = 0;
        for line in monitor.lines("proto 77") {
            let deleted = line.starts_with("Deleted");
            let words = line.trim_start_matches("Deleted ").trim_start_matches("blackhole ");
            let address: std::net::Ipv4Addr =
                words.split([' ', '/']).next().unwrap_or_default().parse().expect(&line);
            let [_, b, c, d] = address.octets();
            let n = u32::from(b) * 1024 + u32::from(c) * 4 + u32::from(d) / 64;
            let (blackhole, host) = there.entry(n).or_default();
            if line.contains("blackhole") {
                *blackhole = !deleted;
                blackholes += u32::from(!deleted);
            } else {
                *host = !deleted;
            }
            assert!(*host || !*blackhole, "{line}");
        }
        assert!(blackholes >= BLOCKS, "{blackholes} blackholes were written");
    });
}

#[test]
fn of_many_routes_only_those_fail_that_the_kernel_refuses() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        // Behind an onlink route: reachable for the resolver, no neighbour for the kernel unless it is told so.
        ip("route add 198.51.100.0/24 via 192.168.80.125 dev ens33 onlink");
        // Places that are taken, and no event has told yet when the routes are written.
        settle(&mut dataplane).await;
        let taken: Vec<u32> = (0..BLOCKS).step_by(100).collect();
        for n in 0..BLOCKS {
            dataplane.set_path(p(&block(n)), gateways(&[HOPS[0]]));
        }
        for n in &taken {
            ip(&format!("route add {} via 192.168.80.126 proto static", block(*n)));
        }
        let mut reports = Vec::new();
        loop {
            let step = dataplane.step(Instant::now());
            reports.extend(step.reports);
            if !step.more && !dataplane.is_writing() {
                break;
            }
            if !step.more {
                dataplane.changed().await.unwrap();
            }
        }
        let foreign = |report: &Report| match report {
            Report::NotInstalled { prefix, error: FibError::Foreign { protocol: 4, .. } } => Some(*prefix),
            other => panic!("{other:?}"),
        };
        let mut named: Vec<_> = reports.iter().filter_map(foreign).collect();
        named.sort_unstable();
        assert_eq!(named, taken.iter().map(|n| p(&block(*n))).collect::<Vec<_>>());
        assert_eq!(dataplane.fib_status().installed, BLOCKS as usize - taken.len());

        for n in &taken {
            ip(&format!("route del {} proto static", block(*n)));
        }
        let all =
            |dataplane: &mut manx_dataplane::Dataplane| dataplane.fib_status().installed == BLOCKS as usize;
        settle_until(&mut dataplane, all).await;
        assert_eq!(dataplane.fib_state(p(&block(0))), Some(FibState::Installed));
    });
}

#[test]
fn somebody_who_meddles_while_a_thread_writes_is_found_out() {
    isolated(|| async {
        uplink();
        let mut dataplane = open_with_thread();
        dataplane.finish_startup();
        for round in 0..6 {
            let hop = HOPS[round % HOPS.len()];
            for n in 0..BLOCKS {
                dataplane.set_path(p(&block(n)), gateways(&[hop]));
            }
            dataplane.step(Instant::now());
            let batch: String = (0..BLOCKS)
                .step_by(37)
                .map(|n| match n % 2 {
                    0 => format!("route replace {} via 192.168.80.2 proto 77\n", block(n)),
                    _ => format!("route replace blackhole {} proto 77\n", block(n)),
                })
                .collect();
            ip_batch(&batch);
            // What was changed while it was on its way is looked at once a second.
            let gateway = Some(hop.parse().unwrap());
            settle_until(&mut dataplane, |dataplane| {
                let found = dataplane.read_back().unwrap();
                assert_eq!(found.len(), BLOCKS as usize, "round {round}");
                found.iter().all(|route| route.legs.first().and_then(|leg| leg.gateway) == gateway)
            })
            .await;
            assert!(dataplane.audit().unwrap().is_clean());
        }
    });
}

#[test]
fn a_few_routes_are_in_the_kernel_when_the_step_returns() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.finish_startup();
        for hops in [&[HOPS[0]][..], &[HOPS[1]], &[]] {
            dataplane.set_path(p(&block(0)), gateways(hops));
            dataplane.step(Instant::now());
            assert!(!dataplane.is_writing());
            assert_eq!(read_back(MANX).unwrap().len(), hops.len());
        }
    });
}

#[test]
fn what_was_given_to_the_kernel_is_written_when_the_dataplane_is_gone() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        for n in 0..BLOCKS {
            dataplane.set_path(p(&block(n)), gateways(&[HOPS[0]]));
        }
        const { assert!(WRITTEN_AT_ONCE < BLOCKS as usize) };
        dataplane.step(Instant::now());
        assert!(dataplane.is_writing());
        drop(dataplane);
        assert_eq!(read_back(MANX).unwrap().len(), BLOCKS as usize);
    });
}

#[test]
fn the_kernel_tells_us_of_no_route_that_we_add_or_delete_and_of_all_that_others_do() {
    isolated(|| async {
        uplink();
        // Room for a few dozen events only.
        let config = manx_dataplane::Config { receive_buffer: 4096, ..Default::default() };
        let mut dataplane = manx_dataplane::Dataplane::open(config).unwrap();
        dataplane.finish_startup();
        settle(&mut dataplane).await;
        for hops in [&[HOPS[0]][..], &[]] {
            for n in 0..BLOCKS {
                dataplane.set_path(p(&block(n)), gateways(hops));
            }
            // Nobody reads events while the loop is here.
            while dataplane.step(Instant::now()).more {}
            dataplane.audit().unwrap();
            let said = settle(&mut dataplane).await;
            assert!(!said.reports.contains(&Report::Resynchronised), "{:?}", said.reports);
        }
        ip(&format!("route add {} via 192.168.80.126 proto 77", block(0)));
        let said = settle(&mut dataplane).await;
        assert!(said.reports.iter().any(is_tampering), "{:?}", said.reports);
        assert_eq!(ours(&mut dataplane), []);
    });
}
