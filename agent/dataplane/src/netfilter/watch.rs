//! Reads the rules again whenever they change, on a thread of its own: kube-proxy writes thousands of rules at once,
//! and reading them must keep nothing else waiting.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    Reading, Survey,
    netlink::{Events, Requests},
    ruleset::generation,
};

/// How often it is looked without an event: for what has none (legacy iptables, the settings of conntrack).
const PERIOD: Duration = Duration::from_secs(5);
/// The same after a reading that failed, or that the rules did not hold still for.
const AGAIN: Duration = Duration::from_secs(1);
/// After a reading the next one waits so many times what it took, so that rules that change all the time take a small
/// part of one processor.
const REST: u32 = 10;
const LONGEST_REST: Duration = Duration::from_secs(5);

/// What netfilter does now, in the network namespace of the thread that started it.
#[derive(Debug)]
pub struct Watch {
    surveys: watch::Receiver<Survey>,
}

impl Watch {
    /// The first survey is there when this returns.
    pub fn start() -> io::Result<Watch> {
        // Events first, the survey then: what happens in between is read twice.
        let events = Events::open()?;
        let mut requests = Requests::open()?;
        let seen = generation(&mut requests).ok();
        let begun = Instant::now();
        let reading = Reading::take();
        let seen = seen.filter(|_| reading.whole);
        let took = begun.elapsed();
        let (sender, surveys) = watch::channel(reading.survey());
        let thread = Follower { events, requests, seen, reading, took, read_at: Instant::now(), sender };
        thread::Builder::new().name("netfilter".to_owned()).spawn(move || thread.run())?;
        Ok(Watch { surveys })
    }

    /// The newest.
    pub fn survey(&self) -> Survey {
        self.surveys.borrow().clone()
    }

    /// Waits for another one. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.surveys.changed().await.is_err() {
            // The thread ends with the receiver only.
            std::future::pending::<()>().await;
        }
    }
}

struct Follower {
    events: Events,
    requests: Requests,
    /// The generation of the rules in `reading`; None: it is to be read again, whatever the rules do.
    seen: Option<u32>,
    reading: Reading,
    took: Duration,
    read_at: Instant,
    sender: watch::Sender<Survey>,
}

impl Follower {
    fn run(mut self) {
        let mut said = false;
        while !self.sender.is_closed() {
            let longest = if self.seen.is_some() { PERIOD } else { AGAIN };
            match self.events.wait(longest) {
                Ok(true) => self.rest(),
                Ok(false) => {}
                Err(error) => {
                    if !said {
                        let period = PERIOD.as_secs();
                        tracing::warn!("nftables' events cannot be read: {error}; looking every {period} s");
                        said = true;
                    }
                    thread::sleep(PERIOD);
                }
            }
            // One number tells whether there is anything to read.
            let now = generation(&mut self.requests).ok();
            if now != self.seen || now.is_none() {
                let begun = Instant::now();
                self.reading = Reading::take().with(&self.reading);
                self.seen = now.filter(|_| self.reading.whole);
                (self.took, self.read_at) = (begun.elapsed(), Instant::now());
            }
            let survey = self.reading.survey();
            self.sender.send_if_modified(|last| {
                let differs = *last != survey;
                *last = survey;
                differs
            });
        }
    }

    fn rest(&mut self) {
        let rest = (self.took * REST).min(LONGEST_REST).saturating_sub(self.read_at.elapsed());
        if !rest.is_zero() {
            thread::sleep(rest);
            // What came meanwhile is read now.
            let _ = self.events.wait(Duration::ZERO);
        }
    }
}
