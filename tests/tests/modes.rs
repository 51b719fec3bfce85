//! What may be fast is chosen at run time: by annotations, by what netfilter does, and by policy rules.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    cluster::{Cluster, Node},
    story::{counted, mesh, ping},
    traffic::{End, Flow},
    wait::eventually,
};

const SOON: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_millis(2);
/// Datagrams that have to pass after a change before it is judged who carried them.
const PACKETS: u64 = 50;

/// Sets annotations on the BGPConfiguration of kw01 alone, in place of those before.
fn annotate(cluster: &Cluster, annotations: &str) -> Result<()> {
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\n\
         metadata: {{name: node.k8s-worker-01, annotations: {{{annotations}}}}}\nspec: {{}}\n"
    );
    let path = cluster.lab.store().join("modes.yaml");
    let written = path.with_extension("new");
    fs::write(&written, text)?;
    Ok(fs::rename(written, path)?)
}

fn annotate_pool(cluster: &Cluster, setting: &str) -> Result<()> {
    let node = cluster.node("km01");
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: default-ipv4-ippool\n  \
         annotations: {{manx.dev/fastPath: {setting}}}\nspec: {{cidr: 172.16.0.0/16, blockSize: 26}}\n"
    );
    node.host.write_file("/tmp/pool.yaml", &text)?;
    node.host.sh("manxctl apply -f /tmp/pool.yaml").map(drop)
}

/// Waits until kw01's only pool has this mode, and gives the reason.
fn mode_is(node: &Node, mode: &str) -> Result<String> {
    eventually(&format!("the pool is {mode}"), SOON, || {
        let status = node.dataplane()?;
        let [pool] = status.modes.pools.as_slice() else {
            anyhow::bail!(
                "{:?} {:?}\n{}",
                status.fast_path,
                status.modes,
                manx_tests::process::tail(&node.log(), 30)
            )
        };
        ensure!(pool.mode == mode, "{pool:?}");
        Ok(pool.reason.clone())
    })
}

/// What the programs at kw01's pods carried, and what they saw.
fn carried(node: &Node) -> Result<(u64, u64)> {
    let counters = node.counters()?;
    let row = counters.rows.iter().find(|row| row.program == "pod_tc").context("no row of pod_tc")?;
    let all = row.verdicts.iter().map(|verdict| verdict.packets).sum();
    Ok((counted(&counters, "pod_tc", "redirected_neigh"), all))
}

/// Whether kw01's pods' packets go by the programs from now on.
fn is_fast(node: &Node, fast: bool) -> Result<()> {
    let (before, seen) = carried(node)?;
    eventually("packets pass", SOON, || {
        let (_, now) = carried(node)?;
        ensure!(now >= seen + PACKETS, "{now} after {seen}");
        Ok(())
    })?;
    let (after, _) = carried(node)?;
    ensure!((after > before + PACKETS / 4) == fast, "{before} before, {after} after; fast: {fast}");
    ensure!(fast || after == before, "{before} before, {after} after");
    Ok(())
}

fn flow(cluster: &Cluster) -> Result<Flow> {
    let (from, to) = (&cluster.node("kw01").pods[0], &cluster.node("kw02").pods[0]);
    ping(from, to.address())?;
    Flow::start(End { ns: from, address: from.address() }, End { ns: to, address: to.address() }, INTERVAL)
}

#[test]
fn annotations_switch_the_fast_path_at_run_time_and_lose_no_packet() -> Result<()> {
    let cluster = mesh()?;
    let node = cluster.node("kw01");
    let flow = flow(&cluster)?;
    ensure!(mode_is(node, "unguarded")?.contains("tracks no connections"));
    is_fast(node, true)?;

    annotate(&cluster, "manx.dev/fastPath: Disabled")?;
    ensure!(mode_is(node, "off")?.contains("Disabled by manx.dev/fastPath on the BGPConfiguration"));
    is_fast(node, false)?;

    annotate(&cluster, "manx.dev/fastPath: Enabled")?;
    ensure!(mode_is(node, "unguarded")?.contains("Enabled by manx.dev/fastPath on the BGPConfiguration"));
    is_fast(node, true)?;

    annotate_pool(&cluster, "Disabled")?;
    ensure!(mode_is(node, "off")?.contains("on the IPPool"));
    is_fast(node, false)?;
    annotate_pool(&cluster, "Auto")?;
    mode_is(node, "unguarded")?;

    let interface = node.pods[0].interface();
    annotate(
        &cluster,
        &format!("manx.dev/fastPathInterfaces: '{interface}=Disabled', manx.dev/sourceCheck: Loose"),
    )?;
    eventually("the interface is off", SOON, || {
        let status = node.dataplane()?;
        let of =
            status.modes.interfaces.iter().find(|of| of.name == interface).context("no such interface")?;
        ensure!(of.mode.as_deref() == Some("off") && of.source_check.as_deref() == Some("Loose"), "{of:?}");
        Ok(())
    })?;
    is_fast(node, false)?;
    annotate(&cluster, "manx.dev/fastPathInterfaces: ''")?;
    eventually("the interface has no mode of its own", SOON, || {
        let status = node.dataplane()?;
        ensure!(status.modes.interfaces.iter().all(|of| of.mode.is_none()), "{:?}", status.modes.interfaces);
        Ok(())
    })?;
    is_fast(node, true)?;

    let report = flow.stop()?;
    println!("{report}");
    ensure!(report.lost.is_empty(), "{report}");
    Ok(())
}

/// Else an operator who wrote `disabled` reads that the fast path is on, and not why.
#[test]
fn an_annotation_that_counts_as_not_set_is_named_where_the_modes_are_asked_for() -> Result<()> {
    let cluster = mesh()?;
    let node = cluster.node("kw01");
    annotate(&cluster, "manx.dev/fastpath: Disabled, manx.dev/multipath: many")?;
    eventually("the mistake is named", SOON, || {
        let notes = node.dataplane()?.modes.notes;
        let [note] = notes.as_slice() else { anyhow::bail!("{notes:?}") };
        ensure!(note.contains("modes.yaml") && note.contains("did you mean manx.dev/fastPath?"), "{note}");
        Ok(())
    })?;
    let shown = node.host.sh("manxctl dataplane status")?;
    ensure!(shown.contains("did you mean manx.dev/fastPath?"), "{shown}");
    // In a file that cannot be read it is not in force either.
    annotate(&cluster, "manx.dev/fastPath: [Disabled")?;
    eventually("the file is named", SOON, || {
        let notes = node.dataplane()?.modes.notes;
        let [note] = notes.as_slice() else { anyhow::bail!("{notes:?}") };
        ensure!(note.contains("is not in force, or not all of it: /etc/manx/modes.yaml:"), "{note}");
        Ok(())
    })?;
    annotate(&cluster, "manx.dev/fastPath: Disabled")?;
    mode_is(node, "off")?;
    ensure!(node.dataplane()?.modes.notes.is_empty(), "{:?}", node.dataplane()?.modes.notes);
    Ok(())
}

#[test]
fn what_is_set_for_interfaces_is_dated_and_logged_and_what_is_for_none_is_named() -> Result<()> {
    let cluster = mesh()?;
    let node = cluster.node("kw01");
    let interface = node.pods[0].interface();
    let log = || Ok::<_, anyhow::Error>(fs::read_to_string(node.log())?);
    ensure!(!log()?.contains("source check"), "nothing was set yet");
    annotate(
        &cluster,
        &format!(
            "manx.dev/fastPathInterfaces: 'ens3=Disabled', manx.dev/sourceCheckInterfaces: '{interface}=Off'"
        ),
    )?;
    let since = eventually("the check is off", SOON, || {
        let modes = node.dataplane()?.modes;
        let of = modes.interfaces.iter().find(|of| of.name == interface).context("no such interface")?;
        ensure!(of.source_check.as_deref() == Some("Off"), "{of:?}");
        let [note] = modes.notes.as_slice() else { anyhow::bail!("{:?}", modes.notes) };
        ensure!(
            note.contains("fastPathInterfaces: no uplink or pod's interface") && note.contains("ens3 "),
            "{note}"
        );
        of.since.clone().context("no time")
    })?;
    ensure!(log()?.contains(&format!("source check Off interfaces={interface}")), "{}", log()?);
    let shown = node.host.sh("manxctl dataplane status")?;
    ensure!(shown.contains(&format!("Interface {interface}: source check Off since {since}")), "{shown}");

    annotate(&cluster, "manx.dev/fastPathInterfaces: '*=Disabled'")?;
    eventually("nothing is carried, and that is said", SOON, || {
        let status = node.dataplane()?;
        ensure!(!status.fast_path.on, "{:?}", status.fast_path);
        ensure!(
            status.fast_path.reason.contains("every interface is the stack's: Disabled by"),
            "{status:?}"
        );
        Ok(())
    })?;
    let text = log()?;
    ensure!(
        text.contains("fast path off: Disabled by manx.dev/fastPathInterfaces interfaces=ens33, "),
        "{text}"
    );
    ensure!(text.contains(&format!("source check Strict interfaces={interface}")), "{text}");
    Ok(())
}

#[test]
fn a_node_on_which_no_interface_is_called_as_uplinks_are_says_so() -> Result<()> {
    let mut cluster = mesh()?;
    let node = cluster.node_mut("kw01");
    node.terminate()?;
    node.flags.extend(["--uplink", "eth.*"]);
    node.start()?;
    eventually("it is found", SOON, || {
        let found = node.dataplane()?.modes.found;
        let [found] = found.as_slice() else { anyhow::bail!("{found:?}") };
        ensure!(found.contains("as --uplink says (eth.*; there are ens33)"), "{found}");
        Ok(())
    })?;
    ensure!(fs::read_to_string(node.log())?.contains("by the stack, what comes from other nodes"));
    Ok(())
}

/// As kube-proxy has them, for a service with one endpoint.
const KUBE_PROXY: &str = "table ip nat {
    chain KUBE-MARK-MASQ { meta mark set meta mark or 0x4000; }
    chain KUBE-SEP { meta l4proto tcp dnat to 172.16.118.65:80; }
    chain KUBE-SVC { ip saddr != 172.16.0.0/16 jump KUBE-MARK-MASQ; jump KUBE-SEP; }
    chain KUBE-SERVICES { ip daddr 10.96.0.10 tcp dport 80 jump KUBE-SVC; }
    chain PREROUTING { type nat hook prerouting priority -100; jump KUBE-SERVICES; }
    chain POSTROUTING { type nat hook postrouting priority 100; meta mark and 0x4000 == 0 return; masquerade; }
}
table ip filter {
    chain KUBE-FORWARD { ct state invalid drop; ct state related,established accept; }
    chain FORWARD { type filter hook forward priority 0; jump KUBE-FORWARD; }
}
";

fn nft(node: &Node, rules: &str) -> Result<()> {
    node.host.write_file("/tmp/rules.nft", rules)?;
    node.host.sh("nft -f /tmp/rules.nft").map(drop)
}

fn sysctl(node: &Node, name: &str) -> Result<String> {
    let name = format!("/proc/sys/net/netfilter/{name}");
    Ok(node.host.run(move || fs::read_to_string(name))?.trim().to_owned())
}

#[test]
fn auto_follows_what_netfilter_and_policy_rules_do_and_names_them() -> Result<()> {
    let cluster = mesh()?;
    let node = cluster.node("kw01");
    let flow = flow(&cluster)?;
    mode_is(node, "unguarded")?;

    // The rules of a Service: flows that conntrack knows go on being fast.
    nft(node, KUBE_PROXY)?;
    let why = mode_is(node, "guarded")?;
    ensure!(why.contains("netfilter tracks connections here (table ip"), "{why}");
    is_fast(node, true)?;
    ensure!(sysctl(node, "nf_conntrack_tcp_be_liberal")? == "1");
    ensure!(sysctl(node, "nf_conntrack_tcp_ignore_invalid_rst")? == "1");
    let status = node.dataplane()?;
    ensure!(status.modes.notes[0].contains("be_liberal"), "{:?}", status.modes);
    ensure!(status.modes.found.is_empty() && status.fast_path.on, "{:?}", status.modes);

    // One that has to see every packet: not past it.
    nft(
        node,
        "table inet count { chain c { type filter hook forward priority -10; ip saddr 172.16.36.192/26 quota over 9000 mbytes drop; }; }",
    )?;
    let why = mode_is(node, "off")?;
    ensure!(why.contains("table inet count, chain c") && why.contains("quota"), "{why}");
    is_fast(node, false)?;
    let text = node.host.sh("manxctl dataplane status")?;
    ensure!(text.contains("Found: table inet count, chain c, handle"), "{text}");
    node.host.sh("nft delete table inet count")?;
    mode_is(node, "guarded")?;
    is_fast(node, true)?;

    // A policy rule that may choose another table.
    node.host.sh("ip rule add from 172.16.0.0/16 lookup 52 pref 100")?;
    let why = mode_is(node, "off")?;
    ensure!(why.contains("policy rule \"100: from 172.16.0.0/16 lookup 52\""), "{why}");
    is_fast(node, false)?;
    node.host.sh("ip rule del pref 100")?;
    mode_is(node, "guarded")?;

    // Somebody puts back what the guard needs.
    node.host.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0")?;
    eventually("conntrack is liberal again", SOON, || {
        ensure!(sysctl(node, "nf_conntrack_tcp_be_liberal")? == "1");
        Ok(())
    })?;

    // Rules that go do not bring back the unguarded fast path.
    node.host.sh("nft flush ruleset")?;
    let why = eventually("the rules' end is seen", SOON, || {
        let why = mode_is(node, "guarded")?;
        ensure!(!why.contains("table ip"), "{why}");
        Ok(why)
    })?;
    // Nobody renews what conntrack knows: that the packets are the stack's, and what to do, is said.
    let entries =
        "no rule tracks connections here, though conntrack has entries still: packets of flows that";
    ensure!(why.starts_with(entries) && why.contains("restart of manxd"), "{why}");

    let report = flow.stop()?;
    println!("{report}");
    ensure!(report.lost.is_empty(), "{report}");
    Ok(())
}
