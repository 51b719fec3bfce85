//! The article's cluster on an etcd that its nodes share, as a fleet has it: the story runs the same, and while etcd is
//! away, restarted and compacted no route is lost and no packet.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use manx_tests::{
    cluster::{CLUSTER, Cluster, Node, SEED},
    etcd::{self, Etcd},
    netns::Netns,
    programs,
    story::{DOCUMENTS, SETTLED, Stage, routes_are, settled},
    traffic::{End, Flow},
    wait::{eventually, throughout},
    watch::RouteWatch,
};
use tempfile::TempDir;

/// On the master, which is reached by the switch.
const URL: &str = "etcd://192.168.80.121:2379";
/// 200 datagrams a second.
const PACE: Duration = Duration::from_millis(5);
/// From etcd's return on; attempts are some seconds apart then.
const HEARD: Duration = Duration::from_secs(15);

struct Shared {
    cluster: Cluster,
    etcd: Etcd,
    _directory: TempDir,
}

impl Shared {
    fn new() -> Result<Shared> {
        let mut cluster = Cluster::new(&[])?;
        let directory = etcd::directory()?;
        let etcd = Etcd::start(&cluster.node("km01").host, "192.168.80.121", directory.path())?;
        for node in &mut cluster.nodes {
            node.flags = vec!["--datastore", URL];
        }
        let shared = Shared { cluster, etcd, _directory: directory };
        shared.apply(CLUSTER)?;
        Ok(shared)
    }

    /// One of the article's documents.
    fn apply(&self, document: &str) -> Result<String> {
        let path = programs::workspace().join(SEED).join(document);
        self.cluster
            .node("kw01")
            .host
            .sh(&format!("manxctl --datastore {URL} apply --yes -f {}", path.display()))
    }

    fn problems(&self, host: &str) -> Result<Vec<String>> {
        Ok(self.cluster.node(host).status()?.datastore.problems)
    }
}

fn flows(cluster: &Cluster) -> Result<Vec<Flow>> {
    let (a, b) = (&cluster.node("kw01").pods[0], &cluster.node("kw02").pods[0]);
    let (a, b) = (End { ns: a, address: a.address() }, End { ns: b, address: b.address() });
    Ok(vec![Flow::start(a, b, PACE)?, Flow::start(b, a, PACE)?])
}

#[test]
fn three_nodes_on_one_etcd_lose_nothing_while_it_is_killed_and_compacted() -> Result<()> {
    let mut shared = Shared::new()?;
    shared.cluster.start()?;
    settled(&shared.cluster, Stage::Mesh, SETTLED)?;
    let logs: PathBuf = shared.cluster.lab.logs();
    let watches: Vec<RouteWatch> = shared
        .cluster
        .nodes
        .iter()
        .map(|node| RouteWatch::start(&node.host, logs.join(format!("{}-routes", node.role.host))))
        .collect::<Result<_>>()?;
    let flows = flows(&shared.cluster)?;
    for turn in 0..2 {
        shared.etcd.kill()?;
        eventually("each node says what it cannot reach", HEARD, || {
            for node in &shared.cluster.nodes {
                let problems = shared.problems(node.role.host)?;
                ensure!(
                    problems.iter().any(|problem| problem.starts_with(URL)),
                    "{}: {problems:?}",
                    node.role.host
                );
            }
            Ok(())
        })?;
        throughout("the routes stay", Duration::from_secs(1), || {
            shared.cluster.nodes.iter().try_for_each(|node| routes_are(node, Stage::Mesh))
        })?;
        shared.etcd.start_again(&shared.cluster.node("km01").host)?;
        // What was seen last is not there any more.
        let etcdctl = "etcdctl --endpoints http://192.168.80.121:2379";
        let host = &shared.cluster.node("km01").host;
        for write in 0..3 {
            host.sh(&format!("{etcdctl} put /calico/resources/v3/projectcalico.org/profiles/p{write} {{}}"))?;
        }
        let said = host.sh(&format!("{etcdctl} get / -w fields"))?;
        let revision = said.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
        let revision = revision.unwrap_or_default();
        host.sh(&format!("{etcdctl} compact {revision} --physical"))?;
        eventually("no node has anything to say", HEARD, || {
            for node in &shared.cluster.nodes {
                let problems = shared.problems(node.role.host)?;
                ensure!(problems.is_empty(), "{}: {problems:?}", node.role.host);
            }
            Ok(())
        })?;
        println!("turn {turn}: compacted at {revision}");
    }
    thread::sleep(Duration::from_millis(500));
    for report in Flow::stop_all(flows)? {
        ensure!(report.lost.is_empty() && report.sent > 100, "{report}");
    }
    for watch in &watches {
        let deleted = watch.deleted("manx")?;
        ensure!(deleted.is_empty(), "deleted meanwhile:\n{}", deleted.join("\n"));
    }
    // And what changes now is heard by all.
    for document in DOCUMENTS {
        shared.apply(document)?;
    }
    settled(&shared.cluster, Stage::Reflector, SETTLED)?;
    Ok(())
}

/// A node that boots while etcd is away: it has nothing but what an earlier run kept on disk.
#[test]
fn a_node_that_starts_while_etcd_is_away_goes_on_with_its_last_word() -> Result<()> {
    let mut shared = Shared::new()?;
    shared.cluster.start()?;
    settled(&shared.cluster, Stage::Mesh, SETTLED)?;
    let kept = |node: &Node| node.host.sh("cat /var/lib/manx/resources");
    eventually("the last change is on disk", HEARD, || {
        for node in &shared.cluster.nodes {
            ensure!(kept(node)?.contains("k8s-worker-02"), "{}", node.role.host);
        }
        Ok(())
    })?;
    let etcd_host = "km01";
    shared.etcd.kill()?;
    // A restart under traffic, and then one as after a boot: without routes, and without the session's other end knowing.
    let flows = flows(&shared.cluster)?;
    shared.cluster.node_mut("kw01").kill()?;
    shared.cluster.node_mut("kw01").start()?;
    let says = |shared: &Shared, host: &str| -> Result<()> {
        let status = shared.cluster.node(host).status()?.datastore;
        ensure!(
            status.kept_at.is_some() && status.problems.iter().any(|problem| problem.starts_with(URL)),
            "{status:?}"
        );
        Ok(())
    };
    eventually("it says whence its resources are", HEARD, || says(&shared, "kw01"))?;
    settled(&shared.cluster, Stage::Mesh, SETTLED)?;
    let said = shared.cluster.node("kw01").host.sh("manxctl node status")?;
    ensure!(said.contains("that an earlier run kept on disk, written 20"), "{said}");
    for report in Flow::stop_all(flows)? {
        ensure!(report.lost.is_empty() && report.sent > 100, "{report}");
    }
    shared.cluster.node_mut("kw02").terminate()?;
    shared.cluster.node("kw02").host.sh("ip route flush proto 77")?;
    shared.cluster.node_mut("kw02").start()?;
    eventually("so does the other", HEARD, || says(&shared, "kw02"))?;
    settled(&shared.cluster, Stage::Mesh, SETTLED)?;
    // With etcd back nothing is of yesterday any more, and what changes is heard.
    shared.etcd.start_again(&shared.cluster.node(etcd_host).host)?;
    eventually("nothing is wrong any more", HEARD, || {
        for node in &shared.cluster.nodes {
            let status = node.status()?.datastore;
            ensure!(status.problems.is_empty() && status.kept_at.is_none(), "{}: {status:?}", node.role.host);
        }
        Ok(())
    })?;
    for document in DOCUMENTS {
        shared.apply(document)?;
    }
    settled(&shared.cluster, Stage::Reflector, SETTLED)?;
    // A damaged file is as none, and is said.
    shared.etcd.kill()?;
    shared.cluster.node_mut("kw01").terminate()?;
    shared.cluster.node("kw01").host.sh("sed -i s/k8s-worker-02/k8s-worker-03/ /var/lib/manx/resources")?;
    shared.cluster.node_mut("kw01").start()?;
    let status = shared.cluster.node("kw01").status()?;
    ensure!(status.datastore.kept_at.is_none() && status.as_number.is_none(), "{status:?}");
    let log = std::fs::read_to_string(shared.cluster.node("kw01").log())?;
    ensure!(log.contains("where an earlier run kept the resources, is not used: it is damaged"), "{log}");
    Ok(())
}

/// Certificates of an authority of this test's own, for an etcd at 127.0.0.1.
fn certificates(at: &Path) -> Result<()> {
    let script = "
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=etcd -keyout etcd.key -out etcd.csr
        printf 'subjectAltName=IP:127.0.0.1\n' > san
        openssl x509 -req -in etcd.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out etcd.pem
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other -keyout other.key -out other.pem";
    let output = Command::new("sh").arg("-ec").arg(script).current_dir(at).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn by_tls_and_with_a_user_and_what_is_wrong_with_either_is_said() -> Result<()> {
    let directory = etcd::directory()?;
    certificates(directory.path())?;
    let ns = Netns::new("etcd")?;
    ns.sh("ip link set lo up")?;
    let _etcd = Etcd::start_with_tls(&ns, "127.0.0.1", directory.path(), "etcd.pem", "etcd.key")?;
    let at = directory.path().display();
    let etcdctl = format!("etcdctl --endpoints https://127.0.0.1:2379 --cacert {at}/ca.pem");
    for line in [
        "user add root:secret",
        "user grant-role root root",
        "user add reader:page",
        "role add readers",
        "role grant-permission readers --prefix=true read /calico/",
        "user grant-role reader readers",
        "auth enable",
    ] {
        ns.sh(&format!("{etcdctl} {line}"))?;
    }
    let manxctl = |variables: &str, line: &str| {
        let program = programs::directory()?.join("manxctl");
        ns.output(&format!("env {variables} {} --datastore etcds://127.0.0.1:2379 {line}", program.display()))
    };
    let node = programs::workspace().join(SEED).join(CLUSTER);
    let apply = format!("apply -f {}", node.display());
    let ca = format!("ETCD_CA_CERT_FILE={at}/ca.pem");
    let root = format!("{ca} ETCD_USERNAME=root ETCD_PASSWORD=secret");
    manxctl(&root, &apply)?.success()?;
    let reader = format!("{ca} ETCD_USERNAME=reader ETCD_PASSWORD=page");
    let said = manxctl(&reader, "get nodes")?.success()?;
    ensure!(said.contains("k8s-worker-01"), "{said}");
    for (variables, line, expected) in [
        (reader.as_str(), "label nodes k8s-worker-01 a=b", "permission denied"),
        (
            &format!("{ca} ETCD_USERNAME=reader ETCD_PASSWORD=wrong"),
            "get nodes",
            "invalid user ID or password",
        ),
        (&ca, "get nodes", "user name is empty"),
        (&format!("{ca} ETCD_USERNAME=root"), "get nodes", "ETCD_USERNAME is set and ETCD_PASSWORD is not"),
        ("A=b", "get nodes", "etcds needs ETCD_CA_CERT_FILE"),
        (&format!("ETCD_CA_CERT_FILE={at}/other.pem"), "get nodes", "certificate"),
        ("ETCD_CA_CERT_FILE=/nowhere", "get nodes", "ETCD_CA_CERT_FILE: cannot read /nowhere: No such file"),
    ] {
        let finished = manxctl(variables, line)?;
        ensure!(!finished.status.success(), "{variables}: {line}");
        ensure!(finished.stderr.contains(expected), "{variables} {line}: {}", finished.stderr);
        ensure!(!finished.stderr.contains("secret"), "{}", finished.stderr);
    }
    // As calicoctl has it in a file, which comes before what the environment says.
    let config = format!(
        "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n  datastoreType: etcdv3\n  \
         etcdEndpoints: https://127.0.0.1:2379\n  etcdUsername: reader\n  etcdPassword: page\n  etcdCACertFile: {at}/ca.pem\n"
    );
    std::fs::write(format!("{at}/calicoctl.cfg"), &config)?;
    std::fs::write(format!("{at}/lost.cfg"), config.replace("ca.pem", "no.pem"))?;
    let by_file = |file: &str| {
        let program = programs::directory()?.join("manxctl");
        let line = format!("{} get nodes -c {at}/{file}", program.display());
        ns.output(&format!("env ETCD_USERNAME=root ETCD_PASSWORD=wrong MANX_DATASTORE=dir:/nowhere {line}"))
    };
    let said = by_file("calicoctl.cfg")?.success()?;
    ensure!(said.contains("k8s-worker-01"), "{said}");
    let said = by_file("lost.cfg")?.stderr;
    ensure!(said.contains("etcdCACertFile: cannot read"), "{said}");
    Ok(())
}
