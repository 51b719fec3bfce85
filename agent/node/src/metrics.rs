//! `/metrics`, in OpenMetrics: on the local API's socket, and by plain HTTP at an address of one's own. The loop gives what it
//! has as it is; the text is made beside it.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use manx_api::{Counters, DataplaneStatus, NodeStatus, SessionState, path};
use manx_dataplane::fib::FibStatus;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::api::Question;

/// A loop that has not come round for so long is stuck.
const ALIVE: Duration = Duration::from_secs(10);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A NOTIFICATION's way, code and subcode.
pub type Said = (&'static str, u8, u8);

/// What the loop gives.
#[derive(Debug)]
pub struct Raw {
    pub status: NodeStatus,
    pub dataplane: DataplaneStatus,
    /// None where no programs run.
    pub counters: Option<Counters>,
    pub fib: FibStatus,
    pub ready: bool,
    pub notifications: BTreeMap<Said, (String, u64)>,
    pub convergence: Histogram,
}

pub fn router(questions: mpsc::Sender<Question>) -> Router {
    Router::new().route(path::METRICS, get(metrics)).with_state(questions)
}

async fn metrics(State(questions): State<mpsc::Sender<Question>>) -> Response {
    match scrape(&questions).await {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")).into_response(),
    }
}

async fn scrape(questions: &mpsc::Sender<Question>) -> anyhow::Result<String> {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        questions.send(Question::Metrics(answer)).await.ok()?;
        answered.await.ok()
    };
    let raw = timeout(ALIVE, asked)
        .await
        .with_context(|| format!("manxd's loop has not come round for {} s", ALIVE.as_secs()))?
        .context("manxd is stopping")?;
    tokio::task::spawn_blocking(move || text(&raw)).await?
}

/// How long it takes from the first change of a best path until the kernel and the maps have all and nothing is left to do.
#[derive(Debug)]
pub struct Convergence {
    since: Option<Instant>,
    pub histogram: Histogram,
}

impl Default for Convergence {
    fn default() -> Convergence {
        let bounds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        Convergence { since: None, histogram: Histogram::new(bounds) }
    }
}

impl Convergence {
    pub fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    pub fn is_under_way(&self) -> bool {
        self.since.is_some()
    }

    pub fn end(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.histogram.observe(now.saturating_duration_since(since).as_secs_f64());
        }
    }
}

type Labels = Vec<(&'static str, String)>;

fn labels<const N: usize>(of: [(&'static str, &str); N]) -> Labels {
    of.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

/// What is filled and then registered.
struct Page(Registry);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: i64) {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
        gauge.set(value);
        self.0.register_with_unit(name, help, Unit::Seconds, gauge);
    }

    fn gauges(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, i64)>) {
        let family = Family::<Labels, Gauge>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn counters(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn text(raw: &Raw) -> anyhow::Result<String> {
    let mut page = Page(Registry::with_prefix("manx"));
    node(raw, &mut page);
    sessions(raw, &mut page);
    sinks(raw, &mut page);
    page.0.register_with_unit(
        "convergence",
        "From the first change of a best path until the kernel and the maps have all, and nothing is left to do",
        Unit::Seconds,
        raw.convergence.clone(),
    );
    let mut text = String::new();
    encode(&mut text, &page.0)?;
    // Names of processes have no prefix of ours.
    let end = text.rfind("# EOF").unwrap_or(text.len());
    text.truncate(end);
    let mut process = Page(Registry::with_prefix("process"));
    own_process(&mut process);
    encode(&mut text, &process.0)?;
    Ok(text)
}

fn node(raw: &Raw, page: &mut Page) {
    let status = &raw.status;
    let version = labels([("version", &status.version), ("node", &status.node)]);
    page.gauges("build", "Which manxd this is, of which node", [(version, 1)]);
    page.gauge("ready", "1 where /readyz says so", i64::from(raw.ready));
    page.gauge(
        "restarting",
        "1 while routes of an earlier run stay until the peers have sent theirs",
        i64::from(status.restarting),
    );
    let problems = status.datastore.problems.len();
    page.gauge(
        "datastore_problems",
        "Why newer resources are not in force, or not all of them: so many reasons",
        signed(problems as u64),
    );
    page.gauge(
        "warnings",
        "Lines below the tables of manxctl node status",
        signed(status.warnings.len() as u64),
    );
    page.gauge(
        "fast_path",
        "1 where the eBPF programs carry packets; manxctl dataplane status says why not",
        i64::from(raw.dataplane.fast_path.on),
    );
}

fn sessions(raw: &Raw, page: &mut Page) {
    const STATES: [SessionState; 6] = [
        SessionState::Idle,
        SessionState::Connect,
        SessionState::Active,
        SessionState::OpenSent,
        SessionState::OpenConfirm,
        SessionState::Established,
    ];
    let peers = &raw.status.peers;
    let of = |peer: &manx_api::PeerStatus| {
        let mut labels = labels([("peer", &peer.address.to_string())]);
        if peer.port != 179 {
            labels.push(("port", peer.port.to_string()));
        }
        if let Some(node) = &peer.node {
            labels.push(("peer_node", node.clone()));
        }
        labels
    };
    page.gauges(
        "session_state",
        "1 for the state that the session is in (RFC 4271, section 8.2.2)",
        peers.iter().flat_map(|peer| {
            STATES.into_iter().map(move |state| {
                let mut labels = of(peer);
                labels.push(("state", state.to_string()));
                (labels, i64::from(state == peer.state))
            })
        }),
    );
    let each =
        |value: fn(&manx_api::PeerStatus) -> u64| peers.iter().map(move |peer| (of(peer), value(peer)));
    let now = |value: fn(&manx_api::PeerStatus) -> u64| {
        peers.iter().map(move |peer| (of(peer), signed(value(peer))))
    };
    page.counters(
        "sessions_established",
        "Sessions since the peer is configured",
        each(|peer| peer.times_established),
    );
    page.gauges(
        "session_stale",
        "1 where the peer is gone and its routes are kept for it (RFC 4724)",
        now(|peer| u64::from(peer.stale)),
    );
    page.gauges("prefixes_received", "Paths that the peer has announced", now(|peer| peer.prefixes_received));
    page.gauges(
        "prefixes_accepted",
        "Of these, paths that are not refused",
        now(|peer| peer.prefixes_accepted),
    );
    page.gauges("prefixes_sent", "Paths announced to the peer", now(|peer| peer.prefixes_sent));
    page.counters("updates_received", "UPDATE messages from the peer", each(|peer| peer.updates_received));
    page.counters("updates_sent", "UPDATE messages to the peer", each(|peer| peer.updates_sent));
    page.counters("messages_received", "BGP messages from the peer", each(|peer| peer.messages_received));
    page.counters("messages_sent", "BGP messages to the peer", each(|peer| peer.messages_sent));
    page.counters(
        "updates_treated_as_withdraw",
        "UPDATEs whose routes counted as withdrawn for a wrong attribute (RFC 7606)",
        each(|peer| peer.treated_as_withdraw),
    );
    page.counters(
        "attributes_discarded",
        "Wrong attributes that were left out (RFC 7606)",
        each(|peer| peer.attributes_discarded),
    );
    page.gauges(
        "routes_held",
        "Routes of peers that are no longer wanted, held until they come by another way",
        raw.status
            .partings
            .iter()
            .map(|parting| (labels([("peer", &parting.address.to_string())]), signed(parting.routes))),
    );
    page.gauge(
        "leftover_routes_held",
        "Routes of the run before that are held until a peer announces them, since the peerings have changed",
        signed(raw.status.leftovers.as_ref().map_or(0, |held| held.routes)),
    );
    page.counters(
        "notifications",
        "NOTIFICATION messages, by their code and subcode (RFC 4271, section 4.5)",
        raw.notifications.iter().map(|((way, code, subcode), (name, count))| {
            let (code, subcode) = (code.to_string(), subcode.to_string());
            (labels([("way", way), ("code", &code), ("subcode", &subcode), ("name", name)]), *count)
        }),
    );
}

fn sinks(raw: &Raw, page: &mut Page) {
    let fib = &raw.fib;
    page.gauges(
        "fib_routes",
        "Routes of ours in the kernel, on their way to it, and refused by it",
        [
            ("installed", fib.installed),
            ("stale", fib.stale),
            ("pending", fib.pending),
            ("failed", fib.failed),
        ]
        .map(|(state, count)| (labels([("state", state)]), signed(count as u64))),
    );
    page.counters("fib_writes", "Messages about routes to the kernel", [(Vec::new(), fib.writes)]);
    let maps = &raw.dataplane.maps;
    let map = |value: fn(&manx_api::MapStatus) -> u64| {
        maps.iter().map(move |map| (labels([("map", &map.name)]), signed(value(map))))
    };
    page.gauges("map_entries", "Entries of an eBPF map", map(|map| map.entries));
    page.gauges("map_entries_limit", "Entries that it has room for", map(|map| map.max_entries));
    page.gauges("map_bytes", "Kernel memory that it takes", map(|map| map.bytes));
    page.gauge(
        "sink_failures",
        "Routes that the kernel or a map did not take; manxctl dataplane status names them",
        signed(raw.dataplane.failures.len() as u64),
    );
    page.gauge(
        "silent_next_hops",
        "Next hops in use whose neighbour entry is FAILED",
        signed(raw.dataplane.silent_next_hops.len() as u64),
    );
    page.counters(
        "repairs",
        "What others did to what is ours, and was put right",
        raw.dataplane.repairs_by_kind.iter().map(|of| (labels([("kind", of.kind.text())]), of.count)),
    );
    if let Some(audit) = &raw.dataplane.audit {
        page.gauge("audit_findings", "Differences that the last audit found", signed(audit.found));
        page.seconds("audit_duration", "How long the last audit took", audit.took_ms as f64 / 1000.0);
        if let Ok(at) = audit.at.parse::<jiff::Timestamp>() {
            page.seconds(
                "audit_timestamp",
                "When the last audit began, since 1970",
                at.as_millisecond() as f64 / 1000.0,
            );
        }
    }
    let rows = raw.counters.iter().flat_map(|counters| &counters.rows);
    let verdicts = rows.flat_map(|row| {
        row.verdicts.iter().map(|of| {
            let became =
                labels([("program", &row.program), ("verdict", &of.verdict), ("became", &of.became)]);
            (became, of.packets)
        })
    });
    page.counters("packets", "Packets by program and verdict, and what became of them", verdicts);
}

/// As the usual libraries for processes have it.
fn own_process(page: &mut Page) {
    if let Ok(status) = fs::read_to_string("/proc/self/status")
        && let Some(kilobytes) = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))
        && let Ok(kilobytes) = kilobytes.trim().trim_end_matches(" kB").parse::<i64>()
    {
        page.gauge("resident_memory_bytes", "Resident memory", kilobytes << 10);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        page.gauge("open_fds", "Open file descriptors", signed(open.count() as u64));
    }
    if let Ok((soft, _)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        page.gauge("max_fds", "Most open file descriptors", signed(soft));
    }
    if let Ok(used) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF) {
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        let cpu = Counter::<f64, std::sync::atomic::AtomicU64>::default();
        cpu.inc_by(seconds(used.user_time()) + seconds(used.system_time()));
        page.0.register_with_unit("cpu", "User and system time", Unit::Seconds, cpu);
    }
}
