//! Writing: order, foreign routes, repair, both families.

use std::time::Duration;

use manx_dataplane::{
    Config, Dataplane, Report,
    fib::{Difference, FibError, FibRoute, FibState},
    table::{Plan, Pool, PoolWrite},
};

use crate::lab::*;

#[test]
fn a_best_path_is_written_with_our_protocol_and_withdrawn_again() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        settle(&mut dataplane).await;
        assert_eq!(shown("172.16.118.64/26"), "172.16.118.64/26 via 192.168.80.125 dev ens33 proto 77");
        dataplane.set_path(p("172.16.118.64/26"), Vec::new());
        settle(&mut dataplane).await;
        assert_eq!(shown("172.16.118.64/26"), "");
    });
}

#[test]
fn an_own_block_is_a_blackhole_and_the_pods_in_it_are_reached() {
    isolated(|| async {
        uplink();
        pod("web", "172.16.36.193");
        let mut dataplane = open();
        dataplane.configure(owning(&["172.16.36.192/26"]));
        settle(&mut dataplane).await;
        assert_eq!(shown("172.16.36.192/26"), "blackhole 172.16.36.192/26 proto 77");
        assert!(ip("route get 172.16.36.193").contains("dev caliweb"));
        ip("netns exec web ping -c 1 -W 2 192.168.80.124");
    });
}

#[test]
fn a_borrowed_address_of_our_block_is_there_before_the_blackhole_and_leaves_after_it() {
    isolated(|| async {
        uplink();
        let monitor = Monitor::start();
        let mut dataplane = open();
        dataplane.configure(owning(&["172.16.36.192/26"]));
        dataplane.set_path(p("172.16.36.200/32"), gateways(&["192.168.80.125"]));
        settle(&mut dataplane).await;
        dataplane.configure(owning(&[]));
        dataplane.set_path(p("172.16.36.200/32"), Vec::new());
        settle(&mut dataplane).await;
        let seen = monitor.lines("172.16.36");
        let order: Vec<(bool, bool)> =
            seen.iter().map(|line| (line.starts_with("Deleted"), line.contains("blackhole"))).collect();
        assert_eq!(order, [(false, false), (false, true), (true, true), (true, false)], "{seen:#?}");
    });
}

#[test]
fn a_route_to_our_own_block_from_a_peer_does_not_replace_the_blackhole() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.set_path(p("172.16.36.192/26"), gateways(&["192.168.80.125"]));
        settle(&mut dataplane).await;
        assert!(shown("172.16.36.192/26").contains("via"));
        dataplane.configure(owning(&["172.16.36.192/26"]));
        settle(&mut dataplane).await;
        assert_eq!(shown("172.16.36.192/26"), "blackhole 172.16.36.192/26 proto 77");
    });
}

#[test]
fn a_foreign_route_is_respected_reported_and_followed_when_it_goes() {
    isolated(|| async {
        uplink();
        ip("route add 172.16.118.64/26 via 192.168.80.121 proto static");
        let mut dataplane = open();
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        let step = settle(&mut dataplane).await;
        let error = FibError::Foreign { protocol: 4, table: 254 };
        assert!(
            step.reports
                .contains(&Report::NotInstalled { prefix: p("172.16.118.64/26"), error: error.clone() }),
            "{:?}",
            step.reports
        );
        assert_eq!(dataplane.fib_state(p("172.16.118.64/26")), Some(FibState::Failed(error)));
        assert!(shown("172.16.118.64/26").contains("via 192.168.80.121 dev ens33 proto static"));

        ip("route del 172.16.118.64/26 proto static");
        let step = settle(&mut dataplane).await;
        assert!(step.reports.contains(&Report::Recovered { prefix: p("172.16.118.64/26") }));
        assert_eq!(shown("172.16.118.64/26"), "172.16.118.64/26 via 192.168.80.125 dev ens33 proto 77");
    });
}

#[test]
fn a_foreign_route_that_took_our_place_is_not_taken_back() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        settle(&mut dataplane).await;
        ip("route replace 172.16.118.64/26 via 192.168.80.121 proto static");
        settle(&mut dataplane).await;
        // A changed next hop is the moment at which a careless replace would overwrite it.
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.126"]));
        settle(&mut dataplane).await;
        assert_eq!(shown("172.16.118.64/26"), "172.16.118.64/26 via 192.168.80.121 dev ens33 proto static");
        dataplane.set_path(p("172.16.118.64/26"), Vec::new());
        settle(&mut dataplane).await;
        assert!(shown("172.16.118.64/26").contains("proto static"), "a removal takes only ours");
    });
}

#[test]
fn a_foreign_route_put_in_front_of_ours_is_not_hit_by_a_replacement() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        settle(&mut dataplane).await;
        ip("route prepend 172.16.118.64/26 via 192.168.80.121 proto static");
        settle(&mut dataplane).await;
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.126"]));
        let step = settle(&mut dataplane).await;
        assert!(step.reports.iter().any(|report| matches!(report, Report::NotInstalled { .. })));
        assert_eq!(shown("172.16.118.64/26"), "172.16.118.64/26 via 192.168.80.121 dev ens33 proto static");
        ip("route del 172.16.118.64/26 proto static");
        settle(&mut dataplane).await;
        assert_eq!(shown("172.16.118.64/26"), "172.16.118.64/26 via 192.168.80.126 dev ens33 proto 77");
    });
}

#[test]
fn an_ipv6_foreign_route_that_took_our_place_is_not_taken_back() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.set_path(p("fd10::/64"), gateways(&["fd80::125"]));
        settle(&mut dataplane).await;
        ip("-6 route replace fd10::/64 via fd80::121 proto static");
        settle(&mut dataplane).await;
        dataplane.set_path(p("fd10::/64"), gateways(&["fd80::126"]));
        settle(&mut dataplane).await;
        assert!(shown("fd10::/64").starts_with("fd10::/64 via fd80::121 dev ens33 proto static"));
        ip("-6 route del fd10::/64 proto static");
        settle(&mut dataplane).await;
        assert!(shown("fd10::/64").starts_with("fd10::/64 via fd80::126 dev ens33 proto 77"));
    });
}

#[test]
fn a_foreign_route_that_appears_unseen_is_found_by_the_refusal() {
    isolated(|| async {
        uplink();
        let mut dataplane = Dataplane::open(Config { receive_buffer: 4096, ..Config::default() }).unwrap();
        settle(&mut dataplane).await;
        // The event of the foreign route is among those that are lost; nothing but the kernel's refusal tells.
        let flood: String =
            (0..500u32).map(|n| format!("route add blackhole 10.0.{}.{}\n", n / 256, n % 256)).collect();
        ip_batch(&flood);
        ip("route add 172.16.118.64/26 via 192.168.80.121 proto static");
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        settle(&mut dataplane).await;
        let foreign = FibState::Failed(FibError::Foreign { protocol: 4, table: 254 });
        assert_eq!(dataplane.fib_state(p("172.16.118.64/26")), Some(foreign));
        assert!(shown("172.16.118.64/26").contains("proto static"));
    });
}

#[test]
fn a_route_deleted_behind_our_back_is_repaired_and_told() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.configure(owning(&["172.16.36.192/26"]));
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        settle(&mut dataplane).await;
        ip("route del 172.16.118.64/26");
        ip("route del blackhole 172.16.36.192/26");
        let step = settle(&mut dataplane).await;
        assert_eq!(
            step.reports.iter().filter(|report| is_tampering(report)).count(),
            2,
            "{:?}",
            step.reports
        );
        assert_eq!(dataplane.fib_status().repaired, 2);
        assert!(shown("172.16.118.64/26").contains("via 192.168.80.125"));
        assert!(shown("172.16.36.192/26").contains("blackhole"));
    });
}

#[test]
fn a_route_changed_behind_our_back_is_repaired() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        settle(&mut dataplane).await;
        ip("route replace 172.16.118.64/26 via 192.168.80.121 proto 77");
        let step = settle(&mut dataplane).await;
        assert!(step.reports.iter().any(is_tampering));
        assert_eq!(shown("172.16.118.64/26"), "172.16.118.64/26 via 192.168.80.125 dev ens33 proto 77");
    });
}

#[test]
fn an_audit_finds_and_repairs_what_no_event_told() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["192.168.80.125"]));
        dataplane.set_path(p("172.16.118.128/26"), gateways(&["192.168.80.125"]));
        settle(&mut dataplane).await;
        assert!(dataplane.audit().unwrap().is_clean());
        dataplane.finish_startup();
        ip("route del 172.16.118.64/26");
        ip("route replace blackhole 172.16.118.128/26 proto 77");
        ip("route add blackhole 10.9.9.0/24 proto 77");
        // The events lie unread in the socket.
        let report = dataplane.audit().unwrap();
        assert_eq!(report.missing, [p("172.16.118.64/26")]);
        assert_eq!(report.changed, [p("172.16.118.128/26")]);
        assert_eq!(report.unwanted, [p("10.9.9.0/24")]);
        settle(&mut dataplane).await;
        assert_eq!(ours(&mut dataplane), [p("172.16.118.64/26"), p("172.16.118.128/26")]);
        assert!(shown("172.16.118.128/26").contains("via 192.168.80.125"));
    });
}

#[test]
fn what_another_thread_read_is_judged_as_an_audit_would_and_what_changed_meanwhile_is_noted() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        let (kept, moved, stray) = (p("172.16.118.64/26"), p("172.16.118.128/26"), p("10.9.9.0/24"));
        dataplane.set_path(kept, gateways(&["192.168.80.125"]));
        dataplane.set_path(moved, gateways(&["192.168.80.125"]));
        settle(&mut dataplane).await;
        dataplane.finish_startup();
        let read = |dataplane: &mut Dataplane, of| {
            let all = dataplane.read_back().unwrap().into_iter();
            all.filter(|route| route.prefix == of).collect::<Vec<_>>()
        };
        dataplane.note_changes(true);
        let found = read(&mut dataplane, kept);
        assert_eq!(dataplane.compare(kept, &found), None);
        assert_eq!(dataplane.compare(kept, &[]), Some(Difference::Missing));
        let mut elsewhere = found.clone();
        elsewhere[0].legs[0].gateway = Some([192, 168, 80, 121].into());
        assert_eq!(dataplane.compare(kept, &elsewhere), Some(Difference::Changed));
        let mut other = found[0].clone();
        other.prefix = stray;
        assert_eq!(dataplane.compare(stray, &[other.clone()]), Some(Difference::Unwanted));
        other = FibRoute { prefix: kept, metric: 7, ..other };
        assert_eq!(dataplane.compare(kept, &[found[0].clone(), other]), Some(Difference::Unwanted));
        assert!(!dataplane.has_noted(kept) && !dataplane.has_noted(moved));

        dataplane.set_path(moved, gateways(&["192.168.80.121"]));
        assert!(dataplane.has_noted(moved), "before it is written");
        settle(&mut dataplane).await;
        assert!(dataplane.has_noted(moved) && !dataplane.has_noted(kept));

        // What is true is believed: the route is written again, although no event told of its loss.
        ip("route del 172.16.118.64/26");
        dataplane.take_over(kept, &[]);
        settle(&mut dataplane).await;
        assert_eq!(shown("172.16.118.64/26"), "172.16.118.64/26 via 192.168.80.125 dev ens33 proto 77");
        dataplane.note_changes(false);
        assert!(!dataplane.has_noted(kept));
    });
}

#[test]
fn ipv6_routes_change_between_one_next_hop_several_and_a_blackhole() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        let prefix = p("fd10:0:0:1::/64");
        for hops in
            [&["fd80::125"][..], &["fd80::125", "fd80::126"], &["fd80::121", "fd80::126"], &["fd80::121"]]
        {
            dataplane.set_path(prefix, gateways(hops));
            settle(&mut dataplane).await;
            let text = shown("fd10:0:0:1::/64");
            assert_eq!(text.matches("via").count(), hops.len(), "{hops:?}: {text}");
            for hop in hops {
                assert!(text.contains(&format!("via {hop}")), "{hops:?}: {text}");
            }
            assert!(dataplane.audit().unwrap().is_clean(), "{hops:?}: {text}");
        }
        dataplane.set_path(prefix, gateways(&["fd80::125", "fd80::126"]));
        settle(&mut dataplane).await;
        dataplane.configure(owning(&["fd10:0:0:1::/64"]));
        settle(&mut dataplane).await;
        let text = shown("fd10:0:0:1::/64");
        assert!(text.starts_with("blackhole") && !text.contains("via"), "{text}");
        assert!(dataplane.audit().unwrap().is_clean());
        dataplane.configure(owning(&[]));
        settle(&mut dataplane).await;
        assert_eq!(shown("fd10:0:0:1::/64").matches("via").count(), 2);
        dataplane.set_path(prefix, Vec::new());
        settle(&mut dataplane).await;
        assert_eq!(shown("fd10:0:0:1::/64"), "");
    });
}

#[test]
fn ipv4_multipath_is_replaced_as_a_whole() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        let prefix = p("172.16.118.64/26");
        for hops in [
            &["192.168.80.125", "192.168.80.126"][..],
            &["192.168.80.121", "192.168.80.126"],
            &["192.168.80.121"],
        ] {
            dataplane.set_path(prefix, gateways(hops));
            settle(&mut dataplane).await;
            let text = shown("172.16.118.64/26");
            assert_eq!(text.matches("via").count(), hops.len(), "{text}");
            assert!(dataplane.audit().unwrap().is_clean(), "{text}");
        }
    });
}

#[test]
fn an_ipv4_route_goes_by_an_ipv6_gateway() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["fd80::125"]));
        settle(&mut dataplane).await;
        assert!(shown("172.16.118.64/26").contains("via inet6 fd80::125 dev ens33"));
        assert!(dataplane.audit().unwrap().is_clean());
    });
}

#[test]
fn an_ipv6_route_with_an_ipv4_gateway_is_withheld_and_harms_no_other() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        dataplane.set_path(p("fd10::/64"), gateways(&["192.168.80.125"]));
        dataplane.set_path(p("fd11::/64"), gateways(&["fd80::125"]));
        settle(&mut dataplane).await;
        assert_eq!(ours(&mut dataplane), [p("fd11::/64")]);
    });
}

#[test]
fn a_gateway_that_only_an_onlink_route_makes_a_neighbour_is_written_as_onlink() {
    isolated(|| async {
        uplink();
        ip("route add 10.7.0.0/16 via 10.7.7.7 dev ens33 onlink");
        let mut dataplane = open();
        dataplane.set_path(p("172.16.118.64/26"), gateways(&["10.7.0.1"]));
        settle(&mut dataplane).await;
        assert!(shown("172.16.118.64/26").contains("via 10.7.7.7 dev ens33 proto 77 onlink"));
        assert!(dataplane.audit().unwrap().is_clean());
    });
}

#[test]
fn a_pool_with_encapsulation_is_written_only_where_its_mode_allows_and_is_named() {
    isolated(|| async {
        uplink();
        let mut dataplane = open();
        let pool = |name: &str, prefix: &str, write| Pool {
            name: name.to_owned(),
            prefix: p(prefix),
            write,
            fast_path: true,
        };
        dataplane.configure(Plan {
            pools: vec![
                pool("ipip", "10.1.0.0/16", PoolWrite::Never),
                pool("cross", "10.2.0.0/16", PoolWrite::OnLinkOnly),
                pool("plain", "10.3.0.0/16", PoolWrite::Always),
            ],
            ..Plan::default()
        });
        for pool in 1..=3 {
            dataplane.set_path(p(&format!("10.{pool}.1.0/26")), gateways(&["192.168.80.125"]));
            // By the default route: beyond a router.
            dataplane.set_path(p(&format!("10.{pool}.2.0/26")), gateways(&["203.0.113.1"]));
        }
        let step = settle(&mut dataplane).await;
        assert_eq!(ours(&mut dataplane), [p("10.2.1.0/26"), p("10.3.1.0/26"), p("10.3.2.0/26")]);
        let pools: Vec<&Report> = step
            .reports
            .iter()
            .filter(|r| matches!(r, Report::PoolNotWritten { .. } | Report::PoolNotOnLink { .. }))
            .collect();
        assert_eq!(pools.len(), 2, "each pool is named once: {pools:?}");
    });
}

#[test]
fn cleanup_removes_ours_from_all_tables_and_leaves_foreign_ones() {
    isolated(|| async {
        uplink();
        ip("route add 10.5.0.0/16 via 192.168.80.125 proto static");
        ip("route add 10.6.0.0/16 via 192.168.80.125 proto 77");
        ip("route add 10.7.0.0/16 via 192.168.80.125 proto 77 metric 9 table 100");
        ip("route add blackhole 10.8.0.0/16 proto 77");
        ip("-6 route add fd10::/64 via fd80::125 proto 77");
        ip("-6 route add blackhole fd11::/64 proto 77 table 100");
        ip("-6 route add fd12::/64 via fd80::125 proto static");
        let before = ip("route show table all").lines().count();
        assert_eq!(manx_dataplane::cleanup(MANX).unwrap(), 5);
        assert!(manx_dataplane::read_back(MANX).unwrap().is_empty());
        assert!(!ip("route show table all").contains("proto 77"));
        assert_eq!(ip("route show table all").lines().count(), before - 5);
        assert!(shown("10.5.0.0/16").contains("proto static") && shown("fd12::/64").contains("proto static"));
        assert_eq!(manx_dataplane::cleanup(MANX).unwrap(), 0);
    });
}

#[test]
fn one_refused_route_does_not_stop_the_others_and_is_tried_again() {
    isolated(|| async {
        uplink();
        ip("route add 172.16.0.0/26 via 192.168.80.121 proto static");
        let mut dataplane = open();
        for block in 0..200u32 {
            let prefix = format!("172.16.{}.{}/26", block / 4, block % 4 * 64);
            dataplane.set_path(p(&prefix), gateways(&["192.168.80.125"]));
        }
        settle(&mut dataplane).await;
        assert_eq!(ours(&mut dataplane).len(), 199);
        let retry = dataplane.next_wakeup().expect("a retry is due");
        assert!(retry > std::time::Instant::now());
        assert!(retry < std::time::Instant::now() + Duration::from_secs(2));
    });
}

/// Both families, several next hops, a metric, another table, and what only the kernel's own routes have.
#[test]
fn routes_of_another_protocol_change_hands_as_they_are_and_come_back() {
    isolated(|| async {
        uplink();
        let lines = [
            "172.16.1.0/26 via 192.168.80.126 proto 12",
            "172.16.2.0/26 proto 12 metric 1024 nexthop via 192.168.80.126 nexthop via 192.168.80.125",
            "blackhole 172.16.3.0/26 proto 12",
            "172.16.4.0/26 via 192.168.80.126 proto 12 table 100",
            "172.16.5.0/26 via 192.168.80.126 proto 12 mtu 1300",
            "192.0.2.0/24 via 192.168.80.126 proto 12",
            "172.16.6.0/26 via 192.168.80.126 proto static",
            "fd00:1::/64 via fd80::126 proto 12",
            "fd00:2::/64 proto 12 nexthop via fd80::126 nexthop via fd80::125",
            "blackhole fd00:3::/64 proto 12",
        ];
        lines.iter().for_each(|line| {
            drop(ip(&format!("{} route add {line}", if line.contains("fd00") { "-6" } else { "-4" })))
        });
        let shown = || {
            let mut routes: Vec<_> = [12, MANX]
                .iter()
                .flat_map(|protocol| manx_dataplane::read_back(*protocol).unwrap())
                .collect();
            routes.sort_by_key(|route| (route.prefix, route.table));
            routes
        };
        let before = shown();
        let ours = |table: u32, prefix| {
            let pools = [p("172.16.0.0/16"), p("fd00::/16")];
            table == 254 && pools.iter().any(|pool| pool.covers(prefix))
        };
        let done = manx_dataplane::relabel(12, MANX, ours).unwrap();
        assert_eq!(done.taken, 6);
        let refused: Vec<String> = done.refused.iter().map(|(prefix, _)| prefix.to_string()).collect();
        assert_eq!(refused, ["172.16.5.0/26"]);
        let left: Vec<String> = done.left.iter().map(ToString::to_string).collect();
        assert_eq!(left, ["172.16.4.0/26", "192.0.2.0/24"]);
        let taken: Vec<String> =
            manx_dataplane::read_back(MANX).unwrap().iter().map(|route| route.prefix.to_string()).collect();
        assert_eq!(taken.len(), 6, "{taken:?}");
        assert_eq!(shown(), before, "they lead where they led");
        assert_eq!(manx_dataplane::relabel(MANX, 12, |_, _| true).unwrap().taken, 6);
        assert!(manx_dataplane::read_back(MANX).unwrap().is_empty());
        assert_eq!(shown(), before);
        assert!(manx_dataplane::relabel(2, MANX, |_, _| true).is_err());
    });
}
