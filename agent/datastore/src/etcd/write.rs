//! Writing into etcd: all that is given in one transaction, and only over what was seen. Who writes meanwhile makes the
//! transaction fail; then what is there is read again.

use std::{collections::BTreeMap, fs, time::SystemTime};

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use jiff::Timestamp;
use manx_resources::{
    Key, Kind, Resource, Snapshot, parse_stored, stored_key, stored_key_of, stored_prefixes_with,
    stored_value,
};
use serde_json::{Map, Value, json};

use super::{Etcd, access::said, listing::list};
use crate::{
    Refused, Write, WriteError, Written,
    write::{Action, Found, check, keys, not_admitted},
};

/// Operations in a transaction, of which each may have a comparison: etcd's `--max-txn-ops`.
const MOST: usize = 128;
/// How often others may come first.
const ATTEMPTS: usize = 8;

pub(super) async fn write(
    etcd: &Etcd,
    client: &mut Client,
    writes: &[Write],
    now: SystemTime,
) -> Result<Vec<Written>, Refused> {
    keys(writes)?;
    if writes.len() > MOST {
        return Err(vec![WriteError::TooMany { given: writes.len(), most: MOST }]);
    }
    let failed = |why: String| vec![WriteError::Store { store: etcd.to_string(), why }];
    for _ in 0..ATTEMPTS {
        let listing = listed(client, writes).await.map_err(failed)?;
        let (mut compares, mut operations) = (Vec::new(), Vec::new());
        let (mut written, mut refused) = (Vec::new(), Vec::new());
        for write in writes {
            let key = listing.key(write);
            let found = match &key {
                Some(key) => {
                    let mut found = client.get(key.as_str(), None).await.map_err(|e| failed(said(&e)))?;
                    found.take_kvs().pop()
                }
                None => None,
            };
            let seen = found.as_ref().map_or(0, |found| found.mod_revision());
            let there = found
                .as_ref()
                .map(|found| Found { version: found.mod_revision().to_string(), place: etcd.to_string() });
            let action = check(write, there, is_own, |kind| listing.names(kind));
            let (action, key) = match (action, key) {
                (Ok(action), Some(key)) => (action, key),
                (Ok(_), None) => {
                    written.push(Written::Skipped);
                    continue;
                }
                (Err(error), _) => {
                    refused.push(error);
                    continue;
                }
            };
            if action != Action::Skip || seen == 0 {
                compares.push(Compare::mod_revision(key.as_str(), CompareOp::Equal, seen));
            }
            let before = found.as_ref().map(|found| found.value());
            written.push(match (action, write.resource()) {
                (Action::Skip, _) => Written::Skipped,
                (Action::Put, Some(resource)) => {
                    let edited = matches!(write, Write::Edit { .. });
                    let value = merged(resource, before, edited, now);
                    if before == Some(value.as_bytes()) {
                        Written::Unchanged
                    } else {
                        operations.push(TxnOp::put(key, value, None));
                        if seen == 0 { Written::Created } else { Written::Replaced }
                    }
                }
                _ => {
                    operations.push(TxnOp::delete(key, None));
                    Written::Deleted
                }
            });
        }
        if refused.is_empty() {
            let changed = writes.iter().zip(&written).filter(|(_, written)| **written != Written::Skipped);
            let changed: Vec<&Write> = changed.map(|(write, _)| write).collect();
            let mut after = listing.snapshot.clone();
            for write in &changed {
                match write.resource() {
                    Some(new) => after.insert(new.clone()),
                    None => drop(after.remove(&write.key())),
                }
            }
            refused = not_admitted(&etcd.to_string(), changed, &listing.snapshot, &after);
        }
        if !refused.is_empty() {
            return Err(refused);
        }
        let answer = client.txn(Txn::new().when(compares).and_then(operations)).await;
        if answer.map_err(|error| failed(said(&error)))?.succeeded() {
            return Ok(written);
        }
    }
    Err(failed("others wrote to the same resources each time; try again".to_owned()))
}

/// Versions are revisions here.
fn is_own(version: &str) -> bool {
    version.parse::<i64>().is_ok()
}

/// What has to be known of all objects before one is written: under which key an affinity stands, whose name is not in
/// it, which names there are, where one is not found, and beside what a pool would lie.
#[derive(Default)]
struct Listed {
    keys: BTreeMap<Key, String>,
    snapshot: Snapshot,
}

impl Listed {
    fn key(&self, write: &Write) -> Option<String> {
        match write {
            Write::Apply(manifest) | Write::Create { manifest, .. } | Write::Replace(manifest) => {
                Some(stored_key(&manifest.resource))
            }
            Write::Edit { resource, .. } => Some(stored_key(resource)),
            Write::Delete { key, .. } => stored_key_of(key).or_else(|| self.keys.get(key).cloned()),
        }
    }

    fn names(&self, kind: Kind) -> Vec<String> {
        self.keys.keys().filter(|key| key.kind == kind).map(|key| key.name.clone()).collect()
    }
}

async fn listed(client: &mut Client, writes: &[Write]) -> Result<Listed, String> {
    let alone = |write: &Write| {
        matches!(write, Write::Apply(_) | Write::Create { .. }) && write.key().kind != Kind::IpPool
    };
    if writes.iter().all(alone) {
        return Ok(Listed::default());
    }
    let mut listed = Listed::default();
    let kinds: Vec<Kind> = writes.iter().map(|write| write.key().kind).collect();
    for object in list(client, stored_prefixes_with(&kinds)).await?.objects {
        let resources =
            parse_stored(&object.key, &object.value).into_iter().flat_map(|parsed| parsed.documents);
        for document in resources {
            listed.keys.insert(document.resource.key(), object.key.clone());
            listed.snapshot.insert(document.resource);
        }
    }
    Ok(listed)
}

/// The new value, with what belongs to the object and not to whoever wrote its document: all metadata but labels and
/// annotations, and above all when it was made, and as which. What is edited was read from the store and has it already.
fn merged(resource: &Resource, before: Option<&[u8]>, edited: bool, now: SystemTime) -> String {
    let new = stored_value(resource);
    if matches!(resource.kind(), Kind::BlockAffinity | Kind::IpamBlock | Kind::IpamConfiguration) {
        return over(&new, before);
    }
    let Ok(mut document) = serde_json::from_str::<Value>(&new) else { return new };
    let before = before.and_then(|value| serde_json::from_slice::<Value>(value).ok());
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        let kept = before.as_ref().and_then(|before| before.get("metadata")).and_then(Value::as_object);
        for (name, value) in kept.into_iter().flatten() {
            if !edited && !["labels", "annotations"].contains(&name.as_str()) && !value.is_null() {
                metadata.insert(name.clone(), value.clone());
            }
        }
        for (name, own) in [("uid", uid()), ("creationTimestamp", stamp(now))] {
            let value = kept.and_then(|kept| kept.get(name)).filter(|value| !value.is_null());
            metadata.insert(name.to_owned(), value.cloned().unwrap_or(own));
        }
        metadata.remove("resourceVersion");
    }
    document.to_string()
}

/// Fields that only the stored value has stay.
fn over(new: &str, before: Option<&[u8]>) -> String {
    let before = before.and_then(|value| serde_json::from_slice::<Map<String, Value>>(value).ok());
    let (Some(mut before), Ok(new)) = (before, serde_json::from_str::<Map<String, Value>>(new)) else {
        return new.to_owned();
    };
    before.extend(new);
    Value::Object(before).to_string()
}

/// As Kubernetes writes it: whole seconds.
fn stamp(now: SystemTime) -> Value {
    let seconds = Timestamp::try_from(now).ok().and_then(|now| Timestamp::from_second(now.as_second()).ok());
    seconds.map_or(Value::Null, |now| json!(now.to_string()))
}

/// One that nobody has had, from the kernel.
fn uid() -> Value {
    let read = fs::read_to_string("/proc/sys/kernel/random/uuid");
    read.map_or(Value::Null, |uuid| json!(uuid.trim_end()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use manx_resources::parse_stored;

    use super::*;

    const KEY: &str = "/calico/resources/v3/projectcalico.org/ippools/pods";
    const POOL: &str = r#"{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"pods","creationTimestamp":null,"resourceVersion":"9"},"spec":{"cidr":"172.16.0.0/16"}}"#;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 700)
    }

    fn resource(key: &str, value: &str) -> Resource {
        parse_stored(key, value.as_bytes()).unwrap().documents.remove(0).resource
    }

    fn value(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn when_an_object_was_made_and_as_which_stays_with_it() {
        let pool = resource(KEY, POOL);
        let first = merged(&pool, None, false, at(1_795_000_000));
        let metadata = value(&first)["metadata"].clone();
        assert_eq!(metadata["creationTimestamp"], "2026-11-18T11:06:40Z");
        assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
        assert_eq!(metadata.get("resourceVersion"), None, "it is the store's");
        assert_eq!(merged(&pool, Some(first.as_bytes()), false, at(1_795_000_999)), first);
        assert_eq!(value(&merged(&pool, Some(b"no JSON"), false, at(0)))["spec"], value(POOL)["spec"]);
    }

    #[test]
    fn of_an_affinity_what_manx_does_not_know_stays() {
        let key = "/calico/ipam/v2/host/kw01/ipv4/block/172.16.36.192-26";
        let affinity = resource(key, r#"{"state":"confirmed"}"#);
        let before = br#"{"state":"pending","deleted":true,"claimedBy":"x"}"#;
        let expected = json!({ "state": "confirmed", "deleted": false, "claimedBy": "x" });
        assert_eq!(value(&merged(&affinity, Some(before), false, at(0))), expected);
        assert_eq!(value(&merged(&affinity, Some(b""), false, at(0)))["state"], "confirmed");
    }
}
