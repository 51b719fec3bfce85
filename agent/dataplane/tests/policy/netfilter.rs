//! Rules of nftables, and what is found in them.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use manx_dataplane::{
    netfilter::{Finding, Survey, Tracking, Watch, make_liberal, survey},
    reach::Family,
};
use manx_net::Prefix;

use crate::namespace::Namespace;

/// `nft -f -` in the namespace of this thread.
pub fn nft(rules: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{rules}");
}

pub fn found_with(rules: &'static str) -> Survey {
    Namespace::new().run(move || {
        nft(rules);
        survey()
    })
}

/// What `forward` has, of a table `inet t`.
pub fn forward(rules: &str) -> Survey {
    let text = format!(
        "table inet t {{\n chain forward {{\n type filter hook forward priority 0;\n{rules}\n}}\n}}\n"
    );
    Namespace::new().run(move || {
        nft(&text);
        survey()
    })
}

pub fn words(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|finding| finding.what.clone()).collect()
}

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub fn meets(finding: &Finding, source: &str, destination: &str) -> bool {
    finding.reach.meets(p(source), p(destination))
}

#[test]
fn a_bare_namespace_tracks_nothing_and_has_no_rules() {
    let found = Namespace::new().run(survey);
    assert_eq!((found.ipv4, found.ipv6), (Tracking::No, Tracking::No));
    assert_eq!(found.rules, Default::default());
    let conntrack = found.conntrack.expect("this kernel has conntrack");
    assert!(!conntrack.has_entries && conntrack.tcp_established >= 600 && conntrack.udp > 0, "{conntrack:?}");
}

#[test]
fn conntrack_is_made_liberal_in_this_namespace_and_no_other() {
    let liberal = || survey().conntrack.expect("this kernel has conntrack").liberal;
    let other = Namespace::new();
    let before = other.run(liberal);
    assert!(Namespace::new().run(move || {
        make_liberal().unwrap();
        liberal()
    }));
    assert_eq!((before, other.run(liberal)), (false, false));
}

#[test]
fn a_rule_that_tracks_is_named_for_the_families_that_it_is_for() {
    let found = found_with(
        "table ip nat {\n chain postrouting {\n type nat hook postrouting priority 100;
            ip saddr 172.16.0.0/16 ip daddr != 172.16.0.0/16 masquerade\n}\n}\n",
    );
    assert_eq!(found.ipv4, Tracking::Yes("table ip nat, chain postrouting, handle 2: masq".into()));
    assert_eq!(found.ipv6, Tracking::No);
    let both = forward("ct state invalid drop");
    let rule = Tracking::Yes("table inet t, chain forward, handle 2: ct".into());
    assert_eq!((both.ipv4, both.ipv6), (rule.clone(), rule));
}

#[test]
fn connections_that_outlive_their_rules_are_seen() {
    let found = Namespace::new().run(|| {
        nft("table inet t {\n chain c {\n type filter hook output priority 0; ct state new accept\n}\n}\n");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        nft("flush ruleset");
        survey()
    });
    assert!(matches!(found.tracking(Family::Ipv4), Tracking::Entries), "{found:?}");
}

#[test]
fn rules_that_accept_and_count_miss_nothing() {
    let found = forward(
        "ip saddr 172.16.0.0/16 counter accept\ntcp dport 80 counter log\nlimit rate 3/minute log prefix \"x\"",
    );
    assert_eq!(found.rules, Default::default());
    assert_eq!(found.tracking(Family::Ipv4), &Tracking::No);
}

#[test]
fn a_limit_has_to_see_every_packet_of_those_that_it_is_for() {
    let found = forward("ip saddr 172.16.36.0/24 ip daddr 10.0.0.0/8 limit rate 10/second accept");
    let [limit] = found.rules.every_packet.as_slice() else { panic!("{:?}", found.rules) };
    assert_eq!(
        limit.to_string(),
        "table inet t, chain forward, handle 2: limit (IPv4 from 172.16.36.0/24 to 10.0.0.0/8)"
    );
    assert!(meets(limit, "172.16.0.0/16", "10.1.0.0/16"));
    assert!(!meets(limit, "172.17.0.0/16", "10.1.0.0/16"));
    assert!(!meets(limit, "172.16.0.0/16", "172.16.0.0/16"));
    assert!(!meets(limit, "fd00::/48", "fd00::/48"));
}

#[test]
fn a_match_after_the_limit_narrows_nothing() {
    let found = forward("limit rate 10/second ip saddr 172.16.36.0/24 accept");
    assert!(meets(&found.rules.every_packet[0], "172.17.0.0/16", "172.17.0.0/16"));
}

#[test]
fn what_looks_at_each_packet_of_a_flow_is_found() {
    for (rule, what) in [
        ("quota over 10 mbytes drop", "quota"),
        ("meta length > 1000 drop", "a verdict by length"),
        ("ip ttl 1 drop", "a verdict by a header field"),
        ("numgen random mod 10 0 drop", "numgen"),
        ("ip dscp set cs1", "a write to the packet"),
        ("meta priority set 1:2", "meta priority set"),
        ("ip saddr 10.0.0.0/8 meter m { ip saddr limit rate 10/second } accept", "the set m filled"),
        ("ct bytes > 1000 drop", "a verdict by bytes or packets of a connection"),
    ] {
        let found = forward(rule);
        assert_eq!(words(&found.rules.every_packet), [what], "{rule}");
        assert!(found.rules.first_packets.is_empty(), "{rule}");
    }
}

#[test]
fn limits_on_what_the_guard_leaves_to_the_stack_do_not_stand_in_its_way() {
    for rule in [
        "ct state new limit rate 10/second accept",
        "ct state invalid,new limit rate 10/second accept",
        "tcp flags syn limit rate 10/second accept",
        "tcp flags & (fin | syn | rst | ack) == syn limit rate 10/second accept",
        "meta l4proto icmp limit rate 10/second accept",
        "icmpv6 type echo-request limit rate 10/second accept",
        "ct state established,related accept\nlimit rate 10/second accept",
        "ct state { established, related } accept\nlimit rate 10/second accept",
        "ct state != { established, related } limit rate 10/second accept",
        "ct state vmap { established : accept, related : accept, invalid : drop }\nlimit rate 10/second accept",
    ] {
        let found = forward(rule);
        assert_eq!(words(&found.rules.every_packet), [""; 0], "{rule}");
        assert_eq!(words(&found.rules.first_packets), ["limit"], "{rule}");
    }
    // Only some of the established ones go no further.
    for rule in [
        "ct state established tcp dport 80 accept\nlimit rate 10/second accept",
        "iifname eth0 ct state established accept\nlimit rate 10/second accept",
        "ct state new accept\nlimit rate 10/second accept",
        "ct state { new, related } accept\nlimit rate 10/second accept",
        "ct state established limit rate 10/second accept",
    ] {
        assert_eq!(words(&forward(rule).rules.every_packet), ["limit"], "{rule}");
    }
}

#[test]
fn what_is_dropped_is_found_and_whom_it_concerns() {
    let found = forward(
        "ip saddr { 10.0.0.0/8, 192.168.0.0-192.168.1.255 } drop
         ip6 daddr fd00:1::/32 reject
         iifname \"docker*\" drop",
    );
    let texts: Vec<String> = found.rules.closed.iter().map(ToString::to_string).collect();
    assert_eq!(found.rules.closed.len(), 3, "{texts:?}");
    let meets_any = |source: &str, destination: &str| {
        found
            .rules
            .closed
            .iter()
            .any(|finding| meets(finding, source, destination) && finding.reach.comes_by(7, "cali0"))
    };
    assert!(meets_any("10.1.0.0/16", "10.2.0.0/16"));
    assert!(meets_any("192.168.1.0/24", "172.16.0.0/16"));
    assert!(!meets_any("192.168.2.0/24", "172.16.0.0/16"));
    assert!(meets_any("fd00::/16", "fd00:1::/48") && !meets_any("fd00::/16", "fd00:2::/48"));
}

#[test]
fn a_policy_that_drops_is_found() {
    let found = found_with(
        "table ip f {\n chain FORWARD {\n type filter hook forward priority 0; policy drop;\n}\n}\n",
    );
    let [policy] = found.rules.closed.as_slice() else { panic!("{:?}", found.rules) };
    assert_eq!(policy.to_string(), "table ip f, chain FORWARD: policy drop (IPv4)");
}

#[test]
fn rules_for_the_host_itself_and_those_that_sleep_do_not_count() {
    let found = found_with(
        "table inet t {
            chain input {\n type filter hook input priority 0; policy drop;\n limit rate 10/second accept\n}
            chain output {\n type filter hook output priority 0;\n quota over 10 mbytes drop\n}
            chain unused {\n limit rate 10/second drop\n}
         }
         table inet asleep {
            flags dormant
            chain forward {\n type filter hook forward priority 0; policy drop;\n limit rate 10/second\n}
         }\n",
    );
    assert_eq!(found.rules, Default::default());
}

#[test]
fn jumps_are_followed_with_what_led_to_them() {
    let found = found_with(
        "table ip t {
            chain limits {\n limit rate 10/second accept\n}
            chain more {\n goto limits\n}
            chain forward {\n type filter hook forward priority 0;\n ip saddr 10.0.0.0/8 jump more
                ip daddr vmap { 10.9.0.1 : jump counts }\n}
            chain counts {\n quota over 1 mbytes drop\n}
         }\n",
    );
    let every = &found.rules.every_packet;
    assert_eq!(words(every).len(), 2, "{every:?}");
    assert!(
        every.iter().any(|finding| finding.what == "limit" && !meets(finding, "172.16.0.0/16", "10.0.0.0/8"))
    );
    assert!(every.iter().any(|finding| finding.what == "quota"));
}

#[test]
fn the_rules_of_kube_proxy_ask_for_tracking_and_for_nothing_more() {
    let found = found_with(KUBE_PROXY);
    assert!(matches!(found.tracking(Family::Ipv4), Tracking::Yes(_)));
    assert_eq!(found.tracking(Family::Ipv6), &Tracking::No);
    assert!(found.rules.every_packet.is_empty(), "{:?}", found.rules.every_packet);
    assert!(
        found.rules.marks.is_empty(),
        "the mark for masquerade is set in nat chains: {:?}",
        found.rules.marks
    );
}

/// The shape of what kube-proxy writes: two endpoints behind one service, masquerade by a mark, a firewall that drops
/// what is invalid.
pub const KUBE_PROXY: &str = "table ip nat {
    chain KUBE-MARK-MASQ {\n meta mark set meta mark or 0x4000\n}
    chain KUBE-SEP-1 {\n ip saddr 172.16.36.193 jump KUBE-MARK-MASQ\n meta l4proto tcp dnat to 172.16.36.193:80\n}
    chain KUBE-SEP-2 {\n ip saddr 172.16.36.65 jump KUBE-MARK-MASQ\n meta l4proto tcp dnat to 172.16.36.65:80\n}
    chain KUBE-SVC {
        ip saddr != 172.16.0.0/16 jump KUBE-MARK-MASQ
        numgen random mod 2 0 jump KUBE-SEP-1
        jump KUBE-SEP-2
    }
    chain KUBE-SERVICES {\n ip daddr 10.96.0.10 tcp dport 80 jump KUBE-SVC\n}
    chain PREROUTING {\n type nat hook prerouting priority -100;\n jump KUBE-SERVICES\n}
    chain OUTPUT {\n type nat hook output priority -100;\n jump KUBE-SERVICES\n}
    chain POSTROUTING {\n type nat hook postrouting priority 100;
        meta mark and 0x4000 == 0 return
        meta mark set meta mark xor 0x4000
        masquerade\n}
}
table ip filter {
    chain KUBE-FORWARD {
        ct state invalid drop
        meta mark and 0x4000 == 0x4000 accept
        ct state related,established accept
    }
    chain FORWARD {\n type filter hook forward priority 0;\n jump KUBE-FORWARD\n}
}\n";

#[test]
fn marks_that_are_set_before_the_route_is_chosen_are_found() {
    let found = found_with(
        "table inet m {
            chain prerouting {\n type filter hook prerouting priority -150;\n ip saddr 172.16.0.0/16 meta mark set 1\n}
            chain forward {\n type filter hook forward priority -150;\n meta mark set 2\n}
         }\n",
    );
    let [mark] = found.rules.marks.as_slice() else { panic!("{:?}", found.rules) };
    assert_eq!(
        mark.to_string(),
        "table inet m, chain prerouting, handle 3: meta mark set (IPv4 from 172.16.0.0/16)"
    );
}

#[test]
fn many_rules_for_the_same_packets_are_one_finding() {
    let found = forward("ip saddr 10.0.0.0/8 tcp dport 1 drop\nip saddr 10.0.0.0/8 tcp dport 2 drop");
    let [drops] = found.rules.running.as_slice() else { panic!("{:?}", found.rules) };
    assert!(drops.to_string().ends_with(", and 1 more rule"), "{drops}");
}

#[test]
fn a_changed_rule_is_told_within_a_moment() {
    Namespace::new().run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watch = Watch::start().unwrap();
            assert_eq!(watch.survey().ipv4, Tracking::No);
            let begun = Instant::now();
            nft("table ip t {\n chain c {\n type filter hook forward priority 0;\n ct state new accept\n}\n}\n");
            tokio::time::timeout(Duration::from_secs(3), watch.changed()).await.expect("news of the rule");
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
            assert!(matches!(watch.survey().ipv4, Tracking::Yes(_)));
            nft("flush ruleset");
            tokio::time::timeout(Duration::from_secs(3), watch.changed()).await.expect("news of its end");
            assert_eq!(watch.survey().ipv4, Tracking::No);
        });
    });
}

/// Of a cluster with two thousand services: ten thousand rules in six thousand chains. The bound is wide: it catches
/// what is quadratic.
#[test]
fn the_rules_of_two_thousand_services_are_read_in_a_moment() {
    let mut rules = String::from("table ip nat {\n");
    for n in 0..2000 {
        let (high, low) = (n / 250, n % 250);
        for endpoint in 0..2 {
            rules.push_str(&format!(
                " chain SEP-{n}-{endpoint} {{\n ip saddr 172.16.{high}.{low} meta mark set meta mark or 0x4000\n\
                 meta l4proto tcp dnat to 172.16.{high}.{low}:80\n}}\n"
            ));
        }
        rules.push_str(&format!(
            " chain SVC-{n} {{\n numgen random mod 2 0 jump SEP-{n}-0\n jump SEP-{n}-1\n}}\n"
        ));
    }
    rules.push_str(" chain SERVICES {\n");
    for n in 0..2000 {
        rules.push_str(&format!(" ip daddr 10.96.{}.{} tcp dport 80 jump SVC-{n}\n", n / 250, n % 250));
    }
    rules.push_str("}\n chain pre {\n type nat hook prerouting priority -100;\n jump SERVICES\n}\n}\n");
    // And a filter that is followed: two thousand chains, each behind a jump of its own.
    rules.push_str("table ip filter {\n");
    for n in 0..2000 {
        rules.push_str(&format!(
            " chain POD-{n} {{\n ct state established accept\n tcp dport 80 accept\n drop\n}}\n"
        ));
    }
    rules.push_str(" chain FORWARD {\n type filter hook forward priority 0;\n");
    for n in 0..2000 {
        rules.push_str(&format!(" ip daddr 172.16.{}.{} jump POD-{n}\n", n / 250, n % 250));
    }
    rules.push_str("}\n}\n");
    Namespace::new().run(move || {
        nft(&rules);
        let begun = Instant::now();
        let found = survey();
        let took = begun.elapsed();
        println!("read and judged in {took:?}");
        assert!(matches!(found.ipv4, Tracking::Yes(_)));
        assert!(found.rules.every_packet.is_empty(), "{:?}", found.rules.every_packet);
        // Not one for each of two thousand addresses.
        assert!(found.rules.filters.len() < 300, "{}", found.rules.filters.len());
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
}

#[test]
fn zones_need_every_packet_and_timeouts_are_named() {
    let found = found_with(
        "table ip t {
            ct timeout short {\n protocol tcp; l3proto ip; policy = { established : 4 };\n}
            chain raw {
                type filter hook prerouting priority raw
                iifname \"eth0\" ct zone set 5
                ip saddr 172.16.0.0/16 ct original zone set 6
            }
            chain after {
                type filter hook prerouting priority -150
                ip protocol tcp ip saddr 172.17.0.0/16 ct timeout set \"short\"
                ct mark set 1
            }
         }\n",
    );
    assert_eq!(words(&found.rules.every_packet), ["ct zone set"; 2]);
    assert!(found.rules.every_packet.iter().any(|zone| !meets(zone, "172.17.0.0/16", "172.16.0.0/16")));
    let [timeout] = found.rules.timeouts.as_slice() else { panic!("{:?}", found.rules) };
    assert_eq!(timeout.what, "ct timeout set");
    assert!(
        meets(timeout, "172.17.0.0/16", "172.16.0.0/16") && !meets(timeout, "172.16.0.0/16", "172.16.0.0/16")
    );
    assert!(matches!(found.ipv4, Tracking::Yes(_)));
}

#[test]
fn an_ipset_says_nothing_of_the_packets_that_come_later() {
    let found = Namespace::new().run(|| {
        for command in [
            "ipset create allowed hash:ip timeout 5",
            "iptables-nft -A FORWARD -m set --match-set allowed src -j ACCEPT",
            "iptables-nft -A FORWARD -s 172.16.0.0/16 -j DROP",
            "iptables-nft -t raw -A PREROUTING -s 172.17.0.0/16 -j CT --zone 5",
        ] {
            assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
        }
        survey()
    });
    // Who is allowed now may be refused in the middle of his flow.
    assert_eq!((found.rules.running.len(), found.rules.closed.len()), (1, 0), "{:?}", found.rules);
    assert_eq!(words(&found.rules.every_packet), ["CT --zone"]);
}
