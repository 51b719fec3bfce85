//! What a plan says of the fast path: the cluster's settings, a node's own in their place. A pool's own setting
//! stands with the pool.

use serde::Serialize;

use super::cluster::{Cluster, NodeObject};
use crate::spec::{FastPathExtensions, FastPathSetting, ForInterfaces, SourceCheck};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FastPathPlan {
    /// For pools that say nothing themselves; Disabled is for all of them. None: as the daemon's own flag says.
    pub whole: Option<FastPathSetting>,
    /// The first entry that fits an interface counts.
    pub interfaces: Vec<ForInterfaces<FastPathSetting>>,
    pub source_check: SourceCheck,
    /// In place of `source_check`; the first entry that fits an interface counts.
    pub source_check_interfaces: Vec<ForInterfaces<SourceCheck>>,
}

impl FastPathPlan {
    pub fn interface(&self, name: &str) -> Option<FastPathSetting> {
        ForInterfaces::find(&self.interfaces, name)
    }

    pub fn source_check(&self, name: &str) -> SourceCheck {
        ForInterfaces::find(&self.source_check_interfaces, name).unwrap_or(self.source_check)
    }
}

pub(super) fn fast_path(cluster: &Cluster<'_>, own: &NodeObject) -> FastPathPlan {
    let of = |name: &str| cluster.snapshot.bgp_configuration(name).map(|object| &object.spec.fast_path);
    let nothing = FastPathExtensions::default();
    let wide = of("default").unwrap_or(&nothing);
    let set = of(&format!("node.{}", own.name())).unwrap_or(&nothing).or(wide);
    FastPathPlan {
        whole: set.whole,
        interfaces: set.interfaces.unwrap_or_default(),
        source_check: set.source_check.unwrap_or_default(),
        source_check_interfaces: set.source_check_interfaces.unwrap_or_default(),
    }
}
