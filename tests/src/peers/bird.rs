//! BIRD 2.

use std::{fmt::Write, net::IpAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{Learned, Program, Side, Speaking, family};
use crate::{host::Host, process::Daemon, wait::eventually};

const CONFIG: &str = "/etc/bird/bird.conf";
/// Only to give up by: a busy machine lets it wait.
const STARTED: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Bird;

impl Program for Bird {
    fn name(&self) -> &'static str {
        "bird"
    }

    fn start(&self, host: &Host, speaking: &Speaking, log: &Path, again: bool) -> Result<Daemon> {
        host.write_file(CONFIG, &config(speaking))?;
        host.sh("mkdir -p /run/bird")?;
        let mut command = Command::new("bird");
        command.args(["-f", "-c", CONFIG]);
        if again {
            command.arg("-R");
        }
        let mut daemon = Daemon::start(host, self.name(), command, log)?;
        eventually("BIRD answers birdc", STARTED, || {
            daemon.check_running()?;
            host.sh("birdc show status")
        })?;
        Ok(daemon)
    }

    fn learned(&self, host: &Host, prefix: &str) -> Result<Learned> {
        learned(&host.sh(&format!("birdc show route {prefix} primary all"))?)
    }

    fn next_hops(&self, host: &Host, prefix: &str) -> Result<Vec<IpAddr>> {
        let text = host.sh(&format!("birdc show route {prefix} all"))?;
        let each = text.lines().filter_map(|line| line.trim().strip_prefix("BGP.next_hop:"));
        // A link-local one may follow it.
        let read = each.map(|words| words.split_whitespace().next()?.parse().ok());
        let mut read: Vec<IpAddr> = read.collect::<Option<_>>().with_context(|| text.clone())?;
        read.sort_unstable();
        Ok(read)
    }

    fn withdraw(&self, host: &Host, _: &Speaking, n: usize) -> Result<()> {
        host.sh(&format!("birdc disable own{n}")).map(drop)
    }

    fn only_to_customers(&self, host: &Host, prefix: &str) -> Result<Option<u32>> {
        let text = host.sh(&format!("birdc show route {prefix} primary all"))?;
        let found = text.lines().find_map(|line| line.trim().strip_prefix("BGP.otc:"));
        found.map(|number| number.trim().parse().with_context(|| text.clone())).transpose()
    }

    fn ask_for_refresh(&self, host: &Host, neighbour: IpAddr) -> Result<()> {
        host.sh(&format!("birdc reload in {}", name_of(neighbour))).map(drop)
    }

    fn shut_down(&self, host: &Host, neighbour: IpAddr, text: &str) -> Result<()> {
        host.shell(&format!("birdc 'disable {} \"{text}\"'", name_of(neighbour)))?.success().map(drop)
    }
}

fn name_of(neighbour: IpAddr) -> String {
    format!("to_{}", neighbour.to_string().replace(['.', ':'], "_"))
}

fn config(speaking: &Speaking) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "log stderr all;\nrouter id {};\nprotocol device {{ }}", speaking.router_id);
    // Next hops of iBGP are looked up in BIRD's own table.
    out.push_str("protocol direct { ipv4; ipv6; }\n");
    for (n, route) in speaking.routes.iter().enumerate() {
        let channel = family(&route.prefix);
        let _ = write!(out, "protocol static own{n} {{ {channel}; route {} blackhole {{", route.prefix);
        for (attribute, texts) in [
            ("bgp_community", &route.marks.plain),
            ("bgp_ext_community", &route.marks.extended),
            ("bgp_large_community", &route.marks.large),
        ] {
            for text in texts {
                let _ = write!(out, " {attribute}.add(({}));", text.replace(':', ", "));
            }
        }
        out.push_str(" }; }\n");
    }
    // A next hop counts that is set on the way out.
    for channel in ["ipv4", "ipv6"] {
        let _ = writeln!(out, "filter with_next_hop_{channel} {{");
        let own = speaking.routes.iter().enumerate();
        for (n, route) in own.filter(|(_, route)| family(&route.prefix) == channel) {
            let _ = writeln!(
                out,
                "  if proto = \"own{n}\" then {{ bgp_next_hop = {}; accept; }}",
                route.next_hop
            );
        }
        out.push_str("  if source = RTS_BGP then accept;\n  reject;\n}\n");
    }
    if speaking.ipv4_by_ipv6 {
        for channel in ["ipv4", "ipv6"] {
            let _ = writeln!(out, "protocol kernel {{ {channel} {{ export where source = RTS_BGP; }}; }}");
        }
    }
    for neighbour in &speaking.neighbours {
        let Speaking { as_number, .. } = speaking;
        let _ = writeln!(
            out,
            "protocol bgp {} {{\n  local {} as {as_number};\n  neighbor {} as {};\n  direct; graceful restart;\n  \
             connect delay time 1; connect retry time 2; error wait time 1, 2;\n  \
             enable extended messages on;",
            name_of(neighbour.address),
            neighbour.local,
            neighbour.address,
            neighbour.as_number
        );
        if speaking.side == Side::Listens {
            out.push_str("  passive on;\n");
        }
        if let Some((restart, long_lived)) = speaking.long_lived {
            let _ = writeln!(
                out,
                "  graceful restart time {restart}; long lived graceful restart on; long lived stale time {long_lived};"
            );
        }
        if let Some(role) = speaking.role {
            let _ = writeln!(out, "  local role {role};");
        }
        if speaking.two_octets {
            out.push_str("  enable as4 off;\n");
        }
        if let Some(password) = speaking.password {
            let _ = writeln!(out, "  password \"{password}\";");
        }
        if speaking.next_link_only {
            out.push_str("  ttl security on;\n");
        }
        if let Some(cluster) = speaking.cluster_id {
            let _ = writeln!(out, "  rr client; rr cluster id {cluster};");
        }
        for channel in ["ipv4", "ipv6"].into_iter().filter(|channel| speaking.carries(neighbour, channel)) {
            let extended =
                if speaking.ipv4_by_ipv6 && channel == "ipv4" { "extended next hop on; " } else { "" };
            let (add_path, export) = if speaking.add_path {
                ("add paths on; ", format!("filter with_next_hop_{channel}"))
            } else {
                ("", String::from("where source = RTS_STATIC || source = RTS_BGP"))
            };
            let _ = writeln!(out, "  {channel} {{ {extended}{add_path}import all; export {export}; }};");
        }
        out.push_str("}\n");
    }
    out
}

/// From the answer to `show route … all`.
fn learned(answer: &str) -> Result<Learned> {
    let attribute =
        |name: &str| answer.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let words = |name: &str| attribute(name).unwrap_or_default().split_whitespace();
    ensure!(attribute("Type: BGP").is_some(), "no route of BGP:\n{answer}");
    let tuples = |name: &str| {
        let text: String = attribute(name).unwrap_or_default().split_whitespace().collect();
        text.split(['(', ')']).filter(|tuple| !tuple.is_empty()).map(|t| t.replace(',', ":")).collect()
    };
    let read = || {
        Some(Learned {
            // A link-local one may follow it.
            next_hop: words("BGP.next_hop:").next().and_then(|text| text.parse().ok()),
            as_path: words("BGP.as_path:").map(|text| text.parse().ok()).collect::<Option<_>>()?,
            marks: super::Marks {
                plain: tuples("BGP.community:"),
                extended: tuples("BGP.ext_community:"),
                large: tuples("BGP.large_community:"),
            },
            originator_id: attribute("BGP.originator_id:").and_then(|text| text.parse().ok()),
            cluster_list: words("BGP.cluster_list:").map(|text| text.parse().ok()).collect::<Option<_>>()?,
        })
    };
    read().with_context(|| format!("not as BIRD prints a route:\n{answer}"))
}
