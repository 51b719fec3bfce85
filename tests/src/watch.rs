//! Witnesses: what happened to a host's routes while nobody looked, and what stood on a host before Manx came.

use std::{collections::BTreeSet, path::PathBuf, process::Command, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    host::Host,
    kernel::{self, Family},
    process::Daemon,
    wait::eventually,
};

/// A route that the witness must see before it can be believed (RFC 5737 keeps the prefix for documents).
const SIGN: &str = "198.51.100.0/24";

/// Writes down every change of a host's routes from now on.
#[derive(Debug)]
pub struct RouteWatch {
    monitor: Daemon,
}

impl RouteWatch {
    pub fn start(host: &Host, log: PathBuf) -> Result<RouteWatch> {
        let mut command = Command::new("ip");
        command.args(["-timestamp", "monitor", "route"]);
        let monitor = Daemon::start(host, "ip monitor", command, &log)?;
        eventually("ip monitor is listening", Duration::from_secs(5), || {
            host.sh(&format!("ip route replace blackhole {SIGN} proto 99"))?;
            host.sh(&format!("ip route del blackhole {SIGN} proto 99"))?;
            ensure!(monitor.log_text()?.contains(SIGN), "it has not seen a route come and go");
            Ok(())
        })?;
        Ok(RouteWatch { monitor })
    }

    /// The lines about deleted routes of this protocol.
    pub fn deleted(&self, protocol: &str) -> Result<Vec<String>> {
        let wanted = format!("proto {protocol}");
        let text = self.monitor.log_text()?;
        Ok(text
            .lines()
            .filter(|line| line.contains("Deleted") && line.contains(&wanted))
            .map(str::to_owned)
            .collect())
    }
}

/// Everything on a host that a daemon could leave behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    pub files: BTreeSet<PathBuf>,
    pub routes: BTreeSet<kernel::Route>,
    /// Interfaces by name with what is said of them, programs included, without numbers that change.
    pub links: BTreeSet<String>,
    pub rules: String,
    pub neighbours: BTreeSet<String>,
}

impl Traces {
    pub fn of(host: &Host) -> Result<Traces> {
        let mut files = BTreeSet::new();
        for dir in ["/run", "/var/lib/manx", "/sys/fs/bpf", "/etc/iproute2", "/tmp/manx"] {
            files.extend(host.paths_below(dir)?);
        }
        let mut routes = BTreeSet::new();
        for family in [Family::V4, Family::V6] {
            routes.extend(kernel::routes(host, family)?);
        }
        let links = host.sh("ip -oneline -details link show")?;
        let permanent = host.sh("ip neighbour show nud permanent")?;
        Ok(Traces {
            files,
            routes,
            links: links.lines().map(str::to_owned).collect(),
            rules: host.sh("ip rule show")?,
            neighbours: permanent.lines().map(str::to_owned).collect(),
        })
    }
}
