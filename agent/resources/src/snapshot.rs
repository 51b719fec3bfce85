//! A consistent set of resources. Objects are shared between snapshots, so that a snapshot that differs in one
//! object costs one object.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use crate::{Key, Kind, spec};

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

/// An object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    BgpConfiguration(Arc<Object<spec::BgpConfiguration>>),
    BgpPeer(Arc<Object<spec::BgpPeer>>),
    BgpFilter(Arc<Object<spec::BgpFilter>>),
    Node(Arc<Object<spec::Node>>),
    IpPool(Arc<Object<spec::IpPool>>),
    BlockAffinity(Arc<Object<spec::BlockAffinity>>),
    IpamBlock(Arc<Object<spec::IpamBlock>>),
    ClusterInformation(Arc<Object<spec::ClusterInformation>>),
    IpReservation(Arc<Object<spec::IpReservation>>),
    IpamConfiguration(Arc<Object<spec::IpamConfiguration>>),
}

impl Resource {
    pub fn kind(&self) -> Kind {
        match self {
            Resource::BgpConfiguration(_) => Kind::BgpConfiguration,
            Resource::BgpPeer(_) => Kind::BgpPeer,
            Resource::BgpFilter(_) => Kind::BgpFilter,
            Resource::Node(_) => Kind::Node,
            Resource::IpPool(_) => Kind::IpPool,
            Resource::BlockAffinity(_) => Kind::BlockAffinity,
            Resource::IpamBlock(_) => Kind::IpamBlock,
            Resource::ClusterInformation(_) => Kind::ClusterInformation,
            Resource::IpReservation(_) => Kind::IpReservation,
            Resource::IpamConfiguration(_) => Kind::IpamConfiguration,
        }
    }

    pub fn metadata(&self) -> &Metadata {
        match self {
            Resource::BgpConfiguration(object) => &object.metadata,
            Resource::BgpPeer(object) => &object.metadata,
            Resource::BgpFilter(object) => &object.metadata,
            Resource::Node(object) => &object.metadata,
            Resource::IpPool(object) => &object.metadata,
            Resource::BlockAffinity(object) => &object.metadata,
            Resource::IpamBlock(object) => &object.metadata,
            Resource::ClusterInformation(object) => &object.metadata,
            Resource::IpReservation(object) => &object.metadata,
            Resource::IpamConfiguration(object) => &object.metadata,
        }
    }

    pub fn name(&self) -> &str {
        &self.metadata().name
    }

    pub fn key(&self) -> Key {
        Key::new(self.kind(), self.name())
    }

    /// The document as written, unknown fields included.
    pub fn document(&self) -> &serde_json::Value {
        match self {
            Resource::BgpConfiguration(object) => &object.document,
            Resource::BgpPeer(object) => &object.document,
            Resource::BgpFilter(object) => &object.document,
            Resource::Node(object) => &object.document,
            Resource::IpPool(object) => &object.document,
            Resource::BlockAffinity(object) => &object.document,
            Resource::IpamBlock(object) => &object.document,
            Resource::ClusterInformation(object) => &object.document,
            Resource::IpReservation(object) => &object.document,
            Resource::IpamConfiguration(object) => &object.document,
        }
    }
}

pub(crate) type ByName<S> = BTreeMap<String, Arc<Object<S>>>;

/// All resources at one moment, each kind in the order of its names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    bgp_configurations: ByName<spec::BgpConfiguration>,
    bgp_peers: ByName<spec::BgpPeer>,
    bgp_filters: ByName<spec::BgpFilter>,
    nodes: ByName<spec::Node>,
    ip_pools: ByName<spec::IpPool>,
    block_affinities: ByName<spec::BlockAffinity>,
    ipam_blocks: ByName<spec::IpamBlock>,
    cluster_informations: ByName<spec::ClusterInformation>,
    ip_reservations: ByName<spec::IpReservation>,
    ipam_configurations: ByName<spec::IpamConfiguration>,
}

impl Snapshot {
    /// Puts a resource in, in place of the one with the same kind and name.
    pub fn insert(&mut self, resource: Resource) {
        let name = resource.name().to_owned();
        match resource {
            Resource::BgpConfiguration(object) => drop(self.bgp_configurations.insert(name, object)),
            Resource::BgpPeer(object) => drop(self.bgp_peers.insert(name, object)),
            Resource::BgpFilter(object) => drop(self.bgp_filters.insert(name, object)),
            Resource::Node(object) => drop(self.nodes.insert(name, object)),
            Resource::IpPool(object) => drop(self.ip_pools.insert(name, object)),
            Resource::BlockAffinity(object) => drop(self.block_affinities.insert(name, object)),
            Resource::IpamBlock(object) => drop(self.ipam_blocks.insert(name, object)),
            Resource::ClusterInformation(object) => drop(self.cluster_informations.insert(name, object)),
            Resource::IpReservation(object) => drop(self.ip_reservations.insert(name, object)),
            Resource::IpamConfiguration(object) => drop(self.ipam_configurations.insert(name, object)),
        }
    }

    /// False if there was none.
    pub fn remove(&mut self, key: &Key) -> bool {
        match key.kind {
            Kind::BgpConfiguration => self.bgp_configurations.remove(&key.name).is_some(),
            Kind::BgpPeer => self.bgp_peers.remove(&key.name).is_some(),
            Kind::BgpFilter => self.bgp_filters.remove(&key.name).is_some(),
            Kind::Node => self.nodes.remove(&key.name).is_some(),
            Kind::IpPool => self.ip_pools.remove(&key.name).is_some(),
            Kind::BlockAffinity => self.block_affinities.remove(&key.name).is_some(),
            Kind::IpamBlock => self.ipam_blocks.remove(&key.name).is_some(),
            Kind::ClusterInformation => self.cluster_informations.remove(&key.name).is_some(),
            Kind::IpReservation => self.ip_reservations.remove(&key.name).is_some(),
            Kind::IpamConfiguration => self.ipam_configurations.remove(&key.name).is_some(),
        }
    }

    pub fn get(&self, key: &Key) -> Option<Resource> {
        let name = &key.name;
        match key.kind {
            Kind::BgpConfiguration => {
                self.bgp_configurations.get(name).cloned().map(Resource::BgpConfiguration)
            }
            Kind::BgpPeer => self.bgp_peers.get(name).cloned().map(Resource::BgpPeer),
            Kind::BgpFilter => self.bgp_filters.get(name).cloned().map(Resource::BgpFilter),
            Kind::Node => self.nodes.get(name).cloned().map(Resource::Node),
            Kind::IpPool => self.ip_pools.get(name).cloned().map(Resource::IpPool),
            Kind::BlockAffinity => self.block_affinities.get(name).cloned().map(Resource::BlockAffinity),
            Kind::IpamBlock => self.ipam_blocks.get(name).cloned().map(Resource::IpamBlock),
            Kind::ClusterInformation => {
                self.cluster_informations.get(name).cloned().map(Resource::ClusterInformation)
            }
            Kind::IpReservation => self.ip_reservations.get(name).cloned().map(Resource::IpReservation),
            Kind::IpamConfiguration => {
                self.ipam_configurations.get(name).cloned().map(Resource::IpamConfiguration)
            }
        }
    }

    /// All resources of a kind, by name.
    pub fn of_kind(&self, kind: Kind) -> Vec<Resource> {
        match kind {
            Kind::BgpConfiguration => {
                self.bgp_configurations.values().cloned().map(Resource::BgpConfiguration).collect()
            }
            Kind::BgpPeer => self.bgp_peers.values().cloned().map(Resource::BgpPeer).collect(),
            Kind::BgpFilter => self.bgp_filters.values().cloned().map(Resource::BgpFilter).collect(),
            Kind::Node => self.nodes.values().cloned().map(Resource::Node).collect(),
            Kind::IpPool => self.ip_pools.values().cloned().map(Resource::IpPool).collect(),
            Kind::BlockAffinity => {
                self.block_affinities.values().cloned().map(Resource::BlockAffinity).collect()
            }
            Kind::IpamBlock => self.ipam_blocks.values().cloned().map(Resource::IpamBlock).collect(),
            Kind::ClusterInformation => {
                self.cluster_informations.values().cloned().map(Resource::ClusterInformation).collect()
            }
            Kind::IpReservation => {
                self.ip_reservations.values().cloned().map(Resource::IpReservation).collect()
            }
            Kind::IpamConfiguration => {
                self.ipam_configurations.values().cloned().map(Resource::IpamConfiguration).collect()
            }
        }
    }

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

    pub fn len(&self) -> usize {
        self.bgp_configurations.len()
            + self.bgp_peers.len()
            + self.bgp_filters.len()
            + self.nodes.len()
            + self.ip_pools.len()
            + self.block_affinities.len()
            + self.ipam_blocks.len()
            + self.cluster_informations.len()
            + self.ip_reservations.len()
            + self.ipam_configurations.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An object as it was and as it is.
pub(crate) type Change<'a, S> = (Option<&'a Arc<Object<S>>>, Option<&'a Arc<Object<S>>>);

/// What is not the same object in both. Objects that equal each other may be told of, those that are shared are not.
pub(crate) fn changes<'a, S>(
    before: &'a ByName<S>,
    now: &'a ByName<S>,
) -> impl Iterator<Item = Change<'a, S>> + use<'a, S> {
    let (mut before, mut now) = (before.values().peekable(), now.values().peekable());
    std::iter::from_fn(move || {
        loop {
            return match (before.peek(), now.peek()) {
                (None, None) => None,
                (Some(_), None) => Some((before.next(), None)),
                (None, Some(_)) => Some((None, now.next())),
                (Some(old), Some(new)) => {
                    if Arc::ptr_eq(old, new) {
                        before.next();
                        now.next();
                        continue;
                    }
                    match old.name().cmp(new.name()) {
                        Ordering::Less => Some((before.next(), None)),
                        Ordering::Equal => Some((before.next(), now.next())),
                        Ordering::Greater => Some((None, now.next())),
                    }
                }
            };
        }
    })
}
