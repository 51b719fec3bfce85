//! Which of several next hops a flow takes: its hash chooses a bucket, and a bucket names a next hop. A next hop
//! that is lost gives up its own buckets and moves no other; one that comes takes its fair share, no more.

use std::collections::BTreeSet;

use manx_abi::BUCKETS;

/// Next hop by bucket.
pub(super) type Assignment<T> = [T; BUCKETS];

/// Buckets for these next hops, 1 to [`BUCKETS`] of them, distinct. As many as can be stay as they were `before`.
pub(super) fn assign<T: Copy + Ord>(hops: &[T], before: Option<&Assignment<T>>) -> Option<Assignment<T>> {
    let first = *hops.first()?;
    let wanted: BTreeSet<T> = hops.iter().copied().collect();
    let had: BTreeSet<T> = before.into_iter().flatten().copied().collect();
    let share = BUCKETS / wanted.len().max(1);
    let mut buckets: [Option<T>; BUCKETS] = [None; BUCKETS];
    for (bucket, hop) in buckets.iter_mut().zip(before.into_iter().flatten()) {
        *bucket = wanted.contains(hop).then_some(*hop);
    }
    let mut counts: Vec<(T, usize)> =
        wanted.iter().map(|hop| (*hop, buckets.iter().flatten().filter(|has| *has == hop).count())).collect();
    // Those without a next hop go to whoever has fewest. In turn, so that fresh ones alternate.
    for bucket in buckets.iter_mut().filter(|bucket| bucket.is_none()) {
        let (hop, count) = counts.iter_mut().min_by_key(|(_, count)| *count)?;
        *count += 1;
        *bucket = Some(*hop);
    }
    for newcomer in wanted.difference(&had) {
        loop {
            let count = |hop: &T, counts: &[(T, usize)]| {
                counts.iter().find(|(of, _)| of == hop).map_or(0, |(_, count)| *count)
            };
            let (Some((richest, most)), fewest) =
                (counts.iter().copied().max_by_key(|(_, count)| *count), count(newcomer, &counts))
            else {
                break;
            };
            if fewest >= share || most <= fewest + 1 {
                break;
            }
            let Some(bucket) = buckets.iter_mut().find(|bucket| **bucket == Some(richest)) else { break };
            *bucket = Some(*newcomer);
            for (hop, count) in &mut counts {
                *count = *count + usize::from(hop == newcomer) - usize::from(*hop == richest);
            }
        }
    }
    Some(buckets.map(|bucket| bucket.unwrap_or(first)))
}

/// No bucket of a next hop that is still wanted would move.
pub(super) fn agrees<T: Copy + Ord>(found: &Assignment<T>, before: &Assignment<T>) -> bool {
    let has: BTreeSet<T> = found.iter().copied().collect();
    found.iter().zip(before).all(|(now, then)| now == then || !has.contains(then))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(buckets: &Assignment<u8>, hop: u8) -> usize {
        buckets.iter().filter(|has| **has == hop).count()
    }

    #[test]
    fn next_hops_share_evenly() {
        for hops in 1..=BUCKETS as u8 {
            let all: Vec<u8> = (0..hops).collect();
            let buckets = assign(&all, None).unwrap();
            for hop in all {
                let has = count(&buckets, hop);
                assert!(
                    has == BUCKETS / usize::from(hops) || has == BUCKETS.div_ceil(hops.into()),
                    "{hop}: {has}"
                );
            }
        }
        assert_eq!(assign::<u8>(&[], None), None);
    }

    proptest! {
        #[test]
        fn a_lost_next_hop_takes_only_its_own_buckets_and_a_new_one_its_share(
            steps in prop::collection::vec(prop::collection::btree_set(0u8..12, 1..9), 2..12)
        ) {
            let mut before: Option<(BTreeSet<u8>, Assignment<u8>)> = None;
            for hops in steps {
                let list: Vec<u8> = hops.iter().copied().collect();
                let now = assign(&list, before.as_ref().map(|(_, buckets)| buckets)).unwrap();
                prop_assert!(now.iter().all(|hop| hops.contains(hop)));
                if let Some((had, then)) = &before {
                    let new: BTreeSet<u8> = hops.difference(had).copied().collect();
                    for (now, then) in now.iter().zip(then) {
                        // A bucket moves because its next hop is lost, or to a new one.
                        prop_assert!(now == then || !hops.contains(then) || new.contains(now));
                    }
                    prop_assert_eq!(agrees(&now, then), new.iter().all(|hop| {
                        now.iter().zip(then).all(|(now, then)| now != hop || !hops.contains(then))
                    }));
                }
                for hop in &hops {
                    prop_assert!(count(&now, *hop) >= BUCKETS / hops.len() / 2, "{:?}", now);
                }
                before = Some((hops, now));
            }
        }
    }
}
