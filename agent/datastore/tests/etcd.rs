//! Debian's etcd in a namespace of its own: what stands there, what changes, and what is left of it while it is away.

use std::time::Duration;

use etcd_client::{Client, CompactionOptions};
use manx_datastore::{Datastore, Manifest, Update, Write, WriteError, Written};
use manx_resources::{Key, Kind, parse};
use manx_tests::{
    etcd::{self, Etcd},
    netns::Netns,
};
use tempfile::TempDir;
use tokio::{sync::watch::Receiver, time::timeout};

const URL: &str = "etcd://127.0.0.1:2379";
const ROOT: &str = "/calico/resources/v3/projectcalico.org";

struct Lab {
    ns: Netns,
    etcd: Etcd,
    _directory: TempDir,
}

impl Lab {
    fn new() -> Lab {
        let directory = etcd::directory().unwrap();
        let ns = Netns::new("etcd").unwrap();
        ns.sh("ip link set lo up").unwrap();
        let etcd = Etcd::start(&ns, "127.0.0.1", directory.path()).unwrap();
        Lab { ns, etcd, _directory: directory }
    }

    /// Runs in the namespace, with a runtime.
    fn run<T: Send + 'static, F: Future<Output = T>>(&self, job: impl FnOnce() -> F + Send + 'static) -> T {
        self.ns.run(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(job())
        })
    }
}

fn datastore() -> Datastore {
    Datastore::open(URL).unwrap()
}

async fn client() -> Client {
    Client::connect(["127.0.0.1:2379"], None).await.unwrap()
}

fn node(name: &str, address: &str) -> String {
    format!(
        r#"{{"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{{"name":"{name}"}},"spec":{{"bgp":{{"ipv4Address":"{address}/24"}}}}}}"#
    )
}

fn node_key(name: &str) -> String {
    format!("{ROOT}/nodes/{name}")
}

fn address(update: &Update, name: &str) -> Option<String> {
    Some(update.snapshot.node(name)?.spec.bgp.as_ref()?.ipv4?.addr.to_string())
}

fn has(update: &Update, name: &str, wanted: &str) -> bool {
    address(update, name).as_deref() == Some(wanted)
}

/// Waits until the datastore says what it should; it has so many seconds.
async fn within(seconds: u64, updates: &mut Receiver<Update>, wanted: impl FnMut(&Update) -> bool) -> Update {
    if let Ok(update) = timeout(Duration::from_secs(seconds), updates.wait_for(wanted)).await {
        return update.unwrap().clone();
    }
    panic!("not within {seconds} s: {:?}", updates.borrow())
}

fn manifests(text: &str) -> Vec<Manifest> {
    let parsed = parse("given", text);
    assert_eq!(parsed.problems, []);
    Manifest::of(text, &parsed)
}

#[test]
fn what_stands_there_is_read_and_each_change_is_told() {
    Lab::new().run(|| async {
        let mut client = client().await;
        client.put(node_key("kw01"), node("kw01", "10.0.0.1"), None).await.unwrap();
        let mut updates = datastore().watch().await.unwrap();
        assert!(has(&updates.borrow_and_update(), "kw01", "10.0.0.1"), "{:?}", updates.borrow());
        client.put(node_key("kw02"), node("kw02", "10.0.0.2"), None).await.unwrap();
        let affinity = "/calico/ipam/v2/host/kw01/ipv4/block/172.16.36.192-26";
        client.put(affinity, r#"{"state":"confirmed"}"#, None).await.unwrap();
        let update = within(1, &mut updates, |update| update.snapshot.len() == 3).await;
        assert!(has(&update, "kw02", "10.0.0.2") && !update.has_errors());
        client.delete(node_key("kw01"), None).await.unwrap();
        let update = within(1, &mut updates, |update| update.snapshot.node("kw01").is_none()).await;
        assert_eq!(update.snapshot.len(), 2);
    });
}

#[test]
fn one_object_with_an_error_stays_as_it_was_and_the_others_go_on() {
    Lab::new().run(|| async {
        let mut client = client().await;
        client.put(node_key("kw01"), node("kw01", "10.0.0.1"), None).await.unwrap();
        let mut updates = datastore().watch().await.unwrap();
        client.put(node_key("kw01"), node("kw01", "nowhere"), None).await.unwrap();
        client.put(node_key("kw02"), node("kw02", "10.0.0.2"), None).await.unwrap();
        let update = within(1, &mut updates, |update| has(update, "kw02", "10.0.0.2")).await;
        assert!(has(&update, "kw01", "10.0.0.1"));
        let [problem] = &*update.problems else { panic!("{update:?}") };
        assert!(problem.is_error() && problem.to_string().starts_with(&node_key("kw01")), "{problem}");
        client.put(node_key("kw01"), node("kw01", "10.0.0.3"), None).await.unwrap();
        let update = within(1, &mut updates, |update| has(update, "kw01", "10.0.0.3")).await;
        assert!(update.problems.is_empty());
    });
}

#[test]
fn an_etcd_that_dies_and_comes_back_costs_nothing_but_time() {
    let Lab { ns, mut etcd, _directory } = Lab::new();
    let run = |job: fn() -> _| {
        ns.run(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().map(|r| (r.block_on(job()), r))
        })
        .unwrap()
    };
    let (updates, runtime) = run(|| {
        Box::pin(async {
            let mut client = client().await;
            client.put(node_key("kw01"), node("kw01", "10.0.0.1"), None).await.unwrap();
            datastore().watch().await.unwrap()
        })
    });
    etcd.kill().unwrap();
    let (mut updates, runtime) = ns.run(move || {
        let mut updates: Receiver<Update> = updates;
        let update = runtime.block_on(within(5, &mut updates, Update::has_errors));
        assert!(has(&update, "kw01", "10.0.0.1"), "what it said stays");
        let said = update.problems[0].to_string();
        assert!(said.starts_with("etcd://127.0.0.1:2379: "), "{said}");
        (updates, runtime)
    });
    etcd.start_again(&ns).unwrap();
    ns.run(move || {
        runtime.block_on(async {
            let mut client = client().await;
            // So that what was seen last is not there any more.
            for turn in 0..5 {
                client.put(node_key("kw02"), node("kw02", &format!("10.0.1.{turn}")), None).await.unwrap();
            }
            let removed = client.delete(node_key("kw01"), None).await.unwrap();
            let revision = removed.header().unwrap().revision();
            client.compact(revision, Some(CompactionOptions::new().with_physical())).await.unwrap();
            let update = within(8, &mut updates, |update| {
                has(update, "kw02", "10.0.1.4") && update.snapshot.node("kw01").is_none()
            })
            .await;
            let good = |update: &Update| !update.has_errors();
            assert!(good(&update) || good(&within(8, &mut updates, good).await));
        });
    });
}

#[test]
fn what_is_applied_is_there_for_all_and_keeps_when_it_was_made() {
    Lab::new().run(|| async {
        let store = datastore();
        let text = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: pods\nspec:\n  cidr: 172.16.0.0/16\n---\n\
                    apiVersion: projectcalico.org/v3\nkind: BlockAffinity\nmetadata:\n  name: any\nspec:\n  node: kw01\n  \
                    cidr: 172.16.36.192/26\n  state: confirmed\n";
        store.apply(&manifests(text)).unwrap();
        let mut client = client().await;
        let stored = async |client: &mut Client| -> serde_json::Value {
            let found = client.get(format!("{ROOT}/ippools/pods"), None).await.unwrap();
            serde_json::from_slice(found.kvs()[0].value()).unwrap()
        };
        let first = stored(&mut client).await;
        assert!(first["metadata"]["uid"].is_string() && first["metadata"]["creationTimestamp"].is_string());
        let key = "/calico/ipam/v2/host/kw01/ipv4/block/172.16.36.192-26";
        assert_eq!(client.get(key, None).await.unwrap().kvs().len(), 1);
        store.apply(&manifests(&text.replace("cidr: 172.16.0.0/16", "cidr: 172.16.0.0/16\n  disabled: true"))).unwrap();
        let second = stored(&mut client).await;
        assert_eq!(second["metadata"], first["metadata"]);
        assert_eq!(second["spec"]["disabled"], true);
        let read = store.read();
        assert_eq!((read.snapshot.len(), read.has_errors()), (2, false), "{read:?}");
        assert_eq!(read.snapshot.of_kind(Kind::BlockAffinity).len(), 1);
        let twice = [manifests(text), manifests(text)].concat();
        assert!(matches!(store.apply(&twice), Err(WriteError::GivenTwice(_))));
    });
}

#[test]
fn each_verb_asks_of_the_object_that_is_there() {
    Lab::new().run(|| async {
        let store = datastore();
        let one = |write: Write| store.write(&[write]).map(|written| written[0]).map_err(|refused| refused[0].to_string());
        let manifest = |text: &str| manifests(text).remove(0);
        let create = |text: &str| Write::Create { manifest: manifest(text), skip_existing: false };
        let (a, b) = (node("kw01", "10.0.0.1"), node("kw01", "10.0.0.2"));
        assert_eq!(one(Write::Replace(manifest(&a))).unwrap_err(), "resource does not exist: Node(kw01)");
        assert_eq!(one(create(&a)), Ok(Written::Created));
        assert_eq!(
            one(create(&a)).unwrap_err(),
            "resource already exists: Node(kw01); it stands in etcd://127.0.0.1:2379; apply or replace changes it"
        );
        let key = Key::new(Kind::Node, "kw01");
        let seen = store.read_versions(&Kind::ALL).versions[&key].clone();
        let versioned = |text: &str| text.replace("\"metadata\":{", &format!("\"metadata\":{{\"resourceVersion\":\"{seen}\","));
        assert_eq!(one(Write::Replace(manifest(&versioned(&b)))), Ok(Written::Replaced));
        let found = store.read_versions(&Kind::ALL).versions[&key].clone();
        for write in [
            Write::Replace(manifest(&versioned(&a))),
            Write::Apply(manifest(&versioned(&a))),
            Write::Delete { key: key.clone(), version: Some(seen.clone()), skip_absent: false },
        ] {
            let said = one(write).unwrap_err();
            assert!(said.starts_with(&format!("update conflict: Node(kw01); version {seen} was changed, and {found} is")), "{said}");
        }
        let mut document = store.read().snapshot.get(&key).unwrap().document().clone();
        document["metadata"]["labels"] = serde_json::json!({ "rack": "7" });
        let resource = parse("edited", &document.to_string()).documents.remove(0).resource;
        assert_eq!(one(Write::Edit { resource: resource.clone(), version: found.clone() }), Ok(Written::Replaced));
        assert!(one(Write::Edit { resource, version: found }).is_err());
        assert_eq!(store.read().snapshot.node("kw01").unwrap().metadata.labels["rack"], "7");
        let pool = |name: &str, cidr: &str| {
            let text = format!("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}}}\n");
            Write::Apply(manifest(&text))
        };
        assert_eq!(one(pool("a", "10.0.0.0/16")), Ok(Written::Created));
        assert!(one(pool("a", "10.1.0.0/16")).unwrap_err().contains("IPPool CIDR cannot be modified"));
        assert!(one(pool("b", "10.0.7.0/24")).unwrap_err().contains("IPPool(b) CIDR overlaps with IPPool(a)"));
        let gone = Write::Delete { key: Key::new(Kind::IpPool, "a"), version: None, skip_absent: false };
        assert_eq!(one(gone), Ok(Written::Deleted));
        // One that cannot be read can be deleted; and one whose name is not in its key.
        let mut client = client().await;
        client.put(node_key("broken"), "{", None).await.unwrap();
        client.put("/calico/ipam/v2/host/kw01/ipv4/block/172.16.36.192-26", "", None).await.unwrap();
        let deletes = ["broken", "kw01"].map(|name| Write::Delete { key: Key::new(Kind::Node, name), version: None, skip_absent: false });
        let affinity = Key::new(Kind::BlockAffinity, "kw01-172-16-36-192-26");
        let affinity = Write::Delete { key: affinity, version: None, skip_absent: false };
        let absent = Write::Delete { key: Key::new(Kind::IpPool, "x"), version: None, skip_absent: true };
        let written = store.write(&[deletes.to_vec(), vec![affinity, absent]].concat()).unwrap();
        assert_eq!(written, [Written::Deleted, Written::Deleted, Written::Deleted, Written::Skipped]);
        let read = store.read();
        assert!(read.snapshot.is_empty() && !read.has_errors(), "{read:?}");
    });
}

#[test]
fn an_etcd_that_is_not_there_is_an_answer_and_no_wait_without_end() {
    let ns = Netns::new("nothing").unwrap();
    ns.sh("ip link set lo up").unwrap();
    ns.run(|| {
        let read = datastore().read();
        let [problem] = &*read.problems else { panic!("{read:?}") };
        let said = problem.to_string();
        assert!(said.starts_with("etcd://127.0.0.1:2379: ") && said.contains("onnection refused"), "{said}");
        let text = node("kw01", "10.0.0.1");
        let error = datastore().apply(&manifests(&text)).unwrap_err().to_string();
        assert!(error.contains("onnection refused"), "{error}");
    });
}

/// More than a transaction may hold, in number and in octets.
#[test]
fn any_number_is_written_at_once_or_nothing_where_something_hinders_it() {
    Lab::new().run(|| async {
        let store = datastore();
        let padding = "x".repeat(20_000);
        let all = |count: usize| {
            let name = |number: usize| format!("node-{number:04}");
            let text: Vec<String> = (0..count)
                .map(|number| {
                    node(&name(number), &format!("10.0.{}.{}", number >> 8, number & 255)).replace(
                        "\"metadata\":{",
                        &format!("\"metadata\":{{\"annotations\":{{\"example.com/note\":\"{padding}\"}},"),
                    )
                })
                .collect();
            manifests(&text.join("\n---\n"))
        };
        let create = |manifest: Manifest| Write::Create { manifest, skip_existing: false };
        let written = store.write(&all(300).into_iter().map(create).collect::<Vec<_>>()).unwrap();
        assert_eq!(written, [Written::Created; 300]);
        assert_eq!(store.read().snapshot.len(), 300);
        // All that are there hinder it, and those that are not do not come.
        let refused = store.write(&all(400).into_iter().map(create).collect::<Vec<_>>()).unwrap_err();
        assert_eq!(refused.len(), 300);
        assert_eq!(store.read().snapshot.len(), 300);
        let applied = store.write(&all(400).into_iter().map(Write::Apply).collect::<Vec<_>>()).unwrap();
        let count = |what: Written| applied.iter().filter(|written| **written == what).count();
        assert_eq!((count(Written::Unchanged), count(Written::Created)), (300, 100));
    });
}

/// More than a message may hold.
#[test]
fn ten_thousand_objects_come_in_pages() {
    Lab::new().run(|| async {
        let mut client = client().await;
        let padding = "x".repeat(600);
        for number in 0..10_000 {
            let name = format!("node-{number}");
            let text = node(&name, &format!("10.{}.{}.7", number >> 8, number & 255)).replace(
                "\"metadata\":{",
                &format!("\"metadata\":{{\"annotations\":{{\"example.com/note\":\"{padding}\"}},"),
            );
            client.put(node_key(&name), text, None).await.unwrap();
        }
        // Each larger than all others: a message holds five of them.
        let attributes = format!(r#"{{"handle_id":"{}"}}"#, "x".repeat(700_000));
        for number in 0..12 {
            let block = format!("10.9.{number}.0");
            let key = format!("/calico/ipam/v2/assignment/ipv4/block/{block}-24");
            let value = format!(r#"{{"cidr":"{block}/24","allocations":[0],"attributes":[{attributes}]}}"#);
            client.put(key, value, None).await.unwrap();
        }
        let reading = datastore().read_versions(&[Kind::IpamBlock]);
        assert_eq!((reading.update.snapshot.len(), reading.update.has_errors()), (10_012, false));
        let started = std::time::Instant::now();
        let updates = datastore().watch().await.unwrap();
        let update = updates.borrow();
        assert_eq!((update.snapshot.len(), update.has_errors()), (10_000, false));
        println!("10,000 objects were there after {:?}", started.elapsed());
    });
}
