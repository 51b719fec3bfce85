//! The article's cluster: km01, kw01 and kw02 on one switch behind 192.168.80.2, two pods on each worker, and on each
//! node Manx or BIRD. One directory of resources serves all three, at /etc/manx on every host.

use std::{
    fmt::Write,
    fs, mem,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use manx_api::{Counters, DataplaneStatus, Explanation, NodeStatus, PeerKind, Routes, SessionState};
use serde::de::DeserializeOwned;

use crate::{
    bird::{self, Bird},
    host::{Host, Pod},
    lab::{Lab, UPLINK},
    netns::Netns,
    plan::Plan,
    process::{Daemon, Finished, tail},
    programs,
    story::DOCUMENTS,
    wait::eventually,
};

/// A node as the article describes it.
#[derive(Debug)]
pub struct Role {
    /// The host's name.
    pub host: &'static str,
    /// The Node resource's.
    pub resource: &'static str,
    pub address: Ipv4Addr,
    /// The block that it owns, and the pods in it.
    pub block: Option<(&'static str, [Ipv4Addr; 2])>,
}

pub const ROLES: [Role; 3] = [
    Role { host: "km01", resource: "k8s-master-01", address: Ipv4Addr::new(192, 168, 80, 121), block: None },
    Role {
        host: "kw01",
        resource: "k8s-worker-01",
        address: Ipv4Addr::new(192, 168, 80, 124),
        block: Some(("172.16.36.192/26", [Ipv4Addr::new(172, 16, 36, 193), Ipv4Addr::new(172, 16, 36, 194)])),
    },
    Role {
        host: "kw02",
        resource: "k8s-worker-02",
        address: Ipv4Addr::new(192, 168, 80, 125),
        block: Some(("172.16.118.64/26", [Ipv4Addr::new(172, 16, 118, 65), Ipv4Addr::new(172, 16, 118, 66)])),
    },
];

/// The file with what the article's author has before he begins.
pub const CLUSTER: &str = "1-cluster.yaml";

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 80, 2);
const NETWORK_LENGTH: u8 = 24;
/// From exec to an answer on the local API; the programs have to be loaded before.
const STARTED: Duration = Duration::from_secs(15);
/// Lines of a log in a message about what failed.
const LOG_SHOWN: usize = 40;
const STOPPED: Duration = Duration::from_secs(10);
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: daemons and pods, then hosts, then the switch.
    pub nodes: Vec<Node>,
    pub lab: Lab,
}

#[derive(Debug)]
pub struct Node {
    pub role: &'static Role,
    speaker: Option<Speaker>,
    is_bird: bool,
    /// What manxd is told besides the node's name, from its next start on.
    pub flags: Vec<&'static str>,
    pub pods: Vec<Pod>,
    pub host: Host,
    logs: PathBuf,
}

#[derive(Debug)]
enum Speaker {
    Manx(Daemon),
    Bird(Bird),
}

/// A BGP session, whoever speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub peer: IpAddr,
    pub kind: Option<PeerKind>,
    pub established: bool,
    /// As the speaker puts it.
    pub text: String,
    /// How often it was established; BIRD does not say.
    pub times_established: Option<u64>,
}

impl Cluster {
    /// Hosts, pods and resources as the article finds them; nobody speaks BGP yet. `birds` are hosts by name.
    pub fn new(birds: &[&str]) -> Result<Cluster> {
        Cluster::with_programs(birds, &programs::directory()?)
    }

    /// The same with `manxd` and `manxctl` of this directory.
    pub fn with_programs(birds: &[&str], programs: &Path) -> Result<Cluster> {
        for name in birds {
            if !ROLES.iter().any(|role| role.host == *name) {
                bail!("there is no host {name}: km01, kw01 or kw02");
            }
        }
        let mut lab = Lab::new()?;
        fs::copy(programs::workspace().join(SEED).join(CLUSTER), lab.store().join(CLUSTER))?;
        lab.gateway(GATEWAY, NETWORK_LENGTH)?;
        let mut nodes = Vec::new();
        for role in &ROLES {
            nodes.push(Node::new(&mut lab, role, programs, birds.contains(&role.host))?);
        }
        Ok(Cluster { nodes, lab })
    }

    /// Starts the speaker of every node.
    pub fn start(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Node::start)
    }

    /// The node on this host.
    pub fn node(&self, host: &str) -> &Node {
        self.nodes.iter().find(|n| n.role.host == host).expect("hosts are km01, kw01 and kw02")
    }

    pub fn node_mut(&mut self, host: &str) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.role.host == host).expect("hosts are km01, kw01 and kw02")
    }

    pub fn workers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| n.role.block.is_some())
    }

    /// `manxctl apply -f` on km01 with one of the article's documents, then what keeps BIRD's configuration in step.
    pub fn apply(&self, document: &str) -> Result<String> {
        let said = self.run_in_workspace(&apply_line(document))?.success()?;
        self.configure_birds()?;
        Ok(said)
    }

    /// Runs a line on km01, in the repository's root.
    pub fn run_in_workspace(&self, line: &str) -> Result<Finished> {
        let root = programs::workspace().display();
        self.node("km01").host.shell(&format!("cd '{root}' && {line}"))
    }

    /// From now on changes are carried out at once, as in BIRD: no session and no route is kept for another's sake.
    pub fn keep_nothing(&self) -> Result<()> {
        let mut text = String::new();
        for role in &ROLES {
            let _infallible = write!(
                text,
                "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata:\n  name: node.{}\n  annotations: \
                 {{manx.dev/closeAfter: 0s, manx.dev/holdRoutes: 0s}}\nspec: {{}}\n---\n",
                role.resource
            );
        }
        Ok(fs::write(self.lab.store().join("at-once.yaml"), text)?)
    }

    pub fn configure_birds(&self) -> Result<()> {
        for node in &self.nodes {
            if let Some(Speaker::Bird(bird)) = &node.speaker {
                bird.configure(&node.host, &node.plan()?)?;
            }
        }
        Ok(())
    }

    /// Every namespace that holds part of the cluster.
    fn namespaces(&self) -> Vec<&Netns> {
        self.nodes
            .iter()
            .flat_map(|n| std::iter::once(&*n.host).chain(n.pods.iter().map(|pod| &**pod)))
            .collect()
    }

    /// Lets all of it run on in the hands of `keeper`, whose end is the cluster's.
    pub fn keep(self, keeper: Command) -> Result<Child> {
        let child = self.lab.hand_over(&self.namespaces(), keeper)?;
        // What is forgotten is neither killed nor removed.
        mem::forget(self);
        Ok(child)
    }
}

impl Node {
    fn new(lab: &mut Lab, role: &'static Role, programs: &Path, is_bird: bool) -> Result<Node> {
        let mut host = lab.host(role.host, role.address, NETWORK_LENGTH)?;
        host.sh(&format!("ip route add default via {GATEWAY} dev {UPLINK} proto static metric 100"))?;
        host.set_env("PATH", &format!("{}:{SYSTEM_PATH}", programs.display()));
        let mut pods = Vec::new();
        for (n, address) in role.block.iter().flat_map(|(_, pods)| pods).enumerate() {
            let mut pod = host.pod(&format!("{}-pod{}", role.host, n + 1), &[IpAddr::V4(*address)])?;
            pod.set_env("PATH", SYSTEM_PATH);
            pods.push(pod);
        }
        Ok(Node { role, speaker: None, is_bird, flags: Vec::new(), pods, host, logs: lab.logs() })
    }

    /// Starts its speaker and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        let log = self.log();
        let started = if self.is_bird {
            Bird::start(&self.host, &self.plan()?, &log).map(Speaker::Bird)
        } else {
            self.start_manxd(&log).map(Speaker::Manx)
        };
        self.speaker =
            Some(started.with_context(|| format!("{}\n{}", self.role.host, tail(&log, LOG_SHOWN)))?);
        Ok(())
    }

    fn start_manxd(&self, log: &Path) -> Result<Daemon> {
        let mut command = Command::new("manxd");
        command.args(["--node-name", self.role.resource]).args(&self.flags);
        let mut daemon = Daemon::start(&self.host, "manxd", command, log)?;
        eventually("manxd answers manxctl", STARTED, || {
            daemon.check_running()?;
            self.status()
        })?;
        Ok(daemon)
    }

    /// From its next start on Manx speaks there, or BIRD.
    pub fn set_bird(&mut self, is_bird: bool) {
        self.is_bird = is_bird;
    }

    pub fn is_bird(&self) -> bool {
        self.is_bird
    }

    /// The name of the program that speaks here.
    pub fn program(&self) -> &'static str {
        if self.is_bird { "bird" } else { "manxd" }
    }

    /// The protocol that iproute2 prints for its routes.
    pub fn protocol(&self) -> &'static str {
        if self.is_bird { "bird" } else { "manx" }
    }

    pub fn log(&self) -> PathBuf {
        self.logs.join(format!("{}-{}.log", self.role.host, self.program()))
    }

    pub fn daemon(&self) -> Result<&Daemon> {
        match &self.speaker {
            Some(Speaker::Manx(daemon)) => Ok(daemon),
            Some(Speaker::Bird(bird)) => Ok(bird.daemon()),
            None => bail!("{}: nothing speaks BGP", self.role.host),
        }
    }

    fn take_daemon(&mut self) -> Result<Daemon> {
        match self.speaker.take() {
            Some(Speaker::Manx(daemon)) => Ok(daemon),
            Some(Speaker::Bird(bird)) => Ok(bird.into_daemon()),
            None => bail!("{}: nothing speaks BGP", self.role.host),
        }
    }

    /// Ends its speaker by SIGKILL, which leaves it no time for anything.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.take_daemon()?.kill()
    }

    /// Ends its speaker by SIGTERM.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.take_daemon()?.terminate(STOPPED)
    }

    /// `manxctl COMMAND -o json` on this host.
    fn ask<T: DeserializeOwned>(&self, command: &str) -> Result<T> {
        let text = self.host.sh(&format!("manxctl {command} -o json"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{}: manxctl {command} -o json: {text}", self.role.host))
    }

    pub fn plan(&self) -> Result<Plan> {
        self.ask(&format!("plan --node {}", self.role.resource))
    }

    pub fn status(&self) -> Result<NodeStatus> {
        self.ask("node status")
    }

    /// A path to `prefix` has come by km01, and is not one that is only kept.
    pub fn has_from_reflector(&self, prefix: &str) -> Result<bool> {
        let said = self.host.output(&format!("manxctl explain {prefix} -o json"))?;
        let explained: Explanation = match said.status.success() {
            true => serde_json::from_str(&said.stdout)?,
            false => return Ok(false),
        };
        let mut paths =
            explained.paths.iter().filter(|path| !path.stale && !path.standing.starts_with("refused"));
        Ok(paths.any(|path| path.from == Some(ROLES[0].address.into())))
    }

    pub fn bgp_routes(&self) -> Result<Routes> {
        self.ask("routes")
    }

    pub fn dataplane(&self) -> Result<DataplaneStatus> {
        self.ask("dataplane status")
    }

    pub fn counters(&self) -> Result<Counters> {
        self.ask("dataplane counters")
    }

    /// Its sessions by the peer's address, whoever speaks here.
    pub fn sessions(&self) -> Result<Vec<Session>> {
        let mut found: Vec<Session> = if self.is_bird {
            let protocols = bird::sessions(&self.host.sh("birdc show protocols")?);
            protocols
                .into_iter()
                .map(|p| {
                    let peer = p.peer.with_context(|| format!("BIRD's protocol {} names no peer", p.name))?;
                    let established = p.info.starts_with("Established");
                    Ok(Session { peer, kind: p.kind, established, text: p.info, times_established: None })
                })
                .collect::<Result<_>>()?
        } else {
            self.status()?
                .peers
                .into_iter()
                .map(|p| Session {
                    peer: p.address,
                    kind: Some(p.kind),
                    established: p.state == SessionState::Established,
                    text: format!("{} {}", p.state, p.info),
                    times_established: Some(p.times_established),
                })
                .collect()
        };
        found.sort_by_key(|session| session.peer);
        Ok(found)
    }
}

/// Where the article's resources are, in the repository.
pub const SEED: &str = "examples/seed";

/// The command that applies one of them, run in the repository's root. The first leaves the nodes without sessions, which
/// has to be agreed to.
pub fn apply_line(document: &str) -> String {
    let agreed = if document == DOCUMENTS[0] { "--yes " } else { "" };
    format!("manxctl apply {agreed}-f {SEED}/{document}")
}
