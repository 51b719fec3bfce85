//! What a packet costs: frames are injected at one end of a way through a node and counted at the other. For each
//! way the kernel alone and Manx take turns with the injector's own cost, round by round.

use std::{collections::BTreeMap, net::IpAddr, path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_tests::netns::Netns;

use super::{
    fast,
    frame::{self, Course, FLOWS, Mac, Template},
    ground::Ground,
    inject::{Arrival, Injector, received},
    node::{self, Neighbour, Node, UPLINKS, uplink_mac, uplink_v4, uplink_v6},
};

const NUMBER: u8 = 124;
const BLOCK: u8 = 36;
/// The next hops behind the two uplinks: block, and last octet on the wire.
const BEHIND: [(u8, u8); 2] = [(118, 125), (119, 126)];
/// The far ends of the uplinks.
const WIRES: [&str; 2] = ["w33", "w34"];
/// How long a last frame may be on its way.
const STRAGGLERS: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    IntoPod,
    OutOfPod,
    PodToPod,
    Transit,
    BlackholeExplicit,
    BlackholeOwn,
}

impl Way {
    pub const ALL: [Way; 6] =
        [Way::IntoPod, Way::OutOfPod, Way::PodToPod, Way::Transit, Way::BlackholeExplicit, Way::BlackholeOwn];

    pub fn title(self) -> &'static str {
        match self {
            Way::IntoPod => "into a pod",
            Way::OutOfPod => "out of a pod",
            Way::PodToPod => "pod to pod",
            Way::Transit => "transit",
            Way::BlackholeExplicit => "explicit blackhole",
            Way::BlackholeOwn => "own block, no pod",
        }
    }

    fn drops(self) -> bool {
        matches!(self, Way::BlackholeExplicit | Way::BlackholeOwn)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    pub ground: Ground,
    pub way: Way,
    pub v6: bool,
}

impl Case {
    fn all() -> impl Iterator<Item = Case> {
        let ways = || Way::ALL.into_iter().flat_map(|way| [(way, false), (way, true)]);
        Ground::ALL.into_iter().flat_map(move |ground| ways().map(move |(way, v6)| Case { ground, way, v6 }))
    }

    pub fn title(self) -> String {
        format!("{}, {}", self.way.title(), if self.v6 { "IPv6" } else { "IPv4" })
    }

    fn matches(self, only: &[String]) -> bool {
        let name = format!("{}: {}", self.ground.title(), self.title());
        only.is_empty() || only.iter().any(|part| name.contains(part.as_str()))
    }
}

/// Nanoseconds of a frame, one of each round.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    pub injector: Vec<f64>,
    pub kernel: Vec<f64>,
    pub manx: Vec<f64>,
    /// The share of frames that Manx's programs redirected or dropped, of all rounds; the rest was the stack's.
    pub carried: f64,
}

impl Costs {
    /// Manx's cost by the kernel's, the injector's taken off both, one of each round.
    pub fn ratios(&self) -> Vec<f64> {
        let rounds = self.injector.iter().zip(&self.kernel).zip(&self.manx);
        rounds.map(|((own, kernel), manx)| (manx - own) / (kernel - own)).collect()
    }
}

pub type Results = BTreeMap<Case, Costs>;

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub rounds: usize,
    /// In a round, for each way and each of the three.
    pub frames: u32,
}

/// A node with all ends of its ways.
struct Site {
    node: Node,
    wires: Netns,
    at_pods: Vec<Arrival>,
    at_wires: Vec<Arrival>,
}

/// Where a course begins, and where it ends if it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Pod(usize),
    Wire(usize),
}

impl Site {
    fn new(object: &Path, ground: Ground, with_manx: bool) -> Result<Site> {
        let mut node = Node::new(BLOCK, NUMBER)?;
        let wires = node::host("wires")?;
        let mut neighbours = Vec::new();
        for (uplink, (block, number)) in BEHIND.into_iter().enumerate() {
            let (name, wire) = (UPLINKS[uplink], WIRES[uplink]);
            node.ns.sh(&format!(
                "ip link add {name} type veth peer name {wire} netns {}",
                wires.proc_path("ns/net").display()
            ))?;
            let mac = uplink_mac(number, uplink);
            node::batch(&wires, &format!("link set {wire} address {}\nlink set {wire} up", node::text(mac)))?;
            let neighbour = Neighbour { uplink, block, number, mac };
            node.uplink(uplink, neighbour)?;
            // Frames that a wire sends want NAPI at the uplink.
            node.ns.sh(&format!("ethtool -K {name} gro on"))?;
            node::batch(
                &wires,
                &format!(
                    "addr add {}/24 dev {wire}\naddr add {}/64 dev {wire} nodad",
                    uplink_v4(number, uplink),
                    uplink_v6(number, uplink)
                ),
            )?;
            neighbours.push(neighbour);
        }
        node.crowd(BEHIND[0].1)?;
        ground.prepare(&node.ns)?;
        let at_pods =
            node.pods.iter().map(|pod| Arrival::at(&pod.ns, "eth0", object)).collect::<Result<_>>()?;
        let at_wires = WIRES.iter().map(|wire| Arrival::at(&wires, wire, object)).collect::<Result<_>>()?;
        if with_manx {
            node.carry(&neighbours, ground)?;
        }
        Ok(Site { node, wires, at_pods, at_wires })
    }

    fn arrival(&self, end: End) -> Result<&Arrival> {
        match end {
            End::Pod(pod) => self.at_pods.get(pod),
            End::Wire(wire) => self.at_wires.get(wire),
        }
        .context("no such end")
    }

    /// The namespace and device by which an end sends.
    fn device(&self, end: End) -> Result<(&Netns, &str)> {
        Ok(match end {
            End::Pod(pod) => (&self.node.pods.get(pod).context("no such pod")?.ns, "eth0"),
            End::Wire(wire) => (&self.wires, WIRES[wire]),
        })
    }

    /// The device of the node at which an end's frames come in.
    fn entry(&self, end: End) -> Result<String> {
        Ok(match end {
            End::Pod(pod) => self.node.pods.get(pod).context("no such pod")?.host_side.clone(),
            End::Wire(wire) => UPLINKS[wire].to_owned(),
        })
    }

    fn all_arrived(&self) -> Result<u64> {
        self.at_pods.iter().chain(&self.at_wires).map(Arrival::count).sum()
    }

    /// Of an end: the MAC that it sends from and to, and its address.
    fn place(&self, end: End, v6: bool) -> Result<(Mac, Mac, IpAddr)> {
        match end {
            End::Pod(pod) => {
                let pod = self.node.pods.get(pod).context("no such pod")?;
                let address = if v6 { &pod.v6 } else { &pod.v4 };
                Ok((pod.mac, pod.host_mac, address.parse()?))
            }
            End::Wire(wire) => {
                let (block, number) = BEHIND[wire];
                let address = if v6 { format!("fd00:{block}::70") } else { format!("172.16.{block}.70") };
                Ok((uplink_mac(number, wire), uplink_mac(NUMBER, wire), address.parse()?))
            }
        }
    }

    /// Connections as conntrack has them after a packet each way and one more.
    fn introduce(&self, injector: &Injector, way: Way, v6: bool) -> Result<()> {
        let (from, to) = ends(way);
        let Some(to) = to else { return Ok(()) };
        for (from, to, answers) in [(from, to, false), (to, from, true), (from, to, false)] {
            let before = self.arrival(to)?.count()?;
            let template = self.template(from, Some(to), way, v6, answers)?;
            let (ns, device) = self.device(from)?;
            injector.send(ns, device, &template, u32::from(FLOWS))?;
            self.wait(|| Ok(self.arrival(to)?.count()? - before), u64::from(FLOWS), way)?;
        }
        Ok(())
    }

    fn template(&self, from: End, to: Option<End>, way: Way, v6: bool, answers: bool) -> Result<Template> {
        let (mac, gateway, address) = self.place(from, v6)?;
        let destination = match to {
            Some(to) => self.place(to, v6)?.2,
            None => {
                let text = match (way, v6) {
                    (Way::BlackholeExplicit, false) => "172.16.250.7".to_owned(),
                    (Way::BlackholeExplicit, true) => "fd00:250::7".to_owned(),
                    (_, false) => format!("172.16.{BLOCK}.99"),
                    (_, true) => format!("fd00:{BLOCK}::99"),
                };
                text.parse()?
            }
        };
        frame::template(&Course { from: (mac, address), to: (gateway, destination), answers })
    }

    /// One round of a way: its cost, and how many frames the programs decided.
    fn round(&self, injector: &Injector, case: Case, frames: u32) -> Result<(f64, u64)> {
        let (from, to) = ends(case.way);
        self.introduce(injector, case.way, case.v6)?;
        let template = self.template(from, to, case.way, case.v6, false)?;
        let (ns, device) = self.device(from)?;
        let entry = self.entry(from)?;
        let decided = || self.node.sink.as_ref().map_or(Ok(0), fast::decided);
        let (all, at_entry, by_programs) =
            (self.all_arrived()?, received(&self.node.ns, &entry)?, decided()?);
        let at_end = to.map(|end| self.arrival(end)?.count()).transpose()?;
        let cost = injector.send(ns, device, &template, frames)?;
        match (to, at_end) {
            (Some(end), Some(before)) => {
                self.wait(|| Ok(self.arrival(end)?.count()? - before), u64::from(frames), case.way)?;
            }
            _ => {
                self.wait(|| Ok(received(&self.node.ns, &entry)? - at_entry), u64::from(frames), case.way)?
            }
        }
        let arrived = self.all_arrived()? - all;
        let expected = if case.way.drops() { 0 } else { u64::from(frames) };
        ensure!(arrived == expected, "{}: {arrived} frames arrived instead of {expected}", case.way.title());
        Ok((cost, decided()? - by_programs))
    }

    fn wait(&self, count: impl Fn() -> Result<u64>, expected: u64, way: Way) -> Result<()> {
        let step = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        loop {
            let found = count()?;
            if found >= expected {
                return Ok(());
            }
            ensure!(waited < STRAGGLERS, "{}: of {expected} frames {found} arrived", way.title());
            thread::sleep(step);
            waited += step;
        }
    }
}

fn ends(way: Way) -> (End, Option<End>) {
    match way {
        Way::IntoPod => (End::Wire(0), Some(End::Pod(0))),
        Way::OutOfPod => (End::Pod(0), Some(End::Wire(0))),
        Way::PodToPod => (End::Pod(0), Some(End::Pod(1))),
        Way::Transit => (End::Wire(0), Some(End::Wire(1))),
        Way::BlackholeExplicit | Way::BlackholeOwn => (End::Wire(0), None),
    }
}

/// A device whose other end drops frames in the driver.
struct Own {
    ns: Netns,
    arrival: Arrival,
}

impl Own {
    fn new(object: &Path) -> Result<Own> {
        let ns = node::host("injector")?;
        node::batch(&ns, "link add x0 type veth peer name x1\nlink set x0 up\nlink set x1 up")?;
        let arrival = Arrival::in_the_driver(&ns, "x1", object)?;
        Ok(Own { ns, arrival })
    }

    fn round(&self, injector: &Injector, template: &Template, frames: u32) -> Result<f64> {
        let before = self.arrival.count()?;
        let cost = injector.send(&self.ns, "x0", template, frames)?;
        let arrived = self.arrival.count()? - before;
        ensure!(arrived == u64::from(frames), "the injector: of {frames} frames {arrived} arrived");
        Ok(cost)
    }
}

/// Of all cases those whose name contains one of `only`, or all.
pub fn measure(object: &Path, cpu: usize, plan: Plan, only: &[String]) -> Result<Results> {
    let injector = Injector::new(object, cpu)?;
    let own = Own::new(object)?;
    let mut sites = Vec::new();
    for ground in Ground::ALL {
        let cases: Vec<Case> =
            Case::all().filter(|case| case.ground == ground && case.matches(only)).collect();
        if cases.is_empty() {
            continue;
        }
        let alone = Site::new(object, ground, false)?;
        let manx = Site::new(object, ground, true).with_context(|| format!("Manx, {}", ground.title()))?;
        sites.push((cases, alone, manx));
    }
    let mut results = Results::new();
    let mut decided: BTreeMap<Case, u64> = BTreeMap::new();
    for round in 0..=plan.rounds {
        // The first warms caches up, and is not counted.
        let frames = if round == 0 { plan.frames / 10 } else { plan.frames };
        for (cases, alone, manx) in &sites {
            for case in cases.iter().copied() {
                let (from, to) = ends(case.way);
                let template = alone.template(from, to, case.way, case.v6, false)?;
                let (mut kernel, mut fast) = (None, None);
                let injected = own.round(&injector, &template, frames)?;
                // Neither is always the first.
                for turn in 0..2 {
                    if (turn + round) % 2 == 0 {
                        kernel = Some(alone.round(&injector, case, frames)?.0);
                    } else {
                        fast = Some(manx.round(&injector, case, frames).context("Manx")?);
                    }
                }
                let (Some(kernel), Some((fast, carried))) = (kernel, fast) else { continue };
                if round > 0 {
                    let costs = results.entry(case).or_default();
                    costs.injector.push(injected);
                    costs.kernel.push(kernel);
                    costs.manx.push(fast);
                    *decided.entry(case).or_default() += carried;
                }
            }
        }
    }
    for (case, costs) in &mut results {
        let frames = f64::from(plan.frames) * plan.rounds as f64;
        costs.carried = decided.get(case).copied().unwrap_or(0) as f64 / frames;
    }
    Ok(results)
}
