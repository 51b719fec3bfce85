//! Comparing with the kernel: what it has of our protocol, all tables, both families.

use std::{collections::BTreeSet, io};

use manx_net::Prefix;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage, route::RouteMessage};

use super::{AuditReport, FibRoute, FibSink, Held, spec::delete};
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
    /// Compares with the kernel and queues what differs for repair.
    pub fn audit(&mut self, requests: &mut Requests) -> io::Result<AuditReport> {
        let routes = dump_own(requests, self.place.protocol)?;
        let mut report = AuditReport { checked: routes.len(), ..AuditReport::default() };
        let mut seen: BTreeSet<Prefix> = BTreeSet::new();
        self.strays.clear();
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
            if self.found(prefix, held, 0) {
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
            self.found(*prefix, Held::Nothing, 0);
        }
        report.missing = missing;
        Ok(report)
    }
}

/// The routes of `protocol` as the kernel has them now.
pub(crate) fn read_back(requests: &mut Requests, protocol: u8) -> io::Result<Vec<FibRoute>> {
    let mut routes: Vec<FibRoute> = dump_own(requests, protocol)?
        .into_iter()
        .map(|route| FibRoute {
            prefix: route.key.prefix,
            table: route.key.table,
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
    let answers = requests.transact(keys.iter().map(|key| delete(key, protocol)).collect())?;
    for (key, answer) in keys.iter().zip(answers) {
        match answer {
            // Gone already.
            Ok(()) => {}
            Err(refusal) if refusal.errno == libc::ESRCH => {}
            Err(refusal) => {
                return Err(io::Error::new(
                    io::Error::from(refusal.clone()).kind(),
                    format!(
                        "removing the route to {} from table {}: {}",
                        key.prefix, key.table, refusal.text
                    ),
                ));
            }
        }
    }
    Ok(keys.len())
}
