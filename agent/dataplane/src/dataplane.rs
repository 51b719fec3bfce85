//! The dataplane as the daemon drives it: kernel events and best paths in; FIB writes, changes for the eBPF map
//! and next-hop changes for the speaker out.
//!
//! ```text
//! loop {
//!     select! { kernel = dataplane.changed() => kernel?, _ = sleep_until(dataplane.next_wakeup()) => (), … }
//!     let step = dataplane.step(Instant::now());      // bounded; again while step.more
//!     // step.next_hops → speaker, step.map → eBPF sink, step.links → eBPF sink, step.reports → log
//! }
//! ```

mod reading;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io, mem,
    net::IpAddr,
    time::Instant,
};

use manx_net::Prefix;

use crate::{
    fib::{
        self, AuditReport, Difference, FibError, FibRoute, FibSink, FibState, FibStatus, Place, Tampering,
    },
    kernel::{
        Author, Changes, DEFAULT_POD_PREFIX, DEFAULT_UPLINKS, KernelView, Link, Naming, RESYNC_RETRY,
        TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN, monitor::Monitor,
    },
    netlink::Requests,
    pods::Pods,
    resolve::{Gateway, Resolution, Resolver},
    route::{Action, NextHop, Route},
    silent::Silent,
    table::{Delta, Foreign, Plan, Reply, Table, Withheld},
};

/// Manx's own number in `rt_protos`.
pub const DEFAULT_PROTOCOL: u8 = 77;
/// So many take the kernel about a millisecond, and then nobody has to be woken for them.
pub const WRITTEN_AT_ONCE: usize = 256;
/// Room for the events of some ten thousand changed routes.
const DEFAULT_RECEIVE_BUFFER: usize = 16 * 1024 * 1024;

#[derive(Clone, Debug)]
pub struct Config {
    /// Manx's own number in the `protocol` field of its routes; 77 unless the fleet looks for another.
    pub protocol: u8,
    /// The routing table for our routes; 254 is `main`.
    pub table: u32,
    /// The metric of our routes; `None` leaves it to the kernel (0 for IPv4, 1024 for IPv6).
    pub metric: Option<u32>,
    /// Regular expression for uplinks; Calico's `bpfDataIfacePattern` by default.
    pub uplinks: String,
    /// What the names of pod interfaces begin with.
    pub pod_prefix: String,
    /// Receive buffer of the event socket, in bytes. Overflow costs a dump, not correctness.
    pub receive_buffer: usize,
    /// Up to so many changes of the FIB are written by whoever calls [`Dataplane::step`], more by a thread.
    pub written_at_once: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            protocol: DEFAULT_PROTOCOL,
            table: TABLE_MAIN,
            metric: None,
            uplinks: DEFAULT_UPLINKS.to_owned(),
            pod_prefix: DEFAULT_POD_PREFIX.to_owned(),
            receive_buffer: DEFAULT_RECEIVE_BUFFER,
            written_at_once: WRITTEN_AT_ONCE,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("\"{pattern}\" is not a regular expression for interface names")]
    Pattern { pattern: String, source: regex_lite::Error },
    #[error("protocol {0} belongs to the kernel and its operator; choose 5 to 255")]
    Protocol(u8),
    #[error("table {0} is not for our routes; choose 254 (main) or one of your own")]
    Table(u32),
    #[error("cannot watch the kernel's routes: {0}")]
    Netlink(#[from] io::Error),
}

/// Something worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Said once for each pool after a plan: its mode asks for encapsulation, so its routes are not written.
    PoolNotWritten { pool: String },
    /// Said once for each pool after a plan: CrossSubnet, and this route's next hop is behind a router.
    PoolNotOnLink { pool: String, prefix: Prefix },
    /// An explicit blackhole is a living pod's address: the map drops, and the kernel's own route stays.
    BlackholeOverPod { prefix: Prefix },
    /// A blackhole is none, for it overlaps a prefix of services.
    BlackholeOverService { prefix: Prefix, service: Prefix },
    /// A peer is not led to by the router that its BGPPeer names, which is no neighbour.
    RouterNotOnLink { prefix: Prefix, router: IpAddr },
    /// A route could not be written; it is tried again. Said when the error changes.
    NotInstalled { prefix: Prefix, error: FibError },
    /// A route that could not be written is in the FIB now.
    Recovered { prefix: Prefix },
    /// Somebody else did this to a route of ours; its repair has been queued. `by`: who, if an event told of it; else
    /// it was found by comparing.
    Tampered { prefix: Prefix, how: Tampering, by: Option<Author> },
    /// The kernel dropped events (ENOBUFS); everything was read again.
    Resynchronised,
    /// The thread that writes routes has ended by a fault of its own. From here on the loop writes them itself.
    WriterEnded { why: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// New, or anything about it changed.
    Present(Link),
    Gone {
        ifindex: u32,
        name: String,
    },
}

/// Why a best path is in neither sink.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWritten {
    #[error("IPPool/{pool} is encapsulated, and Manx does not encapsulate")]
    Encapsulated { pool: String },
    #[error("IPPool/{pool} is CrossSubnet and the next hop is behind a router; Manx does not encapsulate")]
    BehindRouter { pool: String },
    #[error("the router {router} that a BGPPeer names in reachableBy is on no link of this node")]
    RouterNotOnLink { router: IpAddr },
    #[error("no next hop can be used")]
    NoNextHop,
    #[error(
        "no blackhole, for the service prefix {service} overlaps it: the programs act before netfilter translates, and \
         would drop packets to services"
    )]
    Service { service: Prefix },
    #[error(
        "{service} is a prefix of services, which this node reaches by its own netfilter; the route is for others"
    )]
    ToService { service: Prefix },
    /// An explicit blackhole; the map has it.
    #[error(
        "the kernel's own route to the pod stands in the blackhole's place: only packets that come by an interface with \
         our programs are dropped"
    )]
    PodInPlace,
}

/// What one call to [`Dataplane::step`] did.
#[derive(Debug, Default)]
pub struct Step {
    /// For the eBPF map, in the order in which it may be applied.
    pub map: Delta,
    /// Watched next hops whose resolution changed.
    pub next_hops: Vec<(Gateway, Resolution)>,
    pub links: Vec<LinkChange>,
    /// Neighbours that do not answer, all of them, if they are others than before; and at first.
    pub silent: Option<BTreeSet<NextHop>>,
    /// The host's policy rules are other than before.
    pub policy_rules: bool,
    /// [`Dataplane::hosted`] says something else than before.
    pub hosted: bool,
    pub reports: Vec<Report>,
    /// FIB writes remain that could be done now: call again soon. Those that wait for the kernel's answers to others
    /// end the wait in [`Dataplane::changed`].
    pub more: bool,
}

#[derive(Debug)]
pub struct Dataplane {
    requests: Requests,
    monitor: Monitor,
    view: KernelView,
    /// What the kernel said since the last step.
    changes: Changes,
    resolver: Resolver,
    pods: Pods,
    silent: Silent,
    table: Table,
    fib: FibSink,
    place: Place,
    /// By which peers are reached, once for each; in use as next hops.
    routers: Vec<IpAddr>,
    routers_changed: bool,
    reports: Vec<Report>,
    /// Pools that were reported since the plan changed.
    reported_pools: HashSet<String>,
    /// Reading the kernel failed; tried again then.
    retry_reading: Option<Instant>,
    /// Prefixes of which anything wanted changed since an audit began.
    noted: Option<HashSet<Prefix>>,
    /// The addresses under which our own changes appear in events.
    ports: Vec<u32>,
    /// The writing thread's, until it ends.
    writer_port: Option<u32>,
    /// Calls of [`Self::step`] in a row that left events unread: answers wait, for what was before them comes first.
    behind: u32,
}

impl Dataplane {
    /// Subscribes to the kernel's events in this thread's network namespace, reads everything, and takes over the
    /// routes of our protocol that an earlier run left; they stay until [`Self::finish_startup`]. Must be called
    /// inside a tokio runtime with I/O enabled.
    pub fn open(config: Config) -> Result<Dataplane, OpenError> {
        // 0 to 4 are the kernel's own, its users' and the default (`RTPROT_STATIC`): not a mark of ours.
        if config.protocol <= 4 {
            return Err(OpenError::Protocol(config.protocol));
        }
        if config.table == 0 || config.table == TABLE_LOCAL {
            return Err(OpenError::Table(config.table));
        }
        let naming = Naming::new(&config.uplinks, &config.pod_prefix)
            .map_err(|source| OpenError::Pattern { pattern: config.uplinks.clone(), source })?;
        // Events first, dumps then: what happens in between comes twice and is taken in twice, which is harmless.
        let monitor = Monitor::open(config.receive_buffer)?;
        let mut requests = Requests::open()?;
        let mut view = KernelView::new(naming, config.protocol);
        let mut changes = Changes::default();
        view.resynchronise(&mut requests, &mut changes)?;
        let place = Place { protocol: config.protocol, table: config.table, metric: config.metric };
        let mut fib = FibSink::open(place, &mut requests)?;
        let mut ports = vec![requests.port()];
        let writer_port = match fib.start_writer(config.written_at_once) {
            Ok(port) => Some(port),
            Err(error) => {
                tracing::warn!("no thread to write routes, so the loop does: {error}");
                None
            }
        };
        ports.extend(writer_port);
        monitor.leave_out(&ports);
        // The sink has just read them.
        changes.own_in_doubt = false;
        Ok(Dataplane {
            requests,
            monitor,
            view,
            changes,
            resolver: Resolver::default(),
            pods: Pods::default(),
            silent: Silent::default(),
            table: Table::default(),
            fib,
            place,
            routers: Vec::new(),
            routers_changed: false,
            reports: Vec::new(),
            reported_pools: HashSet::new(),
            retry_reading: None,
            noted: None,
            ports,
            writer_port,
            behind: 0,
        })
    }

    /// Pools and own blocks, as a whole; what did not change is not touched.
    pub fn configure(&mut self, plan: Plan) {
        self.reported_pools.clear();
        if self.resolver.set_routers(&plan.routers) {
            let before: Vec<IpAddr> = mem::take(&mut self.routers);
            self.routers = plan.routers.values().copied().collect();
            for router in self.routers.iter().copied().map(Gateway::from) {
                if let Some(resolution) = self.resolver.use_for_path(router, &self.view) {
                    self.table.set_resolution(router, Some(resolution));
                }
            }
            for router in before.into_iter().map(Gateway::from) {
                if self.resolver.release(router) {
                    self.table.set_resolution(router, None);
                }
            }
            // Next hops are reached in another way now.
            self.routers_changed = true;
        }
        self.table.set_plan(plan);
    }

    /// The best paths' next hops for a prefix; none withdraws it.
    pub fn set_path(&mut self, prefix: Prefix, mut next_hops: Vec<Gateway>) {
        self.note(prefix);
        next_hops.sort_unstable();
        next_hops.dedup();
        for gateway in &next_hops {
            if let Some(resolution) = self.resolver.use_for_path(*gateway, &self.view) {
                self.table.set_resolution(*gateway, Some(resolution));
            }
        }
        for gateway in self.table.set_path(prefix, next_hops) {
            if self.resolver.release(gateway) {
                self.table.set_resolution(gateway, None);
            }
        }
    }

    /// The priority of the best path, a metric as Calico counts it, if it is better than the usual one: it stands before a pod
    /// of this node whose route has a higher metric, because the pod is about to be elsewhere.
    pub fn set_priority(&mut self, prefix: Prefix, priority: Option<u32>) {
        if self.table.set_priority(prefix, priority) {
            self.note(prefix);
        }
    }

    /// Whether packets for the prefix are to be dropped because somebody asked for it (RFC 7999). Stands until it is
    /// taken back, beside the path and before it.
    pub fn set_blackhole(&mut self, prefix: Prefix, blackhole: bool) {
        self.note(prefix);
        self.table.set_blackhole(prefix, blackhole);
    }

    /// The same by an operator's order, which also stands over what the kernel itself has for exactly this prefix: then
    /// the map alone drops. Takes effect with the next step.
    pub fn set_ordered_blackhole(&mut self, prefix: Prefix, reply: Option<Reply>) {
        self.table.set_ordered_blackhole(prefix, reply);
    }

    /// Resolves a next hop now, and reports its changes in [`Step::next_hops`] from now on.
    pub fn watch(&mut self, gateway: Gateway) -> Resolution {
        self.resolver.watch(gateway, &self.view)
    }

    pub fn unwatch(&mut self, gateway: Gateway) {
        self.resolver.unwatch(gateway);
    }

    /// Waits for the kernel to say something, an answer or an event, and takes in events; call [`Self::step`] next.
    /// Cancel-safe.
    pub async fn changed(&mut self) -> io::Result<()> {
        tokio::select! {
            readable = self.monitor.readable() => readable?,
            () = self.fib.may_be_answered() => return Ok(()),
        }
        self.absorb().map(drop)
    }

    /// Routes are being written that the kernel has not answered yet.
    pub fn is_writing(&self) -> bool {
        self.fib.is_writing()
    }

    /// Carries out what is due: recomputes, writes a bounded number of routes, and says what changed.
    pub fn step(&mut self, now: Instant) -> Step {
        let mut step = Step::default();
        // Before the events: those of before what is answered are there then.
        if self.behind == 0 {
            self.fib.collect_answers();
        }
        // The less is unread, the less can have changed under what is written next.
        let mut put_off = false;
        if let Err(error) = self.absorb_before_answers().and_then(|()| {
            put_off = self.awaits_answers();
            self.read_what_is_in_doubt(now)
        }) {
            tracing::warn!(%error, "the kernel's state cannot be read; trying again");
            self.retry_reading = Some(now + RESYNC_RETRY);
        }
        let changes = mem::take(&mut self.changes);
        self.changes.overrun = changes.overrun;
        self.changes.reread_routes = changes.reread_routes;
        self.changes.reread_rules = changes.reread_rules;
        step.policy_rules = changes.rules;
        self.take_in(&changes, now, &mut step);

        let changed = self.table.commit();
        if let Some(noted) = &mut self.noted {
            for delta in [&changed.fib, &changed.map] {
                noted.extend(
                    delta.upserts.iter().map(|route| route.prefix).chain(delta.removals.iter().copied()),
                );
            }
        }
        self.report_withheld(changed.withheld);
        step.map = changed.map;
        self.fib.want(changed.fib);
        self.fib.places_changed(&changes.routes);
        if !changes.links.is_empty() || !changes.routes.is_empty() {
            self.fib.topology_changed();
        }
        self.fib.observe(changes.own);
        let is_behind = self.behind > 0;
        if !is_behind {
            let answered = self.fib.take_answers(now, &mut self.requests);
            self.doubt_after(answered, now);
        }
        self.changes.own_in_doubt |= changes.own_in_doubt | self.fib.take_doubt(now);
        // What is on its way may be in a dump and may not.
        if self.changes.own_in_doubt && !self.fib.is_writing() && !is_behind {
            self.changes.own_in_doubt = false;
            if let Err(error) = self.fib.audit(&mut self.requests) {
                tracing::warn!(%error, "our routes cannot be read from the kernel; trying again");
                self.changes.own_in_doubt = true;
                self.retry_reading = Some(now + RESYNC_RETRY);
            }
        }
        // Nor is anything given to it before a reading that was put off: there would always be something under way.
        if !put_off && !is_behind && !self.awaits_answers() {
            let written = self.fib.step(now, &self.view, &mut self.requests);
            self.doubt_after(written, now);
        }
        self.changes.own_in_doubt |= self.fib.take_doubt(now);
        self.pods.probe(&mut self.requests, now);
        self.silent.probe(&self.resolver, &mut self.requests, now);

        self.reports.extend(self.fib.take_events().into_iter().map(Report::from));
        step.reports = mem::take(&mut self.reports);
        let could_go_on = !self.awaits_answers() && (self.fib.can_go_on() || self.is_in_doubt());
        step.more = is_behind || (self.retry_reading.is_none() && could_go_on);
        step
    }

    /// From the kernel's changes to the table's facts.
    fn take_in(&mut self, changes: &Changes, now: Instant, step: &mut Step) {
        let links = changes.links.iter().filter_map(|ifindex| self.view.link(*ifindex));
        step.links.extend(links.cloned().map(LinkChange::Present));
        let gone = changes.gone.iter();
        step.links
            .extend(gone.map(|(ifindex, name)| LinkChange::Gone { ifindex: *ifindex, name: name.clone() }));

        let topology = !changes.links.is_empty() || !changes.gone.is_empty() || !changes.routes.is_empty();
        if topology || mem::take(&mut self.routers_changed) {
            for moved in self.resolver.refresh(&self.view) {
                if moved.used {
                    self.table.set_resolution(moved.gateway, Some(moved.resolution.clone()));
                }
                if moved.reported {
                    step.next_hops.push((moved.gateway, moved.resolution));
                }
            }
        }
        if topology || !changes.neighbours.is_empty() {
            for prefix in self.pods.refresh(changes, &self.view, now) {
                self.table.set_pod(prefix, self.pods.get(prefix));
            }
            step.hosted |= self.pods.take_hosted_changed();
        }
        step.silent = self.silent.refresh(changes, &self.view, &self.resolver, now);
        for prefix in &changes.routes {
            self.table.set_foreign(*prefix, self.foreign(*prefix));
        }
    }

    /// What the kernel's own routes for this prefix mean to ours.
    fn foreign(&self, prefix: Prefix) -> Option<Foreign> {
        let ours = self.place.key(prefix);
        let consulted =
            |table| [TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT].contains(&table) || table == ours.table;
        let routes = self.view.routes().exact(prefix).iter().filter(|route| consulted(route.key.table));
        // Which of two tables comes first is for the policy rules to say: in doubt the kernel decides.
        routes
            .map(|route| route.key.table != ours.table || route.key.metric <= ours.metric)
            .reduce(|one, other| one || other)
            .map(|wins| Foreign { wins })
    }

    fn report_withheld(&mut self, withheld: Vec<(Prefix, Withheld)>) {
        for (prefix, why) in withheld {
            let (pool, report) = match self.not_written(prefix, why) {
                Some(NotWritten::Encapsulated { pool }) => (pool.clone(), Report::PoolNotWritten { pool }),
                Some(NotWritten::BehindRouter { pool }) => {
                    (pool.clone(), Report::PoolNotOnLink { pool, prefix })
                }
                Some(NotWritten::PodInPlace) => {
                    self.reports.push(Report::BlackholeOverPod { prefix });
                    continue;
                }
                Some(NotWritten::Service { service }) => {
                    self.reports.push(Report::BlackholeOverService { prefix, service });
                    continue;
                }
                Some(NotWritten::RouterNotOnLink { router }) => {
                    self.reports.push(Report::RouterNotOnLink { prefix, router });
                    continue;
                }
                // The speaker knows: it was told that the next hop cannot be reached. And what leads to services is as it
                // should be.
                Some(NotWritten::NoNextHop | NotWritten::ToService { .. }) | None => continue,
            };
            if self.reported_pools.insert(pool) {
                self.reports.push(report);
            }
        }
    }

    fn not_written(&self, prefix: Prefix, why: Withheld) -> Option<NotWritten> {
        let pool = |index| self.table.pool(index).map(|pool| pool.name.clone());
        Some(match why {
            Withheld::PoolNever(index) => NotWritten::Encapsulated { pool: pool(index)? },
            Withheld::PoolNotOnLink(index) => NotWritten::BehindRouter { pool: pool(index)? },
            Withheld::PodInPlace => NotWritten::PodInPlace,
            Withheld::Service(index) => NotWritten::Service { service: self.table.service(index)? },
            Withheld::ToService(index) => NotWritten::ToService { service: self.table.service(index)? },
            Withheld::RouterNotOnLink => {
                NotWritten::RouterNotOnLink { router: self.table.router_of(prefix)? }
            }
            Withheld::NoNextHop => NotWritten::NoNextHop,
        })
    }

    /// Why the best path for this prefix is in neither sink; `None` if it is, or if there is none.
    pub fn withheld(&self, prefix: Prefix) -> Option<NotWritten> {
        self.not_written(prefix, self.table.withheld(prefix)?)
    }

    /// False while what the kernel has could not be read: the map may be behind.
    pub fn is_current(&self) -> bool {
        self.retry_reading.is_none() && !self.changes.overrun && !self.changes.reread_routes
    }

    /// When `step` wants to be called even if nothing happens.
    pub fn next_wakeup(&self) -> Option<Instant> {
        // While answers are awaited, they are what wakes.
        let reading = self.retry_reading.filter(|_| !self.awaits_answers());
        [reading, self.fib.next_wakeup(), self.pods.next_probe(), self.silent.next_probe()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Routes of an earlier run that lead by gateways, and to which no path was given so far.
    pub fn leftovers(&self) -> impl Iterator<Item = (Prefix, &[NextHop])> {
        self.fib.leftovers().filter(|(prefix, _)| self.table.path(*prefix).is_empty())
    }

    /// Everything has been learned: routes of an earlier run that nobody claimed are removed by the next steps.
    pub fn finish_startup(&mut self) {
        self.table.finish_startup();
        self.fib.finish_startup();
    }

    /// Compares what the kernel has with what we believe it has, and queues repairs for the next steps.
    pub fn audit(&mut self) -> io::Result<AuditReport> {
        self.fib.wait(Instant::now(), &mut self.requests)?;
        self.fib.audit(&mut self.requests)
    }

    /// An audit reads the sinks from another thread. From now until the next call what changes here is noted: it may
    /// have been read before or after it changed, so only the next audit can judge it.
    pub fn note_changes(&mut self, on: bool) {
        self.noted = on.then(HashSet::new);
        self.fib.note_changes(on);
    }

    fn note(&mut self, prefix: Prefix) {
        if let Some(noted) = &mut self.noted {
            noted.insert(prefix);
        }
    }

    /// Whether anything about this prefix changed since [`Self::note_changes`].
    pub fn has_noted(&self, prefix: Prefix) -> bool {
        self.noted.as_ref().is_some_and(|noted| noted.contains(&prefix)) || self.fib.has_noted(prefix)
    }

    /// How what another thread read of the kernel differs from what we believe of it. `found`: the routes to this
    /// prefix among those of [`read_back`].
    pub fn compare(&self, prefix: Prefix, found: &[FibRoute]) -> Option<Difference> {
        self.fib.compare(prefix, found)
    }

    /// Believes what was found rather than what we did, and has the next steps put it right.
    pub fn take_over(&mut self, prefix: Prefix, found: &[FibRoute]) {
        self.fib.take_over(prefix, found);
    }

    /// The next hops that were set for a prefix; empty if there are none.
    pub fn path(&self, prefix: Prefix) -> &[Gateway] {
        self.table.path(prefix)
    }

    /// What the eBPF map should hold, whole, in the order of a delta's upserts. Includes paths that were set since
    /// the last step.
    pub fn map_routes(&self) -> Vec<Route> {
        self.table.map_routes()
    }

    /// As [`Self::map_routes`], for one prefix.
    pub fn map_route(&self, prefix: Prefix) -> Option<Route> {
        self.table.map_route(prefix)
    }

    /// What the FIB should have for a prefix, as of the last step. Mostly what the map should have, too.
    pub fn fib_action(&self, prefix: Prefix) -> Option<&Action> {
        self.table.fib_action(prefix)
    }

    /// How a next hop is reached, by routes of the kernel and those that lead to peers by a router.
    pub fn resolve(&self, gateway: Gateway) -> Resolution {
        self.resolver.resolve(gateway, &self.view)
    }

    /// Prefixes of which something is wanted or withheld as of the last step, in order, after `after`.
    pub fn prefixes_after(&self, after: Option<Prefix>) -> impl Iterator<Item = Prefix> {
        self.table.prefixes_after(after)
    }

    /// The table of our routes.
    pub fn table(&self) -> u32 {
        self.place.table
    }

    /// Links, foreign routes, neighbours and policy rules as of the last event.
    pub fn kernel(&self) -> &KernelView {
        &self.view
    }

    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.view.links()
    }

    /// The links by which next hops are reached.
    pub fn exits(&self) -> impl Iterator<Item = &Link> {
        self.resolver.exits().into_iter().filter_map(|ifindex| self.view.link(ifindex))
    }

    /// The routes of our protocol as the kernel has them now, all tables, both families.
    /// [`read_back`] does the same from another thread, and does not wait for what is being written.
    pub fn read_back(&mut self) -> io::Result<Vec<FibRoute>> {
        self.fib.wait(Instant::now(), &mut self.requests)?;
        fib::read_back(&mut self.requests, self.place.protocol)
    }

    /// How far the FIB sink is with this prefix; `None` if it neither wants nor holds it.
    pub fn fib_state(&self, prefix: Prefix) -> Option<FibState> {
        self.fib.state(prefix)
    }

    /// Routes that the kernel did not take, and why; each is tried again.
    pub fn fib_failures(&self) -> impl Iterator<Item = (Prefix, &FibError)> {
        self.fib.failures()
    }

    /// Addresses of this node's pods, as the kernel's host routes to their interfaces show them, with those routes' metric.
    pub fn hosted(&self) -> &BTreeMap<Prefix, u32> {
        self.pods.hosted()
    }

    /// Nothing waits to be written, or for the kernel's word on what was.
    pub fn has_written(&self) -> bool {
        !self.fib.is_writing() && !self.fib.has_work()
    }

    pub fn fib_status(&self) -> FibStatus {
        self.fib.status()
    }
}

impl From<fib::Event> for Report {
    fn from(event: fib::Event) -> Report {
        match event {
            fib::Event::Failed(prefix, error) => Report::NotInstalled { prefix, error },
            fib::Event::Recovered(prefix) => Report::Recovered { prefix },
            fib::Event::Tampered { prefix, how, by } => Report::Tampered { prefix, how, by },
            fib::Event::WriterEnded(why) => Report::WriterEnded { why },
        }
    }
}

/// The routes of `protocol` in this thread's network namespace, all tables, both families.
pub fn read_back(protocol: u8) -> io::Result<Vec<FibRoute>> {
    fib::read_back(&mut Requests::open()?, protocol)
}

/// Gives routes of protocol `from` that are `wanted`, by table and prefix, the protocol `to`, each in one message.
pub fn relabel(from: u8, to: u8, wanted: impl Fn(u32, Prefix) -> bool) -> io::Result<fib::Relabelled> {
    if let Some(kernels) = [from, to].into_iter().find(|protocol| *protocol <= 4) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, OpenError::Protocol(kernels)));
    }
    fib::relabel(&mut Requests::open()?, (from, to), |key| wanted(key.table, key.prefix))
}

/// Deletes every route of `protocol` in all tables of this thread's network namespace, and says how many.
pub fn cleanup(protocol: u8) -> io::Result<usize> {
    if protocol <= 4 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, OpenError::Protocol(protocol)));
    }
    fib::cleanup(&mut Requests::open()?, protocol)
}

#[cfg(test)]
mod tests;
