//! Two nodes of both families with a pod each. Pools are closed where a test wants a blackhole behind every route that is
//! missing.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use crate::{
    host::Pod,
    lab::{Lab, UPLINK},
    peers::manx::{BgpPeer, Manx, Node, resources},
    story::ping,
    wait::eventually,
};
use anyhow::{Context, Result, ensure};

const AS: u32 = 64_512;
const POOLS: [&str; 2] = ["172.16.0.0/16", "fd00:172::/32"];
const UP: Duration = Duration::from_secs(20);

/// Two nodes with a pod each. What appears, appears on `here`.
#[derive(Debug)]
pub struct Pair {
    pub neighbour: Pod,
    pub far: Pod,
    pub here: Manx,
    pub there: Manx,
    pub lab: Lab,
    /// Without annotations.
    document: String,
}

/// The addresses of `here` on the wire, by family, and those of its second uplink.
pub const FIRST: [&str; 2] = ["192.168.80.10", "fd00:80::10"];
pub const SECOND: [&str; 2] = ["192.168.80.11", "fd00:80::11"];
/// IPPools, by family.
pub const POOL_NAMES: [&str; 2] = ["pool-0", "pool-1"];
const CLOSED: &str = "manx.dev/unallocatedBlocks: Drop";

/// One of each family, in the block of this number.
pub fn addresses(block: u8, host: u8) -> [IpAddr; 2] {
    let ipv6 = format!("fd00:172:0:{block}::{host:x}");
    [IpAddr::from([172, 16, block, host]), ipv6.parse().expect("digits are groups of IPv6")]
}

fn place(lab: &mut Lab, name: &str, number: u8, flags: &[&'static str]) -> Result<(Node, Manx)> {
    let (ipv4, ipv6) = (Ipv4Addr::new(192, 168, 80, number), format!("fd00:80::{number}"));
    let host = lab.host(name, ipv4, 24)?;
    host.sh(&format!("ip address add {ipv6}/64 dev {UPLINK} nodad"))?;
    // Without a way to everywhere a host does not answer for its pods' gateway. Nobody is there.
    host.sh(&format!("ip route add default via 192.168.80.2 dev {UPLINK}"))?;
    let node = Node {
        name: name.to_owned(),
        ipv4: (ipv4, 24),
        ipv6: (ipv6.parse()?, 64),
        cluster_id: None,
        blocks: vec![format!("172.16.{number}.0/26"), format!("fd00:172:0:{number}::/122")],
    };
    Ok((node, Manx::idle(host, flags, &lab.logs())?))
}

impl Pair {
    /// With nothing behind the pools but the default route.
    pub fn open(flags: &[&'static str]) -> Result<Pair> {
        Pair::new(flags, &[])
    }

    /// With pools that are closed.
    pub fn closed(flags: &[&'static str]) -> Result<Pair> {
        let pair = Pair::new(flags, &POOL_NAMES.map(|pool| (pool, CLOSED)))?;
        for (family, pool) in [("-4", POOLS[0]), ("-6", POOLS[1])] {
            eventually("the pool is closed", UP, || {
                let routes =
                    pair.here.host.sh(&format!("ip {family} route show type blackhole proto manx"))?;
                ensure!(routes.contains(pool), "{routes}");
                Ok(())
            })?;
        }
        Ok(pair)
    }

    fn new(flags: &[&'static str], annotations: &[(&str, &str)]) -> Result<Pair> {
        let mut lab = Lab::new()?;
        let (node_here, mut here) = place(&mut lab, "here", 10, flags)?;
        let (node_there, mut there) = place(&mut lab, "there", 50, flags)?;
        let peers: Vec<BgpPeer> = ["192.168.80.10", "192.168.80.50", "fd00:80::10", "fd00:80::50"]
            .into_iter()
            .map(|address| Ok(BgpPeer { address: address.parse()?, as_number: AS, more: "" }))
            .collect::<Result<_>>()?;
        let document = resources(AS, &POOLS, &[node_here, node_there], &peers);
        write(&lab, &document, annotations)?;
        here.start_again()?;
        there.start_again()?;
        let neighbour = here.host.pod("neighbour", &addresses(10, 1))?;
        let far = there.host.pod("far", &addresses(50, 1))?;
        let pair = Pair { neighbour, far, here, there, lab, document };
        for address in addresses(10, 1) {
            eventually("pods reach each other", UP, || ping(&pair.far, address))?;
        }
        Ok(pair)
    }

    /// A second uplink of `here` on the same wire, whose driver runs no XDP, with [`SECOND`]. The other node is told its MAC,
    /// since the kernel would answer for these addresses by either.
    pub fn second_uplink(&self, name: &str) -> Result<()> {
        let (here, there) = (&self.here.host, &self.there.host);
        here.sh(&format!("ip link add {name} link {UPLINK} type macvlan mode bridge"))?;
        here.sh(&format!("ip link set {name} up"))?;
        here.sh(&format!("ip address add {}/32 dev {name}", SECOND[0]))?;
        here.sh(&format!("ip address add {}/128 dev {name} nodad", SECOND[1]))?;
        let text = here.sh(&format!("ip -br link show {name}"))?;
        let mac = text.split_whitespace().find(|word| word.matches(':').count() == 5);
        let mac = mac.with_context(|| text.clone())?;
        for address in SECOND {
            there.sh(&format!("ip neigh replace {address} lladdr {mac} dev {UPLINK} nud permanent"))?;
        }
        Ok(())
    }

    /// A second pod of `here`, with the addresses of number 2, when the map has it.
    pub fn second_pod(&self) -> Result<Pod> {
        let second = self.here.host.pod("second", &addresses(10, 2))?;
        for address in addresses(10, 2) {
            let length = if address.is_ipv4() { 32 } else { 128 };
            eventually("the second pod is known", UP, || {
                let row = self.here.route(&format!("{address}/{length}"))?;
                ensure!(row.map.as_ref().is_some_and(|map| !map.text.contains("MAC not known")), "{row:?}");
                ping(&self.neighbour, address)
            })?;
        }
        Ok(second)
    }

    /// Gives resources annotations by their names, in place of all that any had.
    pub fn annotate(&self, annotations: &[(&str, &str)]) -> Result<()> {
        write(&self.lab, &self.document, annotations)
    }
}

fn write(lab: &Lab, document: &str, annotations: &[(&str, &str)]) -> Result<()> {
    let annotated = annotations.iter().fold(document.to_owned(), |document, (name, text)| {
        document
            .replace(&format!("  name: {name}\n"), &format!("  name: {name}\n  annotations: {{{text}}}\n"))
    });
    let path = lab.store().join("cluster.yaml");
    let written = path.with_extension("new");
    fs::write(&written, annotated)?;
    Ok(fs::rename(written, path)?)
}
