//! Parameters of iptables' extensions, as far as anything hangs on them. Layouts are those of the kernel's headers.

/// `struct xt_ct_target_info`: flags, zone, two masks of events, the name of a helper; from revision 1 on the name of a
/// timeout policy.
mod ct {
    pub const ZONE: usize = 2;
    /// The packet's mark is the zone.
    pub const ZONE_BY_MARK: u16 = 1 << 4;
    pub const TIMEOUT: usize = 28;
}

fn half(parameters: &[u8], at: usize) -> u16 {
    parameters.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |octets| u16::from_ne_bytes(*octets))
}

/// `-j CT --zone`.
pub(super) fn has_zone(parameters: &[u8]) -> bool {
    half(parameters, 0) & ct::ZONE_BY_MARK != 0 || half(parameters, ct::ZONE) != 0
}

/// `-j CT --timeout`.
pub(super) fn has_timeout(parameters: &[u8]) -> bool {
    // Revision 0 ends with the kernel's own pointer, at the next multiple of 8.
    parameters.len() > ct::TIMEOUT + 12 && parameters.get(ct::TIMEOUT).is_some_and(|octet| *octet != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_and_timeouts_of_the_ct_target_are_seen_and_short_parameters_have_none() {
        let mut plain = [0u8; 72];
        plain[0] = 1;
        assert!(!has_zone(&plain) && !has_timeout(&plain), "--notrack");
        let (mut zone, mut by_mark, mut timeout) = (plain, plain, plain);
        zone[2] = 5;
        by_mark[0] = 1 << 4;
        timeout[28] = b'f';
        assert!(has_zone(&zone) && has_zone(&by_mark) && !has_zone(&timeout));
        assert!(has_timeout(&timeout) && !has_timeout(&zone));
        for end in 0..28 {
            assert!(!has_timeout(&timeout[..end]));
            assert!(end >= 4 || !has_zone(&zone[..end]));
        }
    }
}
