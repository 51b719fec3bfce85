//! Steady traffic while something is done step by step, and beside it between two hosts that nothing of it concerns. What
//! is lost is told with the step that came before it; what the two hosts lose at the same time too is the machine's.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use manx_tests::{
    host::Host,
    lab::Lab,
    traffic::{End, Flow, Report},
};

/// Losses of the two hosts this near are taken to have the same cause.
const NEAR: Duration = Duration::from_millis(200);
/// So many losses are told one by one.
const TOLD: usize = 10;

/// Two hosts on the lab's switch that speak no BGP.
pub struct Control {
    hosts: [Host; 2],
    addresses: [IpAddr; 2],
}

impl Control {
    pub fn new(lab: &mut Lab, addresses: [Ipv4Addr; 2]) -> Result<Control> {
        let hosts = [lab.host("control1", addresses[0], 24)?, lab.host("control2", addresses[1], 24)?];
        Ok(Control { hosts, addresses: addresses.map(IpAddr::V4) })
    }

    fn flow(&self, pace: Duration) -> Result<Flow> {
        let [from, to] = [0, 1].map(|at| End { ns: &self.hosts[at], address: self.addresses[at] });
        Flow::start(from, to, pace)
    }
}

pub struct Watched {
    control: Flow,
    flows: Vec<Flow>,
    steps: Vec<(Instant, String)>,
}

/// What became of all flows.
pub struct Outcome {
    pub sent: usize,
    /// Packets that were lost, without those that the machine lost.
    pub lost: usize,
    pub longest: Duration,
    /// The losses with their places.
    pub told: String,
    /// All steps, each with the time since the start.
    pub steps: String,
}

impl Watched {
    pub fn start(control: &Control, pairs: &[(End<'_>, End<'_>)], pace: Duration) -> Result<Watched> {
        let flows = pairs.iter().map(|(from, to)| Flow::start(*from, *to, pace)).collect::<Result<_>>()?;
        let steps = vec![(Instant::now(), "the start".to_owned())];
        Ok(Watched { control: control.flow(pace)?, flows, steps })
    }

    pub fn step(&mut self, what: &str) {
        self.steps.push((Instant::now(), what.to_owned()));
    }

    pub fn stop(self) -> Result<Outcome> {
        let reports = Flow::stop_all(self.flows)?;
        let control = self.control.stop()?;
        let excused: Vec<Instant> = control.losses().map(|(at, _)| at).collect();
        let near =
            |at: Instant| excused.iter().any(|other| at.max(*other).duration_since(at.min(*other)) < NEAR);
        let mut told = String::new();
        if !excused.is_empty() {
            let _infallible = writeln!(told, "the machine lost packets itself: {control}");
        }
        let (mut lost, mut longest) = (0, Duration::ZERO);
        for report in &reports {
            let own: Vec<_> = report.losses().filter(|(at, _)| !near(*at)).collect();
            if own.is_empty() {
                continue;
            }
            lost += own.len();
            longest = longest.max(report.longest_outage());
            let _infallible = writeln!(told, "{report}");
            for (at, there) in own.iter().take(TOLD) {
                let _infallible = writeln!(told, "  {}", self.steps.place(*at, *there));
            }
        }
        ensure!(reports.iter().all(|report: &Report| report.sent > 0), "nothing was sent");
        let mut steps = String::new();
        for (at, what) in &self.steps {
            let since = at.duration_since(self.steps[0].0);
            let _infallible = writeln!(steps, "{:>7.3} s: {what}", since.as_secs_f64());
        }
        Ok(Outcome { sent: reports.iter().map(|report| report.sent).sum(), lost, longest, told, steps })
    }
}

trait Place {
    fn place(&self, at: Instant, there: bool) -> String;
}

impl Place for Vec<(Instant, String)> {
    fn place(&self, at: Instant, there: bool) -> String {
        let before = self.iter().rev().find(|(begun, _)| *begun <= at);
        let way = if there { "on the way there" } else { "on the way back" };
        match before {
            Some((begun, what)) => {
                format!("{way}, {} ms after {what}", at.duration_since(*begun).as_millis())
            }
            None => format!("{way}, before all"),
        }
    }
}
