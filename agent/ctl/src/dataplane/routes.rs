//! `manxctl dataplane routes`: what the eBPF maps hold, by prefix.

use std::{net::IpAddr, path::Path, process::ExitCode};

use anyhow::bail;
use manx_api::{MapAction, MapEntry, MapRoutes, path};
use manx_net::Prefix;

use super::units;
use crate::{client, output, table};

/// Rows that are asked for at a time.
const PAGE: usize = 10_000;

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  manxctl dataplane routes 172.16.0.0/16   # this prefix and all inside it
  manxctl dataplane routes 172.16.36.193   # what covers this address; the last line answers
  manxctl dataplane routes --next-hop 192.168.80.125
  manxctl dataplane routes --action blackholeExplicit -o json
  manxctl dataplane routes --limit 20 --after 172.16.36.192/26")]
pub struct Args {
    /// Only this prefix and what is inside it, or what covers this address
    #[arg(value_name = "PREFIX|ADDRESS")]
    pub prefix: Option<String>,
    /// Only what leads to this next hop
    #[arg(long, value_name = "ADDRESS")]
    pub next_hop: Option<IpAddr>,
    /// Only what does this
    #[arg(long, value_name = "ACTION", value_parser = MapAction::ALL.map(MapAction::name))]
    pub action: Option<String>,
    /// So many rows at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Rows after this prefix
    #[arg(long, value_name = "PREFIX")]
    pub after: Option<Prefix>,
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub output: Option<String>,
}

pub fn run(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    // What is wrong with it is wrong whoever answers.
    if let Some(text) = args.prefix.as_ref().filter(|text| text.parse::<IpAddr>().is_err())
        && let Err(error) = text.parse::<Prefix>()
    {
        bail!("{}", output::no_prefix_or_address(&error));
    }
    let limit = args.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut found = ask(args, socket, args.after, limit.min(PAGE))?;
    while let (Some(after), rest @ 1..) = (found.next, limit - found.routes.len().min(limit)) {
        let page = ask(args, socket, Some(after), rest.min(PAGE))?;
        found.next = page.next;
        found.routes.extend(page.routes);
    }
    match args.output {
        Some(_) => output::print(&format!("{}\n", serde_json::to_string_pretty(&found)?))?,
        None => output::print(&render(&found))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(
    args: &Args,
    socket: &Path,
    after: Option<Prefix>,
    limit: usize,
) -> Result<MapRoutes, client::AskError> {
    let mut query = format!("{}?limit={limit}", path::MAP_ROUTES);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", client::escaped(&value)));
        }
    };
    add("prefix", args.prefix.clone());
    add("nextHop", args.next_hop.map(|address| address.to_string()));
    add("action", args.action.clone());
    add("after", after.map(|prefix| prefix.to_string()));
    client::ask(socket, &query)
}

fn render(found: &MapRoutes) -> String {
    let mut text = if found.routes.is_empty() {
        String::from("No entry of the eBPF maps is like that.\n")
    } else {
        let rows: Vec<Vec<String>> = found.routes.iter().map(row).collect();
        table::trimmed(&["PREFIX", "ACTION", "POOL", "PACKETS", "BYTES"], &rows)
    };
    if let Some(next) = found.next {
        text.push_str(&format!("There is more; --after {next} shows it.\n"));
    }
    text
}

fn row(entry: &MapEntry) -> Vec<String> {
    let dash = || String::from("-");
    let (packets, bytes) = match entry.counts {
        Some(counts) => (counts.packets.to_string(), units::bytes(counts.bytes)),
        None => (dash(), dash()),
    };
    vec![entry.prefix.to_string(), action(entry), entry.pool.clone().unwrap_or_else(dash), packets, bytes]
}

fn action(entry: &MapEntry) -> String {
    match entry.action {
        MapAction::Via => {
            let hops = entry.next_hops.iter().map(|hop| format!("via {} dev {}", hop.address, hop.interface));
            hops.collect::<Vec<_>>().join(" nexthop ")
        }
        MapAction::Local => {
            let interface = entry.interface.as_deref().unwrap_or("?");
            match &entry.mac {
                Some(mac) => format!("local {interface} ({mac})"),
                None => format!("local {interface} (by the stack)"),
            }
        }
        MapAction::Blackhole => "blackhole".into(),
        MapAction::BlackholeExplicit => "blackhole (explicit)".into(),
        MapAction::Unreachable => "unreachable".into(),
        MapAction::Pass => "pass to the kernel".into(),
    }
}

#[cfg(test)]
mod tests {
    use manx_api::{MapNextHop, Tally};

    use super::*;

    fn entry() -> MapEntry {
        let hop = |last: u8| MapNextHop { address: [192, 168, 80, last].into(), interface: "ens33".into() };
        MapEntry {
            prefix: "172.16.118.64/26".parse().unwrap(),
            action: MapAction::Via,
            next_hops: vec![hop(125), hop(126)],
            interface: None,
            mac: None,
            pool: Some("default-ipv4-ippool".into()),
            counts: Some(Tally { packets: 12, bytes: 1_500_000 }),
        }
    }

    #[test]
    fn an_entry_tells_all_its_next_hops_its_pool_and_its_packets() {
        assert_eq!(
            row(&entry()),
            [
                "172.16.118.64/26",
                "via 192.168.80.125 dev ens33 nexthop via 192.168.80.126 dev ens33",
                "default-ipv4-ippool",
                "12",
                "1.5 MB"
            ]
        );
        let pod = MapEntry {
            action: MapAction::Local,
            next_hops: Vec::new(),
            interface: Some("cali1".into()),
            counts: None,
            ..entry()
        };
        assert_eq!(row(&pod)[1..], ["local cali1 (by the stack)", "default-ipv4-ippool", "-", "-"]);
    }

    #[test]
    fn where_a_limit_cut_the_table_it_says_how_to_go_on() {
        let found = MapRoutes { node: "kw01".into(), next: Some(entry().prefix), routes: vec![entry()] };
        assert!(render(&found).ends_with("--after 172.16.118.64/26 shows it.\n"));
        let none = MapRoutes { next: None, routes: Vec::new(), ..found };
        assert_eq!(render(&none), "No entry of the eBPF maps is like that.\n");
    }
}
