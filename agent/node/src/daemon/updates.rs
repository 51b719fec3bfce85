//! What comes from the datastore: resources become a plan, and the plan goes to the speaker, to the table and to the
//! sockets that it protects.

use std::{sync::Arc, time::Instant};

use manx_bgp::{Config, OwnHost, Speaker};
use manx_datastore::{Holds, Update};
use manx_resources::NodePlan;

use super::{Daemon, changes, wiring};
use crate::{cli::DataplaneMode, workloads};

impl Daemon {
    pub(super) fn take_update(&mut self, update: Update) {
        let had_problems = !std::mem::take(&mut self.problems).is_empty();
        let (errors, remarks): (Vec<_>, Vec<_>) =
            update.problems.iter().partition(|problem| problem.is_error());
        self.problems = errors.into_iter().map(ToString::to_string).collect();
        self.remarks = remarks.into_iter().map(ToString::to_string).collect();
        let refused = update.has_errors() && update.holds == Holds::Everything;
        for problem in update.problems.iter() {
            if problem.is_error() {
                tracing::error!("{problem}");
            } else {
                tracing::warn!("{problem}");
            }
        }
        if refused {
            let instead = match (&update.kept_at, &self.loaded_at) {
                (Some(at), _) => {
                    format!("those that an earlier run kept on disk, written {at}, are in force")
                }
                (None, Some(at)) => format!("the last good ones, read {at}, stay in force"),
                (None, None) if update.snapshot.is_empty() => {
                    String::from("there are no others, so this node speaks to nobody until they are good")
                }
                (None, None) => {
                    String::from("there are no earlier ones, so what is good of them is in force")
                }
            };
            tracing::error!("the resources have errors; {instead}");
        } else if update.has_errors() {
            tracing::error!(
                "resources with errors stay as they were when they were last good; all others are in force"
            );
        }
        // With an error the snapshot is the last good one. If there never was one it is what is good, which may be nothing.
        if refused && self.plan.is_none() && update.snapshot.is_empty() {
            return;
        }
        let plan = match self.planner.plan(&update.snapshot) {
            Ok(plan) => self.with_router_id(plan),
            Err(error) => {
                let stays = if self.plan.is_some() { "; the last good plan stays in force" } else { "" };
                tracing::error!("{error}{stays}");
                self.problems.push(error.to_string());
                return;
            }
        };
        if had_problems && self.problems.is_empty() {
            tracing::info!("the resources are good again");
        }
        self.changed = self.plan.as_ref().map_or_else(
            || "the first that were read".to_owned(),
            |_| changes::changed(&self.snapshot, &update.snapshot),
        );
        self.snapshot = update.snapshot;
        let deleted = self.changes.follow_nodes(&self.snapshot);
        self.kept_at = update.kept_at;
        let beside = self.beside_felix();
        for said in beside.iter().filter(|said| !self.beside.contains(said)) {
            tracing::warn!("{said}");
        }
        self.beside = beside;
        if !refused {
            self.loaded_at = Some(crate::clock::stamp(std::time::SystemTime::now()));
        }
        let plan = self.with_workloads(plan);
        if self.plan.as_ref() != Some(&plan) {
            self.follow_plan(plan);
        } else {
            self.follow_secrets();
            // Routes may be held that came by one of them.
            if deleted {
                self.open_sessions();
            }
        }
    }

    fn with_workloads(&self, plan: Arc<NodePlan>) -> Arc<NodePlan> {
        if self.workloads.is_empty() {
            return plan;
        }
        Arc::new(manx_resources::with_workloads(&plan, &self.snapshot, &self.workloads))
    }

    /// Pods that begin or cease to peer with this node.
    pub(super) fn follow_workloads(&mut self) {
        let is_wanted = self.snapshot.bgp_peers().any(|peer| peer.spec.local_workload_selector.is_some());
        let (workloads, problems) =
            if is_wanted { workloads::read(&self.args.endpoint_status) } else { Default::default() };
        for problem in problems.iter().filter(|problem| !self.workloads_said.contains(problem)) {
            tracing::warn!("{problem}");
        }
        self.workloads_said = problems;
        if workloads == self.workloads {
            return;
        }
        self.workloads = workloads;
        self.changed = "pods that peer with this node".to_owned();
        // Without a plan they wait for one.
        let (Some(_), Ok(plan)) = (&self.plan, self.planner.plan(&self.snapshot)) else { return };
        let plan = self.with_workloads(plan);
        if self.plan.as_ref() != Some(&plan) {
            self.follow_plan(plan);
        }
    }

    /// What Felix, where it runs, has been told otherwise than this daemon.
    fn beside_felix(&self) -> Vec<String> {
        let felix = self.snapshot.felix_on(&self.node);
        let ours = &self.args.pod_interface_prefix;
        let mut said = Vec::new();
        if let Some(prefix) = felix.interface_prefix
            && !prefix.split(',').any(|one| one == ours)
        {
            said.push(format!(
                "FelixConfiguration says that the names of pods' interfaces begin with {prefix}, and this manxd looks for \
                 {ours}: it sees no pods, and their addresses are blackholed; start it with --pod-interface-prefix {prefix}"
            ));
        }
        let protocol = self.args.places.protocol;
        if felix.device_route_protocol == Some(protocol) {
            said.push(format!(
                "FelixConfiguration gives Felix's routes to pods the protocol number {protocol}, which is this manxd's: it \
                 takes them for its own, and deletes them; set deviceRouteProtocol to another, or start manxd with another \
                 --protocol"
            ));
        }
        said
    }

    /// The flag's word for the identifier, which is this daemon's alone.
    fn with_router_id(&self, mut plan: Arc<NodePlan>) -> Arc<NodePlan> {
        if let Some(chosen) = self.args.router_id {
            let router_id = chosen.of(&self.node);
            if plan.router_id != router_id {
                Arc::make_mut(&mut plan).router_id = router_id;
            }
        }
        plan
    }

    fn follow_plan(&mut self, plan: Arc<NodePlan>) {
        let said = self.plan.as_ref().map(|old| old.warnings.as_slice()).unwrap_or_default();
        for warning in plan.warnings.iter().filter(|warning| !said.contains(warning)) {
            tracing::warn!("{warning}");
        }
        let said = format!(
            "AS {}, {} peers, {} own blocks, {} pools{}",
            plan.as_number,
            plan.peers.len(),
            plan.blocks.len(),
            plan.pools.len(),
            plan.cluster_id.map(|id| format!(", reflector of cluster {id}")).unwrap_or_default()
        );
        tracing::info!("plan: {said}");
        self.history.resources(format!("{}: {said}", std::mem::take(&mut self.changed)));
        if self.writes() {
            self.dataplane.configure(wiring::route_plan(&plan));
            self.blackholes.follow_plan(&plan);
        }
        self.protection.read_secrets(&plan, &self.snapshot);
        self.leftovers.follow_plan(&plan);
        self.changes.follow_plan(&plan, self.plan.is_none(), Instant::now());
        self.plan = Some(plan);
        self.decide();
        self.open_sessions();
    }

    /// Pods have come or gone. Most have an address of an own block, of which nothing is to be told.
    pub(super) fn announce_borrowed(&mut self) {
        let Some(plan) = &self.plan else { return };
        let hosts = wiring::announced_hosts(plan, self.dataplane.hosted());
        let now = self.clock.now();
        if let Some(speaker) = &mut self.speaker
            && speaker.config().hosts != hosts
        {
            let before = &speaker.config().hosts;
            for OwnHost { prefix, priority } in hosts.iter().filter(|host| !before.contains(host)) {
                match priority {
                    None => tracing::info!(
                        "announcing {prefix}: a pod of this node has it, and it lies in no block of this node"
                    ),
                    Some(priority) => tracing::info!(
                        "announcing {prefix} with priority {priority}, the metric of the route to its pod: it comes \
                         from another node"
                    ),
                }
            }
            let stays = |host: &OwnHost| hosts.iter().any(|now| now.prefix == host.prefix);
            for OwnHost { prefix, .. } in before.iter().filter(|host| !stays(host)) {
                tracing::info!("no longer announcing {prefix}");
            }
            let mut config = Config { hosts, ..speaker.config().clone() };
            self.drains.keep_silent(&mut config);
            speaker.configure(config, now);
        }
    }

    /// A changed password reaches the sessions that it is for, and no others.
    pub(super) fn follow_secrets(&mut self) {
        let Some(plan) = &self.plan else { return };
        if self.protection.read_secrets(plan, &self.snapshot) {
            tracing::info!("secrets have changed");
            self.open_sessions();
        } else if self.sockets.refused().is_some() {
            self.sockets.guard(self.protection.guards());
        }
    }

    /// Protects the sockets as the plan and the secrets have it, and then tells the speaker of its peers.
    pub(super) fn open_sessions(&mut self) {
        let Some(plan) = &self.plan else { return };
        for (peer, why) in self.protection.follow(plan) {
            tracing::warn!(peer = %peer.address, resource = %peer.resource, "{why}");
        }
        for warning in self.protection.warnings() {
            tracing::warn!("{warning}");
        }
        let hosts = wiring::announced_hosts(plan, self.dataplane.hosted());
        let mut config = {
            let parting = self.changes.parting(plan, Instant::now());
            wiring::speaker_config(plan, &self.protection, self.restarting, self.seed, hosts, parting)
        };
        config.best_paths = self.args.dataplane == DataplaneMode::On;
        self.drained(&mut config);
        self.sockets.guard(self.protection.guards());
        self.listen();
        if let Some(refused) = self.sockets.refused() {
            tracing::error!("{refused}");
        }
        let now = self.clock.now();
        match &mut self.speaker {
            Some(speaker) => speaker.configure(config, now),
            None => self.speaker = Some(Speaker::new(config, now)),
        }
        self.follow_bfd();
        self.close_if_drained();
    }
}
