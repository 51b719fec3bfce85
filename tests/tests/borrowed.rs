//! A pod whose address lies in another node's block: a node without a free block lends one (Calico's IPAM does so), and a
//! pod that moves keeps its own. Every node learns where it is, and it answers.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use manx_tests::{
    cluster::Cluster,
    story::{SETTLED, mesh, ping},
    wait::{eventually, throughout},
};

/// In kw01's block.
const BORROWED: &str = "172.16.36.200";
/// In a pool of nobody.
const OUTSIDE: &str = "10.9.9.9";

fn route(cluster: &Cluster, host: &str, to: &str) -> Result<String> {
    cluster.node(host).host.sh(&format!("ip -4 route show exact {to}/32"))
}

#[test]
fn a_pod_with_an_address_of_another_nodes_block_is_reached_from_everywhere() -> Result<()> {
    let cluster = mesh()?;
    let address: IpAddr = BORROWED.parse()?;
    let pod = cluster.node("kw02").host.pod("borrower", &[address])?;
    let outside = cluster.node("kw02").host.pod("outside", &[OUTSIDE.parse()?])?;
    for host in ["kw01", "km01"] {
        eventually("the borrowed address leads to who borrowed it", SETTLED, || {
            let found = route(&cluster, host, BORROWED)?;
            ensure!(found.contains("via 192.168.80.125 "), "{host}: {found:?}");
            Ok(())
        })?;
    }
    for from in [&cluster.node("kw01").pods[0], &cluster.node("kw02").pods[0]] {
        ping(from, address)?;
    }
    ping(&cluster.node("km01").host, address)?;
    // What lies in an own block is known by the block, and what lies in no pool is not Calico's.
    let own = cluster.node("kw02").pods[0].address().to_string();
    for unheard in [own.as_str(), OUTSIDE] {
        throughout("it is not announced", std::time::Duration::from_millis(300), || {
            let found = route(&cluster, "kw01", unheard)?;
            ensure!(found.is_empty(), "{unheard}: {found:?}");
            Ok(())
        })?;
    }
    // It comes home: nobody needs a route of its own for it any more.
    cluster.node("kw02").host.remove_pod(pod)?;
    cluster.node("kw02").host.remove_pod(outside)?;
    for host in ["kw01", "km01"] {
        eventually("the route is gone", SETTLED, || {
            let found = route(&cluster, host, BORROWED)?;
            ensure!(found.is_empty(), "{host}: {found:?}");
            Ok(())
        })?;
    }
    let home = cluster.node("kw01").host.pod("home", &[address])?;
    eventually("it answers at home", SETTLED, || ping(&cluster.node("kw02").pods[0], address))?;
    cluster.node("kw01").host.remove_pod(home)
}
