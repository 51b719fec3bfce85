//! What netfilter does on a node while packets are measured.

use std::fmt::Write;

use anyhow::Result;
use manx_tests::netns::Netns;

use super::node::feed;

/// Rules of the filter chain.
const RULES: u32 = 1_000;
/// Services of the NAT chains, each with two backends.
const SERVICES: u32 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ground {
    /// Conntrack, a NAT chain for each of 200 Services as kube-proxy writes them, and 1,000 rules that every packet
    /// passes.
    Rules,
    /// The same, but what is established is accepted before the rules.
    Accepted,
    /// No netfilter at all.
    Plain,
}

impl Ground {
    pub const ALL: [Ground; 3] = [Ground::Rules, Ground::Accepted, Ground::Plain];

    pub fn title(self) -> &'static str {
        match self {
            Ground::Rules => "conntrack, NAT chains, 1,000 rules",
            Ground::Accepted => "the same, established accepted first",
            Ground::Plain => "no netfilter",
        }
    }

    pub fn tracks(self) -> bool {
        self != Ground::Plain
    }

    pub fn prepare(self, ns: &Netns) -> Result<()> {
        if self.tracks() {
            feed(ns, "nft -f", &ruleset(self))?;
            // As manxd sets them: conntrack does not see the packets that the programs carry, and the rules drop what it
            // takes for invalid.
            for key in ["nf_conntrack_tcp_be_liberal", "nf_conntrack_tcp_ignore_invalid_rst"] {
                ns.sysctl(&format!("net.netfilter.{key}"), "1")?;
            }
        }
        Ok(())
    }
}

fn ruleset(ground: Ground) -> String {
    let mut text = String::from("table inet nat {\n");
    let mut services = String::new();
    // Writing to a String cannot fail.
    for service in 0..SERVICES {
        let (high, low) = (service / 250, service % 250 + 1);
        let _ = write!(
            text,
            "chain sep-{service}-a {{ ip saddr 172.16.99.{low} meta mark set meta mark or 0x4000\n\
             ip protocol tcp dnat ip to 172.16.98.{low}:8080\n}}\n\
             chain sep-{service}-b {{ ip saddr 172.16.97.{low} meta mark set meta mark or 0x4000\n\
             ip protocol tcp dnat ip to 172.16.96.{low}:8080\n}}\n\
             chain svc-{service} {{ numgen random mod 2 0 jump sep-{service}-a\njump sep-{service}-b\n}}\n"
        );
        let _ = writeln!(services, "ip daddr 10.96.{high}.{low} tcp dport 80 jump svc-{service}");
    }
    let _ = write!(
        text,
        "chain services {{\n{services}}}\n\
         chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}\n\
         chain output {{ type nat hook output priority -100; jump services; }}\n\
         chain postrouting {{ type nat hook postrouting priority srcnat;\n\
         meta mark and 0x4000 != 0x4000 return\nmasquerade fully-random\n}}\n}}\n\
         table inet filter {{\nchain forward {{ type filter hook forward priority filter;\n"
    );
    if ground == Ground::Accepted {
        text.push_str("ct state established,related accept\n");
    }
    text.push_str("ct state invalid drop\n");
    for rule in 0..RULES {
        let _ = writeln!(text, "ip saddr 10.200.{}.{} tcp dport 443 drop", rule / 250, rule % 250 + 1);
    }
    text.push_str("ct state established,related accept\n}\n}\n");
    text
}
