//! The article, end to end: full mesh, the mesh off, km01 a reflector; with Manx everywhere, with BIRD 2 as the
//! reflector, as a worker, and everywhere.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use manx_tests::{
    cluster::Cluster,
    story::{
        self, DOCUMENTS, SETTLED, SETTLED_WITH_BIRD, Stage, apply_the_reflector, ping, pods_across, settled,
    },
    wait::{eventually, throughout},
};
use nix::sys::signal::Signal;

/// Longer than the 5 s after which the side that listens dials, too.
const LONGER_THAN_A_LATE_DIAL: Duration = Duration::from_secs(7);
/// Shorter than that, and longer than the first retries.
const LATE: Duration = Duration::from_millis(1500);

fn pods_reach_each_other(cluster: &Cluster) -> Result<()> {
    for (from, to) in pods_across(cluster) {
        eventually("a ping from pod to pod", Duration::from_secs(5), || ping(from, to.address()))?;
    }
    Ok(())
}

fn pods_are_cut_off(cluster: &Cluster) -> Result<()> {
    let (from, to) = pods_across(cluster)[0];
    ensure!(ping(from, to.address()).is_err(), "{} still reaches {}", from.name(), to.name());
    Ok(())
}

/// As in the article, where one asks for it.
#[test]
fn with_nothing_kept_the_pods_are_cut_off_while_nobody_peers() -> Result<()> {
    let cluster = story::mesh()?;
    cluster.keep_nothing()?;
    cluster.apply(DOCUMENTS[0])?;
    settled(&cluster, Stage::Off, SETTLED)?;
    pods_are_cut_off(&cluster)
}

fn walk(birds: &[&str], limit: Duration) -> Result<Cluster> {
    let mut cluster = Cluster::new(birds)?;
    cluster.start()?;
    settled(&cluster, Stage::Mesh, limit)?;
    pods_reach_each_other(&cluster)?;

    cluster.apply(DOCUMENTS[0])?;
    settled(&cluster, Stage::Kept, limit)?;
    // Who speaks BIRD drops what it has at once.
    let connected =
        |cluster: &Cluster| if birds.is_empty() { pods_reach_each_other(cluster) } else { Ok(()) };
    connected(&cluster)?;

    cluster.apply(DOCUMENTS[1])?;
    thread::sleep(Duration::from_millis(500));
    settled(&cluster, Stage::Kept, limit)?;
    connected(&cluster)?;

    let (_, took) = apply_the_reflector(&cluster, limit)?;
    println!("from the third apply until both workers had each other's block: {} ms", took.as_millis());
    settled(&cluster, Stage::Reflector, limit)?;
    pods_reach_each_other(&cluster)?;
    Ok(cluster)
}

/// Every session that a Manx speaker has was established once and stays.
fn established_once(cluster: &Cluster) -> Result<()> {
    throughout("each session is established once", LONGER_THAN_A_LATE_DIAL, || {
        for node in &cluster.nodes {
            story::connections_are(node, Stage::Reflector)?;
            for session in node.sessions()? {
                let times = session.times_established;
                ensure!(matches!(times, None | Some(1)), "{}: {session:?}", node.role.host);
            }
        }
        thread::sleep(Duration::from_millis(100));
        Ok(())
    })
}

#[test]
fn the_articles_walk_ends_in_its_tables_and_each_session_comes_up_once() -> Result<()> {
    let cluster = walk(&[], SETTLED)?;
    established_once(&cluster)
}

/// Applies the third document while one node's daemon is paused, as if it had heard of it that much later.
fn one_node_reads_the_change_late(host: &str) -> Result<()> {
    let cluster = story::mesh()?;
    cluster.apply(DOCUMENTS[0])?;
    cluster.apply(DOCUMENTS[1])?;
    settled(&cluster, Stage::Kept, SETTLED)?;
    let daemon = cluster.node(host).daemon()?;
    daemon.signal(Signal::SIGSTOP)?;
    cluster.apply(DOCUMENTS[2])?;
    thread::sleep(LATE);
    daemon.signal(Signal::SIGCONT)?;
    let woken = Instant::now();
    settled(&cluster, Stage::Reflector, SETTLED)?;
    println!("{host} was {LATE:?} late; all was settled {} ms after it woke", woken.elapsed().as_millis());
    for node in &cluster.nodes {
        for session in node.sessions()? {
            ensure!(session.times_established == Some(1), "{}: {session:?}", node.role.host);
        }
    }
    ensure!(woken.elapsed() < Duration::from_secs(5), "that took {:?}", woken.elapsed());
    Ok(())
}

#[test]
fn a_reflector_that_reads_the_change_late_is_waited_for_without_a_flap() -> Result<()> {
    one_node_reads_the_change_late("km01")
}

#[test]
fn a_worker_that_reads_the_change_late_is_waited_for_without_a_flap() -> Result<()> {
    one_node_reads_the_change_late("kw02")
}

#[test]
fn bird_as_the_reflector_serves_manx_workers() -> Result<()> {
    walk(&["km01"], SETTLED_WITH_BIRD).map(drop)
}

#[test]
fn bird_as_a_worker_is_served_by_a_manx_reflector() -> Result<()> {
    walk(&["kw02"], SETTLED_WITH_BIRD).map(drop)
}

#[test]
fn the_lab_tells_the_same_story_with_bird_alone() -> Result<()> {
    walk(&["km01", "kw01", "kw02"], SETTLED_WITH_BIRD).map(drop)
}
