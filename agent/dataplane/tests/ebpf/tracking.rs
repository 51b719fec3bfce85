//! Whether netfilter tracks connections is told rightly for rules as people have them.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use manx_dataplane::ebpf::netfilter::{Tracking, tracking};

use crate::namespace::Namespace;

/// `nft -f -` in the namespace of this thread.
fn nft(rules: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    // Its grammar wants every brace that closes on a line of its own.
    let rules = rules.replace('}', "\n}\n");
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{rules}");
}

fn found_with(rules: &'static str) -> Tracking {
    Namespace::new().run(move || {
        nft(rules);
        tracking()
    })
}

#[test]
fn a_bare_namespace_tracks_nothing() {
    assert_eq!(Namespace::new().run(tracking), Tracking::No);
}

#[test]
fn rules_that_only_look_at_packets_track_nothing() {
    let found = found_with(
        "table inet filter { chain forward { type filter hook forward priority 0; policy accept;
            ip saddr 172.16.0.0/16 counter accept
            tcp dport 80 limit rate 10/second accept } }",
    );
    assert_eq!(found, Tracking::No);
}

#[test]
fn a_rule_with_ct_state_tracks() {
    let found = found_with(
        "table inet filter { chain forward { type filter hook forward priority 0;
            ip saddr 10.0.0.0/8 accept
            ct state established,related accept } }",
    );
    assert_eq!(found, Tracking::Yes("nftables: \"ct\" in table filter, chain forward".into()));
}

#[test]
fn masquerade_tracks() {
    let found = found_with(
        "table ip nat { chain postrouting { type nat hook postrouting priority 100;
            ip saddr 172.16.0.0/16 ip daddr != 172.16.0.0/16 masquerade } }",
    );
    assert_eq!(found, Tracking::Yes("nftables: \"masq\" in table nat, chain postrouting".into()));
}

#[test]
fn a_service_address_tracks() {
    let found = found_with(
        "table ip nat { chain prerouting { type nat hook prerouting priority -100;
            ip daddr 10.96.0.10 dnat to 172.16.36.193 } }",
    );
    assert_eq!(found, Tracking::Yes("nftables: \"nat\" in table nat, chain prerouting".into()));
}

#[test]
fn connections_that_outlive_their_rules_are_seen() {
    let found = Namespace::new().run(|| {
        nft("table inet t { chain c { type filter hook output priority 0; ct state new accept } }");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        nft("flush ruleset");
        tracking()
    });
    assert_eq!(found, Tracking::Yes("1 connection is tracked".into()));
}

#[test]
fn rules_of_another_namespace_do_not_count() {
    let (other, this) = (Namespace::new(), Namespace::new());
    other.run(|| nft("table inet t { chain c { type filter hook output priority 0; ct state new accept } }"));
    assert_eq!(this.run(tracking), Tracking::No);
}
