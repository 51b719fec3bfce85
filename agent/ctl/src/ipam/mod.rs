//! `manxctl ipam show`: what Calico's IPAM has given out, in the tables of calicoctl.

mod usage;

use std::{collections::BTreeMap, net::IpAddr, process::ExitCode};

use manx_datastore::Datastore;
use manx_resources::{Kind, Problem, Snapshot, spec::Allocation};
use serde_json::{Value, json};

use crate::{output, table};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show how many addresses of each pool are in use, or who has one
    Show(Args),
}

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl ipam show
  manxctl ipam show --show-blocks
  manxctl ipam show --ip 172.16.36.193")]
pub struct Args {
    /// Each block, too
    #[arg(long)]
    show_blocks: bool,
    /// Who has this address
    #[arg(long, value_name = "IP")]
    ip: Option<IpAddr>,
    /// The addresses that lie in other nodes' blocks
    #[arg(long)]
    show_borrowed: bool,
    /// The same as JSON, for programs
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(command: &Command, datastore: &Datastore) -> anyhow::Result<ExitCode> {
    let Command::Show(args) = command;
    let read = datastore.read_versions(&[Kind::IpamBlock]).update;
    output::problems(read.problems.iter().filter(|problem| problem.is_error()));
    let snapshot = &read.snapshot;
    if read.has_errors() && snapshot.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    let (text, said) = match args.ip {
        Some(ip) => one(snapshot, ip),
        None if args.show_blocks || !args.show_borrowed => pools(snapshot, args.show_blocks),
        None => borrowed(snapshot),
    };
    output::print(&match args.output {
        Some(_) => format!("{}\n", serde_json::to_string_pretty(&said)?),
        None => text,
    })?;
    if snapshot.ipam_blocks().next().is_none() && snapshot.block_affinities().next().is_some() {
        output::complain(
            "warning",
            "there is no IPAMBlock in the datastore, though there are affinities: what is in use is known to Calico's IPAM \
             alone",
        );
    }
    Ok(if read.problems.iter().any(Problem::is_error) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn pools(snapshot: &Snapshot, show_blocks: bool) -> (String, Value) {
    let pools = usage::pools(snapshot);
    let mut rows = Vec::new();
    let row = |grouping: &str, cidr: String, total: f64, in_use: f64| {
        let share = |count: f64| format!("{} ({:.0}%)", five_digits(count), 100.0 * count / total);
        vec![grouping.to_owned(), cidr, five_digits(total), share(in_use), share(total - in_use)]
    };
    for pool in &pools {
        rows.extend(pool.cidr.map(|cidr| row("IP Pool", cidr.to_string(), pool.total, pool.in_use)));
        for block in pool.blocks.iter().filter(|_| show_blocks) {
            rows.push(row("Block", block.cidr.to_string(), block.total, block.in_use));
        }
    }
    let headings = ["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE"];
    (table::boxed(&headings, &rows), json!({ "pools": pools }))
}

/// Go's `%.5g`: five digits, and an exponent where they do not do.
fn five_digits(number: f64) -> String {
    let scientific = format!("{number:.4e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (0..5).contains(&exponent) {
        // Counts are whole numbers.
        return format!("{number:.0}");
    }
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{digits}e+{exponent:02}")
}

fn one(snapshot: &Snapshot, ip: IpAddr) -> (String, Value) {
    let Some(Allocation { handle, owner, alternate }) = usage::holder(snapshot, ip) else {
        return (format!("{ip} is not assigned\n"), json!({ "ip": ip, "assigned": false }));
    };
    let handle_shown = handle.as_deref().unwrap_or("<none>");
    let mut text = format!("IP {ip} is in use\nHandle ID: {handle_shown}\n");
    let list = |title: &str, attributes: &BTreeMap<String, String>| -> String {
        let lines = attributes.iter().map(|(name, value)| format!("  {name}: {value}\n"));
        std::iter::once(format!("{title}:\n")).chain(lines).collect()
    };
    if owner.is_empty() {
        text.push_str("No Active Owner attributes defined\n");
    } else {
        text.push_str(&list("Active Owner Attributes", owner));
    }
    if !alternate.is_empty() {
        text.push_str(&list("Alternate Owner Attributes", alternate));
    }
    let said =
        json!({ "ip": ip, "assigned": true, "handle": handle, "owner": owner, "alternateOwner": alternate });
    (text, said)
}

fn borrowed(snapshot: &Snapshot) -> (String, Value) {
    let (found, unknown) = usage::borrowed(snapshot);
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|of| {
            let (ip, block) = (of.ip.to_string(), of.block.to_string());
            let texts = [&ip, &of.borrowing_node, &block, &of.block_owner, &of.of, &of.allocated_to];
            texts.map(String::clone).to_vec()
        })
        .collect();
    let headings = ["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"];
    let mut text = table::boxed(&headings, &rows);
    if unknown > 0 {
        text.push_str(&format!(
            "\nNote: found {unknown} IP allocations without an explicit node association. Unable to determine if they are \
             borrowed.\n"
        ));
    }
    (text, json!({ "borrowed": found, "withoutNode": unknown }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_gos_with_five_digits() {
        for (number, shown) in [
            (0.0, "0"),
            (5.0, "5"),
            (65_531.0, "65531"),
            (65_536.0, "65536"),
            (131_072.0, "1.3107e+05"),
            (1_048_576.0, "1.0486e+06"),
            (200_000.0, "2e+05"),
            (2_f64.powi(80), "1.2089e+24"),
        ] {
            assert_eq!(five_digits(number), shown);
        }
    }
}
