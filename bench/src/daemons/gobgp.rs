//! GoBGP 3 with a neighbour for each client. It passes routes on whose community forbids that (NO_ADVERTISE); where
//! a scenario counts on the community, a policy says the same.

use std::{fmt::Write, path::Path, process::Command};

use anyhow::Result;

use crate::scenario::{ASN, DAEMON, Play, Scenario, client};

const NO_ADVERTISE: &str = r#"[global.apply-policy.config]
export-policy-list = ["well-known"]
default-export-policy = "accept-route"
[[defined-sets.bgp-defined-sets.community-sets]]
community-set-name = "no-advertise"
community-list = ["65535:65282"]
[[policy-definitions]]
name = "well-known"
[[policy-definitions.statements]]
[policy-definitions.statements.conditions.bgp-conditions.match-community-set]
community-set = "no-advertise"
[policy-definitions.statements.actions]
route-disposition = "reject-route"
"#;

pub fn command(scenario: &Scenario, dir: &Path) -> Result<Command> {
    let mut text = format!("[global.config]\nas = {ASN}\nrouter-id = \"{DAEMON}\"\n");
    if matches!(scenario.play, Play::IntoRib { .. }) {
        text.push_str(NO_ADVERTISE);
    }
    for number in 0..scenario.clients() {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[[neighbors]]\n\
             [neighbors.config]\nneighbor-address = \"{}\"\npeer-as = {ASN}\n\
             [neighbors.transport.config]\npassive-mode = true\n\
             [neighbors.route-reflector.config]\n\
             route-reflector-client = true\nroute-reflector-cluster-id = \"224.0.0.1\"\n",
            client(number)
        );
    }
    let config = super::write(dir, "gobgpd.toml", &text)?;
    let mut command = Command::new("gobgpd");
    command.args(["--log-level", "warn", "--pprof-disable", "--api-hosts", "127.0.0.1:50051"]);
    command.arg("--config-file").arg(config);
    Ok(command)
}
