//! Programs that an earlier run left attached, where this run does not use them. They go, or it is said which of them
//! go on carrying packets and how to be rid of them.

use std::path::Path;

use manx_dataplane::ebpf::{TakenOff, take_off};
use nix::net::if_::if_indextoname;

/// Takes them off, says so in the log, and gives the sentence for the status; `None` if there were none.
pub fn end(bpf_dir: &Path) -> Option<String> {
    let taken = take_off(bpf_dir);
    let (gone, left) = (of_gone(&taken), of_left(&taken, bpf_dir));
    if let Some(gone) = &gone {
        tracing::warn!("{gone}");
    }
    if let Some(left) = &left {
        tracing::error!("{left}");
    }
    let said: Vec<String> = [gone, left].into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join("; "))
}

fn of_gone(taken: &TakenOff) -> Option<String> {
    let on = |(program, ifindex): &(&str, u32)| {
        let name = if_indextoname(*ifindex).ok().and_then(|name| name.into_string().ok());
        let name = name.unwrap_or_else(|| format!("interface {ifindex}"));
        format!("{program} on {name}")
    };
    let gone: Vec<String> = taken.gone.iter().map(on).collect();
    (!gone.is_empty()).then(|| {
        format!("took off the programs of an earlier run ({}): the kernel forwards alone", gone.join(", "))
    })
}

fn of_left(taken: &TakenOff, bpf_dir: &Path) -> Option<String> {
    let left: Vec<String> =
        taken.left.iter().map(|(pin, error)| format!("{}: {error}", pin.display())).collect();
    (!left.is_empty()).then(|| {
        format!(
            "programs of an earlier run may go on carrying packets, by maps that this manxd does not keep ({}); stop \
             whoever keeps them, or remove them as root: rm {}/links/*",
            left.join(", "),
            bpf_dir.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_still_runs_is_named_with_the_way_to_be_rid_of_it() {
        let pin = "/sys/fs/bpf/manx/links/pod_tc-7".into();
        let taken = TakenOff { gone: Vec::new(), left: vec![(pin, io::ErrorKind::PermissionDenied.into())] };
        assert_eq!(of_gone(&taken), None);
        let said = of_left(&taken, Path::new("/sys/fs/bpf/manx")).unwrap();
        assert!(said.contains("links/pod_tc-7: permission denied"), "{said}");
        assert!(said.ends_with("remove them as root: rm /sys/fs/bpf/manx/links/*"), "{said}");
    }
}
