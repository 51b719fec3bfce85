//! How long it takes until a datastore has said everything for the first time.

use std::{fs, path::Path, time::Instant};

use anyhow::{Result, ensure};
use manx_datastore::{Datastore, Manifest};
use manx_resources::parse;
use manx_tests::{
    etcd::{self, Etcd},
    netns::Netns,
};

use super::{Times, clusters::Cluster};

#[derive(Debug)]
pub struct First {
    pub what: String,
    pub objects: usize,
    pub times: Times,
}

/// Etcd takes 128 operations in one transaction.
const AT_ONCE: usize = 100;

pub fn measure(cluster: &Cluster, nodes: usize, rounds: usize) -> Result<Vec<First>> {
    let text = cluster.documents(nodes);
    let one = tempfile::tempdir()?;
    fs::write(one.path().join("cluster.yaml"), &text)?;
    let many = tempfile::tempdir()?;
    for (number, document) in text.split("---\n").filter(|document| !document.is_empty()).enumerate() {
        fs::write(many.path().join(format!("{number:06}.yaml")), document)?;
    }
    let of = |directory: &Path| Datastore::open(&format!("dir:{}", directory.display()));
    Ok(vec![
        read("a directory, one file", &of(one.path())?, rounds)?,
        read("a directory, one file for each object", &of(many.path())?, rounds)?,
        from_etcd(&text, rounds)?,
    ])
}

fn read(what: &str, datastore: &Datastore, rounds: usize) -> Result<First> {
    let (mut times, mut objects) = (Times::new(), 0);
    for _ in 0..rounds {
        let start = Instant::now();
        let update = datastore.read();
        times.push(start.elapsed().as_secs_f64());
        ensure!(!update.has_errors(), "{what}: {:?}", update.problems.first());
        objects = update.snapshot.len();
    }
    Ok(First { what: what.to_owned(), objects, times })
}

fn from_etcd(text: &str, rounds: usize) -> Result<First> {
    let (ns, directory) = (Netns::new("etcd")?, etcd::directory()?);
    ns.sh("ip link set lo up")?;
    let _etcd = Etcd::start(&ns, "127.0.0.1", directory.path())?;
    let text = text.to_owned();
    ns.run(move || {
        let etcd = Datastore::open("etcd://127.0.0.1:2379")?;
        for some in Manifest::of(&text, &parse("cluster.yaml", &text)).chunks(AT_ONCE) {
            etcd.apply(some)?;
        }
        read("etcd", &etcd, rounds)
    })
}
