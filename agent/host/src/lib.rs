//! What else on this host deletes routes, writes the same ones or runs programs on the same interfaces: as far as files
//! and processes tell. Each finding says what follows and what to write. Nothing is changed, and nobody is asked.
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)]

mod settings;

use std::{
    fs,
    path::{Path, PathBuf},
};

use manx_resources::{Finding, Gravity, Rule};
use settings::settings;

/// As the kernel cuts it (`TASK_COMM_LEN`).
const NETWORKD: &str = "systemd-network";
const NETWORK_MANAGER: &str = "NetworkManager";
/// Daemons that write routes and want port 179.
const ROUTING: [&str; 5] = ["bird", "bird6", "zebra", "bgpd", "gobgpd"];
/// Where Felix pins its maps.
const FELIX_PINS: &str = "sys/fs/bpf/tc/globals";

/// Everything under a root directory, which is `/` but in tests. `pods` is how the names of pods' interfaces begin.
pub fn look(root: &Path, pods: &str) -> Vec<Finding> {
    let running = processes(root);
    let is_running = |name: &str| running.iter().any(|process| process.name == name);
    let mut found = Vec::new();
    if is_running(NETWORKD) {
        found.extend(networkd(root));
    }
    if is_running(NETWORK_MANAGER) {
        found.extend(network_manager(root, pods));
    }
    found.extend(felix(root));
    found.extend(routing(&running));
    found
}

fn warning(rule: Rule, message: String, remedy: String) -> Finding {
    let (resources, nodes) = (Vec::new(), Vec::new());
    Finding { gravity: Gravity::Warning, rule, resources, message, remedy, nodes }
}

/// networkd.conf(5): both are on by default.
fn networkd(root: &Path) -> Option<Finding> {
    const FIELDS: [&str; 2] = ["ManageForeignRoutes", "ManageForeignRoutingPolicyRules"];
    let said = settings(root, "systemd/networkd.conf", "Network");
    let is_on = |field: &str| {
        let value = said.get(field).map(|value| value.to_ascii_lowercase());
        !value.is_some_and(|value| ["no", "false", "off", "0", "n", "f"].contains(&value.as_str()))
    };
    let on: Vec<&str> = FIELDS.into_iter().filter(|field| is_on(field)).collect();
    let missing = on.iter().map(|field| format!("{field}=no")).collect::<Vec<_>>().join(" and ");
    let what = match on.as_slice() {
        [] => return None,
        [only] if only.contains("Policy") => "policy rules",
        _ => "routes",
    };
    Some(warning(
        Rule::NetworkdForeign,
        format!(
            "systemd-networkd runs here and deletes {what} that it did not set itself, when it starts and when a link comes: \
             routes to pods are gone until manxd puts them right"
        ),
        format!("write {missing} below [Network] in /etc/systemd/networkd.conf.d/manx.conf, and restart it"),
    ))
}

/// NetworkManager.conf(5), and what Calico's own manual asks for.
fn network_manager(root: &Path, pods: &str) -> Option<Finding> {
    let said = settings(root, "NetworkManager/NetworkManager.conf", "keyfile");
    let unmanaged = said.get("unmanaged-devices").map(String::as_str).unwrap_or_default();
    let wanted = format!("interface-name:{pods}*");
    let is_there = unmanaged.split([';', ',']).any(|device| device.trim() == wanted);
    (!is_there).then(|| {
        warning(
            Rule::NetworkManagerPods,
            format!(
                "NetworkManager runs here and may take the interfaces of pods ({pods}…) for its own: it changes their routes and \
                 addresses, and pods come and go from the network"
            ),
            format!("write unmanaged-devices={wanted} below [keyfile] in /etc/NetworkManager/conf.d/manx.conf, and reload it"),
        )
    })
}

fn felix(root: &Path) -> Option<Finding> {
    let pins = fs::read_dir(root.join(FELIX_PINS)).ok()?;
    let names = pins.flatten().map(|pin| pin.file_name().to_string_lossy().into_owned());
    let pin = names.filter(|name| name.starts_with("cali_v")).min()?;
    Some(warning(
        Rule::FelixPrograms,
        format!(
            "Felix's own BPF dataplane is or was on here (/{FELIX_PINS}/{pin}): its programs stand on the same interfaces, carry \
             packets past Manx's, and know no route that BGP brought"
        ),
        "set bpfEnabled: false in FelixConfiguration, and restart the node if the pins stay".to_owned(),
    ))
}

fn routing(running: &[Process]) -> Option<Finding> {
    let others: Vec<String> = running
        .iter()
        .filter(|process| ROUTING.contains(&process.name.as_str()))
        .map(|process| format!("{} (pid {})", process.name, process.pid))
        .collect();
    (!others.is_empty()).then(|| {
        warning(
            Rule::RoutingDaemon,
            format!(
                "another routing daemon runs here: {}; it writes routes to the same pods, and peers reach it instead of manxd on \
                 port 179",
                others.join(", ")
            ),
            "stop it, and let manxd take over its routes (--adopt-protocol)".to_owned(),
        )
    })
}

#[derive(Debug)]
struct Process {
    pid: u32,
    name: String,
}

/// Those of this network namespace, by their numbers.
fn processes(root: &Path) -> Vec<Process> {
    let proc = root.join("proc");
    let namespace = |of: PathBuf| fs::read_link(of.join("ns/net")).ok();
    let own = namespace(proc.join("self"));
    let entries = fs::read_dir(&proc).into_iter().flatten().flatten();
    let process = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?.trim().to_owned();
        let of_interest =
            [NETWORKD, NETWORK_MANAGER].contains(&name.as_str()) || ROUTING.contains(&name.as_str());
        // Another network's daemons are nobody's business here.
        (of_interest && own.is_some() && namespace(entry.path()) == own).then_some(Process { pid, name })
    };
    let mut found: Vec<Process> = entries.filter_map(process).collect();
    found.sort_by_key(|process| process.pid);
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Root(tempfile::TempDir);

    impl Root {
        /// With this process in it.
        fn new() -> Root {
            let root = Root(tempfile::tempdir().unwrap());
            root.process("self", "manxd", "net:[1]");
            root
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn process(&self, pid: &str, name: &str, namespace: &str) {
            self.write(&format!("proc/{pid}/comm"), &format!("{name}\n"));
            let ns = self.0.path().join(format!("proc/{pid}/ns"));
            fs::create_dir_all(&ns).unwrap();
            symlink(namespace, ns.join("net")).unwrap();
        }

        fn rules(&self) -> Vec<Rule> {
            look(self.0.path(), "cali").into_iter().map(|finding| finding.rule).collect()
        }
    }

    #[test]
    fn a_host_without_any_of_them_has_nothing_to_say() {
        assert_eq!(Root::new().rules(), []);
        assert!(look(Path::new("/nonexistent"), "cali").is_empty());
    }

    #[test]
    fn networkd_is_named_until_both_settings_are_off() {
        let root = Root::new();
        root.write("etc/systemd/networkd.conf", "[Network]\n#ManageForeignRoutes=no\n");
        assert_eq!(root.rules(), [], "it does not run");
        root.process("7", "systemd-network", "net:[1]");
        let [finding] = &look(root.0.path(), "cali")[..] else { panic!() };
        assert_eq!(finding.rule, Rule::NetworkdForeign);
        assert!(finding.message.contains("deletes routes that it did not set"), "{finding:?}");
        assert!(
            finding.remedy.contains("ManageForeignRoutes=no and ManageForeignRoutingPolicyRules=no"),
            "{finding:?}"
        );
        root.write("usr/lib/systemd/networkd.conf.d/10.conf", "[Network]\nManageForeignRoutes = no\n");
        let [finding] = &look(root.0.path(), "cali")[..] else { panic!() };
        assert!(finding.message.contains("deletes policy rules"), "{finding:?}");
        root.write(
            "etc/systemd/networkd.conf.d/20.conf",
            "[Network]\nManageForeignRoutingPolicyRules=false\n",
        );
        assert_eq!(root.rules(), []);
        // A later file, and one of the administrator's in the place of the vendor's.
        root.write("run/systemd/networkd.conf.d/90.conf", "[Network]\nManageForeignRoutes=yes\n");
        assert_eq!(root.rules(), [Rule::NetworkdForeign]);
        root.write("etc/systemd/networkd.conf.d/90.conf", "[Network]\n");
        assert_eq!(root.rules(), []);
    }

    #[test]
    fn networkmanager_is_named_until_it_leaves_pods_alone() {
        let root = Root::new();
        root.process("8", "NetworkManager", "net:[1]");
        root.write(
            "etc/NetworkManager/NetworkManager.conf",
            "[keyfile]\nunmanaged-devices=interface-name:tunl*\n",
        );
        assert_eq!(root.rules(), [Rule::NetworkManagerPods]);
        root.write(
            "etc/NetworkManager/conf.d/calico.conf",
            "[keyfile]\nunmanaged-devices=interface-name:cali*;interface-name:tunl*\n",
        );
        assert_eq!(root.rules(), []);
        root.write(
            "etc/NetworkManager/conf.d/calico.conf",
            "[keyfile]\nunmanaged-devices+=interface-name:cali*\n",
        );
        assert_eq!(root.rules(), [], "added to what the main file says");
    }

    #[test]
    fn felixs_programs_and_other_routing_daemons_of_this_network_are_named() {
        let root = Root::new();
        root.process("9", "bird", "net:[2]");
        assert_eq!(root.rules(), [], "another network's");
        root.process("10", "bird", "net:[1]");
        root.write("sys/fs/bpf/tc/globals/cali_v4_routes3", "");
        let found = look(root.0.path(), "cali");
        let [felix, bird] = &found[..] else { panic!("{found:?}") };
        assert_eq!((felix.rule, bird.rule), (Rule::FelixPrograms, Rule::RoutingDaemon));
        assert!(felix.message.contains("(/sys/fs/bpf/tc/globals/cali_v4_routes3)"), "{felix:?}");
        assert!(bird.message.contains("bird (pid 10)"), "{bird:?}");
    }
}
