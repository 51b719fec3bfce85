//! `manxctl explain PREFIX`: all paths of a prefix, which is best and why the others are not, to whom it went and why
//! not to others, and what became of it in the kernel and the map.

use std::{fmt::Write, net::IpAddr, path::Path, process::ExitCode};

use anyhow::anyhow;
use manx_api::{Explanation, PathRow, SentPathRow, SentRow, path};
use manx_net::Prefix;

use crate::{blackhole, client, output, table};

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  manxctl explain 172.16.36.192/26
  manxctl explain 172.16.36.193   # the longest prefix that covers it")]
pub struct Args {
    /// A prefix such as 172.16.36.192/26, or an address: then the longest prefix that covers it
    #[arg(value_name = "PREFIX|ADDRESS")]
    prefix: String,
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    // What is wrong with it is wrong whoever answers.
    if args.prefix.parse::<IpAddr>().is_err() {
        args.prefix.parse::<Prefix>().map_err(|error| anyhow!(output::no_prefix_or_address(&error)))?;
    }
    let query = format!("{}?prefix={}", path::EXPLAIN, client::escaped(&args.prefix));
    let explanation: Explanation = client::ask(socket, &query)?;
    if args.output.is_some() {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&explanation)?))?;
    } else {
        output::print(&render(&explanation))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(explanation: &Explanation) -> String {
    let mut out = format!("{} on {}\n\n", explanation.prefix, explanation.node);
    if explanation.paths.is_empty() {
        out.push_str("BGP has no path.\n");
    } else {
        let rows: Vec<Vec<String>> = explanation.paths.iter().map(path_row).collect();
        out.push_str(&table::trimmed(&["", "PATH FROM", "NEXT HOP", "STANDING", "ATTRIBUTES"], &rows));
    }
    if !explanation.sent.is_empty() {
        let rows: Vec<Vec<String>> = explanation.sent.iter().flat_map(sent_rows).collect();
        out.push('\n');
        out.push_str(&table::trimmed(&["PEER", "SENT", "WHY NOT"], &rows));
    }
    if let Some(route) = &explanation.route {
        let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let theirs = || Some(format!("{} (not ours)", route.theirs.as_ref()?));
        let kernel = route.fib.as_ref().map(|fib| fib.text.clone()).or_else(theirs);
        let _ = writeln!(out, "\nWanted:   {}", or_dash(route.wanted.as_deref()));
        let _ = writeln!(out, "Kernel:   {}", or_dash(kernel.as_deref()));
        let _ = writeln!(out, "eBPF map: {}", or_dash(route.map.as_ref().map(|map| map.text.as_str())));
        if let Some(cause) = &route.blackhole {
            let _ = writeln!(out, "Asked by: {}", blackhole::because(cause));
        }
        if let Some(reason) = &route.reason {
            let _ = writeln!(out, "Because:  {reason}");
        }
    }
    out
}

/// One row, or where the peer takes several paths one for each, by our names for them.
fn sent_rows(sent: &SentRow) -> Vec<Vec<String>> {
    let row = |peer: String, sent: bool, why: &str| {
        vec![peer, if sent { "yes" } else { "no" }.into(), if sent { "" } else { why }.to_owned()]
    };
    if sent.paths.is_empty() {
        return vec![row(sent.peer.to_string(), sent.sent, &sent.why)];
    }
    let of_path = |path: &SentPathRow| {
        let from = path.from.map_or_else(|| "this node".into(), |from| from.to_string());
        let received = path.received_id.map(|id| format!(" (id {id})")).unwrap_or_default();
        let peer = format!("{} path {} from {from}{received}", sent.peer, path.path_id);
        row(peer, path.sent, &path.why)
    };
    sent.paths.iter().map(of_path).collect()
}

fn path_row(path: &PathRow) -> Vec<String> {
    let mut standing = path.standing.clone();
    if let Some(rule) = &path.rule {
        let _ = write!(standing, " ({rule})");
    }
    if path.stale {
        standing.push_str(", stale");
    }
    vec![
        if path.best {
            "*"
        } else if path.used {
            "+"
        } else {
            ""
        }
        .into(),
        format!(
            "{}{}",
            path.from.map_or_else(|| "this node".into(), |from| from.to_string()),
            path.path_id.map(|id| format!(" (id {id})")).unwrap_or_default()
        ),
        path.next_hop.map_or_else(|| "-".into(), |hop| hop.to_string()),
        standing,
        attributes(path),
    ]
}

fn attributes(path: &PathRow) -> String {
    let mut words = Vec::new();
    if !path.as_path.is_empty() {
        words.push(format!("AS path {}", path.as_path));
    }
    words.extend(path.local_pref.map(|value| match path.priority {
        Some(priority) => format!("local pref {value} (priority {priority})"),
        None => format!("local pref {value}"),
    }));
    words.extend(path.med.map(|value| format!("MED {value}")));
    if path.origin != "IGP" {
        words.push(format!("origin {}", path.origin));
    }
    words.extend(path.originator_id.map(|id| format!("originator {id}")));
    if !path.cluster_list.is_empty() {
        let list: Vec<String> = path.cluster_list.iter().map(ToString::to_string).collect();
        words.push(format!("clusters {}", list.join(" ")));
    }
    words.extend(path.only_to_customers.map(|number| format!("to customers only, says AS {number}")));
    let communities: Vec<&str> = [&path.communities, &path.large_communities, &path.extended_communities]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    if !communities.is_empty() {
        words.push(format!("communities {}", communities.join(" ")));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(from: &str, standing: &str) -> PathRow {
        PathRow {
            from: from.parse().ok(),
            best: standing == "best",
            used: standing == "best",
            path_id: None,
            standing: standing.into(),
            rule: None,
            stale: false,
            next_hop: "192.168.80.125".parse().ok(),
            metric: Some(0),
            origin: "IGP".into(),
            as_path: String::new(),
            med: None,
            local_pref: Some(100),
            priority: None,
            communities: vec![],
            large_communities: vec![],
            extended_communities: vec![],
            originator_id: "192.168.80.125".parse().ok(),
            cluster_list: vec!["224.0.0.1".parse().unwrap()],
            only_to_customers: Some(64513),
        }
    }

    #[test]
    fn each_path_says_where_it_stands_and_each_peer_why_it_got_none() {
        let text = render(&Explanation {
            node: "kw01".into(),
            prefix: "172.16.118.64/26".parse().unwrap(),
            paths: vec![path("192.168.80.121", "best"), path("192.168.80.122", "lost: longer CLUSTER_LIST")],
            sent: vec![SentRow {
                peer: "192.168.80.121".parse().unwrap(),
                port: 179,
                sent: false,
                why: "it came from there".into(),
                paths: vec![],
            }],
            route: None,
        });
        assert!(text.contains("*    192.168.80.121"), "{text}");
        assert!(text.contains("lost: longer CLUSTER_LIST"), "{text}");
        assert!(text.contains("local pref 100, originator 192.168.80.125, clusters 224.0.0.1"), "{text}");
        assert!(text.contains("to customers only, says AS 64513"), "{text}");
        assert!(text.contains("no     it came from there"), "{text}");
    }

    #[test]
    fn several_paths_are_shown_with_their_names_and_what_went_where() {
        let path = |from: &str, standing: &str, id| PathRow { path_id: Some(id), ..path(from, standing) };
        let sent = |path_id, received_id, sent, why: &str| SentPathRow {
            path_id,
            from: "192.168.80.121".parse().ok(),
            received_id,
            sent,
            why: why.into(),
        };
        let text = render(&Explanation {
            node: "kw01".into(),
            prefix: "172.16.118.64/26".parse().unwrap(),
            paths: vec![
                path("192.168.80.121", "best", 7),
                PathRow {
                    used: true,
                    ..path("192.168.80.121", "used beside the best, for it is as good", 9)
                },
            ],
            sent: vec![SentRow {
                peer: "192.168.80.123".parse().unwrap(),
                port: 179,
                sent: true,
                why: "sent".into(),
                paths: vec![
                    sent(2, Some(7), true, "sent"),
                    sent(65538, Some(9), false, "as many better paths as the peer is to have go there"),
                ],
            }],
            route: None,
        });
        assert!(text.contains("*    192.168.80.121 (id 7)"), "{text}");
        assert!(text.contains("+    192.168.80.121 (id 9)"), "{text}");
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("192.168.80.123")).collect();
        assert!(rows[0].starts_with("192.168.80.123 path 2 from 192.168.80.121 (id 7)"), "{text}");
        assert!(rows[0].trim_end().ends_with("yes"), "{text}");
        assert!(rows[1].contains("path 65538 from 192.168.80.121 (id 9)"), "{text}");
        assert!(
            rows[1].trim_end().ends_with("no     as many better paths as the peer is to have go there"),
            "{text}"
        );
    }
}
