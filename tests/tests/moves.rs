//! A running flow changes its way at most once for each change of what may be fast. Datagrams go one at a time, each way
//! by itself, and after each the programs' counters are read: the one verdict that grew says which way it took. So the
//! way of every packet is known, of both families, to a pod of the same node and of another.

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use manx_api::Counters;
use manx_tests::{
    host::Pod,
    netns::Netns,
    pair::{POOL_NAMES, Pair, addresses},
    wait::eventually,
};

const ARRIVES: Duration = Duration::from_secs(2);
/// Rounds after a change has been seen in the status.
const AFTER: usize = 3;
/// Rounds in which a change has to be seen.
const ROUNDS: usize = 200;
/// Verdicts on what is no flow of ours: neighbours, BGP.
const ASIDE: [&str; 4] = ["scope", "not_ip", "not_for_us", "outside_pools"];

/// One datagram, there or back.
#[derive(Clone, Debug)]
struct Step {
    verdict: String,
}

impl Step {
    /// A packet that keeps a connection's entry alive goes by the stack on a fast flow's behalf.
    fn is_fast(&self) -> bool {
        self.verdict.starts_with("redirected") || self.verdict == "keep_alive"
    }
}

/// Datagrams between two pods, of which the second answers.
struct Flow {
    name: String,
    sockets: [UdpSocket; 2],
    /// There and back.
    steps: [Vec<Step>; 2],
}

/// How often the way changed, and for how many packets it was the stack's meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moves {
    changes: usize,
    by_stack: usize,
    ends_fast: bool,
}

impl Flow {
    fn new(from: (&Netns, IpAddr), to: (&Netns, IpAddr)) -> Result<Flow> {
        let open = |(ns, address): (&Netns, IpAddr)| -> Result<UdpSocket> {
            let socket = ns.run(move || UdpSocket::bind((address, 0)))?;
            socket.set_read_timeout(Some(ARRIVES))?;
            Ok(socket)
        };
        let sockets = [open(from)?, open(to)?];
        let name = format!("{} → {}", from.1, to.1);
        let [here, there] = &sockets;
        here.connect(there.local_addr()?)?;
        there.connect(here.local_addr()?)?;
        Ok(Flow { name, sockets, steps: [Vec::new(), Vec::new()] })
    }

    /// There and back.
    fn round(&mut self, pair: &Pair, before: &mut Counters) -> Result<()> {
        for way in 0..2 {
            let (sender, receiver) = (&self.sockets[way], &self.sockets[1 - way]);
            let number = self.steps[way].len() as u64;
            sender.send(&number.to_be_bytes())?;
            let mut buffer = [0; 8];
            let came = receiver.recv(&mut buffer);
            ensure!(
                matches!(came, Ok(8)) && buffer == number.to_be_bytes(),
                "{}, {}: packet {number} is lost: {came:?}",
                self.name,
                ["there", "back"][way]
            );
            let after = pair.here.counters()?;
            let verdict =
                the_one(before, &after).with_context(|| format!("{}, packet {number}", self.name))?;
            *before = after;
            self.steps[way].push(Step { verdict });
        }
        Ok(())
    }

    fn moves_since(&self, way: usize, begun: usize) -> Moves {
        let steps = &self.steps[way][begun.saturating_sub(1)..];
        let fast: Vec<bool> = steps.iter().map(Step::is_fast).collect();
        Moves {
            changes: fast.windows(2).filter(|two| two[0] != two[1]).count(),
            by_stack: fast.iter().filter(|fast| !**fast).count(),
            ends_fast: fast.last() == Some(&true),
        }
    }

    /// For messages: the verdicts in their order, each once for as long as it lasted.
    fn told(&self, way: usize, begun: usize) -> String {
        let mut verdicts: Vec<&str> =
            self.steps[way][begun.saturating_sub(1)..].iter().map(|step| step.verdict.as_str()).collect();
        verdicts.dedup();
        verdicts.join(", ")
    }
}

/// The verdict of TC programs that was given once meanwhile.
fn the_one(before: &Counters, after: &Counters) -> Result<String> {
    let count = |counters: &Counters, program: &str, verdict: &str| {
        let rows = counters.rows.iter().filter(|row| row.program == program);
        let of = rows.flat_map(|row| &row.verdicts).filter(|count| count.verdict == verdict);
        of.map(|count| count.packets).sum::<u64>()
    };
    let rows = after.rows.iter().filter(|row| row.program.ends_with("_tc"));
    let grown: Vec<(&str, u64)> = rows
        .flat_map(|row| row.verdicts.iter().map(|verdict| (row.program.as_str(), verdict)))
        .filter(|(_, verdict)| !ASIDE.contains(&verdict.verdict.as_str()))
        .map(|(program, v)| (v.verdict.as_str(), v.packets - count(before, program, &v.verdict)))
        .filter(|(_, grown)| *grown > 0)
        .collect();
    match grown.as_slice() {
        [(verdict, 1)] => Ok((*verdict).to_owned()),
        _ => bail!("the verdicts were {grown:?}"),
    }
}

struct World {
    flows: Vec<Flow>,
    _second: Pod,
    pair: Pair,
}

/// By family: of flow n, `n % 2` is 0 for IPv4.
impl World {
    fn new() -> Result<World> {
        let pair = Pair::open(&[])?;
        let second = pair.second_pod()?;
        let mut flows = Vec::new();
        for (to, addresses) in [(&pair.far, addresses(50, 1)), (&second, addresses(10, 2))] {
            for (from, to_address) in manx_tests::pair::addresses(10, 1).into_iter().zip(addresses) {
                flows.push(Flow::new((&pair.neighbour, from), (to, to_address))?);
            }
        }
        Ok(World { flows, _second: second, pair })
    }

    fn round(&mut self) -> Result<()> {
        let mut counters = self.pair.here.counters()?;
        self.flows.iter_mut().try_for_each(|flow| flow.round(&self.pair, &mut counters))
    }

    /// Packets go on until both pools have these modes, and a while longer. What became of the flows meanwhile is judged
    /// by `judge`, which is given the flow's number and its way.
    fn after(
        &mut self,
        change: &str,
        modes: [&str; 2],
        judge: impl Fn(usize, usize, Moves) -> bool,
    ) -> Result<()> {
        let begun: Vec<usize> = self.flows.iter().map(|flow| flow.steps[0].len()).collect();
        let mut left = AFTER;
        for round in 0.. {
            self.round().with_context(|| change.to_owned())?;
            let now = self.pair.here.dataplane()?.modes;
            if now.pools.iter().map(|pool| pool.mode.as_str()).eq(modes) {
                left -= 1;
            }
            if left == 0 {
                break;
            }
            ensure!(round < ROUNDS, "{change}: the modes are not {modes:?}: {now:?}");
        }
        for (number, (flow, begun)) in self.flows.iter().zip(begun).enumerate() {
            for way in 0..2 {
                let moves = flow.moves_since(way, begun);
                let told = flow.told(way, begun);
                println!("{change}: {}, {}: {told}", flow.name, ["there", "back"][way]);
                ensure!(
                    judge(number, way, moves),
                    "{change}: {}, {}: {moves:?}: {told}",
                    flow.name,
                    ["there", "back"][way]
                );
            }
        }
        Ok(())
    }
}

fn stays_fast(moves: Moves) -> bool {
    moves.changes == 0 && moves.ends_fast
}

fn stays_by_stack(moves: Moves) -> bool {
    moves.changes == 0 && !moves.ends_fast
}

fn goes_once(moves: Moves, fast: bool) -> bool {
    moves.changes == 1 && moves.ends_fast == fast
}

#[test]
fn a_word_on_the_whole_a_pool_or_an_interface_moves_a_running_flow_once() -> Result<()> {
    let mut world = World::new()?;
    let unguarded = ["unguarded"; 2];
    world.after("at first", unguarded, |_, _, moves| moves.ends_fast)?;

    world.pair.annotate(&[("default", "manx.dev/fastPath: Disabled")])?;
    world.after("the whole is Disabled", ["off"; 2], |_, _, moves| goes_once(moves, false))?;
    world.pair.annotate(&[("default", "manx.dev/fastPath: Enabled")])?;
    world.after("the whole is Enabled", unguarded, |_, _, moves| goes_once(moves, true))?;
    world.pair.annotate(&[])?;
    world.after("the whole is Auto", unguarded, |_, _, moves| stays_fast(moves))?;

    for (family, pool) in POOL_NAMES.into_iter().enumerate() {
        let mut modes = unguarded;
        modes[family] = "off";
        world.pair.annotate(&[(pool, "manx.dev/fastPath: Disabled")])?;
        world.after("a pool is Disabled", modes, |flow, _, moves| match flow % 2 == family {
            true => goes_once(moves, false),
            false => stays_fast(moves),
        })?;
        // Auto and Enabled are the same here, and the other pool changes the other way at once.
        world.pair.annotate(&[(pool, "manx.dev/fastPath: Enabled")])?;
        world.after("the pool is Enabled", unguarded, |flow, _, moves| match flow % 2 == family {
            true => goes_once(moves, true),
            false => stays_fast(moves),
        })?;
        world.pair.annotate(&[])?;
        world.after("the pool is Auto", unguarded, |_, _, moves| stays_fast(moves))?;
    }

    let interface = format!("manx.dev/fastPathInterfaces: '{}=Disabled'", world.pair.neighbour.interface());
    world.pair.annotate(&[("default", &interface)])?;
    let off = |world: &World, off: bool| {
        let status = world.pair.here.dataplane()?;
        let of = status.modes.interfaces.iter().find(|of| of.name == world.pair.neighbour.interface());
        ensure!(of.is_some_and(|of| (of.mode.as_deref() == Some("off")) == off), "{:?}", status.modes);
        Ok(())
    };
    // Answers come by other interfaces.
    eventually("the interface is off", ARRIVES * 5, || off(&world, true))?;
    world.after("an interface is Disabled", unguarded, |_, way, moves| match way {
        0 => goes_once(moves, false),
        _ => stays_fast(moves),
    })?;
    world.pair.annotate(&[])?;
    eventually("the interface is as all", ARRIVES * 5, || off(&world, false))?;
    world.after("the interface has no word of its own", unguarded, |_, way, moves| match way {
        0 => goes_once(moves, true),
        _ => stays_fast(moves),
    })?;
    Ok(())
}

/// What tracks connections and changes none.
const TRACKING: &str = "table inet track { chain forward { type filter hook forward priority 0; \
                        ct state invalid drop; ct state established,related accept; }; }";
const EVERY_PACKET: &str = "table inet every { chain forward { type filter hook forward priority -10; \
                            ip6 saddr fd00:172::/32 quota over 9000 mbytes drop; }; }";

#[test]
fn rules_that_come_and_go_move_a_running_flow_once_and_back_when_it_is_known() -> Result<()> {
    let mut world = World::new()?;
    let (unguarded, guarded) = (["unguarded"; 2], ["guarded"; 2]);
    world.after("at first", unguarded, |_, _, moves| moves.ends_fast)?;
    let nft = |world: &World, rules: &str| -> Result<()> {
        world.pair.here.host.write_file("/tmp/rules.nft", &format!("{rules}\n"))?;
        world.pair.here.host.sh("nft -f /tmp/rules.nft").map(drop)
    };

    // To the stack, and back when conntrack has seen both directions: the first packet of each, and of the first
    // direction perhaps one more.
    nft(&world, TRACKING)?;
    world.after("rules track connections", guarded, |_, _, moves| {
        moves.changes == 2 && moves.ends_fast && moves.by_stack <= 2
    })?;

    // A rule of one family that has to see every packet.
    nft(&world, EVERY_PACKET)?;
    let off6 = |world: &mut World, change: &str, fast: bool| {
        let modes = ["guarded", if fast { "guarded" } else { "off" }];
        world.after(change, modes, |flow, _, moves| match flow % 2 {
            0 => stays_fast(moves),
            _ => goes_once(moves, fast),
        })
    };
    off6(&mut world, "a rule has to see every IPv6 packet", false)?;
    world.pair.here.host.sh("nft delete table inet every")?;
    off6(&mut world, "that rule is gone", true)?;

    world.pair.annotate(&[("default", "manx.dev/fastPath: Disabled")])?;
    world.after("the whole is Disabled", ["off"; 2], |_, _, moves| goes_once(moves, false))?;
    // Conntrack has seen the flows meanwhile: they are carried from the next packet on.
    world.pair.annotate(&[])?;
    world.after("the whole is Auto", guarded, |_, _, moves| goes_once(moves, true))?;
    world.pair.annotate(&[("default", "manx.dev/fastPath: Enabled")])?;
    world.after("the whole is Enabled", unguarded, |_, _, moves| stays_fast(moves))?;
    world.pair.annotate(&[])?;
    world.after("the whole is Auto again", guarded, |_, _, moves| {
        stays_fast(moves) || (moves.changes == 2 && moves.ends_fast && moves.by_stack <= 2)
    })?;

    // Whoever flushes the rules often writes them again at once.
    world.pair.here.host.sh("nft flush ruleset")?;
    world.after("the rules are gone", guarded, |_, _, moves| stays_fast(moves) || stays_by_stack(moves))?;
    nft(&world, TRACKING)?;
    world.after("the rules are there again", guarded, |_, _, moves| moves.changes <= 2 && moves.ends_fast)
}
