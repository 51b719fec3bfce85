//! Thirty nodes with a pod each, and traffic from each pod to the next: the mesh, reflectors that come, move and go, another
//! AS, and the mesh again.

use std::{
    fmt::Write,
    fs,
    net::{IpAddr, Ipv4Addr},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use manx_api::{NodeStatus, SessionState};
use manx_tests::{
    host::{Host, Pod},
    lab::Lab,
    process::Daemon,
    programs,
    story::ping,
    traffic::End,
    wait::eventually,
};

use crate::{
    runs,
    watched::{Control, Outcome, Watched},
};

const NODES: usize = 30;
/// 50 packets a second.
const PACE: Duration = Duration::from_millis(20);
const UP: Duration = Duration::from_secs(60);
const REST: Duration = Duration::from_secs(1);
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

struct Node {
    pod: Pod,
    _daemon: Daemon,
    host: Host,
}

struct Thirty {
    nodes: Vec<Node>,
    control: Control,
    _lab: Lab,
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 80, 10 + number as u8)
}

fn resources() -> String {
    let mut text = String::from(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pods}\nspec: {cidr: 172.16.0.0/16, \
         ipipMode: Never, natOutgoing: false}\n",
    );
    for number in 0..NODES {
        let _infallible = write!(
            text,
            "---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: n{number}\n  labels: {{node: n{number}}}\n\
             spec:\n  bgp:\n    ipv4Address: {}/24\n---\napiVersion: projectcalico.org/v3\nkind: BlockAffinity\nmetadata: \
             {{name: n{number}-172-16-{number}-0-26}}\nspec: {{cidr: 172.16.{number}.0/26, node: n{number}, state: \
             confirmed, deleted: \"false\"}}\n",
            address(number)
        );
    }
    text
}

impl Thirty {
    fn new() -> Result<Thirty> {
        let mut lab = Lab::new()?;
        fs::write(lab.store().join("nodes.yaml"), resources())?;
        lab.gateway([192, 168, 80, 2].into(), 24)?;
        let control = Control::new(&mut lab, [[192, 168, 80, 201].into(), [192, 168, 80, 202].into()])?;
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let name = format!("n{number}");
            let mut host = lab.host(&name, address(number), 24)?;
            // A host answers for the pods' gateway only where it has a way to it.
            host.sh("ip route add default via 192.168.80.2 dev ens33")?;
            host.set_env("PATH", &format!("{}:{SYSTEM_PATH}", programs::directory()?.display()));
            let pod = host.pod(&format!("pod{number}"), &[IpAddr::V4([172, 16, number as u8, 1].into())])?;
            let mut command = Command::new("manxd");
            command.args(["--node-name", &name]);
            let daemon = Daemon::start(&host, "manxd", command, &lab.logs().join(format!("{name}.log")))?;
            nodes.push(Node { pod, _daemon: daemon, host });
        }
        let all = Thirty { nodes, control, _lab: lab };
        all.settled(NODES - 1)?;
        Ok(all)
    }

    /// On every node all sessions are up, `peers` at least, and nothing is kept of others.
    fn settled(&self, peers: usize) -> Result<()> {
        for node in &self.nodes {
            eventually("a node is settled", UP, || {
                let text = node.host.sh("manxctl node status -o json")?;
                let status: NodeStatus = serde_json::from_str(&text)?;
                ensure!(status.peers.len() >= peers, "{} peers", status.peers.len());
                let down = status.peers.iter().find(|peer| peer.state != SessionState::Established);
                ensure!(down.is_none(), "{down:?}");
                ensure!(status.partings.is_empty(), "{:?}", status.partings);
                let routes = node.host.sh("ip -4 route show proto manx")?;
                ensure!(routes.lines().count() == NODES, "{routes}");
                Ok(())
            })
            .with_context(|| node.host.name().to_owned())?;
        }
        Ok(())
    }

    fn apply(&self, text: &str) -> Result<()> {
        let line = format!("manxctl apply -f - <<'EOF'\n{text}\nEOF");
        self.nodes[0].host.shell(&line)?.success().map(drop)
    }

    fn run(&self, line: &str) -> Result<()> {
        self.nodes[0].host.sh(line)?;
        Ok(())
    }
}

fn reflector(number: usize, cluster: Option<&str>) -> String {
    let (label, id) = match cluster {
        Some(id) => (", rr: \"1\"", format!("    routeReflectorClusterID: {id}\n")),
        None => ("", String::new()),
    };
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: n{number}\n  labels: {{node: n{number}{label}}}\n\
         spec:\n  bgp:\n    ipv4Address: {}/24\n{id}",
        address(number)
    )
}

fn configuration(mesh: bool, asn: u32) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{name: default}}\nspec: \
         {{nodeToNodeMeshEnabled: {mesh}, asNumber: {asn}}}\n"
    )
}

const PEER: &str = "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: reflectors}\nspec: \
                    {nodeSelector: all(), peerSelector: has(rr)}\n";

fn walk(all: &Thirty, patient: bool) -> Result<Outcome> {
    let end = |number: usize| {
        let pod = &all.nodes[number % NODES].pod;
        End { ns: pod, address: pod.address() }
    };
    let pairs: Vec<_> = (0..NODES).map(|number| (end(number), end(number + 1))).collect();
    for (from, to) in &pairs {
        eventually("a pod reaches the next", UP, || ping(from.ns, to.address))?;
    }
    let mut watched = Watched::start(&all.control, &pairs, PACE)?;
    thread::sleep(REST);
    let mut step = |what: &str, peers: usize, act: &dyn Fn() -> Result<()>| -> Result<()> {
        watched.step(what);
        act().with_context(|| what.to_owned())?;
        if patient {
            all.settled(peers)?;
            watched.step("all was settled");
            thread::sleep(REST);
        }
        Ok(())
    };
    step("n0 and n1 reflect, and the mesh is off", 2, &|| {
        let nodes = reflector(0, Some("1.1.1.1")) + &reflector(1, Some("1.1.1.2"));
        all.apply(&(configuration(false, 64_512) + &nodes + PEER))
    })?;
    step("n0 reflects no longer, and n2 does", 2, &|| {
        all.apply(&(reflector(0, None) + &reflector(2, Some("1.1.1.3"))))
    })?;
    step("all are in another AS", 2, &|| all.apply(&configuration(false, 65_000)))?;
    step("the mesh is on", 2, &|| all.apply(&configuration(true, 65_000)))?;
    step("nobody reflects", 2, &|| {
        all.apply(&(reflector(1, None) + &reflector(2, None)))?;
        all.run("manxctl delete bgppeer reflectors")
    })?;
    step("all are in the AS of before", 29, &|| all.apply(&configuration(true, 64_512)))?;
    all.settled(NODES - 1)?;
    thread::sleep(REST);
    watched.stop()
}

#[test]
fn thirty_nodes_change_reflectors_and_no_packet_is_lost() -> Result<()> {
    let all = Thirty::new()?;
    let mut lost = Vec::new();
    for run in 0..runs(2)? {
        let outcome = walk(&all, run % 2 == 0)?;
        println!("run {run}: {} of {} packets lost", outcome.lost, outcome.sent);
        print!("{}", outcome.told);
        lost.push(outcome.lost);
    }
    ensure!(lost.iter().all(|lost| *lost == 0), "lost: {lost:?}");
    Ok(())
}
