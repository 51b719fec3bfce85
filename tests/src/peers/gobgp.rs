//! GoBGP 3.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Learned, Program, Side, Speaking, family, family_of};
use crate::{host::Host, process::Daemon, wait::eventually};

const CONFIG: &str = "/etc/gobgpd.toml";
const STARTED: Duration = Duration::from_secs(10);
/// Seconds that neighbours are asked to keep its routes (RFC 4724 §3).
const RESTART_TIME: u16 = 60;

#[derive(Debug)]
pub struct GoBgp;

impl Program for GoBgp {
    fn name(&self) -> &'static str {
        "gobgpd"
    }

    fn start(&self, host: &Host, speaking: &Speaking, log: &Path, again: bool) -> Result<Daemon> {
        ensure!(!speaking.two_octets, "GoBGP always offers four octets");
        host.write_file(CONFIG, &config(speaking))?;
        let mut command = Command::new("gobgpd");
        command.args(["--config-file", CONFIG, "--disable-stdlog", "--log-plain"]);
        command.args(["--api-hosts", "127.0.0.1:50051"]);
        if again {
            command.arg("--graceful-restart");
        }
        let mut daemon = Daemon::start(host, self.name(), command, log)?;
        eventually("gobgpd answers gobgp", STARTED, || {
            daemon.check_running()?;
            host.sh("gobgp global")
        })?;
        // It takes routes of its own only from its API.
        for (n, route) in speaking.routes.iter().enumerate() {
            let mut line =
                format!("gobgp global rib {} nexthop {}", own(speaking, n, "add")?, route.next_hop);
            for (keyword, texts) in
                [("community", &route.marks.plain), ("large-community", &route.marks.large)]
            {
                if !texts.is_empty() {
                    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                    let _ = write!(line, " {keyword} {}", texts.join(","));
                }
            }
            for text in &route.marks.extended {
                let _ = write!(line, " {}", text.replacen(':', " ", 1));
            }
            host.sh(&line)?;
        }
        Ok(daemon)
    }

    fn learned(&self, host: &Host, prefix: &str) -> Result<Learned> {
        let text = host.sh(&format!("gobgp -j global rib -a {} {prefix}", family(prefix)))?;
        let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let paths = answer.get(prefix).unwrap_or(&answer);
        let best = paths.as_array().and_then(|paths| paths.first()).context("no route")?;
        let attributes = best["attrs"].as_array().with_context(|| format!("no attributes: {best}"))?;
        let mut learned = Learned::default();
        for attribute in attributes {
            take(&mut learned, attribute).with_context(|| format!("not as GoBGP prints it: {attribute}"))?;
        }
        Ok(learned)
    }

    fn next_hops(&self, host: &Host, prefix: &str) -> Result<Vec<IpAddr>> {
        let text = host.sh(&format!("gobgp -j global rib -a {} {prefix}", family(prefix)))?;
        let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let paths = answer.get(prefix).unwrap_or(&answer).as_array().context("no route")?;
        let mut found = Vec::new();
        for path in paths {
            let mut learned = Learned::default();
            for attribute in path["attrs"].as_array().context("no attributes")? {
                take(&mut learned, attribute)?;
            }
            found.push(learned.next_hop.with_context(|| format!("no next hop: {path}"))?);
        }
        found.sort_unstable();
        Ok(found)
    }

    fn withdraw(&self, host: &Host, speaking: &Speaking, n: usize) -> Result<()> {
        host.sh(&format!("gobgp global rib {}", own(speaking, n, "del")?)).map(drop)
    }

    /// It answers a ROUTE-REFRESH; its own "softresetin" looks again at what it has kept.
    fn asks_for_refresh(&self) -> bool {
        false
    }

    fn ask_for_refresh(&self, _: &Host, neighbour: IpAddr) -> Result<()> {
        bail!("GoBGP asks nobody for a refresh, {neighbour} included")
    }

    fn shut_down(&self, host: &Host, neighbour: IpAddr, text: &str) -> Result<()> {
        host.shell(&format!("gobgp neighbor {neighbour} shutdown --reason '{text}'"))?.success().map(drop)
    }
}

/// What adds or deletes a route of its own.
fn own(speaking: &Speaking, n: usize, verb: &str) -> Result<String> {
    let route = speaking.routes.get(n).with_context(|| format!("route {n}"))?;
    let mut line = format!("-a {} {verb} {}", family(&route.prefix), route.prefix);
    if speaking.add_path {
        let _ = write!(line, " identifier {}", n + 1);
    }
    Ok(line)
}

fn config(speaking: &Speaking) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "[global.config]\nas = {}\nrouter-id = \"{}\"\nlocal-address-list = [\"0.0.0.0\", \"::\"]",
        speaking.as_number, speaking.router_id
    );
    for neighbour in &speaking.neighbours {
        let _ = writeln!(
            out,
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{}\"\npeer-as = {}\n\
             auth-password = \"{}\"\n[neighbors.ttl-security.config]\nenabled = {}\nttl-min = 255\n\
             [neighbors.transport.config]\nlocal-address = \"{}\"\npassive-mode = {}\n\
             [neighbors.timers.config]\nconnect-retry = 1\nidle-hold-time-after-reset = 1\n\
             [neighbors.graceful-restart.config]\nenabled = true\nrestart-time = {RESTART_TIME}\n\
             [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{}-unicast\"\n\
             [neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true",
            neighbour.address,
            neighbour.as_number,
            speaking.password.unwrap_or_default(),
            speaking.next_link_only,
            neighbour.local,
            speaking.side == Side::Listens,
            family_of(neighbour.address)
        );
        if speaking.add_path {
            out.push_str("[neighbors.afi-safis.add-paths.config]\nreceive = true\nsend-max = 8\n");
        }
        if let Some(cluster) = speaking.cluster_id {
            let _ = writeln!(
                out,
                "[neighbors.route-reflector.config]\nroute-reflector-client = true\n\
                 route-reflector-cluster-id = \"{cluster}\""
            );
        }
    }
    out
}

/// One path attribute, by its number in RFC 4271 and its successors.
fn take(learned: &mut Learned, attribute: &Value) -> Result<()> {
    let number = attribute["type"].as_u64().context("no type")?;
    match number {
        2 => {
            for segment in attribute["as_paths"].as_array().into_iter().flatten() {
                for asn in segment["asns"].as_array().into_iter().flatten() {
                    learned.as_path.push(asn.as_u64().context("an AS number")?.try_into()?);
                }
            }
        }
        3 | 14 => learned.next_hop = Some(text(&attribute["nexthop"])?.parse()?),
        8 => {
            for community in attribute["communities"].as_array().into_iter().flatten() {
                let community = community.as_u64().context("a community")?;
                learned.marks.plain.insert(format!("{}:{}", community >> 16, community & 0xffff));
            }
        }
        9 => learned.originator_id = Some(text(&attribute["value"])?.parse()?),
        10 => {
            let list = attribute["value"].as_array().context("a cluster list")?;
            learned.cluster_list = list.iter().map(cluster).collect::<Result<_>>()?;
        }
        16 => {
            for community in attribute["value"].as_array().into_iter().flatten() {
                // RFC 4360 §4: the route target.
                if community["subtype"] != 2 {
                    bail!("an extended community of another kind");
                }
                learned.marks.extended.insert(format!("rt:{}", text(&community["value"])?));
            }
        }
        32 => {
            for community in attribute["value"].as_array().into_iter().flatten() {
                let part = |name: &str| community[name].as_u64().context("a large community");
                let (asn, one, two) = (part("ASN")?, part("LocalData1")?, part("LocalData2")?);
                learned.marks.large.insert(format!("{asn}:{one}:{two}"));
            }
        }
        _ => {}
    }
    Ok(())
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().context("no text")
}

fn cluster(value: &Value) -> Result<Ipv4Addr> {
    Ok(text(value)?.parse()?)
}
