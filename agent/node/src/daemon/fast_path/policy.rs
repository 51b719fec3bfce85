//! Carries what [`decide`] chooses to the sink: reads the facts, prepares conntrack before the guard is used, says what
//! changed, and keeps what the local API tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use manx_api as api;
use manx_dataplane::{
    Dataplane,
    ebpf::{
        EbpfSink, Guard, InterfaceSettings, KeepAlive, Mode, PoolNotIndexed, PoolSpec, SourceCheck, WayBack,
    },
    kernel::{Link, Role},
    netfilter::{self, Conntrack, Survey, Tracking, Watch},
    reach::Family,
    switches::{self, Switches},
};
use manx_net::Prefix;
use manx_resources::{self as resources, NodePlan};

use super::decide::{
    self, Choice, Diversion, Facts, Found, InterfaceChoice, InterfaceFacts, PoolFacts, decide,
};
use super::interfaces::{self, Since};
use crate::{cli::FastPathMode, clock::stamp};

#[derive(Debug)]
pub struct Policy {
    flag: FastPathMode,
    /// Why there is none.
    netfilter: Result<Watch, String>,
    switches: Result<switches::Watch, String>,
    choice: Option<Choice>,
    /// Of each pool.
    since: BTreeMap<(String, Prefix), (Mode, SystemTime)>,
    interfaces: Since,
    /// Entries of annotations that are for no interface here, a sentence each.
    for_none: Vec<String>,
    /// Of pods' interfaces; an uplink's sources are no pod's.
    source_checks: BTreeMap<u32, resources::SourceCheck>,
    /// Families whose connections were tracked, since the start, beside pools that were Auto then.
    tracked: BTreeSet<Family>,
    conntrack: Liberal,
    /// What the sink has.
    pools: Option<Vec<PoolSpec>>,
    /// Pools of which it has been said that they are not indexed.
    not_indexed: Vec<PoolNotIndexed>,
    keep_alive: Option<KeepAlive>,
    /// Findings that were logged and still stand, by their keys.
    said: BTreeMap<String, String>,
}

/// Whether conntrack lets packets pass that it takes to be outside of a window.
#[derive(Debug, Default)]
struct Liberal {
    /// It was seen to be so.
    seen: bool,
    /// We made it so.
    set: bool,
    /// Why it cannot be.
    failed: Option<String>,
}

impl Policy {
    pub fn new(flag: FastPathMode) -> Policy {
        Policy {
            flag,
            netfilter: Err("not looked at yet".to_owned()),
            switches: Err("not looked at yet".to_owned()),
            choice: None,
            since: BTreeMap::new(),
            interfaces: Since::default(),
            for_none: Vec::new(),
            source_checks: BTreeMap::new(),
            tracked: BTreeSet::new(),
            conntrack: Liberal::default(),
            pools: None,
            not_indexed: Vec::new(),
            keep_alive: None,
            said: BTreeMap::new(),
        }
    }

    /// Begins to watch netfilter's rules and the switches of forwarding, in this thread's network namespace. Inside a runtime
    /// or not.
    pub fn watch(&mut self) {
        if self.netfilter.is_err() {
            self.watch_netfilter();
        }
        if let Err(said) = &self.switches {
            let found = switches::Watch::start().map_err(|error| {
                let why = format!("cannot watch the switches of forwarding: {error}");
                if *said != why {
                    tracing::warn!("{why}; trying again");
                }
                why
            });
            self.switches = found;
        }
    }

    fn watch_netfilter(&mut self) {
        let said = self.netfilter.as_ref().err().cloned();
        self.netfilter = Watch::start().map_err(|error| {
            let why = format!("cannot watch netfilter: {error}");
            if said.as_ref() != Some(&why) {
                tracing::warn!("{why}; trying again");
            }
            why
        });
    }

    /// Waits for other rules. Cancel-safe.
    pub async fn changed(&mut self) {
        let netfilter = async {
            match &mut self.netfilter {
                Ok(watch) => watch.changed().await,
                Err(_) => std::future::pending().await,
            }
        };
        let switches = async {
            match &mut self.switches {
                Ok(watch) => watch.changed().await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = netfilter => (),
            () = switches => (),
        }
    }

    /// Looks at everything and switches what has to be switched. Cheap; at every change, and every few seconds.
    pub fn apply(&mut self, sink: &mut EbpfSink, plan: &NodePlan, dataplane: &Dataplane) {
        self.watch();
        let switches = known(&self.switches);
        let survey = match &self.netfilter {
            Ok(watch) => watch.survey(),
            Err(why) => {
                let unknown = Tracking::Unknown(why.clone());
                Survey { ipv4: unknown.clone(), ipv6: unknown, ..Survey::default() }
            }
        };
        match sink.take_up_guard() {
            Ok(true) => tracing::info!("nf_conntrack has come: the programs were loaded anew with the guard"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!("nf_conntrack has come, and the programs with the guard do not load: {error}")
            }
        }
        let guard = sink.guard();
        let facts = |not_liberal: Option<String>| {
            let links = dataplane.links().filter(|link| link.role != Role::Other);
            Facts {
                flag: self.flag,
                whole: plan.fast_path.whole,
                pools: plan.pools.iter().map(pool_facts).collect(),
                interfaces: links
                    .map(|link| InterfaceFacts {
                        ifindex: link.ifindex,
                        name: &link.name,
                        setting: plan.fast_path.interface(&link.name),
                        is_loose: link.role == Role::Pod
                            && plan.fast_path.source_check(&link.name) == resources::SourceCheck::Loose,
                        vrf: vrf(dataplane, link),
                        behind: sink.behind(link.ifindex),
                        before: sink.before(link.ifindex),
                    })
                    .collect(),
                exits: dataplane
                    .exits()
                    .filter(|link| link.role == Role::Other)
                    .map(|link| (link.ifindex, link.name.as_str()))
                    .collect(),
                survey: &survey,
                switches: &switches,
                diverting: diversions(dataplane),
                no_guard: match &guard {
                    Guard::Available => None,
                    Guard::Absent(why) => Some(why.to_string()),
                },
                not_liberal,
                tracked_before: self.tracked.iter().copied().collect(),
            }
        };
        let mut choice = decide(&facts(None));
        if !choice.guarded.is_empty() {
            // Before the first packet is carried past conntrack.
            self.conntrack.ensure(survey.conntrack.as_ref());
            if let Some(why) = &self.conntrack.failed {
                choice = decide(&facts(Some(why.clone())));
            }
        }
        if choice.whole > Mode::Off {
            let pattern = dataplane.kernel().uplink_pattern();
            choice.found.extend(interfaces::without_uplink(dataplane.links(), pattern));
        }
        self.for_none = interfaces::for_none(&plan.fast_path, dataplane.links());
        let pods = dataplane.links().filter(|link| link.role == Role::Pod);
        self.source_checks =
            pods.map(|link| (link.ifindex, plan.fast_path.source_check(&link.name))).collect();
        self.tracked.extend(choice.tracked.iter().copied());
        sink.set_vacancy(diversions(dataplane).is_empty());
        if let Err(error) = self.switch(sink, &choice, plan, survey.conntrack.as_ref()) {
            return tracing::error!("cannot switch the fast path: {error}");
        }
        self.say(&choice);
        self.choice = Some(choice);
    }

    fn switch(
        &mut self,
        sink: &mut EbpfSink,
        choice: &Choice,
        plan: &NodePlan,
        conntrack: Option<&Conntrack>,
    ) -> Result<(), manx_dataplane::ebpf::Error> {
        if let Some(keep_alive) = conntrack.map(keep_alive)
            && self.keep_alive != Some(keep_alive)
        {
            sink.set_keep_alive(keep_alive);
            self.keep_alive = Some(keep_alive);
        }
        let pools = pool_specs(choice, plan);
        // What goes down goes down first.
        if choice.whole == Mode::Off {
            sink.set_whole_mode(choice.whole);
        }
        for interface in &choice.interfaces {
            let check = self.source_checks.get(&interface.ifindex).copied().unwrap_or_default();
            sink.set_interface(interface.ifindex, settings(interface, check));
        }
        if self.pools.as_ref() != Some(&pools) {
            let not_indexed = sink.set_pools(&pools)?;
            for pool in not_indexed.iter().filter(|pool| !self.not_indexed.contains(pool)) {
                tracing::warn!(
                    "IPPool/{} ({}) is looked up in the slower tries: {}",
                    pool.name,
                    pool.prefix,
                    pool.reason
                );
            }
            self.not_indexed = not_indexed;
            self.pools = Some(pools);
        }
        if choice.whole != Mode::Off {
            sink.set_whole_mode(choice.whole);
        }
        Ok(())
    }

    fn say(&mut self, choice: &Choice) {
        let now = SystemTime::now();
        let mut since = BTreeMap::new();
        for pool in &choice.pools {
            let key = (pool.name.clone(), pool.prefix);
            let mode = pool.mode.min(choice.whole);
            let before = self.since.get(&key).copied();
            if before.is_none_or(|(before, _)| before != mode) {
                let reason = if choice.whole == Mode::Off { &choice.reason } else { &pool.reason };
                tracing::info!(pool = %pool.name, cidr = %pool.prefix, "fast path {}: {reason}", decide::name(mode));
            }
            since.insert(key, before.filter(|(before, _)| *before == mode).unwrap_or((mode, now)));
        }
        self.since = since;
        self.interfaces.follow(choice, &self.source_checks);
        let found = |found: &Found| (found.key.clone(), found.text.clone());
        let found: BTreeMap<String, String> = choice.found.iter().map(found).collect();
        for (_, text) in found.iter().filter(|(key, _)| !self.said.contains_key(*key)) {
            tracing::warn!("{text}");
        }
        for (_, text) in self.said.iter().filter(|(key, _)| !found.contains_key(*key)) {
            tracing::info!("no longer: {text}");
        }
        self.said = found;
    }

    /// Whether some packets may be fast, and a sentence; None before the first plan.
    pub fn state(&self) -> Option<(bool, &str)> {
        self.choice.as_ref().map(|choice| (choice.is_on(), choice.reason.as_str()))
    }

    pub fn flag(&self) -> FastPathMode {
        self.flag
    }

    pub fn modes(&self) -> api::Modes {
        let Some(choice) = &self.choice else { return api::Modes::default() };
        let pools = choice.pools.iter().map(|pool| {
            let since = self.since.get(&(pool.name.clone(), pool.prefix));
            api::PoolMode {
                name: pool.name.clone(),
                cidr: pool.prefix.to_string(),
                mode: decide::name(pool.mode.min(choice.whole)).to_owned(),
                reason: if choice.whole == Mode::Off { choice.reason.clone() } else { pool.reason.clone() },
                since: since.map(|(_, since)| stamp(*since)).unwrap_or_default(),
            }
        });
        let interfaces = choice.interfaces.iter().map(|interface| api::InterfaceMode {
            name: interface.name.clone(),
            mode: interface.mode.map(|mode| decide::name(mode).to_owned()),
            reason: interface.reason.clone(),
            source_check: self.source_checks.get(&interface.ifindex).map(|check| check.name().to_owned()),
            since: self.interfaces.of(interface.ifindex).map(stamp),
        });
        api::Modes {
            pools: pools.collect(),
            interfaces: interfaces.collect(),
            found: choice.found.iter().map(|found| found.text.clone()).collect(),
            notes: self
                .for_none
                .iter()
                .cloned()
                .chain(self.conntrack.note())
                .chain(way_back_note(choice))
                .collect(),
        }
    }
}

impl Liberal {
    /// `now` may be some seconds old.
    fn ensure(&mut self, now: Option<&Conntrack>) {
        if now.is_some_and(|conntrack| conntrack.liberal) {
            (self.seen, self.failed) = (true, None);
            return;
        }
        match netfilter::make_liberal() {
            Ok(()) => {
                if self.seen {
                    tracing::warn!(
                        "somebody set nf_conntrack_tcp_be_liberal or nf_conntrack_tcp_ignore_invalid_rst back to 0; set \
                         to 1 again, or flows of the fast path would be invalid to conntrack"
                    );
                } else if !self.set {
                    tracing::info!(
                        "set nf_conntrack_tcp_be_liberal=1 and nf_conntrack_tcp_ignore_invalid_rst=1: conntrack does not \
                         see all packets of a flow that the fast path carries"
                    );
                }
                (self.seen, self.set, self.failed) = (false, true, None);
            }
            Err(error) => {
                let why = format!("conntrack cannot be made liberal about TCP's windows ({error})");
                if self.failed.as_ref() != Some(&why) {
                    tracing::warn!("{why}");
                }
                self.failed = Some(why);
            }
        }
    }

    fn note(&self) -> Option<String> {
        self.set.then(|| {
            "nf_conntrack_tcp_be_liberal=1 and nf_conntrack_tcp_ignore_invalid_rst=1 were set by manxd for the guard"
                .to_owned()
        })
    }
}

/// What cannot be watched is not known.
fn known(switches: &Result<switches::Watch, String>) -> Switches {
    match switches {
        Ok(watch) => watch.switches(),
        Err(why) => Switches::unknown(why.clone()),
    }
}

fn pool_facts(pool: &resources::PoolPlan) -> PoolFacts<'_> {
    let workloads = pool.allowed_uses.contains(&resources::spec::AllowedUse::Workload);
    PoolFacts {
        name: &pool.name,
        prefix: pool.cidr,
        setting: pool.fast_path,
        excluded: match pool.write {
            // Where a pool is encapsulated elsewhere its packets are not ours to carry plain.
            resources::PoolWrite::Never => Some("the pool is encapsulated, and Manx does not encapsulate"),
            _ if !workloads => Some("the pool is not for pods (allowedUses)"),
            resources::PoolWrite::Always | resources::PoolWrite::OnLinkOnly => None,
        },
    }
}

fn pool_specs(choice: &Choice, plan: &NodePlan) -> Vec<PoolSpec> {
    let pools = choice.pools.iter().zip(&plan.pools);
    pools
        .map(|(chosen, pool)| PoolSpec {
            name: chosen.name.clone(),
            prefix: chosen.prefix,
            block_len: pool.block_size,
            mode: chosen.mode,
        })
        .collect()
}

fn diversions(dataplane: &Dataplane) -> Vec<Diversion<'_>> {
    let rules = dataplane.kernel().rules().iter();
    rules
        .filter_map(|rule| {
            let reach = rule.diverts(dataplane.table())?;
            Some(Diversion { text: &rule.text, reach, needs_mark: rule.needs_mark })
        })
        .collect()
}

/// Which interfaces are strict about sources.
fn way_back_note(choice: &Choice) -> Option<String> {
    let strict = choice.interfaces.iter().filter(|interface| interface.way_back != WayBack::default());
    let names: Vec<&str> = strict.map(|interface| interface.name.as_str()).collect();
    let (shown, more) = names.split_at(names.len().min(10));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    (!names.is_empty()).then(|| {
        format!(
            "what comes by {}{more} and whose way back leads elsewhere is left to the kernel (rp_filter)",
            shown.join(", ")
        )
    })
}

/// The name of the VRF that the link belongs to.
fn vrf<'a>(dataplane: &'a Dataplane, link: &Link) -> Option<&'a str> {
    let master = dataplane.kernel().link(link.master?)?;
    (master.kind.as_deref() == Some("vrf")).then_some(master.name.as_str())
}

fn settings(choice: &InterfaceChoice, check: resources::SourceCheck) -> InterfaceSettings {
    let source_check = match check {
        resources::SourceCheck::Strict => SourceCheck::Strict,
        resources::SourceCheck::Loose => SourceCheck::Loose,
        resources::SourceCheck::Off => SourceCheck::Off,
    };
    InterfaceSettings { mode: choice.mode, source_check, way_back: choice.way_back }
}

fn keep_alive(conntrack: &Conntrack) -> KeepAlive {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    KeepAlive {
        tcp_established: seconds(conntrack.tcp_established),
        tcp_unacknowledged: seconds(conntrack.tcp_unacknowledged),
        tcp_max_retrans: seconds(conntrack.tcp_max_retrans),
        udp_stream: seconds(conntrack.udp_stream),
        udp: seconds(conntrack.udp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_that_cannot_be_watched_are_no_permission() {
        let switches = known(&Err("cannot watch the switches of forwarding: EMFILE".to_owned()));
        assert_eq!(switches.unread, ["cannot watch the switches of forwarding: EMFILE"]);
        assert_eq!(known(&Policy::new(FastPathMode::Auto).switches).unread, ["not looked at yet"]);
    }
}
