//! Manx among speakers by others: nodes with an address of each family, and the resources that make their peers.

use std::{
    env,
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result};
use manx_api::{
    Counters, DataplaneStatus, Dialler, Explanation, Happened, History, NodeStatus, NotificationStatus,
    PeerStatus, RouteRow, Routes, SessionState,
};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use crate::{host::Host, process::Daemon, programs, wait::eventually};

const STARTED: Duration = Duration::from_secs(15);

/// A Node resource, and what belongs to it.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub ipv4: (Ipv4Addr, u8),
    pub ipv6: (Ipv6Addr, u8),
    /// Makes it a route reflector.
    pub cluster_id: Option<Ipv4Addr>,
    pub blocks: Vec<String>,
}

/// A BGPPeer of every node.
#[derive(Clone, Copy, Debug)]
pub struct BgpPeer {
    pub address: IpAddr,
    pub as_number: u32,
    /// Further fields of the spec, each behind a comma.
    pub more: &'static str,
}

/// The document for a cluster without a mesh.
pub fn resources(as_number: u32, pools: &[&str], nodes: &[Node], peers: &[BgpPeer]) -> String {
    let mut out = String::new();
    let mut resource = |kind: &str, name: &str, spec: &str| {
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata:\n  name: {name}\nspec: {{ {spec} }}\n"
        );
    };
    resource("BGPConfiguration", "default", &format!("nodeToNodeMeshEnabled: false, asNumber: {as_number}"));
    for (n, pool) in pools.iter().enumerate() {
        let size = if pool.contains(':') { 122 } else { 26 };
        resource(
            "IPPool",
            &format!("pool-{n}"),
            &format!("cidr: \"{pool}\", blockSize: {size}, ipipMode: Never, vxlanMode: Never"),
        );
    }
    for node in nodes {
        // What is not wanted goes at once, as it would with the others.
        let at_once = "annotations: {manx.dev/closeAfter: 0s, manx.dev/holdRoutes: 0s}";
        resource("BGPConfiguration", &format!("node.{}\n  {at_once}", node.name), "");
        let mut bgp = format!(
            "ipv4Address: {}/{}, ipv6Address: \"{}/{}\"",
            node.ipv4.0, node.ipv4.1, node.ipv6.0, node.ipv6.1
        );
        if let Some(cluster) = node.cluster_id {
            let _ = write!(bgp, ", routeReflectorClusterID: {cluster}");
        }
        resource("Node", &node.name, &format!("bgp: {{ {bgp} }}"));
        for (n, block) in node.blocks.iter().enumerate() {
            resource(
                "BlockAffinity",
                &format!("{}-{n}", node.name),
                &format!("state: confirmed, node: {}, cidr: \"{block}\"", node.name),
            );
        }
    }
    for (n, peer) in peers.iter().enumerate() {
        resource(
            "BGPPeer",
            &format!("peer-{n}"),
            &format!("peerIP: \"{}\", asNumber: {}{}", peer.address, peer.as_number, peer.more),
        );
    }
    out
}

/// A running manxd.
#[derive(Debug)]
pub struct Manx {
    node: String,
    flags: Vec<&'static str>,
    daemon: Option<Daemon>,
    log: PathBuf,
    pub host: Host,
}

/// A step of a session, as the history tells it.
#[derive(Clone, Debug)]
pub struct SessionChange {
    pub from: SessionState,
    pub to: SessionState,
    pub cause: String,
    pub notification: Option<NotificationStatus>,
    pub dialled_by: Option<Dialler>,
}

pub fn session_changes(history: &History) -> Vec<SessionChange> {
    let changes = history.events.iter().filter_map(|event| match event.what.clone() {
        Happened::Session { from, to, cause, notification, dialled_by, .. } => {
            Some(SessionChange { from, to, cause, notification, dialled_by })
        }
        _ => None,
    });
    changes.collect()
}

impl Manx {
    /// The host's name is the node's.
    pub fn start(host: Host, flags: &[&'static str], logs: &Path) -> Result<Manx> {
        let mut manx = Manx::idle(host, flags, logs)?;
        manx.start_again()?;
        Ok(manx)
    }

    /// A host where it can be started.
    pub fn idle(mut host: Host, flags: &[&'static str], logs: &Path) -> Result<Manx> {
        let mut path = vec![programs::directory()?];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let path = env::join_paths(path)?;
        host.set_env("PATH", path.to_str().context("PATH is no text")?);
        let (node, log) = (host.name().to_owned(), logs.join(format!("{}-manxd.log", host.name())));
        Ok(Manx { node, flags: flags.to_vec(), daemon: None, log, host })
    }

    /// Starts it after [`Manx::kill`], too.
    pub fn start_again(&mut self) -> Result<()> {
        let mut command = Command::new("manxd");
        command.args(["--node-name", &self.node]).args(&self.flags);
        let mut daemon = Daemon::start(&self.host, "manxd", command, &self.log)?;
        eventually("manxd answers manxctl", STARTED, || {
            daemon.check_running()?;
            self.status()
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Its process's number as this process sees it.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon.as_ref().context("manxd does not run")?.signal(signal)
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.daemon.take().context("manxd does not run")?.kill()
    }

    fn ask<T: DeserializeOwned>(&self, command: &str) -> Result<T> {
        let text = self.host.sh(&format!("manxctl {command} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("{}: manxctl {command}: {text}", self.node))
    }

    pub fn status(&self) -> Result<NodeStatus> {
        self.ask("node status")
    }

    pub fn peer(&self, address: IpAddr) -> Result<PeerStatus> {
        let peers = self.status()?.peers;
        peers.into_iter().find(|peer| peer.address == address).with_context(|| format!("no peer {address}"))
    }

    pub fn route(&self, prefix: &str) -> Result<RouteRow> {
        let routes: Routes = self.ask("routes")?;
        let found = routes.routes.into_iter().find(|row| row.prefix.to_string() == prefix);
        found.with_context(|| format!("{}: no route to {prefix}", self.node))
    }

    pub fn dataplane(&self) -> Result<DataplaneStatus> {
        self.ask("dataplane status")
    }

    /// Since the maps were made.
    pub fn counters(&self) -> Result<Counters> {
        self.ask("dataplane counters")
    }

    pub fn explain(&self, prefix: &str) -> Result<Explanation> {
        self.ask(&format!("explain {prefix}"))
    }

    /// What became of the session with a peer, oldest first.
    pub fn history(&self, peer: IpAddr) -> Result<Vec<SessionChange>> {
        Ok(session_changes(&self.ask::<History>(&format!("history --peer {peer}"))?))
    }

    /// `manxctl peer …`, in the words of its command line.
    pub fn order(&self, words: &str) -> Result<()> {
        self.host.shell(&format!("manxctl peer {words}"))?.success().map(drop)
    }

    pub fn log_text(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| format!("{}", self.log.display()))
    }

    /// The end of its log, for messages.
    pub fn account(&self) -> String {
        format!("{}\n{}", self.log.display(), crate::process::tail(&self.log, 30))
    }
}
