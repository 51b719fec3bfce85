//! Starting again on what an earlier run left, and losing the kernel's events.

use manx_dataplane::{Config, Dataplane, OpenError, Report, fib::FibState};

use crate::lab::*;

#[test]
fn a_restart_adopts_what_is_there_and_nothing_flaps() {
    isolated(|| async {
        uplink();
        let plan = owning(&["172.16.36.192/26", "fd10:0:0:1::/64"]);
        let mut first = open();
        first.configure(plan.clone());
        first.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        first.set_path(p("172.16.118.128/26"), gateways(&["192.168.80.125", "192.168.80.126"]));
        first.set_path(p("fd10:0:0:2::/64"), gateways(&["fd80::125", "fd80::126"]));
        settle(&mut first).await;
        first.finish_startup();
        settle(&mut first).await;
        assert_eq!(ours(&mut first).len(), 5);
        drop(first);

        let monitor = Monitor::start();
        let mut second = open();
        settle(&mut second).await;
        assert_eq!(second.fib_status().stale, 5);
        second.configure(plan);
        second.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        second.set_path(p("172.16.118.128/26"), gateways(&["192.168.80.125", "192.168.80.126"]));
        second.set_path(p("fd10:0:0:2::/64"), gateways(&["fd80::125", "fd80::126"]));
        settle(&mut second).await;
        second.finish_startup();
        settle(&mut second).await;
        assert_eq!(second.fib_status().installed, 5);
        assert_eq!(second.fib_status().writes, 0);
        assert_eq!(monitor.lines("proto 77"), Vec::<String>::new());
    });
}

#[test]
fn what_nobody_claims_stays_until_everything_is_learned() {
    isolated(|| async {
        uplink();
        ip("route add 172.16.118.64/26 via 192.168.80.125 proto 77");
        ip("route add 172.16.118.128/26 via 192.168.80.125 proto 77");
        // Of a run with another table, of one with another metric, and of nobody's making.
        ip("route add 172.16.118.64/26 via 192.168.80.125 proto 77 table 100");
        ip("route add 172.16.118.64/26 via 192.168.80.125 proto 77 metric 50");
        ip("route add 10.66.0.0/16 dev ens33 proto 77");
        let mut dataplane = open();
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.126"]));
        settle(&mut dataplane).await;
        assert_eq!(ours(&mut dataplane).len(), 5, "a changed one is replaced, none is removed");
        assert_eq!(dataplane.fib_state(p("172.16.118.128/26")), Some(FibState::Stale));
        assert!(shown("172.16.118.64/26").contains("via 192.168.80.126"));
        // A comparison with the kernel in between claims nothing.
        assert!(dataplane.audit().unwrap().is_clean());
        settle(&mut dataplane).await;
        assert_eq!(ours(&mut dataplane).len(), 5);
        dataplane.finish_startup();
        settle(&mut dataplane).await;
        assert_eq!(ours(&mut dataplane), [p("172.16.118.64/26")]);
        assert_eq!(shown("172.16.118.64/26"), "172.16.118.64/26 via 192.168.80.126 dev ens33 proto 77");
    });
}

#[test]
fn another_table_and_metric_are_used_where_configured() {
    isolated(|| async {
        uplink();
        let config = Config { table: 1000, metric: Some(512), protocol: 12, ..Config::default() };
        let mut dataplane = Dataplane::open(config).unwrap();
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        dataplane.set_path(p("fd10::/64"), gateways(&["fd80::125"]));
        settle(&mut dataplane).await;
        assert!(shown("172.16.118.64/26").contains("table 1000 proto bird metric 512"));
        assert!(shown("fd10::/64").contains("table 1000 proto bird metric 512"));
        assert!(dataplane.audit().unwrap().is_clean());
    });
}

#[test]
fn lost_events_are_made_up_for_by_reading_everything() {
    isolated(|| async {
        uplink();
        let mut dataplane = Dataplane::open(Config { receive_buffer: 4096, ..Config::default() }).unwrap();
        dataplane.configure(owning(&["172.16.36.192/26"]));
        settle(&mut dataplane).await;
        // All of this happens without a look at the socket.
        let batch: String = (0..2000u32)
            .map(|n| format!("route add 10.{}.{}.0/24 via 192.168.80.121 proto static\n", n / 256, n % 256))
            .collect();
        ip_batch(&batch);
        ip("route del blackhole 172.16.36.192/26");
        ip("route del 10.0.7.0/24");
        let step = settle(&mut dataplane).await;
        assert!(step.reports.contains(&Report::Resynchronised));
        assert!(step.reports.iter().any(is_tampering), "ours was missed in the dump: {:?}", step.reports);
        let routes = dataplane.kernel().routes();
        assert_eq!(routes.iter().filter(|route| route.protocol == 4).count(), 1999);
        assert!(routes.exact(p("10.0.7.0/24")).is_empty());
        assert!(shown("172.16.36.192/26").contains("blackhole"));
    });
}

#[test]
fn a_protocol_of_the_kernels_own_and_the_local_table_are_refused() {
    isolated(|| async {
        let kernel = Config { protocol: 2, ..Config::default() };
        assert!(matches!(Dataplane::open(kernel), Err(OpenError::Protocol(2))));
        let local = Config { table: 255, ..Config::default() };
        assert!(matches!(Dataplane::open(local), Err(OpenError::Table(255))));
        assert!(manx_dataplane::cleanup(4).is_err());
    });
}
