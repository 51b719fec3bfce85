//! What others do to a running manxd's belongings, and what it does then.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_api::{Audit, RepairKind};
use manx_tests::{
    cluster::{Cluster, Node},
    story::{self, SETTLED, Stage, counted, mesh, ping, settled},
    traffic::{End, Flow},
    wait::eventually,
};

/// Longer than the daemon takes to look after its pins and its port.
const LOOKED: Duration = Duration::from_secs(15);

fn log(node: &Node) -> Result<String> {
    Ok(std::fs::read_to_string(node.log())?)
}

#[test]
fn programs_and_maps_that_somebody_unpins_are_put_back_and_said() -> Result<()> {
    let cluster = mesh()?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    let (from, to) = (&kw01.pods[0], kw02.pods[0].address());
    let pins = kw01.host.paths_below("/sys/fs/bpf/manx")?;
    ensure!(pins.len() > 7, "{pins:?}");
    kw01.host.output("rm -rf /sys/fs/bpf/manx")?;
    eventually("all pins are there again", LOOKED, || {
        let now = kw01.host.paths_below("/sys/fs/bpf/manx")?;
        ensure!(now == pins, "{now:?}");
        Ok(())
    })?;
    let redirected = || Ok::<u64, anyhow::Error>(counted(&kw01.counters()?, "pod_tc", "redirected_neigh"));
    let before = redirected()?;
    ping(from, to)?;
    ensure!(redirected()? > before, "the ping went by the kernel");
    ensure!(log(kw01)?.contains("somebody removed what was pinned; put back: "), "{}", log(kw01)?);
    // What the uplink lost with its programs it must also get again when the link itself goes and comes.
    kw01.host.output("ip link set ens33 down")?;
    kw01.host.output("ip link set ens33 up")?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let uplink = kw01.dataplane()?.interfaces.into_iter().find(|i| i.name == "ens33");
    ensure!(uplink.is_some_and(|i| i.programs.len() == 2), "{:?}", kw01.dataplane()?.interfaces);
    Ok(())
}

#[test]
fn a_second_daemon_and_a_cleanup_are_refused_while_one_runs_even_without_its_socket() -> Result<()> {
    let cluster = mesh()?;
    let kw01 = cluster.node("kw01");
    let second = kw01.host.output("manxd --node-name k8s-worker-01 --api-socket /tmp/second.sock")?;
    ensure!(
        !second.status.success() && second.stderr.contains("another manxd with protocol 77"),
        "{second:?}"
    );
    kw01.host.output("rm /run/manx/manx.sock")?;
    let cleanup = kw01.host.output("manxd cleanup")?;
    ensure!(
        !cleanup.status.success() && cleanup.stderr.contains("is running here; stop it first"),
        "{cleanup:?}"
    );
    eventually("the local API is served again", LOOKED, || kw01.status().map(drop))?;
    story::sessions_are(kw01, Stage::Mesh)
}

#[test]
fn a_port_that_is_taken_is_said_once_stands_in_the_status_and_is_used_when_free() -> Result<()> {
    let mut cluster = Cluster::new(&[])?;
    // In km01's namespace, without BGP: a listener is enough to keep the port.
    let listener = cluster.node("km01").host.run(|| std::net::TcpListener::bind("0.0.0.0:179"))?;
    cluster.start()?;
    let km01 = cluster.node("km01");
    eventually("the status says so", LOOKED, || {
        let warnings = km01.status()?.warnings;
        ensure!(warnings.iter().any(|w| w.contains("not listening for BGP on port 179")), "{warnings:?}");
        Ok(())
    })?;
    drop(listener);
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let log = log(km01)?;
    ensure!(log.matches("not listening for BGP on port 179: Address already in use").count() == 1, "{log}");
    eventually("it is said that the port is ours now", LOOKED, || {
        ensure!(crate::log(km01)?.contains("listening for BGP on port 179 now"));
        Ok(())
    })
}

#[test]
fn the_log_is_json_where_json_is_asked_for() -> Result<()> {
    let mut cluster = Cluster::new(&[])?;
    for node in &mut cluster.nodes {
        node.host.set_env("MANX_LOG_FORMAT", "json");
    }
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    for line in log(cluster.node("kw01"))?.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        ensure!(line["message"].is_string() && line["level"].is_string(), "{line}");
    }
    Ok(())
}

/// The mesh, in which kw01's /proc knows the processes by the numbers that they have there.
fn mesh_with_proc() -> Result<Cluster> {
    let mut cluster = Cluster::new(&[])?;
    cluster.node("kw01").host.sh("mount -t proc proc /proc")?;
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    Ok(cluster)
}

/// How often something of this kind was put right.
fn repaired(node: &Node, kind: RepairKind) -> Result<u64> {
    let counts = node.dataplane()?.repairs_by_kind;
    Ok(counts.iter().find(|count| count.kind == kind).map_or(0, |count| count.count))
}

/// `manxctl dataplane audit -o json`, and its exit code.
fn audit(node: &Node, flags: &str) -> Result<(Audit, i32)> {
    let output = node.host.output(&format!("manxctl dataplane audit -o json {flags}"))?;
    let audit = serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))?;
    Ok((audit, output.status.code().context("ended by a signal")?))
}

/// The pinned map, of whichever ABI this manxd has.
fn map(node: &Node, name: &str) -> Result<String> {
    let pins = node.host.paths_below("/sys/fs/bpf/manx")?;
    let pin = pins.iter().find(|pin| pin.ends_with(name)).with_context(|| format!("{name} in {pins:?}"))?;
    Ok(pin.display().to_string())
}

/// kw02's block as a key of the map: the prefix length, then the address.
const KEY: &str = "key hex 1a 00 00 00 ac 10 76 40";

#[test]
fn what_others_do_to_routes_is_undone_counted_by_kind_and_laid_at_a_process() -> Result<()> {
    let cluster = mesh_with_proc()?;
    let kw01 = cluster.node("kw01");
    kw01.host.sh("ip route del 172.16.118.64/26 proto manx")?;
    eventually("it is back", LOOKED, || story::routes_are(kw01, Stage::Mesh))?;
    kw01.host.sh("ip route replace 172.16.118.64/26 via 192.168.80.121 proto manx")?;
    eventually("it is as before", LOOKED, || story::routes_are(kw01, Stage::Mesh))?;
    kw01.host.sh("ip route add blackhole 10.9.9.0/24 proto manx")?;
    eventually("what nobody wants is gone", LOOKED, || story::routes_are(kw01, Stage::Mesh))?;
    let status = kw01.dataplane()?;
    let counts: Vec<_> = status.repairs_by_kind.iter().map(|count| (count.kind, count.count)).collect();
    assert_eq!(
        counts,
        [(RepairKind::RouteDeleted, 1), (RepairKind::RouteChanged, 1), (RepairKind::RouteAdded, 1)]
    );
    let told: Vec<_> = status.last_repairs.iter().map(|repair| repair.what.as_str()).collect();
    assert_eq!(told, ["10.9.9.0/24", "172.16.118.64/26", "172.16.118.64/26"]);
    for repair in &status.last_repairs {
        // `ip` is there still or has ended; its number is told in both cases.
        let told = |by: &String| by.contains("pid ") || by.contains("netlink port ");
        ensure!(repair.by.as_ref().is_some_and(told), "{repair:?}");
    }
    // `ip` has mostly ended when its change is heard of; one that waits for more to do has not.
    kw01.host.shell("(echo route del 172.16.118.64/26; sleep 1) | ip -batch -")?.success()?;
    eventually("it is back", LOOKED, || story::routes_are(kw01, Stage::Mesh))?;
    let last = kw01.dataplane()?.last_repairs.into_iter().next().context("no repairs")?;
    ensure!(last.by.as_ref().is_some_and(|by| by.starts_with("ip: ip -batch -")), "{last:?}");
    let text = kw01.host.sh("manxctl dataplane status")?;
    ensure!(text.contains("2 × route deleted, 1 × route changed, 1 × route added"), "{text}");
    Ok(())
}

#[test]
fn a_map_entry_that_bpftool_removes_or_changes_is_found_told_and_put_back() -> Result<()> {
    let cluster = mesh()?;
    let kw01 = cluster.node("kw01");
    let (clean, code) = audit(kw01, "")?;
    ensure!(code == 0 && clean.found == 0 && clean.checked.map >= 4 && clean.checked.fib == 2, "{clean:?}");
    ensure!(clean.checked.programs == 4, "{clean:?}");

    let routes = map(kw01, "ROUTES4")?;
    kw01.host.sh(&format!("bpftool map delete pinned {routes} {KEY}"))?;
    for _ in 0..2 {
        let (found, code) = audit(kw01, "--dry-run")?;
        ensure!(code == 1 && found.found == 1 && found.findings[0].what == "172.16.118.64/26", "{found:?}");
        ensure!(found.findings[0].found.is_none() && found.findings[0].wanted.is_some(), "{found:?}");
    }
    ensure!(audit(kw01, "")?.1 == 1);
    let (clean, code) = audit(kw01, "")?;
    ensure!(code == 0, "{clean:?}");

    // All octets of its value: whatever they are, this is not what they were.
    let value = kw01.host.sh(&format!("bpftool -j map lookup pinned {routes} {KEY}"))?;
    let value: serde_json::Value = serde_json::from_str(&value)?;
    let length = value["value"].as_array().context("no value")?.len();
    let zeros = "00 ".repeat(length);
    kw01.host.sh(&format!("bpftool map update pinned {routes} {KEY} value hex {zeros}"))?;
    let (found, code) = audit(kw01, "")?;
    ensure!(code == 1 && found.findings[0].what == "172.16.118.64/26", "{found:?}");
    let strange = "key hex 18 00 00 00 0a 09 09 00";
    kw01.host.sh(&format!("bpftool map update pinned {routes} {strange} value hex {zeros}"))?;
    let (found, code) = audit(kw01, "")?;
    ensure!(code == 1 && found.findings[0].what == "10.9.9.0/24", "{found:?}");
    ensure!(audit(kw01, "")?.1 == 0);
    for kind in [RepairKind::MapEntryMissing, RepairKind::MapEntryChanged, RepairKind::MapEntryAdded] {
        ensure!(repaired(kw01, kind)? == 1, "{kind:?}: {:?}", kw01.dataplane()?.repairs_by_kind);
    }
    story::sinks_agree(kw01)?;

    // A slot to which entries point: the only next hop's.
    let hops = map(kw01, "NEXTHOPS")?;
    let slot = "key hex 01 00 00 00";
    let value = kw01.host.sh(&format!("bpftool -j map lookup pinned {hops} {slot}"))?;
    let value: serde_json::Value = serde_json::from_str(&value)?;
    let length = value["value"].as_array().context("no value")?.len();
    kw01.host.sh(&format!("bpftool map update pinned {hops} {slot} value hex {}", "00 ".repeat(length)))?;
    let (found, code) = audit(kw01, "")?;
    ensure!(code == 1 && found.findings.iter().any(|f| f.what.starts_with("NEXTHOPS")), "{found:?}");
    ensure!(audit(kw01, "")?.1 == 0);
    ping(&kw01.pods[0], cluster.node("kw02").pods[0].address())?;
    let log = log(kw01)?;
    ensure!(log.contains("audit: missing in the eBPF maps: 172.16.118.64/26"), "{log}");
    Ok(())
}

#[test]
fn the_audit_finds_by_itself_what_no_event_tells_of() -> Result<()> {
    let mut cluster = Cluster::new(&[])?;
    cluster.node_mut("kw01").flags.extend(["--audit-interval", "2"]);
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let kw01 = cluster.node("kw01");
    // Inside kw02's block the kernel knows better about one address, and the map says so.
    kw01.host.sh("ip route add 172.16.118.100 via 192.168.80.121 proto static")?;
    let foreign = "key hex 20 00 00 00 ac 10 76 64";
    let routes = map(kw01, "ROUTES4")?;
    let entry = |key: &str| kw01.host.sh(&format!("bpftool map lookup pinned {routes} {key}"));
    let (wanted, pass) = (entry(KEY)?, eventually("the map has the address", LOOKED, || entry(foreign))?);

    kw01.host.sh(&format!("bpftool map delete pinned {routes} {KEY}"))?;
    eventually("the entry is as it was", LOOKED, || {
        ensure!(entry(KEY)? == wanted);
        Ok(())
    })?;
    let value = serde_json::from_str::<serde_json::Value>(
        &kw01.host.sh(&format!("bpftool -j map lookup pinned {routes} {foreign}"))?,
    )?;
    // No kind of route, which says to the programs what a pass says; but nobody wrote it.
    let zeros = "00 ".repeat(value["value"].as_array().context("no value")?.len());
    kw01.host.sh(&format!("bpftool map update pinned {routes} {foreign} value hex {zeros}"))?;
    eventually("what says nothing is a pass again", LOOKED, || {
        ensure!(entry(foreign)? == pass);
        Ok(())
    })?;
    for kind in [RepairKind::MapEntryMissing, RepairKind::MapEntryChanged] {
        ensure!(repaired(kw01, kind)? == 1, "{kind:?}: {:?}", kw01.dataplane()?.repairs_by_kind);
    }
    let told = log(kw01)?;
    ensure!(told.contains("audit: missing in the eBPF maps: 172.16.118.64/26"), "{told}");
    ensure!(told.contains("172.16.118.100/32"), "{told}");
    let last = kw01.dataplane()?.audit.context("no audit")?;
    ensure!(!last.asked_for && !last.dry_run, "{last:?}");
    Ok(())
}

#[test]
fn an_audit_without_a_daemon_ends_in_two_and_says_why() -> Result<()> {
    let cluster = Cluster::new(&[])?;
    let output = cluster.node("kw01").host.output("manxctl dataplane audit")?;
    ensure!(output.status.code() == Some(2) && output.stderr.contains("start manxd"), "{output:?}");
    Ok(())
}

#[test]
fn a_link_that_somebody_detaches_is_attached_again() -> Result<()> {
    let cluster = mesh()?;
    let kw01 = cluster.node("kw01");
    let uplink = |node: &Node| -> Result<_> {
        let interfaces = node.dataplane()?.interfaces;
        interfaces.into_iter().find(|interface| interface.name == "ens33").context("no ens33")
    };
    let before = uplink(kw01)?;
    ensure!(before.links.len() == 2 && before.since.is_some(), "{before:?}");
    let detach = || -> Result<()> {
        for link in &uplink(kw01)?.links {
            kw01.host.sh(&format!("bpftool link detach pinned {}", link.pin))?;
        }
        Ok(())
    };
    detach()?;
    eventually("both programs are attached again", LOOKED, || {
        let now = uplink(kw01)?;
        ensure!(now.links.iter().all(|link| link.state == "attached"), "{now:?}");
        ensure!(repaired(kw01, RepairKind::ProgramDetached)? == 2);
        Ok(())
    })
    .context("no audit was asked for, and it came by the look that manxd takes every 5 s")?;
    let after = uplink(kw01)?;
    ensure!(after.links.iter().zip(&before.links).all(|(a, b)| a.link_id != b.link_id), "{after:?}");
    ensure!(after.since > before.since, "the programs are younger than {:?} says", after.since);
    let log = log(kw01)?;
    ensure!(log.contains("somebody detached uplink_tc; put back"), "{log}");

    // An audit sees it too. Just after a look of the daemon's there are seconds until the next.
    for attempt in 1.. {
        detach()?;
        let (found, code) = audit(kw01, "--dry-run")?;
        let about: Vec<_> = found.findings.iter().map(|finding| finding.what.as_str()).collect();
        if code == 1 && about == ["uplink_tc on ens33", "uplink_xdp on ens33"] {
            break;
        }
        ensure!(attempt < 3, "three times the daemon was first? {found:?}");
    }
    ensure!(audit(kw01, "")?.1 <= 1 && audit(kw01, "")?.1 == 0);
    ensure!(uplink(kw01)?.links.iter().all(|link| link.state == "attached"));
    Ok(())
}

#[test]
fn another_map_or_program_in_the_place_of_ours_gives_way_and_is_said() -> Result<()> {
    let cluster = mesh()?;
    let kw01 = cluster.node("kw01");
    let (routes, words) = (map(kw01, "ROUTES4")?, map(kw01, "WORDS")?);
    let id = |pin: &str| -> Result<String> {
        let shown = kw01.host.sh(&format!("bpftool map show pinned {pin}"))?;
        Ok(shown.split(':').next().unwrap_or_default().to_owned())
    };
    let interfaces = kw01.dataplane()?.interfaces;
    let (ours, link) =
        (id(&routes)?, interfaces.iter().flat_map(|interface| &interface.links).next().context("no links")?);
    let foreign = "/sys/fs/bpf/foreign";
    kw01.host.sh(&format!("bpftool map create {foreign} type hash key 4 value 8 entries 16 name foreign"))?;
    kw01.host.sh(&format!("rm {routes}"))?;
    kw01.host.sh(&format!("bpftool map pin pinned {foreign} {routes}"))?;
    kw01.host.sh(&format!("rm {words}"))?;
    kw01.host.sh(&format!("bpftool prog pin id {} {words}", link.program_id))?;
    eventually("ours are pinned again", LOOKED, || {
        ensure!(repaired(kw01, RepairKind::PinReplaced)? == 2);
        ensure!(id(&routes)? == ours);
        id(&words).map(drop)
    })?;
    let said = format!("somebody pinned something else at {routes}; ours is there again");
    ensure!(log(kw01)?.contains(&said), "{}", log(kw01)?);
    ensure!(id(foreign)? != ours, "the foreign map itself is where it was");
    Ok(())
}

#[test]
fn neither_a_log_without_room_nor_one_that_nobody_reads_ends_or_holds_the_daemon() -> Result<()> {
    let mut cluster = mesh()?;
    cluster.node_mut("kw01").terminate()?;
    let host = &cluster.node("kw01").host;
    // The first has no room, the second's reader ends, the third's goes on and reads nothing.
    let readers = [
        "ln -s /dev/full /run/log",
        "mkfifo /run/log; head -1 /run/log > /dev/null 2>&1 &",
        "mkfifo /run/log; sleep 30 3<> /run/log > /dev/null 2>&1 &",
    ];
    for reader in readers {
        let script = format!(
            "rm -f /run/log; {reader}
             manxd --node-name k8s-worker-01 --log-level trace 2> /run/log & manxd=$!
             for n in $(seq 100); do manxctl node status 2> /run/said | grep -q Established && break; sleep 0.1; done
             for n in $(seq 30); do manxctl node status > /dev/null || exit 1; sleep 0.1; done
             kill -TERM $manxd && wait $manxd"
        );
        let done = host.shell(&script)?;
        ensure!(done.status.success(), "{reader}: {done:?}");
    }
    // Nor does an eager reader leave a cleanup half done.
    host.shell("manxd cleanup | true")?.success()?;
    ensure!(host.paths_below("/sys/fs/bpf/manx")?.is_empty());
    ensure!(host.sh("ip route show proto manx")?.is_empty());
    Ok(())
}

#[test]
fn programs_outlive_the_bpf_filesystem_and_are_pinned_in_the_next_one() -> Result<()> {
    let cluster = mesh()?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    let pins = kw01.host.paths_below("/sys/fs/bpf/manx")?;
    let links = || -> Result<Vec<(u32, String)>> {
        let interfaces = kw01.dataplane()?.interfaces;
        let links = interfaces.into_iter().flat_map(|interface| interface.links);
        Ok(links.map(|link| (link.link_id, link.state)).collect())
    };
    let before = links()?;
    ensure!(before.len() == 4 && before.iter().all(|(_, state)| state == "attached"), "{before:?}");
    let (from, to) = (&kw01.pods[0], &kw02.pods[0]);
    let flow = Flow::start(
        End { ns: from, address: from.address() },
        End { ns: to, address: to.address() },
        Duration::from_millis(5),
    )?;
    // First nobody mounts another one, then somebody does at once.
    for (nth, how) in
        ["umount -l /sys/fs/bpf", "umount -l /sys/fs/bpf; mount -t bpf bpf /sys/fs/bpf"].iter().enumerate()
    {
        kw01.host.shell(how)?.success()?;
        eventually("all is pinned again", LOOKED, || {
            ensure!(repaired(kw01, RepairKind::PinRemoved)? == nth as u64 + 1);
            let now = kw01.host.paths_below("/sys/fs/bpf/manx")?;
            ensure!(now == pins, "{now:?}");
            Ok(())
        })?;
        // The same links: nothing was attached anew.
        assert_eq!(links()?, before);
        let (found, code) = audit(kw01, "")?;
        ensure!(code == 0, "{found:?}");
    }
    let report = flow.stop()?;
    ensure!(report.lost.is_empty(), "{report}");
    ensure!(
        log(kw01)?.contains("somebody unmounted the BPF filesystem of /sys/fs/bpf/manx"),
        "{}",
        log(kw01)?
    );
    // It is watched, too.
    kw01.host.sh(&format!("rm {}", map(kw01, "ROUTES4")?))?;
    eventually("it is back", LOOKED, || {
        ensure!(kw01.host.paths_below("/sys/fs/bpf/manx")? == pins);
        ensure!(log(kw01)?.contains("somebody removed a pin"));
        Ok(())
    })
}

#[test]
fn whoever_removes_a_pin_is_named_and_the_pin_is_back_at_once() -> Result<()> {
    let cluster = mesh_with_proc()?;
    let kw01 = cluster.node("kw01");
    let interfaces = kw01.dataplane()?.interfaces;
    let link = interfaces.iter().flat_map(|interface| &interface.links).next().context("no links")?;
    // It does not end at once, so that whoever did it lives still when it is looked for.
    let (maps, pin) = (map(kw01, "ROUTES4")?, &link.pin);
    let script = format!("import os, time; os.remove('{pin}'); os.remove('{maps}'); time.sleep(1)");
    kw01.host.shell(&format!("python3 -c \"{script}\""))?.success()?;
    eventually("both are pinned again", LOOKED, || {
        ensure!(repaired(kw01, RepairKind::PinRemoved)? == 2);
        let (found, code) = audit(kw01, "--dry-run")?;
        ensure!(code == 0 && kw01.host.path_exists(pin) && kw01.host.path_exists(&maps), "{found:?}");
        Ok(())
    })?;
    for repair in kw01.dataplane()?.last_repairs {
        let by = repair.by.as_ref().with_context(|| format!("nobody is named: {repair:?}"))?;
        ensure!(by.starts_with("python3: python3 -c import os") && by.contains("pid "), "{by}");
    }
    // Removed and made again, the directories are watched still.
    kw01.host.sh("rm -rf /sys/fs/bpf/manx")?;
    eventually("all of it is back", LOOKED, || {
        let (found, code) = audit(kw01, "--dry-run")?;
        ensure!(code == 0 && kw01.host.path_exists(pin) && kw01.host.path_exists(&maps), "{found:?}");
        Ok(())
    })?;
    let before = repaired(kw01, RepairKind::PinRemoved)?;
    kw01.host.shell(&format!("python3 -c \"{script}\""))?.success()?;
    eventually("both are pinned again", LOOKED, || {
        ensure!(repaired(kw01, RepairKind::PinRemoved)? == before + 2);
        Ok(())
    })?;
    let last = kw01.dataplane()?.last_repairs.into_iter().next().context("no repairs")?;
    ensure!(last.by.as_ref().is_some_and(|by| by.starts_with("python3: ")), "{last:?}");
    Ok(())
}

#[test]
fn what_ip_and_tc_can_do_to_an_interface_leaves_the_programs_where_they_are() -> Result<()> {
    let cluster = mesh()?;
    let kw01 = cluster.node("kw01");
    let off = kw01.host.output("ip link set dev ens33 xdp off")?;
    ensure!(!off.status.success(), "the kernel lets anybody take off an XDP link: {off:?}");
    kw01.host.sh("tc qdisc add dev ens33 clsact")?;
    kw01.host.sh("tc qdisc del dev ens33 clsact")?;
    let (found, code) = audit(kw01, "")?;
    ensure!(code == 0, "{found:?}");
    let interfaces = kw01.dataplane()?.interfaces;
    for link in interfaces.iter().flat_map(|interface| &interface.links) {
        ensure!(link.state == "attached", "{link:?}");
    }
    Ok(())
}

#[test]
fn what_was_done_while_no_daemon_ran_is_undone_by_the_next() -> Result<()> {
    let mut cluster = mesh()?;
    let (from, to) = {
        let kw02 = cluster.node("kw02");
        (0, kw02.pods[0].address())
    };
    let kw01 = cluster.node_mut("kw01");
    let links = kw01.dataplane()?.interfaces.into_iter().flat_map(|interface| interface.links);
    let pins: Vec<String> = links.map(|link| link.pin).collect();
    let routes = map(kw01, "ROUTES4")?;
    kw01.kill()?;
    kw01.host.sh("ip route replace 172.16.118.64/26 via 192.168.80.121 proto manx")?;
    kw01.host.sh("ip route del blackhole 172.16.36.192/26 proto manx")?;
    kw01.host.sh("ip route add blackhole 10.9.9.0/24 proto manx")?;
    kw01.host.sh(&format!("bpftool map delete pinned {routes} {KEY}"))?;
    for (n, pin) in pins.iter().enumerate() {
        let how = if n % 2 == 0 { "bpftool link detach pinned" } else { "rm" };
        kw01.host.sh(&format!("{how} {pin}"))?;
    }
    kw01.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let kw01 = cluster.node("kw01");
    eventually("all is as it should be", SETTLED, || {
        let (found, code) = audit(kw01, "--dry-run")?;
        ensure!(code == 0 && found.checked.programs == 4, "{found:?}");
        Ok(())
    })?;
    let redirected = || Ok::<u64, anyhow::Error>(counted(&kw01.counters()?, "pod_tc", "redirected_neigh"));
    let before = redirected()?;
    ping(&kw01.pods[from], to)?;
    ensure!(redirected()? > before, "the ping went by the kernel");
    Ok(())
}
