//! The choice of the best path (RFC 4271 §9.1.2.2, RFC 4456 §9). Each step strikes out what it does not prefer among
//! those still standing, as the RFC words it; so the result depends on the set of paths and not on the order
//! in which they came, MED included, and each path knows the step that struck it out.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::{IpAddr, Ipv4Addr},
};

use smallvec::SmallVec;

use super::{
    next_hops::NextHops,
    table::{NextHopId, OWN, PackedStanding, Path, PeerSlot},
};
use crate::{
    attr::Origin,
    config::{Multipath, WellKnown},
    message::update::PathId,
    policy::{is_elevated, preference},
    view::LostAt,
};

/// What the choice must know of the peer that announced a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcer {
    pub address: IpAddr,
    pub router_id: Ipv4Addr,
    pub ebgp: bool,
}

/// What is wanted besides the best path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Equally good ones, to use beside it.
    pub multipath: Multipath,
    /// So many of the next best in their order, the best included; 0 and 1: it alone.
    pub ranked: usize,
}

/// Sets every path's standing and puts the best one first. Refused paths keep their standing. `normal` is the priority of
/// a usual route, for LOCAL_PREF.
pub fn select(
    paths: &mut [Path],
    next_hops: &NextHops,
    wanted: Wanted,
    normal: u32,
    announcer: impl Fn(PeerSlot) -> Announcer,
) {
    // Nearly every route has one path.
    if let [only] = paths {
        if !only.standing.is_refused() {
            only.standing = match next_hops.metric(only.next_hop) {
                Some(_) => PackedStanding::BEST,
                None => PackedStanding::UNREACHABLE,
            };
        }
        return;
    }
    let Some(best) = choose(paths, next_hops, normal, &announcer) else { return };
    paths.swap(0, best);
    mark_multipath(paths, wanted.multipath, &announcer);
    if wanted.ranked > 1 {
        rank(paths, next_hops, wanted.ranked, normal, &announcer);
    }
}

/// The best without the better ones, and the best without that, and so on. All steps but MED are one order among all
/// paths; MED, which compares some paths and not others, has its say among those that the steps before it leave equal.
fn rank(
    paths: &mut [Path],
    next_hops: &NextHops,
    ranked: usize,
    normal: u32,
    announcer: &impl Fn(PeerSlot) -> Announcer,
) {
    let beaten = is_own_beaten(paths, normal);
    let before_med = |path: &Path| before_med(path, normal, beaten);
    let Some((_, others)) = paths.split_first_mut() else { return };
    others.sort_by_cached_key(|path| {
        let external = path.peer == OWN || announcer(path.peer).ebgp;
        let after_med = (!external, next_hops.metric(path.next_hop), last_steps(path, announcer));
        (!path.standing.is_eligible(), before_med(path), after_med)
    });
    let eligible = others.iter().take_while(|path| path.standing.is_eligible()).count();
    let mut left = ranked.saturating_sub(1);
    #[expect(clippy::indexing_slicing, reason = "counted just above")]
    let mut rest = &mut others[..eligible];
    while let Some(first) = rest.first().map(&before_med)
        && left > 0
    {
        let equal = rest.iter().take_while(|path| before_med(path) == first).count();
        let (class, after) = rest.split_at_mut(equal);
        rank_by_med(class, left);
        left = left.saturating_sub(equal);
        rest = after;
    }
}

/// The steps before MED.
fn before_med(path: &Path, normal: u32, beaten: bool) -> (bool, bool, Reverse<i64>, usize, Origin) {
    let attributes = &*path.attributes;
    (
        path.peer != OWN || beaten,
        attributes.has_community(WellKnown::LLGR_STALE),
        Reverse(preference(attributes.local_pref(), normal)),
        attributes.as_path.length(),
        attributes.origin,
    )
}

/// Puts the first so many in their order, of paths that are in the order of the steps after MED: the next is always the
/// first of which no neighbour's other path has a lesser MED.
#[expect(clippy::indexing_slicing, reason = "numbers are those of classes, places those of `order`")]
fn rank_by_med(paths: &mut [Path], most: usize) {
    let Some(first) = paths.first().map(med) else { return };
    if paths.iter().all(|path| med(path) == first) {
        return;
    }
    // By neighbour, then MED; of one MED by their order.
    let mut all: Vec<((Option<u32>, u32), usize)> = paths.iter().map(through).zip(0..).collect();
    all.sort_unstable();
    let mut classes = all.chunk_by(|(one, _), (other, _)| one == other).map(Class::new).collect::<Vec<_>>();
    // A neighbour's paths with its least MED wait to be the next, and behind them those with the next least.
    let mut waiting = BinaryHeap::new();
    let mut neighbour_before = None;
    for (number, class) in classes.iter().enumerate() {
        if neighbour_before.replace(class.neighbour) != Some(class.neighbour) {
            waiting.extend(class.places.iter().map(|&(_, at)| Reverse((at, number))));
        }
    }
    let mut order: Vec<usize> = Vec::new();
    while order.len() < most
        && let Some(Reverse((at, number))) = waiting.pop()
    {
        order.push(at);
        classes[number].left -= 1;
        let neighbour = classes[number].neighbour;
        if classes[number].left == 0
            && let Some(next) = classes.get(number + 1).filter(|next| next.neighbour == neighbour)
        {
            waiting.extend(next.places.iter().map(|&(_, at)| Reverse((at, number + 1))));
        }
    }
    for place in 0..order.len() {
        // What stood in a place that has been filled stands where the one for it had stood.
        let mut from = order[place];
        while from < place {
            from = order[from];
        }
        paths.swap(place, from);
    }
}

/// Paths through one neighbour with one MED.
struct Class<'a> {
    neighbour: Option<u32>,
    places: &'a [((Option<u32>, u32), usize)],
    /// Those that have no place yet.
    left: usize,
}

impl<'a> Class<'a> {
    fn new(places: &'a [((Option<u32>, u32), usize)]) -> Class<'a> {
        let neighbour = places.first().and_then(|&((neighbour, _), _)| neighbour);
        Class { neighbour, places, left: places.len() }
    }
}

/// The order of those between which only the last steps decide.
type LastSteps = (Ipv4Addr, usize, Option<(IpAddr, PeerSlot)>, PathId);

fn last_steps(path: &Path, announcer: &impl Fn(PeerSlot) -> Announcer) -> LastSteps {
    (
        identifier(path, announcer),
        path.attributes.cluster_list.len(),
        (path.peer != OWN).then(|| (announcer(path.peer).address, path.peer)),
        path.id,
    )
}

/// Of the paths that lost at the last steps only, the first ones with next hops of their own are used beside the
/// best, which stands first. As in BIRD, their AS_PATHs need only be of one length: a node with uplinks to two
/// neighbours of different ASes is what this is for.
fn mark_multipath(paths: &mut [Path], multipath: Multipath, announcer: &impl Fn(PeerSlot) -> Announcer) {
    let Some((best, others)) = paths.split_first_mut() else { return };
    if best.peer == OWN {
        return;
    }
    let most = usize::from(if announcer(best.peer).ebgp { multipath.ebgp } else { multipath.ibgp });
    if most <= 1 {
        return;
    }
    let equal = [LostAt::RouterId, LostAt::ClusterListLength, LostAt::PeerAddress, LostAt::PathId]
        .map(PackedStanding::lost);
    let mut equals: SmallVec<[&mut Path; 8]> =
        others.iter_mut().filter(|path| equal.contains(&path.standing)).collect();
    equals.sort_by_cached_key(|path| last_steps(path, announcer));
    let mut used: SmallVec<[NextHopId; 8]> = SmallVec::from_slice(&[best.next_hop]);
    for path in equals {
        if used.len() < most && !used.contains(&path.next_hop) {
            used.push(path.next_hop);
            path.standing = PackedStanding::MULTIPATH;
        }
    }
}

/// RFC 4456 §9: the originator stands in for the reflector.
fn identifier(path: &Path, announcer: &impl Fn(PeerSlot) -> Announcer) -> Ipv4Addr {
    path.attributes.originator_id.unwrap_or_else(|| {
        if path.peer == OWN { Ipv4Addr::UNSPECIFIED } else { announcer(path.peer).router_id }
    })
}

/// Sets every path's standing as if these were all, and says where the best is.
fn choose(
    paths: &mut [Path],
    next_hops: &NextHops,
    normal: u32,
    announcer: &impl Fn(PeerSlot) -> Announcer,
) -> Option<usize> {
    for path in paths.iter_mut().filter(|path| !path.standing.is_refused()) {
        path.standing = match next_hops.metric(path.next_hop) {
            Some(_) => PackedStanding::BEST,
            None => PackedStanding::UNREACHABLE,
        };
    }

    if is_own_beaten(paths, normal) {
        prefer_least(paths, LostAt::LocalPref, |path| path.peer == OWN);
    }
    prefer_least(paths, LostAt::Own, |path| path.peer != OWN);
    let long_lived = |path: &Path| path.attributes.has_community(WellKnown::LLGR_STALE);
    prefer_least(paths, LostAt::LongLivedStale, long_lived);
    prefer_least(paths, LostAt::LocalPref, |path| Reverse(preference(path.attributes.local_pref(), normal)));
    prefer_least(paths, LostAt::AsPathLength, |path| path.attributes.as_path.length());
    prefer_least(paths, LostAt::Origin, |path| path.attributes.origin);
    strike_out_by_med(paths);
    prefer_least(paths, LostAt::EbgpOverIbgp, |path| path.peer != OWN && !announcer(path.peer).ebgp);
    // Only reachable ones are left.
    prefer_least(paths, LostAt::IgpMetric, |path| next_hops.metric(path.next_hop).unwrap_or(u32::MAX));
    prefer_least(paths, LostAt::RouterId, |path| identifier(path, announcer));
    prefer_least(paths, LostAt::ClusterListLength, |path| path.attributes.cluster_list.len());
    prefer_least(paths, LostAt::PeerAddress, |path| {
        (path.peer != OWN).then(|| (announcer(path.peer).address, path.peer))
    });

    prefer_least(paths, LostAt::PathId, |path| path.id);

    paths.iter().position(|path| path.standing == PackedStanding::BEST)
}

/// An own path that yields ([`Path::yields`]) does so to a peer's that stands for a better priority than its own and the
/// usual one.
fn is_own_beaten(paths: &[Path], normal: u32) -> bool {
    let worth = |path: &Path| preference(path.attributes.local_pref(), normal);
    let Some(own) = paths.iter().find(|path| path.yields()).map(worth) else { return false };
    paths.iter().any(|path| {
        path.peer != OWN
            && path.standing.is_eligible()
            && is_elevated(path.attributes.local_pref(), normal)
            && worth(path) > own
    })
}

fn standing(paths: &[Path]) -> impl Iterator<Item = &Path> {
    paths.iter().filter(|path| path.standing == PackedStanding::BEST)
}

/// Strikes out those whose key is not the least.
fn prefer_least<K: Ord>(paths: &mut [Path], step: LostAt, key: impl Fn(&Path) -> K) {
    let mut keys = standing(paths).map(&key);
    let Some(first) = keys.next() else { return };
    let Some(least) = keys.reduce(K::min).map(|least| least.min(first)) else { return };
    for path in paths.iter_mut().filter(|path| path.standing == PackedStanding::BEST) {
        if key(path) > least {
            path.standing = PackedStanding::lost(step);
        }
    }
}

/// RFC 4271 §9.1.2.2 c: among paths through the same neighbouring AS only. No MED is 0, the best.
fn strike_out_by_med(paths: &mut [Path]) {
    if standing(paths).all(|path| med(path) == 0) {
        return;
    }
    let mut all: Meds = standing(paths).map(through).collect();
    all.sort_unstable();
    // Of each neighbour the least comes first and stays.
    all.dedup_by_key(|(neighbour, _)| *neighbour);
    for path in paths.iter_mut().filter(|path| path.standing == PackedStanding::BEST) {
        let (neighbour, med) = through(path);
        #[expect(clippy::indexing_slicing, reason = "the search found it")]
        let least = all.binary_search_by_key(&neighbour, |&(of, _)| of).map_or(med, |at| all[at].1);
        if med > least {
            path.standing = PackedStanding::lost(LostAt::Med);
        }
    }
}

/// Neighbouring ASes with a MED each.
type Meds = SmallVec<[(Option<u32>, u32); 8]>;

fn through(path: &Path) -> (Option<u32>, u32) {
    (path.attributes.as_path.neighbour(), med(path))
}

fn med(path: &Path) -> u32 {
    path.attributes.med.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        attr::{Attributes, as_path::tests::path as as_path},
        event::NextHop,
        policy::NORMAL_PRIORITY,
        view::{RefusedBy, Standing},
    };

    /// Peers 0 to 9: addresses and identifiers 10.0.0.n and 1.1.1.n, the even ones eBGP.
    fn announcer(slot: PeerSlot) -> Announcer {
        let n = slot as u8;
        Announcer {
            address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)),
            router_id: Ipv4Addr::new(1, 1, 1, n),
            ebgp: n.is_multiple_of(2),
        }
    }

    /// Next hop n has metric 10 n; the fifth is unreachable.
    fn next_hops() -> NextHops {
        let mut next_hops = NextHops::default();
        for n in 0..6 {
            let next_hop = NextHop { address: IpAddr::V4(Ipv4Addr::new(10, 1, 0, n)), link_of: None };
            next_hops.number(next_hop);
            next_hops.set_metric(next_hop, (n != 5).then(|| u32::from(n) * 10));
        }
        next_hops
    }

    fn path(peer: PeerSlot, change: impl FnOnce(&mut Attributes)) -> Path {
        let mut attributes = Attributes::own(&[]);
        change(&mut attributes);
        Path {
            attributes: Arc::new(attributes),
            next_hop: 1,
            id: 0,
            peer,
            number: 0,
            generation: 0,
            standing: PackedStanding::DEFERRED,
        }
    }

    /// Who wins, and where the others lost, by peer.
    fn outcome(mut paths: Vec<Path>) -> Vec<(PeerSlot, Standing)> {
        select(&mut paths, &next_hops(), Wanted::default(), NORMAL_PRIORITY, announcer);
        let mut all: Vec<_> = paths.iter().map(|p| (p.peer, p.standing.unpack())).collect();
        if let Some(best) = all.iter().position(|(_, s)| *s == Standing::Best) {
            assert_eq!(best, 0, "the best is first");
        }
        all.sort_by_key(|(peer, _)| *peer);
        all
    }

    fn decided_at(winner: Path, loser: Path) -> LostAt {
        let result = outcome(vec![loser.clone(), winner.clone()]);
        assert_eq!(result, outcome(vec![winner.clone(), loser.clone()]));
        let of = |peer| result.iter().find(|(p, _)| *p == peer).unwrap().1;
        assert_eq!(of(winner.peer), Standing::Best);
        match of(loser.peer) {
            Standing::Lost(at) => at,
            other => panic!("{other:?}"),
        }
    }

    /// Behaviour 43: each step decides where those before it tie, though those after it speak for the loser.
    #[test]
    fn each_step_decides_in_its_turn() {
        let id = |n| Some(Ipv4Addr::new(9, 9, 9, n));
        let mut own = path(OWN, |_| ());
        own.next_hop = super::super::table::NO_NEXT_HOP;
        assert_eq!(decided_at(own, path(1, |a| a.local_pref = Some(200))), LostAt::Own);
        assert_eq!(
            decided_at(
                path(3, |a| (a.local_pref, a.as_path) = (Some(101), as_path(&[1, 2]))),
                path(1, |a| a.as_path = as_path(&[1]))
            ),
            LostAt::LocalPref
        );
        assert_eq!(
            decided_at(
                path(3, |a| (a.as_path, a.origin) = (as_path(&[1]), Origin::Incomplete)),
                path(1, |a| a.as_path = as_path(&[1, 2]))
            ),
            LostAt::AsPathLength
        );
        assert_eq!(
            decided_at(path(3, |a| a.med = Some(5)), path(1, |a| a.origin = Origin::Egp)),
            LostAt::Origin
        );
        assert_eq!(decided_at(path(3, |_| ()), path(2, |a| a.med = Some(1))), LostAt::Med);
        let mut far = path(4, |_| ());
        far.next_hop = 4;
        assert_eq!(decided_at(far, path(1, |_| ())), LostAt::EbgpOverIbgp);
        let mut far = path(1, |_| ());
        far.next_hop = 2;
        assert_eq!(decided_at(path(3, |_| ()), far), LostAt::IgpMetric);
        assert_eq!(
            decided_at(
                path(3, |a| (a.originator_id, a.cluster_list) = (id(1), [Ipv4Addr::LOCALHOST; 3].into())),
                path(1, |a| a.originator_id = id(2))
            ),
            LostAt::RouterId
        );
        assert_eq!(
            decided_at(
                path(3, |a| a.originator_id = id(1)),
                path(1, |a| (a.originator_id, a.cluster_list) = (id(1), [Ipv4Addr::LOCALHOST].into()))
            ),
            LostAt::ClusterListLength
        );
        assert_eq!(
            decided_at(path(1, |a| a.originator_id = id(1)), path(3, |a| a.originator_id = id(1))),
            LostAt::PeerAddress
        );
    }

    /// Behaviour 44: the classic case in which comparing by pairs has no answer.
    #[test]
    fn the_classic_med_case_has_one_result_in_all_six_orders() {
        // 1 and 3 come through AS 100; 3 has the better MED, 2's neighbour is another, and by identifier 1 < 2 < 3.
        let paths = [
            path(1, |a| (a.as_path, a.med) = (as_path(&[100]), Some(20))),
            path(5, |a| (a.as_path, a.med) = (as_path(&[200]), Some(30))),
            path(7, |a| (a.as_path, a.med) = (as_path(&[100]), Some(10))),
        ];
        let expected = outcome(paths.to_vec());
        assert_eq!(
            expected,
            [(1, Standing::Lost(LostAt::Med)), (5, Standing::Best), (7, Standing::Lost(LostAt::RouterId))]
        );
        for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            assert_eq!(outcome(order.map(|i: usize| paths[i].clone()).to_vec()), expected);
        }
    }

    /// Behaviour 44, RFC 4271 §9.1.2.2 c: of our own AS is what it made, and what it made of others by aggregation.
    #[test]
    fn meds_of_paths_that_begin_with_a_set_are_compared_as_our_own_ases_and_with_nobody_elses() {
        let set = |number: u8| crate::attr::as_path::AsPath::parse(&[1, 1, 0, 0, 0, number], true).unwrap();
        for (other, expected) in [
            (set(9), [Standing::Lost(LostAt::Med), Standing::Best]),
            (as_path(&[8]), [Standing::Best, Standing::Lost(LostAt::RouterId)]),
        ] {
            let first = path(1, |a| (a.as_path, a.med) = (set(8), Some(20)));
            let second = path(3, |a| (a.as_path, a.med) = (other.clone(), Some(10)));
            let seen: Vec<Standing> = outcome(vec![first, second]).into_iter().map(|(_, s)| s).collect();
            assert_eq!(seen, expected, "{other}");
        }
    }

    /// Behaviour 45.
    #[test]
    fn an_unreachable_next_hop_and_a_refusal_take_a_path_out() {
        let mut unreachable = path(1, |a| a.local_pref = Some(500));
        unreachable.next_hop = 5;
        let mut refused = path(3, |a| a.local_pref = Some(400));
        refused.standing = PackedStanding::refused(RefusedBy::AsLoop);
        assert_eq!(
            outcome(vec![unreachable.clone(), refused.clone(), path(7, |_| ())]),
            [(1, Standing::Unreachable), (3, Standing::Refused(RefusedBy::AsLoop)), (7, Standing::Best)]
        );
        assert_eq!(outcome(vec![unreachable]), [(1, Standing::Unreachable)]);
        assert_eq!(outcome(vec![refused]), [(3, Standing::Refused(RefusedBy::AsLoop))]);
    }

    fn any_path(peer: PeerSlot) -> impl Strategy<Value = Path> {
        (99u32..102, 1u32..3, 0usize..3, 0u32..3, 0u32..6, 0u8..3, 0usize..2).prop_map(
            move |(pref, neighbour, longer, med, next_hop, originator, clusters)| {
                let mut path = path(peer, |a| {
                    a.local_pref = Some(pref);
                    a.as_path = as_path(&vec![neighbour; 1 + longer / 2]);
                    a.med = med.checked_sub(1);
                    a.originator_id = originator.checked_sub(1).map(|n| Ipv4Addr::new(1, 1, 1, n));
                    a.cluster_list = vec![Ipv4Addr::LOCALHOST; clusters].into();
                });
                path.next_hop = next_hop;
                path
            },
        )
    }

    const ALL: Wanted = Wanted { multipath: Multipath { ebgp: 3, ibgp: 3 }, ranked: 64 };

    /// In their order, with where each stands.
    fn ranking(mut paths: Vec<Path>) -> Vec<(PeerSlot, Standing)> {
        select(&mut paths, &next_hops(), ALL, NORMAL_PRIORITY, announcer);
        paths.iter().map(|path| (path.peer, path.standing.unpack())).collect()
    }

    /// By the classic case: without the best, another one loses at MED that did not stand a chance before.
    #[test]
    fn the_next_best_is_the_best_of_those_that_are_left() {
        let paths = [
            path(1, |a| (a.as_path, a.med) = (as_path(&[100]), Some(20))),
            path(5, |a| (a.as_path, a.med) = (as_path(&[200]), Some(30))),
            path(7, |a| (a.as_path, a.med) = (as_path(&[100]), Some(10))),
        ];
        // 5 by identifier, since 7 strikes out 1; then 7, for it still does; 1 is the last, with the least identifier.
        let order: Vec<PeerSlot> = ranking(paths.to_vec()).into_iter().map(|(peer, _)| peer).collect();
        assert_eq!(order, [5, 7, 1]);
    }

    proptest! {
        /// Behaviour 44.
        #[test]
        fn of_each_neighbouring_as_those_with_the_least_med_go_on(
            through in prop::collection::vec((1u32..6, prop::option::of(0u32..4)), 2..40),
        ) {
            let paths = through.iter().zip(0..).map(|(&(neighbour, med), slot)| {
                path(slot, |a| (a.as_path, a.med) = (as_path(&[neighbour]), med))
            });
            for (slot, standing) in outcome(paths.collect()) {
                let (neighbour, med) = through[usize::from(slot)];
                let beaten = through.iter().any(|&(of, other)| {
                    of == neighbour && other.unwrap_or(0) < med.unwrap_or(0)
                });
                prop_assert_eq!(standing == Standing::Lost(LostAt::Med), beaten);
            }
        }

        /// As many as the classes of MED need to follow one another, and to be cut off.
        #[test]
        fn among_many_paths_that_med_tells_apart_each_rank_is_the_best_without_those_before_it(
            through in prop::collection::vec((1u32..5, 0u32..4, 0u8..4), 2..30),
            ranked in 2usize..20,
        ) {
            let paths = through.into_iter().zip(0..).map(|((neighbour, med, originator), slot)| path(slot, |a| {
                (a.as_path, a.med) = (as_path(&[neighbour]), Some(med));
                a.originator_id = Some(Ipv4Addr::new(1, 1, 1, originator));
            }));
            let mut left: Vec<Path> = paths.collect();
            let mut all = left.clone();
            select(&mut all, &next_hops(), Wanted { ranked, ..Wanted::default() }, NORMAL_PRIORITY, announcer);
            for path in all.iter().take(ranked) {
                select(&mut left, &next_hops(), Wanted::default(), NORMAL_PRIORITY, announcer);
                prop_assert_eq!(left.remove(0).peer, path.peer);
            }
        }

        #[test]
        fn each_rank_is_the_best_without_those_before_it_and_the_order_of_arrival_changes_none(
            paths in (any_path(0), any_path(1), any_path(2), any_path(3), any_path(4))
                .prop_map(|(a, b, c, d, e)| vec![a, b, c, d, e])
                .prop_flat_map(|paths| (Just(paths.clone()), Just(paths).prop_shuffle())),
        ) {
            let (mut left, shuffled) = paths;
            let ranked = ranking(left.clone());
            let eligible = |(_, standing): &&(PeerSlot, Standing)| *standing != Standing::Unreachable;
            prop_assert!(ranked.iter().take_while(eligible).eq(ranking(shuffled).iter().take_while(eligible)));
            // Where each stands is a matter of the whole choice.
            let standings = outcome(left.clone());
            for (peer, standing) in &ranked {
                let alone = standings.iter().find(|(of, _)| of == peer).map(|(_, standing)| *standing);
                prop_assert!(*standing == Standing::Multipath || alone == Some(*standing));
            }
            for (peer, _) in ranked.iter().take_while(eligible) {
                select(&mut left, &next_hops(), Wanted::default(), NORMAL_PRIORITY, announcer);
                prop_assert_eq!(left.remove(0).peer, *peer);
            }
            let used = ranked.iter().filter(|(_, standing)| *standing == Standing::Multipath).count();
            prop_assert!(used < 3);
        }

        #[test]
        fn the_order_of_arrival_changes_nothing(
            paths in (any_path(0), any_path(1), any_path(2), any_path(3), any_path(4))
                .prop_map(|(a, b, c, d, e)| vec![a, b, c, d, e])
                .prop_flat_map(|paths| (Just(paths.clone()), Just(paths).prop_shuffle())),
        ) {
            prop_assert_eq!(outcome(paths.0), outcome(paths.1));
        }
    }
}
