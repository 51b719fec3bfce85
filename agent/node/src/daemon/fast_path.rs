//! Whether the programs forward, and the eBPF sink on behalf of the daemon: it is opened if it can be, fed with
//! the table's changes, attached to interfaces as they come, and switched by what netfilter does. Where it
//! cannot be had the daemon goes on with the kernel's FIB alone and says why once.

mod decide;
mod earlier;
mod forged;
mod interfaces;
mod policy;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    path::Path,
    time::{Duration, SystemTime},
};

use manx_abi::Verdict;
use manx_api::RepairKind;
use manx_dataplane::{
    Dataplane, LinkChange,
    ebpf::{
        Applied, Condition, EbpfSink, Error, Fault, LinkState, MapPart, Mode, Options, PinWatch, Refusal,
        Refused, Restored, XdpState,
    },
    kernel::{Link, Role},
    route::{NextHop, Route},
    table::Delta,
};

use manx_net::Prefix;
use manx_resources::NodePlan;

use self::{
    forged::{Dropped, Forged},
    policy::Policy,
};
use crate::{cli::FastPathMode, clock::stamp};

/// Log lines about routes that the maps refused, for one change.
const REFUSALS_AT_ONCE: usize = 10;

#[derive(Debug)]
pub struct FastPath {
    policy: Policy,
    sink: Result<EbpfSink, String>,
    /// An earlier run's maps are in use, or there was no earlier run: programs may run before all is learned.
    ready: bool,
    /// Nothing of an earlier run is in the maps, neither routes nor counts.
    new_maps: bool,
    /// Attached, or to be attached once [`Self::ready`].
    links: BTreeMap<u32, Attached>,
    /// Uplinks that lost XDP by another's hand and have it not again.
    owed: BTreeSet<u32>,
    /// Interfaces have changed since an audit began.
    noted: Option<bool>,
    /// Neighbours that do not answer, next hops or not, and since when.
    silent: BTreeMap<NextHop, SystemTime>,
    /// There are routes that the maps could not take.
    has_refused: bool,
    forged: Forged,
}

#[derive(Clone, Debug)]
pub struct Attached {
    pub name: String,
    pub role: Role,
    /// When the programs came, or anything about them changed.
    pub since: SystemTime,
    pub programs: Vec<String>,
    pub notes: Vec<String>,
    /// Since when nothing is sent there: switched off, or without carrier.
    pub down: Option<SystemTime>,
}

impl Attached {
    /// What there is to know of it, and to do.
    pub fn said(&self) -> Vec<String> {
        let Attached { name, role, notes, down, .. } = self;
        let down = down.map(|since| {
            let harm = match role {
                Role::Uplink => {
                    "nothing leaves by it, and what its next hops led to goes another way or nowhere"
                }
                Role::Pod | Role::Other => "its pod gets nothing",
            };
            format!("down or without carrier since {}: {harm}; see `ip link show {name}`", stamp(since))
        });
        notes.iter().cloned().chain(down).collect()
    }
}

impl FastPath {
    /// Without programs, for good. Those of an earlier run are taken off: nobody keeps their maps now, nor reads
    /// netfilter's rules for them.
    pub fn absent(mode: FastPathMode, mut reason: String, bpf_dir: &Path) -> FastPath {
        if let Some(ended) = earlier::end(bpf_dir) {
            reason = format!("{reason}; {ended}");
        }
        FastPath::with(mode, Err(reason), true)
    }

    fn with(mode: FastPathMode, sink: Result<EbpfSink, String>, ready: bool) -> FastPath {
        let mut forged = Forged::default();
        if let Some(counters) = sink.as_ref().ok().and_then(|sink| sink.counters().ok()) {
            // What an earlier run has seen is not news.
            forged.look(&counters);
        }
        FastPath {
            policy: Policy::new(mode),
            sink,
            ready,
            new_maps: false,
            links: BTreeMap::new(),
            owed: BTreeSet::new(),
            noted: None,
            silent: BTreeMap::new(),
            has_refused: false,
            forged,
        }
    }

    /// Loads the programs. Call it before threads start: the loader needs much memory for a moment.
    pub fn open(mode: FastPathMode, options: Options) -> FastPath {
        let (mut sink, opened) = match EbpfSink::open(&options) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!("there is no fast path, the kernel forwards by itself: {error}");
                return FastPath::absent(mode, error.to_string(), &options.bpf_dir);
            }
        };
        for difference in &opened.replaced {
            tracing::warn!("a pinned map has another layout and is made anew: {difference}");
        }
        for version in &opened.older {
            tracing::info!("programs of ABI {version} carry packets until this agent's maps are filled");
        }
        for path in &opened.unknown {
            tracing::warn!("{path} is not of this agent, or of a newer one; it is left alone");
        }
        let mut runs = sink.status().is_ok_and(|status| !status.attachments.is_empty());
        if mode == FastPathMode::Off {
            // Now, and not when there is a plan.
            sink.set_whole_mode(Mode::Off);
            // Programs of other maps have a switch of their own.
            if runs && !(opened.adopted && opened.older.is_empty()) {
                match sink.detach_unclaimed() {
                    Ok(_) => {
                        tracing::info!("took off programs that know nothing of --fast-path off");
                        runs = false;
                    }
                    Err(error) => {
                        tracing::error!("programs of an earlier run go on carrying packets: {error}")
                    }
                }
            }
        }
        // Programs of another version forward by maps of their own: they go on until ours are filled. And where none
        // runs, none has to run by maps that an earlier run left, before they are right again.
        let ready = opened.adopted == runs;
        FastPath { new_maps: !opened.adopted, ..FastPath::with(mode, Ok(sink), ready) }
    }

    /// Begins to watch what netfilter does; before the first [`Self::decide`], inside a runtime or not.
    pub fn watch_netfilter(&mut self) {
        if self.sink.is_ok() {
            self.policy.watch();
        }
    }

    /// From now on it is told who removes pins. Call it inside the runtime.
    pub fn watch_pins(&self, bpf_dir: &Path) -> Option<PinWatch> {
        let _ = self.sink.as_ref().ok()?;
        match PinWatch::open(bpf_dir) {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::info!(
                    "pins that somebody removes are noticed within seconds, and not who did it: fanotify: {error}"
                );
                None
            }
        }
    }

    /// Waits until netfilter's rules are other than before; call [`Self::decide`] then. Cancel-safe.
    pub async fn netfilter_changed(&mut self) {
        self.policy.changed().await;
    }

    /// Looks at what may be fast now, and switches. Cheap; at every change, and every few seconds.
    pub fn decide(&mut self, plan: &NodePlan, dataplane: &Dataplane) {
        if let Ok(sink) = &mut self.sink {
            self.policy.apply(sink, plan, dataplane);
        }
    }

    /// Puts back what somebody took away, pins and programs, and says what it was. Cheap while nothing is missing.
    pub fn restore(&mut self, links: &[Link]) -> Vec<(RepairKind, String)> {
        let Ok(sink) = &mut self.sink else { return Vec::new() };
        let Restored { removed: missing, replaced, moved } = match sink.restore_pins() {
            Ok(restored) => restored,
            Err(error) => {
                tracing::error!("{error}");
                return Vec::new();
            }
        };
        let mut repaired = Vec::new();
        let mut anew = BTreeSet::new();
        for link in sink.links() {
            let kind = match link.condition {
                // Unpinned ones are among the missing.
                Condition::Attached | Condition::Unpinned => continue,
                Condition::Detached => RepairKind::ProgramDetached,
                Condition::Replaced => RepairKind::ProgramReplaced,
            };
            let name = self.links.get(&link.ifindex).map_or("?", |attached| attached.name.as_str());
            tracing::warn!(
                interface = name,
                "somebody {} {}; put back",
                match link.condition {
                    Condition::Replaced => format!("put program {} in the place of", link.program_id),
                    _ => String::from("detached"),
                },
                link.program
            );
            repaired.push((kind, format!("{} on {name}", link.program)));
            anew.insert(link.ifindex);
        }
        if let Some(directory) = moved {
            let directory = directory.display();
            tracing::warn!(
                "somebody unmounted the BPF filesystem of {directory}; what was pinned there is pinned in the one that is there \
                 now, and the programs have run on"
            );
            repaired.push((RepairKind::PinRemoved, directory.to_string()));
        }
        for path in replaced {
            tracing::warn!("somebody pinned something else at {}; ours is there again", path.display());
            repaired.push((RepairKind::PinReplaced, path.display().to_string()));
        }
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(|path| path.display().to_string()).collect();
            tracing::warn!("somebody removed what was pinned; put back: {}", names.join(", "));
            repaired.extend(names.into_iter().map(|name| (RepairKind::PinRemoved, name)));
        }
        // An XDP link that was unpinned may hold its interface still, and then the new one finds it taken.
        let lost = missing.iter().filter_map(|path| path.file_name()?.to_str()?.strip_prefix("uplink_xdp-"));
        self.owed.extend(lost.filter_map(|ifindex| ifindex.parse::<u32>().ok()));
        let owed = mem::take(&mut self.owed);
        let failed = self.links.iter().any(|(ifindex, attached)| {
            attached.programs.is_empty() || owed.contains(ifindex) && attached.programs.len() < 2
        });
        if !repaired.is_empty() || failed {
            for link in links {
                self.attach(link);
            }
            // Between the detaching and this the interface's packets went by the stack.
            let now = SystemTime::now();
            for (_, attached) in self.links.iter_mut().filter(|(ifindex, _)| anew.contains(*ifindex)) {
                attached.since = now;
            }
            let without =
                |ifindex: &u32| self.links.get(ifindex).is_some_and(|found| found.programs.len() < 2);
            self.owed = owed.into_iter().filter(without).collect();
        }
        repaired
    }

    pub fn apply(&mut self, delta: &Delta) {
        if delta.is_empty() {
            return;
        }
        if let Ok(sink) = &mut self.sink {
            let outcome = sink.apply(&delta.upserts, &delta.removals);
            self.take(outcome);
        }
    }

    /// Next hops among the neighbours that do not answer are the stack's, which tells the senders.
    pub fn set_silent(&mut self, silent: &BTreeSet<NextHop>) {
        let now = SystemTime::now();
        self.silent.retain(|hop, _| silent.contains(hop));
        for hop in silent {
            self.silent.entry(*hop).or_insert(now);
        }
        let Ok(sink) = &mut self.sink else { return };
        match sink.set_silent(silent) {
            Ok(changed) => {
                for (NextHop { gateway, ifindex }, silent) in changed {
                    let name = self.links.get(&ifindex).map_or("?", |link| link.name.as_str());
                    if silent {
                        tracing::warn!(
                            interface = name,
                            "next hop {gateway} does not answer; the stack has its packets until it does, and tells \
                             the senders: see ip neigh show {gateway}"
                        );
                    } else {
                        tracing::info!(interface = name, "next hop {gateway} is the fast path's again");
                    }
                }
            }
            Err(error) => tracing::error!("{error}"),
        }
    }

    /// Next hops that the stack has, since they do not answer, and since when.
    pub fn silent_next_hops(&self) -> BTreeMap<NextHop, SystemTime> {
        let used = self.sink.as_ref().map(EbpfSink::silent_next_hops).unwrap_or_default();
        used.into_iter().filter_map(|hop| Some((hop, *self.silent.get(&hop)?))).collect()
    }

    /// All is learned: the maps are to hold these routes and no others, and the programs may run.
    pub fn settle(&mut self, desired: &[Route], links: &[Link]) {
        if let Ok(sink) = &mut self.sink {
            let outcome = sink.reconcile(desired);
            self.take(outcome);
        }
        self.ready = true;
        for link in links {
            self.attach(link);
        }
        self.detach_unclaimed();
    }

    /// Makes the maps hold these routes, and nothing for those prefixes, whatever somebody did to them.
    pub fn repair(&mut self, wanted: &[Route], unwanted: &[Prefix]) {
        let Ok(sink) = &mut self.sink else { return };
        // What the sink knows to be otherwise first, then what only the maps have otherwise.
        let outcome = sink.apply(wanted, unwanted);
        let prefixes: Vec<Prefix> =
            wanted.iter().map(|route| route.prefix).chain(unwanted.iter().copied()).collect();
        if let Err(error) = sink.write_again(&prefixes) {
            tracing::error!("{error}");
        }
        self.take(outcome);
    }

    /// Whether interfaces change while an audit reads the maps is noted: entries change with them.
    pub fn note_changes(&mut self, on: bool) {
        self.noted = on.then_some(false);
    }

    pub fn has_noted(&self) -> bool {
        self.noted == Some(true)
    }

    /// What somebody changed in the maps beside the routes, put right if asked for.
    pub fn faults(&mut self, part: MapPart, repair: bool) -> Vec<Fault> {
        let Ok(sink) = &mut self.sink else { return Vec::new() };
        let found = if repair { sink.repair_of(part) } else { sink.faults_of(part) };
        found.unwrap_or_else(|error| {
            tracing::warn!("audit: {error}");
            Vec::new()
        })
    }

    /// Every program that should be attached, as the kernel has it.
    pub fn link_states(&self) -> Vec<LinkState> {
        self.sink.as_ref().map(EbpfSink::links).unwrap_or_default()
    }

    /// Programs of an earlier run on interfaces that are no longer ours.
    fn detach_unclaimed(&mut self) {
        if let Ok(sink) = &mut self.sink {
            match sink.detach_unclaimed() {
                Ok(gone) => {
                    for ifindex in gone {
                        tracing::info!(
                            ifindex,
                            "detached from an interface that is neither pod's nor uplink"
                        );
                    }
                }
                Err(error) => tracing::warn!("{error}"),
            }
        }
    }

    fn take(&mut self, outcome: Result<Applied, Error>) {
        match outcome {
            Ok(applied) => {
                let mut news = applied.refused.iter();
                for Refused { prefix, reason } in news.by_ref().take(REFUSALS_AT_ONCE) {
                    tracing::warn!(%prefix, "not in the eBPF map, the kernel forwards it: {reason}");
                }
                let rest = news.count();
                if rest > 0 {
                    tracing::warn!("{rest} more routes are not in the eBPF map; `manxctl routes` names them");
                }
                let has_refused = self.refused().next().is_some();
                if self.has_refused && !has_refused {
                    tracing::info!("all routes are in the eBPF map again");
                }
                self.has_refused = has_refused;
            }
            Err(error) => tracing::error!("writing the eBPF maps failed: {error}"),
        }
    }

    pub fn follow(&mut self, changes: &[LinkChange]) {
        for change in changes {
            match change {
                LinkChange::Present(link) => self.attach(link),
                LinkChange::Gone { ifindex, .. } => self.detach(*ifindex),
            }
        }
    }

    /// What others put on the interfaces beside our programs, or took away.
    pub fn look_around(&mut self, links: &[Link]) {
        let Ok(sink) = &mut self.sink else { return };
        let changed = sink.look_around().unwrap_or_else(|error| {
            tracing::warn!("cannot look for others' programs, filters and qdiscs: {error}");
            Vec::new()
        });
        for link in links.iter().filter(|link| changed.contains(&link.ifindex)) {
            self.attach(link);
        }
    }

    fn attach(&mut self, link: &Link) {
        if link.role == Role::Other {
            // It may have been renamed.
            return self.detach(link.ifindex);
        }
        if !self.ready {
            return;
        }
        let Ok(sink) = &mut self.sink else { return };
        if let Some(noted) = &mut self.noted {
            *noted = true;
        }
        let before = self.links.get(&link.ifindex).filter(|a| a.role == link.role);
        let mut attached = Attached {
            name: link.name.clone(),
            role: link.role,
            since: SystemTime::now(),
            programs: Vec::new(),
            notes: Vec::new(),
            down: (!link.up).then(|| before.and_then(|before| before.down).unwrap_or_else(SystemTime::now)),
        };
        match link.role {
            Role::Pod => match sink.attach_pod(link.ifindex) {
                Ok(()) => {
                    attached.programs.push("pod_tc (TCX ingress)".into());
                    attached.notes.extend(sink.passes(link.ifindex).map(|passed| {
                        format!(
                            "has {passed}, as where a CNI limits bandwidth: the stack brings what is for the pod, since the \
                             fast path would pass it by"
                        )
                    }));
                }
                // It went while its news was on the way.
                Err(Error::NoInterface { .. }) => return,
                Err(error) => attached.notes.push(error.to_string()),
            },
            Role::Uplink => match sink.attach_uplink(link.ifindex) {
                Ok(attachment) => {
                    attached.programs.push("uplink_tc (TCX ingress)".into());
                    match attachment.xdp {
                        Some(XdpState::Native) => attached.programs.push("uplink_xdp (native XDP)".into()),
                        Some(XdpState::Absent(why)) => {
                            attached.notes.push(format!("no XDP, blackholes die in TC: {why}"));
                        }
                        None => {}
                    }
                }
                Err(Error::NoInterface { .. }) => return,
                Err(error) => attached.notes.push(error.to_string()),
            },
            Role::Other => {}
        }
        let news = before.is_none_or(|b| b.programs != attached.programs || b.notes != attached.notes);
        if let Some(before) = before.filter(|_| !news) {
            attached.since = before.since;
        }
        if news {
            if attached.programs.is_empty() {
                tracing::warn!(interface = %link.name, "not attached: {}", attached.notes.join("; "));
            } else {
                tracing::info!(interface = %link.name, "attached {}", attached.programs.join(", "));
                for note in &attached.notes {
                    tracing::info!(interface = %link.name, "{note}");
                }
            }
        }
        self.links.insert(link.ifindex, attached);
    }

    fn detach(&mut self, ifindex: u32) {
        let Some(attached) = self.links.remove(&ifindex) else { return };
        if let Some(noted) = &mut self.noted {
            *noted = true;
        }
        tracing::info!(interface = %attached.name, "detached: the interface is gone or no longer ours");
        if let Ok(sink) = &mut self.sink
            && let Err(error) = sink.detach(ifindex)
        {
            tracing::warn!(interface = %attached.name, "{error}");
        }
    }

    /// Tells the programs that somebody keeps the maps.
    pub fn pulse(&mut self) -> Result<(), Error> {
        match &mut self.sink {
            Ok(sink) => sink.pulse(),
            Err(_) => Ok(()),
        }
    }

    /// Says what was dropped in the last `period` because pods sent it in others' names.
    pub fn say_forged(&mut self, period: Duration) {
        let Ok(sink) = &self.sink else { return };
        // Where they cannot be read now they are the next time.
        let Ok(counters) = sink.counters() else { return };
        let dropped = self.forged.look(&counters);
        for (ifindex, Dropped { sources, neighbours }) in dropped.iter().take(REFUSALS_AT_ONCE) {
            let name = self.links.get(ifindex).map_or("?", |link| link.name.as_str());
            tracing::warn!(
                interface = name,
                "dropped in the last {} s: {sources} packets from addresses whose routes do not lead to this pod, and \
                 {neighbours} messages of ARP or neighbour discovery for such; route them to it if they are its own, or \
                 loosen manx.dev/sourceCheckInterfaces",
                period.as_secs()
            );
        }
        if let Some(more @ 1..) = dropped.len().checked_sub(REFUSALS_AT_ONCE) {
            tracing::warn!(
                "so it was on {more} more interfaces; `manxctl dataplane counters --by interface` names them"
            );
        }
    }

    pub fn sink(&self) -> Option<&EbpfSink> {
        self.sink.as_ref().ok()
    }

    pub fn has_new_maps(&self) -> bool {
        self.new_maps
    }

    pub fn links(&self) -> &BTreeMap<u32, Attached> {
        &self.links
    }

    /// Routes that the maps could not take, and why.
    pub fn refused(&self) -> impl Iterator<Item = (Prefix, &Refusal)> {
        self.sink.iter().flat_map(EbpfSink::refused)
    }

    pub fn refusal(&self, prefix: Prefix) -> Option<&Refusal> {
        self.sink().and_then(|sink| sink.refusal(prefix))
    }

    pub fn state(&self) -> manx_api::FastPath {
        let mode = match self.policy.flag() {
            FastPathMode::Auto => "auto",
            FastPathMode::On => "on",
            FastPathMode::Off => "off",
        };
        let (on, reason) = match (&self.sink, self.policy.state()) {
            (Err(why), _) => (false, why.as_str()),
            (Ok(_), Some(state)) => state,
            (Ok(_), None) => (false, "not decided yet: there is no plan"),
        };
        manx_api::FastPath { mode: mode.into(), on, reason: reason.into() }
    }

    pub fn modes(&self) -> manx_api::Modes {
        let mut modes = self.policy.modes();
        modes.notes.extend(self.refused_questions());
        modes
    }

    /// What nothing else would tell: the guard is there, and admits no flow.
    fn refused_questions(&self) -> Option<String> {
        let counters = self.sink.as_ref().ok()?.counters().ok()?;
        let packets = counters.total(Verdict::ConntrackRefuses);
        (packets > 0).then(|| {
            format!(
                "conntrack refuses the question: {packets} packets of guarded pools went by the stack, for this kernel's \
                 bpf_skb_ct_lookup takes other arguments than this manxd gives; report it with `uname -r`"
            )
        })
    }
}
