//! What the generator does in each scenario. It says `ready` on its standard output before the clock starts, waits
//! for a line on its standard input (the daemon is weighed in between), and answers with one line of JSON. Then it
//! stays, with its sessions up, until its standard input ends: what a daemon does when its peers go is not measured.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::UsageWho;
use serde::{Deserialize, Serialize};

use crate::{
    measure::usage,
    player::Player,
    scenario::{ASN, DAEMON, LAST, Play, blocks, client, routes},
    session::Session,
    table::{Range, Table},
    wire::{self, Attributes},
};

/// For sessions to come up where that is not what is measured.
const SETUP: Duration = Duration::from_secs(60);
/// So few that a listen queue of eight is no matter.
const GENTLY: usize = 4;
/// Between two flaps, so that each meets a daemon at rest.
const REST: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Seconds from start to the last receiver's last prefix; for flaps, the median of a withdrawal.
    pub wall: f64,
    /// Seconds until the kernel had taken the last byte that the generator sends; 0 where many send.
    pub sent: f64,
    /// UPDATEs at the receiver that got the fewest, and the most.
    pub updates: (u64, u64),
    /// CPU seconds of the generator itself.
    pub generator_cpu: f64,
    /// Connections that had to be made again.
    pub lost: u64,
    /// Milliseconds of each flap: withdrawal, announcement.
    pub flaps: Vec<(f64, f64)>,
}

pub fn play(play: Play, limit: Duration) -> Result<()> {
    match play {
        Play::Load { routes: count, sets, receivers } => {
            let range = routes(count);
            let feed = load(range, sets, false);
            let tables = (0..receivers).map(|_| Table::new(range, None)).collect();
            one_sender(feed, tables, limit)
        }
        Play::IntoRib { routes: count, sets } => {
            let mut feed = load(routes(count), sets, true);
            wire::announce(&mut feed, &set(0, 1, false), std::iter::once(LAST.prefix(0)));
            one_sender(feed, vec![Table::new(LAST, None)], limit)
        }
        Play::Storm { clients, sessions_first } => storm(clients, sessions_first, limit),
        Play::Flap { clients, times } => flap(clients, times, limit),
    }
}

/// Tells the harness the outcome, and holds the sessions until it has what it wants of the daemon.
fn finish(player: Player, outcome: &Outcome) -> Result<()> {
    println!("{}", serde_json::to_string(outcome)?);
    std::io::stdout().flush()?;
    std::io::stdin().read_line(&mut String::new())?;
    drop(player);
    Ok(())
}

/// The attributes of set `number` of `sets`. A lone set has an empty path, as inside a cluster; of many, each has a
/// path of its own.
fn set(number: u32, sets: u32, no_advertise: bool) -> Attributes {
    let as_path = if sets == 1 { Vec::new() } else { vec![64600, 65001, 100_000 + number] };
    Attributes { next_hop: client(0), as_path, no_advertise }
}

/// UPDATEs for all of `range`: route n has attribute set n modulo `sets`, so the routes of a set are not neighbours.
fn load(range: Range, sets: u32, no_advertise: bool) -> Vec<u8> {
    let mut feed = Vec::new();
    for number in 0..sets {
        let step = usize::try_from(sets).expect("a u32 fits a usize");
        let prefixes = (number..range.count).step_by(step).map(|n| range.prefix(n));
        wire::announce(&mut feed, &set(number, sets, no_advertise), prefixes);
    }
    feed
}

fn one_sender(feed: Vec<u8>, tables: Vec<Table>, limit: Duration) -> Result<()> {
    let feed: Arc<[u8]> = feed.into();
    let tables = std::iter::once(Table::indifferent()).chain(tables);
    let sessions =
        tables.enumerate().map(|(number, table)| Session::new(client(number), ASN, table)).collect();
    let mut player = Player::new(DAEMON, sessions)?;
    come_up(&mut player)?;
    let clock = start(&mut player)?;
    player.send(0, feed)?;
    let mut sent = None;
    let reached = player.until(clock.begun + limit, |player| {
        if sent.is_none() && player.sessions.first().is_some_and(|sender| !sender.is_sending()) {
            sent = Some(Instant::now());
        }
        player.is_complete()
    })?;
    let mut outcome = clock.stop(&player, reached, 1)?;
    outcome.sent = sent.map_or(0.0, |at| (at - clock.begun).as_secs_f64());
    finish(player, &outcome)
}

fn with_blocks(clients: usize) -> Result<(Player, Vec<Arc<[u8]>>)> {
    let range = blocks(clients);
    let mut sessions = Vec::new();
    let mut greetings: Vec<Arc<[u8]>> = Vec::new();
    for number in 0..clients {
        let block = u32::try_from(number)?;
        sessions.push(Session::new(client(number), ASN, Table::new(range, Some(block))));
        let attributes = Attributes { next_hop: client(number), as_path: Vec::new(), no_advertise: false };
        let mut greeting = Vec::new();
        wire::announce(&mut greeting, &attributes, std::iter::once(range.prefix(block)));
        greetings.push(greeting.into());
    }
    Ok((Player::new(DAEMON, sessions)?, greetings))
}

fn storm(clients: usize, sessions_first: bool, limit: Duration) -> Result<()> {
    let (mut player, greetings) = with_blocks(clients)?;
    let clock = if sessions_first {
        come_up(&mut player)?;
        let clock = start(&mut player)?;
        for (number, greeting) in greetings.into_iter().enumerate() {
            player.send(number, greeting)?;
        }
        clock
    } else {
        for (session, greeting) in player.sessions.iter_mut().zip(greetings) {
            session.greeting = Some(greeting);
        }
        let clock = start(&mut player)?;
        player.steady = false;
        player.dial(usize::MAX);
        clock
    };
    let reached = player.until(clock.begun + limit, Player::is_complete)?;
    let outcome = clock.stop(&player, reached, 0)?;
    finish(player, &outcome)
}

fn flap(clients: usize, times: usize, limit: Duration) -> Result<()> {
    let (mut player, greetings) = with_blocks(clients)?;
    come_up(&mut player)?;
    let first = greetings.first().map(Arc::clone).context("no clients")?;
    for (number, greeting) in greetings.into_iter().enumerate() {
        player.send(number, greeting)?;
    }
    let complete = player.until(Instant::now() + SETUP, Player::is_complete)?;
    ensure!(complete.is_some(), "the blocks did not reach all clients: {}", player.progress());
    player.until(Instant::now() + REST, |_| false)?;

    let mut away = Vec::new();
    wire::withdraw(&mut away, std::iter::once(blocks(clients).prefix(0)));
    let away: Arc<[u8]> = away.into();
    let clock = start(&mut player)?;
    let limit = clock.begun + limit;
    let mut flaps = Vec::new();
    for _ in 0..times {
        let mut times = [0.0; 2];
        for (time, (bytes, present)) in times.iter_mut().zip([(&away, false), (&first, true)]) {
            let begun = Instant::now();
            player.send(0, Arc::clone(bytes))?;
            let mut unsure = (1..clients).collect::<Vec<_>>();
            let known = player.until(limit, |player| {
                // Those who know are not asked again: each event costs the generator what is left.
                while unsure.last().is_some_and(|n| player.sessions[*n].table.has(0) == present) {
                    unsure.pop();
                }
                unsure.is_empty()
            })?;
            let known = known.with_context(|| format!("a flap did not reach all: {}", player.progress()))?;
            *time = (known - begun).as_secs_f64() * 1e3;
            player.until(Instant::now() + REST, |_| false)?;
        }
        flaps.push((times[0], times[1]));
    }
    let mut outcome = clock.stop(&player, Some(Instant::now()), 1)?;
    outcome.flaps = flaps;
    finish(player, &outcome)
}

fn come_up(player: &mut Player) -> Result<()> {
    player.dial(GENTLY);
    let ready = player.until(Instant::now() + SETUP, Player::is_ready)?;
    ensure!(ready.is_some(), "sessions did not come up: {}", player.progress());
    Ok(())
}

struct Clock {
    begun: Instant,
    cpu: f64,
    lost: u64,
}

/// Tells the harness, waits for its word, and starts the clock.
fn start(player: &mut Player) -> Result<Clock> {
    println!("ready");
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    ensure!(line.trim() == "go", "the harness has gone");
    for session in &mut player.sessions {
        session.updates = 0;
    }
    player.steady = true;
    Ok(Clock { cpu: own_cpu()?, lost: player.lost, begun: Instant::now() })
}

impl Clock {
    /// The outcome; sessions before `first` are no receivers.
    fn stop(&self, player: &Player, reached: Option<Instant>, first: usize) -> Result<Outcome> {
        let reached = reached.with_context(|| format!("not complete in time: {}", player.progress()))?;
        let updates = || player.sessions.iter().skip(first).map(|session| session.updates);
        Ok(Outcome {
            wall: (reached - self.begun).as_secs_f64(),
            sent: 0.0,
            updates: (updates().min().unwrap_or(0), updates().max().unwrap_or(0)),
            generator_cpu: own_cpu()? - self.cpu,
            lost: player.lost - self.lost,
            flaps: Vec::new(),
        })
    }
}

fn own_cpu() -> Result<f64> {
    usage(UsageWho::RUSAGE_SELF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Change, HEADER};

    #[test]
    fn a_load_holds_every_route_once_in_as_few_updates_as_its_sets_allow() {
        let range = routes(10_000);
        for (sets, fewest) in [(1, 11), (2000, 2000)] {
            let feed = load(range, sets, true);
            let mut table = Table::new(range, None);
            let (mut rest, mut messages, mut prefixes) = (&feed[..], 0, 0);
            while let Some(head) = rest.first_chunk() {
                let (_, length) = wire::header(head).unwrap();
                wire::update(&rest[HEADER..length], |change| {
                    assert!(matches!(change, Change::Announced(..)));
                    prefixes += 1;
                    table.take(change);
                })
                .unwrap();
                (rest, messages) = (&rest[length..], messages + 1);
            }
            assert!(table.is_complete());
            assert_eq!(prefixes, 10_000);
            assert!(messages <= fewest, "{messages} UPDATEs for {sets} sets");
        }
    }
}
