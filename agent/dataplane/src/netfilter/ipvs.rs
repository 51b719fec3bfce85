//! IPVS, as kube-proxy's mode of that name uses it. It translates connections beside nftables, and conntrack does not mark
//! their entries as translated (`ip_vs_update_conntrack` alters the tuple of the answers and sets no status), so that a
//! guard that asks for the status would carry answers with the server's address in the place of the service's.

use std::{fs, io};

use crate::reach::Family;

/// Virtual services of the thread's network namespace.
const SERVICES: &str = "/proc/thread-self/net/ip_vs";

/// Why nothing can be concluded from conntrack for the family, if IPVS serves it.
pub(super) fn obstacle(family: Family) -> Option<String> {
    match fs::read_to_string(SERVICES) {
        Ok(text) => has_service(&text, family).then(|| {
            "IPVS has virtual services, of kube-proxy's mode ipvs for instance, and conntrack does not tell which \
             connections it translates"
                .to_owned()
        }),
        // Such a kernel has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("{SERVICES}: {error}")),
    }
}

/// A line per service (`ip_vs_info_seq_show`): the protocol, and an address in hexadecimal digits or, of IPv6, in brackets.
/// One for a mark does not say for which family it is. Lines of servers begin with an arrow.
fn has_service(text: &str, family: Family) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("FWM"), Some(_)) => true,
            (Some("TCP" | "UDP" | "SCTP"), Some(address)) => {
                address.starts_with('[') == (family == Family::Ipv6)
            }
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &str = "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
";
    const IPV4: &str = "TCP  0A60000A:0050 rr
  -> AC100A01:1B58      Masq    1      0          0
UDP  0A60000A:0035 rr persistent 10800
";
    const IPV6: &str = "TCP  [fd00:0096:0000:0000:0000:0000:0000:000a]:0050 rr
  -> [fd00:0172:0000:000a:0000:0000:0000:0001]:1B58      Masq    1      0          0
";

    #[test]
    fn each_family_has_services_of_its_own() {
        for (services, expected) in [
            ("", [false, false]),
            (IPV4, [true, false]),
            (IPV6, [false, true]),
            ("FWM  00000001 rr\n", [true, true]),
        ] {
            let text = format!("{NONE}{services}");
            let found = [Family::Ipv4, Family::Ipv6].map(|family| has_service(&text, family));
            assert_eq!(found, expected, "{text}");
        }
    }
}
