//! The article's walk, and back to the mesh.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    cluster::Cluster,
    story::{DOCUMENTS, SEED_LINES, SETTLED, SETTLED_WITH_BIRD, Stage, ping, settled},
    traffic::End,
    wait::eventually,
};

use crate::{
    runs,
    watched::{Control, Outcome, Watched},
};

/// 200 packets a second.
pub const PACE: Duration = Duration::from_millis(5);
/// After a step, where one waits for it.
pub const REST: Duration = Duration::from_millis(1500);
/// The sessions that are no longer wanted end by themselves within that time.
const OVER: Duration = Duration::from_secs(40);
/// Every two pods.
pub fn pairs(cluster: &Cluster) -> Vec<(End<'_>, End<'_>)> {
    let pods: Vec<_> = cluster.nodes.iter().flat_map(|node| &node.pods).collect();
    let mut pairs = Vec::new();
    for (number, from) in pods.iter().enumerate() {
        for to in pods.iter().skip(number + 1) {
            pairs.push((End { ns: from, address: from.address() }, End { ns: to, address: to.address() }));
        }
    }
    pairs
}

fn walk(cluster: &Cluster, control: &Control, patient: bool) -> Result<Outcome> {
    let birds = cluster.nodes.iter().any(|node| node.is_bird());
    let pairs = pairs(cluster);
    for (from, to) in &pairs {
        eventually("pods reach one another", SETTLED, || ping(from.ns, to.address))?;
    }
    let mut watched = Watched::start(control, &pairs, PACE)?;
    thread::sleep(REST);
    let rest = |watched: &mut Watched, stage: Option<Stage>| -> Result<()> {
        if patient {
            if let (Some(stage), false) = (stage, birds) {
                settled(cluster, stage, SETTLED)?;
            }
            watched.step("all was as it is to be");
            thread::sleep(REST);
        }
        Ok(())
    };
    for (document, stage) in DOCUMENTS.into_iter().zip([Stage::Kept, Stage::Kept, Stage::Reflector]) {
        watched.step(document);
        cluster.apply(document)?;
        rest(&mut watched, Some(stage))?;
    }
    if birds {
        settled(cluster, Stage::Reflector, SETTLED_WITH_BIRD)?;
    } else {
        settled(cluster, Stage::Reflector, SETTLED)?;
    }
    thread::sleep(REST);
    for line in &SEED_LINES[DOCUMENTS.len()..] {
        watched.step(line);
        cluster.run_in_workspace(line)?.success().with_context(|| line.clone())?;
        cluster.configure_birds()?;
        rest(&mut watched, None)?;
    }
    settled(cluster, Stage::Mesh, if birds { SETTLED_WITH_BIRD } else { OVER })?;
    watched.step("all was as at the start");
    thread::sleep(REST);
    watched.stop()
}

pub fn with_control(birds: &[&str]) -> Result<(Cluster, Control)> {
    let mut cluster = Cluster::new(birds)?;
    let control = Control::new(&mut cluster.lab, [[192, 168, 80, 201].into(), [192, 168, 80, 202].into()])?;
    cluster.start()?;
    settled(&cluster, Stage::Mesh, if birds.is_empty() { SETTLED } else { SETTLED_WITH_BIRD })?;
    Ok((cluster, control))
}

#[test]
fn from_the_mesh_to_the_reflector_and_back_no_packet_is_lost() -> Result<()> {
    let (cluster, control) = with_control(&[])?;
    let mut all = Vec::new();
    for run in 0..runs(2)? {
        let outcome = walk(&cluster, &control, run % 2 == 0)?;
        println!("run {run}: {} of {} packets lost", outcome.lost, outcome.sent);
        print!("{}", outcome.told);
        all.push(outcome.lost);
    }
    ensure!(all.iter().all(|lost| *lost == 0), "lost: {all:?}");
    Ok(())
}

/// It comes back to a plan in which nobody tells it what it knew before.
#[test]
fn daemons_that_are_away_while_the_mesh_is_turned_off_lose_nothing() -> Result<()> {
    let (mut cluster, control) = with_control(&[])?;
    let outcome = {
        let mut watched = Watched::start(&control, &pairs(&cluster), PACE)?;
        for host in ["km01", "kw01"] {
            cluster.node_mut(host).kill()?;
        }
        watched.step(DOCUMENTS[0]);
        cluster.apply(DOCUMENTS[0])?;
        for host in ["km01", "kw01"] {
            cluster.node_mut(host).start()?;
        }
        watched.step("km01 and kw01 are there again");
        for (host, routes) in [("km01", 2), ("kw01", 1)] {
            eventually("what the run before knew is held", SETTLED, || {
                let status = cluster.node(host).status()?;
                ensure!(status.peers.is_empty(), "{host} has peers");
                let held = status.leftovers.context("nothing is held")?;
                ensure!(held.routes == routes, "{host} holds {} routes", held.routes);
                Ok(())
            })?;
        }
        let said = cluster.node("kw01").host.sh("manxctl node status")?;
        ensure!(said.contains("Held from before manxd's restart"), "{said}");
        // An audit does not take them for somebody's doing.
        let audit = cluster.node("kw01").host.sh("manxctl dataplane audit")?;
        ensure!(audit.contains("all is as it should be"), "{audit}");
        cluster.apply(DOCUMENTS[1])?;
        watched.step(DOCUMENTS[1]);
        // In the middle of it once more.
        cluster.node_mut("kw01").kill()?;
        cluster.node_mut("kw01").start()?;
        thread::sleep(REST);
        watched.step(DOCUMENTS[2]);
        cluster.apply(DOCUMENTS[2])?;
        settled(&cluster, Stage::Reflector, SETTLED)?;
        thread::sleep(REST);
        watched.stop()?
    };
    ensure!(outcome.lost == 0, "{} packets lost\n{}{}", outcome.lost, outcome.told, outcome.steps);
    for node in &cluster.nodes {
        ensure!(node.status()?.leftovers.is_none(), "{} still holds routes", node.role.host);
    }
    // Of a node that is no more nothing is held, however near the change.
    cluster.node_mut("kw01").kill()?;
    cluster.node_mut("kw02").kill()?;
    cluster.run_in_workspace("manxctl delete node k8s-worker-02 --yes")?.success()?;
    cluster.node_mut("kw01").start()?;
    eventually("the deleted node's route is gone", OVER, || {
        let routes = cluster.node("kw01").host.sh("ip route show proto manx")?;
        ensure!(!routes.contains("172.16.118.64/26"), "{routes}");
        Ok(())
    })
}

#[test]
fn what_bird_loses_on_the_same_walk_is_shown() -> Result<()> {
    let (cluster, control) = with_control(&["km01", "kw01", "kw02"])?;
    let outcome = walk(&cluster, &control, true)?;
    println!(
        "BIRD: {} of {} packets lost, for {:?} at a stretch",
        outcome.lost, outcome.sent, outcome.longest
    );
    // The article was cut off.
    ensure!(outcome.lost > 0, "BIRD lost nothing: is this the same walk?");
    Ok(())
}

/// A Manx between two BIRDs keeps what it can: its own routes.
#[test]
fn with_bird_as_one_of_the_workers_only_what_bird_drops_is_lost() -> Result<()> {
    let (cluster, control) = with_control(&["kw02"])?;
    let outcome = walk(&cluster, &control, true)?;
    println!(
        "Manx with BIRD on kw02: {} of {} packets lost, for {:?} at a stretch",
        outcome.lost, outcome.sent, outcome.longest
    );
    Ok(())
}
