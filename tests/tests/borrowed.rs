//! A pod whose address lies in another node's block: a node without a free block lends one (Calico's IPAM does so), and a
//! pod that moves keeps its own. Every node learns where it is, and it answers. Of a virtual machine that moves while it runs
//! (Felix: the route to where it is about to run gets a better metric) everybody is led to the new node at once.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use manx_tests::{
    cluster::Cluster,
    host::Pod,
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

/// As Felix does it when the machine has moved: its route's metric is the usual one.
fn settle(cluster: &Cluster, node: &str, pod: &Pod) -> Result<()> {
    let (host, route) = (&cluster.node(node).host, format!("{BORROWED} dev {} scope link", pod.interface()));
    host.sh(&format!("ip route add {route} metric 1024"))?;
    host.sh(&format!("ip route del {route} metric 512"))?;
    Ok(())
}

fn leads(cluster: &Cluster, node: &str, to: &str) -> Result<()> {
    eventually(&format!("{node} leads to where the machine is"), SETTLED, || {
        let found = cluster.node(node).host.sh(&format!("ip -4 route get {BORROWED}"))?;
        ensure!(found.contains(to), "{node}: {found:?}");
        Ok(())
    })
}

#[test]
fn a_machine_that_moves_away_from_its_block_and_home_again_is_reached_where_it_is_about_to_run() -> Result<()>
{
    let cluster = mesh()?;
    let address: IpAddr = BORROWED.parse()?;
    let at = |node: &str, name: &str, metric| cluster.node(node).host.pod_by(name, &[address], Some(metric));
    let home = at("kw01", "home", 1024)?;
    leads(&cluster, "km01", "via 192.168.80.124 ")?;
    leads(&cluster, "kw01", home.interface())?;

    // While it still runs in its block it is about to run elsewhere: the old node too sends there.
    let away = at("kw02", "away", 512)?;
    for node in ["km01", "kw01"] {
        leads(&cluster, node, "via 192.168.80.125 ")?;
    }
    leads(&cluster, "kw02", away.interface())?;
    let explained = cluster.node("km01").host.sh(&format!("manxctl explain {BORROWED}/32"))?;
    ensure!(explained.contains("priority 512"), "{explained}");
    ping(&cluster.node("kw01").pods[0], address)?;
    cluster.node("kw01").host.remove_pod(home)?;
    settle(&cluster, "kw02", &away)?;
    for node in ["km01", "kw01"] {
        leads(&cluster, node, "via 192.168.80.125 ")?;
    }

    // And home: the block says where it was, and now the address itself does, louder than who has it still.
    let home = at("kw01", "home-again", 512)?;
    for node in ["km01", "kw02"] {
        leads(&cluster, node, "via 192.168.80.124 ")?;
    }
    leads(&cluster, "kw01", home.interface())?;
    cluster.node("kw02").host.remove_pod(away)?;
    settle(&cluster, "kw01", &home)?;
    eventually("the block alone leads there", SETTLED, || {
        let found = route(&cluster, "km01", BORROWED)?;
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    })?;
    leads(&cluster, "km01", "via 192.168.80.124 ")?;
    ping(&cluster.node("kw02").pods[0], address)
}
