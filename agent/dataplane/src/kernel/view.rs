//! The kernel's state as far as routing needs it, and what changed in it since somebody asked.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
    time::Duration,
};

use rtnetlink::{
    packet_core::{NLM_F_APPEND, NLM_F_REPLACE, NetlinkHeader},
    packet_route::{
        AddressFamily, RouteNetlinkMessage, link::LinkMessage, neighbour::NeighbourMessage,
        route::RouteMessage, rule::RuleMessage,
    },
};

use manx_net::Prefix;

use super::{
    Author, KernelRoute, Link, Naming, Neighbour, PolicyRule, Role, RouteKey, Routes, parse,
    policy_rule::policy_rule, routes::Outcome,
};
use crate::netlink::Requests;

/// After a dump that failed, the next one is tried this much later.
pub(crate) const RESYNC_RETRY: Duration = Duration::from_secs(1);

/// Something that happened to routes of our protocol, or to the place of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OwnEvent {
    Added {
        route: KernelRoute,
        by: Author,
    },
    Deleted {
        route: KernelRoute,
        by: Author,
    },
    /// A foreign route was written with NLM_F_REPLACE: had we a route there, it is gone without a word.
    Overwritten {
        key: RouteKey,
        by: Author,
    },
}

/// What changed since the last time, coalesced: the view has the new state, this says where to look.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub links: BTreeSet<u32>,
    /// Names of links that went away.
    pub gone: BTreeMap<u32, String>,
    pub routes: BTreeSet<Prefix>,
    pub neighbours: BTreeSet<(u32, IpAddr)>,
    pub own: Vec<OwnEvent>,
    /// Who is behind the last of them: mostly who was behind the one before.
    author: Option<(u32, Author)>,
    /// The kernel may have dropped own routes silently: compare with a dump.
    pub own_in_doubt: bool,
    /// Events were lost; everything has to be read again.
    pub overrun: bool,
    /// Foreign routes have to be read again.
    pub reread_routes: bool,
    /// Policy rules are other than before.
    pub rules: bool,
    /// They have to be read again.
    pub reread_rules: bool,
}

impl Changes {
    fn author(&mut self, port: u32) -> Author {
        if let Some((known, author)) = &self.author
            && *known == port
        {
            return author.clone();
        }
        let author = Author::at(port);
        self.author = Some((port, author.clone()));
        author
    }
}

/// Everything that a view holds, as one set of dumps found it.
#[derive(Debug, Default)]
struct Snapshot {
    links: BTreeMap<u32, Link>,
    routes: Routes,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    rules: Vec<PolicyRule>,
}

impl Snapshot {
    fn read(requests: &mut Requests, naming: &Naming, protocol: u8) -> io::Result<Snapshot> {
        let links = requests
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| match message {
                RouteNetlinkMessage::NewLink(message) => parse::link(message, naming),
                _ => None,
            })?
            .into_iter()
            .map(|link| (link.ifindex, link))
            .collect();
        let routes = Self::read_routes(requests, protocol)?;
        let mut neighbours = HashMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            neighbours.extend(requests.dump(RouteNetlinkMessage::GetNeighbour(request), |message| {
                match message {
                    RouteNetlinkMessage::NewNeighbour(message) => parse::neighbour(message),
                    _ => None,
                }
            })?);
        }
        let rules = Self::read_rules(requests)?;
        Ok(Snapshot { links, routes, neighbours, rules })
    }

    /// In the order in which the kernel asks them, IPv4 first.
    fn read_rules(requests: &mut Requests) -> io::Result<Vec<PolicyRule>> {
        let mut rules = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RuleMessage::default();
            request.header.family = family;
            rules.extend(requests.dump(RouteNetlinkMessage::GetRule(request), |message| match message {
                // A kernel without IPv6 answers with the rules that it has.
                RouteNetlinkMessage::NewRule(message) if message.header.family == family => {
                    policy_rule(message)
                }
                _ => None,
            })?);
        }
        Ok(rules)
    }

    fn read_routes(requests: &mut Requests, protocol: u8) -> io::Result<Routes> {
        let mut routes = Routes::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let found = requests.dump(RouteNetlinkMessage::GetRoute(request), |message| match message {
                RouteNetlinkMessage::NewRoute(message) => {
                    parse::dumped_route(message, family).filter(|route| route.protocol != protocol)
                }
                _ => None,
            })?;
            for route in found {
                routes.insert_dumped(route);
            }
        }
        Ok(routes)
    }
}

/// Links, foreign routes and neighbours of one network namespace.
#[derive(Debug)]
pub struct KernelView {
    naming: Naming,
    protocol: u8,
    links: BTreeMap<u32, Link>,
    routes: Routes,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    rules: Vec<PolicyRule>,
}

impl KernelView {
    pub(crate) fn new(naming: Naming, protocol: u8) -> KernelView {
        KernelView {
            naming,
            protocol,
            links: BTreeMap::new(),
            routes: Routes::default(),
            neighbours: HashMap::new(),
            rules: Vec::new(),
        }
    }

    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// What uplinks are called, as a regular expression.
    pub fn uplink_pattern(&self) -> &str {
        self.naming.uplinks()
    }

    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Policy rules of both families.
    pub fn rules(&self) -> &[PolicyRule] {
        &self.rules
    }

    pub fn neighbour(&self, ifindex: u32, address: IpAddr) -> Option<&Neighbour> {
        self.neighbours.get(&(ifindex, address))
    }

    /// Reads everything and notes what differs from before.
    pub(crate) fn resynchronise(&mut self, requests: &mut Requests, changes: &mut Changes) -> io::Result<()> {
        let mut snapshot = Snapshot::read(requests, &self.naming, self.protocol)?;
        for (key, neighbour) in &mut snapshot.neighbours {
            *neighbour = neighbour.after(self.neighbours.get(key));
        }
        changes.overrun = false;
        changes.reread_routes = false;
        changes.reread_rules = false;
        changes.rules |= snapshot.rules != self.rules;
        changes.own_in_doubt = true;
        for (ifindex, link) in &self.links {
            match snapshot.links.get(ifindex) {
                None => {
                    changes.links.remove(ifindex);
                    changes.gone.insert(*ifindex, link.name.clone());
                }
                Some(now) if now != link => {
                    changes.links.insert(*ifindex);
                }
                Some(_) => {}
            }
        }
        changes.links.extend(snapshot.links.keys().filter(|ifindex| !self.links.contains_key(ifindex)));
        changes.routes.extend(self.routes.differences(&snapshot.routes));
        let differs = |key: &(u32, IpAddr)| self.neighbours.get(key) != snapshot.neighbours.get(key);
        let keys = self.neighbours.keys().chain(snapshot.neighbours.keys());
        changes.neighbours.extend(keys.copied().filter(differs));
        Snapshot { links: self.links, routes: self.routes, neighbours: self.neighbours, rules: self.rules } =
            snapshot;
        Ok(())
    }

    /// Reads the foreign routes and notes what differs from before.
    pub(crate) fn reread_routes(&mut self, requests: &mut Requests, changes: &mut Changes) -> io::Result<()> {
        let routes = Snapshot::read_routes(requests, self.protocol)?;
        changes.reread_routes = false;
        changes.routes.extend(self.routes.differences(&routes));
        self.routes = routes;
        Ok(())
    }

    /// Reads the policy rules: there are few, and they change rarely.
    pub(crate) fn reread_rules(&mut self, requests: &mut Requests, changes: &mut Changes) -> io::Result<()> {
        let rules = Snapshot::read_rules(requests)?;
        changes.reread_rules = false;
        changes.rules |= rules != self.rules;
        self.rules = rules;
        Ok(())
    }

    /// Takes in one event. `own_ports` are the sockets through which we write routes ourselves.
    pub(crate) fn apply(
        &mut self,
        header: &NetlinkHeader,
        message: RouteNetlinkMessage,
        own_ports: &[u32],
        changes: &mut Changes,
    ) {
        match message {
            RouteNetlinkMessage::NewLink(message) => {
                if let Some(link) = parse::link(message, &self.naming) {
                    self.link_changed(link, changes);
                }
            }
            RouteNetlinkMessage::DelLink(message) => {
                if let Some(link) = parse::link(message, &self.naming) {
                    self.link_gone(link.ifindex, changes);
                }
            }
            // Routes with a deleted address as their preferred source go without a word (`fib_sync_down_addr`).
            RouteNetlinkMessage::DelAddress(message) if message.header.family == AddressFamily::Inet => {
                changes.reread_routes = true;
                changes.own_in_doubt = true;
            }
            RouteNetlinkMessage::NewRoute(message) => {
                let Some(route) = parse::route(message) else { return };
                let port = header.port_number;
                let replaces = header.flags & NLM_F_REPLACE != 0;
                if route.protocol == self.protocol {
                    if !own_ports.contains(&port) {
                        let by = changes.author(port);
                        changes.own.push(OwnEvent::Added { route: route.clone(), by });
                    }
                    if replaces && self.routes.holder(&route.key).is_some() {
                        changes.reread_routes = true;
                    }
                    return;
                }
                let (key, prefix) = (route.key, route.key.prefix);
                let appended = header.flags & NLM_F_APPEND != 0;
                if replaces {
                    let by = changes.author(port);
                    changes.own.push(OwnEvent::Overwritten { key, by });
                }
                note(self.routes.added(route, replaces, appended), prefix, changes);
            }
            RouteNetlinkMessage::DelRoute(message) => {
                let Some(route) = parse::route(message) else { return };
                let port = header.port_number;
                if route.protocol == self.protocol {
                    if !own_ports.contains(&port) {
                        let by = changes.author(port);
                        changes.own.push(OwnEvent::Deleted { route, by });
                    }
                    return;
                }
                note(self.routes.deleted(&route), route.key.prefix, changes);
            }
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => changes.reread_rules = true,
            RouteNetlinkMessage::NewNeighbour(message) => {
                if let Some((key, neighbour)) = parse::neighbour(message) {
                    let neighbour = neighbour.after(self.neighbours.get(&key));
                    if self.neighbours.insert(key, neighbour) != Some(neighbour) {
                        changes.neighbours.insert(key);
                    }
                }
            }
            RouteNetlinkMessage::DelNeighbour(message) => {
                if let Some((key, _)) = parse::neighbour(message)
                    && self.neighbours.remove(&key).is_some()
                {
                    changes.neighbours.insert(key);
                }
            }
            _ => {}
        }
    }

    fn link_changed(&mut self, link: Link, changes: &mut Changes) {
        let ifindex = link.ifindex;
        let before = self.links.get(&ifindex);
        if before == Some(&link) {
            return;
        }
        let lost = before.is_some_and(|before| before.admin_up) && !link.admin_up;
        changes.links.insert(ifindex);
        changes.gone.remove(&ifindex);
        let role = link.role;
        self.links.insert(ifindex, link);
        if lost {
            self.routes_lost(ifindex, role, changes);
        }
    }

    fn link_gone(&mut self, ifindex: u32, changes: &mut Changes) {
        let Some(link) = self.links.remove(&ifindex) else { return };
        changes.links.remove(&ifindex);
        changes.gone.insert(ifindex, link.name);
        let neighbours = self.neighbours.keys().filter(|(on, _)| *on == ifindex);
        changes.neighbours.extend(neighbours.copied());
        self.neighbours.retain(|(on, _), _| *on != ifindex);
        self.routes_lost(ifindex, link.role, changes);
    }

    /// Pods come and go all the time and carry their own host routes only; any other link may have carried
    /// anything, legs of multipath routes and routes of ours included.
    fn routes_lost(&mut self, ifindex: u32, role: Role, changes: &mut Changes) {
        changes.routes.extend(self.routes.interface_lost(ifindex));
        if role != Role::Pod {
            changes.reread_routes = true;
            changes.own_in_doubt = true;
        }
    }
}

fn note(outcome: Outcome, prefix: Prefix, changes: &mut Changes) {
    match outcome {
        Outcome::Unchanged => {}
        Outcome::Changed => {
            changes.routes.insert(prefix);
        }
        Outcome::Ambiguous => changes.reread_routes = true,
    }
}
