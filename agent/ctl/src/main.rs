//! `manxctl`, the operator's tool: resources in the datastore, the plan that they give a node, and what a running
//! manxd answers. A command is a module with `Args` and `run`; this file only names them. Errors go to stderr as
//! one `error:` line each and end in exit code 1; a command line that makes no sense ends in 2.
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)]

mod blackhole;
mod client;
mod completion;
mod dataplane;
mod drain;
mod explain;
mod get;
mod history;
mod input;
mod ipam;
mod left_behind;
mod lint;
mod log_level;
mod node_status;
mod output;
mod peer;
mod plan;
mod print;
mod routes;
mod support_dump;
mod table;
mod verbs;
mod version;

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, error::ErrorKind, parser::ValueSource};
use manx_datastore::{Datastore, OpenError};

/// Where the help lists what every command takes.
const AFTER_THE_COMMANDS_OWN: usize = 900;

/// Asks and tells Manx: its resources, its plans, its routes
#[derive(Debug, Parser)]
#[command(name = "manxctl", version, disable_help_subcommand = true, arg_required_else_help = true)]
struct Cli {
    /// Where the resources live: dir:PATH, etcd://HOST:PORT,... or etcds://HOST:PORT,... by TLS
    #[arg(
        long,
        global = true,
        display_order = AFTER_THE_COMMANDS_OWN,
        env = "MANX_DATASTORE",
        hide_env_values = true,
        value_name = "URL",
        default_value = "dir:/etc/manx"
    )]
    datastore: String,

    /// The socket of this node's manxd
    #[arg(long, global = true, display_order = AFTER_THE_COMMANDS_OWN, env = "MANX_SOCKET", hide_env_values = true, value_name = "PATH", default_value = manx_api::DEFAULT_SOCKET)]
    socket: PathBuf,

    /// calicoctl's configuration file, for the etcd that it names
    #[arg(short, long, global = true, display_order = AFTER_THE_COMMANDS_OWN, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Refused: of calicoctl, for Kubernetes' API, which manxctl does not ask
    #[arg(long, global = true, hide = true, value_name = "CONTEXT", value_parser = no_context)]
    context: Option<String>,

    /// Of calicoctl, and taken: manxctl does not compare its version with the cluster's
    #[arg(long, global = true, hide = true)]
    allow_version_mismatch: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Create resources, or replace those that are there
    Apply(verbs::apply::Args),
    /// Create resources that are not there yet
    Create(verbs::create::Args),
    /// Replace resources that are there
    Replace(verbs::replace::Args),
    /// Delete resources
    Delete(verbs::delete::Args),
    /// Change some fields of a resource
    Patch(verbs::patch::Args),
    /// Set, change or remove a label of a resource
    Label(verbs::label::Args),
    /// Say whether files would be taken, without a datastore
    Validate(verbs::validate::Args),
    /// Show resources of one kind
    Get(get::Args),
    /// Ask the manxd of this node about its sessions
    #[command(subcommand)]
    Node(NodeCommand),
    /// Show the routes that BGP knows, the kernel has and the eBPF map has, side by side
    Routes(routes::Args),
    /// Say why a route is as it is: all paths, which is best and at which step the others lost, who got it and who not
    Explain(explain::Args),
    /// Show what became of the sessions, when, and why
    History(history::Args),
    /// Tell the manxd of this node what to do about a peer
    #[command(subcommand)]
    Peer(peer::Command),
    /// Drop what goes to a prefix, for a time or until it is deleted, and show what is dropped
    #[command(subcommand)]
    Blackhole(blackhole::Command),
    /// Ask the manxd of this node about its eBPF programs
    #[command(subcommand)]
    Dataplane(dataplane::Command),
    /// Show what the log of the manxd of this node lets through, or set it until manxd ends
    LogLevel(log_level::Args),
    /// Show what a node, or each, would do with these resources, without a daemon; or what would change
    Plan(plan::Args),
    /// Say what is wrong with the resources of the whole cluster: each with what follows, and what to do
    Lint(lint::Args),
    /// Show what Calico's IPAM has given out
    #[command(subcommand)]
    Ipam(ipam::Command),
    /// Pack all that explains the state of this node into one file, without what is secret
    SupportDump(support_dump::Args),
    /// Show which manxctl this is, and which Calico the cluster says that it has
    Version(version::Args),
    /// Print what makes a shell complete manxctl's command lines
    Completion(completion::Completion),
    /// Write the manual pages of manxctl, one for each command
    Man(completion::Man),
}

#[derive(Debug, clap::Subcommand)]
enum NodeCommand {
    /// Show the node's BGP sessions
    Status(node_status::Args),
    /// Let the node leave: ask everybody to go another way, withdraw its routes, close its sessions
    Drain(drain::DrainArgs),
    /// Let a drained node come back
    Undrain(drain::UndrainArgs),
}

/// Without it the wrong cluster might be meant.
fn no_context(_: &str) -> Result<String, &'static str> {
    Err(
        "manxctl asks no Kubernetes API; name a directory or an etcd with --datastore, or calicoctl's file with --config",
    )
}

/// Where the resources live. `--config` comes before the variable of `--datastore`, which it cannot stand beside.
fn open(cli: &Cli) -> Result<Datastore, OpenError> {
    match &cli.config {
        Some(file) => Datastore::of_calicoctl(file),
        None => Datastore::open(&cli.datastore),
    }
}

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if cli.config.is_some() && matches.value_source("datastore") == Some(ValueSource::CommandLine) {
        let said =
            "the argument '--config <FILE>' cannot be used with '--datastore <URL>': each names a datastore";
        Cli::command().error(ErrorKind::ArgumentConflict, said).exit();
    }
    run(&cli).unwrap_or_else(|error| {
        output::error(&error);
        ExitCode::FAILURE
    })
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let datastore = || open(cli);
    match &cli.command {
        Command::Apply(args) => verbs::apply::run(args, &datastore()?),
        Command::Create(args) => verbs::create::run(args, &datastore()?),
        Command::Replace(args) => verbs::replace::run(args, &datastore()?),
        Command::Delete(args) => verbs::delete::run(args, &datastore()?),
        Command::Patch(args) => verbs::patch::run(args, &datastore()?),
        Command::Label(args) => verbs::label::run(args, &datastore()?),
        Command::Validate(args) => verbs::validate::run(args),
        Command::Get(args) => get::run(args, &datastore()?),
        Command::Node(NodeCommand::Status(args)) => node_status::run(args, &cli.socket),
        Command::Node(NodeCommand::Drain(args)) => drain::drain(args, &cli.socket),
        Command::Node(NodeCommand::Undrain(args)) => drain::undrain(args, &cli.socket),
        Command::Routes(args) => routes::run(args, &cli.socket),
        Command::Explain(args) => explain::run(args, &cli.socket),
        Command::History(args) => history::run(args, &cli.socket),
        Command::Peer(command) => peer::run(command, &cli.socket),
        Command::Blackhole(command) => blackhole::run(command, &cli.socket),
        Command::Dataplane(command) => dataplane::run(command, &cli.socket),
        Command::Plan(args) => plan::run(args, &datastore, &cli.socket),
        Command::LogLevel(args) => log_level::run(args, &cli.socket),
        Command::Lint(args) => lint::run(args, &datastore),
        Command::Ipam(command) => ipam::run(command, &datastore()?),
        Command::SupportDump(args) => support_dump::run(args, &datastore, &cli.socket),
        Command::Version(args) => version::run(args, &datastore),
        Command::Completion(args) => completion::completion(args, &mut Cli::command()),
        Command::Man(args) => completion::man(args, Cli::command()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    const README: &str = include_str!("../../../README.md");

    /// Those that do something, with their whole names.
    fn leaves(command: &Command, name: &str, found: &mut Vec<(String, Command)>) {
        let name = format!("{name} {}", command.get_name()).trim().to_owned();
        if !command.has_subcommands() {
            found.push((name, command.clone()));
            return;
        }
        command.get_subcommands().for_each(|inner| leaves(inner, &name, found));
    }

    fn all() -> Vec<(String, Command)> {
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        found
    }

    /// The words of a command line, as far as a comment, a pipe or a file.
    fn words(line: &str) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        for (number, part) in line.split('\'').enumerate() {
            if number % 2 == 1 {
                words.push(part.to_owned());
                continue;
            }
            for word in part.split_whitespace() {
                if matches!(word, "#" | "|" | ";" | ">") {
                    return words;
                }
                words.push(word.to_owned());
            }
        }
        words
    }

    /// Fails unless the line is one that manxctl takes.
    fn parse(line: &str) {
        let line = line.trim();
        let own = line.rsplit_once("| manxctl").map_or(line, |(_, own)| own);
        let words = words(own.trim_start_matches("manxctl"));
        let whole = std::iter::once("manxctl").chain(words.iter().map(String::as_str));
        if let Err(error) = Cli::command().try_get_matches_from(whole) {
            panic!("{line}\n{error}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// What they print is for a shell and for man.
    const NOT_FOR_PROGRAMS: [&str; 2] = ["manxctl completion", "manxctl man"];

    #[test]
    fn every_command_answers_in_json_too() {
        for (name, command) in
            all().into_iter().filter(|(name, _)| !NOT_FOR_PROGRAMS.contains(&name.as_str()))
        {
            let output = command.get_arguments().find(|argument| argument.get_id() == "output");
            let forms = output.map(|output| output.get_possible_values()).unwrap_or_default();
            assert!(forms.iter().any(|form| form.get_name() == "json"), "{name}");
        }
    }

    #[test]
    fn the_help_of_every_command_has_examples_that_it_takes_and_a_terminal_shows() {
        for (name, command) in all() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name} has none"));
            let examples = examples.split("\n\n").next().unwrap();
            let last = name.rsplit(' ').next().unwrap();
            assert!(examples.contains(last), "{name}: {examples}");
            for line in examples.lines() {
                assert!(line.starts_with("  ") && line.chars().count() <= 100, "{name}: {line:?}");
                parse(line);
            }
        }
    }

    #[test]
    fn the_readme_shows_command_lines_that_exist() {
        let lines: Vec<&str> = README.lines().filter(|line| line.starts_with("    manxctl ")).collect();
        assert!(lines.len() > 10, "{lines:?}");
        lines.into_iter().for_each(parse);
    }
}
