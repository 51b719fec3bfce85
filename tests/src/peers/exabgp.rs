//! ExaBGP 4, which announces what it is told and prints what it hears: it has no table, passes nothing on, and
//! writes no route. A shell script of its own is its API's other end: it appends every UPDATE, as JSON, to a file,
//! and hands on commands from a pipe.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Learned, Marks, Program, Side, Speaking, family_of};
use crate::{host::Host, process::Daemon, wait::eventually};

const CONFIG: &str = "/etc/exabgp/exabgp.conf";
const SCRIPT: &str = "/etc/exabgp/api.sh";
const HEARD: &str = "/run/exabgp-heard";
const COMMANDS: &str = "/run/exabgp-commands";
const STARTED: Duration = Duration::from_secs(10);
/// Seconds that neighbours are asked to keep its routes (RFC 4724 §3).
const RESTART_TIME: u16 = 60;

#[derive(Debug)]
pub struct ExaBgp;

impl Program for ExaBgp {
    fn name(&self) -> &'static str {
        "exabgp"
    }

    fn start(&self, host: &Host, speaking: &Speaking, log: &Path, _again: bool) -> Result<Daemon> {
        ensure!(speaking.cluster_id.is_none(), "ExaBGP reflects nothing");
        host.write_file(CONFIG, &config(speaking))?;
        // It looks for its own full name when it starts, and there is nobody to ask.
        host.write_file(
            "/etc/hosts",
            &format!("127.0.0.1 localhost\n{} {}\n", speaking.router_id, host.name()),
        )?;
        // What a shell runs in the background does not read its input unless told so. Opened for both ways, the pipe
        // stays open whoever writes to it.
        host.write_file(SCRIPT, &format!("exec 3<&0\ncat <&3 >> {HEARD} &\nexec cat <> {COMMANDS}\n"))?;
        host.shell(&format!("rm -f {COMMANDS} {HEARD}; mkfifo {COMMANDS}"))?.success()?;
        let mut command = Command::new("exabgp");
        command.arg(CONFIG);
        command.env("exabgp.daemon.user", "root").env("exabgp.daemon.drop", "false");
        command
            .env("exabgp.log.destination", "stdout")
            .env("exabgp.api.ack", "false")
            .env("exabgp.api.cli", "false");
        // A neighbour with a password has a listening socket of its own.
        if speaking.side == Side::Listens && speaking.password.is_none() {
            command.env("exabgp.tcp.bind", "0.0.0.0 ::").env("exabgp.tcp.port", "179");
        }
        let mut daemon = Daemon::start(host, self.name(), command, log)?;
        eventually("ExaBGP has started its API", STARTED, || {
            daemon.check_running()?;
            ensure!(host.path_exists(HEARD), "{HEARD} is not there");
            Ok(())
        })?;
        Ok(daemon)
    }

    fn learned(&self, host: &Host, prefix: &str) -> Result<Learned> {
        let heard = host.sh(&format!("cat {HEARD}"))?;
        let mut last = None;
        for line in heard.lines() {
            let message: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let update = &message["neighbor"]["message"]["update"];
            if withdraws(update, prefix) {
                last = None;
            }
            if let Some(next_hop) = announces(update, prefix) {
                last = Some(learned(&update["attribute"], next_hop).with_context(|| line.to_owned())?);
            }
        }
        last.context("no route")
    }

    /// 4.2.21 offers it, and closes the connection when a request comes.
    fn answers_refresh(&self) -> bool {
        false
    }

    fn next_hops(&self, host: &Host, prefix: &str) -> Result<Vec<IpAddr>> {
        let heard = host.sh(&format!("cat {HEARD}"))?;
        let mut paths = BTreeMap::new();
        for line in heard.lines() {
            let message: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let update = &message["neighbor"]["message"]["update"];
            let families = update["withdraw"].as_object().into_iter().flat_map(|families| families.values());
            for id in families.flat_map(|list| ids(list, prefix)) {
                paths.remove(&id);
            }
            let families = update["announce"].as_object().into_iter().flat_map(|families| families.values());
            for (next_hop, list) in families.filter_map(Value::as_object).flatten() {
                for id in ids(list, prefix) {
                    paths.insert(id, next_hop.parse::<IpAddr>()?);
                }
            }
        }
        let mut found: Vec<IpAddr> = paths.into_values().collect();
        found.sort_unstable();
        Ok(found)
    }

    fn withdraw(&self, host: &Host, speaking: &Speaking, n: usize) -> Result<()> {
        let route = speaking.routes.get(n).with_context(|| format!("route {n}"))?;
        let Some(neighbour) =
            speaking.neighbours.iter().find(|n| family_of(n.address) == super::family(&route.prefix))
        else {
            bail!("nobody to tell")
        };
        let (address, id) = (neighbour.address, path_id(speaking, n));
        tell(
            host,
            &format!("neighbor {address} withdraw route {} next-hop {}{id}", route.prefix, route.next_hop),
        )
    }

    fn ask_for_refresh(&self, host: &Host, neighbour: IpAddr) -> Result<()> {
        tell(host, &format!("neighbor {neighbour} announce route-refresh {} unicast", family_of(neighbour)))
    }

    fn has_shutdown_text(&self) -> bool {
        false
    }

    fn shut_down(&self, _: &Host, neighbour: IpAddr, _: &str) -> Result<()> {
        bail!("ExaBGP has no words for {neighbour} when it ends a session")
    }
}

fn tell(host: &Host, line: &str) -> Result<()> {
    host.shell(&format!("echo '{line}' > {COMMANDS}"))?.success().map(drop)
}

fn config(speaking: &Speaking) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "process listener {{\n  run /bin/sh {SCRIPT};\n  encoder json;\n}}");
    for neighbour in &speaking.neighbours {
        let family = family_of(neighbour.address);
        let _ = writeln!(
            out,
            "neighbor {} {{\n  router-id {};\n  local-address {};\n  local-as {};\n  peer-as {};\n  passive {};\n  \
             family {{ {family} unicast; }}\n  \
             capability {{ asn4 {}; route-refresh enable; graceful-restart {RESTART_TIME};{} }}\n  \
             api {{ processes [ listener ]; receive {{ parsed; update; }} }}",
            neighbour.address,
            speaking.router_id,
            neighbour.local,
            speaking.as_number,
            neighbour.as_number,
            speaking.side == Side::Listens,
            if speaking.two_octets { "disable" } else { "enable" },
            if speaking.add_path { " add-path send/receive;" } else { "" },
        );
        if let Some(password) = speaking.password {
            let _ = writeln!(out, "  md5-password '{password}';");
            if speaking.side == Side::Listens {
                out.push_str("  listen 179;\n");
            }
        }
        if speaking.next_link_only {
            out.push_str("  outgoing-ttl 255;\n  incoming-ttl 255;\n");
        }
        out.push_str("  static {\n");
        let own = speaking.routes.iter().enumerate();
        for (n, route) in own.filter(|(_, route)| super::family(&route.prefix) == family) {
            let id = path_id(speaking, n);
            let _ = write!(out, "    route {} next-hop {}{id}", route.prefix, route.next_hop);
            for (keyword, texts) in [
                ("community", &route.marks.plain),
                ("large-community", &route.marks.large),
                ("extended-community", &route.marks.extended),
            ] {
                if !texts.is_empty() {
                    let texts: Vec<String> =
                        texts.iter().map(|text| text.replace("rt:", "target:")).collect();
                    let _ = write!(out, " {keyword} [ {} ]", texts.join(" "));
                }
            }
            out.push_str(";\n");
        }
        out.push_str("  }\n}\n");
    }
    out
}

/// RFC 7911 §3, in the words of its configuration.
fn path_id(speaking: &Speaking, n: usize) -> String {
    if speaking.add_path { format!(" path-information 0.0.0.{}", n + 1) } else { String::new() }
}

/// Its names for the paths to a prefix; empty where they have none.
fn ids(prefixes: &Value, prefix: &str) -> Vec<String> {
    let all = prefixes.as_array().into_iter().flatten();
    let its = all.filter(|nlri| nlri["nlri"] == prefix);
    its.map(|nlri| nlri["path-information"].as_str().unwrap_or_default().to_owned()).collect()
}

fn names(prefixes: &Value, prefix: &str) -> bool {
    prefixes.as_array().is_some_and(|list| list.iter().any(|nlri| nlri["nlri"] == prefix))
}

fn withdraws(update: &Value, prefix: &str) -> bool {
    update["withdraw"].as_object().is_some_and(|families| families.values().any(|list| names(list, prefix)))
}

/// The next hop under which it announces it.
fn announces<'u>(update: &'u Value, prefix: &str) -> Option<&'u str> {
    let families = update["announce"].as_object()?;
    let mut groups = families.values().filter_map(Value::as_object).flatten();
    groups.find(|(_, list)| names(list, prefix)).map(|(next_hop, _)| next_hop.as_str())
}

fn learned(attribute: &Value, next_hop: &str) -> Option<Learned> {
    let list = |name: &str| attribute[name].as_array().into_iter().flatten();
    let tuple = |value: &Value| {
        let parts: Option<Vec<String>> =
            value.as_array()?.iter().map(|part| Some(part.as_u64()?.to_string())).collect();
        Some(parts?.join(":"))
    };
    let target = |value: &Value| Some(value["string"].as_str()?.replace("target:", "rt:"));
    Some(Learned {
        next_hop: next_hop.parse().ok(),
        as_path: list("as-path").map(|asn| u32::try_from(asn.as_u64()?).ok()).collect::<Option<_>>()?,
        marks: Marks {
            plain: list("community").map(tuple).collect::<Option<_>>()?,
            extended: list("extended-community").map(target).collect::<Option<_>>()?,
            large: list("large-community").map(tuple).collect::<Option<_>>()?,
        },
        originator_id: attribute["originator-id"].as_str().and_then(|text| text.parse().ok()),
        cluster_list: list("cluster-list").map(|id| id.as_str()?.parse().ok()).collect::<Option<_>>()?,
    })
}
