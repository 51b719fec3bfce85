//! `manxctl history [PEER]`: what became of the sessions, when, and why.

use std::{fmt::Write, net::IpAddr, path::Path, process::ExitCode};

use jiff::{Timestamp, tz::TimeZone};
use manx_api::{Dialler, History, path};

use crate::{client, output, table};

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  manxctl history
  manxctl history 10.0.0.2")]
pub struct Args {
    /// Only this peer's [default: all]
    #[arg(value_name = "PEER")]
    peer: Option<IpAddr>,
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    let query = match args.peer {
        Some(peer) => format!("{}?peer={}", path::HISTORY, client::escaped(&peer.to_string())),
        None => path::HISTORY.to_owned(),
    };
    let history: History = client::ask(socket, &query)?;
    if args.output.is_some() {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&history)?))?;
    } else {
        output::print(&render(&history, &TimeZone::system()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(history: &History, zone: &TimeZone) -> String {
    if history.events.is_empty() {
        return "Nothing has happened to a session since manxd started.\n".into();
    }
    let rows: Vec<Vec<String>> = history
        .events
        .iter()
        .map(|event| {
            let at = event.at.parse::<Timestamp>().map_or_else(
                |_| event.at.clone(),
                |at| at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string(),
            );
            let dialled = match event.dialled_by {
                Some(Dialler::Local) => "us",
                Some(Dialler::Remote) => "the peer",
                None => "",
            };
            vec![
                at,
                event.peer.to_string(),
                if event.warning { event.to.to_string() } else { format!("{} -> {}", event.from, event.to) },
                if event.warning { format!("Warning: {}", event.cause) } else { event.cause.clone() },
                dialled.into(),
            ]
        })
        .collect();
    let mut out = table::trimmed(&["TIME", "PEER", "STATE", "CAUSE", "DIALLED BY"], &rows);
    if history.forgotten > 0 {
        let _ = writeln!(out, "{} older events are forgotten.", history.forgotten);
    }
    out
}

#[cfg(test)]
mod tests {
    use manx_api::{HistoryEvent, SessionState};

    use super::*;

    #[test]
    fn a_warning_changes_no_state() {
        let event = HistoryEvent {
            at: "2026-11-22T11:01:13.524Z".into(),
            peer: "192.168.80.121".parse().unwrap(),
            port: 179,
            from: SessionState::Established,
            to: SessionState::Established,
            warning: true,
            cause: "sent a malformed UPDATE".into(),
            notification: None,
            dialled_by: None,
        };
        let history = History { node: "kw01".into(), events: vec![event], forgotten: 0 };
        let text = render(&history, &TimeZone::UTC);
        assert!(text.contains("192.168.80.121   Established   Warning: sent a malformed UPDATE"), "{text}");
    }

    #[test]
    fn an_event_has_its_time_its_cause_and_who_dialled() {
        let text = render(
            &History {
                node: "kw01".into(),
                events: vec![HistoryEvent {
                    at: "2026-11-22T11:01:13.524Z".into(),
                    peer: "192.168.80.121".parse().unwrap(),
                    port: 179,
                    from: SessionState::Established,
                    to: SessionState::Active,
                    warning: false,
                    cause: "NOTIFICATION received: Cease / Peer De-configured".into(),
                    notification: None,
                    dialled_by: Some(Dialler::Local),
                }],
                forgotten: 3,
            },
            &TimeZone::UTC,
        );
        assert!(text.contains("2026-11-22 11:01:13.524   192.168.80.121   Established -> Active"), "{text}");
        assert!(text.contains("Peer De-configured   us"), "{text}");
        assert!(text.ends_with("3 older events are forgotten.\n"), "{text}");
    }
}
