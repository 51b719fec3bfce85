//! The sign of life for the programs. While it comes they take the maps' word; when it stays away for some seconds
//! (the agent is dead, stopped or starved) they ask the kernel's FIB before each redirect, so that no pod that has
//! come, gone or moved meanwhile is hidden by what the maps still say.

use std::time::{Duration, Instant};

use super::Daemon;

/// A few of them within the programs' patience, [`manx_dataplane::ebpf::PULSE_LIMIT`].
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Pulse {
    next: Instant,
    /// Why there is none; said when it changes.
    error: Option<String>,
}

impl Pulse {
    pub fn new(now: Instant) -> Pulse {
        Pulse { next: now, error: None }
    }
}

impl Daemon {
    /// Call it after a step: only then the maps have what the kernel said.
    pub(super) fn pulse(&mut self, now: Instant) {
        if now < self.pulse.next || !self.keeps_the_maps() {
            return;
        }
        self.pulse.next = now + PERIOD;
        let error = self.fast_path.pulse().err().map(|error| error.to_string());
        if error != self.pulse.error {
            match &error {
                Some(error) => tracing::warn!(
                    "the programs cannot be told that this manxd lives, and ask the kernel's FIB before each redirect: \
                     {error}"
                ),
                None => tracing::info!("the programs are told again that this manxd lives"),
            }
            self.pulse.error = error;
        }
    }

    /// Without a plan nobody knows what the prefixes mean, and what the kernel has must have been read.
    fn keeps_the_maps(&self) -> bool {
        self.plan.is_some() && self.dataplane.is_current() && self.fast_path.sink().is_some()
    }

    pub(super) fn next_pulse(&self) -> Option<Instant> {
        self.keeps_the_maps().then_some(self.pulse.next)
    }
}
