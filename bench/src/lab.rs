//! The two network namespaces of a run: the daemon's, and the generator's with all clients' addresses, joined by a
//! veth. Both are anonymous and gone when the run is.

use std::{fmt::Write, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use manx_tests::netns::Netns;

use crate::scenario::{CLIENTS, DAEMON, GENERATOR, client};

#[derive(Debug)]
pub struct Lab {
    pub daemon: Netns,
    pub generator: Netns,
}

impl Lab {
    pub fn new(clients: usize, scratch: &Path) -> Result<Lab> {
        // With process ids of their own: what was started inside ends with them, whatever becomes of us.
        let daemon = Netns::with_own_system("daemon", || Ok(()))?;
        let generator = Netns::with_own_system("generator", || Ok(()))?;
        daemon.sh("ip link set lo up")?;
        generator.sh("ip link set lo up")?;
        join(&daemon, &generator)?;
        daemon.sh(&format!("ip address add {DAEMON}/16 dev bench0"))?;
        generator.sh(&format!("ip address add {GENERATOR}/16 dev bench1"))?;
        daemon.sh("ip link set bench0 up")?;
        generator.sh("ip link set bench1 up")?;
        // Every address of the range is its own: no thousand addresses have to be added.
        generator.sh(&format!("ip route add local {CLIENTS} dev lo"))?;
        // Permanent neighbours: a thousand clients are more than the kernel's default for entries that it may
        // collect, and address resolution is not what is measured.
        let hardware = address_of(&generator, "bench1")?;
        let mut batch = String::new();
        for number in 0..clients {
            // Writing to a String cannot fail.
            let _ = writeln!(
                batch,
                "neighbour replace {} lladdr {hardware} dev bench0 nud permanent",
                client(number)
            );
        }
        let file = scratch.join("neighbours");
        fs::write(&file, batch)?;
        daemon.sh(&format!("ip -batch {}", file.display()))?;
        Ok(Lab { daemon, generator })
    }
}

/// From outside, where both namespaces have a process id.
fn join(daemon: &Netns, generator: &Netns) -> Result<()> {
    let (one, other) = (daemon.pid().to_string(), generator.pid().to_string());
    let mut command = Command::new("nsenter");
    command.args(["--target", &one, "--net", "ip", "link", "add", "bench0", "type", "veth"]);
    let output =
        command.args(["peer", "name", "bench1", "netns", &other]).output().context("cannot run nsenter")?;
    ensure!(
        output.status.success(),
        "cannot make a veth: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

fn address_of(ns: &Netns, interface: &str) -> Result<String> {
    let line = ns.sh(&format!("ip -o link show dev {interface}"))?;
    let mut words = line.split_whitespace().skip_while(|word| *word != "link/ether");
    words.nth(1).map(str::to_owned).with_context(|| format!("no link/ether in {line}"))
}
