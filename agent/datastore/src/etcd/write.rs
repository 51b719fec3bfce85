//! Writing into etcd: all that is given in one transaction, and only over what was seen. Who writes meanwhile makes the
//! transaction fail; then what is there is read again.

use std::{collections::BTreeSet, fs, time::SystemTime};

use etcd_client::{Client, Compare, CompareOp, Error, Txn, TxnOp};
use jiff::Timestamp;
use manx_resources::{Kind, Resource, stored_key, stored_value};
use serde_json::{Map, Value, json};

use super::{Etcd, access::said};
use crate::{Manifest, WriteError};

/// Operations in a transaction, of which each may have a comparison: etcd's `--max-txn-ops`.
const MOST: usize = 128;
/// How often others may come first.
const ATTEMPTS: usize = 8;

pub(super) async fn apply(
    etcd: &Etcd,
    client: &mut Client,
    manifests: &[Manifest],
    now: SystemTime,
) -> Result<(), WriteError> {
    let mut given = BTreeSet::new();
    for manifest in manifests {
        let key = manifest.resource.key();
        if !given.insert(key.clone()) {
            return Err(WriteError::GivenTwice(key));
        }
    }
    if manifests.len() > MOST {
        return Err(WriteError::TooMany { given: manifests.len(), most: MOST });
    }
    let failed = |error: Error| WriteError::Store { store: etcd.to_string(), why: said(&error) };
    for _ in 0..ATTEMPTS {
        let (mut compares, mut puts) = (Vec::new(), Vec::new());
        for manifest in manifests {
            let key = stored_key(&manifest.resource);
            let found = client.get(key.as_str(), None).await.map_err(failed)?;
            let before = found.kvs().first();
            let seen = before.map_or(0, |found| found.mod_revision());
            compares.push(Compare::mod_revision(key.as_str(), CompareOp::Equal, seen));
            let value = merged(&manifest.resource, before.map(|found| found.value()), now);
            puts.push(TxnOp::put(key, value, None));
        }
        let answer = client.txn(Txn::new().when(compares).and_then(puts)).await.map_err(failed)?;
        if answer.succeeded() {
            return Ok(());
        }
    }
    Err(WriteError::Store {
        store: etcd.to_string(),
        why: "others wrote to the same resources each time; try again".to_owned(),
    })
}

/// The new value, with what belongs to the object and not to whoever wrote its document: when it was made, and as which.
fn merged(resource: &Resource, before: Option<&[u8]>, now: SystemTime) -> String {
    let new = stored_value(resource);
    if resource.kind() == Kind::BlockAffinity {
        return over(&new, before);
    }
    let Ok(mut document) = serde_json::from_str::<Value>(&new) else { return new };
    let before = before.and_then(|value| serde_json::from_slice::<Value>(value).ok());
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        let kept = before.as_ref().and_then(|before| before.get("metadata")).and_then(Value::as_object);
        for (name, own) in [("uid", uid()), ("creationTimestamp", stamp(now))] {
            let value = kept.and_then(|kept| kept.get(name)).filter(|value| !value.is_null());
            metadata.insert(name.to_owned(), value.cloned().unwrap_or(own));
        }
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
        let first = merged(&pool, None, at(1_795_000_000));
        let metadata = value(&first)["metadata"].clone();
        assert_eq!(metadata["creationTimestamp"], "2026-11-18T11:06:40Z");
        assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
        assert_eq!(metadata.get("resourceVersion"), None, "it is the store's");
        assert_eq!(merged(&pool, Some(first.as_bytes()), at(1_795_000_999)), first);
        assert_eq!(value(&merged(&pool, Some(b"no JSON"), at(0)))["spec"], value(POOL)["spec"]);
    }

    #[test]
    fn of_an_affinity_what_manx_does_not_know_stays() {
        let key = "/calico/ipam/v2/host/kw01/ipv4/block/172.16.36.192-26";
        let affinity = resource(key, r#"{"state":"confirmed"}"#);
        let before = br#"{"state":"pending","deleted":true,"claimedBy":"x"}"#;
        let expected = json!({ "state": "confirmed", "deleted": false, "claimedBy": "x" });
        assert_eq!(value(&merged(&affinity, Some(before), at(0))), expected);
        assert_eq!(value(&merged(&affinity, Some(b""), at(0)))["state"], "confirmed");
    }
}
