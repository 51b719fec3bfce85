//! The daemon's one loop. It owns the speaker, the dataplane and the eBPF sink, and carries between them what
//! each says: resources become a plan, the plan configures speaker and table, best paths become routes, the
//! kernel's news become next-hop metrics. Everything runs on one thread, in turn; sockets have tasks of their
//! own that only move bytes.

mod alarms;
mod answers;
mod audit;
mod bfd;
mod bird;
mod blackholes;
mod changes;
mod dataplane;
pub mod drain;
mod explain;
mod fast_path;
mod filters;
mod history;
mod inputs;
pub mod leftovers;
mod log;
mod orders;
mod outputs;
mod protection;
mod pulse;
mod ready;
mod repairs;
mod rows;
mod sockets;
mod updates;
mod wiring;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    io,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use manx_bgp::{Event as SpeakerEvent, NextHop, Speaker};
use manx_dataplane::{
    Dataplane, Report,
    ebpf::{Options, PinWatch, Removal},
    kernel::DEFAULT_UPLINKS,
    resolve::Gateway,
    table::Delta,
};
use manx_datastore::{Datastore, Update};
use manx_net::Prefix;
use manx_resources::{LocalWorkload, NodePlan, Planner, Snapshot};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Mutex, mpsc, watch},
    time::{sleep, sleep_until},
};

use self::{
    alarms::Alarms,
    bfd::Bfd,
    blackholes::Blackholes,
    changes::Changes,
    drain::Drains,
    fast_path::FastPath,
    history::History,
    leftovers::Leftovers,
    log::{ReportLog, SessionLog},
    protection::Protection,
    pulse::Pulse,
    repairs::Repairs,
    sockets::Sockets,
};
use crate::{
    adopt,
    api::{self, Question},
    bfd::{Link, News},
    bird as bird_sockets,
    cli::{DataplaneMode, RunArgs},
    clock::Clock,
    connection::Event,
    health, logging,
    metrics::{self, Convergence},
    process::{Lock, lacking_capabilities, let_signals_pass, raise_descriptor_limit},
};

/// How often netfilter is looked at, and a port that could not be bound is tried again.
const CHECK_PERIOD: Duration = Duration::from_secs(5);
/// A link whose pin was removed leaves its interface so much later, at the most.
const SETTLING: Duration = Duration::from_millis(200);
/// A loop that comes back so much later than it wanted was stopped.
const LATE: Duration = Duration::from_millis(500);
/// How long work beside the loop may take to end with it.
const LAST_WORK: Duration = Duration::from_millis(200);
/// Enough for the peers of any node.
const DESCRIPTORS: u64 = 8192;
/// For the kernel's events; holds some ten thousand changed routes. Overflow costs a dump, not correctness.
const EVENT_BUFFER: usize = 8 << 20;
/// Events that are taken in before timers are judged, so that a keepalive that has arrived counts before the
/// hold timer does.
const EVENTS_AT_ONCE: usize = 64;
/// And no more are taken in after so long: a flood that costs much must not keep our own keepalives waiting.
const EVENTS_TIME: Duration = Duration::from_millis(200);
/// Best paths that are taken in before they are carried on to the kernel and the maps: the kernel begins early, and a
/// whole table keeps nobody waiting.
const PATHS_AT_ONCE: usize = 4096;

pub struct Daemon {
    args: RunArgs,
    node: String,
    clock: Clock,
    snapshot: Arc<Snapshot>,
    planner: Planner,
    plan: Option<Arc<NodePlan>>,
    loaded_at: Option<String>,
    /// What the last update has changed, for the history.
    changed: String,
    /// When the resources in force were written to disk, if an earlier run kept them and nothing good was read since.
    kept_at: Option<Arc<str>>,
    /// Why newer resources were not taken.
    problems: Vec<String>,
    /// Pods that peer with this node.
    workloads: Vec<LocalWorkload>,
    /// What is wrong with what Felix says of others.
    workloads_said: Vec<String>,
    /// Where Felix's settings and our flags do not go together.
    beside: Vec<String>,
    /// What else on this host deletes or owns routes.
    host: Vec<String>,
    /// Routes that could not be taken over, and stay another's.
    not_adopted: BTreeSet<Prefix>,
    /// Who writes on what was taken over.
    adopted_again: Option<String>,
    /// What else is wrong with those in force.
    remarks: Vec<String>,
    /// `None` until the first plan: a speaker without numbers cannot speak.
    speaker: Option<Speaker>,
    settled: bool,
    /// The kernel held routes of an earlier run when this one started.
    restarting: bool,
    seed: u64,
    dataplane: Dataplane,
    fast_path: FastPath,
    sockets: Sockets,
    protection: Protection,
    blackholes: Blackholes,
    /// The next hops that the speaker asked about, as the dataplane knows them.
    next_hops: BTreeMap<NextHop, Gateway>,
    /// Why nobody can dial us.
    listen_error: Option<String>,
    /// For the local API, to serve it again.
    questions: mpsc::Sender<Question>,
    socket: api::Socket,
    changes: Changes,
    drains: Drains,
    bfd: Bfd,
    leftovers: Leftovers,
    sessions_said: SessionLog,
    history: History,
    /// NOTIFICATIONs by way, code and subcode, each with its name.
    notifications: BTreeMap<metrics::Said, (String, u64)>,
    convergence: Convergence,
    alarms: Alarms,
    reports_said: ReportLog,
    /// Addresses that dialled us and were refused; each is said once.
    strangers: BTreeSet<IpAddr>,
    next_check: Instant,
    next_audit: Instant,
    pulse: Pulse,
    /// Tells who removes pins; None where the kernel does not.
    pin_watch: Option<PinWatch>,
    /// Who removed a pin since the last look, by its name.
    removed_by: BTreeMap<String, String>,
    /// Held by the audit that is under way.
    audit_turn: Arc<Mutex<()>>,
    last_audit: Option<manx_api::Audit>,
    repairs: Repairs,
    /// Best paths that were taken in since the last step.
    paths: usize,
}

/// Runs until SIGTERM or SIGINT.
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    let node = node_name(&args)?;
    let datastore = Datastore::open(&args.datastore)?;
    let protocol = args.places.protocol;
    let _lock = Lock::take(protocol)?.with_context(|| {
        format!(
            "another manxd with protocol {protocol} runs in this network namespace; stop it, or give this one a \
             --protocol, --table, --bpf-dir, --state-dir and --api-socket of its own"
        )
    })?;
    match raise_descriptor_limit() {
        Ok(limit) if limit < DESCRIPTORS => {
            tracing::warn!(
                "this process may have {limit} descriptors; each session takes one (LimitNOFILE=)"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!("cannot raise the number of descriptors: {error}"),
    }
    let lacking = lacking_capabilities();
    if args.dataplane == DataplaneMode::On && !lacking.is_empty() {
        tracing::error!(
            "this process lacks {}, without which it writes no routes or loads no programs; run manxd as root, or \
             with the capabilities that deploy/manxd.service names",
            lacking.join(", ")
        );
    }
    // Before the runtime, and before anything else takes memory.
    let fast_path = match args.dataplane {
        DataplaneMode::On => FastPath::open(
            args.fast_path,
            Options { bpf_dir: args.places.bpf_dir.clone(), sizes: args.map_size.unwrap_or_default() },
        ),
        DataplaneMode::Off => {
            let reason = String::from("switched off by --dataplane off");
            FastPath::absent(args.fast_path, reason, &args.places.bpf_dir)
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async move {
        let not_adopted = match (args.adopt_protocol, args.dataplane) {
            (Some(from), DataplaneMode::On) => adopt::adopt(from, &args, &datastore),
            _ => BTreeSet::new(),
        };
        let dataplane = Dataplane::open(manx_dataplane::Config {
            protocol: args.places.protocol,
            table: args.table,
            metric: args.metric,
            uplinks: args.uplink.clone().unwrap_or_else(|| DEFAULT_UPLINKS.to_owned()),
            pod_prefix: args.pod_interface_prefix.clone(),
            receive_buffer: EVENT_BUFFER,
            written_at_once: manx_dataplane::WRITTEN_AT_ONCE,
        })?;
        let left = dataplane.fib_status();
        let restarting = args.dataplane == DataplaneMode::On && left.stale + left.elsewhere > 0;
        let (questions_in, questions) = mpsc::channel(16);
        let socket = api::serve(&args.places.api_socket, questions_in.clone())?;
        let _birds = [(&args.bird_socket, true), (&args.bird6_socket, false)]
            .into_iter()
            .filter_map(|(path, ipv4)| Some(bird_sockets::serve(path.as_ref()?, ipv4, questions_in.clone())))
            .collect::<anyhow::Result<Vec<_>>>()?;
        tokio::spawn(async {
            let Err(error) = let_signals_pass().await;
            tracing::warn!("SIGHUP, SIGUSR1 and SIGUSR2 will end this process: {error}");
        });
        let (health, metrics) = (health::router(questions_in.clone()), metrics::router(questions_in.clone()));
        match (args.health_address, args.metrics_address) {
            (Some(both), Some(same)) if both == same => {
                tokio::spawn(health::serve(both, health.merge(metrics), "/readyz, /livez and /metrics"));
            }
            (at, metrics_at) => {
                at.map(|at| tokio::spawn(health::serve(at, health, "/readyz and /livez")));
                metrics_at.map(|at| tokio::spawn(health::serve(at, metrics, "/metrics")));
            }
        }
        let updates = datastore.watch_and_keep(&args.places.kept_resources()).await?;
        let pin_watch = fast_path.watch_pins(&args.places.bpf_dir);
        let (events_in, events) = mpsc::channel(256);
        let (wanted_in, wanted) = watch::channel(Vec::new());
        let (news_in, news) = mpsc::channel(64);
        tokio::spawn(Link::new(&args, wanted, news_in).serve());
        let now = Instant::now();
        let clock = Clock::start();
        let history = History::open(clock, &args.places.state_dir);
        let mut daemon = Daemon {
            planner: Planner::new(node.clone()),
            node,
            clock,
            snapshot: Arc::default(),
            plan: None,
            loaded_at: None,
            changed: String::new(),
            kept_at: None,
            problems: Vec::new(),
            workloads: Vec::new(),
            workloads_said: Vec::new(),
            beside: Vec::new(),
            host: Vec::new(),
            not_adopted,
            adopted_again: None,
            remarks: Vec::new(),
            speaker: None,
            settled: false,
            restarting,
            seed: RandomState::new().hash_one("jitter"),
            dataplane,
            fast_path,
            sockets: Sockets::new(events_in),
            protection: Protection::new(&args.secrets),
            blackholes: Blackholes::open(&args.places.state_dir),
            next_hops: BTreeMap::new(),
            listen_error: None,
            questions: questions_in,
            socket,
            changes: Changes::default(),
            bfd: Bfd::new(wanted_in),
            drains: Drains::open(&args.places.state_dir),
            leftovers: Leftovers::open(&args.places.state_dir),
            sessions_said: SessionLog::default(),
            history,
            notifications: BTreeMap::new(),
            convergence: Convergence::default(),
            alarms: Alarms::default(),
            reports_said: ReportLog::new(now),
            strangers: BTreeSet::new(),
            next_check: now,
            next_audit: now + args.audit_interval(),
            pulse: Pulse::new(now),
            pin_watch,
            removed_by: BTreeMap::new(),
            audit_turn: Arc::default(),
            last_audit: None,
            repairs: Repairs::default(),
            paths: 0,
            args,
        };
        tracing::info!(
            node = %daemon.node, version = env!("CARGO_PKG_VERSION"), datastore = %daemon.args.datastore,
            "manxd starts{}", if restarting { ", taking over the routes of an earlier run" } else { "" }
        );
        daemon.history.started(format!(
            "manxd {} starts{}",
            env!("CARGO_PKG_VERSION"),
            if restarting { ", taking over the routes of an earlier run" } else { "" }
        ));
        daemon.order_blackholes();
        daemon.look_at_host();
        daemon.turn(updates, events, news, questions).await
    });
    // A thread that waits for a slow disk or a long dump must not keep it.
    runtime.shutdown_timeout(LAST_WORK);
    ended
}

impl Daemon {
    async fn turn(
        &mut self,
        mut updates: watch::Receiver<Update>,
        mut events: mpsc::Receiver<Event>,
        mut news: mpsc::Receiver<News>,
        mut questions: mpsc::Receiver<Question>,
    ) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        self.fast_path.watch_netfilter();
        let first = updates.borrow_and_update().clone();
        self.take_update(first);
        let mut wakeup = Instant::now();
        loop {
            // Who was stopped (SIGSTOP, a starved machine) finds timers long due and keepalives unread: what has
            // arrived counts first, and it takes a turn of the runtime until it is here.
            if wakeup.elapsed() > LATE {
                for _ in 0..3 {
                    sleep(Duration::from_millis(1)).await;
                    self.take_events(&mut events);
                }
            }
            let full = self.take_events(&mut events);
            let more = self.carry_on();
            wakeup = self.wakeup(more || full);
            // With much to do this future is ready again and again, and those who ask would wait until tokio's budget for
            // it is spent, which is many turns.
            if more || full {
                tokio::task::yield_now().await;
                // Below it would be drawn by lot, and with much to do lose several turns.
                if let Ok(question) = questions.try_recv() {
                    self.answer(question);
                }
            }
            // Not in a fixed order: a peer's flood must not keep the kernel's news or a question waiting.
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                Some(event) = events.recv() => self.take_event(event),
                Some(news) = news.recv() => self.take_bfd(news),
                changed = self.dataplane.changed() => {
                    if let Err(error) = changed {
                        tracing::error!("reading the kernel's routes failed: {error}");
                        sleep(Duration::from_secs(1)).await;
                    }
                }
                removed = removals(self.pin_watch.as_ref()) => self.take_removals(removed),
                changed = updates.changed() => match changed {
                    Ok(()) => {
                        let update = updates.borrow_and_update().clone();
                        self.take_update(update);
                    }
                    Err(_) => anyhow::bail!("the datastore's watcher has ended"),
                },
                () = self.fast_path.netfilter_changed() => self.decide(),
                Some(question) = questions.recv() => self.answer(question),
                () = sleep_until(wakeup.into()) => {}
            }
        }
        tracing::info!("manxd stops; routes, maps and programs stay in place");
        self.sockets.stop_listening();
        if let Some(speaker) = &mut self.speaker {
            let now = self.clock.now();
            speaker.handle(SpeakerEvent::Shutdown { graceful: true, text: String::new() }, now);
            // What goes to the peers comes before best paths.
            self.paths = 0;
            self.drain_outputs();
        }
        self.history.stopped();
        Ok(())
    }

    /// Takes in what the sockets brought, up to a bound. True: there may be more.
    fn take_events(&mut self, events: &mut mpsc::Receiver<Event>) -> bool {
        let begun = Instant::now();
        for _ in 0..EVENTS_AT_ONCE {
            if begun.elapsed() > EVENTS_TIME {
                break;
            }
            match events.try_recv() {
                Ok(event) => self.take_event(event),
                Err(_) => return false,
            }
        }
        true
    }

    /// Fires what is due and carries what came of it. True: more could be done at once.
    fn carry_on(&mut self) -> bool {
        let now = self.clock.now();
        let mut more = false;
        if let Some(speaker) = &mut self.speaker
            && speaker.next_wakeup().is_some_and(|at| at <= now)
        {
            more |= speaker.advance(now);
        }
        let instant = Instant::now();
        if instant >= self.next_check {
            self.next_check = instant + CHECK_PERIOD;
            self.check();
        }
        if instant >= self.next_audit {
            self.next_audit = instant + self.args.audit_interval();
            self.fast_path.say_forged(self.args.audit_interval());
            self.look_for_adopted();
            self.look_at_host();
            self.start_audit();
        }
        self.go_on_draining(instant);
        self.let_leftovers_go(instant);
        self.drain_outputs();
        self.flush();
        self.paths = 0;
        let step = self.dataplane.step(instant);
        if step.policy_rules || !step.links.is_empty() {
            // An interface has its mode before it has a program.
            self.decide();
        }
        self.note_routes(&step.map);
        self.fast_path.apply(&step.map);
        self.fast_path.follow(&step.links);
        if let Some(silent) = &step.silent {
            self.fast_path.set_silent(silent);
        }
        self.pulse(Instant::now());
        for (gateway, resolution) in step.next_hops {
            self.tell_next_hop(gateway, &resolution);
        }
        if step.hosted {
            self.announce_borrowed();
        }
        for repair in self.repairs.take(&step.reports) {
            self.history.repair(&repair);
        }
        self.note_refusals(&step.reports);
        self.reports_said.say(&step.reports, instant);
        // After the step: what expired while nobody was there is in the table for this one, and then taken out.
        let expired = self.expire_blackholes();
        self.drain_outputs();
        self.flush();
        let more = more | step.more | expired | self.is_full();
        if !more && self.convergence.is_under_way() && self.dataplane.has_written() {
            self.convergence.end(Instant::now());
        }
        more
    }

    /// There may be more best paths to take in; first these are carried on.
    fn is_full(&self) -> bool {
        self.paths >= PATHS_AT_ONCE
    }

    /// What may be fast, and why.
    fn decide(&mut self) {
        if let Some(plan) = &self.plan {
            self.fast_path.decide(plan, &self.dataplane);
        }
    }

    fn note_repair(&mut self, kind: manx_api::RepairKind, what: String, by: Option<String>) {
        let repair = self.repairs.note(kind, what, by);
        self.history.repair(&repair);
    }

    /// In the history: what the kernel and the map are to have.
    fn note_routes(&mut self, delta: &Delta) {
        if delta.is_empty() {
            return;
        }
        let names = self.interface_names();
        for route in &delta.upserts {
            self.history.route(route.prefix, || Some(rows::action_text(&route.action, &names)));
        }
        for prefix in &delta.removals {
            self.history.route(*prefix, || None);
        }
    }

    fn note_refusals(&mut self, reports: &[Report]) {
        for report in reports {
            match report {
                Report::NotInstalled { prefix, error } => {
                    self.history.refused(*prefix, Some(error.to_string()));
                }
                Report::Recovered { prefix } => self.history.refused(*prefix, None),
                _ => {}
            }
        }
    }

    fn flush(&mut self) {
        if let Some(speaker) = &mut self.speaker {
            self.sockets.flush(speaker, self.clock.now());
        }
    }

    fn look_at_host(&mut self) {
        let found = manx_host::look(Path::new("/"), &self.args.pod_interface_prefix);
        let found: Vec<String> =
            found.iter().map(|finding| format!("{}; {}", finding.message, finding.remedy)).collect();
        for said in found.iter().filter(|said| !self.host.contains(said)) {
            tracing::warn!("{said}");
        }
        self.host = found;
    }

    /// Whether somebody still writes what was taken over.
    fn look_for_adopted(&mut self) {
        let Some(from) = self.args.adopt_protocol.filter(|from| from.0 != self.args.places.protocol) else {
            return;
        };
        let pools = adopt::pools(&self.snapshot);
        let again = self.dataplane.kernel().routes().iter().filter(|route| {
            route.protocol == from.0
                && route.key.table == self.args.table
                && !self.not_adopted.contains(&route.key.prefix)
                && pools.iter().any(|pool| pool.covers(route.key.prefix))
        });
        let again: Vec<Prefix> = again.map(|route| route.key.prefix).collect();
        let said = (!again.is_empty()).then(|| {
            format!(
                "somebody still writes routes of protocol {from} inside pools, though they were taken over: {}; stop that \
                 daemon, or two fight for the same routes",
                adopt::listed(&again)
            )
        });
        if said != self.adopted_again {
            if let Some(said) = &said {
                tracing::error!("{said}");
            }
            self.adopted_again = said;
        }
    }

    /// What no event tells: netfilter's rules, a port that was taken, what others removed.
    fn check(&mut self) {
        if self.writes() {
            let links: Vec<_> = self.dataplane.links().cloned().collect();
            self.fast_path.look_around(&links);
        }
        match logging::lost() {
            0 => {}
            lost => {
                tracing::warn!("{lost} lines of this log were lost: nobody read them, or there was no room")
            }
        }
        self.history.settle();
        match self.history.take_lost() {
            0 => {}
            lost => tracing::warn!("{lost} events of the history were not kept: the disk is too slow"),
        }
        self.decide();
        self.keep_blackholes();
        self.follow_workloads();
        self.follow_secrets();
        self.listen();
        if self.writes() {
            self.restore_programs();
        }
        if !self.socket.is_there() {
            tracing::warn!("{} is gone; serving it again", self.args.places.api_socket.display());
            match api::serve(&self.args.places.api_socket, self.questions.clone()) {
                Ok(socket) => self.socket = socket,
                Err(error) => tracing::error!("{error:#}"),
            }
        }
    }

    /// Programs and pins that somebody took away.
    fn restore_programs(&mut self) {
        let links: Vec<_> = self.dataplane.links().cloned().collect();
        let removed_by = std::mem::take(&mut self.removed_by);
        let repaired = self.fast_path.restore(&links);
        for (kind, what) in &repaired {
            let name = what.rsplit('/').next().unwrap_or_default();
            self.note_repair(*kind, what.clone(), removed_by.get(name).cloned());
        }
        if let (false, Some(watch)) = (removed_by.is_empty() && repaired.is_empty(), &self.pin_watch)
            && let Err(error) = watch.mark_all()
        {
            tracing::warn!("cannot watch the directory of pins: {error}");
        }
    }

    /// Somebody removes pins. What goes with them takes the kernel a moment.
    fn take_removals(&mut self, removed: io::Result<Vec<Removal>>) {
        match removed {
            Ok(removed) => {
                for removal in removed {
                    let by = removal.by.map_or_else(|| String::from("not known"), |by| by.to_string());
                    tracing::warn!(pin = removal.name, %by, "somebody removed a pin");
                    self.removed_by.insert(removal.name, by);
                }
                self.next_check = self.next_check.min(Instant::now() + SETTLING);
            }
            Err(error) => {
                tracing::warn!("who removes pins cannot be told any more: {error}");
                self.pin_watch = None;
            }
        }
    }

    fn wakeup(&self, more: bool) -> Instant {
        if more {
            return Instant::now();
        }
        let speaker = self.speaker.as_ref().and_then(Speaker::next_wakeup).map(|at| self.clock.instant(at));
        let expiry = self.blackholes.next_expiry();
        let dataplane = self.dataplane.next_wakeup();
        [
            speaker,
            dataplane,
            expiry,
            self.next_pulse(),
            self.drains.next_look(),
            self.leftovers.next_look(),
            Some(self.next_check),
            Some(self.next_audit),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(self.next_check)
    }

    fn writes(&self) -> bool {
        self.args.dataplane == DataplaneMode::On
    }
}

/// Waits for ever where nothing is watched.
async fn removals(watch: Option<&PinWatch>) -> io::Result<Vec<Removal>> {
    match watch {
        Some(watch) => watch.removed().await,
        None => std::future::pending().await,
    }
}

/// Of the Node resource that is this node's.
pub fn node_name(args: &RunArgs) -> anyhow::Result<String> {
    match &args.node_name {
        Some(name) => Ok(name.clone()),
        None => host_name().context("cannot read the host name; say --node-name"),
    }
}

fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname()?;
    name.into_string()
        .map(|name| name.to_lowercase())
        .map_err(|name| anyhow::anyhow!("{name:?} is not UTF-8"))
}
