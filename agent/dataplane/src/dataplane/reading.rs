//! What the kernel says, in the order in which it may be taken in: events before the answers to what we wrote, and a
//! dump only while nothing is being written.

use std::{io, time::Instant};

use super::{Dataplane, Report};
use crate::kernel::RESYNC_RETRY;

/// Calls of [`Dataplane::step`] after which no event is unread that was there at the first: the buffer of the event socket
/// holds fewer than so many times what one call reads.
const EVENTS_FIRST: u32 = 16;

impl Dataplane {
    /// Takes in what the kernel has said so far. True: not all of it.
    pub(super) fn absorb(&mut self) -> io::Result<bool> {
        let (view, changes, ports) = (&mut self.view, &mut self.changes, &self.ports);
        let drained = self.monitor.drain(|header, message| view.apply(header, message, ports, changes))?;
        self.changes.overrun |= drained.lost;
        Ok(drained.more)
    }

    /// Takes in events so that those come first that were there when the kernel answered. Lost ones never come: then all
    /// is read again.
    pub(super) fn absorb_before_answers(&mut self) -> io::Result<()> {
        let behind = self.behind + 1;
        self.behind = 0;
        let more = self.absorb()?;
        if more && !self.changes.overrun && behind < EVENTS_FIRST {
            self.behind = behind;
        }
        // Who has the port next is somebody else.
        if self.behind == 0
            && !self.fib.has_writer()
            && let Some(port) = self.writer_port.take()
        {
            self.ports.retain(|own| *own != port);
            self.monitor.leave_out(&self.ports);
        }
        Ok(())
    }

    /// A dump is due that shows what is there only when nothing is being written: until then nothing new is given.
    pub(super) fn awaits_answers(&self) -> bool {
        self.is_in_doubt() && self.fib.is_writing()
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.changes.own_in_doubt || self.changes.overrun || self.changes.reread_routes
    }

    pub(super) fn doubt_after(&mut self, written: io::Result<()>, now: Instant) {
        if let Err(error) = written {
            tracing::warn!(%error, "writing routes; comparing with the kernel before the next attempt");
            self.changes.own_in_doubt = true;
            self.retry_reading = Some(now + RESYNC_RETRY);
        }
    }

    /// Dumps what events could not tell.
    pub(super) fn read_what_is_in_doubt(&mut self, now: Instant) -> io::Result<()> {
        if self.retry_reading.is_some_and(|due| now < due) {
            return Ok(());
        }
        // The kernel walks IPv6 routes from the start again when one is written meanwhile, and tells some twice or never.
        if self.awaits_answers() {
            return Ok(());
        }
        self.retry_reading = None;
        if self.changes.overrun {
            self.view.resynchronise(&mut self.requests, &mut self.changes)?;
            self.reports.push(Report::Resynchronised);
            return Ok(());
        }
        if self.changes.reread_routes {
            self.view.reread_routes(&mut self.requests, &mut self.changes)?;
        }
        if self.changes.reread_rules {
            self.view.reread_rules(&mut self.requests, &mut self.changes)?;
        }
        Ok(())
    }
}
