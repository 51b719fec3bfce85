//! A demo that is left standing: a process that does nothing but hold it, and whose end is its end.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use manx_tests::cluster::Cluster;
use nix::sys::signal::{SigSet, Signal};

use super::screen::Screen;
use crate::tree;

/// Hands the cluster to a process of its own, and says how to get in and how to end it.
pub fn leave(screen: &Screen, cluster: Cluster) -> Result<()> {
    let dir = cluster.lab.dir().to_owned();
    let mut keeper = Command::new(env::current_exe().context("cannot find this program")?);
    keeper.args(["demo", "--hold"]).arg(&dir);
    keeper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    let mut lines = Vec::new();
    let programs = tree::programs();
    for node in &cluster.nodes {
        lines.push(format!(
            "{:<14}  nsenter -t {} -n -m -u env PATH={}:$PATH bash",
            node.role.host,
            node.host.pid(),
            programs.display()
        ));
        for pod in &node.pods {
            lines.push(format!("{:<14}  nsenter -t {} -n bash", pod.address().to_string(), pod.pid()));
        }
    }
    let child = cluster.keep(keeper)?;
    screen.say("It stays as it is. To enter a node or a pod:");
    screen.lines(&lines);
    screen.say("Resources are in /etc/manx on every node, logs are in");
    screen.lines(&[dir.join("logs").display().to_string()]);
    screen.say("To take it down, to the last trace:");
    screen.lines(&[format!("kill {}", child.id())]);
    Ok(())
}

/// Waits for a signal to end, and removes the lab's directory. The rest goes when this process has gone.
pub fn hold(dir: &Path) -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    // The terminal that it was started from may close.
    while signals.wait()? == Signal::SIGHUP {}
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
}
