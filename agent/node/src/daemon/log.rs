//! What the log says of sessions and of single routes, and how often: the same thing over and over is said once in
//! a while, and a thousand routes are not a thousand lines.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use manx_bgp::{
    PeerKey, SessionEvent, Time,
    view::{Cause, Direction, NotificationView, SessionState::Established},
};
use manx_dataplane::{Report, fib::Tampering};

/// A peer that fails again in the same way is said again after this time.
const AGAIN: Duration = Duration::from_secs(300);
/// Peers whose failures are remembered as said.
const FAILURES: usize = 4096;
/// Lines about single routes within [`WINDOW`].
const ROUTE_LINES: usize = 20;
const WINDOW: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct SessionLog {
    /// By peer: the last failure that was said, and when.
    failures: HashMap<PeerKey, (String, Time)>,
}

impl SessionLog {
    pub fn say(&mut self, event: &SessionEvent) {
        let dialled = match event.dialled_by {
            Some(Direction::Us) => ", dialled by us",
            Some(Direction::Peer) => ", dialled by the peer",
            None => "",
        };
        let (peer, from, to) = (event.peer, event.from.name(), event.to.name());
        let cause = cause(event);
        // Who comes from a range and goes again and again fails in the same way for as long as it does.
        if event.cause == Cause::Removed {
            self.failures.remove(&peer);
        }
        if event.to == Established {
            self.failures.remove(&peer);
            tracing::info!(%peer, "{from} -> {to}: {cause}{dialled}");
        } else if event.from == Established {
            match event.cause {
                Cause::NotificationSent(_) | Cause::NotificationReceived(_) | Cause::ConnectionClosed(_) => {
                    tracing::warn!(%peer, "{from} -> {to}: {cause}{dialled}");
                }
                _ => tracing::info!(%peer, "{from} -> {to}: {cause}{dialled}"),
            }
        } else if self.is_news(event, &cause) {
            tracing::warn!(%peer, "no session ({to}): {cause}{dialled}");
        } else {
            tracing::debug!(%peer, "{from} -> {to}: {cause}{dialled}");
        }
    }

    /// Whether this is a failure that has not been said yet, or long ago.
    fn is_news(&mut self, event: &SessionEvent, cause: &str) -> bool {
        let failure = matches!(
            event.cause,
            Cause::NotificationSent(_)
                | Cause::NotificationReceived(_)
                | Cause::ConnectionClosed(_)
                | Cause::DialFailed(_)
        );
        if !failure {
            return false;
        }
        let said = self.failures.get(&event.peer);
        if said.is_some_and(|(text, at)| text == cause && event.at.since(*at) < AGAIN) {
            return false;
        }
        // Peers of ranges come from many addresses. What is beyond the bound can be seen in the history.
        if self.failures.len() >= FAILURES && said.is_none() {
            self.failures.retain(|_, (_, at)| event.at.since(*at) < AGAIN);
            if self.failures.len() >= FAILURES {
                return false;
            }
        }
        self.failures.insert(event.peer, (cause.to_owned(), event.at));
        true
    }
}

/// A session event's cause in words, and the NOTIFICATION that went with it.
pub fn cause(event: &SessionEvent) -> String {
    let cause = match &event.cause {
        Cause::Configured => "configured".into(),
        Cause::Removed => "no longer in the plan".into(),
        Cause::Forgotten => "of a range, and there is nothing left to remember it for".into(),
        Cause::ConfigurationChanged => "its configuration changed".into(),
        Cause::Disabled => "disabled".into(),
        Cause::Enabled => "enabled".into(),
        Cause::ShuttingDown => "manxd stops".into(),
        Cause::Dialling => "dialling".into(),
        Cause::Connected => "connected".into(),
        Cause::DialFailed(error) => format!("dial failed: {error}"),
        Cause::OpenReceived => "OPEN received".into(),
        Cause::KeepaliveReceived => "KEEPALIVE received".into(),
        Cause::ConnectionClosed(reason) => reason.clone(),
        Cause::NotificationSent(n) => notification("sent", n),
        Cause::NotificationReceived(n) => notification("received", n),
        Cause::Collision => "of two connections the other is kept".into(),
        Cause::PeerRestarted => "the peer restarted".into(),
        Cause::BackOffOver => "back-off is over".into(),
    };
    match &event.sent {
        Some(sent) => format!("{cause}; {}", notification("sent", sent)),
        None => cause,
    }
}

fn notification(way: &str, n: &NotificationView) -> String {
    match n.text.as_ref().or(n.why.as_ref()) {
        Some(more) => format!("NOTIFICATION {way}: {} ({more})", n.name),
        None => format!("NOTIFICATION {way}: {}", n.name),
    }
}

#[derive(Debug)]
pub struct ReportLog {
    since: Instant,
    lines: usize,
    unsaid: usize,
}

impl ReportLog {
    pub fn new(now: Instant) -> ReportLog {
        ReportLog { since: now, lines: 0, unsaid: 0 }
    }

    /// A flushed table, or a fight over a route, is one story and not ten thousand.
    pub fn say(&mut self, reports: &[Report], now: Instant) {
        if now.saturating_duration_since(self.since) >= WINDOW {
            if self.unsaid > 0 {
                tracing::warn!(
                    "{} more reports on single routes in the {} s before; `manxctl routes` shows what is not as it \
                     should be",
                    self.unsaid,
                    WINDOW.as_secs()
                );
            }
            *self = ReportLog::new(now);
        }
        for report in reports {
            if self.lines < ROUTE_LINES || matches!(report, Report::WriterEnded { .. }) {
                self.lines += 1;
                log_report(report);
            } else {
                self.unsaid += 1;
            }
        }
    }
}

fn log_report(report: &Report) {
    match report {
        Report::PoolNotWritten { pool } => tracing::warn!(
            "IPPool/{pool}: its routes are not written: the pool is encapsulated, and Manx does not encapsulate"
        ),
        Report::PoolNotOnLink { pool, prefix } => tracing::warn!(
            "IPPool/{pool}: {prefix} is not written: its next hop is behind a router, where the pool's CrossSubnet \
             mode asks for encapsulation, and Manx does not encapsulate"
        ),
        Report::RouterNotOnLink { prefix, router } => tracing::warn!(
            "the peer {} is not led to by {router}, which a BGPPeer names in reachableBy: no route of an interface holds that \
             address",
            prefix.addr()
        ),
        Report::BlackholeOverPod { prefix } => tracing::warn!(
            %prefix,
            "is to be a blackhole while a pod of this node has it: the programs drop its packets, and the kernel's own \
             route to the pod stays"
        ),
        Report::BlackholeOverService { prefix, service } => tracing::warn!(
            %prefix,
            "is to be a blackhole and is none: it overlaps the service prefix {service}, and the programs act before \
             netfilter translates"
        ),
        Report::NotInstalled { prefix, error } => {
            tracing::warn!(%prefix, "not in the kernel's FIB, trying again: {error}");
        }
        Report::Recovered { prefix } => tracing::info!(%prefix, "in the kernel's FIB now"),
        Report::Tampered { prefix, how, by } => {
            let by = by
                .as_ref()
                .map_or_else(|| String::from("not known, found by comparing"), ToString::to_string);
            match how {
                Tampering::Deleted => {
                    tracing::warn!(%prefix, %by, "somebody else deleted our route; put back")
                }
                Tampering::Changed => {
                    tracing::warn!(%prefix, %by, "somebody else changed our route; put back")
                }
                Tampering::Displaced => {
                    tracing::warn!(%prefix, %by, "somebody wrote another route over ours, which waits for its place");
                }
                Tampering::Added => {
                    tracing::warn!(%prefix, %by, "somebody added a route with our protocol; removed");
                }
            }
        }
        Report::Resynchronised => tracing::warn!("the kernel dropped events; everything was read again"),
        Report::WriterEnded { why } => tracing::error!(
            "the thread that writes the kernel's routes has ended: {why}. The routes are compared, and written without \
             it, which keeps sessions and questions waiting while there are many; restart manxd when it suits, and \
             report this"
        ),
    }
}

#[cfg(test)]
mod tests {
    use manx_bgp::view::SessionState;

    use super::*;

    fn refused(at: u64) -> SessionEvent {
        SessionEvent {
            at: Time::from_nanos(at * 1_000_000_000),
            peer: PeerKey { address: [10, 0, 0, 1].into(), port: 179 },
            from: SessionState::Connect,
            to: SessionState::Active,
            cause: Cause::DialFailed("Connection refused".into()),
            sent: None,
            dialled_by: Some(Direction::Us),
        }
    }

    #[test]
    fn a_failure_is_news_once_in_five_minutes_and_after_a_session() {
        let mut log = SessionLog::default();
        assert!(log.is_news(&refused(1), "refused"));
        assert!(!log.is_news(&refused(2), "refused"));
        assert!(log.is_news(&refused(3), "Bad Peer AS"));
        assert!(log.is_news(&refused(400), "Bad Peer AS"));
        log.say(&SessionEvent { to: Established, cause: Cause::KeepaliveReceived, ..refused(401) });
        assert!(log.is_news(&refused(402), "Bad Peer AS"));
    }

    #[test]
    fn a_peer_of_a_range_that_comes_and_goes_is_news_no_more_often_than_others_and_many_cost_a_bounded_memory()
     {
        let mut log = SessionLog::default();
        assert!(log.is_news(&refused(1), "closed"));
        log.say(&SessionEvent { to: SessionState::Idle, cause: Cause::Forgotten, ..refused(1) });
        assert!(!log.is_news(&refused(2), "closed"));
        let from = |n: u32, at| {
            let address = std::net::Ipv4Addr::from_bits(0x0a01_0000 + n).into();
            SessionEvent { peer: PeerKey { address, port: 179 }, ..refused(at) }
        };
        for n in 0..10_000 {
            log.is_news(&from(n, 3), "closed");
        }
        assert_eq!(log.failures.len(), FAILURES);
        assert!(!log.is_news(&from(10_001, 4), "closed"));
        assert!(log.is_news(&from(10_001, 400), "closed"), "those of before are old");
    }

    #[test]
    fn a_thousand_routes_are_twenty_lines() {
        let now = Instant::now();
        let mut log = ReportLog::new(now);
        log.say(&vec![Report::Resynchronised; 1000], now);
        assert_eq!((log.lines, log.unsaid), (20, 980));
        log.say(&[], now + WINDOW);
        assert_eq!((log.lines, log.unsaid), (0, 0));
    }
}
