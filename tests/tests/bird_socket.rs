//! BIRD's control sockets: Debian's own clients, and readers that split lines as Calico's programs do, see in them what
//! manxctl says; nobody changes anything by them.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use manx_tests::{
    cluster::{Cluster, Node},
    http,
    process::Daemon,
    story::{self, DOCUMENTS, SETTLED, Stage, settled},
    wait::eventually,
};

const SOCKET: &str = "/var/run/calico/bird.ctl";
const SOCKET6: &str = "/var/run/calico/bird6.ctl";
const EXPORTER: &str = "127.0.0.1:9324";

fn cluster() -> Result<Cluster> {
    let mut cluster = Cluster::new(&[])?;
    for node in &mut cluster.nodes {
        node.flags = vec!["--bird-socket", SOCKET, "--bird6-socket", SOCKET6];
    }
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    Ok(cluster)
}

/// What Debian's client prints, which ends in 1 where it is refused something.
fn birdcl(node: &Node, command: &str) -> Result<String> {
    let said = node.host.output(&format!("birdcl -s {SOCKET} {command}"))?.stdout;
    let (greeting, rest) = said.split_once('\n').context("birdcl says nothing")?;
    ensure!(greeting.starts_with("BIRD v") && greeting.ends_with("+manx ready."), "{greeting}");
    Ok(rest.to_owned())
}

/// Sends commands over one connection, as Calico's programs do, and returns the lines of each answer.
fn raw(node: &Node, socket: &'static str, commands: &'static [&'static str]) -> Result<Vec<Vec<String>>> {
    node.host.run(move || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let greeting = lines.next().context("no greeting")??;
        ensure!(greeting.starts_with("0001 BIRD v") && greeting.ends_with(" ready."), "{greeting}");
        let mut answers = Vec::new();
        for command in commands {
            writeln!(stream, "{command}")?;
            let mut answer = Vec::new();
            loop {
                let line = lines.next().context("the answer ends too early")??;
                let code = line.get(..4).and_then(|code| code.parse::<u16>().ok());
                let last = code.is_some() && line.get(4..5) == Some(" ");
                answer.push(line);
                if last {
                    break;
                }
            }
            answers.push(answer);
        }
        Ok(answers)
    })
}

/// A peer as calicoctl reads it (`node/status.go`): columns by white space, the name by its beginning.
#[derive(Debug, PartialEq, Eq)]
struct Peer {
    ip: String,
    kind: String,
    state: String,
    since: String,
    bgp: String,
    info: String,
}

fn peers(lines: &[String], separator: &str) -> Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for line in lines {
        let row = match line.get(..4) {
            Some("0000" | "0001") => continue,
            Some("2002") => {
                let heading: Vec<&str> = line[5..].split_whitespace().collect();
                ensure!(heading == ["name", "proto", "table", "state", "since", "info"], "{line}");
                continue;
            }
            Some("1002") => &line[5..],
            _ if line.starts_with(' ') => &line[1..],
            _ => bail!("unexpected output line from BIRD: {line}"),
        };
        let columns: Vec<&str> = row.split_whitespace().collect();
        if columns.len() < 6 || columns[1] != "BGP" {
            continue;
        }
        let (kind, address) = columns[0].split_once('_').context("a name without a type")?;
        ensure!(["Global", "Node", "Mesh"].contains(&kind), "{row}");
        peers.push(Peer {
            ip: address.replace('_', separator),
            kind: kind.to_owned(),
            state: columns[3].to_owned(),
            since: columns[4].to_owned(),
            bgp: columns[5].to_owned(),
            info: columns[6..].join(" "),
        });
    }
    Ok(peers)
}

/// The table of `manxctl node status`, without its frame.
fn table(node: &Node) -> Result<Vec<Vec<String>>> {
    let said = node.host.sh("manxctl node status")?;
    let rows = said.lines().filter(|line| line.starts_with("| ") && !line.contains("PEER ADDRESS"));
    Ok(rows
        .map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect())
}

#[test]
fn calicos_programs_and_birds_own_client_see_the_node_as_manxctl_does() -> Result<()> {
    let cluster = cluster()?;
    let (km01, kw01) = (cluster.node("km01"), cluster.node("kw01"));

    // calicoctl node status.
    let [shown] = &raw(km01, SOCKET, &["show protocols"])?[..] else { bail!("one answer") };
    let found = peers(shown, ".")?;
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|peer| {
            let kind = if peer.kind == "Mesh" { "node-to-node mesh" } else { &peer.kind };
            let info = [peer.bgp.as_str(), &peer.info].join(" ");
            vec![peer.ip.clone(), kind.into(), peer.state.clone(), peer.since.clone(), info.trim().into()]
        })
        .collect();
    ensure!(rows == table(km01)? && rows.len() == 2, "{rows:?}\n{:?}", table(km01)?);
    let [shown] = &raw(km01, SOCKET6, &["show protocols"])?[..] else { bail!("one answer") };
    ensure!(peers(shown, ":")?.is_empty() && shown.len() > 2, "{shown:?}");

    // calico-node's readiness probe, and CalicoNodeStatus: version, router, times, then each peer by its name.
    let answers =
        raw(km01, SOCKET, &["show status", "show protocols all Mesh_192_168_80_124", "show status"])?;
    let status = answers[0].join("\n");
    for part in [
        "1000-BIRD v",
        "\n1011-Router ID is 192.168.80.121\n Current server time is 20",
        "\n Last reboot on 20",
    ] {
        ensure!(status.contains(part), "{status}");
    }
    ensure!(answers[0].last().is_some_and(|last| last == "0013 Daemon is up and running"), "{status}");
    let details = answers[1].join("\n");
    let value = |key: &str| {
        let line = details.lines().find(|line| line.contains(key))?;
        Some(line.replace(key, " ").trim().to_owned())
    };
    ensure!(value("BGP state:").as_deref() == Some("Established"), "{details}");
    ensure!(value("Neighbor address:").as_deref() == Some("192.168.80.124"), "{details}");
    // bird_exporter's numbers.
    ensure!(details.contains("  Routes:         1 imported, 0 filtered, 0 exported"), "{details}");
    ensure!(details.contains("Import updates:"), "{details}");

    // The routes of CalicoNodeStatus.
    let routes = raw(kw01, SOCKET, &["show route"])?.remove(0).join("\n");
    for row in [
        "172.16.118.64/26   via 192.168.80.125 on ens33 [Mesh_192_168_80_125 ",
        "172.16.36.192/26   blackhole [static1 ",
        "172.16.36.193/32   dev cali",
        "0.0.0.0/0          via 192.168.80.2 on ens33 [kernel1 ",
        "192.168.80.0/24    dev ens33 [direct1 ",
    ] {
        ensure!(routes.contains(row), "{row} is not among\n{routes}");
    }
    let row = routes.lines().find(|line| line.contains("172.16.118.64/26")).context("no row")?;
    ensure!(row.ends_with("] * (100/0) [i]"), "{row}");

    // Debian's own client, with its own reader of codes.
    let said = birdcl(kw01, "show route for 172.16.118.70 all")?;
    ensure!(said.contains("172.16.118.64/26") && said.contains("\tBGP.local_pref: 100"), "{said}");
    let said = birdcl(kw01, "show route protocol Mesh_192_168_80_125 count")?;
    ensure!(said.trim() == "1 of 1 routes for 1 networks", "{said}");
    let said = birdcl(kw01, "show route export Mesh_192_168_80_125")?;
    ensure!(said.contains("172.16.36.192/26") && !said.contains("172.16.118.64/26"), "{said}");
    let said = birdcl(kw01, "show route 10.9.9.0/24")?;
    ensure!(said.trim() == "Network not in table", "{said}");
    ensure!(birdcl(kw01, "show memory")?.contains("Total:"));
    ensure!(birdcl(kw01, "show protocols \"Mesh*\"")?.lines().count() == 3);
    ensure!(birdcl(kw01, "show status")?.contains("Daemon is up and running"));
    // And the one for people, who abbreviate. It ends with its input, whether or not all is there yet.
    let typed = "sh pr; sh ro primary; quit".replace("; ", "'; sleep 0.5; echo '");
    let said = kw01.host.shell(&format!("(echo '{typed}') | birdc -s {SOCKET}"))?.success()?;
    ensure!(said.contains("Mesh_192_168_80_121 BGP") && said.contains("172.16.118.64/26"), "{said}");
    Ok(())
}

/// bird_exporter's numbers, by itself. It knows both ages of BIRD; ours is the one that Calico runs.
#[test]
fn birds_exporter_for_prometheus_reads_the_sessions_and_their_routes() -> Result<()> {
    let cluster = cluster()?;
    let km01 = cluster.node("km01");
    let mut command = Command::new("prometheus-bird-exporter");
    command.args(["-bird.socket", SOCKET, "-bird.socket6", SOCKET6, "-web.listen-address", EXPORTER]);
    let mut exporter =
        Daemon::start(&km01.host, "bird_exporter", command, &km01.log().with_extension("exporter"))?;
    let text = eventually("the exporter answers", SETTLED, || {
        exporter.check_running()?;
        let (code, text) = http::get(&km01.host, EXPORTER, "/metrics")?;
        ensure!(code == 200, "{code}: {text}");
        Ok(text)
    })?;
    let value = |metric: &str, labels: &[&str]| -> Result<f64> {
        let line = text.lines().find(|line| {
            line.split_once('{').is_some_and(|(name, _)| name == metric)
                && labels.iter().all(|label| line.contains(label))
        });
        let line = line.with_context(|| format!("no {metric} {labels:?} in\n{text}"))?;
        Ok(line.rsplit_once(' ').context(line.to_owned())?.1.parse()?)
    };
    for peer in ["Mesh_192_168_80_124", "Mesh_192_168_80_125"] {
        let labels = [&format!("name=\"{peer}\"")[..], "proto=\"BGP\"", "ip_version=\"4\""];
        ensure!(value("bird_protocol_up", &labels)? == 1.0, "{text}");
        ensure!(value("bird_protocol_prefix_import_count", &labels)? == 1.0, "{text}");
        ensure!(value("bird_protocol_prefix_export_count", &labels)? == 0.0, "{text}");
        ensure!(value("bird_protocol_changes_update_import_receive_count", &labels)? >= 1.0, "{text}");
    }
    Ok(())
}

#[test]
fn what_would_change_something_is_refused_and_changes_nothing() -> Result<()> {
    let cluster = cluster()?;
    let kw01 = cluster.node("kw01");
    for (command, said) in [
        ("configure", "Access denied: nothing is changed by this socket; resources take effect"),
        ("disable Mesh_192_168_80_121", "manxctl peer disable"),
        ("restart all", "manxctl peer disable"),
        ("reload all", "manxctl peer refresh"),
        ("down", "systemctl stop manxd"),
        ("debug all off", "manxctl log-level"),
        ("eval 1", "syntax error"),
        ("show ospf", "syntax error"),
    ] {
        let answer = birdcl(kw01, command)?;
        ensure!(answer.contains(said), "{command}: {answer}");
    }
    story::sessions_are(kw01, Stage::Mesh)?;
    // Who sends what is no line, or does not read, harms nobody.
    kw01.host.run(|| {
        let mut noisy = UnixStream::connect(SOCKET)?;
        noisy.write_all(&[b'x'; 100_000])?;
        noisy.write_all(b"\n\xff\xfe\n\0\n")?;
        let mut deaf: Vec<UnixStream> = Vec::new();
        for _ in 0..20 {
            let mut stream = UnixStream::connect(SOCKET)?;
            stream.write_all(&b"show route all\n".repeat(200))?;
            deaf.push(stream);
        }
        anyhow::Ok(())
    })?;
    eventually("it answers", Duration::from_secs(15), || birdcl(kw01, "show status").map(drop))?;
    story::sessions_are(kw01, Stage::Mesh)
}

#[test]
fn sessions_are_named_as_calicos_templates_name_them_and_what_is_down_says_why() -> Result<()> {
    let mut cluster = cluster()?;
    DOCUMENTS.iter().try_for_each(|document| cluster.apply(document).map(drop))?;
    settled(&cluster, Stage::Reflector, SETTLED)?;
    let named = |node: &Node| -> Result<Vec<(String, String)>> {
        let [shown] = &raw(node, SOCKET, &["show protocols"])?[..] else { bail!("one answer") };
        Ok(peers(shown, ".")?.into_iter().map(|peer| (peer.kind, peer.ip)).collect())
    };
    let pair = |kind: &str, ip: &str| (kind.to_owned(), ip.to_owned());
    ensure!(named(cluster.node("kw01"))? == [pair("Global", "192.168.80.121")]);
    ensure!(named(cluster.node("km01"))? == [pair("Node", "192.168.80.124"), pair("Node", "192.168.80.125")]);
    cluster.node_mut("km01").kill()?;
    let kw01 = cluster.node("kw01");
    eventually("the session is down", Duration::from_secs(10), || {
        let [shown] = &raw(kw01, SOCKET, &["show protocols"])?[..] else { bail!("one answer") };
        let peer = peers(shown, ".")?.pop().context("no peer")?;
        ensure!(peer.state == "start" && peer.info.starts_with("Socket: "), "{peer:?}");
        Ok(())
    })?;
    // A socket that somebody serves is not taken from him.
    let second = kw01.host.output(&format!("manxd --dataplane off --protocol 99 --api-socket /tmp/manx/x.sock --bpf-dir /tmp/manx/x --state-dir /tmp/manx/state --bird-socket {SOCKET}"))?;
    ensure!(
        !second.status.success() && second.stderr.contains("bird.ctl is served already: stop BIRD"),
        "{second:?}"
    );
    Ok(())
}
