//! `manxd cleanup`: removes what this or an earlier version put on the node.

use std::io::{self, Write};

use anyhow::{Context, bail};

use crate::{cli::CleanupArgs, process::Lock};

pub fn run(args: &CleanupArgs) -> anyhow::Result<()> {
    let places = &args.places;
    let _lock = Lock::take(places.protocol)?.with_context(|| {
        format!("a manxd with protocol {} is running here; stop it first", places.protocol)
    })?;
    // Programs first: without them the kernel forwards by its own routes, which are still there.
    let pins = manx_dataplane::ebpf::cleanup(&places.bpf_dir)?;
    say(&format!("removed {pins} pinned programs and maps under {}", places.bpf_dir.display()));
    match args.hand_back {
        None => {
            let routes = manx_dataplane::cleanup(places.protocol).context("deleting routes")?;
            say(&format!("removed {routes} routes of protocol {}", places.protocol));
        }
        Some(to) => {
            // What operators have ordered is nobody else's to keep.
            let orders = crate::blackholes::Orders::open(&places.state_dir);
            let is_theirs = |_, prefix| orders.get(prefix).is_none();
            let done =
                manx_dataplane::relabel(places.protocol, to.0, is_theirs).context("handing routes back")?;
            say(&format!(
                "handed {} routes of protocol {} on, as of protocol {to}",
                done.taken, places.protocol
            ));
            let rest = manx_dataplane::cleanup(places.protocol).context("deleting routes")?;
            if rest > 0 {
                say(&format!(
                    "removed {rest} routes that were operators' blackholes or could not be handed on"
                ));
            }
        }
    }
    if crate::bfd::end(&places.bfd_socket)? {
        say("ended the BFD process, which has told its neighbours");
    }
    let state = places.state_dir.display();
    let kept = places.kept_resources();
    // What a writing that was cut short has left, if anything.
    let _ = std::fs::remove_file(kept.with_extension("new"));
    match std::fs::remove_file(&kept) {
        Ok(()) => say(&format!("removed the resources that were kept in {}", kept.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => bail!("cannot remove {}: {error}", kept.display()),
    }
    if crate::daemon::drain::cleanup(&places.state_dir).with_context(|| format!("cannot empty {state}"))? {
        say("this node was drained, and is no longer");
    }
    crate::daemon::leftovers::cleanup(&places.state_dir).with_context(|| format!("cannot empty {state}"))?;
    if crate::history_file::cleanup(&places.state_dir).with_context(|| format!("cannot empty {state}"))? {
        say(&format!("removed the history from {state}"));
    }
    if crate::blackholes::cleanup(&places.state_dir).with_context(|| format!("cannot empty {state}"))? {
        say(&format!("removed operators' blackholes from {state}"));
    }
    match std::fs::remove_file(&places.api_socket) {
        Ok(()) => say(&format!("removed {}", places.api_socket.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => bail!("cannot remove {}: {error}", places.api_socket.display()),
    }
    if let Some(dir) = places.api_socket.parent().filter(|dir| dir.ends_with("manx")) {
        // Ours by its name; it stays if somebody else keeps something in it.
        let _ = std::fs::remove_dir(dir);
    }
    if let Some(text) = left(&manx_dataplane::netfilter::liberal_settings()) {
        say(&text);
    }
    Ok(())
}

/// Whoever reads may have ended: that is no reason to stop half way.
fn say(line: &str) {
    let _untold = writeln!(io::stdout(), "{line}");
}

/// Conntrack moves no window by a packet outside of it (`tcp_in_window`), so what the programs carried stays outside for
/// as long as it lives, and would be invalid from the moment that the setting is 0.
fn left(liberal: &[&str]) -> Option<String> {
    let set: Vec<String> = liberal.iter().map(|name| format!("{name}=1")).collect();
    let back: Vec<String> = liberal.iter().map(|name| format!("net.netfilter.{name}=0")).collect();
    (!liberal.is_empty()).then(|| {
        format!(
            "left {}: TCP connections that the programs carried would be invalid to conntrack without.\n\
             When those have ended, and unless something else here wants it: sysctl -w {}",
            set.join(" "),
            back.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_stays_is_told_with_how_to_put_it_back() {
        assert_eq!(left(&[]), None);
        let text = left(&["nf_conntrack_tcp_be_liberal"]).unwrap();
        assert!(text.starts_with("left nf_conntrack_tcp_be_liberal=1: "), "{text}");
        assert!(text.ends_with("sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=0"), "{text}");
    }
}
