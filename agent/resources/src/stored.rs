//! Calico's layout of etcd v3: under which key a resource stands, and what stands there. A resource stands as its JSON
//! under `/calico/resources/v3/projectcalico.org/PLURAL/NAME`; an affinity has node and block in its key, and little else
//! in its value (libcalico-go, `lib/backend/model`).

use manx_net::Prefix;
use serde_json::{Value, json};

use crate::{AffinityState, Key, Kind, Parsed, Problem, Resource, Severity, parse};

const RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";
const IPAM: &str = "/calico/ipam/v2/";
const BLOCKS: &str = "/calico/ipam/v2/assignment/";
/// Kinds whose keys say more than a name.
const IN_IPAM: [Kind; 3] = [Kind::BlockAffinity, Kind::IpamBlock, Kind::IpamConfiguration];
const CONFIGURATION: &str = "/calico/ipam/v2/config";
/// The configuration's fields as its documents and as etcd have them.
const CONFIGURATION_FIELDS: [(&str, &str); 2] =
    [("strictAffinity", "strict_affinity"), ("autoAllocateBlocks", "auto_allocate_blocks")];

/// Everything that plans depend on stands under one of these, and little else. What nodes and pods change all day
/// (handles, blocks, workloads, statuses) is not there.
pub fn stored_prefixes() -> Vec<String> {
    let is_watched = |kind: &Kind| !IN_IPAM.contains(kind) && *kind != Kind::CalicoNodeStatus;
    let mut prefixes: Vec<String> = Kind::ALL.into_iter().filter(is_watched).map(all_of).collect();
    prefixes.extend(["host", "virtual"].map(|of| format!("{IPAM}{of}/")));
    prefixes
}

/// The same with what objects of these kinds stand under, to be read once: blocks change with every pod, and are many.
pub fn stored_prefixes_with(kinds: &[Kind]) -> Vec<String> {
    let mut prefixes = stored_prefixes();
    prefixes.extend(kinds.contains(&Kind::CalicoNodeStatus).then(|| all_of(Kind::CalicoNodeStatus)));
    prefixes.extend(kinds.contains(&Kind::IpamBlock).then(|| BLOCKS.to_owned()));
    prefixes.extend(kinds.contains(&Kind::IpamConfiguration).then(|| CONFIGURATION.to_owned()));
    prefixes
}

fn all_of(kind: Kind) -> String {
    format!("{RESOURCES}{}/", plural(kind))
}

/// The key under which Calico stores the resource.
pub fn stored_key(resource: &Resource) -> String {
    if let Resource::BlockAffinity(object) = resource {
        let of = if object.spec.host { "host" } else { "virtual" };
        let family = if object.spec.cidr.is_v4() { "ipv4" } else { "ipv6" };
        let cidr = object.spec.cidr.to_string().replace('/', "-");
        return format!("{IPAM}{of}/{}/{family}/block/{cidr}", object.spec.node);
    }
    if let Resource::IpamBlock(object) = resource {
        let family = if object.spec.cidr.is_v4() { "ipv4" } else { "ipv6" };
        return format!("{BLOCKS}{family}/block/{}", object.spec.cidr.to_string().replace('/', "-"));
    }
    if let Resource::IpamConfiguration(_) = resource {
        return CONFIGURATION.to_owned();
    }
    format!("{RESOURCES}{}/{}", plural(resource.kind()), resource.name())
}

/// The same of what is known by its name alone, and may be too wrong to be read; None where the key has more in it.
pub fn stored_key_of(key: &Key) -> Option<String> {
    (!IN_IPAM.contains(&key.kind)).then(|| format!("{RESOURCES}{}/{}", plural(key.kind), key.name))
}

/// What Calico stores there. The version is etcd's own, and no part of it.
pub fn stored_value(resource: &Resource) -> String {
    if let Resource::BlockAffinity(object) = resource {
        let state = match object.spec.state {
            AffinityState::Confirmed => "confirmed",
            AffinityState::Pending => "pending",
            AffinityState::PendingDeletion => "pendingDeletion",
        };
        return json!({ "state": state, "deleted": object.spec.deleted }).to_string();
    }
    if let Resource::IpamBlock(object) = resource {
        return object.document.get("spec").unwrap_or(&Value::Null).to_string();
    }
    if let Resource::IpamConfiguration(object) = resource {
        let mut spec = object.document.get("spec").cloned().unwrap_or(json!({}));
        if let Some(spec) = spec.as_object_mut() {
            for (documents, stored) in CONFIGURATION_FIELDS {
                let value = spec.remove(documents);
                spec.extend(value.map(|value| (stored.to_owned(), value)));
            }
        }
        return spec.to_string();
    }
    let mut document = resource.document().clone();
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    document.to_string()
}

/// Reads what stands under a key, by which problems call it. None for keys of kinds that Manx does not read.
pub fn parse_stored(key: &str, value: &[u8]) -> Option<Parsed> {
    if let Some(rest) = key.strip_prefix(RESOURCES) {
        let (of, name) = rest.split_once('/')?;
        let kind = Kind::ALL.into_iter().find(|kind| plural(*kind) == of)?;
        // What has one part more is of a namespace.
        return (!name.contains('/')).then(|| resource(key, kind, name, value));
    }
    if key == CONFIGURATION {
        return Some(configuration(key, value));
    }
    if let Some(rest) = key.strip_prefix(BLOCKS) {
        let (family, cidr) = rest.split_once("/block/")?;
        return ["ipv4", "ipv6"].contains(&family).then(|| ipam_block(key, cidr, value));
    }
    let (of, rest) = key.strip_prefix(IPAM)?.split_once('/')?;
    if !["host", "virtual"].contains(&of) {
        return None;
    }
    let parts: Vec<&str> = rest.split('/').collect();
    let [node, family, "block", cidr] = parts.as_slice() else { return None };
    ["ipv4", "ipv6"].contains(family).then(|| affinity(key, of, node, cidr, value))
}

fn resource(key: &str, kind: Kind, name: &str, value: &[u8]) -> Parsed {
    let text = match std::str::from_utf8(value) {
        Ok(text) => text,
        Err(error) => return refused(key, format!("is no text: {error}")),
    };
    let mut parsed = parse(key, text);
    if !parsed.has_errors()
        && !parsed
            .documents
            .iter()
            .any(|document| (document.resource.kind(), document.resource.name()) == (kind, name))
    {
        parsed.documents.clear();
        parsed
            .problems
            .push(problem(key, format!("holds no {kind} \"{name}\", which its key says that it is")));
    }
    parsed
}

fn affinity(key: &str, of: &str, node: &str, cidr: &str, value: &[u8]) -> Parsed {
    // Old ones are empty, and confirmed.
    let said = match value {
        b"" => json!({}),
        value => match serde_json::from_slice(value) {
            Ok(said @ Value::Object(_)) => said,
            Ok(_) => return refused(key, "is no JSON object".to_owned()),
            Err(error) => return refused(key, format!("is no JSON: {error}")),
        },
    };
    // The length stands behind the last hyphen.
    let block =
        cidr.rsplit_once('-').and_then(|(address, len)| format!("{address}/{len}").parse::<Prefix>().ok());
    let Some(block) = block else {
        return refused(key, format!("ends in \"{cidr}\", which is no block such as 172.16.36.192-26"));
    };
    let name = format!("{node}-{}", block.to_string().replace(['.', ':', '/'], "-"));
    let document = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": Kind::BlockAffinity.name(),
        "metadata": { "name": name },
        "spec": {
            "node": node,
            "cidr": block.to_string(),
            "type": of,
            "state": said.get("state").filter(|state| *state != "").unwrap_or(&json!("confirmed")),
            "deleted": said.get("deleted").cloned().unwrap_or(json!(false)).to_string().trim_matches('"'),
        },
    });
    parse(key, &document.to_string())
}

fn configuration(key: &str, value: &[u8]) -> Parsed {
    let mut said = match serde_json::from_slice::<Value>(value) {
        Ok(said) => said,
        Err(error) => return refused(key, format!("is no JSON: {error}")),
    };
    let Some(spec) = said.as_object_mut() else { return refused(key, "is no JSON object".to_owned()) };
    for (documents, stored) in CONFIGURATION_FIELDS {
        // What is false is not written there.
        let value = spec.remove(stored).unwrap_or(json!(false));
        spec.insert(documents.to_owned(), value);
    }
    let document = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": Kind::IpamConfiguration.name(),
        "metadata": { "name": "default" },
        "spec": said,
    });
    parse(key, &document.to_string())
}

/// The value is what a document has as its spec.
fn ipam_block(key: &str, cidr: &str, value: &[u8]) -> Parsed {
    let said = match serde_json::from_slice(value) {
        Ok(said @ Value::Object(_)) => said,
        Ok(_) => return refused(key, "is no JSON object".to_owned()),
        Err(error) => return refused(key, format!("is no JSON: {error}")),
    };
    let document = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": Kind::IpamBlock.name(),
        "metadata": { "name": cidr.replace(['.', ':', '/'], "-") },
        "spec": said,
    });
    parse(key, &document.to_string())
}

fn refused(key: &str, message: String) -> Parsed {
    Parsed { problems: vec![problem(key, message)], ..Parsed::default() }
}

fn problem(key: &str, message: String) -> Problem {
    Problem {
        severity: Severity::Error,
        file: key.to_owned(),
        place: None,
        subject: None,
        field: None,
        message,
    }
}

/// As in keys and in Kubernetes' addresses of resources.
fn plural(kind: Kind) -> String {
    let name = kind.name().to_ascii_lowercase();
    match (name.strip_suffix('y'), name.ends_with('s')) {
        (Some(stem), _) => format!("{stem}ies"),
        (None, true) => format!("{name}es"),
        (None, false) => format!("{name}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> Resource {
        let parsed = parse_stored(key, value.as_bytes()).unwrap();
        assert_eq!(parsed.problems, []);
        let [document] = parsed.documents.as_slice() else { panic!("{parsed:?}") };
        document.resource.clone()
    }

    fn fault(key: &str, value: &str) -> String {
        let parsed = parse_stored(key, value.as_bytes()).unwrap();
        assert!(parsed.documents.is_empty());
        let [problem] = parsed.problems.as_slice() else { panic!("{parsed:?}") };
        problem.to_string()
    }

    #[test]
    fn a_resource_stands_under_its_plural_and_name_and_is_written_back_the_same() {
        let key = "/calico/resources/v3/projectcalico.org/bgppeers/to-rr";
        let value = r#"{"apiVersion":"projectcalico.org/v3","kind":"BGPPeer","metadata":{"name":"to-rr","uid":"7"},"spec":{"asNumber":64512,"peerIP":"192.168.80.124"}}"#;
        let resource = one(key, value);
        assert_eq!(stored_key(&resource), key);
        let same = |a: &str, b: &str| {
            assert_eq!(serde_json::from_str::<Value>(a).unwrap(), serde_json::from_str::<Value>(b).unwrap());
        };
        same(&stored_value(&resource), value);
        let versioned = value.replace("\"uid\":\"7\"", "\"uid\":\"7\",\"resourceVersion\":\"12\"");
        same(&stored_value(&one(key, &versioned)), value);
    }

    #[test]
    fn an_affinity_has_node_and_block_in_its_key() {
        for (key, value, cidr, state) in [
            (
                "host/kw01/ipv4/block/172.16.36.192-26",
                r#"{"state":"confirmed","deleted":false}"#,
                "172.16.36.192/26",
                AffinityState::Confirmed,
            ),
            (
                "host/kw-01.lab/ipv6/block/fd00:10:244::40-122",
                r#"{"state":"pending","deleted":true}"#,
                "fd00:10:244::40/122",
                AffinityState::Pending,
            ),
            ("virtual/load-balancer/ipv4/block/10.9.0.0-26", "", "10.9.0.0/26", AffinityState::Confirmed),
        ] {
            let key = format!("{IPAM}{key}");
            let resource = one(&key, value);
            assert_eq!(stored_key(&resource), key);
            let Resource::BlockAffinity(object) = &resource else { panic!("{resource:?}") };
            assert_eq!((object.spec.cidr.to_string().as_str(), object.spec.state), (cidr, state));
            assert_eq!(object.spec.deleted, value.contains("true"));
            assert_eq!(object.spec.host, key.contains("/host/"));
            assert_eq!(one(&key, &stored_value(&resource)), resource);
        }
    }

    #[test]
    fn a_block_has_its_addresses_and_who_has_them() {
        let key = "/calico/ipam/v2/assignment/ipv4/block/172.16.36.192-30";
        let value = r#"{"cidr":"172.16.36.192/30","affinity":"host:kw01","allocations":[0,null,1,null],"unallocated":[1,3],"attributes":[{"handle_id":"h","secondary":{"node":"kw01"}},{}],"sequenceNumber":7,"sequenceNumberForAllocation":{"0":5},"deleted":false}"#;
        let resource = one(key, value);
        assert_eq!(stored_key(&resource), key);
        assert_eq!(
            serde_json::from_str::<Value>(&stored_value(&resource)).unwrap(),
            serde_json::from_str::<Value>(value).unwrap()
        );
        let Resource::IpamBlock(object) = &resource else { panic!("{resource:?}") };
        assert_eq!(object.name(), "172-16-36-192-30");
        assert_eq!(object.spec.allocations, [Some(0), None, Some(1), None]);
        assert_eq!(object.spec.attributes[0].owner["node"], "kw01");
        assert!(fault(key, &value.replace("[0,null,1,null]", "[0,2]")).contains("beyond the 2 attributes"));
        let resource = one(CONFIGURATION, r#"{"auto_allocate_blocks":true,"maxBlocksPerHost":4}"#);
        let Resource::IpamConfiguration(object) = &resource else { panic!("{resource:?}") };
        assert!(object.spec.auto_allocate_blocks && !object.spec.strict_affinity);
        assert_eq!(stored_key(&resource), CONFIGURATION);
        assert_eq!(one(CONFIGURATION, &stored_value(&resource)), resource);
        // No daemon follows what changes with every pod.
        assert!(!stored_prefixes().iter().any(|prefix| key.starts_with(prefix)));
        assert!(stored_prefixes_with(&[Kind::IpamBlock]).iter().any(|prefix| key.starts_with(prefix)));
    }

    #[test]
    fn what_is_not_read_is_passed_over() {
        for key in [
            "/calico/resources/v3/projectcalico.org/profiles/default",
            "/calico/resources/v3/projectcalico.org/bgppeers/default/of-a-namespace",
            "/calico/ipam/v2/handle/k8s-pod-network.7",
            "/calico/ipam/v2/host/kw01/ipv9/block/172.16.36.192-26",
            "/registry/pods/x",
        ] {
            assert!(parse_stored(key, b"{}").is_none(), "{key}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_its_key() {
        let key = "/calico/resources/v3/projectcalico.org/nodes/kw01";
        let other =
            r#"{"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{"name":"kw02"},"spec":{}}"#;
        assert_eq!(
            fault(key, other),
            format!("{key}: holds no Node \"kw01\", which its key says that it is")
        );
        assert_eq!(fault(key, ""), format!("{key}: holds no Node \"kw01\", which its key says that it is"));
        let parsed = parse_stored(key, b"\xff").unwrap();
        assert!(parsed.problems[0].to_string().starts_with(&format!("{key}: is no text: invalid utf-8")));
        let key = "/calico/ipam/v2/host/kw01/ipv4/block/172.16.36.192";
        assert_eq!(
            fault(key, ""),
            format!("{key}: ends in \"172.16.36.192\", which is no block such as 172.16.36.192-26")
        );
        let key = "/calico/ipam/v2/host/kw01/ipv4/block/172.16.36.192-26";
        assert_eq!(fault(key, "[]"), format!("{key}: is no JSON object"));
        assert!(fault(key, r#"{"state":"lost"}"#).contains("spec.state"));
    }

    #[test]
    fn the_prefixes_cover_what_is_read_and_plurals_are_aliases() {
        let prefixes = stored_prefixes();
        for kind in Kind::ALL {
            assert!(kind.aliases().contains(&plural(kind).as_str()), "{kind}");
        }
        assert!(
            prefixes
                .iter()
                .any(|prefix| "/calico/ipam/v2/host/kw01/ipv4/block/1.2.3.0-26".starts_with(prefix))
        );
        assert!(prefixes.contains(&"/calico/resources/v3/projectcalico.org/bgpconfigurations/".to_owned()));
        assert!(!prefixes.iter().any(|prefix| prefix.contains("blockaffinities")));
    }
}
