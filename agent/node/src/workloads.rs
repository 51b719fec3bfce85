//! Pods that peer with their node, as Felix tells confd of them: a JSON file for each pod in one directory, which names
//! the BGPPeer that chose it and its addresses (libcalico-go, `lib/epstatusfile`).

use std::{fs, io, net::IpAddr, path::Path};

use manx_resources::LocalWorkload;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default, rename = "bgpPeerName")]
    peer: String,
    #[serde(default)]
    ipv4_nets: Vec<String>,
    #[serde(default)]
    ipv6_nets: Vec<String>,
}

/// Those of all files, and what is wrong with others. Without the directory there are none.
pub fn read(directory: &Path) -> (Vec<LocalWorkload>, Vec<String>) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Default::default(),
        Err(error) => return (Vec::new(), vec![format!("{}: {error}", directory.display())]),
    };
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
        match read_one(&path) {
            Ok(workload) => found.extend(workload),
            Err(why) => {
                problems.push(format!("{}: {why}; this pod does not peer with its node", path.display()))
            }
        }
    }
    found.sort();
    problems.sort();
    (found, problems)
}

fn read_one(path: &Path) -> Result<Option<LocalWorkload>, String> {
    let text = match fs::read(path) {
        Ok(text) => text,
        // It went meanwhile; or Felix is writing it, and it is looked at again soon.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if text.is_empty() {
        return Ok(None);
    }
    let status: Status =
        serde_json::from_slice(&text).map_err(|error| format!("is no status of an endpoint: {error}"))?;
    if status.peer.is_empty() {
        return Ok(None);
    }
    // Of each family the first, as confd has it.
    let mut addresses = Vec::new();
    for net in [status.ipv4_nets.first(), status.ipv6_nets.first()].into_iter().flatten() {
        let host = net.split_once('/').map_or(net.as_str(), |(host, _)| host);
        addresses.push(host.parse::<IpAddr>().map_err(|_| format!("\"{net}\" is no address"))?);
    }
    Ok((!addresses.is_empty()).then_some(LocalWorkload { peer: status.peer, addresses }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_a_pod_with_its_peer_and_first_addresses() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write(
            "a",
            r#"{"ifaceName":"cali1","mac":"02:00:00:00:00:01","ipv4Nets":["10.0.0.1/32","10.0.0.2/32"],"ipv6Nets":["fd00::1/128"],"bgpPeerName":"pods"}"#,
        );
        write("b", r#"{"ipv4Nets":["10.0.0.3/32"]}"#);
        write("c", "");
        write("d", r#"{"ipv4Nets":["nowhere"],"bgpPeerName":"pods"}"#);
        write("e", "{");
        let (found, problems) = read(directory.path());
        let addresses: Vec<IpAddr> = ["10.0.0.1", "fd00::1"].map(|address| address.parse().unwrap()).into();
        assert_eq!(found, [LocalWorkload { peer: "pods".into(), addresses }]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("d: \"nowhere\" is no address; this pod"), "{problems:?}");
        assert_eq!(read(Path::new("/nonexistent")), Default::default());
    }
}
