//! Versions of objects: what a writer says that it has seen. etcd counts; in a directory, where people edit files by
//! hand and nobody counts, the version is a hash of what the document says, whatever its text looks like.

use std::collections::BTreeMap;

use manx_resources::Key;
use serde_json::Value;

use crate::Update;

/// What a datastore says, with the versions of all objects.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    pub update: Update,
    pub versions: BTreeMap<Key, String>,
    /// Of the whole, where the store counts.
    pub version: Option<String>,
}

/// FNV-1a: the same for ever and on every machine. It is there to notice changes, not to resist an enemy.
#[derive(Clone, Copy)]
struct Fnv(u64);

impl Fnv {
    const fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// With a letter in front, so that nobody takes it for etcd's.
fn shown(hash: Fnv) -> String {
    format!("d{:016x}", hash.0)
}

/// The version of a document in a directory. A version that stands in the document is no part of it.
pub(crate) fn of_document(document: &Value) -> String {
    let mut hash = Fnv::new();
    canonical(document, true, &mut hash);
    shown(hash)
}

/// Whether a version is of a directory.
pub(crate) fn is_of_directory(version: &str) -> bool {
    version
        .strip_prefix('d')
        .is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Keys in order, and lengths before texts: no two values are the same bytes.
fn canonical(value: &Value, root: bool, hash: &mut Fnv) {
    let text = |hash: &mut Fnv, text: &str| {
        hash.add(&(text.len() as u64).to_le_bytes());
        hash.add(text.as_bytes());
    };
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            hash.add(b"{");
            for key in keys {
                text(hash, key);
                match map.get(key) {
                    Some(Value::Object(metadata)) if root && key == "metadata" => {
                        let mut metadata = metadata.clone();
                        metadata.remove("resourceVersion");
                        canonical(&Value::Object(metadata), false, hash);
                    }
                    value => canonical(value.unwrap_or(&Value::Null), false, hash),
                }
            }
            hash.add(b"}");
        }
        Value::Array(items) => {
            hash.add(b"[");
            items.iter().for_each(|item| canonical(item, false, hash));
            hash.add(b"]");
        }
        Value::String(string) => {
            hash.add(b"\"");
            text(hash, string);
        }
        scalar => {
            hash.add(b"=");
            text(hash, &scalar.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_version_is_of_what_a_document_says_and_of_nothing_else() {
        let version =
            of_document(&json!({"kind": "Node", "metadata": {"name": "a"}, "spec": {"a": ["b", "c"]}}));
        assert!(is_of_directory(&version), "{version}");
        let read = json!({"metadata": {"resourceVersion": "7", "name": "a"}, "spec": {"a": ["b", "c"]}, "kind": "Node"});
        assert_eq!(of_document(&read), version);
        for other in [
            json!({"kind": "Node", "metadata": {"name": "a"}, "spec": {"a": ["bc"]}}),
            json!({"kind": "Node", "metadata": {"name": "a"}, "spec": {"a": ["b", "c"], "resourceVersion": "7"}}),
            json!({"kind": "Node", "metadata": {"name": "a"}, "spec": {"a": ["b", ["c"]]}}),
        ] {
            assert_ne!(of_document(&other), version, "{other}");
        }
        assert!(!is_of_directory("123456") && !is_of_directory("d12"));
    }
}
