//! A consistent set of resources. Objects are shared between snapshots, so that a snapshot that differs in one
//! object costs one object.

use std::{collections::BTreeMap, sync::Arc};

use crate::{Key, Kind, by_name::ByName, spec};

/// What every object has besides its spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// A validated object of one kind, with the document that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object<S> {
    pub metadata: Metadata,
    pub spec: S,
    /// The document as written, unknown fields included; keys are sorted.
    pub document: serde_json::Value,
    /// The paths of fields that are set and valid and have no effect in Manx yet.
    pub without_effect: Vec<String>,
}

impl<S> Object<S> {
    pub fn name(&self) -> &str {
        &self.metadata.name
    }
}

/// Each kind has a variant of [`Resource`] and a map in [`Snapshot`].
macro_rules! kinds {
    ($($variant:ident: $map:ident),* $(,)?) => {
        /// An object of any kind.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Resource {
            $($variant(Arc<Object<spec::$variant>>),)*
        }

        impl Resource {
            pub fn kind(&self) -> Kind {
                match self {
                    $(Resource::$variant(_) => Kind::$variant,)*
                }
            }

            pub fn metadata(&self) -> &Metadata {
                match self {
                    $(Resource::$variant(object) => &object.metadata,)*
                }
            }

            /// The document as written, unknown fields included.
            pub fn document(&self) -> &serde_json::Value {
                match self {
                    $(Resource::$variant(object) => &object.document,)*
                }
            }
        }

        /// All resources at one moment, each kind in the order of its names.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Snapshot {
            $($map: ByName<spec::$variant>,)*
        }

        impl Snapshot {
            /// Puts a resource in, in place of the one with the same kind and name.
            pub fn insert(&mut self, resource: Resource) {
                match resource {
                    $(Resource::$variant(object) => self.$map.insert(object),)*
                }
            }

            /// False if there was none.
            pub fn remove(&mut self, key: &Key) -> bool {
                match key.kind {
                    $(Kind::$variant => self.$map.remove(&key.name),)*
                }
            }

            pub fn get(&self, key: &Key) -> Option<Resource> {
                match key.kind {
                    $(Kind::$variant => self.$map.get(&key.name).cloned().map(Resource::$variant),)*
                }
            }

            /// All resources of a kind, by name.
            pub fn of_kind(&self, kind: Kind) -> Vec<Resource> {
                match kind {
                    $(Kind::$variant => self.$map.values().cloned().map(Resource::$variant).collect(),)*
                }
            }

            pub fn len(&self) -> usize {
                0 $(+ self.$map.len())*
            }
        }
    };
}

kinds! {
    BgpConfiguration: bgp_configurations,
    BgpPeer: bgp_peers,
    BgpFilter: bgp_filters,
    Node: nodes,
    IpPool: ip_pools,
    BlockAffinity: block_affinities,
    IpamBlock: ipam_blocks,
    ClusterInformation: cluster_informations,
    IpReservation: ip_reservations,
    IpamConfiguration: ipam_configurations,
    FelixConfiguration: felix_configurations,
    CalicoNodeStatus: node_statuses,
    Secret: secrets,
}

impl Resource {
    pub fn name(&self) -> &str {
        &self.metadata().name
    }

    pub fn key(&self) -> Key {
        Key::new(self.kind(), self.name())
    }
}

impl Snapshot {
    pub fn bgp_configuration(&self, name: &str) -> Option<&Object<spec::BgpConfiguration>> {
        self.bgp_configurations.get(name).map(Arc::as_ref)
    }

    pub fn node(&self, name: &str) -> Option<&Object<spec::Node>> {
        self.nodes.get(name).map(Arc::as_ref)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Object<spec::Node>> {
        self.nodes.values().map(Arc::as_ref)
    }

    pub(crate) fn nodes_by_name(&self) -> &ByName<spec::Node> {
        &self.nodes
    }

    pub(crate) fn configurations_by_name(&self) -> &ByName<spec::BgpConfiguration> {
        &self.bgp_configurations
    }

    pub(crate) fn peers_by_name(&self) -> &ByName<spec::BgpPeer> {
        &self.bgp_peers
    }

    pub(crate) fn affinities_by_name(&self) -> &ByName<spec::BlockAffinity> {
        &self.block_affinities
    }

    pub fn bgp_configurations(&self) -> impl Iterator<Item = &Object<spec::BgpConfiguration>> {
        self.bgp_configurations.values().map(Arc::as_ref)
    }

    pub fn bgp_peers(&self) -> impl Iterator<Item = &Object<spec::BgpPeer>> {
        self.bgp_peers.values().map(Arc::as_ref)
    }

    pub fn bgp_peer(&self, name: &str) -> Option<&Object<spec::BgpPeer>> {
        self.bgp_peers.get(name).map(Arc::as_ref)
    }

    pub fn bgp_filters(&self) -> impl Iterator<Item = &Object<spec::BgpFilter>> {
        self.bgp_filters.values().map(Arc::as_ref)
    }

    pub fn bgp_filter(&self, name: &str) -> Option<&Arc<Object<spec::BgpFilter>>> {
        self.bgp_filters.get(name)
    }

    pub fn ip_pools(&self) -> impl Iterator<Item = &Object<spec::IpPool>> {
        self.ip_pools.values().map(Arc::as_ref)
    }

    pub fn block_affinities(&self) -> impl Iterator<Item = &Object<spec::BlockAffinity>> {
        self.block_affinities.values().map(Arc::as_ref)
    }

    pub fn ipam_blocks(&self) -> impl Iterator<Item = &Object<spec::IpamBlock>> {
        self.ipam_blocks.values().map(Arc::as_ref)
    }

    pub fn ip_reservations(&self) -> impl Iterator<Item = &Object<spec::IpReservation>> {
        self.ip_reservations.values().map(Arc::as_ref)
    }

    pub fn ipam_configuration(&self) -> Option<&Object<spec::IpamConfiguration>> {
        self.ipam_configurations.get("default").map(Arc::as_ref)
    }

    pub fn cluster_information(&self) -> Option<&Object<spec::ClusterInformation>> {
        self.cluster_informations.get("default").map(Arc::as_ref)
    }

    pub fn felix_configuration(&self, name: &str) -> Option<&Object<spec::FelixConfiguration>> {
        self.felix_configurations.get(name).map(Arc::as_ref)
    }

    /// What holds for a node: its own settings, and where they say nothing the cluster's.
    pub fn felix_on(&self, node: &str) -> spec::FelixConfiguration {
        let named = [format!("node.{node}"), "default".to_owned()];
        let found = named.iter().filter_map(|name| self.felix_configuration(name));
        found.fold(spec::FelixConfiguration::default(), |all, next| all.or(&next.spec))
    }

    pub fn felix_configurations(&self) -> impl Iterator<Item = &Object<spec::FelixConfiguration>> {
        self.felix_configurations.values().map(Arc::as_ref)
    }

    pub fn secret(&self, name: &str) -> Option<&Object<spec::Secret>> {
        self.secrets.get(name).map(Arc::as_ref)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
