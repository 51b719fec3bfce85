//! What a host's kernel says, read by iproute2 and from /proc: independent of everything that Manx says of itself.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::netns::Netns;

/// A route as `ip -json route` has it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// "default", an address, or a prefix.
    pub dst: String,
    /// "blackhole" and its like; absent for what is forwarded.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub gateway: Option<String>,
    pub dev: Option<String>,
    pub protocol: Option<String>,
    pub metric: Option<u32>,
}

/// The main table of one family, in the kernel's order.
pub fn routes(ns: &Netns, family: Family) -> Result<Vec<Route>> {
    let text = ns.sh(&format!("ip -json {} route show", family.flag()))?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&text).with_context(|| format!("{}: ip -json route: {text}", ns.name()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn flag(self) -> &'static str {
        match self {
            Family::V4 => "-4",
            Family::V6 => "-6",
        }
    }
}

/// A quick look at the IPv4 destinations that the main table forwards to, without a process.
pub fn destinations4(ns: &Netns) -> Result<BTreeSet<(Ipv4Addr, u8)>> {
    let table = fs::read_to_string(ns.proc_path("net/route"))?;
    // A blackhole is there, too, with no interface.
    let forwarded = table.lines().skip(1).filter(|line| !line.starts_with('*'));
    forwarded.map(|line| destination(line).with_context(|| format!("/proc/net/route: {line}"))).collect()
}

/// Addresses are in the byte order of the network, printed as if they were the machine's.
fn destination(line: &str) -> Option<(Ipv4Addr, u8)> {
    let mut words = line.split_whitespace();
    let address = u32::from_str_radix(words.nth(1)?, 16).ok()?;
    let mask = u32::from_str_radix(words.nth(5)?, 16).ok()?;
    let length = u8::try_from(mask.count_ones()).ok()?;
    Some((Ipv4Addr::from_bits(u32::from_be(address)), length))
}

/// An established TCP connection of BGP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

pub fn bgp_connections(ns: &Netns) -> Result<Vec<Connection>> {
    let text = ns.shell("ss -Htn state established '( sport = :179 or dport = :179 )'")?.success()?;
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace().skip(2);
            let mut end = || words.next()?.replace("[::ffff:", "").replace(']', "").parse().ok();
            Some(Connection { local: end()?, remote: end()? })
        })
        .map(|c| c.with_context(|| format!("ss: {text}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_in_proc_is_read_in_the_right_byte_order() {
        let ns = Netns::new("routes").unwrap();
        ns.sh("ip link set lo up").unwrap();
        ns.sh("ip route add 172.16.36.192/26 dev lo proto 77").unwrap();
        ns.sh("ip route add blackhole 172.16.118.64/26 proto 77").unwrap();
        assert_eq!(
            destinations4(&ns).unwrap().into_iter().collect::<Vec<_>>(),
            [(Ipv4Addr::new(172, 16, 36, 192), 26)]
        );
        let routes = routes(&ns, Family::V4).unwrap();
        assert_eq!(routes.len(), 2);
        let hole = routes.iter().find(|r| r.dst == "172.16.118.64/26").unwrap();
        assert_eq!(hole.kind.as_deref(), Some("blackhole"));
    }
}
