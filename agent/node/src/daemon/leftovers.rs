//! A restart in the middle of a change. The peers that a daemon comes back to may not yet, or no longer, bring what the run
//! before had learned from others; so routes in the kernel that nobody has claimed when they have all spoken are held as
//! that run would have held them. When the peerings were last changed is kept on disk for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;
use manx_api as api;
use manx_bgp::view::SessionState;
use manx_dataplane::resolve::Gateway;
use manx_net::Prefix;
use manx_resources::{NodePlan, PeerKind};
use serde::{Deserialize, Serialize};

use super::Daemon;
use crate::state_file;

const FILE: &str = "peerings.json";
const VERSION: u32 = 1;

#[derive(Debug)]
pub struct Leftovers {
    path: PathBuf,
    peerings: Option<Peerings>,
    held: BTreeMap<Prefix, Vec<Gateway>>,
    until: Option<(Instant, SystemTime)>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Peerings {
    version: u32,
    /// Each with what makes it another one.
    peers: BTreeSet<String>,
    /// When they were others for the last time.
    changed: Option<Timestamp>,
}

impl Peerings {
    fn read(path: &Path) -> Option<Peerings> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("{}: {error}", path.display());
                return None;
            }
        };
        match serde_json::from_slice::<Peerings>(&text) {
            Ok(peerings) if peerings.version == VERSION => Some(peerings),
            Ok(Peerings { version, .. }) => {
                tracing::warn!("{} is of version {version}, and not used", path.display());
                None
            }
            Err(error) => {
                tracing::warn!("{} is not used: {error}", path.display());
                None
            }
        }
    }
}

/// Removes what is kept. True if there was something.
pub fn cleanup(state_dir: &Path) -> io::Result<bool> {
    state_file::remove(&state_dir.join(FILE))
}

impl Leftovers {
    pub fn open(state_dir: &Path) -> Leftovers {
        let path = state_dir.join(FILE);
        Leftovers { peerings: Peerings::read(&path), path, held: BTreeMap::new(), until: None }
    }

    pub fn follow_plan(&mut self, plan: &NodePlan) {
        let wanted = plan.peers.iter().filter(|peer| peer.kind != PeerKind::LocalWorkload);
        let peers = wanted.map(|peer| {
            let local = peer.local_as_number.unwrap_or(plan.as_number);
            let client = if peer.rr_client { ", a client" } else { "" };
            format!("{} port {} AS {} from AS {local}{client}", peer.address, peer.port, peer.as_number)
        });
        let peers: BTreeSet<String> = peers.collect();
        let changed = match &self.peerings {
            Some(before) if before.peers == peers => return,
            Some(_) => Some(Timestamp::now()),
            None => None,
        };
        let peerings = Peerings { version: VERSION, peers, changed };
        let kept = serde_json::to_vec_pretty(&peerings)
            .map_err(io::Error::from)
            .and_then(|text| state_file::replace(&self.path, &text));
        if let Err(error) = kept {
            tracing::warn!(
                "{}: {error}; a restart within the next minutes may not know that the peerings have changed",
                self.path.display()
            );
        }
        self.peerings = Some(peerings);
    }

    /// For how much longer routes are held after the last change.
    fn left(&self, hold: Duration) -> Option<Duration> {
        let changed = self.peerings.as_ref()?.changed?;
        // A clock that was set back does not hold them for longer.
        let since = Duration::try_from(Timestamp::now().duration_since(changed)).unwrap_or_default();
        hold.checked_sub(since).filter(|left| !left.is_zero())
    }

    pub fn is_held(&self, prefix: Prefix) -> bool {
        self.held.contains_key(&prefix)
    }

    /// It has a path, or is no longer to have one.
    pub fn claimed(&mut self, prefix: Prefix) {
        if self.held.remove(&prefix).is_some() && self.held.is_empty() {
            self.until = None;
            tracing::info!("all routes that the run before had left have come from peers");
        }
    }

    pub fn next_look(&self) -> Option<Instant> {
        self.until.map(|(until, _)| until)
    }

    pub fn status(&self) -> Option<api::LeftoverStatus> {
        let (_, until) = self.until?;
        Some(api::LeftoverStatus { routes: self.held.len() as u64, until: crate::clock::stamp(until) })
    }
}

impl Daemon {
    /// The peers have said what they know. Called before what nobody claims is removed.
    pub(super) fn hold_leftovers(&mut self) {
        let (Some(plan), Some(speaker)) = (&self.plan, &self.speaker) else { return };
        let parting = &speaker.config().parting;
        let Some(left) = self.leftovers.left(parting.hold) else { return };
        // What a peer does not announce of its own is gone.
        let spoken = speaker
            .peers()
            .into_iter()
            .filter(|peer| peer.state == SessionState::Established && peer.parting_since.is_none());
        let spoken: BTreeSet<_> = spoken.map(|peer| peer.address).collect();
        let lives = |address| {
            self.changes.node_at(address).is_some_and(|node| node != plan.node)
                && !spoken.contains(&address)
                && !parting.at_once.contains(&address)
        };
        let held: Vec<(Prefix, Vec<Gateway>)> = self
            .dataplane
            .leftovers()
            .filter(|(prefix, hops)| {
                !prefix.is_host()
                    && parting.within.iter().any(|pool| pool.covers(*prefix))
                    && !plan.blocks.contains(prefix)
                    && hops.iter().all(|hop| lives(hop.gateway))
            })
            .map(|(prefix, hops)| (prefix, hops.iter().map(|hop| Gateway::from(hop.gateway)).collect()))
            .collect();
        if held.is_empty() {
            return;
        }
        let said = format!(
            "the peerings have changed, and {} routes of the run before have come from no peer yet: they are held until \
             they do, {} s at most",
            held.len(),
            left.as_secs()
        );
        tracing::warn!("{said}");
        self.history.daemon(said);
        self.leftovers.until = Some((Instant::now() + left, SystemTime::now() + left));
        for (prefix, gateways) in held {
            self.dataplane.set_path(prefix, gateways.clone());
            self.leftovers.held.insert(prefix, gateways);
        }
    }

    /// Those whose time is over, and those of nodes that were deleted.
    pub(super) fn let_leftovers_go(&mut self, now: Instant) {
        let Some((until, _)) = self.leftovers.until else { return };
        let Some(speaker) = &self.speaker else { return };
        let parting = &speaker.config().parting;
        let over = until <= now || parting.hold.is_zero();
        let gone = |gateways: &[Gateway]| {
            over || gateways.iter().any(|gateway| parting.at_once.contains(&gateway.address))
        };
        let gone: Vec<Prefix> = self
            .leftovers
            .held
            .iter()
            .filter(|(_, gateways)| gone(gateways))
            .map(|(prefix, _)| *prefix)
            .collect();
        if gone.is_empty() {
            return;
        }
        let said =
            format!("{} routes of the run before have come from no peer and are held no longer", gone.len());
        tracing::warn!("{said}");
        self.history.daemon(said);
        for prefix in gone {
            self.dataplane.set_path(prefix, Vec::new());
            self.leftovers.held.remove(&prefix);
        }
        if self.leftovers.held.is_empty() {
            self.leftovers.until = None;
        }
    }
}
