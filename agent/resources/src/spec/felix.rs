//! What of Felix's settings concerns whoever writes routes and runs programs beside it.

/// `FelixConfiguration`: `default` for the cluster, or `node.NAME` for one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FelixConfiguration {
    /// Felix's own BPF dataplane.
    pub bpf_enabled: Option<bool>,
    pub program_cluster_routes: Option<ProgramClusterRoutes>,
    /// How the names of pods' host-side interfaces begin; several, with commas.
    pub interface_prefix: Option<String>,
    /// `RTPROT_*` of Felix's routes to pods.
    pub device_route_protocol: Option<u8>,
    pub ipv4_normal_route_priority: Option<u32>,
    pub ipv6_normal_route_priority: Option<u32>,
}

impl FelixConfiguration {
    /// A node's own settings come before the cluster's, field by field.
    pub fn or(&self, other: &FelixConfiguration) -> FelixConfiguration {
        FelixConfiguration {
            bpf_enabled: self.bpf_enabled.or(other.bpf_enabled),
            program_cluster_routes: self.program_cluster_routes.or(other.program_cluster_routes),
            interface_prefix: self.interface_prefix.clone().or(other.interface_prefix.clone()),
            device_route_protocol: self.device_route_protocol.or(other.device_route_protocol),
            ipv4_normal_route_priority: self.ipv4_normal_route_priority.or(other.ipv4_normal_route_priority),
            ipv6_normal_route_priority: self.ipv6_normal_route_priority.or(other.ipv6_normal_route_priority),
        }
    }
}

/// Of which pools Felix writes the routes to other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramClusterRoutes {
    Enabled,
    Disabled,
    EnabledIpipOnly,
    EnabledNoEncapOnly,
}

impl ProgramClusterRoutes {
    /// Also of those that are not encapsulated, which are ours.
    pub fn is_plain(self) -> bool {
        matches!(self, ProgramClusterRoutes::Enabled | ProgramClusterRoutes::EnabledNoEncapOnly)
    }
}

/// `CalicoNodeStatus`: what somebody wants to be told of a node, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CalicoNodeStatus {
    pub node: String,
    /// `Agent`, `BGP`, `Routes`.
    pub classes: Vec<String>,
    /// 0: never.
    pub update_period_seconds: u32,
}
