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
    /// How IPAM gives out blocks
    #[arg(long)]
    show_configuration: bool,
    /// The same as JSON, for programs
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(command: &Command, datastore: &Datastore) -> anyhow::Result<ExitCode> {
    let Command::Show(args) = command;
    let read = datastore.read_versions(&[Kind::IpamBlock, Kind::IpamConfiguration]).update;
    output::problems(read.problems.iter().filter(|problem| problem.is_error()));
    let snapshot = &read.snapshot;
    if read.has_errors() && snapshot.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    let (text, said) = match args.ip {
        Some(ip) => one(snapshot, ip),
        // Of several the first counts, as in calicoctl.
        None if args.show_blocks => pools(snapshot, true),
        None if args.show_borrowed => borrowed(snapshot),
        None if args.show_configuration => configuration(snapshot),
        None => pools(snapshot, false),
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
    // A column of newer versions, for those who reserve.
    let reserves = snapshot.ip_reservations().next().is_some();
    let row = |grouping: &str, cidr: String, [total, in_use, reserved, free]: [f64; 4]| {
        let share = |count: f64| format!("{} ({:.0}%)", five_digits(count), 100.0 * count / total);
        let mut row = vec![grouping.to_owned(), cidr, five_digits(total), share(in_use)];
        row.extend(reserves.then(|| share(reserved)));
        row.push(share(free));
        row
    };
    for pool in &pools {
        rows.extend(pool.cidr.map(|cidr| {
            row("IP Pool", cidr.to_string(), [pool.total, pool.in_use, pool.reserved, pool.free])
        }));
        for block in pool.blocks.iter().filter(|_| show_blocks) {
            let numbers = [block.total, block.in_use, block.reserved, block.free];
            rows.push(row("Block", block.cidr.to_string(), numbers));
        }
    }
    let mut headings = vec!["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE"];
    headings.extend(reserves.then_some("IPS RESERVED"));
    headings.push("IPS FREE");
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

fn configuration(snapshot: &Snapshot) -> (String, Value) {
    let spec = snapshot.ipam_configuration().map(|object| object.spec).unwrap_or_default();
    let rows = [
        ("StrictAffinity", spec.strict_affinity.to_string()),
        ("AutoAllocateBlocks", spec.auto_allocate_blocks.to_string()),
        ("MaxBlocksPerHost", spec.max_blocks_per_host.to_string()),
    ]
    .map(|(property, value)| vec![property.to_owned(), value]);
    let said = json!({
        "strictAffinity": spec.strict_affinity,
        "autoAllocateBlocks": spec.auto_allocate_blocks,
        "maxBlocksPerHost": spec.max_blocks_per_host,
    });
    (table::boxed(&["PROPERTY", "VALUE"], &rows), said)
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
