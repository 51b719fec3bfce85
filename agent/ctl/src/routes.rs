//! `manxctl routes`: what BGP knows, what the kernel has and what the eBPF map has, side by side.

use std::{path::Path, process::ExitCode};

use manx_api::{AskedBy, BgpRoute, RouteRow, Routes, path};

use crate::{blackhole, client, output, table};

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  manxctl routes
  manxctl routes -o json | jq '.routes[] | select(.agree | not)'")]
pub struct Args {
    /// Print what manxd answers, with more in it: AS path, originator, cluster list
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub output: Option<String>,
}

pub fn run(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    let routes: Routes = client::ask(socket, path::ROUTES)?;
    if args.output.is_some() {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&routes)?))?;
    } else {
        output::print(&render(&routes))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(routes: &Routes) -> String {
    let rows: Vec<Vec<String>> = routes.routes.iter().map(row).collect();
    table::trimmed(&["PREFIX", "BGP", "SENT TO", "KERNEL", "EBPF MAP", "NOTE"], &rows)
}

fn row(route: &RouteRow) -> Vec<String> {
    let dash = || String::from("-");
    // An own block is named as such already.
    let asked = route.blackhole.as_ref().filter(|cause| cause.asked_by != AskedBy::OwnBlock);
    let asked = asked.map(blackhole::because);
    let note = match (&route.reason, route.agree) {
        (Some(reason), _) => match asked {
            Some(asked) => format!("{asked}; {reason}"),
            None => reason.clone(),
        },
        (None, true) => asked.unwrap_or_default(),
        (None, false) => "kernel and map are not as the table wants; the next audit repairs it".into(),
    };
    let sent = match &route.bgp {
        Some(bgp) if !bgp.sent_to.is_empty() => {
            bgp.sent_to.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        }
        _ => dash(),
    };
    vec![
        route.prefix.to_string(),
        route.bgp.as_ref().map_or_else(dash, bgp),
        sent,
        match (&route.fib, &route.theirs) {
            (Some(fib), _) => fib.text.clone(),
            (None, Some(theirs)) => format!("{theirs} (not ours)"),
            (None, None) => dash(),
        },
        route.map.as_ref().map_or_else(dash, |map| map.text.clone()),
        note,
    ]
}

fn bgp(route: &BgpRoute) -> String {
    if route.originated {
        return "own block".into();
    }
    let next_hop = route.next_hop.map_or_else(|| "?".into(), |hop| hop.to_string());
    let from = match route.peer {
        Some(peer) if Some(peer) != route.next_hop => format!(" from {peer}"),
        _ => String::new(),
    };
    let stale = if route.stale { " (stale)" } else { "" };
    let others: String = route.other_next_hops.iter().map(|hop| format!(" + {hop}")).collect();
    format!("{next_hop}{from}{stale}{others}")
}

#[cfg(test)]
mod tests {
    use manx_api::{FibRoute, MapRoute};

    use super::*;

    #[test]
    fn a_reflected_route_names_next_hop_and_reflector_and_both_sinks() {
        let route = RouteRow {
            prefix: "172.16.118.64/26".parse().unwrap(),
            wanted: Some("via 192.168.80.125 dev ens33".into()),
            reason: None,
            bgp: Some(BgpRoute {
                originated: false,
                next_hop: "192.168.80.125".parse().ok(),
                other_next_hops: vec![],
                peer: "192.168.80.121".parse().ok(),
                as_path: String::new(),
                local_pref: Some(100),
                originator_id: None,
                cluster_list: vec![],
                stale: false,
                sent_to: vec![],
            }),
            fib: Some(FibRoute { text: "via 192.168.80.125 dev ens33".into(), protocol: 77 }),
            theirs: None,
            map: Some(MapRoute { text: "via 192.168.80.125 dev ens33".into() }),
            agree: true,
            blackhole: None,
        };
        assert_eq!(
            row(&route),
            [
                "172.16.118.64/26",
                "192.168.80.125 from 192.168.80.121",
                "-",
                "via 192.168.80.125 dev ens33",
                "via 192.168.80.125 dev ens33",
                ""
            ]
        );
    }

    #[test]
    fn next_hops_that_are_used_together_are_all_named() {
        let route = BgpRoute {
            originated: false,
            next_hop: "192.168.80.125".parse().ok(),
            other_next_hops: vec!["192.168.80.126".parse().unwrap(), "192.168.80.127".parse().unwrap()],
            peer: "192.168.80.121".parse().ok(),
            as_path: String::new(),
            local_pref: Some(100),
            originator_id: None,
            cluster_list: vec![],
            stale: false,
            sent_to: vec![],
        };
        assert_eq!(bgp(&route), "192.168.80.125 from 192.168.80.121 + 192.168.80.126 + 192.168.80.127");
    }

    #[test]
    fn a_sink_that_differs_is_said() {
        let route = RouteRow {
            prefix: "10.0.0.0/26".parse().unwrap(),
            wanted: Some("blackhole".into()),
            reason: None,
            bgp: None,
            fib: None,
            theirs: None,
            map: None,
            agree: false,
            blackhole: None,
        };
        assert!(row(&route)[5].contains("not as the table wants"));
    }
}
