//! The settings of conntrack that the guard depends on, of the calling thread's network namespace.

use std::{fs, io, path::Path};

const DIRECTORY: &str = "/proc/sys/net/netfilter";
/// Packets that are carried past conntrack are missing in its windows: data that follows would be invalid to it, and so
/// would a RST, which it judges by the highest acknowledgement that it saw.
const WINDOWS: [&str; 2] = ["nf_conntrack_tcp_be_liberal", "nf_conntrack_tcp_ignore_invalid_rst"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    pub has_entries: bool,
    /// Packets of TCP outside of the window are not invalid, as [`make_liberal`] sets it.
    pub liberal: bool,
    /// In seconds, as all below: how long an entry lives without a packet. TCP, established.
    pub tcp_established: u32,
    /// TCP whose data has not been acknowledged yet, and TCP that retransmits: established too.
    pub tcp_unacknowledged: u32,
    pub tcp_max_retrans: u32,
    /// UDP that was answered, for a while.
    pub udp_stream: u32,
    /// UDP.
    pub udp: u32,
}

/// None: the kernel has no conntrack.
pub(super) fn read() -> io::Result<Option<Conntrack>> {
    let entries = match number("nf_conntrack_count") {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(Conntrack {
        has_entries: entries > 0,
        liberal: WINDOWS.iter().map(|name| number(name)).all(|value| value.is_ok_and(|value| value != 0)),
        tcp_established: number("nf_conntrack_tcp_timeout_established")?,
        tcp_unacknowledged: number("nf_conntrack_tcp_timeout_unacknowledged")?,
        tcp_max_retrans: number("nf_conntrack_tcp_timeout_max_retrans")?,
        udp_stream: number("nf_conntrack_udp_timeout_stream")?,
        udp: number("nf_conntrack_udp_timeout")?,
    }))
}

/// Sets `nf_conntrack_tcp_be_liberal=1` and `nf_conntrack_tcp_ignore_invalid_rst=1`.
pub fn make_liberal() -> io::Result<()> {
    for name in WINDOWS {
        let path = Path::new(DIRECTORY).join(name);
        fs::write(&path, "1")
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    }
    Ok(())
}

/// Those of [`make_liberal`]'s settings that are not 0 now, by whomever; none without conntrack.
pub fn liberal_settings() -> Vec<&'static str> {
    WINDOWS.into_iter().filter(|name| number(name).is_ok_and(|value| value != 0)).collect()
}

fn number(name: &str) -> io::Result<u32> {
    let text = fs::read_to_string(Path::new(DIRECTORY).join(name))?;
    text.trim().parse().map_err(|error| io::Error::other(format!("{name}: {error}")))
}
