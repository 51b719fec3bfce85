//! FRR: its bgpd, and zebra, without which bgpd knows neither interfaces nor next hops.

use std::{fmt::Write, net::IpAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Learned, Marks, Program, Side, Speaking, family, family_of};
use crate::{host::Host, process::Daemon, wait::eventually};

const PROGRAMS: &str = "/usr/lib/frr";
const STARTED: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Frr;

impl Program for Frr {
    fn name(&self) -> &'static str {
        "frr"
    }

    fn start(&self, host: &Host, speaking: &Speaking, log: &Path, again: bool) -> Result<Daemon> {
        ensure!(!speaking.two_octets, "FRR always offers four octets");
        if !again {
            host.sh("install -d -o frr -g frr /run/frr")?;
            // Its daemons keep crash logs there, by process ids that every host counts from 1.
            host.sh("mount -t tmpfs tmpfs /var/tmp")?;
            host.write_file("/etc/frr/zebra.conf", "log stdout\n")?;
            host.write_file("/etc/frr/bgpd.conf", &config(speaking))?;
            host.write_file("/etc/frr/vtysh.conf", "")?;
            // A daemon of the host's like any other: it ends with the host's namespaces, and it outlives bgpd, as
            // it does on a router where bgpd has crashed.
            host.sh(&format!("{PROGRAMS}/zebra --daemon --config_file /etc/frr/zebra.conf"))?;
            eventually("zebra answers vtysh", STARTED, || vtysh(host, "zebra", "show version"))?;
        }
        let mut command = Command::new(format!("{PROGRAMS}/bgpd"));
        command.args(["--config_file", "/etc/frr/bgpd.conf"]);
        let mut daemon = Daemon::start(host, "bgpd", command, log)?;
        eventually("bgpd answers vtysh", STARTED, || {
            daemon.check_running()?;
            vtysh(host, "bgpd", "show version")
        })?;
        Ok(daemon)
    }

    fn learned(&self, host: &Host, prefix: &str) -> Result<Learned> {
        let text = vtysh(host, "bgpd", &format!("show bgp {} unicast {prefix} json", family(prefix)))?;
        let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let paths = answer["paths"].as_array().context("no route")?;
        let best = paths.iter().find(|path| path["bestpath"]["overall"] == true).context("no best path")?;
        learned(best).with_context(|| format!("not as FRR prints a path: {best}"))
    }

    fn next_hops(&self, host: &Host, prefix: &str) -> Result<Vec<IpAddr>> {
        let text = vtysh(host, "bgpd", &format!("show bgp {} unicast {prefix} json", family(prefix)))?;
        let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let paths = answer["paths"].as_array().context("no route")?;
        let read = paths.iter().map(|path| path["nexthops"][0]["ip"].as_str()?.parse().ok());
        let mut read: Vec<IpAddr> = read.collect::<Option<_>>().with_context(|| text.clone())?;
        read.sort_unstable();
        Ok(read)
    }

    fn only_to_customers(&self, host: &Host, prefix: &str) -> Result<Option<u32>> {
        let text = vtysh(host, "bgpd", &format!("show bgp {} unicast {prefix}", family(prefix)))?;
        let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c == ',').collect();
        let found = words.iter().position(|word| *word == "otc").and_then(|at| words.get(at + 1));
        found.map(|number| number.parse().with_context(|| text.clone())).transpose()
    }

    fn ask_for_refresh(&self, host: &Host, neighbour: IpAddr) -> Result<()> {
        let family = family_of(neighbour);
        vtysh(host, "bgpd", &format!("clear bgp {family} unicast {neighbour} in")).map(drop)
    }

    fn shut_down(&self, host: &Host, neighbour: IpAddr, text: &str) -> Result<()> {
        let line = format!("neighbor {neighbour} shutdown message {text}");
        let commands = format!("vtysh -d bgpd -c 'configure' -c 'router bgp' -c '{line}'");
        let said = host.shell(&commands)?.success()?;
        ensure!(!said.contains('%'), "vtysh: {said}");
        Ok(())
    }
}

fn vtysh(host: &Host, daemon: &str, line: &str) -> Result<String> {
    host.shell(&format!("vtysh -d {daemon} -c '{line}'"))?.success()
}

fn config(speaking: &Speaking) -> String {
    let mut out = String::from("log stdout\n");
    // Writing to a String cannot fail.
    for (n, route) in speaking.routes.iter().enumerate() {
        let _ = writeln!(out, "route-map own{n} permit 10");
        for (keyword, texts) in [("community", &route.marks.plain), ("large-community", &route.marks.large)] {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            if !texts.is_empty() {
                let _ = writeln!(out, " set {keyword} {}", texts.join(" "));
            }
        }
        for text in &route.marks.extended {
            let _ = writeln!(out, " set extcommunity {}", text.replacen(':', " ", 1));
        }
        out.push_str("exit\n");
    }
    // RFC 8212 is FRR's default, and so is asking the kernel before it announces a network.
    let _ = writeln!(
        out,
        "router bgp {}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n \
         no bgp network import-check\n bgp graceful-restart\n bgp graceful-restart preserve-fw-state",
        speaking.as_number, speaking.router_id
    );
    if let Some((restart, long_lived)) = speaking.long_lived {
        let _ = writeln!(
            out,
            " bgp graceful-restart restart-time {restart}\n bgp long-lived-graceful-restart stale-time {long_lived}"
        );
    }
    if let Some(cluster) = speaking.cluster_id {
        let _ = writeln!(out, " bgp cluster-id {cluster}");
    }
    for neighbour in &speaking.neighbours {
        let address = neighbour.address;
        let _ = writeln!(
            out,
            " neighbor {address} remote-as {}\n neighbor {address} update-source {}\n \
             neighbor {address} timers connect 1\n neighbor {address} advertisement-interval 0",
            neighbour.as_number, neighbour.local
        );
        if speaking.side == Side::Listens {
            let _ = writeln!(out, " neighbor {address} passive");
        }
        if let Some(password) = speaking.password {
            let _ = writeln!(out, " neighbor {address} password {password}");
        }
        if speaking.next_link_only {
            let _ = writeln!(out, " neighbor {address} ttl-security hops 1");
        }
        if let Some(role) = speaking.role {
            let _ = writeln!(out, " neighbor {address} local-role {role}");
        }
        if speaking.ipv4_by_ipv6 {
            let _ = writeln!(out, " neighbor {address} capability extended-nexthop");
        }
    }
    for name in ["ipv4", "ipv6"] {
        let _ = writeln!(out, " address-family {name} unicast");
        for (n, route) in speaking.routes.iter().enumerate() {
            if family(&route.prefix) == name {
                let _ = writeln!(out, "  network {} route-map own{n}", route.prefix);
            }
        }
        for neighbour in speaking.neighbours.iter().filter(|n| speaking.carries(n, name)) {
            let address = neighbour.address;
            let _ = writeln!(out, "  neighbor {address} activate\n  neighbor {address} send-community all");
            // Several are taken without a word.
            if speaking.add_path {
                let _ = writeln!(out, "  neighbor {address} addpath-tx-all-paths");
            }
            if speaking.cluster_id.is_some() {
                let _ = writeln!(out, "  neighbor {address} route-reflector-client");
            }
        }
        out.push_str(" exit-address-family\n");
    }
    out.push_str("exit\n");
    out
}

fn learned(path: &Value) -> Option<Learned> {
    let words = |member: &str| {
        let text = path[member]["string"].as_str().unwrap_or_default().to_lowercase();
        text.split_whitespace().map(str::to_owned).collect()
    };
    let as_path = path["aspath"]["string"].as_str()?.split_whitespace();
    let clusters = path["clusterList"]["list"].as_array().into_iter().flatten();
    Some(Learned {
        next_hop: path["nexthops"][0]["ip"].as_str().and_then(|text| text.parse().ok()),
        as_path: as_path.filter(|word| *word != "Local").map(|a| a.parse().ok()).collect::<Option<_>>()?,
        marks: Marks {
            plain: words("community"),
            extended: words("extendedCommunity"),
            large: words("largeCommunity"),
        },
        originator_id: path["originatorId"].as_str().and_then(|text| text.parse().ok()),
        cluster_list: clusters.map(|id| id.as_str()?.parse().ok()).collect::<Option<_>>()?,
    })
}
