//! A node that leaves: it asks everybody to go another way (GRACEFUL_SHUTDOWN, LOCAL_PREF 0; RFC 8326), withdraws its routes when
//! no packets come for its pods any more, and then closes its sessions with a reason. It stays so over a restart, until
//! somebody says otherwise.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use manx_api::{self as api, DrainStage};
use manx_bgp::{Config, Event as SpeakerEvent, PeerKey};
use serde::{Deserialize, Serialize};

use super::{Daemon, answers};
use crate::{
    api::{Answer, DrainOrder},
    state_file,
};

const FILE: &str = "drain.json";
const VERSION: u32 = 1;
/// How often the counters are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Looks without packets, until there is no traffic any more.
const QUIET: usize = 5;
/// Packets a second that are none: what is left of a connection, a probe.
const NONE: f64 = 1.0;
/// After the withdrawal, so that the peers have read it before the sessions end.
const READ: Duration = Duration::from_secs(2);
/// Verdicts of packets that are for no pod.
const ASIDE: [&str; 4] = ["scope", "not_ip", "not_for_us", "outside_pools"];

#[derive(Debug)]
pub struct Drains {
    path: PathBuf,
    drain: Option<Kept>,
    /// Do not wait for the traffic.
    at_once: bool,
    samples: VecDeque<(Instant, u64)>,
    next: Option<Instant>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    version: u32,
    stage: DrainStage,
    since: String,
    text: String,
}

impl Drains {
    pub fn open(state_dir: &Path) -> Drains {
        let path = state_dir.join(FILE);
        let drain = match fs::read(&path).map(|text| serde_json::from_slice::<Kept>(&text)) {
            Ok(Ok(kept)) if kept.version == VERSION => Some(kept),
            Ok(Ok(Kept { version, .. })) => {
                tracing::error!("{} is of version {version}: this node is not drained", path.display());
                None
            }
            Ok(Err(error)) => {
                tracing::error!("{} cannot be read: {error}; this node is not drained", path.display());
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::error!("{}: {error}; this node is not drained", path.display());
                None
            }
        };
        let next = drain.as_ref().map(|_| Instant::now());
        Drains { path, drain, at_once: false, samples: VecDeque::new(), next }
    }

    pub fn next_look(&self) -> Option<Instant> {
        self.next
    }

    /// Of a node that has withdrawn its routes nothing is announced.
    pub fn keep_silent(&self, config: &mut Config) {
        if self.stage().is_some_and(|stage| stage >= DrainStage::Withdrawn) {
            config.originated.clear();
            config.hosts.clear();
            config.services.clear();
        }
    }

    fn stage(&self) -> Option<DrainStage> {
        self.drain.as_ref().map(|drain| drain.stage)
    }

    /// Packets a second over the last looks.
    fn rate(&self) -> Option<f64> {
        let ((from, before), (to, after)) = (self.samples.front()?, self.samples.back()?);
        let time = to.duration_since(*from).as_secs_f64();
        (time > 0.0).then(|| after.saturating_sub(*before) as f64 / time)
    }

    fn is_quiet(&self) -> bool {
        self.samples.len() > QUIET && self.rate().is_some_and(|rate| rate < NONE)
    }

    fn save(&self) -> io::Result<()> {
        match &self.drain {
            Some(drain) => state_file::replace(&self.path, &serde_json::to_vec_pretty(drain)?),
            None => state_file::remove(&self.path).map(drop),
        }
    }
}

/// Removes what is kept. True if there was something.
pub fn cleanup(state_dir: &Path) -> io::Result<bool> {
    state_file::remove(&state_dir.join(FILE))
}

impl Daemon {
    pub(super) fn drain(&mut self, order: DrainOrder) -> Answer {
        match order {
            DrainOrder::Tell => {}
            DrainOrder::Drain { text, at_once } => {
                if let Some(drain) = &mut self.drains.drain {
                    drain.text = text;
                } else {
                    let since = crate::clock::stamp(std::time::SystemTime::now());
                    let stage = DrainStage::Leaving;
                    self.drains.drain = Some(Kept { version: VERSION, stage, since, text });
                    self.drains.samples.clear();
                    self.say_drain(
                        "this node is drained: everybody is asked to go another way (GRACEFUL_SHUTDOWN)",
                    );
                }
                self.drains.at_once = at_once;
                self.drains.next = Some(Instant::now());
                self.keep_drain();
                self.open_sessions();
            }
            DrainOrder::Undrain => {
                if self.drains.drain.take().is_some() {
                    self.drains.next = None;
                    self.say_drain(
                        "this node is drained no longer: its sessions are opened, and its routes announced",
                    );
                    self.keep_drain();
                    self.enable_all();
                    self.open_sessions();
                }
            }
        }
        answers::json(&api::DrainStatus { node: self.node.clone(), drain: self.drain_status() })
    }

    fn drain_status(&self) -> Option<api::Drain> {
        let Kept { stage, since, text, .. } = self.drains.drain.clone()?;
        Some(api::Drain { stage, since, text, packets: self.drains.rate() })
    }

    /// For the status.
    pub(super) fn drain_warning(&self) -> Option<String> {
        let drain = self.drain_status()?;
        let reason = if drain.text.is_empty() { String::new() } else { format!(" ({})", drain.text) };
        let how_far = match (drain.stage, drain.packets) {
            (DrainStage::Leaving, Some(packets)) => format!(
                "everybody is asked to go another way, and {packets:.0} packets a second still come for its pods"
            ),
            (DrainStage::Leaving, None) => "everybody is asked to go another way".to_owned(),
            (DrainStage::Withdrawn, _) => "its routes are withdrawn".to_owned(),
            (DrainStage::Closed, _) => "its routes are withdrawn and its sessions closed".to_owned(),
        };
        Some(format!("drained since {}{reason}: {how_far}; manxctl node undrain ends it", drain.since))
    }

    /// What is left of what the plan says.
    pub(super) fn drained(&self, config: &mut Config) {
        let Some(stage) = self.drains.stage() else { return };
        config.graceful_shutdown = true;
        self.drains.keep_silent(config);
        if stage == DrainStage::Closed {
            config.dynamic_peers.clear();
        }
    }

    /// Peers that have come since are none to talk to either.
    pub(super) fn close_if_drained(&mut self) {
        let Some(Kept { stage: DrainStage::Closed, text, .. }) = &self.drains.drain else { return };
        let text = text.clone();
        let now = self.clock.now();
        let Some(speaker) = &mut self.speaker else { return };
        for peer in speaker.peers() {
            let key = PeerKey { address: peer.address, port: peer.port };
            speaker.handle(SpeakerEvent::Disable { peer: key, text: text.clone() }, now);
        }
    }

    fn enable_all(&mut self) {
        let now = self.clock.now();
        let Some(speaker) = &mut self.speaker else { return };
        for peer in speaker.peers() {
            speaker.handle(
                SpeakerEvent::Enable { peer: PeerKey { address: peer.address, port: peer.port } },
                now,
            );
        }
    }

    /// How much traffic is left, and whether the next stage has come.
    pub(super) fn go_on_draining(&mut self, now: Instant) {
        let Some(at) = self.drains.next.filter(|at| *at <= now) else { return };
        let Some(stage) = self.drains.stage() else { return };
        self.drains.next = Some(at.max(now) + LOOK);
        match stage {
            DrainStage::Leaving => {
                if let Some(packets) = self.packets_for_pods() {
                    self.drains.samples.push_back((now, packets));
                    if self.drains.samples.len() > QUIET + 1 {
                        self.drains.samples.pop_front();
                    }
                }
                // A daemon that has just started does not know yet.
                if self.settled && (self.drains.at_once || self.drains.is_quiet()) {
                    self.next_stage(
                        DrainStage::Withdrawn,
                        "no packets come any more: its routes are withdrawn",
                    );
                    self.drains.next = Some(now + READ);
                }
            }
            DrainStage::Withdrawn => {
                self.next_stage(DrainStage::Closed, "its sessions are closed");
                self.drains.next = None;
            }
            DrainStage::Closed => self.drains.next = None,
        }
    }

    fn next_stage(&mut self, stage: DrainStage, said: &str) {
        if let Some(drain) = &mut self.drains.drain {
            drain.stage = stage;
        }
        self.say_drain(&format!("this node is drained: {said}"));
        self.keep_drain();
        self.open_sessions();
    }

    fn say_drain(&mut self, said: &str) {
        tracing::warn!("{said}");
        self.history.daemon(said.to_owned());
    }

    fn keep_drain(&self) {
        if let Err(error) = self.drains.save() {
            tracing::error!(
                "{}: {error}; after a restart this node is {}",
                self.drains.path.display(),
                if self.drains.drain.is_some() { "not drained any more" } else { "drained again" }
            );
        }
    }

    /// All that came by uplinks and was for pods, since the programs count.
    fn packets_for_pods(&self) -> Option<u64> {
        let counters = self.counters().ok()?;
        let uplinks = counters.rows.iter().filter(|row| row.program.starts_with("uplink"));
        let verdicts = uplinks.flat_map(|row| &row.verdicts);
        let for_pods = verdicts.filter(|of| of.became != "dropped" && !ASIDE.contains(&of.verdict.as_str()));
        Some(for_pods.map(|of| of.packets).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_over_when_nothing_came_for_some_looks() {
        let dir = tempfile::tempdir().unwrap();
        let mut drains = Drains::open(dir.path());
        let begun = Instant::now();
        let mut looks = 0;
        let mut look = |drains: &mut Drains, packets: u64| {
            looks += 1;
            drains.samples.push_back((begun + LOOK * looks, packets));
            if drains.samples.len() > QUIET + 1 {
                drains.samples.pop_front();
            }
            drains.is_quiet()
        };
        for packets in [0, 100, 200, 300, 400, 500, 600] {
            assert!(!look(&mut drains, packets));
        }
        for _ in 0..QUIET - 1 {
            assert!(!look(&mut drains, 601));
        }
        assert!(look(&mut drains, 602));
        assert!(look(&mut drains, 602));
    }

    #[test]
    fn a_drained_node_stays_so_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut drains = Drains::open(dir.path());
        assert_eq!(drains.stage(), None);
        drains.drain = Some(Kept {
            version: VERSION,
            stage: DrainStage::Withdrawn,
            since: "2026-11-22T11:01:13Z".into(),
            text: "new disk".into(),
        });
        drains.save().unwrap();
        let mut again = Drains::open(dir.path());
        assert_eq!(again.stage(), Some(DrainStage::Withdrawn));
        assert!(again.next_look().is_some());
        again.drain = None;
        again.save().unwrap();
        assert_eq!(Drains::open(dir.path()).stage(), None);
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Drains::open(dir.path()).stage(), None);
        assert!(cleanup(dir.path()).unwrap());
    }
}
