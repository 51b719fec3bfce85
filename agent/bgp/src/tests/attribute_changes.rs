//! A route that changes in a single attribute: the others are told of it, and of just what may leave.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    export_by_group::{Star, apply},
    network::prefix,
    script::{attribute, mandatory, update, with},
};
use crate::{
    attr::flag::{OPTIONAL, TRANSITIVE},
    message::Message,
};

const A: &str = "10.1.0.0/16";
const BOTH: u8 = OPTIONAL | TRANSITIVE;

/// Name, flags and code of an attribute, and two values of which the second is the news.
type Pair = (&'static str, u8, u8, Vec<u8>, Vec<u8>);

fn pairs(path: &[u32]) -> Vec<Pair> {
    let longer = |more: u8| {
        let mut value = vec![2, path.len() as u8 + 1];
        path.iter().for_each(|number| value.extend(number.to_be_bytes()));
        value.extend([0, 0, 0, more]);
        value
    };
    vec![
        ("ORIGIN", TRANSITIVE, 1, vec![0], vec![1]),
        ("AS_PATH", TRANSITIVE, 2, longer(7), longer(8)),
        ("NEXT_HOP", TRANSITIVE, 3, vec![10, 0, 0, 2], vec![10, 0, 0, 99]),
        ("MED", OPTIONAL, 4, vec![0, 0, 0, 1], vec![0, 0, 0, 2]),
        ("LOCAL_PREF", TRANSITIVE, 5, vec![0, 0, 0, 1], vec![0, 0, 0, 2]),
        ("AGGREGATOR", BOTH, 7, vec![0, 0, 0, 9, 1, 1, 1, 1], vec![0, 0, 0, 9, 1, 1, 1, 2]),
        ("COMMUNITIES", BOTH, 8, vec![0, 9, 0, 1], vec![0, 9, 0, 2]),
        ("ORIGINATOR_ID", OPTIONAL, 9, vec![7, 7, 7, 7], vec![7, 7, 7, 8]),
        ("CLUSTER_LIST", OPTIONAL, 10, vec![7, 7, 7, 7], vec![7, 7, 7, 8]),
        ("EXTENDED COMMUNITIES", BOTH, 16, vec![0, 2, 0, 1, 0, 0, 0, 1], vec![0, 2, 0, 1, 0, 0, 0, 2]),
        ("LARGE_COMMUNITY", BOTH, 32, vec![1; 12], vec![2; 12]),
        ("unknown", BOTH, 99, vec![1], vec![2]),
    ]
}

/// Behaviour 48: nothing is sent where the bytes are the same, and this where they are not.
#[test]
fn a_change_of_any_attribute_that_leaves_is_told_and_of_any_that_does_not_is_not() {
    for ebgp in [false, true] {
        let path: &[u32] = if ebgp { &[64600] } else { &[] };
        // RFC 4271 §5.1: what stays within the AS, and NEXT_HOP is our own towards another.
        let stays: &[u8] = if ebgp { &[3, 4, 5, 9, 10] } else { &[] };
        for (name, flags, code, before, after) in pairs(path) {
            let mut star = Star::new(2, ebgp);
            let set = |value: &[u8]| {
                let mut all: Vec<_> = mandatory(path).into_iter().filter(|held| held[1] != code).collect();
                all.push(attribute(flags, code, value));
                update(&[], &all, &[A])
            };
            let told = usize::from(!stays.contains(&code));
            // A next hop that nobody uses is unknown at first, and its routes are nobody's best until it is not.
            for last in [2, 99] {
                let mut known = mandatory(path);
                known[2] = attribute(TRANSITIVE, 3, &[10, 0, 0, last]);
                star.give(0, update(&[], &known, &[&format!("10.{last}.0.0/16")]));
            }
            star.take(1, usize::MAX);
            star.give(0, set(&before));
            assert_eq!(star.take(1, usize::MAX).len(), 1, "{name}");
            star.give(0, set(&after));
            let sent = star.take(1, usize::MAX);
            assert_eq!(sent.len(), told, "{name} changes, eBGP: {ebgp}");
            // And that it is the new value which was told.
            let mut state = BTreeMap::new();
            apply(&mut state, &sent);
            let told_now = state.get(&prefix(A)).cloned();
            star.give(0, set(&before));
            apply(&mut state, &star.take(1, usize::MAX));
            assert_eq!(state.get(&prefix(A)) != told_now.as_ref(), told == 1, "{name}");
            // It goes, and it comes.
            if code > 3 {
                star.give(0, update(&[], &mandatory(path), &[A]));
                assert_eq!(star.take(1, usize::MAX).len(), told, "{name} goes, eBGP: {ebgp}");
                star.give(0, set(&before));
                assert_eq!(star.take(1, usize::MAX).len(), told, "{name} comes, eBGP: {ebgp}");
            }
        }
        let atomic = with(mandatory(path), attribute(TRANSITIVE, 6, &[]));
        let mut star = Star::new(2, ebgp);
        star.give(0, update(&[], &mandatory(path), &[A]));
        assert_eq!(star.take(1, usize::MAX).len(), 1);
        star.give(0, update(&[], &atomic, &[A]));
        assert_eq!(star.take(1, usize::MAX).len(), 1, "ATOMIC_AGGREGATE comes");
    }
}

/// RFC 4360 §6: an extended community that is not transitive stays within the AS; alone, it takes its attribute along.
#[test]
fn extended_communities_that_are_not_transitive_do_not_leave_the_as() {
    let (stays, goes) = ([0x40, 4, 0, 1, 0, 0, 0, 1], [0, 2, 0, 1, 0, 0, 0, 2]);
    for ebgp in [false, true] {
        let path: &[u32] = if ebgp { &[64600] } else { &[] };
        for (value, beyond) in
            [([stays, goes].concat(), &[goes][..]), (stays.to_vec(), &[]), (goes.to_vec(), &[goes])]
        {
            let mut star = Star::new(2, ebgp);
            star.give(0, update(&[], &with(mandatory(path), attribute(BOTH, 16, &value)), &[A]));
            let Some(Message::Update(body)) = star.take(1, usize::MAX).pop() else { panic!("nothing sent") };
            let seen: BTreeSet<[u8; 8]> =
                [stays, goes].into_iter().filter(|one| body.windows(8).any(|w| w == one)).collect();
            let within: BTreeSet<[u8; 8]> = value.as_chunks::<8>().0.iter().copied().collect();
            assert_eq!(seen, if ebgp { beyond.iter().copied().collect() } else { within });
            assert!(!body.windows(2).any(|w| w == [BOTH, 16]) || !seen.is_empty(), "an empty attribute");
        }
    }
}
