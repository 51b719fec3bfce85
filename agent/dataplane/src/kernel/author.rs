//! Who changed the kernel's tables, as far as netlink tells: an event carries the port of the socket that asked for the
//! change, and the first netlink socket of a process has the process's id as its port. Who removed a pin: its process's id.

use std::{fmt, fs, sync::Arc};

/// Characters of a command line that are worth a log's line.
const SHOWN: usize = 120;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    port: u32,
    /// The number is the process's id for certain.
    is_pid: bool,
    /// Name and command line, if the process lived still when its change was heard of.
    process: Option<Arc<str>>,
}

impl Author {
    /// Looks at once: most programs end as soon as the kernel has answered them.
    pub(crate) fn at(port: u32) -> Author {
        Author { port, is_pid: false, process: (port != 0).then(|| process(port)).flatten() }
    }

    /// A process by its id, which is not 0. Looks at once, too.
    pub(crate) fn of_process(pid: u32) -> Author {
        Author { port: pid, is_pid: true, process: process(pid) }
    }
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, &self.process) {
            (0, _) => f.write_str("the kernel"),
            (port, Some(process)) => write!(f, "{process} (pid {port})"),
            (pid, None) if self.is_pid => write!(f, "a process that has ended (pid {pid})"),
            // Of a process's further sockets the kernel chooses the port, and counts it down from there.
            (port, None) if port > i32::MAX as u32 => {
                write!(f, "a process that cannot be told (netlink port {port})")
            }
            (port, None) => {
                write!(
                    f,
                    "a process that has ended or is not seen from here (netlink port {port}, as a rule its pid)"
                )
            }
        }
    }
}

/// What a process calls itself, and its command line where that says more.
pub(crate) fn process(pid: u32) -> Option<Arc<str>> {
    // In a container /proc may be that of another process namespace, in which the number is somebody else's.
    let own = fs::read_link("/proc/self").ok()?;
    if own.to_str()?.parse() != Ok(std::process::id()) {
        return None;
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    Some(described(name.trim_end(), &line).into())
}

/// `line` has its words each ended by a zero octet; it is empty for threads of the kernel and for who is ending.
fn described(name: &str, line: &[u8]) -> String {
    let words = line.split(|octet| *octet == 0).filter(|word| !word.is_empty());
    let words: Vec<_> = words.map(String::from_utf8_lossy).collect();
    let line = words.join(" ");
    // A process chooses its words itself: none of them may look like a line of ours.
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut shown: String = line.chars().take(SHOWN).collect();
    if shown.len() < line.len() {
        shown.push('…');
    }
    if shown.is_empty() { name.to_owned() } else { format!("{name}: {shown}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_named_with_its_command_line() {
        let author = Author::at(std::process::id()).to_string();
        assert!(author.contains(&format!("(pid {})", std::process::id())), "{author}");
        assert!(author.contains("manx_dataplane"), "{author}");
    }

    #[test]
    fn who_is_gone_and_who_cannot_be_known_are_told_apart() {
        let author = |port, is_pid| Author { port, is_pid, process: None }.to_string();
        assert_eq!(author(0, false), "the kernel");
        assert_eq!(
            author(4711, false),
            "a process that has ended or is not seen from here (netlink port 4711, as a rule its pid)"
        );
        assert_eq!(author(4711, true), "a process that has ended (pid 4711)");
        let further = author(0xffff_f000, false);
        assert!(further.starts_with("a process that cannot be told"), "{further}");
    }

    #[test]
    fn a_command_line_is_one_line_of_bounded_length() {
        assert_eq!(described("ip", b"ip\0route\0del\0"), "ip: ip route del");
        assert_eq!(described("kworker", b""), "kworker");
        let long = described("x", format!("x\n{}", "y".repeat(500)).as_bytes());
        assert!(long.starts_with("x: x yyy") && long.chars().count() < SHOWN + 10, "{long}");
    }
}
