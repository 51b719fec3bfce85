//! What a shell and man want to know of the command line: made from its own description, so that it cannot be wrong.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Command;
use clap_complete::{Shell, generate};

use crate::output;

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl completion bash > /etc/bash_completion.d/manxctl
  manxctl completion zsh > /usr/local/share/zsh/site-functions/_manxctl
  manxctl completion fish > ~/.config/fish/completions/manxctl.fish")]
pub struct Completion {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl man /usr/local/share/man/man1")]
pub struct Man {
    /// The directory for manxctl.1, manxctl-get.1 and the others; it is there already
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub fn completion(args: &Completion, command: &mut Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    generate(args.shell, command, "manxctl", &mut script);
    output::print(&String::from_utf8(script).context("the script is no text")?)?;
    Ok(ExitCode::SUCCESS)
}

pub fn man(args: &Man, command: Command) -> anyhow::Result<ExitCode> {
    clap_mangen::generate_to(command, &args.directory)
        .with_context(|| format!("cannot write manual pages to {}", args.directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
