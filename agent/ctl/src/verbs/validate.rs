//! `manxctl validate`: whether files would be taken, without a datastore.

use std::{path::PathBuf, process::ExitCode};

use manx_resources::Problem;
use serde_json::json;

use crate::{input::Input, output};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl validate -f cluster.yaml
  manxctl validate -R -f cluster/ -o json")]
pub struct Args {
    /// A file, a directory of files, or - for standard input; may be given several times
    #[arg(short, long, value_name = "FILE", required = true)]
    filename: Vec<PathBuf>,
    /// Directories inside directories, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// It is no fault if nothing is given
    #[arg(long)]
    skip_empty: bool,
    /// What is wrong as JSON, for programs
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let collected = Input::read(&args.filename, args.recursive)?.collect();
    let wrong = collected.problems.iter().any(Problem::is_error);
    let count = collected.snapshot.len();
    if args.output.is_some() {
        let wrong = wrong || (count == 0 && !args.skip_empty);
        let said = json!({ "valid": !wrong, "resources": count, "problems": collected.problems });
        output::print(&format!("{}\n", serde_json::to_string_pretty(&said)?))?;
        return Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    output::problems(&collected.problems);
    anyhow::ensure!(!wrong, "Failed to validate all resources");
    anyhow::ensure!(count > 0 || args.skip_empty, "No resources specified");
    output::print(&match count {
        0 => "No resources specified\n".to_owned(),
        count => format!("Successfully validated {count} resource(s)\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}
