//! What is worth saying of the interfaces beside what is chosen for each: that none is an uplink, that an annotation is for
//! interfaces of which there are none here, and since when one is otherwise than the others.

use std::{collections::BTreeMap, time::SystemTime};

use manx_dataplane::kernel::{Link, Role};
use manx_resources::{FastPathPlan, ForInterfaces, SourceCheck};

use super::decide::{Choice, Found};

/// Names in one line; of more there is a count.
const NAMED: usize = 10;

/// What is set for an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Setting {
    /// Why what comes by it is the stack's, where it is so whatever the pools.
    off: Option<String>,
    /// Of a pod's.
    check: Option<&'static str>,
}

/// Since when each interface is as it is.
#[derive(Debug, Default)]
pub struct Since(BTreeMap<u32, (Setting, SystemTime)>);

impl Since {
    /// Notes what is chosen now, and says in the log what changed by somebody's order.
    pub fn follow(&mut self, choice: &Choice, checks: &BTreeMap<u32, SourceCheck>) {
        let now = SystemTime::now();
        let mut since = BTreeMap::new();
        let mut changed: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for interface in &choice.interfaces {
            let check = checks.get(&interface.ifindex).map(|check| check.name());
            let setting = Setting { off: interface.mode.and(interface.reason.clone()), check };
            let before = self.0.get(&interface.ifindex);
            for text in news(before.map(|(before, _)| before), &setting, choice) {
                changed.entry(text).or_default().push(&interface.name);
            }
            let at = before.filter(|(before, _)| *before == setting).map_or(now, |(_, at)| *at);
            since.insert(interface.ifindex, (setting, at));
        }
        for (text, names) in changed {
            tracing::info!(interfaces = %listed(&names), "{text}");
        }
        self.0 = since;
    }

    pub fn of(&self, ifindex: u32) -> Option<SystemTime> {
        self.0.get(&ifindex).map(|(_, at)| *at)
    }
}

/// What is new about an interface, but for what is found on the host: that is said where it is found.
fn news(before: Option<&Setting>, now: &Setting, choice: &Choice) -> Vec<String> {
    let usual = Setting { off: None, check: now.check.map(|_| SourceCheck::default().name()) };
    let before = before.unwrap_or(&usual);
    let is_found = |off: &Option<String>| {
        off.as_ref().is_some_and(|why| choice.found.iter().any(|found| found.text.starts_with(why.as_str())))
    };
    let mut news = Vec::new();
    if before.off != now.off {
        match &now.off {
            Some(why) if !is_found(&now.off) => news.push(format!("fast path off: {why}")),
            None if before.off.as_ref().is_some_and(|why| why.contains("manx.dev/")) => {
                news.push(String::from("fast path as their packets' pools say"));
            }
            Some(_) | None => {}
        }
    }
    if before.check != now.check {
        news.extend(now.check.map(|check| format!("source check {check}")));
    }
    news
}

/// None of the links is called as uplinks are: what other nodes send is the stack's, and nothing else would say so.
pub fn without_uplink<'a>(links: impl Iterator<Item = &'a Link>, pattern: &str) -> Option<Found> {
    let mut others = Vec::new();
    for link in links {
        match link.role {
            Role::Uplink => return None,
            Role::Other if link.name != "lo" => others.push(link.name.as_str()),
            Role::Other | Role::Pod => {}
        }
    }
    let there = if others.is_empty() {
        String::from("there are no others than the pods'")
    } else {
        format!("there are {}", listed(&others))
    };
    Some(Found {
        text: format!(
            "no interface that stands by itself is called as --uplink says ({pattern}; {there}): by the stack, what comes \
             from other nodes"
        ),
        key: String::from("no uplink"),
    })
}

/// Entries of the annotations that are for no interface of this host.
pub fn for_none<'a>(plan: &FastPathPlan, links: impl Iterator<Item = &'a Link>) -> Vec<String> {
    let names: Vec<(&str, Role)> = links.map(|link| (link.name.as_str(), link.role)).collect();
    let is_for_none = |pattern: &str, of: &dyn Fn(Role) -> bool| {
        let entry = [ForInterfaces { pattern: pattern.to_owned(), setting: () }];
        !names.iter().any(|(name, role)| of(*role) && ForInterfaces::find(&entry, name).is_some())
    };
    let said = |annotation: &str, pattern: &str, whose: &str| {
        format!(
            "manx.dev/{annotation}: no {whose} of this node is called {pattern} now, so that entry is for none"
        )
    };
    let modes = plan.interfaces.iter().map(|entry| entry.pattern.as_str());
    let modes = modes.filter(|pattern| is_for_none(pattern, &|role| role != Role::Other));
    let checks = plan.source_check_interfaces.iter().map(|entry| entry.pattern.as_str());
    let checks = checks.filter(|pattern| is_for_none(pattern, &|role| role == Role::Pod));
    modes
        .map(|pattern| said("fastPathInterfaces", pattern, "uplink or pod's interface"))
        .chain(checks.map(|pattern| said("sourceCheckInterfaces", pattern, "pod's interface")))
        .collect()
}

fn listed(names: &[&str]) -> String {
    let (shown, more) = names.split_at(names.len().min(NAMED));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use manx_resources::FastPathSetting;

    use super::*;

    fn link(ifindex: u32, name: &str, role: Role) -> Link {
        Link {
            ifindex,
            name: name.into(),
            mac: None,
            mtu: 1500,
            up: true,
            admin_up: true,
            kind: None,
            master: None,
            role,
        }
    }

    #[test]
    fn that_no_interface_is_an_uplink_is_found_with_those_that_there_are() {
        let mut links =
            vec![link(1, "lo", Role::Other), link(2, "net0", Role::Other), link(3, "cali1", Role::Pod)];
        let found = without_uplink(links.iter(), "^eth").expect("there is none");
        assert!(found.text.contains("as --uplink says (^eth; there are net0)"), "{found:?}");
        links.push(link(4, "eth0", Role::Uplink));
        assert_eq!(without_uplink(links.iter(), "^eth"), None);
    }

    #[test]
    fn an_entry_that_is_for_no_interface_is_named() {
        let entry =
            |pattern: &str| ForInterfaces { pattern: pattern.to_owned(), setting: FastPathSetting::Disabled };
        let check = |pattern: &str| ForInterfaces { pattern: pattern.to_owned(), setting: SourceCheck::Off };
        let plan = FastPathPlan {
            whole: None,
            interfaces: vec![entry("ens3"), entry("ens33"), entry("cali*"), entry("lo")],
            source_check: SourceCheck::Strict,
            source_check_interfaces: vec![check("ens33"), check("*")],
        };
        let links = [link(1, "lo", Role::Other), link(2, "ens33", Role::Uplink), link(3, "cali1", Role::Pod)];
        let said = for_none(&plan, links.iter());
        let called: Vec<_> = said.iter().map(|text| text.split(" now").next().unwrap_or_default()).collect();
        assert_eq!(
            called,
            [
                "manx.dev/fastPathInterfaces: no uplink or pod's interface of this node is called ens3",
                "manx.dev/fastPathInterfaces: no uplink or pod's interface of this node is called lo",
                "manx.dev/sourceCheckInterfaces: no pod's interface of this node is called ens33",
            ]
        );
    }
}
