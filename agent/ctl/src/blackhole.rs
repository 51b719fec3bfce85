//! `manxctl blackhole add|delete|list`: prefixes whose packets this node drops because an operator says so, and
//! beside them those that peers ask for, own blocks and closed pools.

use std::{env, fmt::Write, net::IpAddr, path::Path, process::ExitCode};

use anyhow::{Context, bail, ensure};
use jiff::{Span, SpanRelativeTo, Unit};
use manx_api::{
    AddBlackholes, AskedBy, BlackholeCause, BlackholeReply, BlackholeRow, Blackholes, BlackholesOrdered,
    DeleteBlackholes, path,
};
use manx_net::Prefix;

use crate::{client, dataplane::units, output, table};

const EXAMPLES: &str = "\
Examples:
  manxctl blackhole add 172.16.36.200 --for 2h --comment 'scans the database'
  manxctl blackhole add 203.0.113.0/24 2001:db8:bad::/48 --reply unreachable
  manxctl blackhole list
  manxctl blackhole delete 203.0.113.0/24";

#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Drop what goes to these prefixes, in XDP or TC and in the kernel's FIB; all of them, or none and why
    #[command(after_help = EXAMPLES)]
    Add(AddArgs),
    /// End blackholes that were added
    #[command(after_help = EXAMPLES)]
    Delete(DeleteArgs),
    /// Show what is dropped, who asked for it, until when, how much it was, and whether kernel and map have it
    #[command(after_help = EXAMPLES)]
    List(ListArgs),
}

#[derive(clap::Args, Clone, Debug)]
pub struct AddArgs {
    /// Prefixes such as 203.0.113.0/24; an address means itself alone. What has a longer route is still reached
    #[arg(value_name = "PREFIX", required = true)]
    prefixes: Vec<String>,
    /// End by itself after 90s, 30m, 2h, 1d12h, …, by the wall clock; while manxd is dead it stands until the next
    /// start [default: when it is deleted]
    #[arg(long = "for", value_name = "DURATION", allow_hyphen_values = true)]
    duration: Option<String>,
    /// What senders hear: nothing, or ICMP unreachable, which the kernel sends within its limits
    #[arg(long, value_enum, default_value_t = Reply::Drop)]
    reply: Reply,
    /// Why, for those who find it in the list
    #[arg(long, value_name = "TEXT", default_value = "")]
    comment: String,
    /// Also where something lies in it that this node or your own login needs
    #[arg(long)]
    yes: bool,
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

#[derive(clap::Args, Clone, Debug)]
pub struct DeleteArgs {
    /// As they were added
    #[arg(value_name = "PREFIX", required = true)]
    prefixes: Vec<String>,
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

#[derive(clap::Args, Clone, Debug)]
pub struct ListArgs {
    /// With this node's own blocks, and pools that are closed
    #[arg(long)]
    all: bool,
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Reply {
    Drop,
    Unreachable,
}

pub fn run(command: &Command, socket: &Path) -> anyhow::Result<ExitCode> {
    match command {
        Command::Add(args) => {
            let order = add(args)?;
            let done: BlackholesOrdered = client::order_with(socket, path::BLACKHOLE_ADD, &order)?;
            show(&done, args.output.is_some(), |prefix| {
                let until = done.expires_at.as_ref().map(|at| format!(" until {at}")).unwrap_or_default();
                let instead = match (done.replaced.contains(prefix), &done.expires_at) {
                    (false, _) => "",
                    (true, Some(_)) => "; this takes the place of the earlier order",
                    (true, None) => " until it is deleted; this takes the place of the earlier order",
                };
                format!("{prefix} is a blackhole on {}{until}{instead}.", done.node)
            })?;
        }
        Command::Delete(args) => {
            let order = DeleteBlackholes { prefixes: prefixes(&args.prefixes)? };
            let done: BlackholesOrdered = client::order_with(socket, path::BLACKHOLE_DELETE, &order)?;
            show(&done, args.output.is_some(), |prefix| {
                format!("{prefix} is no blackhole of an operator any more on {}.", done.node)
            })?;
        }
        Command::List(args) => {
            let query = format!("{}?all={}", path::BLACKHOLES, args.all);
            let blackholes: Blackholes = client::ask(socket, &query)?;
            if args.output.is_some() {
                output::print(&format!("{}\n", serde_json::to_string_pretty(&blackholes)?))?;
            } else {
                output::print(&render(&blackholes, args.all))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn add(args: &AddArgs) -> anyhow::Result<AddBlackholes> {
    let seconds = args.duration.as_deref().map(seconds).transpose()?;
    Ok(AddBlackholes {
        prefixes: prefixes(&args.prefixes)?,
        seconds,
        reply: match args.reply {
            Reply::Drop => BlackholeReply::Drop,
            Reply::Unreachable => BlackholeReply::Unreachable,
        },
        comment: (!args.comment.is_empty()).then(|| args.comment.clone()),
        // By sudo everybody is root.
        operator: ["SUDO_USER", "USER"].into_iter().find_map(|name| env::var(name).ok()),
        operator_address: ["SSH_CONNECTION", "SSH_CLIENT"].into_iter().find_map(ssh_address),
        even_if_it_cuts_off: args.yes,
    })
}

/// The first word of what sshd says of a login.
fn ssh_address(variable: &str) -> Option<IpAddr> {
    env::var(variable).ok()?.split_whitespace().next()?.parse().ok()
}

/// All that is wrong is said at once.
fn prefixes(texts: &[String]) -> anyhow::Result<Vec<Prefix>> {
    let (mut prefixes, mut wrong) = (Vec::new(), Vec::new());
    for text in texts {
        match (text.parse::<IpAddr>(), text.parse::<Prefix>()) {
            (Ok(address), _) => prefixes.push(Prefix::host(address)),
            (_, Ok(prefix)) => prefixes.push(prefix),
            (Err(_), Err(error)) => wrong.push(output::no_prefix_or_address(&error)),
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok(prefixes)
}

/// Days are of 24 hours.
fn seconds(text: &str) -> anyhow::Result<u64> {
    let wrong = || format!("--for \"{text}\" is not a duration; write 90s, 30m, 2h or 1d12h");
    let span: Span = text.parse().ok().with_context(wrong)?;
    let seconds = span.total((Unit::Second, SpanRelativeTo::days_are_24_hours())).ok().with_context(wrong)?;
    ensure!(seconds >= 1.0, "--for \"{text}\": a blackhole lasts a second at least");
    // Finite and positive; whole seconds are all that is asked for.
    Ok(seconds.round() as u64)
}

fn show(done: &BlackholesOrdered, json: bool, line: impl Fn(&Prefix) -> String) -> anyhow::Result<()> {
    if json {
        return output::print(&format!("{}\n", serde_json::to_string_pretty(done)?));
    }
    let mut text = String::new();
    for prefix in &done.prefixes {
        let _ = writeln!(text, "{}", line(prefix));
    }
    for note in &done.notes {
        let _ = writeln!(text, "Note: {note}");
    }
    output::print(&text)
}

fn render(blackholes: &Blackholes, all: bool) -> String {
    let mut text = String::new();
    if blackholes.blackholes.is_empty() {
        let more = if all { "" } else { " Own blocks and closed pools are shown with --all." };
        let _ = writeln!(text, "No blackholes of operators or peers on {}.{more}", blackholes.node);
    } else {
        let rows: Vec<Vec<String>> = blackholes.blackholes.iter().map(row).collect();
        text.push_str(&table::trimmed(
            &["PREFIX", "ASKED BY", "SINCE", "LEFT", "REPLY", "PACKETS", "BYTES", "KERNEL", "MAP", "NOTE"],
            &rows,
        ));
    }
    for warning in &blackholes.warnings {
        let _ = writeln!(text, "Warning: {warning}");
    }
    text
}

fn row(row: &BlackholeRow) -> Vec<String> {
    let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
    let yes = |has: bool| if has { "yes" } else { "no" }.to_owned();
    let notes: Vec<&str> =
        [&row.cause.comment, &row.reason].into_iter().flatten().map(String::as_str).collect();
    vec![
        row.prefix.to_string(),
        asked_by(&row.cause),
        row.cause.since.clone(),
        row.seconds_left.map_or_else(|| "-".into(), left),
        reply(row.cause.reply).into(),
        number(row.packets),
        row.bytes.map_or_else(|| "-".into(), units::bytes),
        yes(row.in_kernel),
        row.in_map.map_or_else(|| "-".into(), yes),
        notes.join("; "),
    ]
}

fn asked_by(cause: &BlackholeCause) -> String {
    match cause.asked_by {
        AskedBy::Operator => format!("operator {}", cause.who),
        AskedBy::Peer => format!("peer {} (BLACKHOLE)", cause.who),
        AskedBy::OwnBlock => "own block".into(),
        AskedBy::Pool => cause.who.clone(),
    }
}

fn reply(reply: BlackholeReply) -> &'static str {
    match reply {
        BlackholeReply::Drop => "drop",
        BlackholeReply::Unreachable => "unreachable",
    }
}

/// The two greatest units.
fn left(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    }
}

/// For `routes` and `explain`: why a prefix is a blackhole, the end of a sentence.
pub fn because(cause: &BlackholeCause) -> String {
    let mut text = match cause.asked_by {
        AskedBy::Operator => format!("ordered by {} at {}", cause.who, cause.since),
        AskedBy::Peer => {
            format!("peer {} asks for it (community BLACKHOLE) since {}", cause.who, cause.since)
        }
        AskedBy::OwnBlock => format!("own block since {}: only its pods are reached", cause.since),
        AskedBy::Pool => {
            format!(
                "{} has manx.dev/unallocatedBlocks since {}: only its blocks are reached",
                cause.who, cause.since
            )
        }
    };
    if let Some(expires) = &cause.expires_at {
        let _ = write!(text, ", until {expires}");
    }
    if let Some(comment) = &cause.comment {
        let _ = write!(text, " ({comment})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_people_write_them_and_others_are_refused() {
        for (text, expected) in [
            ("90s", 90),
            ("30m", 1800),
            ("2h", 7200),
            ("1d12h", 129_600),
            ("1d 12h", 129_600),
            ("2 hours", 7200),
        ] {
            assert_eq!(seconds(text).unwrap(), expected, "{text}");
        }
        for text in ["", "2", "2x", "-2h", "0s", "10ms", "1 month"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn all_that_is_wrong_with_prefixes_is_said_at_once() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let read = prefixes(&texts(&["192.0.2.1", "10.0.0.0/8", "fd00::1"])).unwrap();
        assert_eq!(
            read.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["192.0.2.1/32", "10.0.0.0/8", "fd00::1/128"]
        );
        let error = prefixes(&texts(&["172.16.36.193/26", "10.0.0.0/8", "x"])).unwrap_err().to_string();
        assert!(
            error.contains("the network is 172.16.36.192/26")
                && error.contains("\"x\" is neither an address nor a prefix"),
            "{error}"
        );
    }

    #[test]
    fn a_row_says_who_until_when_how_much_and_where() {
        let mut hole = BlackholeRow {
            prefix: "192.0.2.1/32".parse().unwrap(),
            cause: BlackholeCause {
                asked_by: AskedBy::Operator,
                who: "alice (uid 0)".into(),
                since: "2026-01-01T00:00:00.000Z".into(),
                expires_at: Some("2026-01-01T02:00:00.000Z".into()),
                comment: Some("scan".into()),
                reply: BlackholeReply::Drop,
            },
            seconds_left: Some(7_140),
            in_kernel: false,
            in_map: Some(true),
            reason: Some("a pod has it".into()),
            packets: Some(12),
            bytes: Some(720),
        };
        assert_eq!(
            row(&hole),
            [
                "192.0.2.1/32",
                "operator alice (uid 0)",
                "2026-01-01T00:00:00.000Z",
                "1h59m",
                "drop",
                "12",
                "720 B",
                "no",
                "yes",
                "scan; a pod has it"
            ]
        );
        assert_eq!(
            because(&hole.cause),
            "ordered by alice (uid 0) at 2026-01-01T00:00:00.000Z, until 2026-01-01T02:00:00.000Z (scan)"
        );
        hole.in_map = None;
        assert_eq!(row(&hole)[8], "-");
    }

    #[test]
    fn what_is_left_is_told_in_two_units() {
        for (seconds, expected) in [(0, "0s"), (59, "59s"), (61, "1m1s"), (3_600, "1h0m"), (90_000, "1d1h")] {
            assert_eq!(left(seconds), expected);
        }
    }
}
