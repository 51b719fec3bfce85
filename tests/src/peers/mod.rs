//! BGP speakers by others, as Debian packages them: each is told in its own configuration what [`Speaking`] says,
//! and asked in its own words what it has learned, so that scenarios are written once for all of them. They run
//! in a host of the lab, whose /etc, /run and /var/lib are its own: every program keeps its usual paths. What Calico
//! would tell a BIRD in a node's place is [`crate::bird`]'s.

mod bird;
pub mod capture;
mod exabgp;
mod frr;
mod gobgp;
pub mod manx;

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::ExitStatus,
};

use anyhow::{Context, Result};

use crate::{host::Host, process::Daemon};

pub use self::{bird::Bird, exabgp::ExaBgp, frr::Frr, gobgp::GoBgp};

/// What a speaker is and says.
#[derive(Clone, Debug)]
pub struct Speaking {
    pub router_id: Ipv4Addr,
    pub as_number: u32,
    /// Makes it a route reflector for its neighbours (RFC 4456).
    pub cluster_id: Option<Ipv4Addr>,
    pub side: Side,
    /// Does not offer AS numbers of four octets (RFC 6793). Not every program can be told so.
    pub two_octets: bool,
    /// Signs its connections (RFC 2385).
    pub password: Option<&'static str>,
    /// Takes packets with a TTL of 255 only (RFC 5082).
    pub next_link_only: bool,
    /// IPv4 over the IPv6 sessions, with IPv6 next hops (RFC 8950), and into the kernel. Not every program can be told so.
    pub ipv4_by_ipv6: bool,
    /// Restart time and long-lived time, in seconds, that it asks its neighbours for (RFC 9494). Not every program can
    /// be told so.
    pub long_lived: Option<(u16, u32)>,
    /// What it is to its neighbours (RFC 9234). Not every program can be told so.
    pub role: Option<&'static str>,
    /// Sends several paths for a prefix and takes several (RFC 7911). Routes of its own with one prefix are then paths of
    /// their own.
    pub add_path: bool,
    pub neighbours: Vec<Neighbour>,
    pub routes: Vec<Announced>,
}

/// Who opens its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Its neighbours do.
    Listens,
    /// It does, and refuses connections: however long it waits before it dials, no neighbour is faster.
    Dials,
    /// Whoever is first.
    Both,
}

/// A session; it carries the family that it runs over.
#[derive(Clone, Copy, Debug)]
pub struct Neighbour {
    pub address: IpAddr,
    pub as_number: u32,
    /// The speaker's own address towards it.
    pub local: IpAddr,
}

/// A route of the speaker's own.
#[derive(Clone, Debug)]
pub struct Announced {
    pub prefix: String,
    pub next_hop: IpAddr,
    pub marks: Marks,
}

/// Communities of the three kinds, as text: `65001:1` (RFC 1997), `rt:65001:7` (RFC 4360), `4200000010:1:2`
/// (RFC 8092).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    pub plain: BTreeSet<String>,
    pub extended: BTreeSet<String>,
    pub large: BTreeSet<String>,
}

/// A route as a speaker has learned it from a neighbour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    pub next_hop: Option<IpAddr>,
    pub as_path: Vec<u32>,
    pub marks: Marks,
    pub originator_id: Option<Ipv4Addr>,
    pub cluster_list: Vec<Ipv4Addr>,
}

/// Refuses what [`Side::Dials`] does not want.
const REFUSAL: &str = "table inet lab {
  chain input {
    type filter hook input priority 0;
    tcp dport 179 tcp flags & (syn | ack) == syn reject with tcp reset
  }
}
";

/// One of the programs: how it is told, started and asked.
pub trait Program: fmt::Debug + Sync {
    fn name(&self) -> &'static str;

    /// Writes its configuration and starts it; waits until it can be asked. `again`: it takes over from a run that
    /// died, and should say so to its neighbours (RFC 4724 §4.1).
    fn start(&self, host: &Host, speaking: &Speaking, log: &Path, again: bool) -> Result<Daemon>;

    /// The best path to `prefix`, or the error that there is none.
    fn learned(&self, host: &Host, prefix: &str) -> Result<Learned>;

    /// The next hops of all paths to `prefix` that it has learned, sorted.
    fn next_hops(&self, _host: &Host, prefix: &str) -> Result<Vec<IpAddr>> {
        anyhow::bail!("{} does not show all paths to {prefix}", self.name())
    }

    /// Takes back the route of its own that it began with as number `n` of [`Speaking::routes`].
    fn withdraw(&self, _host: &Host, speaking: &Speaking, n: usize) -> Result<()> {
        anyhow::bail!("{} cannot withdraw {:?}", self.name(), speaking.routes.get(n))
    }

    /// The AS that says of the best path to `prefix` that it should go to customers only (RFC 9234 §5).
    fn only_to_customers(&self, _host: &Host, prefix: &str) -> Result<Option<u32>> {
        anyhow::bail!("{} does not say who may have {prefix}", self.name())
    }

    /// Whether it ever sends a ROUTE-REFRESH of its own.
    fn asks_for_refresh(&self) -> bool {
        true
    }

    /// Whether it sends its routes again when it is asked to.
    fn answers_refresh(&self) -> bool {
        true
    }

    /// Makes it send a ROUTE-REFRESH (RFC 2918) for the family of the session.
    fn ask_for_refresh(&self, host: &Host, neighbour: IpAddr) -> Result<()>;

    /// Whether it has words for why it ends a session.
    fn has_shutdown_text(&self) -> bool {
        true
    }

    /// Ends the session with Cease / Administrative Shutdown and a text (RFC 9003).
    fn shut_down(&self, host: &Host, neighbour: IpAddr, text: &str) -> Result<()>;
}

/// A running speaker.
#[derive(Debug)]
pub struct Peer {
    program: &'static dyn Program,
    speaking: Speaking,
    daemon: Option<Daemon>,
    log: PathBuf,
    pub host: Host,
}

impl Peer {
    pub fn start(program: &'static dyn Program, host: Host, speaking: Speaking, logs: &Path) -> Result<Peer> {
        let log = logs.join(format!("{}-{}.log", host.name(), program.name()));
        if speaking.side == Side::Dials {
            host.write_file("/etc/refusal.nft", REFUSAL)?;
            host.sh("nft -f /etc/refusal.nft")?;
        }
        let mut peer = Peer { program, speaking, daemon: None, log, host };
        peer.run(false)?;
        Ok(peer)
    }

    fn run(&mut self, again: bool) -> Result<()> {
        let started = self.program.start(&self.host, &self.speaking, &self.log, again);
        self.daemon = Some(started.with_context(|| self.account())?);
        Ok(())
    }

    /// Ends it by SIGKILL, which leaves it no time for anything.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.daemon.take().with_context(|| format!("{} does not run", self.program.name()))?.kill()
    }

    /// Starts it after [`Peer::kill`].
    pub fn start_again(&mut self) -> Result<()> {
        self.run(true)
    }

    pub fn learned(&self, prefix: &str) -> Result<Learned> {
        self.program.learned(&self.host, prefix).with_context(|| format!("{}: {prefix}", self.program.name()))
    }

    pub fn next_hops(&self, prefix: &str) -> Result<Vec<IpAddr>> {
        self.program.next_hops(&self.host, prefix)
    }

    pub fn withdraw(&self, n: usize) -> Result<()> {
        self.program.withdraw(&self.host, &self.speaking, n)
    }

    pub fn only_to_customers(&self, prefix: &str) -> Result<Option<u32>> {
        self.program.only_to_customers(&self.host, prefix)
    }

    pub fn ask_for_refresh(&self, neighbour: IpAddr) -> Result<()> {
        self.program.ask_for_refresh(&self.host, neighbour)
    }

    pub fn shut_down(&self, neighbour: IpAddr, text: &str) -> Result<()> {
        self.program.shut_down(&self.host, neighbour, text)
    }

    /// The end of its log, for messages.
    pub fn account(&self) -> String {
        format!("{}\n{}", self.log.display(), crate::process::tail(&self.log, 30))
    }
}

/// `ipv4` or `ipv6`, as all of the programs call a family.
fn family(prefix: &str) -> &'static str {
    if prefix.contains(':') { "ipv6" } else { "ipv4" }
}

fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

impl Speaking {
    /// Does the session with this neighbour carry routes of this family?
    fn carries(&self, neighbour: &Neighbour, family: &str) -> bool {
        family_of(neighbour.address) == family || (self.ipv4_by_ipv6 && neighbour.address.is_ipv6())
    }
}
