//! A node leaves while packets still come for its pods, stays away over a restart, and comes back.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_api::{DrainStage, DrainStatus, SessionState};
use manx_tests::{
    cluster::{Cluster, Node},
    host::Pod,
    story::{SETTLED, Stage, mesh, settled},
    traffic::{End, Flow},
};

const BLOCK: &str = "172.16.118.64/26";
const PACE: Duration = Duration::from_millis(20);

fn status(node: &Node) -> Result<DrainStatus> {
    let said = node.host.sh("curl -s --unix-socket /run/manx/manx.sock http://manxd/v1/drain")?;
    Ok(serde_json::from_str(&said)?)
}

fn end(pod: &Pod) -> End<'_> {
    End { ns: pod, address: pod.address() }
}

/// From a pod of kw01 to one of kw02.
fn traffic(cluster: &Cluster) -> Result<Flow> {
    let [from, to] = ["kw01", "kw02"].map(|host| cluster.node(host).pods.first().context("no pod"));
    Flow::start(end(from?), end(to?), PACE)
}

fn stage(node: &Node) -> Result<Option<DrainStage>> {
    Ok(status(node)?.drain.map(|drain| drain.stage))
}

#[test]
fn a_node_leaves_when_its_traffic_has_gone_and_comes_back() -> Result<()> {
    let mut cluster = mesh()?;
    let kw02 = cluster.node("kw02");
    ensure!(status(kw02)?.drain.is_none());
    let too_long = kw02.host.output(&format!("manxctl node drain --text {}", "x".repeat(256)))?;
    ensure!(!too_long.status.success() && too_long.stderr.contains("256 octets"), "{too_long:?}");
    ensure!(status(kw02)?.drain.is_none());

    let flow = traffic(&cluster)?;
    thread::sleep(Duration::from_millis(500));
    let said = kw02.host.shell("manxctl node drain --text 'new disk'")?.success()?;
    ensure!(said.contains("its routes stay while packets come"), "{said}");
    // Long enough for the counters to say that nothing comes, were it so.
    thread::sleep(Duration::from_secs(8));
    let drain = status(kw02)?.drain.context("it is not drained")?;
    ensure!(drain.stage == DrainStage::Leaving && drain.packets.is_some_and(|rate| rate > 25.0), "{drain:?}");
    let path = cluster.node("kw01").host.sh(&format!("manxctl explain {BLOCK}"))?;
    ensure!(path.contains("local pref 0, communities graceful-shutdown"), "{path}");
    let node = kw02.host.sh("manxctl node status")?;
    ensure!(node.contains("(new disk)") && node.contains("packets a second still come"), "{node}");
    let late = kw02.host.output("manxctl node drain --wait 1")?;
    ensure!(!late.status.success() && late.stderr.contains("still come for its pods"), "{late:?}");
    let report = flow.stop()?;
    ensure!(report.lost.is_empty(), "{report}");

    let said = kw02.host.shell("manxctl node drain --text 'new disk' --wait 60")?.success()?;
    ensure!(said.ends_with("k8s-worker-02 has closed its sessions.\n"), "{said}");
    for host in ["km01", "kw01"] {
        let node = cluster.node(host);
        let routes = node.host.sh("ip route show proto manx")?;
        ensure!(!routes.contains(BLOCK), "{host}: {routes}");
        let history = node.host.sh("manxctl history --peer 192.168.80.125")?;
        ensure!(
            history.contains("Cease / Administrative Shutdown") && history.contains("new disk"),
            "{history}"
        );
    }
    cluster.node_mut("kw02").kill()?;
    cluster.node_mut("kw02").start()?;
    let kw02 = cluster.node("kw02");
    thread::sleep(Duration::from_secs(3));
    ensure!(stage(kw02)? == Some(DrainStage::Closed));
    for session in kw02.status()?.peers {
        ensure!(session.state != SessionState::Established, "{session:?}");
    }
    let again = kw02.host.sh("manxctl node undrain")?;
    ensure!(again.contains("announces its routes"), "{again}");
    settled(&cluster, Stage::Mesh, SETTLED)?;
    ensure!(stage(cluster.node("kw02"))?.is_none());

    // And at once, whatever comes.
    let flow = traffic(&cluster)?;
    let kw02 = cluster.node("kw02");
    kw02.host.sh("manxctl node drain --now --wait 20")?;
    ensure!(!flow.stop()?.lost.is_empty(), "nothing is lost though the route was withdrawn");
    kw02.host.sh("manxctl node undrain")?;
    settled(&cluster, Stage::Mesh, SETTLED)
}
