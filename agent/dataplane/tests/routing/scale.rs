//! Ten thousand routes, with the time that each step takes. The bounds are wide: they catch what is quadratic.

use std::time::{Duration, Instant};

use crate::lab::*;

const ROUTES: u32 = 10_000;

fn block(n: u32) -> String {
    format!("10.{}.{}.{}/26", n / 1024, n / 4 % 256, n % 4 * 64)
}

#[test]
fn ten_thousand_routes_are_written_changed_adopted_and_removed() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        let mut timed = Vec::new();
        let start = Instant::now();
        for n in 0..ROUTES {
            dataplane.set_path(p(&block(n)), gateways(&["192.168.80.125"]));
        }
        // The first steps: nothing else happens until all is written.
        let mut longest = Duration::ZERO;
        loop {
            let begin = Instant::now();
            let step = dataplane.step(begin);
            longest = longest.max(begin.elapsed());
            // The echo of our own writes does not overflow the event socket either.
            assert_eq!(step.reports, []);
            if step.more {
                continue;
            }
            if !dataplane.is_writing() {
                break;
            }
            dataplane.changed().await.unwrap();
        }
        timed.push(("written", start.elapsed()));
        assert_eq!(dataplane.fib_status().installed, ROUTES as usize);

        let start = Instant::now();
        for n in 0..ROUTES {
            dataplane.set_path(p(&block(n)), gateways(&["192.168.80.126"]));
        }
        write_all(&mut dataplane).await;
        timed.push(("replaced", start.elapsed()));

        let start = Instant::now();
        assert!(dataplane.audit().unwrap().is_clean());
        timed.push(("audited", start.elapsed()));

        // Our own changes come back as events; they are recognised and cost no second write.
        let writes = dataplane.fib_status().writes;
        settle(&mut dataplane).await;
        assert_eq!(dataplane.fib_status().writes, writes);

        drop(dataplane);
        let start = Instant::now();
        let mut dataplane = open();
        for n in 0..ROUTES {
            dataplane.set_path(p(&block(n)), gateways(&["192.168.80.126"]));
        }
        write_all(&mut dataplane).await;
        timed.push(("adopted", start.elapsed()));
        assert_eq!(dataplane.fib_status().writes, 0);

        let start = Instant::now();
        ip("link set ens33 down");
        settle_for(&mut dataplane, Duration::from_millis(30)).await;
        assert_eq!(ours(&mut dataplane), []);
        ip("link set ens33 up");
        settle_until(&mut dataplane, |dataplane| ours(dataplane).len() == ROUTES as usize).await;
        timed.push(("lost and found", start.elapsed()));

        let start = Instant::now();
        for n in 0..ROUTES {
            dataplane.set_path(p(&block(n)), Vec::new());
        }
        write_all(&mut dataplane).await;
        timed.push(("removed", start.elapsed()));
        assert_eq!(ours(&mut dataplane), []);

        println!("{ROUTES} routes: {timed:?}, longest step {longest:?}");
        for (what, took) in timed {
            assert!(took < Duration::from_secs(10), "{what}: {took:?}");
        }
    });
}
