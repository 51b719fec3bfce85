//! Comparing with the kernel: what it has of our protocol, all tables, both families.

use std::{
    collections::{BTreeSet, HashSet},
    io,
};

use manx_net::Prefix;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage, route::RouteMessage};

use super::{
    AuditReport, Difference, Entry, FibRoute, FibSink, Held,
    message::{Head, delete},
    spec::Spec,
};
use crate::{
    kernel::{KernelRoute, RouteKey, parse},
    netlink::Requests,
};

fn dump(
    requests: &mut Requests,
    family: AddressFamily,
    narrow: impl Fn(&mut RouteMessage),
    keep: impl Fn(&KernelRoute) -> bool,
) -> io::Result<Vec<KernelRoute>> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    narrow(&mut request);
    requests.dump(RouteNetlinkMessage::GetRoute(request), |message| match message {
        RouteNetlinkMessage::NewRoute(message) => parse::dumped_route(message, family).filter(&keep),
        _ => None,
    })
}

/// All routes of our protocol.
pub(super) fn dump_own(requests: &mut Requests, protocol: u8) -> io::Result<Vec<KernelRoute>> {
    let narrow = |request: &mut RouteMessage| request.header.protocol = protocol.into();
    // The kernel filters too; an old one that does not must not make foreign routes ours.
    let keep = |route: &KernelRoute| route.protocol == protocol;
    let mut routes = dump(requests, AddressFamily::Inet, narrow, keep)?;
    routes.extend(dump(requests, AddressFamily::Inet6, narrow, keep)?);
    Ok(routes)
}

/// Whoever's routes in these places.
pub(super) fn dump_places(
    requests: &mut Requests,
    places: &BTreeSet<RouteKey>,
) -> io::Result<Vec<KernelRoute>> {
    let mut routes = Vec::new();
    for (family, v4) in [(AddressFamily::Inet, true), (AddressFamily::Inet6, false)] {
        if places.iter().any(|key| key.prefix.is_v4() == v4) {
            routes.extend(dump(requests, family, |_| {}, |route| places.contains(&route.key))?);
        }
    }
    Ok(routes)
}

impl FibSink {
    /// Compares with the kernel and queues what differs for repair. Nothing may be on its way meanwhile.
    pub fn audit(&mut self, requests: &mut Requests) -> io::Result<AuditReport> {
        let routes = dump_own(requests, self.place.protocol)?;
        let mut report = AuditReport { checked: routes.len(), ..AuditReport::default() };
        let mut seen: BTreeSet<Prefix> = BTreeSet::new();
        self.strays.clear();
        self.settle_due = None;
        for route in routes {
            let prefix = route.key.prefix;
            if route.key != self.place.key(prefix) {
                self.strays.insert(route.key);
                if self.learned {
                    report.unwanted.push(prefix);
                }
                continue;
            }
            seen.insert(prefix);
            let believed = self.routes.get(&prefix).map_or(Held::Nothing, |entry| entry.held.clone());
            let held = self.held(&route);
            if self.found(prefix, held, false, None) {
                match believed {
                    Held::Nothing => report.unwanted.push(prefix),
                    _ => report.changed.push(prefix),
                }
            }
        }
        let missing: Vec<Prefix> = self
            .routes
            .iter()
            .filter(|(prefix, entry)| entry.held != Held::Nothing && !seen.contains(prefix))
            .map(|(prefix, _)| *prefix)
            .collect();
        for prefix in &missing {
            self.found(*prefix, Held::Nothing, false, None);
        }
        report.missing = missing;
        Ok(report)
    }
}

/// Comparing with what another thread reads meanwhile, prefix by prefix.
impl FibSink {
    /// Prefixes of which anything changes from now on are noted: what was read may be from before or after it.
    pub fn note_changes(&mut self, on: bool) {
        self.noted = on.then(HashSet::new);
    }

    pub(super) fn note(&mut self, prefix: Prefix) {
        if let Some(noted) = &mut self.noted {
            noted.insert(prefix);
        }
    }

    pub fn has_noted(&self, prefix: Prefix) -> bool {
        self.noted.as_ref().is_some_and(|noted| noted.contains(&prefix))
            || self.routes.get(&prefix).is_some_and(|entry| entry.flying)
    }

    /// `found`: all routes of our protocol to this prefix, wherever they stand.
    pub fn compare(&self, prefix: Prefix, found: &[FibRoute]) -> Option<Difference> {
        let place = self.place.key(prefix);
        let is_known = |key: &RouteKey| self.strays.contains(key) || self.leaving.contains(key);
        if self.learned && found.iter().map(FibRoute::key).any(|key| key != place && !is_known(&key)) {
            return Some(Difference::Unwanted);
        }
        let entry = self.routes.get(&prefix);
        let ours = found.iter().find(|route| route.key() == place);
        let spec = ours.map(|route| Spec::found(&route.kernel_route(self.place.protocol)));
        let is_believed = |entry: &Entry| match (&entry.held, &spec) {
            (Held::Nothing, None) | (Held::Odd, Some(None)) => true,
            (Held::Route(held), Some(Some(found))) => **held == *found,
            _ => false,
        };
        match (entry, ours) {
            (None, None) => None,
            (Some(entry), _) if is_believed(entry) => None,
            (Some(_), None) => Some(Difference::Missing),
            (Some(entry), Some(_)) if entry.wanted.is_some() || entry.adopted => Some(Difference::Changed),
            (_, Some(_)) => self.learned.then_some(Difference::Unwanted),
        }
    }

    /// Believes what was found, and queues what is not as wanted for repair.
    pub fn take_over(&mut self, prefix: Prefix, found: &[FibRoute]) {
        let place = self.place.key(prefix);
        let strays =
            found.iter().map(FibRoute::key).filter(|key| *key != place && !self.leaving.contains(key));
        self.strays.extend(strays);
        let ours = found.iter().find(|route| route.key() == place);
        let held = match ours {
            Some(route) => self.held(&route.kernel_route(self.place.protocol)),
            None => Held::Nothing,
        };
        self.found(prefix, held, false, None);
    }
}

/// The routes of `protocol` as the kernel has them now.
pub(crate) fn read_back(requests: &mut Requests, protocol: u8) -> io::Result<Vec<FibRoute>> {
    let mut routes: Vec<FibRoute> = dump_own(requests, protocol)?
        .into_iter()
        .map(|route| FibRoute {
            prefix: route.key.prefix,
            table: route.key.table,
            tos: route.key.tos,
            metric: route.key.metric,
            kind: route.kind,
            legs: route.legs,
        })
        .collect();
    routes.sort_by_key(|route| (route.table, route.prefix, route.metric));
    Ok(routes)
}

/// Deletes every route of `protocol`, the surrounding ones first, and returns how many there were.
pub(crate) fn cleanup(requests: &mut Requests, protocol: u8) -> io::Result<usize> {
    let mut keys: Vec<RouteKey> = dump_own(requests, protocol)?.into_iter().map(|route| route.key).collect();
    keys.sort_by_key(|key| (key.prefix.len(), *key));
    let refused = requests.submit(keys.len(), |packet, place, sequence, answer| {
        if let Some(key) = keys.get(place) {
            delete(packet, Head { sequence, answer }, key, protocol);
        }
    })?;
    for (place, refusal) in refused {
        // Gone already.
        if refusal.errno == libc::ESRCH {
            continue;
        }
        let Some(key) = keys.get(place) else { continue };
        let text = format!("removing the route to {} from table {}: {}", key.prefix, key.table, refusal.text);
        return Err(io::Error::new(io::Error::from(refusal).kind(), text));
    }
    Ok(keys.len())
}
