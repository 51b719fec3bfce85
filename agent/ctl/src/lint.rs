//! `manxctl lint`: what is wrong with the resources of the whole cluster, from files or from the datastore. Its exit code
//! is for whoever guards a repository of them.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use manx_datastore::{Datastore, OpenError};
use manx_resources::{Finding, Gravity, Key, Problem};

use crate::{input, output};

/// Something was found; 1 is that nothing could be looked at, 2 a command line that makes no sense.
const FOUND: u8 = 3;

/// Characters of a line of prose, without what it is indented by.
const LINE: usize = 92;

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl lint
  manxctl lint -f cluster/ --strict   # in CI, before anybody applies it

Exit code: 0 where there is no error, 3 where there is one (with --strict a warning too), 1 where the
resources cannot be read.")]
pub struct Args {
    /// A file, a directory of files, or - for standard input, instead of the datastore; may be given several times
    #[arg(short, long = "filename", value_name = "FILE")]
    filename: Vec<PathBuf>,

    /// Look at this host too, for what deletes or owns routes behind our back; without -f it always is
    #[arg(long)]
    host: bool,

    /// How the names of pods' interfaces begin, as manxd has been told
    #[arg(
        long,
        env = "MANX_POD_INTERFACE_PREFIX",
        hide_env_values = true,
        value_name = "TEXT",
        default_value = "cali"
    )]
    pod_interface_prefix: String,

    /// Warnings end in exit code 3, too
    #[arg(long)]
    strict: bool,

    /// The findings as JSON, for programs
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(args: &Args, datastore: &dyn Fn() -> Result<Datastore, OpenError>) -> anyhow::Result<ExitCode> {
    let (snapshot, problems) = input::snapshot(&args.filename, datastore)?;
    output::problems(&problems);
    if problems.iter().any(Problem::is_error) {
        anyhow::bail!("what has errors cannot be looked at as a whole");
    }
    let mut findings = manx_resources::lint(&snapshot);
    // Files may be of any cluster; the datastore is the one that this host belongs to.
    if args.host || args.filename.is_empty() {
        findings.extend(manx_host::look(Path::new("/"), &args.pod_interface_prefix));
        findings.sort();
    }
    if args.output.is_some() {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&findings)?))?;
    } else {
        output::print(&render(&findings, snapshot.len()))?;
    }
    let counts = |finding: &Finding| args.strict || finding.gravity == Gravity::Error;
    Ok(if findings.iter().any(counts) { FOUND.into() } else { ExitCode::SUCCESS })
}

fn render(findings: &[Finding], resources: usize) -> String {
    let mut text = String::new();
    for finding in findings {
        // Writing to a String cannot fail; so below.
        let _ =
            writeln!(text, "{}: {}{}", finding.gravity, finding.rule.name(), subjects(&finding.resources));
        for line in wrapped(&sentence(&finding.message)).chain(wrapped(&sentence(&finding.remedy))) {
            let _ = writeln!(text, "    {line}");
        }
        text.push('\n');
    }
    let count = |gravity: Gravity| findings.iter().filter(|finding| finding.gravity == gravity).count();
    let (errors, warnings) = (count(Gravity::Error), count(Gravity::Warning));
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let _ = writeln!(
        text,
        "{} and {} in {}.",
        plural(errors, "error"),
        plural(warnings, "warning"),
        plural(resources, "resource")
    );
    text
}

/// The first few, behind a blank.
fn subjects(resources: &[Key]) -> String {
    const SHOWN: usize = 4;
    let mut text = String::new();
    for key in resources.iter().take(SHOWN) {
        let _ = write!(text, " {key}");
    }
    if resources.len() > SHOWN {
        let _ = write!(text, " and {} more", resources.len() - SHOWN);
    }
    text
}

/// Begins with a capital, unless with a name as it is written, and ends in a full stop.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let is_plain =
        text.split(' ').next().is_some_and(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == ','));
    match chars.next() {
        Some(first) if is_plain => format!("{}{}.", first.to_ascii_uppercase(), chars.as_str()),
        _ => format!("{text}."),
    }
}

fn wrapped(text: &str) -> impl Iterator<Item = String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > LINE {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines.into_iter()
}
