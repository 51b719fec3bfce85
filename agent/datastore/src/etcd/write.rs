//! Writing into etcd: only over what was seen, and all that is given in one transaction, or, where that is more than one
//! holds, in as few as can be. Who writes meanwhile makes a transaction fail; then what is there is read again.

use std::{collections::BTreeMap, fs, time::SystemTime};

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp, TxnOpResponse};
use jiff::Timestamp;
use manx_resources::{
    Key, Kind, Resource, Snapshot, parse_stored, stored_key, stored_key_of, stored_prefixes_with,
    stored_value,
};
use serde_json::{Map, Value, json};

use super::{
    Etcd,
    access::said,
    listing::{is_too_large, list},
};
use crate::{
    Refused, Write, WriteError, Written,
    write::{Action, Found, check, keys, not_admitted},
};

/// Operations in a transaction, of which each may have a comparison: etcd's `--max-txn-ops`.
const MOST: usize = 128;
/// Octets in a transaction: below etcd's `--max-request-bytes`, which is 1.5 MiB.
const LARGEST: usize = 1 << 20;
/// Objects that are read at once: a message has 4 MiB, and a large object some tens of kilobytes.
const READ: usize = 64;
/// How often others may come first.
const ATTEMPTS: usize = 8;

/// What is to be done for one of the writes, once the object is as it was seen.
struct Step {
    /// Its place among the writes.
    of: usize,
    becomes: Written,
    seen: Option<Compare>,
    operation: Option<TxnOp>,
    /// Octets of key and value.
    size: usize,
}

pub(super) async fn write(
    etcd: &Etcd,
    client: &mut Client,
    writes: &[Write],
    now: SystemTime,
) -> Result<Vec<Written>, Refused> {
    keys(writes)?;
    let mut written: Vec<Option<Written>> = vec![None; writes.len()];
    let partly = |written: &[Option<Written>], mut refused: Refused| {
        let done = written.iter().flatten().count();
        if done > 0 {
            refused.insert(0, WriteError::Partly { store: etcd.to_string(), done, of: writes.len() });
        }
        refused
    };
    let failed = |why: String| vec![WriteError::Store { store: etcd.to_string(), why }];
    'again: for _ in 0..ATTEMPTS {
        let steps = match steps(etcd, client, writes, &written, now).await {
            Ok(steps) => steps,
            Err(refused) => return Err(partly(&written, refused)),
        };
        // What is more than one transaction holds is checked as a whole, and then written in parts.
        let mut steps = steps.into_iter().peekable();
        loop {
            let mut part = Vec::new();
            let mut size = 0;
            while let Some(step) =
                steps.next_if(|step| part.len() < MOST && (part.is_empty() || size + step.size <= LARGEST))
            {
                size += step.size;
                part.push(step);
            }
            if part.is_empty() {
                return Ok(written.into_iter().flatten().collect());
            }
            let done: Vec<(usize, Written)> = part.iter().map(|step| (step.of, step.becomes)).collect();
            let (seen, operations): (Vec<_>, Vec<_>) =
                part.into_iter().map(|step| (step.seen, step.operation)).unzip();
            let transaction = Txn::new()
                .when(seen.into_iter().flatten().collect::<Vec<_>>())
                .and_then(operations.into_iter().flatten().collect::<Vec<_>>());
            match client.txn(transaction).await {
                Ok(answer) if answer.succeeded() => {}
                Ok(_) => continue 'again,
                Err(error) => return Err(partly(&written, failed(said(&error)))),
            }
            for (of, becomes) in done {
                if let Some(place) = written.get_mut(of) {
                    *place = Some(becomes);
                }
            }
        }
    }
    Err(partly(&written, failed("others wrote to the same resources each time; try again".to_owned())))
}

/// What is to be done for those that are not written yet, or all that hinders it.
async fn steps(
    etcd: &Etcd,
    client: &mut Client,
    writes: &[Write],
    written: &[Option<Written>],
    now: SystemTime,
) -> Result<Vec<Step>, Refused> {
    let failed = |why: String| vec![WriteError::Store { store: etcd.to_string(), why }];
    let listing = listed(client, writes).await.map_err(failed)?;
    let pending = writes.iter().enumerate().zip(written).filter(|(_, written)| written.is_none());
    let pending: Vec<(usize, &Write, Option<String>)> =
        pending.map(|((of, write), _)| (of, write, listing.key(write))).collect();
    let keys = pending.iter().filter_map(|(_, _, key)| key.clone());
    let found = objects(client, keys.collect()).await.map_err(failed)?;
    let (mut steps, mut refused) = (Vec::new(), Vec::new());
    for (of, write, key) in pending {
        let found = key.as_ref().and_then(|key| found.get(key));
        let revision = found.map_or(0, |found| found.revision);
        let there = found.map(|found| Found { version: found.revision.to_string(), place: etcd.to_string() });
        let (action, key) = match (check(write, there, is_own, |kind| listing.names(kind)), key) {
            (Ok(action), Some(key)) => (action, key),
            (Ok(_), None) => {
                steps.push(Step { of, becomes: Written::Skipped, seen: None, operation: None, size: 0 });
                continue;
            }
            (Err(error), _) => {
                refused.push(error);
                continue;
            }
        };
        let seen = Compare::mod_revision(key.as_str(), CompareOp::Equal, revision);
        let before = found.map(|found| found.value.as_slice());
        let mut size = key.len();
        let (becomes, operation) = match (action, write.resource()) {
            (Action::Skip, _) => (Written::Skipped, None),
            (Action::Put, Some(resource)) => {
                let edited = matches!(write, Write::Edit { .. });
                let value = merged(resource, before, edited, now);
                size += value.len();
                match before {
                    Some(before) if says_the_same(&key, before, &value) => (Written::Unchanged, None),
                    Some(_) => (Written::Replaced, Some(TxnOp::put(key, value, None))),
                    None => (Written::Created, Some(TxnOp::put(key, value, None))),
                }
            }
            _ => (Written::Deleted, Some(TxnOp::delete(key, None))),
        };
        let seen = (action != Action::Skip || revision == 0).then_some(seen);
        steps.push(Step { of, becomes, seen, operation, size });
    }
    if refused.is_empty() {
        let changed = steps.iter().filter(|step| step.becomes != Written::Skipped);
        let changed: Vec<&Write> = changed.filter_map(|step| writes.get(step.of)).collect();
        let mut after = listing.snapshot.clone();
        for write in &changed {
            match write.resource() {
                Some(new) => after.insert(new.clone()),
                None => drop(after.remove(&write.key())),
            }
        }
        refused = not_admitted(&etcd.to_string(), changed, &listing.snapshot, &after);
    }
    if refused.is_empty() { Ok(steps) } else { Err(refused) }
}

/// What stands under a key.
struct Object {
    revision: i64,
    value: Vec<u8>,
}

/// What stands under these keys, by key.
async fn objects(client: &mut Client, keys: Vec<String>) -> Result<BTreeMap<String, Object>, String> {
    let mut found = BTreeMap::new();
    let mut parts: Vec<&[String]> = keys.chunks(READ).collect();
    while let Some(part) = parts.pop() {
        let gets: Vec<TxnOp> = part.iter().map(|key| TxnOp::get(key.as_str(), None)).collect();
        let answer = match client.txn(Txn::new().and_then(gets)).await {
            Ok(answer) => answer,
            Err(error) if is_too_large(&error) && part.len() > 1 => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([first, second]);
                continue;
            }
            Err(error) => return Err(said(&error)),
        };
        for answer in answer.op_responses() {
            let TxnOpResponse::Get(mut got) = answer else { continue };
            for object in got.take_kvs() {
                let revision = object.mod_revision();
                let (key, value) = object.into_key_value();
                if let Ok(key) = String::from_utf8(key) {
                    found.insert(key, Object { revision, value });
                }
            }
        }
    }
    Ok(found)
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

/// Other tools sort keys and write numbers (`0.10`) in other ways; that is no difference.
fn says_the_same(key: &str, before: &[u8], value: &str) -> bool {
    let document = |value: &[u8]| {
        let parsed = parse_stored(key, value)?;
        let [document] = parsed.documents.as_slice() else { return None };
        Some(document.resource.document().clone())
    };
    before == value.as_bytes()
        || document(before).is_some_and(|there| document(value.as_bytes()) == Some(there))
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
    fn what_another_tool_wrote_in_its_own_order_is_not_written_again() {
        let stored = r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"pods","uid":"7","creationTimestamp":"2026-11-18T11:06:40Z"},"spec":{"cidr":"172.16.0.0/16","later":0.10}}"#;
        let printed = merged(&resource(KEY, stored), Some(stored.as_bytes()), false, at(0));
        assert!(says_the_same(KEY, stored.as_bytes(), &printed), "{printed}");
        assert!(!says_the_same(KEY, stored.as_bytes(), &printed.replace("172.16", "172.17")));
        assert!(!says_the_same(KEY, b"no JSON", &printed));
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
