//! What goes on working on the node while no manxd runs. Whether programs are pinned is looked at as a directory; what
//! they do is the daemon's to tell.

use std::{fs, io, path::Path};

/// manxd's own variable.
const VARIABLE: &str = "MANX_BPF_DIR";

/// What to add to "nobody answers"; empty where nothing was left.
pub fn hint() -> String {
    let dir = std::env::var_os(VARIABLE).unwrap_or_else(|| manx_api::DEFAULT_BPF_DIR.into());
    let links = Path::new(&dir).join("links");
    let pinned = fs::read_dir(&links).map(|entries| entries.flatten().count());
    words(pinned, &links)
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
