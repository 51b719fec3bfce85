//! Answers about the eBPF maps and their counters. The maps are read beside the daemon's loop, in a thread of their own.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::IpAddr,
    num::NonZeroUsize,
    time::{Duration, Instant, SystemTime},
};

use manx_api::{self as api, MapAction};
use manx_dataplane::{
    ebpf::{CountedRoutes, Reader, Tally},
    route::{Action, BlackholeKind, Mac, NextHop, Route},
};
use manx_net::Prefix;
use tokio::sync::{mpsc, oneshot};

use crate::{
    api::Question,
    clock::stamp,
    gather::{Piece, Stopping, ask},
};

/// What the loop is asked.
#[derive(Debug)]
pub enum Request {
    Maps(oneshot::Sender<Result<Maps, String>>),
    Counters(oneshot::Sender<Result<api::Counters, String>>),
}

/// From where the maps are read, and the names of what is in them.
#[derive(Debug)]
pub struct Maps {
    pub node: String,
    pub reader: Reader,
    pub interfaces: BTreeMap<u32, String>,
    /// Next hops that do not answer, and since when.
    pub silent: BTreeMap<NextHop, SystemTime>,
    /// By prefix.
    pub pools: Vec<(Prefix, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Stopping(#[from] Stopping),
    /// There are no maps, or they cannot be read.
    #[error("{0}")]
    Maps(String),
}

/// Which entries are wanted; what is `None` is not looked at.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// With what is inside it.
    pub within: Option<Prefix>,
    /// What covers this address.
    pub covering: Option<IpAddr>,
    pub next_hop: Option<IpAddr>,
    pub action: Option<MapAction>,
    pub after: Option<Prefix>,
}

impl Filter {
    fn takes(&self, route: &Route) -> bool {
        let next_hop = |wanted: IpAddr| match &route.action {
            Action::Via(hops) => hops.iter().any(|hop| hop.gateway == wanted),
            _ => false,
        };
        self.after.is_none_or(|after| route.prefix > after)
            && self.within.is_none_or(|within| within.covers(route.prefix))
            && self.covering.is_none_or(|address| route.prefix.covers(Prefix::host(address)))
            && self.next_hop.is_none_or(next_hop)
            && self.action.is_none_or(|wanted| wanted == action(&route.action))
    }
}

pub async fn routes(
    questions: &mpsc::Sender<Question>,
    filter: Filter,
    limit: NonZeroUsize,
) -> Result<api::MapRoutes, Failure> {
    let maps = maps(questions).await?;
    read(maps, move |maps| {
        let counted = counted(maps)?;
        let mut found = counted.routes.iter().filter(|(route, _)| filter.takes(route));
        let routes: Vec<_> =
            found.by_ref().take(limit.get()).map(|(route, tally)| maps.entry(route, *tally)).collect();
        let next = routes.last().map(|row: &api::MapEntry| row.prefix).filter(|_| found.next().is_some());
        Ok(api::MapRoutes { node: maps.node.clone(), next, routes })
    })
    .await
    .map(|(answer, _)| answer)
}

pub async fn by_prefix(questions: &mpsc::Sender<Question>) -> Result<api::Tallies, Failure> {
    let maps = maps(questions).await?;
    let (tallies, maps) = read(maps, prefix_tallies).await?;
    Ok(sorted(maps.node, tallies))
}

pub async fn by_next_hop(questions: &mpsc::Sender<Question>) -> Result<api::Tallies, Failure> {
    let maps = maps(questions).await?;
    let (tallies, maps) = read(maps, next_hop_tallies).await?;
    let silent = maps.silent.iter().map(|(hop, since)| (maps.next_hop(hop), stamp(*since)));
    let mut silent: BTreeMap<String, String> = silent.collect();
    let mut found = sorted(maps.node.clone(), tallies);
    for row in &mut found.rows {
        row.silent_since = silent.remove(&row.name);
    }
    found.rows.extend(silent.into_iter().map(|(name, since)| api::NamedTally {
        name,
        counts: told(Tally::default()),
        silent_since: Some(since),
    }));
    Ok(found)
}

fn sorted(node: String, tallies: HashMap<String, Tally>) -> api::Tallies {
    let busy = tallies.into_iter().filter(|(_, tally)| tally.packets > 0);
    let row = |(name, tally)| api::NamedTally { name, counts: told(tally), silent_since: None };
    let mut rows: Vec<_> = busy.map(row).collect();
    rows.sort_by(|a, b| b.counts.packets.cmp(&a.counts.packets).then_with(|| a.name.cmp(&b.name)));
    api::Tallies { node, rows }
}

/// Everything that counts packets, at one time.
#[derive(Debug)]
struct Sample {
    at: Instant,
    counters: api::Counters,
    prefixes: HashMap<String, Tally>,
    next_hops: HashMap<String, Tally>,
}

pub async fn top(
    questions: mpsc::Sender<Question>,
    interval: Duration,
    limit: usize,
) -> Result<api::Top, Failure> {
    let (before, maps) = sample(&questions, maps(&questions).await?).await?;
    tokio::time::sleep(interval.saturating_sub(before.at.elapsed())).await;
    let (after, maps) = sample(&questions, maps).await?;
    let seconds = after.at.duration_since(before.at).as_secs_f64().max(0.001);
    let tallies = |before: &HashMap<String, Tally>, after: HashMap<String, Tally>| {
        let of = after.into_iter().map(|(name, tally)| {
            let old = before.get(&name).copied().unwrap_or_default();
            // A prefix that lost its counter and got another counts from zero.
            let packets = tally.packets.saturating_sub(old.packets);
            (name, packets, Some(tally.bytes.saturating_sub(old.bytes)))
        });
        rates(of, seconds, limit)
    };
    let verdicts = |counters: &api::Counters| -> HashMap<String, u64> {
        let rows = counters.rows.iter().flat_map(|row| {
            row.verdicts.iter().map(move |v| (format!("{} {}", row.program, v.verdict), v.packets))
        });
        rows.collect()
    };
    let interfaces = |counters: &api::Counters| -> HashMap<String, u64> {
        let mut sums: HashMap<String, u64> = HashMap::new();
        for row in &counters.interfaces {
            *sums.entry(row.interface.clone()).or_default() +=
                row.verdicts.iter().map(|v| v.packets).sum::<u64>();
        }
        sums
    };
    let packets = |before: HashMap<String, u64>, after: HashMap<String, u64>| {
        let of = after.into_iter().map(|(name, packets)| {
            let old = before.get(&name).copied().unwrap_or_default();
            (name, packets.saturating_sub(old), None)
        });
        rates(of, seconds, limit)
    };
    Ok(api::Top {
        node: maps.node,
        at: stamp(SystemTime::now()),
        interval_ms: (seconds * 1000.0) as u64,
        reasons: packets(verdicts(&before.counters), verdicts(&after.counters)),
        interfaces: packets(interfaces(&before.counters), interfaces(&after.counters)),
        prefixes: tallies(&before.prefixes, after.prefixes),
        next_hops: tallies(&before.next_hops, after.next_hops),
    })
}

async fn sample(questions: &mpsc::Sender<Question>, maps: Maps) -> Result<(Sample, Maps), Failure> {
    let ((prefixes, next_hops), maps) =
        read(maps, |maps| Ok((prefix_tallies(maps)?, next_hop_tallies(maps)?))).await?;
    let counters = ask(questions, |answer| Piece::Traffic(Request::Counters(answer))).await?;
    let counters = counters.map_err(Failure::Maps)?;
    Ok((Sample { at: Instant::now(), counters, prefixes, next_hops }, maps))
}

/// The busiest first, and none that are idle.
fn rates(
    counted: impl Iterator<Item = (String, u64, Option<u64>)>,
    seconds: f64,
    limit: usize,
) -> Vec<api::Rate> {
    let busy = counted.filter(|(_, packets, _)| *packets > 0);
    let mut rates: Vec<_> = busy
        .map(|(name, packets, bytes)| api::Rate {
            name,
            packets_per_second: packets as f64 / seconds,
            bits_per_second: bytes.map(|bytes| bytes as f64 * 8.0 / seconds),
        })
        .collect();
    let by_rate = |a: &api::Rate, b: &api::Rate| {
        let order = b.packets_per_second.partial_cmp(&a.packets_per_second);
        order.unwrap_or(Ordering::Equal).then_with(|| a.name.cmp(&b.name))
    };
    rates.sort_by(by_rate);
    rates.truncate(limit);
    rates
}

pub async fn maps(questions: &mpsc::Sender<Question>) -> Result<Maps, Failure> {
    let maps = ask(questions, |answer| Piece::Traffic(Request::Maps(answer))).await?;
    maps.map_err(Failure::Maps)
}

/// Reads in a thread where it may take its time.
async fn read<T: Send + 'static>(
    maps: Maps,
    make: impl FnOnce(&Maps) -> Result<T, String> + Send + 'static,
) -> Result<(T, Maps), Failure> {
    let made = tokio::task::spawn_blocking(move || (make(&maps), maps)).await;
    let (made, maps) = made.map_err(|_| Stopping)?;
    Ok((made.map_err(Failure::Maps)?, maps))
}

fn counted(maps: &Maps) -> Result<CountedRoutes, String> {
    maps.reader.counted().map_err(|error| error.to_string())
}

fn prefix_tallies(maps: &Maps) -> Result<HashMap<String, Tally>, String> {
    let counted = counted(maps)?;
    let busy = counted.routes.into_iter().filter_map(|(route, tally)| Some((route.prefix, tally?)));
    let busy = busy.filter(|(_, tally)| tally.packets > 0);
    let mut tallies: HashMap<String, Tally> =
        busy.map(|(prefix, tally)| (prefix.to_string(), tally)).collect();
    tallies.insert(String::from("others"), counted.others);
    Ok(tallies)
}

fn next_hop_tallies(maps: &Maps) -> Result<HashMap<String, Tally>, String> {
    let counts = maps.reader.next_hop_counts().map_err(|error| error.to_string())?;
    Ok(summed(counts.into_iter().map(|(hop, tally)| (maps.next_hop(&hop), tally))))
}

fn summed<K: Eq + Hash>(tallies: impl Iterator<Item = (K, Tally)>) -> HashMap<K, Tally> {
    let mut sums: HashMap<K, Tally> = HashMap::new();
    for (key, tally) in tallies {
        let sum = sums.entry(key).or_default();
        sum.packets += tally.packets;
        sum.bytes += tally.bytes;
    }
    sums
}

impl Maps {
    fn interface(&self, ifindex: u32) -> String {
        self.interfaces.get(&ifindex).cloned().unwrap_or_else(|| format!("if{ifindex}"))
    }

    fn next_hop(&self, hop: &NextHop) -> String {
        format!("{} dev {}", hop.gateway, self.interface(hop.ifindex))
    }

    fn entry(&self, route: &Route, tally: Option<Tally>) -> api::MapEntry {
        let covering = self.pools.iter().filter(|(pool, _)| pool.covers(route.prefix));
        let pool = covering.max_by_key(|(pool, _)| pool.len()).map(|(_, name)| name.clone());
        let hops: &[NextHop] = match &route.action {
            Action::Via(hops) => hops,
            _ => &[],
        };
        let (interface, mac) = match &route.action {
            Action::Local { ifindex, mac } => (Some(self.interface(*ifindex)), mac.map(mac_text)),
            _ => (None, None),
        };
        let hop =
            |hop: &NextHop| api::MapNextHop { address: hop.gateway, interface: self.interface(hop.ifindex) };
        api::MapEntry {
            prefix: route.prefix,
            action: action(&route.action),
            next_hops: hops.iter().map(hop).collect(),
            interface,
            mac,
            pool,
            counts: tally.map(told),
        }
    }
}

fn told(tally: Tally) -> api::Tally {
    api::Tally { packets: tally.packets, bytes: tally.bytes }
}

fn action(action: &Action) -> MapAction {
    match action {
        Action::Via(_) => MapAction::Via,
        Action::Local { .. } => MapAction::Local,
        Action::Blackhole(BlackholeKind::Own) => MapAction::Blackhole,
        Action::Blackhole(BlackholeKind::Explicit) => MapAction::BlackholeExplicit,
        Action::Unreachable => MapAction::Unreachable,
        Action::Pass => MapAction::Pass,
    }
}

fn mac_text(Mac(mac): Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, action: Action) -> Route {
        Route { prefix: prefix.parse().unwrap(), action }
    }

    #[test]
    fn a_filter_takes_what_is_inside_a_prefix_what_covers_an_address_and_what_leads_to_a_next_hop() {
        let hop = NextHop { gateway: [192, 168, 80, 125].into(), ifindex: 2 };
        let block = route("172.16.118.64/26", Action::Via(vec![hop]));
        let takes = |filter: Filter| filter.takes(&block);
        assert!(takes(Filter::default()));
        assert!(takes(Filter { within: "172.16.0.0/16".parse().ok(), ..Filter::default() }));
        assert!(!takes(Filter { within: "172.16.118.64/27".parse().ok(), ..Filter::default() }));
        assert!(takes(Filter { covering: "172.16.118.70".parse().ok(), ..Filter::default() }));
        assert!(!takes(Filter { covering: "172.16.118.128".parse().ok(), ..Filter::default() }));
        assert!(takes(Filter { next_hop: "192.168.80.125".parse().ok(), ..Filter::default() }));
        assert!(!takes(Filter { next_hop: "192.168.80.126".parse().ok(), ..Filter::default() }));
        assert!(!takes(Filter { action: Some(MapAction::Pass), ..Filter::default() }));
        assert!(!takes(Filter { after: Some(block.prefix), ..Filter::default() }));
    }

    #[test]
    fn rates_are_sorted_cut_and_without_the_idle() {
        let counted = [("a", 10, Some(1000)), ("b", 0, Some(0)), ("c", 30, None), ("d", 20, None)];
        let counted = counted.into_iter().map(|(name, packets, bytes)| (name.into(), packets, bytes));
        let rates = rates(counted, 2.0, 2);
        let told: Vec<_> = rates.iter().map(|rate| (rate.name.as_str(), rate.packets_per_second)).collect();
        assert_eq!(told, [("c", 15.0), ("d", 10.0)]);
    }
}
