//! What a plan says of the speaker as a whole beyond Calico's fields: the cluster's settings, a node's own in their
//! place, and the defaults.

use serde::Serialize;

use super::cluster::{Cluster, NodeObject};
use crate::spec::{BgpConfiguration, Multipath, SpeakerExtensions};

/// Long enough for a fleet to read a change and to find its new ways.
const CLOSE_AFTER: u32 = 30;
/// Long enough for the next step of who changes a cluster by hand.
const HOLD_ROUTES: u32 = 300;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpeakerPlan {
    pub multipath: Multipath,
    /// Seconds that peers are asked to keep our routes beyond the restart time; None: RFC 9494 is not offered.
    pub long_lived_restart_time: Option<u32>,
    /// Routes outlive a NOTIFICATION (RFC 8538).
    pub restart_after_notification: bool,
    /// RFC 8212: nothing passes to or from an eBGP peer that has no filter for the direction.
    pub ebgp_requires_policy: bool,
    /// How many paths all peers together may have; None: the speaker's default.
    pub max_paths: Option<u32>,
    /// A reflector's clients hear of one another through it.
    pub client_to_client: bool,
    /// The node asks everybody to go another way (RFC 8326).
    pub graceful_shutdown: bool,
    /// Seconds that the session of a peer no longer wanted goes on until its routes have come by another way.
    pub close_after: u32,
    /// Seconds that routes are held as stale which have nothing in their place when their session is closed.
    pub hold_routes: u32,
    /// Another text than before: the change that comes with it is carried out at once, and nothing is held.
    pub now: Option<String>,
    /// The priority that own routes carry in LOCAL_PREF, and that others' are compared with; None: 100, and 1024.
    pub ipv4_normal_route_priority: Option<u32>,
    pub ipv6_normal_route_priority: Option<u32>,
}

pub(super) fn speaker(cluster: &Cluster<'_>, own: &NodeObject) -> SpeakerPlan {
    let of = |name: &str| cluster.snapshot.bgp_configuration(name).map(|object| &object.spec.extensions);
    let nothing = SpeakerExtensions::default();
    let wide = of("default").unwrap_or(&nothing);
    let set = of(&format!("node.{}", own.name())).unwrap_or(&nothing).or(wide);
    let spec = |name: &str| cluster.snapshot.bgp_configuration(name).map(|object| &object.spec);
    let (own_spec, wide_spec) = (spec(&format!("node.{}", own.name())), spec("default"));
    let priority =
        |of: fn(&BgpConfiguration) -> Option<u32>| own_spec.and_then(of).or_else(|| wide_spec.and_then(of));
    SpeakerPlan {
        multipath: set.multipath.unwrap_or_default(),
        // 0 is how a node says that it has none where the cluster has some.
        long_lived_restart_time: set.long_lived_restart_time.filter(|seconds| *seconds > 0),
        restart_after_notification: set.restart_after_notification.unwrap_or(false),
        ebgp_requires_policy: set.ebgp_requires_policy.unwrap_or(false),
        max_paths: set.max_paths,
        client_to_client: set.client_to_client.unwrap_or(true),
        close_after: set.close_after.unwrap_or(CLOSE_AFTER),
        hold_routes: set.hold_routes.unwrap_or(HOLD_ROUTES),
        now: set.now,
        graceful_shutdown: own.spec.graceful_shutdown,
        ipv4_normal_route_priority: priority(|spec| spec.ipv4_normal_route_priority),
        ipv6_normal_route_priority: priority(|spec| spec.ipv6_normal_route_priority),
    }
}
