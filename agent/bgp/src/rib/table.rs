//! Prefixes and their paths for one family. A route has a number that stays while it lives, so that update groups
//! can keep a few octets for each route in plain arrays; the index by prefix holds only that number.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{index::Index, intern::SeededHash};
use crate::{
    attr::Attributes,
    message::update::{Nlri, PathId},
    view::{LostAt, RefusedBy, Standing},
};

/// The number of a route in its table.
pub type RouteId = u32;
/// The number of a peer in the speaker.
pub type PeerSlot = u16;
/// The number of a next hop.
pub type NextHopId = u32;

/// Stands where a peer's number would for routes of our own.
pub const OWN: PeerSlot = PeerSlot::MAX;

/// Stands in [`Path::id`] of an own path that is not ours whatever peers say.
pub const YIELDING: PathId = 1;
/// Stands where a next hop's number would for paths that need none.
pub const NO_NEXT_HOP: NextHopId = NextHopId::MAX;

/// One path: twenty-four octets, of which there may be millions.
#[derive(Clone, Debug)]
pub struct Path {
    pub attributes: Arc<Attributes>,
    pub next_hop: NextHopId,
    /// The peer's name for it; 0 from one that has no names for its paths. Of an own path [`YIELDING`] or 0.
    pub id: PathId,
    pub peer: PeerSlot,
    /// Counts the peer's paths for this prefix from 0. It stays while the path lives.
    pub number: u16,
    /// The peer's generation when it announced the path; if the peer's has moved on, the path is stale.
    pub generation: u8,
    pub standing: PackedStanding,
}

/// What tells the paths of one prefix apart here, whatever their peers call them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathKey {
    pub peer: PeerSlot,
    pub number: u16,
}

impl PathKey {
    /// The name by which others get the path (RFC 7911 §3): it does not change while the path lives, and no peer's
    /// number of another peer is ever the same. Own paths are 1, the peers' first ones 2 and up.
    pub fn name(self) -> PathId {
        u32::from(self.number) << 16 | u32::from(self.peer.wrapping_add(2))
    }
}

impl Path {
    /// The peer's name for it, if it has names for its paths.
    pub fn received_id(&self) -> Option<PathId> {
        (self.id != 0 && self.peer != OWN).then_some(self.id)
    }

    /// An own one that a peer's of a better priority beats.
    pub fn yields(&self) -> bool {
        self.peer == OWN && self.id == YIELDING
    }

    pub fn key(&self) -> PathKey {
        PathKey { peer: self.peer, number: self.number }
    }
}

/// [`Standing`] in one octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedStanding(u8);

const LOST: [LostAt; 12] = [
    LostAt::Own,
    LostAt::LongLivedStale,
    LostAt::LocalPref,
    LostAt::AsPathLength,
    LostAt::Origin,
    LostAt::Med,
    LostAt::EbgpOverIbgp,
    LostAt::IgpMetric,
    LostAt::RouterId,
    LostAt::ClusterListLength,
    LostAt::PeerAddress,
    LostAt::PathId,
];
const REFUSED: [RefusedBy; 7] = [
    RefusedBy::AsLoop,
    RefusedBy::OriginatorIsUs,
    RefusedBy::ClusterLoop,
    RefusedBy::InvalidNextHop,
    RefusedBy::RouteLeak,
    RefusedBy::InvalidPrefix,
    RefusedBy::Filter,
];

impl PackedStanding {
    pub const BEST: PackedStanding = PackedStanding(0);
    pub const UNREACHABLE: PackedStanding = PackedStanding(1);
    pub const DEFERRED: PackedStanding = PackedStanding(2);
    pub const MULTIPATH: PackedStanding = PackedStanding(3);

    pub fn lost(at: LostAt) -> PackedStanding {
        PackedStanding(0x40 | at as u8)
    }

    pub fn refused(by: RefusedBy) -> PackedStanding {
        PackedStanding(0x80 | by as u8)
    }

    /// Could it be chosen?
    pub fn is_eligible(self) -> bool {
        matches!(self, PackedStanding::BEST | PackedStanding::MULTIPATH) || self.0 & 0x40 != 0
    }

    pub fn is_refused(self) -> bool {
        self.0 & 0x80 != 0
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "both lists are in the order of their enums, and `self` was made from one of them"
    )]
    pub fn unpack(self) -> Standing {
        let index = usize::from(self.0 & 0x3f);
        match self.0 {
            0 => Standing::Best,
            1 => Standing::Unreachable,
            2 => Standing::Deferred,
            3 => Standing::Multipath,
            _ if self.is_refused() => Standing::Refused(REFUSED[index]),
            _ => Standing::Lost(LOST[index]),
        }
    }
}

/// A prefix with its paths. The best path, if there is one, is the first; where several are sent to some peer, the
/// next best follow in their order.
#[derive(Debug)]
pub struct Route<P> {
    pub prefix: P,
    pub paths: SmallVec<[Path; 1]>,
    /// The driver has yet to be told of a new best path.
    pub to_tell: bool,
    /// Not a free slot.
    pub alive: bool,
}

impl<P> Route<P> {
    pub fn best(&self) -> Option<&Path> {
        self.paths.first().filter(|path| path.standing == PackedStanding::BEST)
    }

    /// Those that are used beside the best one.
    pub fn used_beside_best(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter().filter(|path| path.standing == PackedStanding::MULTIPATH)
    }

    /// The best and the next best, so many at most; in their order if they have been ranked.
    pub fn ranked(&self, most: usize) -> impl Iterator<Item = &Path> {
        self.paths.iter().take_while(|path| path.standing.is_eligible()).take(most)
    }

    pub fn path_at(&self, key: PathKey) -> Option<&Path> {
        self.paths.iter().find(|path| path.key() == key)
    }

    pub fn path_of(&self, peer: PeerSlot, id: PathId) -> Option<&Path> {
        self.paths.iter().find(|path| path.peer == peer && path.id == id)
    }
}

/// Routes lie in blocks of this many, so that a growing table never moves.
const BLOCK: usize = 4096;

#[derive(Debug)]
pub struct Table<P> {
    blocks: Vec<Vec<Route<P>>>,
    index: Index,
    free: Vec<RouteId>,
    hash: SeededHash,
}

impl<P: Nlri> Table<P> {
    pub fn new(hash: SeededHash) -> Table<P> {
        Table { blocks: Vec::new(), index: Index::default(), free: Vec::new(), hash }
    }

    /// Numbers are below this; some of them may be free.
    pub fn end(&self) -> RouteId {
        end(&self.blocks)
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// `None` for a free slot, and beyond the end.
    pub fn get(&self, id: RouteId) -> Option<&Route<P>> {
        let id = id as usize;
        self.blocks.get(id / BLOCK)?.get(id % BLOCK).filter(|route| route.alive)
    }

    pub fn get_mut(&mut self, id: RouteId) -> Option<&mut Route<P>> {
        let id = id as usize;
        self.blocks.get_mut(id / BLOCK)?.get_mut(id % BLOCK).filter(|route| route.alive)
    }

    pub fn find(&self, prefix: P) -> Option<RouteId> {
        let blocks = &self.blocks;
        self.index.find(self.hash.prefix(prefix), |id| indexed(blocks, id).prefix == prefix)
    }

    /// The route's number, new if there was none.
    pub fn insert(&mut self, prefix: P) -> RouteId {
        let (hash, blocks) = (self.hash, &self.blocks);
        let all = || living(blocks).map(|(id, route)| (hash.prefix(route.prefix), id));
        let same = |id| indexed(blocks, id).prefix == prefix;
        let vacant = match self.index.find_or_vacant(hash.prefix(prefix), same, all) {
            Ok(held) => return held,
            Err(vacant) => vacant,
        };
        let route = Route { prefix, paths: SmallVec::new(), to_tell: false, alive: true };
        let id = match self.free.pop() {
            Some(id) => {
                let at = id as usize;
                #[expect(clippy::indexing_slicing, reason = "a free number was given out before")]
                let place = &mut self.blocks[at / BLOCK][at % BLOCK];
                *place = route;
                id
            }
            None => push(&mut self.blocks, route),
        };
        vacant.insert(id);
        id
    }

    /// Frees a route without paths. The caller has seen to it that nobody refers to the number any more.
    pub fn remove(&mut self, id: RouteId) {
        let hash = self.hash;
        let Some(route) = self.get_mut(id) else { return };
        debug_assert!(route.paths.is_empty());
        route.alive = false;
        let place = hash.prefix(route.prefix);
        self.index.remove(place, id);
        if self.index.is_empty() {
            // The memory of a large table that is gone; nobody refers to any number now.
            *self = Table::new(hash);
        } else {
            self.free.push(id);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (RouteId, &Route<P>)> {
        living(&self.blocks)
    }
}

fn end<P>(blocks: &[Vec<Route<P>>]) -> RouteId {
    let full = blocks.len().saturating_sub(1) * BLOCK;
    (full + blocks.last().map_or(0, Vec::len)) as RouteId
}

fn living<P>(blocks: &[Vec<Route<P>>]) -> impl Iterator<Item = (RouteId, &Route<P>)> {
    let all = blocks.iter().flatten().enumerate().map(|(id, route)| (id as RouteId, route));
    all.filter(|(_, route)| route.alive)
}

/// A route whose number stands in the index.
#[expect(clippy::indexing_slicing, reason = "such numbers were given out")]
fn indexed<P>(blocks: &[Vec<Route<P>>], id: RouteId) -> &Route<P> {
    let at = id as usize;
    &blocks[at / BLOCK][at % BLOCK]
}

/// Gives a route the next number.
fn push<P>(blocks: &mut Vec<Vec<Route<P>>>, route: Route<P>) -> RouteId {
    let id = end(blocks);
    match blocks.last_mut() {
        Some(block) if block.len() < BLOCK => block.push(route),
        _ => {
            // A small table stays small: only full ones are followed by full-sized blocks.
            let room = if blocks.is_empty() { 16 } else { BLOCK };
            let mut block = Vec::with_capacity(room);
            block.push(route);
            blocks.push(block);
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use manx_net::{Prefix4, Prefix6};

    use super::*;

    #[test]
    fn a_path_is_twenty_four_octets_and_a_route_with_one_forty_eight() {
        assert_eq!(size_of::<Path>(), 24);
        assert_eq!(size_of::<Route<Prefix4>>(), 48);
    }

    #[test]
    fn numbers_stay_and_freed_ones_come_back() {
        let mut table = Table::new(SeededHash::new(7));
        let prefix = |n: u32| Prefix4::from_bits(n << 6, 26).unwrap();
        let ids: Vec<RouteId> = (0..10_000).map(|n| table.insert(prefix(n))).collect();
        assert!((0..10_000).all(|n| table.find(prefix(n)) == Some(ids[n as usize])));
        table.remove(ids[17]);
        assert_eq!(table.find(prefix(17)), None);
        assert_eq!(table.insert(prefix(20_000)), ids[17]);
        assert_eq!((table.len(), table.end()), (10_000, 10_000));
        ids.iter().for_each(|&id| table.remove(id));
        assert_eq!((table.len(), table.end(), table.blocks.capacity()), (0, 0, 0));
    }

    /// Else the index could not tell neighbours apart by their marks, and prefixes could be chosen to collide.
    #[test]
    fn neighbours_share_their_place_in_the_index_and_nobody_else_does() {
        fn check<P: Nlri>(prefixes: Vec<P>) {
            let hash = SeededHash::new(7);
            let mut places: HashMap<[u64; 2], Vec<P>> = HashMap::new();
            for prefix in prefixes {
                places.entry(prefix.neighbourhood().0).or_default().push(prefix);
            }
            for neighbours in places.values() {
                assert!(neighbours.len() == 16, "{neighbours:?}");
                let low: HashSet<u64> = neighbours.iter().map(|&p| hash.prefix(p) << 24).collect();
                let marks: HashSet<u64> = neighbours.iter().map(|&p| hash.prefix(p) >> 57).collect();
                assert_eq!((low.len(), marks.len()), (1, neighbours.len()));
            }
        }
        let lengths = |last| (4..=last).map(move |len: u8| (len, last - len));
        let all = |len: u8| 0..1u32 << len.min(11);
        check(
            lengths(32)
                .flat_map(|(len, host)| {
                    all(len).filter_map(move |n| Prefix4::from_bits(n.checked_shl(u32::from(host))?, len))
                })
                .collect(),
        );
        check(
            lengths(128)
                .flat_map(|(len, host)| {
                    all(len).filter_map(move |n| Prefix6::from_bits(u128::from(n) << host, len))
                })
                .collect(),
        );
    }

    #[test]
    fn every_standing_survives_packing() {
        for at in LOST {
            assert_eq!(PackedStanding::lost(at).unpack(), Standing::Lost(at));
        }
        for by in REFUSED {
            assert_eq!(PackedStanding::refused(by).unpack(), Standing::Refused(by));
        }
        assert_eq!(PackedStanding::BEST.unpack(), Standing::Best);
        assert_eq!(PackedStanding::MULTIPATH.unpack(), Standing::Multipath);
    }
}
