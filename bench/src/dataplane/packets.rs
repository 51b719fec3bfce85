//! What a packet costs: frames are injected at one end of a way through a node and counted at the other. For each
//! way the kernel alone and Manx take turns with the injector's own cost, round by round.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use manx_tests::netns::Netns;

use super::{
    fast,
    floor::{Floor, Target},
    frame::{self, Begin, Course, FLOWS, Mac, Many, Template},
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
    /// From pods of as many blocks as there are flows.
    IntoPodFromMany,
    OutOfPod,
    OutOfPodToMany,
    PodToPod,
    Transit,
    TransitToMany,
    BlackholeExplicit,
    BlackholeOwn,
}

impl Way {
    pub const ALL: [Way; 9] = [
        Way::IntoPod,
        Way::IntoPodFromMany,
        Way::OutOfPod,
        Way::OutOfPodToMany,
        Way::PodToPod,
        Way::Transit,
        Way::TransitToMany,
        Way::BlackholeExplicit,
        Way::BlackholeOwn,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Way::IntoPod => "into a pod, from one address",
            Way::IntoPodFromMany => "into a pod, from 256 blocks",
            Way::OutOfPod => "out of a pod, to one address",
            Way::OutOfPodToMany => "out of a pod, to 256 blocks",
            Way::PodToPod => "pod to pod",
            Way::Transit => "transit, to one address",
            Way::TransitToMany => "transit, to 256 blocks",
            Way::BlackholeExplicit => "explicit blackhole",
            Way::BlackholeOwn => "own block, no pod",
        }
    }

    /// Which side's addresses are many.
    fn many(self) -> Option<Many> {
        match self {
            Way::IntoPodFromMany => Some(Many::From),
            Way::OutOfPodToMany | Way::TransitToMany => Some(Many::To),
            _ => None,
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
    /// With a program that redirects and does nothing else; none of a way that drops.
    pub floor: Vec<f64>,
    /// The share of frames that Manx's programs redirected or dropped, of all rounds; the rest was the stack's.
    pub carried: f64,
}

impl Costs {
    /// Manx's cost by the kernel's, the injector's taken off both, one of each round.
    pub fn ratios(&self) -> Vec<f64> {
        self.by_kernel(&self.manx)
    }

    /// As [`Self::ratios`], of the redirect alone: no program can do better.
    pub fn floor_ratios(&self) -> Vec<f64> {
        self.by_kernel(&self.floor)
    }

    fn by_kernel(&self, costs: &[f64]) -> Vec<f64> {
        let rounds = self.injector.iter().zip(&self.kernel).zip(costs);
        rounds.map(|((own, kernel), cost)| (cost - own) / (kernel - own)).collect()
    }
}

pub type Results = BTreeMap<Case, Costs>;

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub rounds: usize,
    /// In a round, for each way and each of the three.
    pub frames: u32,
}

impl Plan {
    /// Where a packet takes the kernel ten times as long, fewer tell as much.
    fn frames_on(self, ground: Ground) -> u32 {
        if ground == Ground::Rules { self.frames / 5 } else { self.frames }
    }
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
            until(|| Ok(self.arrival(to)?.count()? - before), u64::from(FLOWS))
                .with_context(|| format!("{}, first packets", way.title()))?;
        }
        Ok(())
    }

    fn template(&self, from: End, to: Option<End>, way: Way, v6: bool, answers: bool) -> Result<Template> {
        let (mac, gateway, mut address) = self.place(from, v6)?;
        let mut destination = match to {
            Some(to) => self.place(to, v6)?.2,
            None => {
                let text = match (way, v6) {
                    (Way::BlackholeExplicit, false) => "172.16.250.7".to_owned(),
                    (Way::BlackholeExplicit, true) => "fd00:250::7".to_owned(),
                    (_, false) => format!("172.16.{BLOCK}.99"),
                    (_, true) => format!("fd00:{BLOCK}::55"),
                };
                text.parse()?
            }
        };
        let many = match (way.many(), answers) {
            (Some(Many::From), true) => Some(Many::To),
            (Some(Many::To), true) => Some(Many::From),
            (many, _) => many,
        };
        let first: IpAddr = if v6 { "fd00:1::7".parse()? } else { "172.17.0.7".parse()? };
        match many {
            Some(Many::From) => address = first,
            Some(Many::To) => destination = first,
            None => {}
        }
        let begin = match from {
            End::Pod(_) => Begin::Process,
            End::Wire(_) => Begin::Wire,
        };
        frame::template(&Course { from: (mac, address), to: (gateway, destination), answers, many, begin })
    }

    /// Where a program sends what goes this way.
    fn target(&self, way: Way, v6: bool) -> Result<Option<Target>> {
        Ok(match ends(way).1 {
            None => None,
            Some(End::Pod(pod)) => {
                let pod = self.node.pods.get(pod).context("no such pod")?;
                Some(Target::Pod(node::index(&self.node.ns, &pod.host_side)?))
            }
            Some(End::Wire(wire)) => {
                let number = BEHIND[wire].1;
                let gateway = if v6 { uplink_v6(number, wire) } else { uplink_v4(number, wire) };
                Some(Target::Gateway(node::index(&self.node.ns, UPLINKS[wire])?, gateway.parse()?))
            }
        })
    }

    /// One round of a way: its cost, and how many frames the programs decided.
    fn round(&mut self, injector: &Injector, case: Case, frames: u32) -> Result<(f64, u64)> {
        let (from, to) = ends(case.way);
        self.node.pulse()?;
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
                until(|| Ok(self.arrival(end)?.count()? - before), u64::from(frames))
            }
            _ => until(|| Ok(received(&self.node.ns, &entry)? - at_entry), u64::from(frames)),
        }
        .with_context(|| case.way.title())?;
        let arrived = self.all_arrived()? - all;
        let expected = if case.way.drops() { 0 } else { u64::from(frames) };
        ensure!(arrived == expected, "{}: {arrived} frames arrived instead of {expected}", case.way.title());
        Ok((cost, decided()? - by_programs))
    }
}

/// Waits until as many frames are counted as were sent; the last may still be on its way.
fn until(count: impl Fn() -> Result<u64>, expected: u64) -> Result<()> {
    let step = Duration::from_millis(5);
    let mut waited = Duration::ZERO;
    loop {
        let found = count()?;
        if found >= expected {
            return Ok(());
        }
        ensure!(waited < STRAGGLERS, "of {expected} frames {found} arrived");
        thread::sleep(step);
        waited += step;
    }
}

fn ends(way: Way) -> (End, Option<End>) {
    match way {
        Way::IntoPod | Way::IntoPodFromMany => (End::Wire(0), Some(End::Pod(0))),
        Way::OutOfPod | Way::OutOfPodToMany => (End::Pod(0), Some(End::Wire(0))),
        Way::PodToPod => (End::Pod(0), Some(End::Pod(1))),
        Way::Transit | Way::TransitToMany => (End::Wire(1), Some(End::Wire(0))),
        Way::BlackholeExplicit | Way::BlackholeOwn => (End::Wire(0), None),
    }
}

/// A device whose other end drops frames: in the driver, or, of what a process sends, where TC sees a packet.
struct Own {
    ns: Netns,
    arrival: Arrival,
    /// Of what is sent here.
    _begin: Option<Arrival>,
}

impl Own {
    fn new(object: &Path, begin: Begin, gateway: Mac) -> Result<Own> {
        let ns = node::host("injector")?;
        let mac = node::text(gateway);
        node::batch(
            &ns,
            &format!(
                "link add x0 type veth peer name x1\nlink set x1 address {mac}\nlink set x0 up\nlink set x1 up"
            ),
        )?;
        let (arrival, begin) = match begin {
            Begin::Wire => (Arrival::in_the_driver(&ns, "x1", object)?, None),
            Begin::Process => (Arrival::at(&ns, "x1", object)?, Some(Arrival::at(&ns, "x0", object)?)),
        };
        Ok(Own { ns, arrival, _begin: begin })
    }

    fn round(&self, injector: &Injector, template: &Template, frames: u32) -> Result<f64> {
        let before = self.arrival.count()?;
        let cost = injector.send(&self.ns, "x0", template, frames)?;
        until(|| Ok(self.arrival.count()? - before), u64::from(frames)).context("the injector alone")?;
        Ok(cost)
    }
}

/// Of all cases those whose name contains one of `only`, or all.
pub fn measure(object: &Path, cpu: usize, plan: Plan, only: &[String]) -> Result<Results> {
    let injector = Injector::new(object, cpu)?;
    let mut own = BTreeMap::new();
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
    let mut floor = Floor::new(object)?;
    let mut results = Results::new();
    let mut decided: BTreeMap<Case, u64> = BTreeMap::new();
    for round in 0..=plan.rounds {
        // The first warms caches up, and is not counted.
        for (cases, alone, manx) in &mut sites {
            for case in cases.iter().copied() {
                let frames = if round == 0 { plan.frames / 10 } else { plan.frames_on(case.ground) };
                let (from, to) = ends(case.way);
                let template = alone.template(from, to, case.way, case.v6, false)?;
                let (mut kernel, mut fast) = (None, None);
                let begin = matches!(from, End::Pod(_));
                let own = match own.entry(begin) {
                    Entry::Occupied(own) => own.into_mut(),
                    Entry::Vacant(place) => {
                        let (_, gateway, _) = alone.place(from, case.v6)?;
                        let begin = if begin { Begin::Process } else { Begin::Wire };
                        place.insert(Own::new(object, begin, gateway)?)
                    }
                };
                let injected = own.round(&injector, &template, frames)?;
                // Neither is always the first.
                for turn in 0..2 {
                    if (turn + round) % 2 == 0 {
                        kernel = Some(alone.round(&injector, case, frames)?.0);
                    } else {
                        fast = Some(manx.round(&injector, case, frames).context("Manx")?);
                    }
                }
                let bare = match alone.target(case.way, case.v6)? {
                    Some(target) => {
                        let entry = alone.entry(from)?;
                        floor = floor.begin(&alone.node.ns, &entry, target)?;
                        let cost = alone.round(&injector, case, frames).context("the redirect alone")?.0;
                        floor.end()?;
                        Some(cost)
                    }
                    None => None,
                };
                let (Some(kernel), Some((fast, carried))) = (kernel, fast) else { continue };
                if round > 0 {
                    let costs = results.entry(case).or_default();
                    costs.injector.push(injected);
                    costs.kernel.push(kernel);
                    costs.manx.push(fast);
                    costs.floor.extend(bare);
                    *decided.entry(case).or_default() += carried;
                }
            }
        }
    }
    for (case, costs) in &mut results {
        let frames = f64::from(plan.frames_on(case.ground)) * plan.rounds as f64;
        costs.carried = decided.get(case).copied().unwrap_or(0) as f64 / frames;
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_every_way_is_accounted_for_and_carried_by_the_programs() {
        let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/manx-ebpf-bench.o");
        let only = [Ground::Plain.title().to_owned()];
        let results = measure(&object, 0, Plan { rounds: 1, frames: 512 }, &only).unwrap();
        assert_eq!(results.len(), 2 * Way::ALL.len());
        for (case, costs) in results {
            assert_eq!(costs.carried, 1.0, "{}", case.title());
        }
    }
}
