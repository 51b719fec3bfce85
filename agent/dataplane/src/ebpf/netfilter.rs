//! Whether netfilter tracks connections in this network namespace: a flow that conntrack follows must not be
//! carried past it, or what it translates breaks. The kernel says nowhere whether its hooks are registered, but
//! they are by the first rule that needs them, so the rules are read.

use std::{fs, io};

use rtnetlink::sys::{Socket, SocketAddr};

/// What was found in the namespace of the calling thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tracking {
    No,
    /// What makes it track, for the log.
    Yes(String),
    /// It could not be found out, and why; treat it as `Yes`.
    Unknown(String),
}

impl Tracking {
    /// Nothing is tracked, for sure.
    pub fn is_absent(&self) -> bool {
        *self == Tracking::No
    }
}

/// Connections that are tracked now; the file is there if the kernel has conntrack.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// Tables of iptables before nftables, whose rules only iptables itself can read.
const LEGACY: [&str; 2] = ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];

/// Rules may come at any time: call it every few seconds. Cheap where connections are tracked; else as large as
/// the nftables rules are.
pub fn tracking() -> Tracking {
    let count = match fs::read_to_string(COUNT) {
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Tracking::No,
        Err(error) => return Tracking::Unknown(format!("{COUNT}: {error}")),
    };
    match count.trim() {
        "0" => {}
        "1" => return Tracking::Yes("1 connection is tracked".into()),
        count => return Tracking::Yes(format!("{count} connections are tracked")),
    }
    match tracking_rule() {
        Ok(Some(rule)) => return Tracking::Yes(format!("nftables: {rule}")),
        Ok(None) => {}
        Err(error) => return Tracking::Unknown(format!("cannot read the nftables rules: {error}")),
    }
    for path in LEGACY {
        let tables = fs::read_to_string(path).unwrap_or_default();
        let tables: Vec<&str> = tables.lines().collect();
        if !tables.is_empty() {
            return Tracking::Unknown(format!("legacy iptables has the tables {}", tables.join(", ")));
        }
    }
    Tracking::No
}

/// Expressions of nftables that register conntrack's hooks, or (tproxy) have to see every packet of a flow as well.
const EXPRESSIONS: [&str; 8] =
    ["ct", "connlimit", "flow_offload", "masq", "nat", "redir", "synproxy", "tproxy"];
/// Matches and targets of iptables that do, as `iptables-nft` hands them to the kernel.
const EXTENSIONS: [&str; 19] = [
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "DNAT",
    "MASQUERADE",
    "NETMAP",
    "REDIRECT",
    "SNAT",
    "SYNPROXY",
    "TPROXY",
    "cluster",
    "connbytes",
    "connlabel",
    "connlimit",
    "connmark",
    "conntrack",
    "helper",
    "socket",
    "state",
];

/// Numbers of `<linux/netlink.h>`, `<linux/netfilter/nfnetlink.h>` and `<linux/netfilter/nf_tables.h>`.
mod abi {
    pub const NETLINK_NETFILTER: isize = 12;
    pub const NLMSG_ERROR: u16 = 2;
    pub const NLMSG_DONE: u16 = 3;
    pub const NLM_F_REQUEST: u16 = 0x1;
    pub const NLM_F_DUMP_INTR: u16 = 0x10;
    pub const NLM_F_DUMP: u16 = 0x300;
    pub const NFT_MSG_NEWRULE: u16 = 10 << 8 | 6;
    pub const NFT_MSG_GETRULE: u16 = 10 << 8 | 7;
    pub const NFTA_RULE_TABLE: u16 = 1;
    pub const NFTA_RULE_CHAIN: u16 = 2;
    pub const NFTA_RULE_EXPRESSIONS: u16 = 4;
    pub const NFTA_EXPR_NAME: u16 = 1;
    pub const NFTA_EXPR_DATA: u16 = 2;
    /// The same for a match and for a target.
    pub const NFTA_EXTENSION_NAME: u16 = 1;
    pub const NLA_TYPE_MASK: u16 = 0x3fff;
    pub const HEADER: usize = 16;
    /// `struct nfgenmsg`.
    pub const GENERIC: usize = 4;
}

/// The first rule that needs connection tracking, in words.
fn tracking_rule() -> io::Result<Option<String>> {
    const ATTEMPTS: usize = 3;
    let mut found = None;
    for _ in 0..ATTEMPTS {
        let (rule, consistent) = dump()?;
        found = rule;
        if consistent || found.is_some() {
            break;
        }
    }
    Ok(found)
}

/// False if the rules changed meanwhile.
fn dump() -> io::Result<(Option<String>, bool)> {
    let socket = Socket::new(abi::NETLINK_NETFILTER)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = Vec::with_capacity(abi::HEADER + abi::GENERIC);
    request.extend(((abi::HEADER + abi::GENERIC) as u32).to_ne_bytes());
    request.extend(abi::NFT_MSG_GETRULE.to_ne_bytes());
    request.extend((abi::NLM_F_REQUEST | abi::NLM_F_DUMP).to_ne_bytes());
    // Sequence and port; all families.
    request.extend([0; 8 + abi::GENERIC]);
    socket.send(&request, 0)?;
    let (mut found, mut consistent) = (None, true);
    let mut received = Vec::with_capacity(crate::netlink::RECEIVE_SIZE);
    loop {
        received.clear();
        socket.recv(&mut received, 0)?;
        for message in Messages(&received) {
            consistent &= message.flags & abi::NLM_F_DUMP_INTR == 0;
            match message.kind {
                abi::NLMSG_DONE => return Ok((found, consistent)),
                abi::NLMSG_ERROR => return refused(message.body).map(|()| (found, consistent)),
                abi::NFT_MSG_NEWRULE if found.is_none() => {
                    found = needs_tracking(message.body.get(abi::GENERIC..).unwrap_or_default());
                }
                _ => {}
            }
        }
    }
}

/// A kernel without nftables has no rules of it.
fn refused(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    match -code {
        0 | libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// What in a rule (its attributes) needs tracking, and where the rule stands.
fn needs_tracking(rule: &[u8]) -> Option<String> {
    let (mut table, mut chain, mut cause) = (String::new(), String::new(), None);
    for (kind, value) in Attributes(rule) {
        match kind {
            abi::NFTA_RULE_TABLE => table = text(value),
            abi::NFTA_RULE_CHAIN => chain = text(value),
            abi::NFTA_RULE_EXPRESSIONS => {
                cause = Attributes(value).find_map(|(_, expression)| cause_of(expression));
            }
            _ => {}
        }
    }
    cause.map(|cause| format!("\"{cause}\" in table {table}, chain {chain}"))
}

fn cause_of(expression: &[u8]) -> Option<String> {
    let (mut name, mut extension) = (String::new(), String::new());
    for (kind, value) in Attributes(expression) {
        match kind {
            abi::NFTA_EXPR_NAME => name = text(value),
            abi::NFTA_EXPR_DATA => {
                let named = Attributes(value).find(|(kind, _)| *kind == abi::NFTA_EXTENSION_NAME);
                extension = named.map(|(_, value)| text(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    match name.as_str() {
        "match" | "target" => EXTENSIONS.contains(&extension.as_str()).then_some(extension),
        name => EXPRESSIONS.contains(&name).then(|| name.to_owned()),
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|octet| *octet == 0).next().unwrap_or_default()).into_owned()
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

/// Messages of one datagram. Ends where a length makes no sense.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let [l0, l1, l2, l3, k0, k1, f0, f1] = *self.0.first_chunk()?;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = self.0.get(abi::HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind: u16::from_ne_bytes([k0, k1]), flags: u16::from_ne_bytes([f0, f1]), body })
    }
}

/// Attributes by type, without their flags. Ends where a length makes no sense.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let [l0, l1, k0, k1] = *self.0.first_chunk()?;
        let length = u16::from_ne_bytes([l0, l1]) as usize;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & abi::NLA_TYPE_MASK, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn rule(expression: &[u8]) -> Vec<u8> {
        let list = attribute(1 | 0x8000, expression);
        [attribute(1, b"filter\0"), attribute(2, b"FORWARD\0"), attribute(4 | 0x8000, &list)].concat()
    }

    #[test]
    fn a_match_of_iptables_is_found_by_its_name() {
        let data = attribute(1, b"conntrack\0");
        let expression = [attribute(1, b"match\0"), attribute(2 | 0x8000, &data)].concat();
        assert_eq!(
            needs_tracking(&rule(&expression)),
            Some("\"conntrack\" in table filter, chain FORWARD".into())
        );
    }

    #[test]
    fn a_comment_of_iptables_tracks_nothing() {
        let data = attribute(1, b"comment\0");
        let expression = [attribute(1, b"match\0"), attribute(2 | 0x8000, &data)].concat();
        assert_eq!(needs_tracking(&rule(&expression)), None);
    }

    #[test]
    fn lengths_that_make_no_sense_end_the_reading() {
        for bad in [&[][..], &[0, 0, 1, 0], &[3, 0, 1, 0], &[200, 0, 1, 0, 5], &[1]] {
            assert_eq!(Attributes(bad).count(), 0, "{bad:?}");
            assert_eq!(Messages(bad).count(), 0, "{bad:?}");
        }
        let mut message = vec![0u8; 16];
        message[0] = 8;
        assert_eq!(Messages(&message).count(), 0);
    }
}
