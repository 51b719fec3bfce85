//! nftables as a node of Kubernetes has them: chains like kube-proxy's, with a mark for what must be masqueraded and a
//! number drawn for each connection, Calico's masquerading of what leaves the pools, and a forward chain that drops
//! what conntrack calls invalid, lets running connections through and asks the policies for the others.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use manx_tests::{
    echo::{GREETING_PORT, PORT},
    kernel::Family,
};

use crate::lab::{A, B, POOLS, Place};

/// A Service without an existence of its own: an address that is translated to one of its endpoints.
#[derive(Debug)]
pub struct Service {
    pub name: &'static str,
    number: u8,
    /// Places whose first pod serves it.
    endpoints: &'static [Place],
    node_port: u16,
}

/// Served on both nodes.
pub const EVERYWHERE: Service =
    Service { name: "everywhere", number: 10, endpoints: &[A, B], node_port: 30010 };
/// Served by a pod of node a.
pub const ON_A: Service = Service { name: "on-a", number: 11, endpoints: &[A], node_port: 30011 };
/// Served by a pod of node b.
pub const ON_B: Service = Service { name: "on-b", number: 12, endpoints: &[B], node_port: 30012 };

const SERVICES: [&Service; 3] = [&EVERYWHERE, &ON_A, &ON_B];

/// What the clients use, and where the servers listen.
pub const SERVICE_PORT: u16 = 80;
pub const SERVICE_GREETING_PORT: u16 = 81;
/// Leads to a port where nobody listens.
pub const SERVICE_CLOSED_PORT: u16 = 82;
const CLOSED_PORT: u16 = 7002;

impl Service {
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(10, 96, 0, self.number).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, u16::from(self.number)).into(),
        }
    }

    pub fn node_port(&self) -> u16 {
        self.node_port
    }
}

/// The table's name; the policies are in its chain `policies`, which is empty at first.
pub const TABLE: &str = "inet kube";

/// The words of nft that a family is called by: its own, and the layer's in `nat` statements.
fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The whole table, for `nft -f`.
pub fn table() -> String {
    let (mut entries, mut chains) = (String::new(), String::new());
    for (service, family) in SERVICES.iter().flat_map(|s| [(s, Family::V4), (s, Family::V6)]) {
        let ports = [
            (SERVICE_PORT, PORT, Some(service.node_port)),
            (SERVICE_GREETING_PORT, GREETING_PORT, None),
            (SERVICE_CLOSED_PORT, CLOSED_PORT, None),
        ];
        for (port, target, node_port) in ports {
            service_port(&mut entries, &mut chains, service, family, (port, target, node_port));
        }
    }
    let [pool4, pool6] = POOLS;
    format!(
        "table {TABLE} {{
            counter invalid {{ }}
            chain services {{ {entries} }}
            {chains}
            chain mark-masq {{ meta mark set meta mark or 0x4000; }}
            chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
            chain output {{ type nat hook output priority -100; jump services; }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                meta mark and 0x4000 == 0x4000 meta mark set meta mark xor 0x4000 masquerade fully-random
                ip saddr {pool4} ip daddr != {pool4} masquerade fully-random
                ip6 saddr {pool6} ip6 daddr != {pool6} masquerade fully-random
            }}
            chain policies {{ }}
            chain forward {{
                type filter hook forward priority filter;
                ct state invalid counter name invalid drop
                meta mark and 0x4000 == 0x4000 accept
                ct state established,related accept
                jump policies
            }}
        }}"
    )
}

fn service_port(
    entries: &mut String,
    chains: &mut String,
    service: &Service,
    family: Family,
    (port, target, node_port): (u16, u16, Option<u16>),
) {
    let (name, ip, address) = (service.name, word(family), service.address(family));
    let chain = format!("svc-{name}-{port}-{ip}");
    let pool = match family {
        Family::V4 => POOLS[0],
        Family::V6 => POOLS[1],
    };
    // Writing to a String cannot fail, here and below.
    let _ =
        writeln!(entries, "{ip} daddr {address} meta l4proto {{ tcp, udp }} th dport {port} jump {chain}");
    if let Some(node_port) = node_port {
        let protocol = if family == Family::V4 { "ipv4" } else { "ipv6" };
        let _ = writeln!(
            entries,
            "meta nfproto {protocol} fib daddr type local meta l4proto {{ tcp, udp }} th dport {node_port} jump ext-{name}-{ip}"
        );
        let _ = writeln!(chains, "chain ext-{name}-{ip} {{ jump mark-masq; jump {chain}; }}");
    }
    let mut choice = String::new();
    for (n, place) in service.endpoints.iter().enumerate() {
        let endpoint = place.pod(family, 0);
        let (colon, close) = if family == Family::V4 { ("", "") } else { ("[", "]") };
        let _ = writeln!(
            chains,
            "chain sep-{chain}-{n} {{
                {ip} saddr {endpoint} jump mark-masq
                meta l4proto {{ tcp, udp }} dnat {ip} to {colon}{endpoint}{close}:{target}
            }}"
        );
        let _ = write!(choice, "{n} : jump sep-{chain}-{n}, ");
    }
    let _ = writeln!(
        chains,
        "chain {chain} {{
            {ip} saddr != {pool} jump mark-masq
            numgen random mod {} vmap {{ {choice} }}
        }}",
        service.endpoints.len()
    );
}
