//! What may be fast, and why: from what the operator says, what netfilter and policy rules do, and what the kernel can,
//! to a mode for the whole, for each pool and for each interface. Pure; the page of it is
//! `docs/decisions/026-auto.md`.

use std::collections::{BTreeMap, BTreeSet};

use manx_dataplane::{
    ebpf::{Mode, WayBack},
    netfilter::{Finding, Survey, Tracking},
    reach::{Family, Reach},
    switches::Switches,
};
use manx_net::Prefix;
use manx_resources::FastPathSetting;

use crate::cli::FastPathMode;

/// Findings that are named; of more there is a count.
const MOST_FOUND: usize = 50;
/// Reasons in the sentence about the whole.
const MOST_REASONS: usize = 3;

#[derive(Debug)]
pub struct Facts<'a> {
    pub flag: FastPathMode,
    /// Of the node as a whole; None: the resources say nothing.
    pub whole: Option<FastPathSetting>,
    pub pools: Vec<PoolFacts<'a>>,
    pub interfaces: Vec<InterfaceFacts<'a>>,
    /// Other interfaces by which next hops are reached: index and name.
    pub exits: Vec<(u32, &'a str)>,
    pub survey: &'a Survey,
    pub switches: &'a Switches,
    /// Policy rules that may send forwarded packets to another table than ours.
    pub diverting: Vec<Diversion<'a>>,
    /// Why flows cannot be looked up in conntrack.
    pub no_guard: Option<String>,
    /// Why conntrack cannot be told to be liberal about TCP's windows.
    pub not_liberal: Option<String>,
    /// Families whose connections were tracked before, since the start, beside pools that are Auto.
    pub tracked_before: Vec<Family>,
}

#[derive(Clone, Copy, Debug)]
pub struct PoolFacts<'a> {
    pub name: &'a str,
    pub prefix: Prefix,
    /// Its own; None: as the whole's.
    pub setting: Option<FastPathSetting>,
    /// Why its packets are not for the fast path at all.
    pub excluded: Option<&'static str>,
}

/// A policy rule, and the packets that it may send elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Diversion<'a> {
    pub text: &'a str,
    pub reach: &'a Reach,
    pub needs_mark: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct InterfaceFacts<'a> {
    pub ifindex: u32,
    pub name: &'a str,
    pub setting: Option<FastPathSetting>,
    /// Of a pod's: any source is taken to which there is a way.
    pub is_loose: bool,
    /// The VRF that it belongs to.
    pub vrf: Option<&'a str>,
    /// Programs and filters of others behind ours where packets come in.
    pub behind: &'a [String],
    /// The same before ours.
    pub before: &'a [String],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// No packet goes further than this.
    pub whole: Mode,
    /// One sentence about the whole.
    pub reason: String,
    /// In the order of the facts.
    pub pools: Vec<PoolChoice>,
    pub interfaces: Vec<InterfaceChoice>,
    /// What stands in the way, each rule with what follows from it.
    pub found: Vec<Found>,
    /// Families of which a pool is guarded: conntrack has to be liberal for them.
    pub guarded: Vec<Family>,
    /// Families whose connections are tracked, beside pools that are Auto.
    pub tracked: Vec<Family>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolChoice {
    pub name: String,
    pub prefix: Prefix,
    pub mode: Mode,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceChoice {
    pub ifindex: u32,
    pub name: String,
    /// None: as its packets' pools are.
    pub mode: Option<Mode>,
    pub reason: Option<String>,
    pub way_back: WayBack,
}

/// A rule of the host that switches something off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// A sentence that names it, and what goes by the stack for it.
    pub text: String,
    /// The same rule still, though it was taken away and put back.
    pub key: String,
}

impl Choice {
    /// Some packets may be fast.
    pub fn is_on(&self) -> bool {
        self.whole > Mode::Off && self.has_pools() && self.has_interfaces()
    }

    fn has_pools(&self) -> bool {
        self.pools.iter().any(|pool| pool.mode > Mode::Off)
    }

    /// Packets come by some interface that is not the stack's.
    fn has_interfaces(&self) -> bool {
        self.interfaces.iter().any(|interface| interface.mode != Some(Mode::Off))
    }
}

impl Found {
    fn with(&self, by_the_stack: &str) -> Found {
        Found { text: format!("{}: by the stack, {by_the_stack}", self.text), key: self.key.clone() }
    }
}

/// What one rule of the host switches off.
enum Concerned {
    /// Indices into the facts.
    Pools(Vec<usize>),
    Interfaces(Vec<usize>),
}

pub fn decide(facts: &Facts<'_>) -> Choice {
    let whole = match (facts.flag, facts.whole) {
        (FastPathMode::Off, _) => Some("switched off by --fast-path off"),
        (_, Some(FastPathSetting::Disabled)) => Some("Disabled by manx.dev/fastPath on the BGPConfiguration"),
        _ => None,
    };
    let mut choice = Choice {
        whole: if whole.is_some() { Mode::Off } else { Mode::Unguarded },
        reason: String::new(),
        pools: facts.pools.iter().map(|pool| facts.pool(pool)).collect(),
        interfaces: facts.interfaces.iter().map(|interface| facts.interface(interface)).collect(),
        found: Vec::new(),
        guarded: Vec::new(),
        tracked: facts.tracked(),
    };
    if whole.is_none() {
        switch_off_for_netfilter(facts, &mut choice);
        name_timeouts(facts, &mut choice);
        switch_off_for_policy_rules(facts, &mut choice);
        switch_off_for_ipsec(facts, &mut choice);
        switch_off_where_nothing_is_forwarded(facts, &mut choice);
        switch_off_for_what_stands_behind(facts, &mut choice);
    }
    let guarded = |family: &Family| {
        let mut of = choice.pools.iter().filter(|pool| Family::of(pool.prefix) == *family);
        whole.is_none() && of.any(|pool| pool.mode == Mode::Guarded)
    };
    choice.guarded = [Family::Ipv4, Family::Ipv6].into_iter().filter(guarded).collect();
    if choice.found.len() > MOST_FOUND {
        let more = choice.found.split_off(MOST_FOUND).len();
        choice.found.push(Found { text: format!("and {more} more rules"), key: "more".to_owned() });
    }
    choice.reason = whole.map_or_else(|| summary(&choice), str::to_owned);
    choice
}

impl Facts<'_> {
    fn interface(&self, interface: &InterfaceFacts<'_>) -> InterfaceChoice {
        let InterfaceFacts { ifindex, name, setting, .. } = *interface;
        let by_rule = |family: Family| {
            self.survey.rules.ways_back.iter().any(|finding| {
                finding.reach.family.is_none_or(|own| own == family) && finding.reach.comes_by(ifindex, name)
            })
        };
        let way_back = WayBack {
            ipv4: self.switches.wants_way_back(ifindex) || by_rule(Family::Ipv4),
            ipv6: by_rule(Family::Ipv6),
        };
        // Of a pod's interface the programs know their own strict check only.
        let reason = match () {
            () if setting == Some(FastPathSetting::Disabled) => {
                Some("Disabled by manx.dev/fastPathInterfaces".to_owned())
            }
            () if interface.is_loose && way_back != WayBack::default() => {
                Some("sources are checked loosely here, and by the kernel strictly (rp_filter)".to_owned())
            }
            () => None,
        };
        let mode = reason.is_some().then_some(Mode::Off);
        InterfaceChoice { ifindex, name: name.to_owned(), mode, reason, way_back }
    }

    /// The pool's own setting, else the whole's, else the flag's.
    fn setting(&self, pool: &PoolFacts<'_>) -> (FastPathSetting, &'static str) {
        match (pool.setting, self.whole, self.flag) {
            (Some(own), ..) => (own, "by manx.dev/fastPath on the IPPool"),
            (None, Some(whole), _) => (whole, "by manx.dev/fastPath on the BGPConfiguration"),
            (None, None, FastPathMode::On) => (FastPathSetting::Enabled, "by --fast-path on"),
            (None, None, FastPathMode::Auto | FastPathMode::Off) => (FastPathSetting::Auto, ""),
        }
    }

    fn is_auto(&self, pool: &PoolFacts<'_>) -> bool {
        self.setting(pool).0 == FastPathSetting::Auto
    }

    /// By netfilter, now.
    fn tracked(&self) -> Vec<Family> {
        let mut families = vec![Family::Ipv4, Family::Ipv6];
        families.retain(|family| {
            let mut own = self.pools.iter().filter(|pool| Family::of(pool.prefix) == *family);
            matches!(self.survey.tracking(*family), Tracking::Yes(_) | Tracking::Entries)
                && own.any(|pool| self.is_auto(pool))
        });
        families
    }

    /// Before single rules are looked at.
    fn pool(&self, pool: &PoolFacts<'_>) -> PoolChoice {
        let family = Family::of(pool.prefix);
        let chosen =
            |mode, reason| PoolChoice { name: pool.name.to_owned(), prefix: pool.prefix, mode, reason };
        if let Some(why) = pool.excluded {
            return chosen(Mode::Off, why.to_owned());
        }
        let (mode, reason) = match self.setting(pool) {
            (FastPathSetting::Disabled, by) => (Mode::Off, format!("Disabled {by}")),
            (FastPathSetting::Enabled, by) => match self.survey.tracking(family) {
                Tracking::Yes(rule) => (
                    Mode::Unguarded,
                    format!("Enabled {by}, past netfilter, which tracks connections here ({rule})"),
                ),
                Tracking::No | Tracking::Entries | Tracking::Unknown(_) => {
                    (Mode::Unguarded, format!("Enabled {by}"))
                }
            },
            (FastPathSetting::Auto, _) => self.auto(family),
        };
        chosen(mode, reason)
    }

    fn auto(&self, family: Family) -> (Mode, String) {
        let fast = "flows that it knows and does not translate are fast";
        // Unless somebody else than rules tracks, conntrack renews nothing: soon no entry is young enough for the guard.
        let left = "packets of flows that conntrack does not see now go by the stack. If nothing else than rules tracks \
                    here, `conntrack -F` and a restart of manxd end that";
        let (of, then) = match self.survey.tracking(family) {
            Tracking::Unknown(why) => {
                return (Mode::Off, format!("cannot tell what netfilter does ({why}); Enabled overrides"));
            }
            Tracking::No if !self.tracked_before.contains(&family) => {
                return (Mode::Unguarded, "netfilter tracks no connections here".to_owned());
            }
            Tracking::No => (
                "netfilter tracked connections here before, and does so no more".to_owned(),
                "packets go by the stack; restart manxd to go without the guard",
            ),
            Tracking::Entries => {
                ("no rule tracks connections here, though conntrack has entries still".to_owned(), left)
            }
            Tracking::Yes(rule) => (format!("netfilter tracks connections here ({rule})"), fast),
        };
        let obstacle = self.no_guard.as_ref().or(self.not_liberal.as_ref());
        match obstacle {
            Some(why) => (Mode::Off, format!("{of}, and {why}; Enabled overrides")),
            None => (Mode::Guarded, format!("{of}: {then}")),
        }
    }

    /// Whom a rule concerns: interfaces where it names nothing else, else the pools of the end that it narrows down.
    /// `shut`: interfaces by which nothing comes in.
    fn concerned(&self, reach: &Reach, shut: &BTreeSet<usize>) -> Concerned {
        let fitting = |of: &dyn Fn(&InterfaceFacts<'_>) -> bool| -> Vec<usize> {
            (0..)
                .zip(&self.interfaces)
                .filter(|(_, interface)| of(interface))
                .map(|(index, _)| index)
                .collect()
        };
        let by = fitting(&|interface| reach.comes_by(interface.ifindex, interface.name));
        if !reach.out.are_all() {
            let mut out = fitting(&|interface| reach.leaves_by(interface.ifindex, interface.name));
            // A flow with what neither sends nor receives there is none.
            out.retain(|index| !shut.contains(index));
            let elsewhere = self.exits.iter().any(|(ifindex, name)| reach.leaves_by(*ifindex, name));
            // What would leave by where it came in is left to the stack.
            let carried = out.iter().any(|out| by.iter().any(|by| by != out));
            if !carried && (!elsewhere || by.is_empty()) {
                return Concerned::Interfaces(Vec::new());
            }
        }
        if reach.by.any_of.is_some() && (by.is_empty() || reach.is_any_address()) {
            return Concerned::Interfaces(by);
        }
        let narrows_source = reach.from != Default::default();
        let meets = |pool: &PoolFacts<'_>| {
            self.pools.iter().any(|other| {
                if narrows_source {
                    reach.meets(pool.prefix, other.prefix)
                } else {
                    reach.meets(other.prefix, pool.prefix)
                }
            })
        };
        Concerned::Pools(
            (0..).zip(&self.pools).filter(|(_, pool)| meets(pool)).map(|(index, _)| index).collect(),
        )
    }

    /// The same of a rule of netfilter. What is known of shut interfaces is known of the guard: without it packets to one
    /// are carried, whether or not anything ever came from there.
    fn concerned_by_filter(&self, reach: &Reach, shut: &BTreeSet<usize>) -> Concerned {
        let beside_guard = self.concerned(reach, shut);
        let without = self.concerned(reach, &BTreeSet::new());
        let has_no_guard = |index: &usize| {
            self.pools.get(*index).is_some_and(|pool| self.pool(pool).mode == Mode::Unguarded)
        };
        match (beside_guard, without) {
            (Concerned::Interfaces(found), Concerned::Pools(mut pools)) if found.is_empty() => {
                pools.retain(has_no_guard);
                if pools.is_empty() { Concerned::Interfaces(found) } else { Concerned::Pools(pools) }
            }
            (Concerned::Interfaces(found), without) if found.is_empty() => {
                if (0..self.pools.len()).any(|index| has_no_guard(&index)) {
                    without
                } else {
                    Concerned::Interfaces(found)
                }
            }
            (beside_guard, _) => beside_guard,
        }
    }

    /// Interfaces by which netfilter lets nothing in, whatever flow it belongs to.
    fn shut(&self) -> BTreeSet<usize> {
        let shut_by = &self.survey.rules.shut;
        let shut = |reach: &Reach, interface: &InterfaceFacts<'_>| {
            reach.by.any_of.is_some()
                && reach.out.are_all()
                && reach.is_any_address()
                && reach.comes_by(interface.ifindex, interface.name)
        };
        // For each family by itself: a rule of one says nothing of the other.
        let in_both = |interface: &InterfaceFacts<'_>| {
            [Family::Ipv4, Family::Ipv6].into_iter().all(|family| {
                let of_family = |reach: &Reach| reach.family.is_none_or(|own| own == family);
                self.pools.iter().all(|pool| Family::of(pool.prefix) != family)
                    || shut_by.iter().any(|found| of_family(&found.reach) && shut(&found.reach, interface))
            })
        };
        (0..)
            .zip(&self.interfaces)
            .filter(|(_, interface)| in_both(interface))
            .map(|(index, _)| index)
            .collect()
    }
}

/// Rules that would miss packets, for pools and interfaces whose setting leaves it to what netfilter does.
fn switch_off_for_netfilter(facts: &Facts<'_>, choice: &mut Choice) {
    let rules = &facts.survey.rules;
    let lists: [(&[Finding], Mode, &str); 5] = [
        (&rules.every_packet, Mode::Guarded, "has to see every packet"),
        (&rules.closed, Mode::Guarded, "may refuse one direction of a flow"),
        (&rules.running, Mode::Guarded, "may refuse packets of a flow that has begun"),
        (&rules.first_packets, Mode::Unguarded, "has to see these packets"),
        (&rules.filters, Mode::Unguarded, "filters where nothing tracks connections"),
    ];
    let (shut, none) = (facts.shut(), BTreeSet::new());
    for (findings, least, why) in lists {
        for finding in findings {
            let rule = Found { text: format!("{finding} {why}"), key: finding.key() };
            let refuses = !std::ptr::eq(findings, rules.every_packet.as_slice());
            match facts.concerned_by_filter(&finding.reach, if refuses { &shut } else { &none }) {
                Concerned::Interfaces(found) if facts.pools.iter().all(|pool| facts.is_auto(pool)) => {
                    let heeded = |index: &usize| {
                        facts.interfaces.get(*index).is_some_and(|interface| {
                            interface.setting.is_none_or(|s| s == FastPathSetting::Auto)
                        })
                    };
                    // In a family that is guarded, what needs first packets only needs nothing.
                    if choice.pools.iter().any(|pool| pool.mode >= least) {
                        close_interfaces(choice, found.into_iter().filter(heeded), &rule);
                    }
                }
                Concerned::Interfaces(found) if found.is_empty() => {}
                Concerned::Interfaces(_) => {
                    let all = 0..facts.pools.len();
                    close_pools(facts, choice, all.filter(|index| auto_at(facts, *index)), least, &rule);
                }
                Concerned::Pools(found) => {
                    close_pools(
                        facts,
                        choice,
                        found.into_iter().filter(|index| auto_at(facts, *index)),
                        least,
                        &rule,
                    );
                }
            }
        }
    }
}

/// They switch nothing off: the guard sees by itself which entries have another timeout than those that it knows.
fn name_timeouts(facts: &Facts<'_>, choice: &mut Choice) {
    for finding in &facts.survey.rules.timeouts {
        let guarded = |index: &usize| {
            choice.pools.get(*index).is_some_and(|pool| pool.mode == Mode::Guarded) && auto_at(facts, *index)
        };
        let concerned = match facts.concerned(&finding.reach, &BTreeSet::new()) {
            Concerned::Interfaces(found) => {
                !found.is_empty() && (0..facts.pools.len()).any(|at| guarded(&at))
            }
            Concerned::Pools(found) => found.iter().any(guarded),
        };
        if concerned {
            let text = format!(
                "{finding} gives flows a timeout of their own: they go by the stack, but for those whose timeout is \
                 conntrack's usual one"
            );
            choice.found.push(Found { text, key: finding.key() });
        }
    }
}

fn auto_at(facts: &Facts<'_>, index: usize) -> bool {
    facts.pools.get(index).is_some_and(|pool| facts.is_auto(pool))
}

/// Whatever the setting: the programs would send packets where the kernel does not.
fn switch_off_for_policy_rules(facts: &Facts<'_>, choice: &mut Choice) {
    for rule in &facts.diverting {
        let reach = rule.reach;
        let marked_by =
            match (rule.needs_mark, reach.family.map(|family| (family, facts.survey.tracking(family)))) {
                (false, _) => String::new(),
                (true, Some((_, Tracking::Unknown(_)))) => {
                    " for a mark that a rule of netfilter may set".to_owned()
                }
                (true, family) => {
                    let fits = |finding: &&Finding| match (finding.reach.family, family) {
                        (Some(of), Some((own, _))) => of == own,
                        _ => true,
                    };
                    let by_rule = facts.survey.rules.marks.iter().find(fits).map(|mark| &mark.place);
                    let mut before = facts.interfaces.iter().flat_map(|interface| {
                        interface.before.iter().map(|program| (program, interface.name))
                    });
                    match (by_rule, before.next()) {
                        (Some(place), _) => format!(" for a mark, which {place} sets"),
                        (None, Some((program, name))) => {
                            format!(" for a mark, which {program} on {name} may set")
                        }
                        (None, None) => continue,
                    }
                }
            };
        let word = if reach.family == Some(Family::Ipv6) { "IPv6 policy rule" } else { "policy rule" };
        let refuses = ["blackhole", "unreachable", "prohibit"].iter().any(|end| rule.text.ends_with(end));
        let what = if refuses { "refuses packets" } else { "chooses another table" };
        let text = format!("{word} \"{}\" {what}{marked_by}", rule.text);
        let why = Found { key: rule.text.to_owned(), text };
        match facts.concerned(reach, &BTreeSet::new()) {
            Concerned::Interfaces(found) => close_interfaces(choice, found.into_iter(), &why),
            Concerned::Pools(found) => close_pools(facts, choice, found.into_iter(), Mode::Guarded, &why),
        }
    }
}

/// Whatever the setting: what would leave transformed must not leave plain.
fn switch_off_for_ipsec(facts: &Facts<'_>, choice: &mut Choice) {
    for policy in &facts.switches.policies {
        let text = policy.to_string();
        let why = Found { key: text.clone(), text };
        if let Concerned::Pools(found) = facts.concerned(&policy.reach, &BTreeSet::new()) {
            close_pools(facts, choice, found.into_iter(), Mode::Guarded, &why);
        }
    }
}

/// Whatever the setting: who switches forwarding off means it.
fn switch_off_where_nothing_is_forwarded(facts: &Facts<'_>, choice: &mut Choice) {
    for what in &facts.switches.unread {
        let text = format!("cannot tell what the kernel forwards ({what})");
        let why = Found { key: text.clone(), text };
        close_pools(facts, choice, 0..facts.pools.len(), Mode::Guarded, &why);
    }
    switch_off_where_ipv6_is_disabled(facts, choice);
    for (family, word) in [(Family::Ipv4, "IPv4"), (Family::Ipv6, "IPv6")] {
        let is_off = |interface: &InterfaceFacts<'_>| !facts.switches.forwards(interface.ifindex, family);
        let off: Vec<usize> =
            (0..).zip(&facts.interfaces).filter(|(_, i)| is_off(i)).map(|(at, _)| at).collect();
        if off.is_empty() {
            continue;
        }
        let key = format!("net.{}.conf.*.forwarding", word.to_lowercase());
        let text =
            format!("the kernel forwards no {word} packets (net.{}.conf.all.forwarding", word.to_lowercase());
        if off.len() == facts.interfaces.len() {
            let why = Found { text: format!("{text} is 0)"), key };
            let pools = (0..).zip(&facts.pools).filter(|(_, pool)| Family::of(pool.prefix) == family);
            let pools: Vec<usize> = pools.map(|(at, _)| at).collect();
            close_pools(facts, choice, pools.into_iter(), Mode::Guarded, &why);
        } else {
            let why = Found { text: format!("{text}, or that of the interface, is 0)"), key };
            close_interfaces(choice, off.into_iter(), &why);
        }
    }
    for (at, interface) in facts.interfaces.iter().enumerate() {
        if let Some(vrf) = interface.vrf {
            let text =
                format!("{} belongs to the VRF {vrf}, which has a routing table of its own", interface.name);
            close_interfaces(choice, std::iter::once(at), &Found { key: text.clone(), text });
        }
    }
}

/// Whatever the setting: what others attached to an interface sees what it saw without Manx.
fn switch_off_for_what_stands_behind(facts: &Facts<'_>, choice: &mut Choice) {
    for (at, interface) in facts.interfaces.iter().enumerate().filter(|(_, found)| !found.behind.is_empty()) {
        let text = format!(
            "on {} others stand behind ours on TC ingress, and would not see what is carried: {}",
            interface.name,
            interface.behind.join(", ")
        );
        close_interfaces(choice, std::iter::once(at), &Found { key: text.clone(), text });
    }
}

/// Where there are pools of IPv6: what comes by an interface without it is dropped.
fn switch_off_where_ipv6_is_disabled(facts: &Facts<'_>, choice: &mut Choice) {
    let pools = (0..).zip(&facts.pools).filter(|(_, pool)| Family::of(pool.prefix) == Family::Ipv6);
    let pools: Vec<usize> = pools.map(|(at, _)| at).collect();
    let without = |interface: &InterfaceFacts<'_>| facts.switches.is_without_ipv6(interface.ifindex);
    let off: Vec<usize> =
        (0..).zip(&facts.interfaces).filter(|(_, i)| without(i)).map(|(at, _)| at).collect();
    if pools.is_empty() || off.is_empty() {
        return;
    }
    if off.len() == facts.interfaces.len() {
        let key = "net.ipv6.conf.*.disable_ipv6".to_owned();
        let text = "no interface has IPv6 (net.ipv6.conf.all.disable_ipv6 is 1)".to_owned();
        close_pools(facts, choice, pools.into_iter(), Mode::Guarded, &Found { text, key });
    } else {
        // One for all of them: there may be as many as pods.
        let key = "net.ipv6.conf.*.disable_ipv6".to_owned();
        let text =
            "the interface has no IPv6 (its disable_ipv6 in net.ipv6.conf is 1, or its MTU less than 1280)";
        close_interfaces(choice, off.into_iter(), &Found { text: text.to_owned(), key });
    }
}

/// Those that go as far as `least`.
fn close_pools(
    facts: &Facts<'_>,
    choice: &mut Choice,
    pools: impl Iterator<Item = usize>,
    least: Mode,
    why: &Found,
) {
    let mut names = Vec::new();
    for index in pools {
        let (Some(pool), Some(of)) = (choice.pools.get_mut(index), facts.pools.get(index)) else { continue };
        let planned = facts.pool(of).mode;
        // Named for each pool that it keeps from being fast, also if another rule does so already.
        if planned < least {
            continue;
        }
        names.push(pool.name.clone());
        if pool.mode > Mode::Off {
            pool.mode = Mode::Off;
            pool.reason = why.text.clone();
        }
    }
    if !names.is_empty() {
        let word = if names.len() == 1 { "pool" } else { "pools" };
        choice.found.push(why.with(&format!("{word} {}", names.join(", "))));
    }
}

fn close_interfaces(choice: &mut Choice, interfaces: impl Iterator<Item = usize>, why: &Found) {
    let mut names = Vec::new();
    for index in interfaces {
        let Some(interface) = choice.interfaces.get_mut(index) else { continue };
        names.push(interface.name.clone());
        if interface.mode != Some(Mode::Off) {
            interface.mode = Some(Mode::Off);
            interface.reason = Some(why.text.clone());
        }
    }
    if !names.is_empty() {
        choice.found.push(why.with(&format!("what comes by {}", names.join(", "))));
    }
}

/// Of the pools, where the whole is not off; or why no packet gets so far.
fn summary(choice: &Choice) -> String {
    if choice.has_pools() && !choice.has_interfaces() {
        let why: BTreeSet<&str> = choice.interfaces.iter().filter_map(|i| i.reason.as_deref()).collect();
        let why: Vec<&str> = why.into_iter().collect();
        // Some reasons name the interface, of which there may be hundreds.
        let (named, more) = why.split_at(why.len().min(MOST_REASONS));
        let more = if more.is_empty() { String::new() } else { format!("; and {} more", more.len()) };
        return match named.is_empty() {
            true => "there is no uplink, and no interface of a pod".to_owned(),
            false => format!("what comes by every interface is the stack's: {}{more}", named.join("; ")),
        };
    }
    let mut by_reason: BTreeMap<(Mode, &str), Vec<&str>> = BTreeMap::new();
    for pool in &choice.pools {
        by_reason.entry((pool.mode, &pool.reason)).or_default().push(&pool.name);
    }
    match by_reason.len() {
        0 => "there are no pools".to_owned(),
        // All for the same reason.
        1 => by_reason.keys().map(|(_, reason)| (*reason).to_owned()).collect(),
        _ => {
            let parts = by_reason.iter().rev().map(|((mode, reason), pools)| {
                let word = if pools.len() == 1 { "pool" } else { "pools" };
                format!("{word} {} {}: {reason}", pools.join(", "), name(*mode))
            });
            parts.collect::<Vec<_>>().join("; ")
        }
    }
}

/// As `manxctl` prints it.
pub fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "off",
        Mode::Guarded => "guarded",
        Mode::Unguarded => "unguarded",
    }
}

#[cfg(test)]
mod tests;
