//! `manxctl history`: what became of sessions, paths, routes and repairs, when, why, and what came of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::IpAddr,
    path::Path,
    process::ExitCode,
};

use anyhow::bail;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use manx_api::{Dialler, Happened, History, HistoryEvent, HistoryPath, MoreOf, path};
use manx_net::Prefix;

use crate::{client, output, table};

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  manxctl history --since 10m
  manxctl history --prefix 172.16.36.192/26   # or an address: what became of its routes, and why
  manxctl history --peer 10.0.0.2             # its session, and what came of that

What another event led to stands below it, indented. A restart of manxd forgets nothing.")]
pub struct Args {
    /// Only this peer's session, and what came of it
    #[arg(value_name = "PEER", conflicts_with = "peer")]
    of: Option<IpAddr>,
    /// The same
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<IpAddr>,
    /// Only what became of this prefix or of those that cover this address, and what led to it
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Only what happened since: 10m, 2h, or a time as it is printed here
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    let zone = TimeZone::system();
    let since = args.since.as_deref().map(|text| since(text, Timestamp::now(), &zone)).transpose()?;
    let about = args.prefix.as_deref().map(About::parse).transpose()?;
    let mut history: History = client::ask(socket, path::HISTORY)?;
    select(&mut history.events, args.peer.or(args.of), about, since);
    if args.output.is_some() {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&history)?))?;
    } else {
        output::print(&render(&history, &zone))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A moment: so long ago, or as the table prints it, or RFC 3339.
fn since(text: &str, now: Timestamp, zone: &TimeZone) -> anyhow::Result<Timestamp> {
    if let Ok(ago) = text.parse::<SignedDuration>() {
        return Ok(now.checked_sub(ago)?);
    }
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    if let Ok(at) = text.parse::<jiff::civil::DateTime>()
        && let Ok(at) = at.to_zoned(zone.clone())
    {
        return Ok(at.timestamp());
    }
    bail!(
        "--since \"{text}\" is no duration such as 10m or 2h30m, and no time such as \"2026-11-22 11:01:13\""
    )
}

#[derive(Clone, Copy, Debug)]
enum About {
    Prefix(Prefix),
    Address(IpAddr),
}

impl About {
    fn parse(text: &str) -> anyhow::Result<About> {
        match (text.parse(), text.parse()) {
            (Ok(address), _) => Ok(About::Address(address)),
            (_, Ok(prefix)) => Ok(About::Prefix(prefix)),
            _ => bail!("--prefix \"{text}\" is no prefix such as 172.16.36.192/26, and no address"),
        }
    }

    fn is(self, prefix: Prefix) -> bool {
        match self {
            About::Prefix(own) => own == prefix,
            About::Address(address) => prefix.contains(address),
        }
    }
}

/// What is asked for, with what led to it; of a peer also what came of it.
fn select(
    events: &mut Vec<HistoryEvent>,
    peer: Option<IpAddr>,
    about: Option<About>,
    since: Option<Timestamp>,
) {
    let causes: BTreeMap<u64, u64> =
        events.iter().filter_map(|event| Some((event.number, event.caused_by?))).collect();
    let mut wanted: BTreeSet<u64> = BTreeSet::new();
    for event in events.iter() {
        let of_peer = peer.is_none_or(|peer| event.what.peer().is_some_and(|(of, _)| of == peer));
        let of_prefix = about.is_none_or(|about| event.what.prefix().is_some_and(|prefix| about.is(prefix)));
        // What led to an event has a smaller number.
        let came_of_it = about.is_none() && event.caused_by.is_some_and(|cause| wanted.contains(&cause));
        if (of_peer && of_prefix) || (peer.is_some() && came_of_it) {
            wanted.insert(event.number);
        }
    }
    for number in wanted.clone() {
        let mut at = number;
        while let Some(cause) = causes.get(&at) {
            if !wanted.insert(*cause) {
                break;
            }
            at = *cause;
        }
    }
    events.retain(|event| {
        wanted.contains(&event.number)
            && since.is_none_or(|since| event.at.parse::<Timestamp>().is_ok_and(|at| at >= since))
    });
}

fn render(history: &History, zone: &TimeZone) -> String {
    if history.events.is_empty() {
        return "Nothing of that is remembered.\n".into();
    }
    let mut depths: BTreeMap<u64, usize> = BTreeMap::new();
    let mut rows = Vec::new();
    for event in &history.events {
        let depth = event.caused_by.and_then(|cause| depths.get(&cause)).map_or(0, |depth| depth + 1);
        depths.insert(event.number, depth);
        let at = event.at.parse::<Timestamp>().map_or_else(
            |_| event.at.clone(),
            |at| at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        );
        let (what, why) = told(&event.what);
        rows.push(vec![at, format!("{:width$}{what}", "", width = 2 * depth), why]);
    }
    let mut out = table::trimmed(&["TIME", "EVENT", "CAUSE"], &rows);
    if history.forgotten > 0 {
        let _ = writeln!(out, "{} older events are forgotten.", history.forgotten);
    }
    out
}

/// What, and why.
fn told(what: &Happened) -> (String, String) {
    let at = |peer: &IpAddr, port: &u16| match (port, peer) {
        (179, peer) => peer.to_string(),
        (port, IpAddr::V4(peer)) => format!("{peer}:{port}"),
        (port, IpAddr::V6(peer)) => format!("[{peer}]:{port}"),
    };
    match what {
        Happened::Daemon { text } => (text.clone(), String::new()),
        Happened::Resources { text } => ("resources".to_owned(), text.clone()),
        Happened::Session { peer, port, from, to, cause, dialled_by, .. } => {
            let dialled = match dialled_by {
                Some(Dialler::Local) => ", dialled by us",
                Some(Dialler::Remote) => ", dialled by the peer",
                None => "",
            };
            (format!("{}: {from} -> {to}", at(peer, port)), format!("{cause}{dialled}"))
        }
        Happened::Warning { peer, port, text, .. } => (at(peer, port), format!("Warning: {text}")),
        Happened::Parting { peer, port, text } => (at(peer, port), text.clone()),
        Happened::Bfd { peer, port, from, to, cause } => {
            let from = from.as_deref().unwrap_or("not known");
            (format!("{}: BFD: {from} -> {to}", at(peer, port)), cause.clone())
        }
        Happened::NextHop { address, text, .. } => (format!("next hop {address}"), text.clone()),
        Happened::Path { prefix, path, cause, .. } => (
            format!("{prefix}: {}", path.as_ref().map_or_else(|| "no path".to_owned(), path_text)),
            cause.clone(),
        ),
        Happened::Route { prefix, wanted } => match wanted {
            Some(wanted) => (format!("{prefix}: to kernel and map: {wanted}"), String::new()),
            None => (format!("{prefix}: out of kernel and map"), String::new()),
        },
        Happened::Refused { prefix, error: Some(error) } => {
            (format!("{prefix}: the kernel does not take it"), error.clone())
        }
        Happened::Refused { prefix, error: None } => {
            (format!("{prefix}: the kernel has it now"), String::new())
        }
        Happened::Repair { repair, of, by } => (
            format!("{of}: {}, and put right", repair.text()),
            by.clone().map(|by| format!("by {by}")).unwrap_or_default(),
        ),
        Happened::More { of, count, cause } => {
            let of = match of {
                MoreOf::Paths => "best paths",
                MoreOf::Routes => "routes of kernel and map",
            };
            (format!("{count} more {of} changed"), cause.clone())
        }
    }
}

fn path_text(path: &HistoryPath) -> String {
    let hops: Vec<String> = path.next_hops.iter().map(IpAddr::to_string).collect();
    match (path.from, path.blackhole) {
        (None, _) => "own".to_owned(),
        (Some(from), true) => format!("blackhole, from {from}"),
        (Some(from), false) if hops == [from.to_string()] => format!("via {from}"),
        (Some(from), false) => format!("via {} from {from}", hops.join(" and ")),
    }
}

#[cfg(test)]
mod tests {
    use manx_api::SessionState;

    use super::*;

    fn event(number: u64, caused_by: Option<u64>, what: Happened) -> HistoryEvent {
        HistoryEvent { number, at: format!("2026-11-22T11:01:{:02}.524Z", number), caused_by, what }
    }

    fn session(number: u64, peer: &str) -> HistoryEvent {
        event(
            number,
            None,
            Happened::Session {
                peer: peer.parse().unwrap(),
                port: 179,
                from: SessionState::Established,
                to: SessionState::Active,
                cause: "NOTIFICATION received: Cease / Peer De-configured".into(),
                notification: None,
                dialled_by: Some(Dialler::Local),
            },
        )
    }

    fn lost(number: u64, caused_by: u64, prefix: &str) -> [HistoryEvent; 2] {
        let prefix: Prefix = prefix.parse().unwrap();
        let cause = "what 10.0.0.2 had announced is not kept any longer".into();
        [
            event(number, Some(caused_by), Happened::Path { prefix, path: None, peer: None, cause }),
            event(number + 1, Some(number), Happened::Route { prefix, wanted: None }),
        ]
    }

    fn story() -> Vec<HistoryEvent> {
        let mut events = vec![session(1, "10.0.0.2"), session(2, "10.0.0.3")];
        events.extend(lost(3, 1, "172.16.8.0/26"));
        events.extend(lost(5, 2, "172.16.9.0/26"));
        events
    }

    fn numbers(peer: Option<&str>, about: Option<&str>, since: Option<&str>) -> Vec<u64> {
        let mut events = story();
        let about = about.map(|text| About::parse(text).unwrap());
        select(
            &mut events,
            peer.map(|peer| peer.parse().unwrap()),
            about,
            since.map(|at| at.parse().unwrap()),
        );
        events.iter().map(|event| event.number).collect()
    }

    #[test]
    fn a_prefix_is_told_with_what_led_to_it_and_a_peer_with_what_came_of_it() {
        assert_eq!(numbers(None, None, None), [1, 2, 3, 4, 5, 6]);
        assert_eq!(numbers(None, Some("172.16.9.0/26"), None), [2, 5, 6]);
        assert_eq!(numbers(None, Some("172.16.8.7"), None), [1, 3, 4]);
        assert_eq!(numbers(Some("10.0.0.3"), None, None), [2, 5, 6]);
        assert_eq!(numbers(Some("10.0.0.3"), None, Some("2026-11-22T11:01:05Z")), [5, 6]);
    }

    #[test]
    fn what_came_of_an_event_stands_below_it() {
        let history = History { node: "kw01".into(), events: story(), forgotten: 3 };
        let text = render(&history, &TimeZone::UTC);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1].split("   ").next(), Some("2026-11-22 11:01:01.524"));
        assert!(lines[1].contains("10.0.0.2: Established -> Active"), "{text}");
        assert!(
            lines[1].ends_with("NOTIFICATION received: Cease / Peer De-configured, dialled by us"),
            "{text}"
        );
        assert!(lines[3].contains("     172.16.8.0/26: no path "), "{text}");
        assert!(lines[4].contains("       172.16.8.0/26: out of kernel and map"), "{text}");
        assert!(text.ends_with("3 older events are forgotten.\n"), "{text}");
    }

    #[test]
    fn a_moment_is_so_long_ago_or_a_time() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        for (text, at) in [
            ("10m", "2026-11-22T11:50:00Z"),
            ("2h30m", "2026-11-22T09:30:00Z"),
            ("2026-11-22 11:01:13", "2026-11-22T11:01:13Z"),
            ("2026-11-22T11:01:13+01:00", "2026-11-22T10:01:13Z"),
        ] {
            assert_eq!(since(text, now, &TimeZone::UTC).unwrap(), at.parse().unwrap(), "{text}");
        }
        let said = since("yesterday", now, &TimeZone::UTC).unwrap_err().to_string();
        assert!(said.starts_with("--since \"yesterday\" is no duration"), "{said}");
        assert!(About::parse("172.16.8.0/33").is_err());
    }
}
