//! FRR's bgpd alone, without zebra: next hops count as reachable, and no FIB is written. Its clients are those of a
//! range of addresses: for every neighbour that is configured by address, FRR waits 50 ms longer, at most 10 s,
//! before it sends a first table (`BGP_PEER_ADJUST_SUBGROUP_COALESCE_TIME` in bgp_updgrp.h), and a range shows it
//! at its best.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::scenario::{ASN, CLIENTS, DAEMON};

pub const PROGRAM: &str = "/usr/lib/frr/bgpd";

pub fn command(dir: &Path) -> Result<Command> {
    let text = format!(
        "frr defaults traditional\n\
         router bgp {ASN}\n \
         bgp router-id {DAEMON}\n \
         bgp cluster-id 224.0.0.1\n \
         neighbor CLIENTS peer-group\n \
         neighbor CLIENTS remote-as {ASN}\n \
         bgp listen limit 5000\n \
         bgp listen range {CLIENTS} peer-group CLIENTS\n \
         address-family ipv4 unicast\n  \
           neighbor CLIENTS activate\n  \
           neighbor CLIENTS route-reflector-client\n \
         exit-address-family\n"
    );
    let config = super::write(dir, "bgpd.conf", &text)?;
    let mut command = Command::new(PROGRAM);
    command.args(["--no_kernel", "--no_zebra", "--skip_runas", "--vty_port", "0"]);
    command.args(["--log", "stdout", "--log-level", "warn", "--config_file"]).arg(config);
    command.arg("--pid_file").arg(dir.join("bgpd.pid")).arg("--vty_socket").arg(dir);
    Ok(command)
}
