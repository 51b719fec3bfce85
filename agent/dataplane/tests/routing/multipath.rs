//! Several next hops in one route, of both families: packets go by all of them, a changed set loses none, and a lost
//! link takes its own only.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::lab::*;

/// A second uplink, `ens34`, with the next hops 192.168.81.125 and fd81::125.
fn second_uplink() {
    ip("link add ens34 type veth peer name wire1 netns wire");
    ip("addr add 192.168.81.124/24 dev ens34");
    ip("addr add fd81::124/64 dev ens34 nodad");
    ip("link set ens34 up");
    ip("-n wire link set wire1 up");
    ip("-n wire addr add 192.168.81.125/24 dev wire1");
    ip("-n wire addr add fd81::125/64 dev wire1 nodad");
}

/// A prefix, two next hops on the first uplink, and one on the second.
const FAMILIES: [(&str, [&str; 3]); 2] = [
    ("172.16.118.64/26", ["192.168.80.125", "192.168.80.126", "192.168.81.125"]),
    ("fd10::/64", ["fd80::125", "fd80::126", "fd81::125"]),
];

/// The next hops that the kernel has for a prefix and that it holds to be alive.
fn alive(prefix: &str) -> Vec<String> {
    let text = shown(prefix);
    let legs = text.split("nexthop").filter(|leg| leg.contains("via") && !leg.contains("dead"));
    let mut hops: Vec<String> = legs
        .filter_map(|leg| leg.split_whitespace().skip_while(|word| *word != "via").nth(1))
        .map(str::to_owned)
        .collect();
    hops.sort_unstable();
    hops
}

#[test]
fn flows_are_spread_over_all_next_hops() {
    isolated(|| async {
        uplink();
        second_uplink();
        // By ports too, as on a real node: `fib_multipath_hash_policy` 1.
        for family in ["ipv4", "ipv6"] {
            std::fs::write(format!("/proc/sys/net/{family}/fib_multipath_hash_policy"), "1").unwrap();
        }
        let mut dataplane = open();
        for (prefix, hops) in FAMILIES {
            dataplane.set_path(p(prefix), gateways(&hops));
            settle(&mut dataplane).await;
            assert_eq!(alive(prefix), hops);
            let host = prefix.split('/').next().unwrap().replace("118.64", "118.65").replace("::", "::1");
            for hop in hops {
                let taken = (1..100).any(|port| {
                    ip(&format!("route get {host} ipproto udp sport {port} dport 9")).contains(hop)
                });
                assert!(taken, "no flow by {hop}");
            }
        }
        assert!(dataplane.audit().unwrap().is_clean());
    });
}

/// Datagrams to both families' prefixes, as fast as they go.
struct Traffic {
    stop: Arc<AtomicBool>,
    sender: thread::JoinHandle<(u32, Vec<i32>)>,
}

impl Traffic {
    fn start() -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let sender = thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let sockets = [("0.0.0.0:0", "172.16.118."), ("[::]:0", "fd10::")]
                .map(|(any, network)| (UdpSocket::bind(any).unwrap(), network));
            let (mut sent, mut refused) = (0u32, Vec::new());
            while !asked.load(Ordering::Relaxed) {
                for (socket, network) in &sockets {
                    let host = 65 + sent % 60;
                    let to = if network.contains(':') {
                        format!("[{network}{host}]:9")
                    } else {
                        format!("{network}{host}:9")
                    };
                    refused.extend(socket.send_to(b"x", &to).err().and_then(|error| error.raw_os_error()));
                    sent += 1;
                }
            }
            (sent, refused)
        });
        Traffic { stop, sender }
    }

    fn never_without_a_route(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, refused) = self.sender.join().unwrap();
        // A neighbour that has yet to answer may have its queue full; that is not the route's doing.
        let no_route: Vec<i32> = refused
            .into_iter()
            .filter(|errno| matches!(*errno, libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES))
            .collect();
        assert!(sent > 10_000 && no_route.is_empty(), "{sent} sent, {no_route:?}");
    }
}

/// The kernel puts an IPv6 route's first next hop in the place of all old ones and appends the others; readers find
/// some way at every moment.
#[test]
fn no_packet_is_refused_while_the_next_hops_change() {
    isolated(|| async {
        uplink();
        second_uplink();
        let mut dataplane = open();
        for (prefix, hops) in FAMILIES {
            dataplane.set_path(p(prefix), gateways(&hops));
            settle(&mut dataplane).await;
        }
        let traffic = Traffic::start();
        for round in 0..200 {
            for (prefix, hops) in FAMILIES {
                let wanted = [&hops[..2], &hops[1..], &hops[..1], &hops[..]][round % 4];
                dataplane.set_path(p(prefix), gateways(wanted));
            }
            settle_for(&mut dataplane, std::time::Duration::from_millis(2)).await;
        }
        traffic.never_without_a_route();
        for (prefix, hops) in FAMILIES {
            assert_eq!(alive(prefix), hops);
        }
        assert!(dataplane.audit().unwrap().is_clean());
    });
}

/// Those of BIRD with `merge paths`, taken over and handed back, also where it gives them a metric of its own. No route is
/// there besides that would hide a gap.
#[test]
fn no_packet_is_refused_while_routes_of_several_next_hops_change_hands() {
    isolated(|| async {
        uplink();
        second_uplink();
        ip("route del default");
        for metric in ["", "metric 512"] {
            for (prefix, hops) in FAMILIES {
                let legs = hops.map(|hop| format!("nexthop via {hop}")).join(" ");
                let family = if prefix.contains(':') { "-6" } else { "-4" };
                ip(&format!("{family} route add {prefix} proto 12 {metric} {legs}"));
            }
            let traffic = Traffic::start();
            for round in 0..400 {
                let (from, to) = if round % 2 == 0 { (12, MANX) } else { (MANX, 12) };
                let done = manx_dataplane::relabel(from, to, |table, _| table == 254).unwrap();
                assert_eq!((done.taken, done.refused), (2, vec![]), "round {round}");
                thread::sleep(std::time::Duration::from_millis(1));
            }
            traffic.never_without_a_route();
            assert!(manx_dataplane::read_back(MANX).unwrap().is_empty());
            for (prefix, hops) in FAMILIES {
                assert_eq!(alive(prefix), hops);
                ip(&format!("route del {prefix} proto 12 {metric}"));
            }
        }
    });
}

#[test]
fn a_lost_link_takes_its_own_next_hop_and_brings_it_back() {
    isolated(|| async {
        uplink();
        second_uplink();
        // By which a next hop on a lost link would still be found.
        ip("route del default");
        let mut dataplane = open();
        for (prefix, hops) in FAMILIES {
            dataplane.set_path(p(prefix), gateways(&hops));
        }
        settle(&mut dataplane).await;
        ip("link set ens34 down");
        settle(&mut dataplane).await;
        for (prefix, hops) in FAMILIES {
            assert_eq!(alive(prefix), hops[..2]);
        }
        // The addresses of IPv6 go with the link.
        ip("link set ens34 up");
        ip("addr replace fd81::124/64 dev ens34 nodad");
        settle_until(&mut dataplane, |_| FAMILIES.iter().all(|(prefix, hops)| alive(prefix) == hops)).await;
        assert!(dataplane.audit().unwrap().is_clean());
        // And with its interface.
        ip("link del ens34");
        settle(&mut dataplane).await;
        for (prefix, hops) in FAMILIES {
            assert_eq!(alive(prefix), hops[..2]);
        }
        assert!(dataplane.audit().unwrap().is_clean());
    });
}
