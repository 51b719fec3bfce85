//! Programs of the system that tests and demo run. Debian's packages where there is apt; elsewhere the list is
//! printed, and that is all.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use super::{Args, Found};
use crate::progress;

struct Package {
    /// As Debian calls it.
    name: &'static str,
    /// A program of it, which tells whether it is there on any system.
    program: &'static str,
    why: &'static str,
}

const PACKAGES: &[Package] = &[
    Package { name: "gcc", program: "cc", why: "links Rust programs" },
    Package { name: "libc6-dev", program: "", why: "links Rust programs" },
    Package { name: "ca-certificates", program: "", why: "crates and compilers come by TLS" },
    Package {
        name: "protobuf-compiler",
        program: "protoc",
        why: "makes etcd's messages, which the datastore speaks",
    },
    Package {
        name: "libprotobuf-dev",
        program: "",
        why: "makes etcd's messages, which the datastore speaks",
    },
    Package { name: "etcd-server", program: "etcd", why: "the datastore of the tests of a fleet" },
    Package { name: "etcd-client", program: "etcdctl", why: "compacts the datastore of those tests" },
    Package { name: "openssl", program: "openssl", why: "makes the certificates of those tests" },
    Package {
        name: "bird2",
        program: "bird",
        why: "the other BGP speaker of interop tests and of demo --bird",
    },
    Package { name: "frr", program: "vtysh", why: "another BGP speaker of the interop tests" },
    Package { name: "gobgpd", program: "gobgpd", why: "another BGP speaker of the interop tests" },
    Package { name: "exabgp", program: "exabgp", why: "another BGP speaker of the interop tests" },
    Package { name: "tshark", program: "tshark", why: "judges what the speakers send each other" },
    Package { name: "bpftool", program: "bpftool", why: "shows the maps in the demo" },
    Package {
        name: "iproute2",
        program: "ip",
        why: "lays out the lab's namespaces; the tests look at routes with it",
    },
    Package {
        name: "ethtool",
        program: "ethtool",
        why: "switches offloads of the tests' and benchmarks' interfaces",
    },
    Package { name: "iputils-ping", program: "ping", why: "the demo's and the tests' traffic" },
    Package {
        name: "net-tools",
        program: "netstat",
        why: "shows connections in the demo as the article does",
    },
    Package {
        name: "nftables",
        program: "nft",
        why: "makes connection tracking for the tests of its detection",
    },
    Package {
        name: "iptables",
        program: "iptables-nft-restore",
        why: "writes rules as kube-proxy, Calico, Docker and ufw do, for the tests of what is found in them",
    },
    Package {
        name: "conntrack",
        program: "conntrack",
        why: "looks into and flushes tables of connections in the tests of Services and policies",
    },
    Package {
        name: "prometheus-bird-exporter",
        program: "prometheus-bird-exporter",
        why: "reads BIRD's socket in the tests of it",
    },
    Package {
        name: "prometheus",
        program: "prometheus",
        why: "scrapes the nodes, and judges metrics, alert rules and the dashboard in the tests of them",
    },
    Package {
        name: "ipset",
        program: "ipset",
        why: "makes sets that expire, for the tests of rules with them",
    },
];

/// What packages start when they are installed.
const SERVICES: &[(&str, &str)] = &[
    ("etcd-server", "etcd.service"),
    ("bird2", "bird.service"),
    ("frr", "frr.service"),
    ("gobgpd", "gobgpd.service"),
    ("exabgp", "exabgp.service"),
    ("prometheus-bird-exporter", "prometheus-bird-exporter.service"),
    ("prometheus", "prometheus.service"),
];

pub fn find(_: &Args) -> Result<Found> {
    let missing: Vec<&str> = missing().iter().map(|package| package.name).collect();
    if missing.is_empty() {
        let names: Vec<&str> = PACKAGES.iter().map(|package| package.name).collect();
        return Ok(Found::Present(names.join(" ")));
    }
    Ok(Found::Missing(missing.join(" ")))
}

pub fn bring(_: &Args) -> Result<()> {
    let missing = missing();
    for package in &missing {
        println!("    {:<16} {}", package.name, package.why);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if !has_apt() {
        bail!("no apt here; install by your system's own means what has these programs: {}", names.join(" "));
    }
    if !nix::unistd::Uid::effective().is_root() {
        bail!("that needs root: sudo apt-get install --no-install-recommends {}", names.join(" "));
    }
    if !names.iter().all(|name| is_known(name)) {
        update_lists()?;
    }
    let install = || {
        let mut command = Command::new("apt-get");
        command.args(["install", "--yes", "--no-install-recommends"]).args(&names);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        progress::run("apt-get install", &mut command)
    };
    // Old lists name versions that the mirror has dropped.
    install().or_else(|_| update_lists().and_then(|()| install()))?;
    if on_path("systemctl") {
        // The lab runs its own daemons, and this machine shall not route because somebody ran its tests. Where
        // systemd does not run there is nothing to stop.
        for (_, service) in SERVICES.iter().filter(|(package, _)| names.contains(package)) {
            let _ = Command::new("systemctl").args(["disable", "--now", service]).output();
        }
    }
    Ok(())
}

pub fn has_apt() -> bool {
    on_path("apt-get") && on_path("dpkg")
}

pub fn update_lists() -> Result<()> {
    progress::run("apt-get update", Command::new("apt-get").arg("update"))
}

/// Whether apt's lists have a package of that name.
pub fn is_known(name: &str) -> bool {
    progress::first_line(Command::new("apt-cache").args(["show", "--no-all-versions", name])).is_some()
}

fn missing() -> Vec<&'static Package> {
    let apt = has_apt();
    PACKAGES.iter().filter(|package| if apt { !is_installed(package) } else { !is_there(package) }).collect()
}

fn is_installed(package: &Package) -> bool {
    let status = progress::first_line(Command::new("dpkg-query").args([
        "-W",
        "-f=${db:Status-Status}\n",
        package.name,
    ]));
    // A program from elsewhere (a newer one, built by hand) serves as well as the package.
    status.as_deref() == Some("installed") || (!package.program.is_empty() && on_path(package.program))
}

/// What has no program to look for is taken to be there: the build will say.
fn is_there(package: &Package) -> bool {
    package.program.is_empty() || on_path(package.program)
}

/// Also where root's programs are, which an ordinary user's PATH leaves out.
fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|dir| dir.join(program).is_file())
}

/// Packages that apt would fetch for `package`, itself included, by name.
pub fn closure(package: &str) -> Result<Vec<String>> {
    let output = Command::new("apt-cache")
        .args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks"])
        .args(["--no-replaces", "--no-enhances", package])
        .stderr(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_alphanumeric()) && !line.contains(':'))
        .map(str::to_owned)
        .collect())
}
