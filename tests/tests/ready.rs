//! Whether a node is ready, and what it says of those that keep it from being so: who they are, by which interface, what
//! the kernel said, who should dial, and since when.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::{
    cluster::{Cluster, Node},
    http,
    story::{SETTLED, Stage, settled},
    wait::eventually,
};

const HEALTH: &str = "127.0.0.1:9099";
/// A dial without an answer takes 5 s.
const TRIED: Duration = Duration::from_secs(15);

fn probe(node: &Node, path: &str) -> Result<(u16, String)> {
    http::get(&node.host, HEALTH, path)
}

/// The line about a peer, once it says this.
fn line_says(node: &Node, peer: &str, all: &[&str]) -> Result<String> {
    eventually(&format!("{peer} is said to be so: {all:?}"), TRIED, || {
        let (code, body) = probe(node, "/readyz")?;
        ensure!(code == 503, "{body}");
        let line = body.lines().find(|line| line.starts_with(&format!("{peer} "))).context(body.clone())?;
        ensure!(all.iter().all(|part| line.contains(part)), "{line}");
        Ok(line.to_owned())
    })
}

#[test]
fn a_node_is_ready_when_its_sessions_stand_and_says_of_each_other_what_keeps_it() -> Result<()> {
    let mut cluster = Cluster::new(&[])?;
    for node in &mut cluster.nodes {
        node.flags = vec!["--health-address", HEALTH];
    }
    // One that listens to nobody, and one whose packets a firewall drops.
    cluster.node("kw02").host.sh("nft add table inet wall")?;
    cluster.node("kw02").host.sh("nft add chain inet wall in { type filter hook input priority 0; }")?;
    cluster.node("kw02").host.sh("nft add rule inet wall in tcp dport 179 drop")?;
    cluster.node_mut("km01").start()?;
    let km01 = cluster.node("km01");
    let line = line_says(km01, "192.168.80.124", &["Connection refused (ECONNREFUSED)"])?;
    for part in [
        "(k8s-worker-01, node-to-node mesh) by ens33 has been in ",
        " since 20",
        "The peer should dial; this node does, too from 192.168.80.121",
        "Nothing listens there on port 179",
    ] {
        ensure!(line.contains(part), "{line}");
    }
    line_says(km01, "192.168.80.125", &["does every firewall on the way let TCP port 179 through?"])?;
    ensure!(
        probe(km01, "/readyz")?
            .1
            .starts_with("manxd is not ready: BGP not established with 192.168.80.124,192.168.80.125\n")
    );
    ensure!(probe(km01, "/livez")? == (200, "live\n".into()));
    ensure!(probe(km01, "/v1/status")?.0 == 404, "the rest of the API is not for everybody");
    let waited = km01.host.output("manxctl node status --wait 1")?;
    ensure!(waited.status.code() == Some(1), "{waited:?}");
    ensure!(waited.stdout.contains("Not established: 192.168.80.124 (k8s-worker-01,"), "{}", waited.stdout);
    ensure!(
        waited.stderr.contains("not ready after 1 s: BGP not established with 192.168.80.124,192.168.80.125"),
        "{}",
        waited.stderr
    );

    // A link that is down, and an address that a node does not have.
    cluster.node("kw01").host.sh("ip link set ens33 down")?;
    cluster.node_mut("kw01").start()?;
    line_says(cluster.node("kw01"), "192.168.80.121", &["to which this node has no route,"])?;
    cluster.node("kw01").host.sh("ip link set ens33 up")?;
    cluster.node("kw01").host.sh("ip addr flush dev ens33")?;
    cluster.node("kw01").host.sh("ip addr add 192.168.80.99/24 dev ens33")?;
    line_says(
        cluster.node("kw01"),
        "192.168.80.121",
        &["(EADDRNOTAVAIL)", "This node has no address 192.168.80.124: put it on an interface"],
    )?;
    cluster.node("kw01").host.sh("ip addr del 192.168.80.99/24 dev ens33")?;
    cluster.node("kw01").host.sh("ip addr add 192.168.80.124/24 dev ens33")?;
    cluster.node("kw01").host.sh("ip route add default via 192.168.80.2")?;

    // Who waits sees it come.
    cluster.node("kw02").host.sh("nft delete table inet wall")?;
    cluster.node_mut("kw02").start()?;
    for node in &cluster.nodes {
        node.host.sh("manxctl node status --wait 60")?;
        let (code, body) = eventually("it is ready", SETTLED, || {
            let answer = probe(node, "/readyz")?;
            ensure!(answer.0 == 200, "{answer:?}");
            Ok(answer)
        })?;
        ensure!(code == 200 && body.starts_with("ready\n"), "{body}");
    }
    settled(&cluster, Stage::Mesh, SETTLED)
}

/// What goes to somebody far away.
#[test]
fn a_support_dump_has_all_that_explains_a_node_and_no_secret() -> Result<()> {
    const SECRET: &str = "sentinel-7c1f";
    let mut cluster = manx_tests::story::mesh()?;
    let kw01 = cluster.node("kw01");
    kw01.host.write_file("/tmp/manx/secrets/mesh/key", SECRET)?;
    let unpacked = |node: &Node| -> Result<String> {
        node.host.sh("rm -rf /tmp/manx/dump")?;
        node.host.sh("mkdir -p /tmp/manx/dump")?;
        node.host.sh("tar -xzf /tmp/manx/dump.tar.gz -C /tmp/manx/dump --strip-components=1")?;
        node.host.sh("find /tmp/manx/dump -type f -size +0 -printf %P\\n")
    };
    let said = kw01.host.sh("env ETCD_PASSWORD=sentinel-7c1f manxctl support-dump /tmp/manx/dump.tar.gz")?;
    ensure!(said.starts_with("Written /tmp/manx/dump.tar.gz: "), "{said}");
    let files = unpacked(kw01)?;
    for file in [
        "manxctl/node-status.txt",
        "manxctl/node-status.json",
        "manxctl/routes.txt",
        "manxctl/history.json",
        "manxctl/dataplane-status.json",
        "manxctl/dataplane-routes.json",
        "manxctl/dataplane-audit-dry-run.txt",
        "manxctl/plan-node-k8s-worker-01.txt",
        "manxctl/lint.json",
        "manxctl/version.txt",
        "manxd/log.txt",
        "manxd/ready.json",
        "kernel/routes4.json",
        "kernel/rules6.json",
        "kernel/settings.txt",
        "kernel/uname.txt",
        "resources/Node.yaml",
        "resources/IPPool.yaml",
    ] {
        ensure!(files.lines().any(|line| line == file), "{file} is not among\n{files}");
    }
    let text = |file: &str| kw01.host.sh(&format!("cat /tmp/manx/dump/{file}"));
    ensure!(text("manxd/log.txt")?.contains("manxd starts"));
    ensure!(text("manxctl/routes.txt")?.contains("172.16.118.64/26"));
    let found = kw01.host.output(&format!("grep -r {SECRET} /tmp/manx/dump"))?;
    ensure!(found.stdout.is_empty(), "{}", found.stdout);
    ensure!(kw01.host.sh("stat --format=%a /tmp/manx/dump.tar.gz")?.trim() == "600");

    // Of a node whose manxd has ended there is the rest.
    cluster.node_mut("kw01").terminate()?;
    let kw01 = cluster.node("kw01");
    let finished = kw01.host.output("manxctl support-dump /tmp/manx/dump.tar.gz")?;
    ensure!(
        finished.status.code() == Some(1) && finished.stderr.contains("manxd did not answer"),
        "{finished:?}"
    );
    let files = unpacked(kw01)?;
    ensure!(files.contains("kernel/routes4.json") && !files.contains("manxctl/routes.txt"), "{files}");
    Ok(())
}
