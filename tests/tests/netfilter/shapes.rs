//! Rules of the shapes that real nodes have, written by hand after what kube-proxy, Calico, Docker, firewalld and ufw
//! document: beside each of them Auto guards, for none of them stands in the way of flows that have begun.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::{
    kernel::Family,
    talk::{BOTH, Talk, Transport, crowd},
    wait::eventually,
};

use crate::lab::{Mode, POOLS, World, direct_ends};

const SOON: Duration = Duration::from_secs(15);

#[derive(Debug)]
enum Writer {
    Nft,
    /// `iptables-nft-restore`.
    Iptables,
}

/// In `rules` CALI1 and CALI2 stand for the interfaces of the node's pods.
#[derive(Debug)]
struct Shape {
    name: &'static str,
    writer: Writer,
    rules: &'static str,
}

/// Forwarding as kube-proxy has it in its mode iptables, before the rules of a Docker that drops by its policy.
const KUBE_PROXY_AND_DOCKER: &str = "*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-ONE - [0:0]
:KUBE-SEP-ONE - [0:0]
:KUBE-SEP-TWO - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
:DOCKER - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A POSTROUTING -s 172.17.0.0/24 ! -o docker0 -j MASQUERADE
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-ONE
-A KUBE-SVC-ONE ! -s 172.16.0.0/16 -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-ONE -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-ONE
-A KUBE-SVC-ONE -j KUBE-SEP-TWO
-A KUBE-SEP-ONE -s 172.16.10.1/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-ONE -p tcp -m tcp -j DNAT --to-destination 172.16.10.1:7000
-A KUBE-SEP-TWO -s 172.16.20.1/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-TWO -p tcp -m tcp -j DNAT --to-destination 172.16.20.1:7000
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"load balancers\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-SERVICES -d 10.96.0.99/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
-A FORWARD -s 172.16.0.0/16 -j ACCEPT
-A FORWARD -d 172.16.0.0/16 -j ACCEPT
COMMIT
";

/// Felix's chains for two pods, one of them with a policy: who is not known is refused by the end of each list.
const CALICO: &str = "*raw
:PREROUTING ACCEPT [0:0]
:cali-PREROUTING - [0:0]
:cali-rpf-skip - [0:0]
:cali-from-host-endpoint - [0:0]
-A PREROUTING -j cali-PREROUTING
-A cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000
-A cali-PREROUTING -i cali+ -j MARK --set-xmark 0x40000/0x40000
-A cali-PREROUTING -m mark --mark 0x40000/0x40000 -j cali-rpf-skip
-A cali-PREROUTING -m mark --mark 0x40000/0x40000 -m rpfilter --validmark --invert -j DROP
-A cali-PREROUTING -m mark --mark 0x0/0x40000 -j cali-from-host-endpoint
-A cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:cali-PREROUTING - [0:0]
:cali-POSTROUTING - [0:0]
-A PREROUTING -j cali-PREROUTING
-A POSTROUTING -j cali-POSTROUTING
-A cali-PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-POSTROUTING -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-POSTROUTING -j MARK --set-xmark 0x0/0xf0000
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
:cali-nat-outgoing - [0:0]
-A POSTROUTING -j cali-nat-outgoing
-A cali-nat-outgoing -s 172.16.0.0/16 ! -d 172.16.0.0/16 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
:cali-FORWARD - [0:0]
:cali-from-hep-forward - [0:0]
:cali-to-hep-forward - [0:0]
:cali-cidr-block - [0:0]
:cali-from-wl-dispatch - [0:0]
:cali-to-wl-dispatch - [0:0]
:cali-fw-one - [0:0]
:cali-tw-one - [0:0]
:cali-fw-two - [0:0]
:cali-tw-two - [0:0]
:cali-pi-policy - [0:0]
:cali-pri-profile - [0:0]
-A FORWARD -j cali-FORWARD
-A FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT
-A FORWARD -j MARK --set-xmark 0x10000/0x10000
-A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000
-A cali-FORWARD -m mark --mark 0x0/0x10000 -j cali-from-hep-forward
-A cali-FORWARD -i cali+ -j cali-from-wl-dispatch
-A cali-FORWARD -o cali+ -j cali-to-wl-dispatch
-A cali-FORWARD -j cali-to-hep-forward
-A cali-FORWARD -j cali-cidr-block
-A cali-cidr-block -d 10.96.0.0/12 -j DROP
-A cali-from-wl-dispatch -i CALI1 -g cali-fw-one
-A cali-from-wl-dispatch -i CALI2 -g cali-fw-two
-A cali-from-wl-dispatch -m comment --comment \"Unknown interface\" -j DROP
-A cali-to-wl-dispatch -o CALI1 -g cali-tw-one
-A cali-to-wl-dispatch -o CALI2 -g cali-tw-two
-A cali-to-wl-dispatch -m comment --comment \"Unknown interface\" -j DROP
-A cali-fw-one -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-fw-one -m conntrack --ctstate INVALID -j DROP
-A cali-fw-one -j MARK --set-xmark 0x0/0x10000
-A cali-fw-one -p udp -m multiport --dports 4789 -j DROP
-A cali-fw-one -p ipencap -j DROP
-A cali-fw-one -j cali-pri-profile
-A cali-fw-one -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-fw-one -j DROP
-A cali-tw-one -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-tw-one -m conntrack --ctstate INVALID -j DROP
-A cali-tw-one -j MARK --set-xmark 0x0/0x30000
-A cali-tw-one -m mark --mark 0x0/0x20000 -j cali-pi-policy
-A cali-tw-one -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-tw-one -m mark --mark 0x0/0x20000 -j DROP
-A cali-tw-one -j DROP
-A cali-fw-two -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-fw-two -m conntrack --ctstate INVALID -j DROP
-A cali-fw-two -j MARK --set-xmark 0x0/0x10000
-A cali-fw-two -j cali-pri-profile
-A cali-fw-two -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-fw-two -j DROP
-A cali-tw-two -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-tw-two -m conntrack --ctstate INVALID -j DROP
-A cali-tw-two -j MARK --set-xmark 0x0/0x10000
-A cali-tw-two -j cali-pri-profile
-A cali-tw-two -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-tw-two -j DROP
-A cali-pi-policy -p tcp -m multiport --dports 7000,7001 -j MARK --set-xmark 0x10000/0x10000
-A cali-pi-policy -p udp -m multiport --dports 7000 -j MARK --set-xmark 0x10000/0x10000
-A cali-pi-policy -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-pri-profile -j MARK --set-xmark 0x10000/0x10000
-A cali-pri-profile -m mark --mark 0x10000/0x10000 -j RETURN
COMMIT
";

/// kube-proxy in its mode nftables, with a service without endpoints and a load balancer with source ranges.
const KUBE_PROXY_NFT: &str = "table ip kube-proxy {
    map service-ips { type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 10.96.0.10 . tcp . 80 : goto service-one } }
    map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 10.96.0.99 . tcp . 80 : goto reject-chain } }
    map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 192.0.2.7 . tcp . 80 : goto firewall-one } }
    set cluster-ips { type ipv4_addr\n elements = { 10.96.0.10, 10.96.0.99 } }
    chain reject-chain { reject; }
    chain firewall-one { ip saddr 198.51.100.0/24 return\n drop; }
    chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
    chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
    chain cluster-ips-check { ip daddr @cluster-ips reject with icmp type host-unreachable\n ip daddr 10.96.0.0/12 drop; }
    chain filter-prerouting { type filter hook prerouting priority -110; ct state new jump firewall-check; }
    chain filter-forward { type filter hook forward priority -110;
        ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }
    chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
    chain masquerading { meta mark and 0x4000 == 0 return\n meta mark set meta mark xor 0x4000\n masquerade fully-random; }
    chain endpoint-one { ip saddr 172.16.10.1 jump mark-for-masquerade\n meta l4proto tcp dnat to 172.16.10.1:7000; }
    chain service-one { ip saddr != 172.16.0.0/16 jump mark-for-masquerade\n numgen random mod 1 vmap { 0 : goto endpoint-one }; }
    chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
    chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
    chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
}";

/// With its check of IPv6's sources, its zones, and its refusal of what no zone takes.
const FIREWALLD: &str = "table inet firewalld {
    chain filter_PREROUTING { type filter hook prerouting priority filter + 10;
        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
        meta nfproto ipv6 fib saddr . mark . iif oif missing drop
    }
    chain filter_FORWARD { type filter hook forward priority filter + 10;
        ct state { established, related } accept
        ct status dnat accept
        iifname \"lo\" accept
        ct state invalid drop
        ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002::/24 } reject with icmpv6 type addr-unreachable
        jump filter_FORWARD_ZONES
        reject with icmpx type admin-prohibited
    }
    chain filter_FORWARD_ZONES { iifname \"docker0\" goto filter_FWD_trusted\n goto filter_FWD_public; }
    chain filter_FWD_trusted { accept; }
    chain filter_FWD_public { ip saddr 172.16.0.0/16 accept\n ip6 saddr fd00::/16 accept; }
}";

const UFW: &str = "*filter
:FORWARD DROP [0:0]
:ufw-before-logging-forward - [0:0]
:ufw-before-forward - [0:0]
:ufw-after-forward - [0:0]
:ufw-after-logging-forward - [0:0]
:ufw-reject-forward - [0:0]
:ufw-track-forward - [0:0]
:ufw-user-forward - [0:0]
:ufw-user-limit - [0:0]
-A FORWARD -j ufw-before-logging-forward
-A FORWARD -j ufw-before-forward
-A FORWARD -j ufw-after-forward
-A FORWARD -j ufw-after-logging-forward
-A FORWARD -j ufw-reject-forward
-A FORWARD -j ufw-track-forward
-A ufw-before-logging-forward -m conntrack --ctstate NEW -m limit --limit 3/min --limit-burst 10 -j LOG
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-forward -j ufw-user-forward
-A ufw-user-forward -s 172.16.0.0/16 -j ACCEPT
-A ufw-user-forward -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -m recent --update --seconds 30 --hitcount 6 --name x --mask 255.255.255.255 --rsource -j ufw-user-limit
-A ufw-user-limit -m limit --limit 3/min -j LOG
-A ufw-user-limit -j REJECT --reject-with icmp-port-unreachable
-A ufw-after-logging-forward -m limit --limit 3/min --limit-burst 10 -j LOG
COMMIT
";

const SHAPES: [Shape; 5] = [
    Shape { name: "kube-proxy beside Docker", writer: Writer::Iptables, rules: KUBE_PROXY_AND_DOCKER },
    Shape { name: "Calico", writer: Writer::Iptables, rules: CALICO },
    Shape { name: "kube-proxy by nftables", writer: Writer::Nft, rules: KUBE_PROXY_NFT },
    Shape { name: "firewalld", writer: Writer::Nft, rules: FIREWALLD },
    Shape { name: "ufw", writer: Writer::Iptables, rules: UFW },
];

impl Shape {
    fn write(&self, world: &World) -> Result<()> {
        let node = &world.a;
        let [one, two] = [0, 1].map(|n| node.pods[n].interface());
        let rules = self.rules.replace("CALI1", one).replace("CALI2", two);
        let host = node.host();
        host.write_file("/etc/shape", &rules)?;
        match self.writer {
            Writer::Nft => host.sh("nft -f /etc/shape"),
            Writer::Iptables => host.sh("iptables-nft-restore /etc/shape"),
        }
        .map(drop)
    }
}

#[test]
fn beside_the_rules_that_nodes_have_auto_guards_and_the_programs_carry() -> Result<()> {
    let mut world = World::without_rules(Mode::Auto)?;
    world.start()?;
    let (client, family) = (&world.a.pods[1], Family::V4);
    for shape in &SHAPES {
        shape.write(&world).with_context(|| shape.name)?;
        let of_the_pool = || {
            let modes = world.a.manx.dataplane()?.modes;
            let pool = modes.pools.into_iter().find(|pool| pool.cidr == POOLS[0]).context("no such pool")?;
            anyhow::Ok((pool, modes.found))
        };
        eventually(shape.name, SOON, || {
            let (pool, found) = of_the_pool()?;
            // As the rule is named that tracks.
            ensure!(pool.reason.contains("connections here (table "), "{pool:?}: {found:?}");
            Ok(())
        })?;
        let (pool, found) = of_the_pool()?;
        ensure!(pool.mode == "guarded" && found.is_empty(), "{}: {pool:?}: {found:#?}", shape.name);
        for transport in BOTH {
            for (to, server) in direct_ends(family) {
                let tally = crowd(client, transport, to, 10);
                tally
                    .unbroken()
                    .and_then(|tally| tally.answered_by(&[server]))
                    .with_context(|| shape.name)?;
            }
        }
        let before = world.carried()?;
        let mut talk = Talk::open(client, Transport::Tcp, direct_ends(family)[0].0)?;
        for _ in 0..20 {
            talk.ask(100)?;
        }
        let carried = world.carried()?.since(before);
        ensure!(carried.a >= 20, "{}: {carried:?} carried", shape.name);
        world.a.host().sh("nft flush ruleset")?;
        eventually("the rules are gone", SOON, || {
            let (pool, _) = of_the_pool()?;
            ensure!(!pool.reason.contains("connections here (table "), "{pool:?}");
            Ok(())
        })?;
    }
    Ok(())
}
