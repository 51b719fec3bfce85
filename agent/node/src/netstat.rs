//! What the kernel has counted of segments that it dropped for a peer's protection. It does so in silence; these
//! counters of the network namespace are the only trace.

use std::{collections::HashMap, fs};

const COUNTERS: [(&str, &str); 4] = [
    ("TCPMD5NotFound", "unsigned, where a peer has a password"),
    ("TCPMD5Unexpected", "signed, where no peer has a password"),
    ("TCPMD5Failure", "signed with another password than the peer's"),
    ("TCPMinTTLDrop", "with a lower TTL than ttlSecurity allows"),
];

/// The counters as they were when the daemon started.
#[derive(Debug)]
pub struct Dropped {
    before: HashMap<&'static str, u64>,
}

impl Dropped {
    pub fn from_now() -> Dropped {
        Dropped { before: counters() }
    }

    /// A sentence for each counter that has risen since.
    pub fn since(&self) -> Vec<String> {
        let now = counters();
        let risen = |name: &str| {
            let before = self.before.get(name).copied().unwrap_or_default();
            now.get(name).copied().unwrap_or_default().saturating_sub(before)
        };
        COUNTERS
            .into_iter()
            .map(|(name, what)| (risen(name), name, what))
            .filter(|(segments, ..)| *segments > 0)
            .map(|(segments, name, what)| {
                format!("the kernel has dropped TCP segments {what}: {segments} ({name}) since manxd started")
            })
            .collect()
    }
}

fn counters() -> HashMap<&'static str, u64> {
    // Not there in a kernel without statistics: then there is nothing to tell.
    parse(&fs::read_to_string("/proc/net/netstat").unwrap_or_default())
}

/// Lines in pairs, `TcpExt: names` and `TcpExt: numbers`.
fn parse(text: &str) -> HashMap<&'static str, u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else { return HashMap::new() };
    let ours = |name: &str| COUNTERS.iter().map(|(ours, _)| *ours).find(|ours| *ours == name);
    names
        .split_whitespace()
        .zip(numbers.split_whitespace())
        .filter_map(|(name, number)| Some((ours(name)?, number.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name_in_the_kernels_table() {
        let text = "TcpExt: SyncookiesSent TCPMD5NotFound TCPMD5Failure\nTcpExt: 7 8 9\nIpExt: InNoRoutes\nIpExt: 1\n";
        assert_eq!(parse(text), HashMap::from([("TCPMD5NotFound", 8), ("TCPMD5Failure", 9)]));
        assert!(parse("").is_empty());
        assert!(counters().contains_key("TCPMD5Failure"), "the running kernel's");
    }
}
