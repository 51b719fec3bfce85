//! What goes on working on the node while no manxd runs. Whether programs are pinned is looked at as a directory; what
//! they do is the daemon's to tell.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

/// manxd's own variable.
const VARIABLE: &str = "MANX_BPF_DIR";

/// What to add to "nobody answers"; empty where nothing was left.
pub fn hint() -> String {
    let dir = std::env::var_os(VARIABLE).unwrap_or_else(|| manx_api::DEFAULT_BPF_DIR.into());
    let held = fs::metadata(&dir).ok().zip(fs::read_to_string("/proc/locks").ok());
    if let Some(pid) = held.and_then(|(dir, locks)| keeper(dir.dev(), dir.ino(), &locks)) {
        return kept(pid, Path::new(&dir));
    }
    let links = Path::new(&dir).join("links");
    let pinned = fs::read_dir(&links).map(|entries| entries.flatten().count());
    words(pinned, &links)
}

/// The process that holds the directory by flock(2), as each manxd does while it keeps programs: a line of /proc/locks is
/// `1: FLOCK  ADVISORY  READ 4711 00:4f:1234 0 EOF`.
fn keeper(device: u64, inode: u64, locks: &str) -> Option<u32> {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    let words = locks.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let mut held = words.filter_map(|words| match words.as_slice() {
        [_, "FLOCK", _, _, pid, at, ..] if *at == place => pid.parse().ok(),
        _ => None,
    });
    held.next()
}

fn kept(pid: u32, dir: &Path) -> String {
    format!(
        "\nBut a manxd runs (pid {pid}) and keeps the programs in {}: ask it at its own --api-socket, which
`tr '\\0' ' ' < /proc/{pid}/cmdline` may show, or it has just begun or is about to end.",
        dir.display()
    )
}

fn words(pinned: io::Result<usize>, links: &Path) -> String {
    let links = links.display();
    let found = match pinned {
        Ok(0) => return String::new(),
        Ok(1) => format!("1 program of an earlier run is still attached ({links})"),
        Ok(count) => format!("{count} programs of an earlier run are still attached ({links})"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return String::new(),
        Err(error) => {
            format!(
                "Whether programs of an earlier run are still attached only root can see ({links}: {error})"
            )
        }
    };
    format!(
        "\n{found}.
Such programs, and the routes that manxd wrote, work on without it: pods keep talking, and each packet that the
programs carry is asked of the kernel's routes first. But nobody learns routes from peers, writes those of new
pods, repairs what others change or reads new rules of netfilter.
Start manxd and it takes them over; `manxd cleanup` removes programs, maps and routes."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manxd_that_lives_is_not_taken_for_one_that_is_gone() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:4f:1234 0 EOF\n\
                     2: FLOCK  ADVISORY  READ 4711 00:4f:1234 0 EOF\n\
                     3: FLOCK  ADVISORY  READ 9 fe:00:1234 0 EOF\n";
        assert_eq!(keeper(0x4f, 1234, locks), Some(4711));
        assert_eq!(keeper(0xfe00, 1234, locks), Some(9));
        assert_eq!(keeper(0x4f, 1235, locks), None);
        assert_eq!(keeper(0x4f, 1234, "what is this"), None);
        assert!(kept(4711, Path::new("/sys/fs/bpf/manx")).contains("a manxd runs (pid 4711)"));
    }

    #[test]
    fn what_an_earlier_run_left_is_told_with_the_way_to_be_rid_of_it() {
        let links = Path::new("/sys/fs/bpf/manx/links");
        let text = words(Ok(3), links);
        assert!(
            text.starts_with("\n3 programs of an earlier run are still attached (/sys/fs/bpf/manx/links).")
        );
        assert!(
            text.contains("`manxd cleanup` removes") && text.lines().all(|line| line.len() <= 115),
            "{text}"
        );
        let denied = words(Err(io::ErrorKind::PermissionDenied.into()), links);
        assert!(denied.starts_with("\nWhether programs") && denied.contains("`manxd cleanup`"), "{denied}");
        assert_eq!(words(Ok(0), links), "");
        assert_eq!(words(Err(io::ErrorKind::NotFound.into()), links), "");
    }
}
