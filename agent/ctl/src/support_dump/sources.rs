//! What goes into it: this tool's own answers, as people and as programs read them; the kernel's; the resources.

use std::{env, fs, path::Path, process::Command};

use manx_api::{LogLines, NodeStatus, path};
use manx_datastore::{Datastore, OpenError};
use manx_resources::{Kind, to_yaml};
use serde_json::{Value, json};

use super::{Pack, run};
use crate::client;

pub(super) struct Asked<'a> {
    pub node: &'a str,
    /// Of the datastore.
    pub url: Option<&'a str>,
    pub socket: &'a Path,
    /// If manxd answers.
    pub status: Option<&'a NodeStatus>,
}

/// Of manxd; each also as JSON.
const OF_MANXD: [&str; 12] = [
    "node status",
    "routes",
    "history",
    "blackhole list --all",
    "dataplane status",
    "dataplane routes",
    "dataplane counters",
    "dataplane counters --by interface",
    "dataplane counters --by prefix",
    "dataplane counters --by nexthop",
    "dataplane audit --dry-run",
    "log-level",
];
/// Of the datastore.
const OF_RESOURCES: [&str; 4] = ["lint", "plan --all", "ipam show --show-blocks", "version"];
/// Of the kernel and what else looks after it.
const OF_THE_KERNEL: [(&str, &str); 23] = [
    ("uname.txt", "uname -a"),
    ("links.json", "ip -j -d -s link"),
    ("addresses.json", "ip -j -d address"),
    ("routes4.json", "ip -j -d route show table all"),
    ("routes6.json", "ip -6 -j -d route show table all"),
    ("rules4.json", "ip -j rule"),
    ("rules6.json", "ip -6 -j rule"),
    ("neighbours.json", "ip -j -s neighbour"),
    ("next-hops.json", "ip -j nexthop"),
    ("qdiscs.json", "tc -j -s qdisc"),
    // ss(8) would show root the sockets' passwords.
    ("tcp4.txt", "cat /proc/net/tcp"),
    ("tcp6.txt", "cat /proc/net/tcp6"),
    ("nftables.txt", "nft -a list ruleset"),
    ("iptables4.txt", "iptables-save -c"),
    ("iptables6.txt", "ip6tables-save -c"),
    ("conntrack.txt", "conntrack -S"),
    ("programs.json", "bpftool -j prog show"),
    ("bpf-links.json", "bpftool -j link show"),
    ("bpf-net.json", "bpftool -j net show"),
    ("modules.txt", "cat /proc/modules"),
    ("memory.txt", "cat /proc/meminfo"),
    ("os.txt", "cat /etc/os-release"),
    ("journal.txt", "journalctl -u manxd -n 5000 --no-pager"),
];
/// Below /proc/sys/net; a star stands for every name.
const SETTINGS: [&str; 16] = [
    "ipv4/ip_forward",
    "ipv4/conf/*/forwarding",
    "ipv4/conf/*/rp_filter",
    "ipv4/conf/*/proxy_arp",
    "ipv4/conf/*/accept_local",
    "ipv4/conf/*/arp_ignore",
    "ipv4/fib_multipath_hash_policy",
    "ipv4/neigh/default/gc_thresh3",
    "ipv6/conf/*/forwarding",
    "ipv6/conf/*/disable_ipv6",
    "ipv6/neigh/default/gc_thresh3",
    "ipv6/route/max_size",
    "netfilter/nf_conntrack_max",
    "netfilter/nf_conntrack_count",
    "netfilter/nf_conntrack_tcp_be_liberal",
    "core/somaxconn",
];
/// Of manxd's environment; others' are nobody's business.
const VARIABLES: [&str; 2] = ["MANX_", "ETCD_"];

pub(super) fn gather(pack: &mut Pack, asked: &Asked<'_>) {
    let own = |line: &str, json: bool| {
        // Of this very file, also where another is on the path.
        let program = env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(line.split(' ')).args(json.then_some(["-o", "json"]).into_iter().flatten());
        command.env("MANX_SOCKET", asked.socket);
        if let Some(url) = asked.url {
            command.env("MANX_DATASTORE", url);
        }
        run::output(&mut command)
    };
    let of_manxd = OF_MANXD.iter().filter(|_| asked.status.is_some()).map(|line| (*line).to_owned());
    let plan = format!("plan --node {}", asked.node);
    let of_resources = OF_RESOURCES.iter().map(|line| (*line).to_owned()).chain([plan]);
    for line in of_manxd.chain(of_resources) {
        let name = line.replace(" --", "-").replace(' ', "-");
        pack.add(&format!("manxctl/{name}.txt"), own(&line, false));
        pack.add(&format!("manxctl/{name}.json"), own(&line, true));
    }
    if asked.status.is_some() {
        pack.add("manxd/log.txt", log(asked.socket));
        pack.add(
            "manxd/ready.json",
            client::ask::<Value>(asked.socket, &format!("{}?format=json", path::READY))
                .map(|said| format!("{said:#}\n").into_bytes())
                .map_err(|error| error.to_string()),
        );
    }
    if let Some(status) = asked.status {
        pack.add("manxd/command-line.json", command_line(status.pid));
        pack.add("manxd/status.txt", of_process(status.pid, "status"));
        pack.add("manxd/limits.txt", of_process(status.pid, "limits"));
    }
    for (name, line) in OF_THE_KERNEL {
        let mut words = line.split(' ');
        let program = words.next().unwrap_or_default();
        pack.add(&format!("kernel/{name}"), run::output(Command::new(program).args(words)));
    }
    pack.add("kernel/settings.txt", Ok(settings(Path::new("/proc/sys/net")).into_bytes()));
}

fn log(socket: &Path) -> Result<Vec<u8>, String> {
    let log: LogLines = client::ask(socket, path::LOG).map_err(|error| error.to_string())?;
    Ok(log.lines.concat().into_bytes())
}

/// What the kernel says of manxd's process, by the number that it knows itself by.
fn of_process(pid: u32, file: &str) -> Result<Vec<u8>, String> {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).map_err(|error| error.to_string());
    if !read("comm")?.starts_with(b"manxd") {
        return Err(format!("process {pid} is another one here: manxd runs in another pid namespace"));
    }
    read(file)
}

/// How manxd was started, with its own variables.
fn command_line(pid: u32) -> Result<Vec<u8>, String> {
    let read = |file: &str| {
        let text = of_process(pid, file)?;
        let parts = text.split(|octet| *octet == 0).filter(|part| !part.is_empty());
        Ok::<_, String>(parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect::<Vec<_>>())
    };
    let said = json!({ "arguments": read("cmdline")?, "environment": shown(read("environ")?) });
    Ok(format!("{said:#}\n").into_bytes())
}

/// The variables that are Manx's, without what is secret.
fn shown(environment: Vec<String>) -> Vec<String> {
    let ours = environment.into_iter().filter(|one| VARIABLES.iter().any(|start| one.starts_with(start)));
    ours.map(|one| match one.split_once('=') {
        Some((name, _)) if name.contains("PASSWORD") || name.contains("TOKEN") => {
            format!("{name}=(not shown)")
        }
        _ => one,
    })
    .collect()
}

fn settings(root: &Path) -> String {
    let mut text = String::new();
    for setting in SETTINGS {
        let names = match setting.split_once("/*/") {
            None => vec![setting.to_owned()],
            Some((before, after)) => {
                let entries = fs::read_dir(root.join(before)).into_iter().flatten().flatten();
                let mut names: Vec<String> = entries
                    .map(|entry| format!("{before}/{}/{after}", entry.file_name().to_string_lossy()))
                    .collect();
                names.sort();
                names
            }
        };
        for name in names {
            // What is not there belongs to a module that is not loaded, or to an interface that has just gone.
            if let Ok(value) = fs::read_to_string(root.join(&name)) {
                text.push_str(&format!("net/{name} = {}\n", value.trim()));
            }
        }
    }
    text
}

/// As they stand in the datastore. Of secrets only the names.
pub(super) fn resources(pack: &mut Pack, datastore: &dyn Fn() -> Result<Datastore, OpenError>) {
    let read = match datastore() {
        Ok(datastore) => datastore.read(),
        Err(error) => return pack.add("resources", Err(error.to_string())),
    };
    for kind in Kind::ALL {
        let documents = read.snapshot.of_kind(kind).into_iter().map(|resource| {
            let mut document = resource.document().clone();
            hide(&mut document);
            to_yaml(&document)
        });
        let documents: Vec<String> = documents.collect();
        if !documents.is_empty() {
            pack.add(&format!("resources/{kind}.yaml"), Ok(documents.join("---\n").into_bytes()));
        }
    }
    if !read.problems.is_empty() {
        let problems: Vec<String> = read.problems.iter().map(ToString::to_string).collect();
        pack.add("resources/problems.txt", Ok(format!("{}\n", problems.join("\n")).into_bytes()));
    }
}

/// What a Secret holds, and the copy of it that kubectl leaves in an annotation.
fn hide(document: &mut Value) {
    if document.get("kind").and_then(Value::as_str) != Some("Secret") {
        return;
    }
    for field in ["data", "stringData"] {
        if let Some(values) = document.get_mut(field).and_then(Value::as_object_mut) {
            values.values_mut().for_each(|value| *value = json!("(not shown)"));
        }
    }
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("annotations");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_environment_only_our_own_is_shown_and_no_password() {
        let environment =
            ["PATH=/bin", "AWS_SECRET=x", "ETCD_PASSWORD=hunter2", "MANX_SECRETS=/etc/manx/secrets"];
        assert_eq!(
            shown(environment.map(str::to_owned).to_vec()),
            ["ETCD_PASSWORD=(not shown)", "MANX_SECRETS=/etc/manx/secrets"]
        );
    }

    #[test]
    fn of_a_secret_the_names_are_shown() {
        let mut secret = json!({
            "kind": "Secret",
            "metadata": {"name": "s", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "hunter2"}},
            "data": {"k": "aHVudGVyMg=="}, "stringData": {"l": "hunter2"}
        });
        hide(&mut secret);
        let text = secret.to_string();
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
        assert!(text.contains(r#""k":"(not shown)""#), "{text}");
        let mut other = json!({"kind": "BGPPeer", "data": {"k": "v"}});
        hide(&mut other);
        assert_eq!(other["data"]["k"], "v");
    }

    #[test]
    fn a_star_stands_for_every_interface() {
        let root = tempfile::tempdir().unwrap();
        for (name, value) in [("ipv4/conf/eth0", "1"), ("ipv4/conf/all", "2")] {
            fs::create_dir_all(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("rp_filter"), format!("{value}\n")).unwrap();
        }
        assert_eq!(
            settings(root.path()),
            "net/ipv4/conf/all/rp_filter = 2\nnet/ipv4/conf/eth0/rp_filter = 1\n"
        );
    }
}
