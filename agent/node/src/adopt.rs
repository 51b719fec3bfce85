//! Routes that an earlier routing daemon has left: they stand where ours are to be, and nobody removes them. They are
//! taken over before anything else, and from then on are as those of an earlier run of ours: kept until their peers have
//! been heard, changed in place, and swept if nobody claims them.

use std::collections::BTreeSet;

use manx_dataplane::Relabelled;
use manx_datastore::Datastore;
use manx_net::Prefix;
use manx_resources::Snapshot;

use crate::cli::{Protocol, RunArgs};

/// Names in one line of the log.
const NAMED: usize = 10;

/// Takes over the routes inside pools, and returns those that it could not. What is wrong is said; the daemon goes on with
/// whatever is there.
pub fn adopt(from: Protocol, args: &RunArgs, datastore: &Datastore) -> BTreeSet<Prefix> {
    let ours = args.places.protocol;
    if from.0 == ours {
        tracing::warn!("--adopt-protocol {from} is this manxd's own protocol; there is nothing to take over");
        return BTreeSet::new();
    }
    let read = datastore.read();
    let pools = pools(&read.snapshot);
    if pools.is_empty() {
        let why = read.problems.iter().find(|problem| problem.is_error()).map(ToString::to_string);
        tracing::error!(
            "routes of protocol {from} are not taken over, for no pool is known{}; they stay, and stand where ours are to be. \
             Start manxd again when the resources can be read",
            why.map(|why| format!(" ({why})")).unwrap_or_default()
        );
        return BTreeSet::new();
    }
    let is_ours =
        |table: u32, prefix: Prefix| table == args.table && pools.iter().any(|pool| pool.covers(prefix));
    match manx_dataplane::relabel(from.0, ours, is_ours) {
        Ok(done) => {
            say(from, &done);
            done.refused.into_iter().map(|(prefix, _)| prefix).collect()
        }
        Err(error) => {
            tracing::error!("taking over routes of protocol {from} failed: {error}");
            BTreeSet::new()
        }
    }
}

pub fn pools(snapshot: &Snapshot) -> Vec<Prefix> {
    snapshot.ip_pools().map(|pool| pool.spec.cidr).collect()
}

fn say(from: Protocol, done: &Relabelled) {
    tracing::info!("took over {} routes of protocol {from}", done.taken);
    for (prefix, why) in done.refused.iter().take(NAMED) {
        tracing::warn!("the route of protocol {from} to {prefix} is not taken over: {why}");
    }
    if done.refused.len() > NAMED {
        tracing::warn!("and {} more are not taken over", done.refused.len() - NAMED);
    }
    if !done.left.is_empty() {
        tracing::warn!(
            "routes of protocol {from} in no pool or another table are left as they are: {}; nobody looks after them once \
             their daemon is gone",
            listed(&done.left)
        );
    }
}

/// The first few, and how many more there are.
pub fn listed(prefixes: &[Prefix]) -> String {
    let mut text = prefixes.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if prefixes.len() > NAMED {
        text.push_str(&format!(" and {} more", prefixes.len() - NAMED));
    }
    text
}
