//! The routing information base of both families: what the peers announced, what was chosen, and what each update
//! group is told. It knows nothing of sessions and time. Every change settles its route at once (choice,
//! verdict per group); what concerns many routes is a [`jobs::Job`], done in pieces.

mod announced;
mod batch;
pub mod checks;
mod earlier;
pub mod export;
mod forms;
pub mod group;
pub mod group_paths;
pub mod import;
mod index;
pub mod intern;
pub mod jobs;
mod long_lived;
pub mod next_hops;
mod own;
pub mod parting;
pub mod paths;
pub mod pull;
mod regroup;
pub mod select;
mod settle;
pub mod table;
pub mod views;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use manx_net::{Prefix, Prefix4, Prefix6};
use smallvec::SmallVec;

use crate::{
    attr::Attributes,
    config::{AddPath, Family, Multipath, NormalPriority, PeerKey, PerFamily},
    event::{BestCause, BestChange, BestPath, NextHop, PathSource},
    message::update::Nlri,
    view::Export,
};
use earlier::Announced;
use export::{GroupKey, PeerKind, Policy, Ruling, Source, verdict};
use group::Group;
use import::Import;
use intern::{Interner, SeededHash};
use jobs::Job;
use next_hops::NextHops;
use parting::Look;
use pull::Membership;
use select::{Announcer, Wanted};
use table::{NextHopId, OWN, Path, PathKey, PeerSlot, Route, RouteId, Table};

/// A family's table, found by the type of its prefixes.
pub trait Kept: Nlri {
    fn table(tables: &Tables) -> &Table<Self>;
    fn table_mut(tables: &mut Tables) -> &mut Table<Self>;
}

#[derive(Debug)]
pub struct Tables {
    v4: Table<Prefix4>,
    v6: Table<Prefix6>,
}

impl Kept for Prefix4 {
    fn table(tables: &Tables) -> &Table<Prefix4> {
        &tables.v4
    }

    fn table_mut(tables: &mut Tables) -> &mut Table<Prefix4> {
        &mut tables.v4
    }
}

impl Kept for Prefix6 {
    fn table(tables: &Tables) -> &Table<Prefix6> {
        &tables.v6
    }

    fn table_mut(tables: &mut Tables) -> &mut Table<Prefix6> {
        &mut tables.v6
    }
}

/// Calls a generic function for the family that a value names.
macro_rules! by_family {
    ($family:expr, $P:ident => $call:expr) => {
        match $family {
            $crate::config::Family::Ipv4Unicast => {
                type $P = manx_net::Prefix4;
                $call
            }
            $crate::config::Family::Ipv6Unicast => {
                type $P = manx_net::Prefix6;
                $call
            }
        }
    };
}
pub(crate) use by_family;

/// What the RIB keeps of a peer.
#[derive(Debug)]
pub struct RibPeer {
    pub key: PeerKey,
    pub kind: PeerKind,
    pub router_id: Ipv4Addr,
    /// Under which its routes are reflected.
    cluster_id: Ipv4Addr,
    import: Import,
    /// By family. Paths of an earlier generation are stale.
    generation: PerFamily<u8>,
    /// Paths held, by family, refused ones included.
    received: PerFamily<u64>,
    refused: PerFamily<u64>,
    /// Of both those that are not stale.
    heard: PerFamily<u64>,
    heard_refused: PerFamily<u64>,
    members: PerFamily<Option<Membership>>,
    /// See [`Rib::set_parting`] and [`Rib::set_held`].
    parting: bool,
    held: bool,
}

impl RibPeer {
    /// One more of the peer's paths is held.
    fn count(&mut self, family: Family, path: &Path) {
        let (heard, refused) = (path.generation == self.generation[family], path.standing.is_refused());
        self.received[family] += 1;
        self.refused[family] += u64::from(refused);
        self.heard[family] += u64::from(heard);
        self.heard_refused[family] += u64::from(heard && refused);
    }

    /// It no longer is.
    fn discount(&mut self, family: Family, path: &Path) {
        let (heard, refused) = (path.generation == self.generation[family], path.standing.is_refused());
        self.received[family] -= 1;
        self.refused[family] -= u64::from(refused);
        // Generations are counted in eight bits.
        let count = |counter: &mut u64, is: bool| *counter = counter.saturating_sub(u64::from(is));
        count(&mut self.heard[family], heard);
        count(&mut self.heard_refused[family], heard && refused);
    }
}

/// What the driver is to do about a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchOrder {
    Watch(NextHop),
    Unwatch(NextHop),
}

#[derive(Debug)]
pub struct Rib {
    tables: Tables,
    interner: Interner,
    next_hops: NextHops,
    ask_interfaces: bool,
    peers: Vec<Option<RibPeer>>,
    groups: Vec<Option<Group>>,
    /// Groups that were split in the present change of configuration, with what came of them.
    splits: Vec<(usize, usize)>,
    /// Groups that members have left for others in the present change of configuration, with what they had told.
    moves: Vec<(usize, Arc<Announced>)>,
    transitions: u64,
    policy: Policy,
    jobs: VecDeque<Job>,
    /// The driver wants to be told of them.
    best_paths: bool,
    /// Routes whose best path the driver has not been told yet.
    to_tell: VecDeque<(Family, RouteId, Acting)>,
    /// What is being done to the tables.
    acting: Acting,
    orders: VecDeque<WatchOrder>,
    idle_next_hops: Vec<NextHopId>,
    /// Routes that lost their last path.
    empty: VecDeque<(Family, RouteId)>,
    /// A look at [`Self::empty`] may find some that nobody refers to any more.
    freeing: bool,
    /// Groups with news for their members.
    touched: Vec<usize>,
    /// Nothing is chosen while the speaker restarts (RFC 4724 §4.1).
    deferred: bool,
    /// The first choice is complete, and nobody has asked yet.
    settled: bool,
    holds_end_of_rib: bool,
    own: BTreeMap<Prefix, Arc<Attributes>>,
    /// Who announces too many paths, and for what.
    crowded: Option<(PeerSlot, Prefix)>,
    wanted: Wanted,
    normal_priority: NormalPriority,
    look: Look,
    held_within: Vec<Prefix>,
    /// Peers of which something is held.
    holding: usize,
    withholding: bool,
    withheld: Vec<(PeerSlot, Family)>,
}

/// What is being done to the tables, and for which peer.
#[derive(Clone, Copy, Debug)]
struct Acting {
    slot: PeerSlot,
    what: BestChange,
}

impl Default for Acting {
    fn default() -> Acting {
        Acting { slot: OWN, what: BestChange::default() }
    }
}

impl Rib {
    pub fn new(seed: u64, deferred: bool, best_paths: bool) -> Rib {
        let hash = SeededHash::new(seed);
        Rib {
            tables: Tables { v4: Table::new(hash), v6: Table::new(hash) },
            interner: Interner::new(hash),
            next_hops: NextHops::default(),
            ask_interfaces: false,
            peers: Vec::new(),
            groups: Vec::new(),
            splits: Vec::new(),
            moves: Vec::new(),
            transitions: 0,
            policy: Policy::default(),
            jobs: VecDeque::new(),
            best_paths,
            to_tell: VecDeque::new(),
            acting: Acting::default(),
            orders: VecDeque::new(),
            idle_next_hops: Vec::new(),
            empty: VecDeque::new(),
            freeing: false,
            touched: Vec::new(),
            deferred,
            settled: !deferred,
            holds_end_of_rib: false,
            own: BTreeMap::new(),
            crowded: None,
            wanted: Wanted::default(),
            normal_priority: NormalPriority::default(),
            look: Look::default(),
            held_within: Vec::new(),
            holding: 0,
            withholding: false,
            withheld: Vec::new(),
        }
    }

    // Peers.

    /// Takes up a peer; it keeps its number until [`Self::forget_peer`].
    pub fn add_peer(&mut self, key: PeerKey, kind: PeerKind) -> PeerSlot {
        let peer = RibPeer {
            key,
            kind,
            router_id: Ipv4Addr::UNSPECIFIED,
            cluster_id: Ipv4Addr::UNSPECIFIED,
            import: Import::default(),
            generation: PerFamily::default(),
            received: PerFamily::default(),
            refused: PerFamily::default(),
            heard: PerFamily::default(),
            heard_refused: PerFamily::default(),
            members: PerFamily::default(),
            parting: false,
            held: false,
        };
        match self.peers.iter().position(Option::is_none) {
            Some(free) => {
                #[expect(clippy::indexing_slicing, reason = "`position` found it")]
                let place = &mut self.peers[free];
                *place = Some(peer);
                free as PeerSlot
            }
            None => {
                self.peers.push(Some(peer));
                (self.peers.len() - 1) as PeerSlot
            }
        }
    }

    /// True if nothing of the peer is left, and its number may go to another. Its routes must have been flushed.
    pub fn forget_peer(&mut self, slot: PeerSlot) -> bool {
        let Some(peer) = self.peer(slot) else { return true };
        let busy = self.jobs.iter().any(|job| job.concerns(slot));
        if busy || peer.received != PerFamily::default() || peer.members.iter().any(Option::is_some) {
            return false;
        }
        #[expect(clippy::indexing_slicing, reason = "just found")]
        let place = &mut self.peers[usize::from(slot)];
        *place = None;
        true
    }

    pub fn peer(&self, slot: PeerSlot) -> Option<&RibPeer> {
        self.peers.get(usize::from(slot))?.as_ref()
    }

    fn peer_mut(&mut self, slot: PeerSlot) -> Option<&mut RibPeer> {
        self.peers.get_mut(usize::from(slot))?.as_mut()
    }

    /// The peer is of another kind (client or not, AS): whom its routes go to is judged anew.
    pub fn set_kind(&mut self, slot: PeerSlot, kind: PeerKind) {
        if let Some(peer) = self.peer_mut(slot)
            && peer.kind != kind
        {
            peer.kind = kind;
            // What goes to the peer is its group's, which it joins anew.
            if peer.received != PerFamily::default() {
                self.jobs.push_back(Job::rejudge());
            }
        }
    }

    /// The peer belongs to another cluster: to which clients its routes go is judged anew.
    pub fn set_cluster(&mut self, slot: PeerSlot, cluster_id: Ipv4Addr) {
        if let Some(peer) = self.peer_mut(slot)
            && peer.cluster_id != cluster_id
        {
            peer.cluster_id = cluster_id;
            if peer.received != PerFamily::default() {
                self.jobs.push_back(Job::rejudge());
            }
        }
    }

    /// Known from the peer's OPEN. Stale paths of an earlier identifier are compared anew, and those who have been told
    /// of them by that identifier are told by the new one.
    pub fn set_router_id(&mut self, slot: PeerSlot, router_id: Ipv4Addr) {
        let Some(peer) = self.peer_mut(slot) else { return };
        if peer.router_id != router_id {
            peer.router_id = router_id;
            if peer.received != PerFamily::default() {
                self.jobs.push_back(Job::identifier(slot));
            }
        }
    }

    /// Received and refused paths of one family.
    pub fn held(&self, slot: PeerSlot, family: Family) -> (u64, u64) {
        self.peer(slot).map_or((0, 0), |peer| (peer.received[family], peer.refused[family]))
    }

    /// The same of those that are not stale.
    pub fn heard(&self, slot: PeerSlot, family: Family) -> (u64, u64) {
        self.peer(slot).map_or((0, 0), |peer| (peer.heard[family], peer.heard_refused[family]))
    }

    /// Received and refused paths, both families.
    pub fn counts(&self, slot: PeerSlot) -> (u64, u64) {
        self.peer(slot).map_or((0, 0), |peer| (peer.received.iter().sum(), peer.refused.iter().sum()))
    }

    /// Paths that outlive the session that they came by, both families.
    pub fn stale_count(&self, slot: PeerSlot) -> u64 {
        self.peer(slot).map_or(0, |peer| peer.received.iter().sum::<u64>() - peer.heard.iter().sum::<u64>())
    }

    /// Makes all present paths of the peer stale.
    pub fn make_stale(&mut self, slot: PeerSlot, family: Family) {
        if let Some(peer) = self.peer_mut(slot) {
            let generation = &mut peer.generation[family];
            *generation = generation.wrapping_add(1);
            (peer.heard[family], peer.heard_refused[family]) = (0, 0);
        }
    }

    /// Removes the peer's stale paths that have been stale for more than `grace` generations.
    pub fn sweep(&mut self, slot: PeerSlot, family: Family, grace: i8) {
        let Some(peer) = self.peer(slot) else { return };
        if peer.received[family] > 0 {
            let generation = peer.generation[family];
            self.jobs.push_back(Job::sweep(slot, family, generation, grace));
        }
    }

    /// Removes all of the peer's present paths.
    pub fn flush(&mut self, slot: PeerSlot, family: Family) {
        self.make_stale(slot, family);
        self.sweep(slot, family, 0);
    }

    // Paths.

    pub fn intern(&mut self, attributes: Attributes) -> Arc<Attributes> {
        self.interner.intern(attributes)
    }

    /// Gives back what [`Self::intern`] gave out.
    pub fn release(&mut self, attributes: Arc<Attributes>) {
        self.interner.release(attributes);
    }

    /// The next hop's number; the driver is asked to watch it if it is new.
    pub fn next_hop(&mut self, next_hop: NextHop) -> NextHopId {
        let (id, new) = self.next_hops.number(next_hop);
        if new {
            self.orders.push_back(WatchOrder::Watch(next_hop));
            // Should no path come to hold it.
            self.idle_next_hops.push(id);
        }
        id
    }

    fn drop_idle_next_hops(&mut self) {
        let mut idle = std::mem::take(&mut self.idle_next_hops);
        idle.sort_unstable();
        idle.dedup();
        let unwatched = idle.into_iter().filter_map(|id| self.next_hops.forget_unused(id));
        self.orders.extend(unwatched.map(WatchOrder::Unwatch));
    }

    /// What may leave. Judged anew in pieces; only what flips is sent (behaviour 56).
    pub fn set_policy(&mut self, policy: Policy) {
        if self.policy != policy {
            self.policy = policy;
            self.jobs.push_back(Job::rejudge());
        }
    }

    /// How many paths are used at once.
    pub fn set_multipath(&mut self, multipath: Multipath) {
        self.set_wanted(Wanted { multipath, ..self.wanted });
    }

    /// What LOCAL_PREF is compared with. Own routes carry it from the next [`Rib::originate`] on.
    pub fn set_normal_priority(&mut self, normal_priority: NormalPriority) {
        if self.normal_priority != normal_priority {
            self.normal_priority = normal_priority;
            self.jobs.push_back(Job::reselect());
        }
    }

    /// Some peer wants more than the best path.
    pub fn rank_paths(&mut self) {
        self.set_wanted(Wanted { ranked: usize::from(AddPath::MOST), ..self.wanted });
    }

    fn set_wanted(&mut self, wanted: Wanted) {
        if self.wanted != wanted {
            self.wanted = wanted;
            self.jobs.push_back(Job::reselect());
        }
    }

    /// The driver's word on a next hop.
    pub fn set_next_hop(&mut self, next_hop: NextHop, metric: Option<u32>) {
        let Some(id) = self.next_hops.set_metric(next_hop, metric) else { return };
        match self.jobs.iter_mut().find_map(Job::next_hops_not_begun) {
            Some(ids) => ids.push(id),
            None => self.jobs.push_back(Job::next_hops(id)),
        }
        // Small tables are done at once.
        self.work();
    }

    /// The rules are asked anew about these paths, before whatever else there is to do with them; but in pieces, as after
    /// a change of rules, and until its turn comes a path is what they made of it before.
    pub fn set_interface(&mut self, next_hop: NextHop, interface: Option<Arc<str>>) {
        let Some(id) = self.next_hops.set_interface(next_hop, interface) else { return };
        if !self.ask_interfaces {
            return;
        }
        match self.jobs.front_mut().and_then(Job::interfaces_not_begun) {
            Some(ids) => ids.push(id),
            None => self.jobs.push_front(Job::interfaces(id)),
        }
        self.work();
    }

    /// Whether some rule asks by which interface a route leads. Only then does a path carry its interface with it.
    pub fn set_ask_interfaces(&mut self, ask: bool) {
        if self.ask_interfaces == ask {
            return;
        }
        self.ask_interfaces = ask;
        self.jobs.push_back(Job::reimport_all());
    }

    // What the driver is told.

    pub fn next_order(&mut self) -> Option<WatchOrder> {
        if self.orders.is_empty() && !self.idle_next_hops.is_empty() {
            self.drop_idle_next_hops();
        }
        self.orders.pop_front()
    }

    pub fn next_best(&mut self) -> Option<(Prefix, Option<BestPath>, BestCause)> {
        while let Some((family, id, acting)) = self.to_tell.pop_front() {
            let told = by_family!(family, P => {
                let route = P::table_mut(&mut self.tables).get_mut(id);
                route.map(|route| {
                    route.to_tell = false;
                    let others: SmallVec<[Path; 1]> = route.used_beside_best().cloned().collect();
                    (Prefix::from(route.prefix), route.best().cloned(), others)
                })
            });
            if let Some((prefix, best, others)) = told {
                let peer = self.peer(acting.slot).map(|peer| peer.key);
                let cause = BestCause { what: acting.what, peer };
                return Some((prefix, best.map(|path| self.best_path(prefix, &path, &others)), cause));
            }
        }
        None
    }

    /// `others` are used beside `path`.
    fn best_path(&self, prefix: Prefix, path: &Path, others: &[Path]) -> BestPath {
        let is_blackhole = |path: &Path| {
            let import = self.peer(path.peer).map(|peer| &peer.import);
            import.is_some_and(|import| import.is_blackhole(prefix, &path.attributes))
        };
        // Who asks for a blackhole does not want a share of the packets.
        let others = others.iter().filter(|path| !is_blackhole(path));
        let used = std::iter::once(path).chain(others).map(|path| path.next_hop);
        let mut next_hops: Vec<NextHop> = used.filter_map(|id| self.next_hops.get(id)).collect();
        next_hops.sort_unstable();
        next_hops.dedup();
        BestPath {
            source: self.path_source(path.peer),
            next_hops,
            local_pref: path.attributes.local_pref(),
            blackhole: is_blackhole(path),
        }
    }

    fn path_source(&self, slot: PeerSlot) -> PathSource {
        self.peer(slot).map_or(PathSource::Own, |peer| PathSource::Peer(peer.key))
    }

    pub fn is_deferred(&self) -> bool {
        self.deferred
    }

    /// True once, when the first choice is complete.
    pub fn take_settled(&mut self) -> bool {
        std::mem::take(&mut self.settled)
    }

    /// Ends the deferral: everything is chosen, then the members get their first tables.
    pub fn end_deferral(&mut self) {
        if self.deferred {
            self.deferred = false;
            self.jobs.push_back(Job::first_choice());
        }
    }
}

fn announcer(peers: &[Option<RibPeer>], slot: PeerSlot) -> Announcer {
    match peers.get(usize::from(slot)).and_then(Option::as_ref) {
        Some(peer) => Announcer {
            address: peer.key.address,
            router_id: peer.router_id,
            ebgp: matches!(peer.kind, PeerKind::Ebgp { .. }),
        },
        None => Announcer {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            router_id: Ipv4Addr::UNSPECIFIED,
            ebgp: false,
        },
    }
}

fn source(peers: &[Option<RibPeer>], slot: PeerSlot) -> Option<Source> {
    let peer = peers.get(usize::from(slot))?.as_ref()?;
    Some(Source { kind: peer.kind, router_id: peer.router_id, cluster_id: peer.cluster_id })
}

/// The verdict on a route for a group, and from whom the best path came.
fn judged<P: Nlri>(
    route: &Route<P>,
    peers: &[Option<RibPeer>],
    policy: Ruling,
    key: &GroupKey,
) -> (Export, PeerSlot) {
    match route.best() {
        None => (Export::NoRoute, OWN),
        Some(best) => (verdict(route.prefix.into(), best, source(peers, best.peer), policy, key), best.peer),
    }
}
