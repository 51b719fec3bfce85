//! Whether this node is ready, and in a sentence for each peer why its session is not Established: which address, by
//! which interface, what the kernel said, who should dial, and since when.
//!
//! The rule is that of calico-node's probe (`node/pkg/health`), for each family by itself: without peers it is ready; in
//! the first half minute all sessions must stand and no restart be under way, so that a rolling update waits for
//! them; later one is enough, so that a dead node does not take the others with it.

use std::{net::IpAddr, time::Duration};

use manx_api::Readiness;
use manx_bgp::{PeerKey, view};
use manx_dataplane::kernel::{KernelView, RouteKind};
use manx_resources::{Dial, PeerKind, PeerPlan};
use nix::errno::Errno;

use super::Daemon;

/// As calico-node's `-threshold-time`.
const THRESHOLD: Duration = Duration::from_secs(30);
/// Sentences in one answer.
const SHOWN: usize = 20;
/// The highest number of an error on Linux, and more.
const ERRNOS: i32 = 160;

impl Daemon {
    pub(super) fn readiness(&self) -> Readiness {
        let Some(plan) = &self.plan else {
            return Readiness { ready: false, reason: Some(self.no_plan()), down: Vec::new() };
        };
        let views = self.peer_views();
        // Pods come and go, and no node waits for them.
        let wanted = plan.peers.iter().filter(|peer| peer.kind != PeerKind::LocalWorkload);
        let mut families = [Family::default(), Family::default()];
        let mut down = Vec::new();
        for peer in wanted {
            let view = views.get(&PeerKey { address: peer.address, port: peer.port });
            let [ipv4, ipv6] = &mut families;
            let family = if peer.address.is_ipv4() { ipv4 } else { ipv6 };
            if view.is_some_and(|view| view.state == view::SessionState::Established) {
                family.established += 1;
            } else {
                family.down.push(peer.address);
                down.extend((down.len() < SHOWN).then(|| self.why_down(peer, view)));
            }
        }
        let young = self.clock.running_for() < THRESHOLD;
        let reasons = families.iter().filter_map(|family| family.why_not(young));
        let mut reason = reasons.reduce(|both, next| format!("{both}; {next}"));
        if young && reason.is_none() && families.iter().any(|family| family.established > 0) && !self.settled
        {
            reason = Some("graceful restart in progress".to_owned());
        }
        let more = families.iter().map(|family| family.down.len()).sum::<usize>() - down.len();
        if more > 0 {
            down.push(format!("and {more} more"));
        }
        Readiness { ready: reason.is_none(), reason, down }
    }

    /// A sentence or two about a peer whose session does not stand.
    pub(super) fn why_down(&self, peer: &PeerPlan, view: Option<&view::PeerView>) -> String {
        let who = match self.node_at(peer.address) {
            Some(node) => format!("{} ({node}, {})", at(peer), super::answers::kind(peer.kind)),
            None => format!("{} (AS {}, {})", at(peer), peer.as_number, super::answers::kind(peer.kind)),
        };
        let kernel = self.dataplane.kernel();
        let way = way(peer.address, kernel);
        if let Some(why) = self.protection.why_closed(peer) {
            return format!("{who}{way}: no session is opened: {why}");
        }
        let since = view.map(|view| {
            let state = super::answers::state(view.state);
            format!(" has been in {state} since {}", self.clock.rfc3339(view.session_since))
        });
        let mut text = format!("{who}{way}{}", since.unwrap_or_else(|| " has no session yet".into()));
        if let Some(error) = view.and_then(|view| view.last_error.as_deref()) {
            text += &format!(": {}", with_errno(error));
        }
        let from = peer.source_address.map(|source| format!(" from {source}")).unwrap_or_default();
        text += &match peer.dial {
            Dial::First => format!(". This node dials{from}, every few seconds, and the peer may"),
            Dial::Later => format!(". The peer should dial; this node does, too{from}, after 5 s"),
            Dial::Never => ". The peer has to dial; this node does not".to_owned(),
        };
        if let Some(source) = peer.source_address
            && !is_own(source, kernel)
        {
            text += &format!(
                ". This node has no address {source}: put it on an interface, or the right one into spec.bgp of its Node"
            );
        } else if let Some(remedy) = view.and_then(|view| remedy(peer, view.last_error.as_deref()?)) {
            text += &format!(". {remedy}");
        }
        if let (Some(error), true) = (&self.listen_error, peer.dial != Dial::First) {
            text += &format!(". And {error}");
        }
        text
    }
}

/// The peers of one family.
#[derive(Debug, Default)]
struct Family {
    established: usize,
    down: Vec<IpAddr>,
}

impl Family {
    fn why_not(&self, young: bool) -> Option<String> {
        let is_ready = self.down.is_empty() || (!young && self.established > 0);
        (!is_ready).then(|| {
            let down: Vec<String> = self.down.iter().map(ToString::to_string).collect();
            format!("BGP not established with {}", down.join(","))
        })
    }
}

fn at(peer: &PeerPlan) -> String {
    match (peer.port, peer.address) {
        (179, address) => address.to_string(),
        (port, address) => std::net::SocketAddr::new(address, port).to_string(),
    }
}

/// By which interface the kernel would send to it.
fn way(address: IpAddr, kernel: &KernelView) -> String {
    let Some(route) = kernel.routes().lookup(address) else {
        return ", to which this node has no route,".to_owned();
    };
    match route.kind {
        RouteKind::Unicast => {}
        RouteKind::Local => return ", which is an address of this node,".to_owned(),
        _ => return ", which this node's routes refuse,".to_owned(),
    }
    let legs = route.legs.iter().map(|leg| {
        let link = kernel.link(leg.ifindex);
        let name = link.map_or_else(|| format!("if{}", leg.ifindex), |link| link.name.clone());
        let down = if link.is_some_and(|link| !link.up) { ", which is down or has no carrier," } else { "" };
        match leg.gateway.filter(|gateway| *gateway != address) {
            Some(gateway) => format!("via {gateway} by {name}{down}"),
            None => format!("by {name}{down}"),
        }
    });
    let legs: Vec<String> = legs.collect();
    format!(" {}", legs.join(" and "))
}

fn is_own(address: IpAddr, kernel: &KernelView) -> bool {
    kernel.routes().lookup(address).is_some_and(|route| route.kind == RouteKind::Local)
}

/// The kernel's words with the name that one looks up.
fn with_errno(error: &str) -> String {
    let words = error.strip_prefix("Socket: ").unwrap_or(error);
    match errno(words) {
        Some(errno) => format!("{words} ({errno:?})"),
        None => words.to_owned(),
    }
}

/// Which error the kernel's words are of.
fn errno(words: &str) -> Option<Errno> {
    (1..ERRNOS).map(Errno::from_raw).find(|errno| *errno != Errno::UnknownErrno && errno.desc() == words)
}

fn remedy(peer: &PeerPlan, error: &str) -> Option<String> {
    let words = error.strip_prefix("Socket: ").unwrap_or(error);
    let port = peer.port;
    Some(match errno(words) {
        Some(Errno::ECONNREFUSED) => {
            format!("Nothing listens there on port {port}, or a firewall says so: does its BGP daemon run?")
        }
        Some(Errno::EHOSTUNREACH) => {
            "Nobody answers for that address on the link: is the node up, and is it the right address?".into()
        }
        Some(Errno::ENETUNREACH) => "Give this node a route to it".into(),
        Some(Errno::EPERM | Errno::EACCES) => "A firewall on this node refuses it".into(),
        Some(_) => return None,
        None if words.contains("no answer") || words.contains("timed out") => {
            format!("Is the node up, and does every firewall on the way let TCP port {port} through?")
        }
        None if words.contains("Bad Peer AS") => {
            format!(
                "The two sides do not agree about their numbers: this node expects AS {} there",
                peer.as_number
            )
        }
        None => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::sockets;

    #[test]
    fn an_errors_name_stands_behind_the_kernels_words() {
        assert_eq!(with_errno("Socket: Connection refused"), "Connection refused (ECONNREFUSED)");
        assert_eq!(with_errno("Socket: No route to host"), "No route to host (EHOSTUNREACH)");
        assert_eq!(with_errno("Received: Bad Peer AS"), "Received: Bad Peer AS");
        let error = std::io::Error::from_raw_os_error(Errno::EADDRNOTAVAIL as i32);
        assert!(with_errno(&sockets::reason(&error)).ends_with(" (EADDRNOTAVAIL)"));
    }

    #[test]
    fn all_are_asked_of_a_young_node_and_one_of_an_old_one() {
        let family =
            |established, down: usize| Family { established, down: vec![[10, 0, 0, 2].into(); down] };
        for (family, young, old) in [
            (family(0, 0), true, true),
            (family(2, 0), true, true),
            (family(1, 1), false, true),
            (family(0, 1), false, false),
        ] {
            assert_eq!(
                (family.why_not(true).is_none(), family.why_not(false).is_none()),
                (young, old),
                "{family:?}"
            );
        }
        assert_eq!(family(0, 2).why_not(false).unwrap(), "BGP not established with 10.0.0.2,10.0.0.2");
    }
}
