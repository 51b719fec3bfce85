//! The objects of an etcd, each as it was when it was last good.

use std::{collections::BTreeMap, sync::Arc};

use manx_resources::{Key, Kind, Problem, Resource, Snapshot, parse_stored, stored_key};

use super::listing::{Listing, Object};
use crate::{Holds, Update};

#[derive(Debug, Default)]
pub(super) struct Store {
    /// By their keys in etcd.
    objects: BTreeMap<String, Stored>,
    snapshot: Snapshot,
}

#[derive(Debug, Default, PartialEq)]
struct Stored {
    /// Under which the snapshot has it.
    good: Option<Key>,
    problems: Vec<Problem>,
}

impl Store {
    pub fn new(listing: Listing) -> Store {
        let mut store = Store::default();
        store.take(listing);
        store
    }

    /// As an earlier run knew them. Until all is read they are what there is.
    pub fn of_snapshot(snapshot: Snapshot) -> Store {
        let resources = Kind::ALL.into_iter().flat_map(|kind| snapshot.of_kind(kind));
        let known = |resource: Resource| {
            (stored_key(&resource), Stored { good: Some(resource.key()), problems: Vec::new() })
        };
        let objects = resources.map(known).collect();
        Store { objects, snapshot }
    }

    /// Everything anew. What has an error now stays as it was.
    pub fn take(&mut self, listing: Listing) {
        let mut gone = std::mem::take(&mut self.objects);
        for Object { key, value, .. } in listing.objects {
            if let Some(before) = gone.remove(&key) {
                self.objects.insert(key.clone(), before);
            }
            self.put(&key, &value);
        }
        for good in gone.into_values().filter_map(|stored| stored.good) {
            self.snapshot.remove(&good);
        }
    }

    pub fn put(&mut self, key: &str, value: &[u8]) {
        let Some(mut parsed) = parse_stored(key, value) else { return };
        let stored = self.objects.entry(key.to_owned()).or_default();
        if let Some(document) = parsed.documents.pop().filter(|_| !parsed.has_errors()) {
            stored.good = Some(document.resource.key());
            self.snapshot.insert(document.resource);
        }
        stored.problems = parsed.problems;
        stored.problems.append(&mut parsed.skipped);
    }

    pub fn remove(&mut self, key: &str) {
        if let Some(good) = self.objects.remove(key).and_then(|stored| stored.good) {
            self.snapshot.remove(&good);
        }
    }

    /// Under which the snapshot has what stands there.
    pub fn key_of(&self, key: &str) -> Option<&Key> {
        self.objects.get(key)?.good.as_ref()
    }

    pub fn update(&self) -> Update {
        Update {
            snapshot: Arc::new(self.snapshot.clone()),
            problems: self.objects.values().flat_map(|stored| &stored.problems).cloned().collect(),
            holds: Holds::Objects,
            ..Update::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "/calico/resources/v3/projectcalico.org/nodes/kw01";

    fn node(text: &str) -> Vec<u8> {
        format!(
            r#"{{"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{{"name":"kw01"}},"spec":{{"bgp":{{"ipv4Address":"{text}"}}}}}}"#
        )
        .into_bytes()
    }

    fn address(store: &Store) -> Option<String> {
        let update = store.update();
        let node = update.snapshot.node("kw01")?;
        node.document.pointer("/spec/bgp/ipv4Address")?.as_str().map(str::to_owned)
    }

    fn listing(objects: &[(&str, Vec<u8>)]) -> Listing {
        let objects = objects
            .iter()
            .map(|(key, value)| Object { key: (*key).to_owned(), value: value.clone(), changed: 7 })
            .collect();
        Listing { objects, revision: 7 }
    }

    #[test]
    fn an_object_with_an_error_stays_as_it_was_and_others_go_on() {
        let other = "/calico/ipam/v2/host/kw01/ipv4/block/172.16.36.192-26";
        let mut store = Store::new(listing(&[(KEY, node("10.0.0.1/24"))]));
        store.put(KEY, &node("nowhere"));
        store.put(other, b"");
        assert_eq!(address(&store).unwrap(), "10.0.0.1/24");
        let update = store.update();
        assert_eq!((update.snapshot.len(), update.problems.len()), (2, 1), "{update:?}");
        assert!(update.problems[0].to_string().starts_with(KEY));
        // So too where all is read anew.
        store.take(listing(&[(KEY, node("still nowhere")), (other, Vec::new())]));
        assert_eq!((address(&store).unwrap().as_str(), store.update().problems.len()), ("10.0.0.1/24", 1));
        store.put(KEY, &node("10.0.0.2/24"));
        assert_eq!((address(&store).unwrap().as_str(), store.update().problems.len()), ("10.0.0.2/24", 0));
    }

    #[test]
    fn what_an_earlier_run_knew_stays_where_it_has_an_error_now_and_goes_where_it_is_gone() {
        let other = KEY.replace("kw01", "kw02");
        let earlier = Store::new(listing(&[
            (KEY, node("10.0.0.1/24")),
            (&other, String::from_utf8(node("10.0.0.2/24")).unwrap().replace("kw01", "kw02").into_bytes()),
        ]));
        let mut store = Store::of_snapshot(earlier.snapshot);
        assert_eq!(store.update().snapshot.len(), 2);
        store.take(listing(&[(KEY, node("nowhere"))]));
        assert_eq!((address(&store).unwrap().as_str(), store.update().snapshot.len()), ("10.0.0.1/24", 1));
        assert_eq!(store.update().problems.len(), 1);
    }

    #[test]
    fn what_is_not_there_any_more_goes() {
        let mut store = Store::new(listing(&[(KEY, node("10.0.0.1/24"))]));
        store.take(listing(&[]));
        assert!(store.update().snapshot.is_empty());
        store.put(KEY, &node("10.0.0.1/24"));
        store.remove(KEY);
        store.remove(KEY);
        assert!(store.update().snapshot.is_empty());
    }
}
