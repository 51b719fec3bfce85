//! `manxctl dataplane audit`: what differs between BGP, table, kernel, maps and programs.

use std::{fmt::Write, path::Path, process::ExitCode};

use manx_api::{Audit, Fault, FoundIn, path};

use crate::{client, output, table};

/// Something differed.
const FOUND: u8 = 1;
/// Something could not be compared, or nobody answers.
const FAILED: u8 = 2;

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Exit codes: 0 all is as it should be; 1 something differed, which is repaired now unless --dry-run was given; \
2 something could not be compared, or manxd does not answer.

manxd audits itself every 60 seconds; `manxctl dataplane status` shows the last audit.

Examples:
  manxctl dataplane audit                 # compare and repair
  manxctl dataplane audit --dry-run       # compare only
  manxctl dataplane audit -o json | jq -r '.findings[].what'")]
pub struct Args {
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub output: Option<String>,
    /// Repair nothing
    #[arg(long)]
    pub dry_run: bool,
}

pub fn run(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    let dry_run = if args.dry_run { "?dryRun=true" } else { "" };
    let audit: Audit = match client::order(socket, &format!("{}{dry_run}", path::AUDIT)) {
        Ok(audit) => audit,
        Err(error) => {
            output::error(&error.into());
            return Ok(ExitCode::from(FAILED));
        }
    };
    match args.output {
        Some(_) => output::print(&format!("{}\n", serde_json::to_string_pretty(&audit)?))?,
        None => output::print(&render(&audit))?,
    }
    for error in &audit.errors {
        output::complain("error", error);
    }
    Ok(match (audit.errors.is_empty(), audit.found) {
        (false, _) => ExitCode::from(FAILED),
        (true, 0) => ExitCode::SUCCESS,
        (true, _) => ExitCode::from(FOUND),
    })
}

fn render(audit: &Audit) -> String {
    let mut out = String::new();
    if !audit.findings.is_empty() {
        let dash = || String::from("-");
        let rows: Vec<Vec<String>> = audit
            .findings
            .iter()
            .map(|finding| {
                vec![
                    finding.what.clone(),
                    found_in(finding.found_in).into(),
                    fault(finding.fault).into(),
                    finding.wanted.clone().unwrap_or_else(dash),
                    finding.found.clone().unwrap_or_else(dash),
                ]
            })
            .collect();
        out.push_str(&table::trimmed(&["WHAT", "IN", "IS", "SHOULD BE", "WAS"], &rows));
    }
    let more = audit.found.saturating_sub(audit.findings.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "and {more} more");
    }
    out.push_str(&summary(audit));
    out
}

/// One line.
pub fn summary(audit: &Audit) -> String {
    let checked = &audit.checked;
    let result = match (audit.found, audit.dry_run) {
        (0, _) if audit.errors.is_empty() => String::from("all is as it should be"),
        (0, _) => String::from("nothing found, but not everything could be compared"),
        (1, false) => String::from("1 difference found and put right"),
        (found, false) => format!("{found} differences found and put right"),
        (1, true) => String::from("1 difference found, nothing was repaired"),
        (found, true) => format!("{found} differences found, nothing was repaired"),
    };
    format!(
        "{} prefixes, {} kernel routes, {} map entries and {} programs compared in {:.1} s: {result}.\n",
        checked.prefixes,
        checked.fib,
        checked.map,
        checked.programs,
        audit.took_ms as f64 / 1000.0
    )
}

fn found_in(place: FoundIn) -> &'static str {
    match place {
        FoundIn::Table => "table",
        FoundIn::Fib => "kernel",
        FoundIn::Map => "eBPF maps",
        FoundIn::Programs => "programs",
    }
}

fn fault(fault: Fault) -> &'static str {
    match fault {
        Fault::Missing => "missing",
        Fault::Changed => "changed",
        Fault::Unwanted => "unwanted",
    }
}

#[cfg(test)]
pub mod tests {
    use manx_api::{AuditFinding, Audited};

    use super::*;

    pub fn audit(found: u64) -> Audit {
        let finding = AuditFinding {
            found_in: FoundIn::Map,
            fault: Fault::Missing,
            what: "172.16.118.64/26".into(),
            wanted: Some("via 192.168.80.125 dev ens33".into()),
            found: None,
        };
        Audit {
            node: "kw01".into(),
            at: "2026-01-01T00:00:00.000Z".into(),
            took_ms: 1240,
            asked_for: true,
            dry_run: false,
            checked: Audited { prefixes: 10, fib: 4, map: 5, programs: 3 },
            found,
            findings: vec![finding; found.min(1) as usize],
            errors: Vec::new(),
        }
    }

    #[test]
    fn a_clean_audit_is_one_line() {
        assert_eq!(
            render(&audit(0)),
            "10 prefixes, 4 kernel routes, 5 map entries and 3 programs compared in 1.2 s: all is as it should be.\n"
        );
    }

    #[test]
    fn a_finding_says_where_it_was_what_should_be_there_and_what_was_done() {
        let text = render(&audit(3));
        for part in ["172.16.118.64/26", "eBPF maps", "missing", "via 192.168.80.125 dev ens33", "and 2 more"]
        {
            assert!(text.contains(part), "{text}");
        }
        assert!(text.ends_with("3 differences found and put right.\n"), "{text}");
        let text = render(&Audit { dry_run: true, ..audit(1) });
        assert!(text.ends_with("1 difference found, nothing was repaired.\n"), "{text}");
    }

    #[test]
    fn what_could_not_be_compared_is_not_called_clean() {
        let text = render(&Audit { errors: vec!["no maps".into()], ..audit(0) });
        assert!(text.contains("not everything could be compared"), "{text}");
    }
}
