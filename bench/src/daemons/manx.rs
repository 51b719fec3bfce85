//! manxd as a reflector without a dataplane: the clients are Node resources, and one BGPPeer joins them to it.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::scenario::{ASN, DAEMON, client};

/// The daemon that was built with this program, or what `MANXD` names.
pub fn program() -> PathBuf {
    let beside = || std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("manxd")));
    std::env::var_os("MANXD").map(PathBuf::from).or_else(beside).unwrap_or_else(|| PathBuf::from("manxd"))
}

pub fn command(clients: usize, dir: &Path) -> Result<Command> {
    let store = dir.join("resources");
    fs::create_dir_all(&store)?;
    super::write(&store, "cluster.yaml", &resources(clients))?;
    let mut command = Command::new(program());
    command.args(["--node-name", "reflector", "--dataplane", "off", "--log-level", "warn"]);
    command.arg("--datastore").arg(format!("dir:{}", store.display()));
    command.arg("--api-socket").arg(dir.join("manxd.sock"));
    Ok(command)
}

fn resources(clients: usize) -> String {
    let mut text = format!(
        "apiVersion: projectcalico.org/v3\n\
         kind: BGPConfiguration\n\
         metadata: {{name: default}}\n\
         spec: {{nodeToNodeMeshEnabled: false, asNumber: {ASN}}}\n\
         ---\n\
         apiVersion: projectcalico.org/v3\n\
         kind: BGPPeer\n\
         metadata: {{name: clients}}\n\
         spec: {{nodeSelector: \"role == 'reflector'\", peerSelector: \"role == 'client'\"}}\n\
         ---\n\
         apiVersion: projectcalico.org/v3\n\
         kind: Node\n\
         metadata: {{name: reflector, labels: {{role: reflector}}}}\n\
         spec: {{bgp: {{ipv4Address: {DAEMON}/16, routeReflectorClusterID: 224.0.0.1}}}}\n"
    );
    // Nothing outside of pools is passed on. Writing to a String cannot fail.
    for (name, cidr) in [("routes", "16.0.0.0/4"), ("blocks", "172.16.0.0/12"), ("last", "192.0.2.0/24")] {
        let _ = write!(
            text,
            "---\n\
             apiVersion: projectcalico.org/v3\n\
             kind: IPPool\n\
             metadata: {{name: {name}}}\n\
             spec: {{cidr: {cidr}, blockSize: 26}}\n"
        );
    }
    for number in 0..clients {
        let _ = write!(
            text,
            "---\n\
             apiVersion: projectcalico.org/v3\n\
             kind: Node\n\
             metadata: {{name: client-{number}, labels: {{role: client}}}}\n\
             spec: {{bgp: {{ipv4Address: {}/16}}}}\n",
            client(number)
        );
    }
    text
}
