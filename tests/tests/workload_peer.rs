//! A pod that peers with its node: BIRD in the pod dials the address that its node shows it, and what it announces is
//! routed to the pod.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_api::{Dialler, PeerKind, SessionState};
use manx_tests::{process::Daemon, story::mesh, wait::eventually};

const UP: Duration = Duration::from_secs(20);
const STATUS: &str = "/var/run/calico/endpoint-status/k8s+default+router+eth0";

/// As Felix gives it to the interfaces of such pods.
const SHOWN: &str = "169.254.0.179";

const BIRD: &str = "
router id 172.16.36.193;
protocol device {}
protocol static { ipv4; route 203.0.113.0/24 blackhole; }
protocol bgp node {
  local 172.16.36.193 as 65010;
  neighbor 169.254.0.179 as 64512;
  multihop; connect delay time 1; connect retry time 1;
  ipv4 { import all; export where source = RTS_STATIC; next hop self; };
}
";

#[test]
fn a_pod_that_felix_names_peers_with_its_node_and_what_it_announces_leads_to_it() -> Result<()> {
    let cluster = mesh()?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    let pod = &kw01.pods[0];
    ensure!(pod.address().to_string() == "172.16.36.193");
    let own_as = kw01.status()?.as_number.context("no AS")?;
    kw01.host.sh(&format!("ip addr add {SHOWN}/32 dev {}", pod.interface()))?;
    std::fs::write(
        cluster.lab.store().join("router.yaml"),
        "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: routers}\n\
         spec: {node: k8s-worker-01, localWorkloadSelector: app == 'router', asNumber: 65010}\n",
    )?;
    let config = BIRD.replace("64512", &own_as.to_string());
    pod.shell(&format!("mkdir -p /run/router && cat > /run/router/bird.conf <<'EOF'\n{config}\nEOF"))?
        .success()?;
    let mut command = Command::new("bird");
    command.args(["-f", "-c", "/run/router/bird.conf", "-s", "/run/router/bird.ctl"]);
    let bird = Daemon::start(pod, "bird", command, &cluster.lab.logs().join("router.log"))?;
    // Nobody has said that this pod may: it is refused.
    std::thread::sleep(Duration::from_secs(3));
    ensure!(!kw01.status()?.peers.iter().any(|peer| peer.address == pod.address()));

    let status = r#"{"ifaceName":"cali","ipv4Nets":["172.16.36.193/32"],"bgpPeerName":"routers"}"#;
    kw01.host.write_file(STATUS, status)?;
    eventually("the session stands", UP, || {
        let status = kw01.status()?;
        let peer = status.peers.iter().find(|peer| peer.address == pod.address()).context("no such peer")?;
        ensure!(peer.state == SessionState::Established, "{peer:?}");
        ensure!(peer.kind == PeerKind::LocalWorkload && peer.resource == "BGPPeer/routers", "{peer:?}");
        let dialled_by = peer.connection.as_ref().map(|connection| connection.dialled_by);
        ensure!(dialled_by == Some(Dialler::Remote), "{peer:?}");
        Ok(())
    })?;
    eventually("what it announces leads to it", UP, || {
        let said = kw01.host.sh("ip route show 203.0.113.0/24")?;
        let wanted = format!("via 172.16.36.193 dev {} proto manx", pod.interface());
        ensure!(said.contains(&wanted), "{said}");
        Ok(())
    })?;
    eventually("it learns where the others are", UP, || {
        let said = pod.sh("birdc -s /run/router/bird.ctl show route 172.16.118.64/26 all")?;
        ensure!(said.contains(&format!("BGP.next_hop: {SHOWN}")), "{said}");
        Ok(())
    })?;
    ensure!(kw02.host.sh("ip route show 203.0.113.0/24")?.is_empty(), "it lies in no pool");
    let shown = kw01.host.sh("manxctl node status")?;
    ensure!(shown.contains("| 172.16.36.193  | local workload    | up"), "{shown}");

    kw01.host.sh(&format!("rm {STATUS}"))?;
    eventually("the session goes with the pod's status, and its route", UP, || {
        ensure!(!kw01.status()?.peers.iter().any(|peer| peer.address == pod.address()), "it is there");
        ensure!(kw01.host.sh("ip route show 203.0.113.0/24")?.is_empty(), "its route is there");
        Ok(())
    })?;
    drop(bird);
    Ok(())
}
