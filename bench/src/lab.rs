//! The two network namespaces of a run: the daemon's, and the generator's with all clients' addresses, joined by a
//! veth. Both are anonymous and gone when the run is.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result};
use manx_tests::netns::Netns;

use crate::scenario::{CLIENTS, DAEMON, GENERATOR, client};

#[derive(Debug)]
pub struct Lab {
    pub daemon: Netns,
    pub generator: Netns,
}

impl Lab {
    pub fn new(clients: usize, scratch: &Path) -> Result<Lab> {
        let daemon = Netns::new("daemon")?;
        let generator = Netns::new("generator")?;
        daemon.sh("ip link set lo up")?;
        generator.sh("ip link set lo up")?;
        daemon.sh(&format!("ip link add bench0 type veth peer name bench1 netns {}", generator.pid()))?;
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

fn address_of(ns: &Netns, interface: &str) -> Result<String> {
    let line = ns.sh(&format!("ip -o link show dev {interface}"))?;
    let mut words = line.split_whitespace().skip_while(|word| *word != "link/ether");
    words.nth(1).map(str::to_owned).with_context(|| format!("no link/ether in {line}"))
}
