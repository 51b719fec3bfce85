//! Calico's priorities in LOCAL_PREF. Since v3.32 its nodes send a route's metric there, counted down from 2147483647; older
//! ones send 100. Where both are heard, 2147482623 and 100 mean the same: a route of the usual priority.

use crate::attr::DEFAULT_LOCAL_PREF;

/// LOCAL_PREF as Calico counts it: down from here, so that the lower priority, which is a metric, is the better.
const ORIGIN: u32 = 2_147_483_647;

/// From here on LOCAL_PREF stands for a priority. Calico takes any number so; but what operators write by hand are hundreds
/// and thousands, and what its nodes send are priorities of at most some thousands.
const LEAST: u32 = 2_000_000_000;

/// The priority of Calico's usual routes where nobody says another.
pub const NORMAL: u32 = 1024;

/// The LOCAL_PREF that stands for a priority (a metric of Calico's); 0 for one that is out of range.
pub const fn local_pref_of_priority(priority: u32) -> u32 {
    ORIGIN.saturating_sub(priority)
}

/// The priority that a LOCAL_PREF stands for, if it does.
pub const fn priority_of_local_pref(local_pref: u32) -> Option<u32> {
    if local_pref >= LEAST && local_pref < ORIGIN { Some(ORIGIN - local_pref) } else { None }
}

/// What LOCAL_PREF is worth beside others, where `normal` is the usual priority: what stands for that is worth 100, as a
/// route without a priority is, and each step up or down one. 0 is worth least: so says whoever is about to leave
/// (RFC 8326 §4.2).
pub(crate) const fn preference(local_pref: u32, normal: u32) -> i64 {
    match priority_of_local_pref(local_pref) {
        Some(priority) => DEFAULT_LOCAL_PREF as i64 + normal as i64 - priority as i64,
        None if local_pref == 0 => i64::MIN,
        None => local_pref as i64,
    }
}

/// Whether LOCAL_PREF stands for a better priority than the usual one: a pod that is about to move has it where it will be.
pub const fn is_elevated(local_pref: u32, normal: u32) -> bool {
    matches!(priority_of_local_pref(local_pref), Some(priority) if priority < normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_priority_is_worth_what_an_old_nodes_route_is() {
        assert_eq!(local_pref_of_priority(1024), 2_147_482_623);
        assert_eq!(preference(2_147_482_623, NORMAL), preference(100, NORMAL));
        assert_eq!(preference(local_pref_of_priority(2000), 2000), preference(100, 2000));
    }

    #[test]
    fn an_elevated_priority_is_worth_more_and_a_lower_one_less() {
        let worth = |priority| preference(local_pref_of_priority(priority), NORMAL);
        assert!(worth(512) > preference(100, NORMAL));
        assert!(worth(512) > worth(513) && worth(1024) > worth(1025));
        assert!(worth(100_000) < preference(1, NORMAL));
        // Whoever leaves is the last resort all the same.
        assert!(worth(100_000) > preference(0, NORMAL));
    }

    #[test]
    fn what_operators_write_is_compared_as_it_is() {
        for local_pref in [0, 1, 100, 1_000_000, LEAST - 1, ORIGIN, u32::MAX] {
            assert_eq!(priority_of_local_pref(local_pref), None, "{local_pref}");
        }
        for priority in [1, 512, 1024, ORIGIN - LEAST] {
            assert_eq!(priority_of_local_pref(local_pref_of_priority(priority)), Some(priority));
        }
        assert!(preference(200, NORMAL) > preference(100, NORMAL));
        assert!(preference(u32::MAX, NORMAL) > preference(LEAST - 1, NORMAL));
    }
}
