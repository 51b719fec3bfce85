//! Rules that refuse packets, and which of them a guard by conntrack makes up for: those that no packet of a flow that
//! has begun comes to.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use manx_dataplane::netfilter::{Finding, Rules, survey};

use crate::{
    namespace::Namespace,
    netfilter::{forward, found_with, meets, words},
};

/// `iptables-nft-restore` in a namespace of its own, with lines of the table filter.
fn iptables(lines: &str) -> Rules {
    iptables_of("filter", lines)
}

fn iptables_of(table: &str, lines: &str) -> Rules {
    let text = format!("*{table}\n{lines}\nCOMMIT\n");
    Namespace::new().run(move || {
        let mut child = Command::new("iptables-nft-restore").stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{text}");
        survey().rules
    })
}

/// Findings of every packet, of packets of flows that have begun, of all of a direction, and of first packets.
fn counts(rules: &Rules) -> [usize; 4] {
    [rules.every_packet.len(), rules.running.len(), rules.closed.len(), rules.filters.len()]
}

#[test]
fn what_may_refuse_packets_of_a_running_flow_is_told_from_what_none_of_them_comes_to() {
    for (rules, expected) in [
        // An answer has been seen before it is refused; of TCP too, where conntrack forgot the connection.
        ("udp sport 7000 drop", [0, 1, 0, 0]),
        ("meta l4proto { tcp, udp } th sport 7000 drop", [0, 1, 0, 0]),
        ("ip saddr 172.16.0.0/16 drop", [0, 0, 1, 0]),
        ("tcp sport 7000 drop", [0, 1, 0, 0]),
        ("tcp dport 1000-2000 reject", [0, 1, 0, 0]),
        ("ct state established tcp dport 80 drop", [0, 1, 0, 0]),
        ("ct direction reply tcp sport 80 drop", [0, 1, 0, 0]),
        ("ct mark 7 drop", [0, 1, 0, 0]),
        ("ct state new accept\ntcp dport 80 drop", [0, 1, 0, 0]),
        ("tcp flags syn accept\ntcp dport 80 drop", [0, 1, 0, 0]),
        // No packet of a running flow comes there.
        ("ct state established,related accept\nudp sport 7000 drop", [0, 0, 0, 1]),
        ("ct state invalid drop\nct state established accept\ndrop", [0, 0, 0, 1]),
        ("ct state new udp dport 53 drop", [0, 0, 0, 1]),
        ("meta l4proto sctp drop", [0, 0, 0, 1]),
    ] {
        let found = forward(rules).rules;
        assert_eq!(counts(&found), expected, "{rules}: {found:?}");
    }
}

/// What may be taken for an interface by which no flow comes: whoever was let in before belongs to one.
#[test]
fn an_interface_is_shut_only_where_nothing_that_comes_by_it_was_let_in_before() {
    for (rules, closed, shut) in [
        ("iifname cali7 drop", 1, 1),
        ("iifname cali8 accept\niifname cali7 drop", 1, 1),
        ("ip saddr 10.1.0.0/16 accept\niifname cali7 drop", 1, 0),
        ("iifname cali7 tcp dport 80 accept\niifname cali7 drop", 1, 0),
        ("iifname cali7 ip saddr 10.1.0.0/16 return\niifname cali7 drop", 1, 0),
        // Refused before is not let in.
        ("ip saddr 10.1.0.0/16 drop\niifname cali7 drop", 2, 2),
    ] {
        let found = forward(rules).rules;
        assert_eq!((found.closed.len(), found.shut.len()), (closed, shut), "{rules}: {found:?}");
    }
}

#[test]
fn what_is_refused_before_conntrack_sees_it_is_refused_to_running_flows_too() {
    let at = |priority: &str| {
        let text = format!(
            "table inet t {{\n chain c {{\n type filter hook prerouting priority {priority};\n udp sport 7000 drop\n}}\n}}\n"
        );
        Namespace::new().run(move || {
            crate::netfilter::nft(&text);
            counts(&survey().rules)
        })
    };
    assert_eq!(at("raw"), [0, 1, 0, 0]);
    assert_eq!(at("mangle"), [0, 1, 0, 0]);
}

#[test]
fn who_returned_before_the_established_are_accepted_meets_what_comes_after_the_call() {
    let chains = |ops: &str, call: &str| {
        let text = format!(
            "table inet t {{
                chain ops {{\n {ops}\n}}
                chain forward {{\n type filter hook forward priority 0;\n {call}\n limit rate over 10 mbytes/second drop\n}}
             }}\n"
        );
        Namespace::new().run(move || {
            crate::netfilter::nft(&text);
            let rules = survey().rules;
            (words(&rules.every_packet), words(&rules.first_packets))
        })
    };
    let limit = || vec!["limit".to_owned()];
    let accepted = "ct state established accept";
    for ops in [
        format!("ip saddr 172.16.36.0/26 return\n{accepted}"),
        format!("ip saddr vmap {{ 172.16.36.0/26 : return }}\n{accepted}"),
        format!("tcp dport 80 return\n{accepted}"),
        format!("return\n{accepted}"),
    ] {
        assert_eq!(chains(&ops, "jump ops"), (limit(), vec![]), "{ops}");
    }
    // Not packets of running flows, or those that have been accepted.
    for ops in [
        format!("ct state new return\n{accepted}"),
        format!("{accepted}\nreturn"),
        format!("ip protocol icmp return\n{accepted}"),
    ] {
        assert_eq!(chains(&ops, "jump ops"), (vec![], limit()), "{ops}");
    }
    // Who is sent on without a way back does not come to the limit, but to the policy.
    assert_eq!(chains(accepted, "goto ops"), (vec![], limit()));
}

#[test]
fn what_a_chain_without_a_way_back_accepts_is_accepted_and_the_rest_returns_one_chain_further() {
    let found = found_with(
        "table inet t {
            chain some {\n ct state established tcp dport 80 accept\n}
            chain ops {\n ip saddr 172.16.36.0/26 goto some\n ct state established accept\n}
            chain forward {\n type filter hook forward priority 0;\n jump ops\n quota over 10 mbytes drop\n}
         }\n",
    );
    assert_eq!(words(&found.rules.every_packet), ["quota"]);
}

#[test]
fn a_return_of_iptables_is_one() {
    let limit = "-A FORWARD -m hashlimit --hashlimit-above 10mb/s --hashlimit-name x -j DROP";
    let with = |ops: &str| iptables(&format!(":ops -\n{ops}\n-A FORWARD -j ops\n{limit}"));
    let accepted = "-A ops -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
    let returned = with(&format!("-A ops -s 172.16.36.0/26 -j RETURN\n{accepted}"));
    assert_eq!((returned.every_packet.len(), returned.first_packets.len()), (1, 0), "{returned:?}");
    let accepted = with(accepted);
    assert_eq!((accepted.every_packet.len(), accepted.first_packets.len()), (0, 1), "{accepted:?}");
}

#[test]
fn the_policy_meets_what_the_chain_returned() {
    let chain = |rules: &str| {
        iptables(&format!(":FORWARD DROP\n{rules}\n-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT"))
    };
    assert_eq!(counts(&chain("")), [0, 0, 0, 1]);
    assert_eq!(counts(&chain("-A FORWARD -s 172.16.36.0/26 -j RETURN")), [0, 1, 0, 0]);
}

/// As Felix does it: who comes by an interface that it knows goes to that interface's chain, and the rest is refused.
#[test]
fn what_has_been_sent_elsewhere_is_not_refused_at_the_end_of_the_list() {
    let known = |interfaces: &[&str], name: &str| -> Vec<Finding> {
        let lines: String = interfaces
            .iter()
            .map(|interface| {
                format!(
                    ":fw-{interface} -\n-A fw-{interface} -m conntrack --ctstate ESTABLISHED -j ACCEPT\n\
                     -A from -i {interface} -g fw-{interface}\n"
                )
            })
            .collect();
        let rules = iptables(&format!(":from -\n{lines}-A from -j DROP\n-A FORWARD -i cali+ -j from"));
        let fits = |finding: &Finding| finding.reach.comes_by(7, name);
        [rules.every_packet, rules.running, rules.closed].concat().into_iter().filter(fits).collect()
    };
    assert_eq!(known(&["cali1", "cali2"], "cali1"), []);
    let unknown = known(&["cali1", "cali2"], "cali3");
    assert_eq!(
        unknown.iter().map(Finding::key).collect::<Vec<_>>(),
        ["table ip filter, chain from: drop (IPv4 by cali* not by cali1, cali2)"]
    );
}

#[test]
fn a_map_from_interfaces_to_chains_leaves_the_others() {
    for (by, fits) in [("iifname", true), ("oifname", false)] {
        let text = format!(
            "table inet t {{
                chain known {{\n ct state established accept\n}}
                chain dispatch {{\n {by} vmap {{ \"cali1\" : goto known, \"cali2\" : goto known }}\n drop\n}}
                chain forward {{\n type filter hook forward priority 0;\n {by} \"cali*\" jump dispatch\n}}
             }}\n"
        );
        let found = Namespace::new().run(move || {
            crate::netfilter::nft(&text);
            survey().rules
        });
        let [drop] = found.closed.as_slice() else { panic!("{found:?}") };
        let reach = &drop.reach;
        let (one, other) = ((7, "cali1"), (8, "cali3"));
        if fits {
            assert!(!reach.comes_by(one.0, one.1) && reach.comes_by(other.0, other.1), "{reach}");
        } else {
            assert!(!reach.leaves_by(one.0, one.1) && reach.leaves_by(other.0, other.1), "{reach}");
            assert!(!reach.leaves_by(2, "eth0") && reach.comes_by(2, "eth0"), "{reach}");
        }
    }
}

#[test]
fn who_has_been_accepted_by_an_address_alone_does_not_meet_the_policy() {
    let rules = iptables(
        ":FORWARD DROP\n-A FORWARD -s 172.16.0.0/16 -j ACCEPT\n-A FORWARD -d 172.16.0.0/16 -j ACCEPT\n\
         -A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
    );
    let [policy] = rules.closed.as_slice() else { panic!("{rules:?}") };
    assert!(!meets(policy, "172.16.0.0/16", "10.0.0.0/8") && !meets(policy, "10.0.0.0/8", "172.16.0.0/16"));
    assert!(meets(policy, "10.0.0.0/8", "10.0.0.0/8"));
}

#[test]
fn what_does_not_come_the_way_back_is_a_finding_of_its_own() {
    for rule in ["fib saddr . iif oif missing drop", "fib saddr . mark . iif oif 0 reject"] {
        let found = forward(&format!("meta nfproto ipv6 {rule}")).rules;
        assert_eq!((counts(&found), found.ways_back.len()), ([0; 4], 1), "{rule}: {found:?}");
        assert!(meets(&found.ways_back[0], "fd00::/16", "fd00::/16"));
        assert!(!meets(&found.ways_back[0], "10.0.0.0/8", "10.0.0.0/8"));
    }
    // That there is a way at all the programs know.
    let loose = forward("fib saddr oif missing drop").rules;
    assert_eq!((counts(&loose), loose.ways_back.len()), ([0; 4], 0), "{loose:?}");
    let strict = iptables_of("raw", "-A PREROUTING -m rpfilter --validmark --invert -j DROP");
    assert_eq!((counts(&strict), strict.ways_back.len()), ([0; 4], 1), "{strict:?}");
    let loose = iptables_of("raw", "-A PREROUTING -m rpfilter --loose --invert -j DROP");
    assert_eq!((counts(&loose), loose.ways_back.len()), ([0; 4], 0), "{loose:?}");
}

#[test]
fn a_thousand_addresses_that_are_refused_concern_nobody_else() {
    let rules: String = (0..1000)
        .map(|n| {
            let (high, low) = (n / 250, n % 250 + 1);
            format!(
                "ip saddr 10.200.{high}.{low} tcp dport 443 drop\nip6 daddr fd00:200::{high}:{low} drop\n"
            )
        })
        .collect();
    let found = forward(&rules).rules;
    let refused = [found.running, found.closed].concat();
    let meets_any = |source: &str, destination: &str| refused.iter().any(|of| meets(of, source, destination));
    assert!(meets_any("10.200.3.0/24", "172.16.0.0/16") && meets_any("fd00::/16", "fd00:200::/64"));
    assert!(!meets_any("172.16.0.0/12", "10.200.0.0/16") && !meets_any("fd00:172::/32", "fd00:172::/32"));
    assert!(refused.len() < 600, "{}", refused.len());
}
