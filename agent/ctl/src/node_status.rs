//! `manxctl node status`: the two tables of `calicoctl node status`, from the running manxd. What is wrong
//! besides is said below them, and only then.

use std::{
    fmt::Write,
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use jiff::{Timestamp, Zoned, tz::TimeZone};
use manx_api::{NodeStatus, PartingStatus, PeerStatus, Readiness, SessionState, path};

use crate::{
    client::{self, AskError},
    output, table,
};

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  manxctl node status
  manxctl node status --wait 90    # until this node is ready; ends in 1 if it is not after 90 s
  manxctl node status -o json | jq '.peers[] | {address, state}'")]
pub struct Args {
    /// Print what manxd answers, with more in it: who dialled, counters, notifications
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub output: Option<String>,

    /// Wait until this node is ready by calico-node's rule (in its first 30 s all sessions, later one), for so many
    /// seconds at most [default: 60]; end in 1 and say why if it is not then
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "60")]
    pub wait: Option<u32>,
}

/// Between two questions.
const AGAIN: Duration = Duration::from_millis(500);
/// Sentences about peers; the JSON form has all.
const SENTENCES: usize = 10;

pub fn run(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    let waited = args.wait.map(|seconds| (seconds, wait(socket, Duration::from_secs(seconds.into()))));
    let status: NodeStatus = match client::ask(socket, path::STATUS) {
        Err(error @ AskError::NotRunning { .. }) => {
            output::print("Manx process is not running.\n")?;
            return Err(error.into());
        }
        answer => answer?,
    };
    if args.output.is_some() {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&status)?))?;
    } else {
        output::print(&render(&status, &Timestamp::now().to_zoned(TimeZone::system())))?;
    }
    match waited {
        Some((seconds, Err(reason))) => anyhow::bail!("not ready after {seconds} s: {reason}"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Until the node is ready, or why it was not in all that time.
fn wait(socket: &Path, time: Duration) -> Result<(), String> {
    let deadline = Instant::now() + time;
    loop {
        // Who waits may have come before the daemon.
        let reason = match client::ask::<Readiness>(socket, &format!("{}?format=json", path::READY)) {
            Ok(Readiness { ready: true, .. }) => return Ok(()),
            Ok(Readiness { reason, .. }) => reason.unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(reason);
        }
        thread::sleep(AGAIN.min(left));
    }
}

fn render(status: &NodeStatus, now: &Zoned) -> String {
    let mut out = String::from("Manx process is running.\n");
    for (family, v4) in [("IPv4", true), ("IPv6", false)] {
        let peers: Vec<&PeerStatus> =
            status.peers.iter().filter(|peer| peer.address.is_ipv4() == v4).collect();
        let _ = writeln!(out, "\n{family} BGP status");
        if peers.is_empty() {
            let _ = writeln!(out, "No {family} peers found.");
        } else {
            let rows: Vec<Vec<String>> = peers.iter().map(|peer| row(peer, now)).collect();
            out.push_str(&table::boxed(&["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"], &rows));
        }
    }
    out.push('\n');
    for note in notes(status, now) {
        let _ = writeln!(out, "{note}");
    }
    out
}

fn row(peer: &PeerStatus, now: &Zoned) -> Vec<String> {
    let state = if peer.state == SessionState::Established { "up" } else { "start" };
    let info =
        if peer.info.is_empty() { peer.state.to_string() } else { format!("{} {}", peer.state, peer.info) };
    let address = match (peer.port, peer.address.is_ipv4()) {
        (179, _) => peer.address.to_string(),
        (port, true) => format!("{}:{port}", peer.address),
        (port, false) => format!("[{}]:{port}", peer.address),
    };
    vec![address, peer.kind.to_string(), state.into(), since(&peer.since, now), info]
}

/// As BIRD prints it.
fn since(stamp: &str, now: &Zoned) -> String {
    stamp.parse().map_or_else(|_| stamp.to_owned(), |at| manx_birdctl::since(at, now))
}

/// What is kept of a peer until its routes have come by another way.
fn parting(parting: &PartingStatus, now: &Zoned) -> String {
    let PartingStatus { address, routes, .. } = parting;
    let node = parting.node.as_ref().map(|node| format!(" ({node})")).unwrap_or_default();
    let at = |stamp: &Option<String>| stamp.as_ref().map(|stamp| since(stamp, now)).unwrap_or_default();
    let routes = *routes;
    let held = if routes == 1 { "1 route".to_owned() } else { format!("{routes} routes") };
    match (&parting.closes_at, parting.wanted) {
        (Some(_), _) if routes == 0 => {
            format!(
                "No longer wanted: the session with {address}{node}, which brings no routes, and ends in a moment"
            )
        }
        (Some(_), _) => format!(
            "Kept though no longer wanted: the session with {address}{node}, until {} come by another way, to {} at most",
            if routes == 1 { "its route has".to_owned() } else { format!("its {routes} routes have") },
            at(&parting.closes_at)
        ),
        (None, false) => format!(
            "Held as stale: {held} of {address}{node}, which is no longer wanted, until {} by another way, to {} at most",
            if routes == 1 { "it comes" } else { "they come" },
            at(&parting.until)
        ),
        (None, true) => format!(
            "Held as stale: {held} of {address}{node} from before its session was opened anew, until {} by another way, to \
             {} at most",
            if routes == 1 { "it comes" } else { "they come" },
            at(&parting.until)
        ),
    }
}

/// None where all is well.
fn bfd(peer: &PeerStatus, now: &Zoned) -> Option<String> {
    let bfd = peer.bfd.as_ref()?;
    let state = bfd.state.as_deref().unwrap_or("not known");
    if state == "Up" && bfd.error.is_none() {
        return None;
    }
    let hops = if bfd.multihop { " (over several hops)" } else { "" };
    let at = bfd.since.as_ref().map(|at| format!(" since {}", since(at, now))).unwrap_or_default();
    let why = match (&bfd.error, bfd.failures, &bfd.remote) {
        (Some(error), _, _) => error.clone(),
        (None, 0, None) => {
            "it has been silent so far: does it run BFD, and does UDP port 3784 (4784 over several hops) pass?".to_owned()
        }
        (None, 0, Some(remote)) => format!("it says that it is {}", remote.state),
        (None, ..) => bfd.diagnostic.clone(),
    };
    Some(format!("BFD with {}{hops} is {state}{at}: {why}", peer.address))
}

fn notes(status: &NodeStatus, now: &Zoned) -> Vec<String> {
    let mut notes = Vec::new();
    if !status.datastore.problems.is_empty() {
        let datastore = &status.datastore;
        notes.push(match (&datastore.kept_at, &datastore.loaded_at, status.as_number) {
            (Some(at), _, _) => format!(
                "The resources in force are those that an earlier run kept on disk, written {at}; those that are there now have problems:"
            ),
            (None, Some(at), _) => {
                format!("The resources in force are the last good ones, read {at}; newer ones have problems:")
            }
            (None, None, Some(_)) => {
                "The resources have problems, and there were none before; what is good of them is in force:"
                    .into()
            }
            (None, None, None) => "No resources are in force; those that are there have problems:".into(),
        });
        notes.extend(status.datastore.problems.iter().map(|problem| format!("  {problem}")));
    }
    if status.restarting {
        notes.push("Restarting: routes of the earlier run stay until the peers have sent theirs.".into());
    }
    notes.extend(status.ranges.iter().map(|range| {
        let why = if range.info.is_empty() { String::new() } else { format!("; {}", range.info) };
        format!(
            "{}: {} of at most {} peers from {}{why}",
            range.resource, range.peers, range.limit, range.range
        )
    }));
    notes.extend(status.partings.iter().map(|parting| self::parting(parting, now)));
    notes.extend(status.leftovers.as_ref().map(|held| {
        let (routes, they, come) = match held.routes {
            1 => ("1 route".to_owned(), "it", "comes"),
            routes => (format!("{routes} routes"), "they", "come"),
        };
        format!(
            "Held from before manxd's restart, since the peerings have changed: {routes}, until {they} {come} from a peer, to \
             {} at most",
            since(&held.until, now)
        )
    }));
    let down: Vec<&String> = status.peers.iter().filter_map(|peer| peer.why_down.as_ref()).collect();
    notes.extend(down.iter().take(SENTENCES).map(|why| format!("Not established: {why}")));
    let bfd: Vec<String> = status.peers.iter().filter_map(|peer| bfd(peer, now)).collect();
    notes.extend(bfd.iter().take(SENTENCES).cloned());
    if bfd.len() > SENTENCES {
        notes.push(format!("and {} more that BFD does not hear; -o json has all", bfd.len() - SENTENCES));
    }
    if down.len() > SENTENCES {
        notes.push(format!("and {} more that are not established; -o json has all", down.len() - SENTENCES));
    }
    notes.extend(status.warnings.iter().map(|warning| format!("Warning: {warning}")));
    notes
}

#[cfg(test)]
mod tests {
    use manx_api::{DatastoreStatus, FastPath, PeerKind, RangeStatus};

    use manx_net::Asn;

    use super::*;

    fn peer(address: &str, kind: PeerKind, since: &str) -> PeerStatus {
        PeerStatus {
            address: address.parse().unwrap(),
            port: 179,
            as_number: "64512".parse().unwrap(),
            kind,
            resource: "BGPConfiguration/default".into(),
            node: None,
            range: None,
            rr_client: false,
            state: SessionState::Established,
            since: since.into(),
            info: String::new(),
            why_down: None,
            bfd: None,
            times_established: 1,
            connection: None,
            add_path: Vec::new(),
            stale: false,
            prefixes_received: 1,
            prefixes_accepted: 1,
            prefixes_sent: 0,
            messages_received: 0,
            messages_sent: 0,
            updates_received: 0,
            updates_sent: 0,
            treated_as_withdraw: 0,
            attributes_discarded: 0,
            last_notification_sent: None,
            last_notification_received: None,
        }
    }

    fn status(peers: Vec<PeerStatus>) -> NodeStatus {
        NodeStatus {
            node: "k8s-master-01".into(),
            version: "0.1.0".into(),
            pid: 1,
            started_at: "2026-11-22T11:00:00.000Z".into(),
            as_number: None,
            router_id: None,
            cluster_id: None,
            restarting: false,
            datastore: DatastoreStatus {
                location: "dir:/etc/manx".into(),
                loaded_at: None,
                kept_at: None,
                problems: vec![],
            },
            fast_path: FastPath { mode: "auto".into(), on: true, reason: String::new() },
            peers,
            ranges: vec![],
            partings: vec![],
            leftovers: None,
            bfd_pid: None,
            warnings: vec![],
        }
    }

    fn now() -> Zoned {
        "2026-11-22T12:00:00Z".parse::<Timestamp>().unwrap().to_zoned(TimeZone::UTC)
    }

    #[test]
    fn the_articles_first_table_is_printed_word_for_word() {
        let status = status(vec![
            peer("192.168.80.124", PeerKind::Mesh, "2026-11-22T11:07:00.000Z"),
            peer("192.168.80.125", PeerKind::Mesh, "2026-11-22T11:06:58.000Z"),
        ]);
        assert_eq!(
            render(&status, &now()),
            "\
Manx process is running.

IPv4 BGP status
+----------------+-------------------+-------+----------+-------------+
|  PEER ADDRESS  |     PEER TYPE     | STATE |  SINCE   |    INFO     |
+----------------+-------------------+-------+----------+-------------+
| 192.168.80.124 | node-to-node mesh | up    | 11:07:00 | Established |
| 192.168.80.125 | node-to-node mesh | up    | 11:06:58 | Established |
+----------------+-------------------+-------+----------+-------------+

IPv6 BGP status
No IPv6 peers found.

"
        );
    }

    #[test]
    fn without_peers_both_families_say_so() {
        assert_eq!(
            render(&status(vec![]), &now()),
            "Manx process is running.\n\nIPv4 BGP status\nNo IPv4 peers found.\n\nIPv6 BGP status\nNo IPv6 peers found.\n\n"
        );
    }

    #[test]
    fn what_keeps_a_session_down_stands_behind_its_state() {
        let mut down = peer("10.0.0.1", PeerKind::Global, "2026-11-22T11:59:00Z");
        down.state = SessionState::Active;
        down.info = "Socket: Connection refused".into();
        assert_eq!(row(&down, &now())[2..], ["start", "11:59:00", "Active Socket: Connection refused"]);
    }

    #[test]
    fn an_old_session_shows_its_date() {
        assert_eq!(since("2026-11-20T11:59:00Z", &now()), "2026-11-20");
    }

    #[test]
    fn why_peers_are_down_is_said_below_the_tables_of_some() {
        let mut down = peer("10.0.0.1", PeerKind::Mesh, "2026-11-22T11:59:00Z");
        down.why_down = Some("10.0.0.1 (kw01, node-to-node mesh) by eth0 …".into());
        let all = notes(&status(vec![down; 12]), &now());
        assert_eq!(all.len(), SENTENCES + 1);
        assert_eq!(all[0], "Not established: 10.0.0.1 (kw01, node-to-node mesh) by eth0 …");
        assert_eq!(all[SENTENCES], "and 2 more that are not established; -o json has all");
    }

    #[test]
    fn a_range_says_how_many_peers_it_has() {
        let mut status = status(vec![]);
        let range = |peers, info: &str| RangeStatus {
            range: "10.0.0.0/24".parse().unwrap(),
            resource: "BGPPeer/rack".into(),
            peers,
            limit: 40,
            info: info.into(),
        };
        status.ranges = vec![range(3, ""), range(0, "not opened: why")];
        assert_eq!(
            notes(&status, &now()),
            [
                "BGPPeer/rack: 3 of at most 40 peers from 10.0.0.0/24",
                "BGPPeer/rack: 0 of at most 40 peers from 10.0.0.0/24; not opened: why",
            ]
        );
    }

    #[test]
    fn what_is_kept_for_want_of_another_way_is_said_below_the_tables() {
        let mut status = status(vec![]);
        let parting = |wanted, closes_at: Option<&str>, routes| PartingStatus {
            address: "10.0.0.2".parse().unwrap(),
            port: 179,
            node: Some("kw02".into()),
            wanted,
            since: "2026-11-22T11:59:00Z".into(),
            closes_at: closes_at.map(str::to_owned),
            routes,
            until: Some("2026-11-22T12:05:00Z".into()),
        };
        status.partings = vec![
            parting(false, Some("2026-11-22T12:00:30Z"), 2),
            parting(false, Some("2026-11-22T12:00:30Z"), 1),
            parting(false, Some("2026-11-22T12:00:30Z"), 0),
            parting(false, None, 1),
            parting(true, None, 3),
        ];
        assert_eq!(
            notes(&status, &now()),
            [
                "Kept though no longer wanted: the session with 10.0.0.2 (kw02), until its 2 routes have come by another way, to \
                 12:00:30 at most",
                "Kept though no longer wanted: the session with 10.0.0.2 (kw02), until its route has come by another way, to \
                 12:00:30 at most",
                "No longer wanted: the session with 10.0.0.2 (kw02), which brings no routes, and ends in a moment",
                "Held as stale: 1 route of 10.0.0.2 (kw02), which is no longer wanted, until it comes by another way, to \
                 12:05:00 at most",
                "Held as stale: 3 routes of 10.0.0.2 (kw02) from before its session was opened anew, until they come by another \
                 way, to 12:05:00 at most",
            ]
        );
    }

    #[test]
    fn refused_resources_are_said_below_the_tables() {
        let mut status = status(vec![]);
        status.datastore.problems = vec!["peers.yaml:7:13: spec.asNumber: …".into()];
        let problem = "  peers.yaml:7:13: spec.asNumber: …\n";
        for (read, number, said) in [
            (None, None, "No resources are in force; those that are there have problems:"),
            (None, Asn::new(64_512), "what is good of them is in force:"),
            (
                Some("2026-01-01T00:00:00.000Z"),
                Asn::new(64_512),
                "the last good ones, read 2026-01-01T00:00:00.000Z;",
            ),
        ] {
            status.datastore.loaded_at = read.map(str::to_owned);
            status.as_number = number;
            let text = render(&status, &now());
            assert!(text.contains(said) && text.ends_with(problem), "{text}");
        }
        status.datastore.kept_at = Some("2025-12-31T00:00:00.000Z".into());
        let text = render(&status, &now());
        assert!(text.contains("kept on disk, written 2025-12-31T00:00:00.000Z;"), "{text}");
    }
}
