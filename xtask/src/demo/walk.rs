//! The article's walk: its sections in its order, its commands with what they print here, and a check of everything
//! that is claimed. Section 3's two questions are answered from what Manx knows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_api::Dialler;
use manx_tests::{
    cluster::{Cluster, Node, SEED, apply_line},
    story::{self, DOCUMENTS, SETTLED, SETTLED_WITH_BIRD, Stage},
    wait::eventually,
};

use super::screen::Screen;

const FAST: Duration = Duration::from_secs(1);
const PINGS: u64 = 5;

pub fn play(screen: &mut Screen, cluster: &mut Cluster) -> Result<()> {
    println!();
    for node in &cluster.nodes {
        let block = node.role.block.map_or("no block", |(block, _)| block);
        let program = if node.is_bird() { "BIRD 2" } else { "manxd" };
        screen.lines(&[format!(
            "{}  {:<15} {:<14} {block:<17} {program}",
            node.role.host, node.role.address, node.role.resource
        )]);
    }
    mesh(screen, cluster)?;
    mesh_off(screen, cluster)?;
    reflector_chosen(screen, cluster)?;
    reflector(screen, cluster)?;
    routes_incomplete(screen, cluster)?;
    what_a_peer_means(screen, cluster)?;
    the_map(screen, cluster)
}

fn mesh(screen: &mut Screen, cluster: &mut Cluster) -> Result<()> {
    screen.section("1  Full mesh");
    screen.say("Every node has a session with every other: Calico's default, and Manx's.");
    screen.waiting("starting the speakers", || cluster.start())?;
    let settled = settle(screen, cluster, Stage::Mesh);
    show(screen, cluster, "km01", &["manxctl get nodes -o wide"])?;
    show_status(screen, cluster, "km01")?;
    show_connections(screen, cluster, "km01")?;
    for host in ["km01", "kw01", "kw02"] {
        show(screen, cluster, host, &["ip route"])?;
    }
    report(screen, settled);
    pods_talk(screen, cluster)
}

fn mesh_off(screen: &mut Screen, cluster: &Cluster) -> Result<()> {
    screen.section("2.1  The mesh is switched off");
    screen.say(
        "The article's first document: nodeToNodeMeshEnabled: false, asNumber: 61234. Nothing replaces the mesh yet.",
    );
    let unasked = format!("manxctl apply -f {SEED}/{}", DOCUMENTS[0]);
    screen.prompt("km01", &unasked);
    let refused = cluster.run_in_workspace(&unasked)?;
    println!("{}{}", refused.stdout, refused.stderr);
    let refused = must(refused.status.code() == Some(1), "it was not refused");
    screen.check("a change that cuts nodes off is refused unless it is agreed to", refused);
    println!();
    apply(screen, cluster, DOCUMENTS[0])?;
    let settled = settle(screen, cluster, Stage::Kept);
    show_status(screen, cluster, "km01")?;
    show_status(screen, cluster, "kw01")?;
    show(screen, cluster, "kw01", &["ip route"])?;
    if all_manx(cluster) {
        screen.say(
            "In the article the pods were cut off here. Manx keeps a session that nobody wants any more until all that \
             came by it has come by another way, and then holds what has no other way as stale, for five minutes: the \
             next step of a change mostly comes before that. manx.dev/closeAfter and manx.dev/holdRoutes on BGPConfiguration \
             say for how long.",
        );
    }
    report(screen, settled);
    pods_stay(screen, cluster)
}

fn all_manx(cluster: &Cluster) -> bool {
    cluster.nodes.iter().all(|node| !node.is_bird())
}

/// While nobody is to talk to anybody.
fn pods_stay(screen: &mut Screen, cluster: &Cluster) -> Result<()> {
    let (from, to) = *story::pods_across(cluster).first().context("there are pods")?;
    let line = format!("ping -n -c 2 -i 0.2 -W 1 {}", to.address());
    let ping = screen.run(from.name(), from, &line)?;
    println!();
    // BIRD drops at once what it has from a peer that goes.
    if all_manx(cluster) {
        let answered = must(ping.status.success(), "a ping was not answered");
        screen.check("the pods stay connected", answered);
    }
    Ok(())
}

fn reflector_chosen(screen: &mut Screen, cluster: &Cluster) -> Result<()> {
    screen.section("2.2  km01 becomes a route reflector");
    screen.say("The second document gives km01 a cluster id. Nobody peers with it yet, so nothing changes.");
    apply(screen, cluster, DOCUMENTS[1])?;
    let node = cluster.node("km01");
    let chosen = screen.waiting("km01 reads its cluster id", || {
        eventually("km01's plan has the cluster id", SETTLED, || {
            let id = node.plan()?.cluster_id;
            ensure!(id == Some([224, 0, 0, 1].into()), "it is {id:?}");
            Ok(())
        })
    });
    show_status(screen, cluster, "km01")?;
    let mut checks = settle(screen, cluster, Stage::Kept);
    checks.insert(0, ("km01's cluster id is 224.0.0.1".to_owned(), chosen));
    report(screen, checks);
    pods_stay(screen, cluster)
}

fn reflector(screen: &mut Screen, cluster: &Cluster) -> Result<()> {
    screen.section("2.3  Every other node peers with km01");
    screen.say("The third document is one global BGPPeer, 192.168.80.121. km01's side of it is implied.");
    let file = DOCUMENTS[2];
    screen.prompt("km01", &apply_line(file));
    let limit = limit(cluster);
    let applied =
        screen.waiting("the workers learn each other's block", || story::apply_the_reflector(cluster, limit));
    if let Ok((said, _)) = &applied {
        print!("{said}");
    }
    let settled = settle(screen, cluster, Stage::Reflector);
    for host in ["kw01", "km01"] {
        show_status(screen, cluster, host)?;
    }
    show_connections(screen, cluster, "km01")?;
    screen.say(
        "PEER TYPE: a BGPPeer that names no node is `global` where it is used, on the workers, and `node specific` on \
         km01, where it is implied. The article's table has `node specific` for 192.168.80.121, which is what Calico \
         prints for a BGPPeer that names its nodes; the document in the article names none.",
    );
    println!();
    let all_manx = all_manx(cluster);
    let what = match &applied {
        Ok((_, took)) => format!(
            "from the third apply to both workers having each other's block from km01: {} ms{}",
            took.as_millis(),
            if all_manx { " (under 1000)" } else { "" }
        ),
        Err(_) => "both workers have each other's block".to_owned(),
    };
    screen.check(
        &what,
        applied.and_then(|(_, took)| {
            ensure!(!all_manx || took < FAST, "that is a second or more");
            Ok(())
        }),
    );
    report(screen, settled);
    once(screen, cluster);
    pods_talk(screen, cluster)
}

fn routes_incomplete(screen: &mut Screen, cluster: &Cluster) -> Result<()> {
    screen.section("3.1  Why have the workers no route to km01?");
    for host in ["km01", "kw01", "kw02"] {
        show(screen, cluster, host, &["ip route"])?;
    }
    show(screen, cluster, "km01", &["manxctl plan --node k8s-master-01"])?;
    let node = cluster.node("km01");
    if !node.is_bird() {
        show(screen, cluster, "km01", &["manxctl routes"])?;
    }
    screen.say(
        "Because there is nothing to have a route to: km01 owns no block, so it has nothing to advertise, and it is \
         reached at its own address on the switch. A block would come with its first pod. What it reflects keeps the \
         next hop of the worker that it comes from, so that packets go from worker to worker and not through km01. With \
         these routes on both workers their pods reach each other, as 2.3 has shown: what still kept the article's pods \
         apart is not in its tables.",
    );
    println!();
    screen.check(
        "km01's plan has no block",
        node.plan().and_then(|plan| {
            ensure!(plan.blocks.is_empty(), "it has {:?}", plan.blocks);
            Ok(())
        }),
    );
    if !node.is_bird() {
        screen.check(
            "km01 originates no route",
            node.bgp_routes().and_then(|routes| {
                let own: Vec<_> =
                    routes.routes.iter().filter(|r| r.bgp.as_ref().is_some_and(|b| b.originated)).collect();
                ensure!(own.is_empty(), "it originates {own:?}");
                Ok(())
            }),
        );
    }
    screen.check("km01 and both workers reach every pod from the host", hosts_reach_pods(cluster));
    Ok(())
}

fn what_a_peer_means(screen: &mut Screen, cluster: &Cluster) -> Result<()> {
    screen.section("3.2  Who is the server, if every peer has port 179?");
    show_connections(screen, cluster, "km01")?;
    screen.say(
        "Port 179 only says who answered the call. BGP has no server: of two peers either may dial, and Manx lets the \
         one dial whose address is the greater string. Who reflects to whom is a different matter, and stands in the plan:",
    );
    println!();
    let reflector = cluster.node("km01");
    let clients = reflector.plan()?;
    let mut lines = Vec::new();
    for worker in cluster.workers() {
        let client = clients.peers.iter().any(|p| p.address == worker.role.address && p.rr_client);
        let role = if client { "its client" } else { "no client of it" };
        lines.push(match dialled(worker, reflector)? {
            Some((dialler, from, to)) => format!(
                "{dialler} dialled   {from:<22} → {to:<22} km01 reflects, {} is {role}",
                worker.role.host
            ),
            None => format!("{}: no session with km01", worker.role.host),
        });
    }
    screen.lines(&lines);
    println!();
    let count = clients.peers.iter().filter(|p| p.rr_client).count();
    screen
        .check("both workers are km01's route reflector clients", must(count == 2, &format!("{count} are")));
    for worker in cluster.workers().filter(|w| !w.is_bird() && !reflector.is_bird()) {
        let what = format!("{} dialled, its address being the greater string", worker.role.host);
        screen.check(
            &what,
            dialled(worker, reflector).and_then(|found| {
                let (dialler, ..) = found.context("there is no session")?;
                ensure!(dialler == worker.role.host, "{dialler} did");
                Ok(())
            }),
        );
    }
    Ok(())
}

fn the_map(screen: &mut Screen, cluster: &Cluster) -> Result<()> {
    let Some(node) = cluster.workers().find(|n| !n.is_bird()) else {
        return Ok(());
    };
    screen.section("The same routes, as the programs see them");
    let status = node.dataplane()?;
    let pin =
        status.maps.iter().find(|m| m.name == "ROUTES4").context("manxd has no map ROUTES4")?.pin.clone();
    let dump = screen.run(node.role.host, &node.host, &format!("bpftool map dump pinned {pin}"))?;
    println!();
    screen.check("bpftool reads the map", dump.success());
    screen.check(
        &format!("{}: RIB, FIB and map agree in every route", node.role.host),
        story::sinks_agree(node),
    );
    Ok(())
}

/// Who opened the connection between two nodes, and its ends, as whichever of them runs Manx knows.
fn dialled(worker: &Node, reflector: &Node) -> Result<Option<(&'static str, String, String)>> {
    let (asked, other) = match (worker.is_bird(), reflector.is_bird()) {
        (false, _) => (worker, reflector),
        (true, false) => (reflector, worker),
        (true, true) => return ends_by_port(worker, reflector),
    };
    let status = asked.status()?;
    let peer = status.peers.iter().find(|p| p.address == other.role.address);
    Ok(peer.and_then(|p| p.connection.as_ref()).map(|c| match c.dialled_by {
        Dialler::Local => (asked.role.host, c.local.to_string(), c.remote.to_string()),
        Dialler::Remote => (other.role.host, c.remote.to_string(), c.local.to_string()),
    }))
}

/// Where neither end is Manx only the port tells.
fn ends_by_port(a: &Node, b: &Node) -> Result<Option<(&'static str, String, String)>> {
    let connections = manx_tests::kernel::bgp_connections(&a.host)?;
    let found = connections.iter().find(|c| c.remote.ip() == b.role.address);
    Ok(found.map(|c| match c.remote.port() {
        179 => (a.role.host, c.local.to_string(), c.remote.to_string()),
        _ => (b.role.host, c.remote.to_string(), c.local.to_string()),
    }))
}

fn limit(cluster: &Cluster) -> Duration {
    if cluster.nodes.iter().any(Node::is_bird) { SETTLED_WITH_BIRD } else { SETTLED }
}

type Checks = Vec<(String, Result<()>)>;

fn must(holds: bool, otherwise: &str) -> Result<()> {
    ensure!(holds, "{otherwise}");
    Ok(())
}

/// Waits for everything that must be true of every node in this stage.
fn settle(screen: &Screen, cluster: &Cluster, stage: Stage) -> Checks {
    let limit = limit(cluster);
    let mut checks = Checks::new();
    for node in &cluster.nodes {
        let host = node.role.host;
        let peers = stage.peers(node.role);
        let names = peers.iter().map(|(peer, _)| peer.to_string()).collect::<Vec<_>>().join(" and ");
        let kind = peers.first().map(|(_, kind)| kind.to_string()).unwrap_or_default();
        let (sessions, connections) = match peers.len() {
            0 => ("has no peers".to_owned(), ""),
            1 => (format!("is Established with {names} ({kind})"), "has one TCP connection"),
            _ => (format!("is Established with {names} ({kind})"), "has one TCP connection for each"),
        };
        let routes = match stage.routes(node.role).len() {
            _ if stage == Stage::Kept && !node.is_bird() => "has the mesh's routes in the kernel still",
            0 => "has no routes of ours in the kernel",
            _ => "has exactly the article's routes in the kernel",
        };
        let mut wait = |what: &str, look: &dyn Fn() -> Result<()>| {
            let what = format!("{host} {what}");
            let result = screen.waiting(&what, || eventually(&what, limit, look));
            checks.push((what, result));
        };
        wait(&sessions, &|| story::sessions_are(node, stage));
        if !connections.is_empty() {
            wait(connections, &|| story::connections_are(node, stage));
        }
        wait(routes, &|| story::routes_are(node, stage));
        if !node.is_bird() {
            wait("has the same routes in BGP, kernel and eBPF map", &|| story::sinks_agree(node));
        }
    }
    checks
}

fn report(screen: &mut Screen, checks: Checks) {
    println!();
    for (what, result) in checks {
        screen.check(&what, result);
    }
}

fn once(screen: &mut Screen, cluster: &Cluster) {
    for node in cluster.nodes.iter().filter(|n| !n.is_bird()) {
        let what = format!("{}: each session was established once", node.role.host);
        screen.check(
            &what,
            node.sessions().and_then(|sessions| {
                for session in sessions {
                    ensure!(session.times_established == Some(1), "{session:?}");
                }
                Ok(())
            }),
        );
    }
}

fn apply(screen: &mut Screen, cluster: &Cluster, file: &str) -> Result<()> {
    screen.prompt("km01", &apply_line(file));
    let said = cluster.apply(file);
    if let Ok(said) = &said {
        print!("{said}");
    }
    println!();
    screen.check(&format!("{file} is applied"), said);
    Ok(())
}

fn show(screen: &Screen, cluster: &Cluster, host: &str, lines: &[&str]) -> Result<()> {
    for line in lines {
        screen.run(host, &cluster.node(host).host, line)?;
    }
    Ok(())
}

fn show_status(screen: &Screen, cluster: &Cluster, host: &str) -> Result<()> {
    let line = if cluster.node(host).is_bird() { "birdc show protocols" } else { "manxctl node status" };
    show(screen, cluster, host, &[line])
}

fn show_connections(screen: &Screen, cluster: &Cluster, host: &str) -> Result<()> {
    show(screen, cluster, host, &[&format!("netstat -ntap | grep {}", cluster.node(host).program())])
}

/// Pings between all pods of different workers, shown once, and proof that the programs carried them.
fn pods_talk(screen: &mut Screen, cluster: &Cluster) -> Result<()> {
    let pairs = story::pods_across(cluster);
    let all = screen.waiting("pings between all pods", || {
        pairs.iter().try_for_each(|(from, to)| {
            eventually("a ping is answered", Duration::from_secs(5), || story::ping(from, to.address()))
        })
    });
    let (from, to) = *pairs.first().context("there are pods")?;
    let before = carried(cluster)?;
    let line = format!("ping -n -c {PINGS} -i 0.2 {}", to.address());
    let ping = screen.run(from.name(), from, &line)?;
    let after = carried(cluster)?;
    for node in cluster.workers().filter(|n| !n.is_bird()) {
        show(screen, cluster, node.role.host, &["manxctl dataplane counters"])?;
    }
    println!();
    screen.check(&format!("all {} pairs of pods on different workers reach each other", pairs.len()), all);
    screen.check("no ping was lost", must(ping.stdout.contains(" 0% packet loss"), "see above"));
    for (b, a) in before.iter().zip(&after) {
        let (out, into) = (a.out - b.out, a.into - b.into);
        screen.check(
            &format!(
                "{}: eBPF carried {out} packets from pods to the wire and {into} from the wire into pods",
                a.host
            ),
            must(out >= PINGS && into >= PINGS, &format!("{PINGS} of each were sent")),
        );
    }
    Ok(())
}

struct Carried {
    host: &'static str,
    out: u64,
    into: u64,
}

fn carried(cluster: &Cluster) -> Result<Vec<Carried>> {
    let workers = cluster.workers().filter(|n| !n.is_bird());
    workers
        .map(|node| {
            let counters = node.counters()?;
            Ok(Carried {
                host: node.role.host,
                out: story::counted(&counters, "pod_tc", "redirected_neigh"),
                into: story::counted(&counters, "uplink_tc", "redirected_peer"),
            })
        })
        .collect()
}

fn hosts_reach_pods(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        for pod in cluster.nodes.iter().flat_map(|n| &n.pods) {
            story::ping(&node.host, pod.address())?;
        }
    }
    Ok(())
}
