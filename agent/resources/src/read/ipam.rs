//! The fields of IPAMBlock, as its custom resource has them and as etcd does, of IPReservation, IPAMConfiguration and
//! ClusterInformation.

use manx_net::Prefix;

use crate::{
    fields::{Fields, Form},
    spec::{Allocation, ClusterInformation, IpReservation, IpamBlock, IpamConfiguration},
};

pub(super) fn block(document: &mut Fields<'_, '_>) -> Option<IpamBlock> {
    let Some(mut spec) = document.object("spec") else {
        if !document.is_set("spec") {
            document.refuse("spec", "is missing; an IPAMBlock needs spec.cidr");
        }
        return None;
    };
    let cidr: Option<Prefix> = spec.parse("cidr", str::parse);
    if cidr.is_none() && !spec.is_set("cidr") {
        spec.refuse("cidr", "is missing; write the block, such as 172.16.36.192/26");
    }
    let affinity = spec.text("affinity").map(str::to_owned);
    let allocations: Vec<Option<usize>> = spec.parse_each("allocations", |text| match text {
        "" | "~" | "null" => Ok(None),
        text => text.parse().map(Some).map_err(|_| "is neither null nor a place among the attributes"),
    });
    let attributes: Vec<Allocation> = spec.objects("attributes").into_iter().map(allocation).collect();
    if allocations.iter().flatten().any(|place| *place >= attributes.len()) {
        spec.refuse("allocations", format!("name a place beyond the {} attributes", attributes.len()));
    }
    // The older API group has the text "true" where the newer has the truth value.
    let deleted = spec.parse("deleted", |text| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("is neither true nor false"),
    });
    spec.accept(&[
        ("unallocated", Form::List),
        ("strictAffinity", Form::Any),
        ("sequenceNumber", Form::Any),
        ("sequenceNumberForAllocation", Form::Any),
        ("affinityClaimTime", Form::Any),
        ("affinity_claim_time", Form::Any),
        ("hostAffinity", Form::Any),
    ]);
    spec.finish();
    Some(IpamBlock { cidr: cidr?, affinity, allocations, attributes, deleted: deleted.unwrap_or(false) })
}

fn allocation(mut fields: Fields<'_, '_>) -> Allocation {
    let handle = fields.text("handle_id").map(str::to_owned);
    let (owner, alternate) = (fields.map("secondary"), fields.map("alternateOwnerAttrs"));
    fields.accept(&[("releasedAt", Form::Any)]);
    fields.finish();
    Allocation { handle, owner, alternate }
}

pub(super) fn cluster_information(document: &mut Fields<'_, '_>) -> Option<ClusterInformation> {
    let Some(mut spec) = document.object("spec") else {
        return Some(ClusterInformation::default()).filter(|_| !document.is_set("spec"));
    };
    let text = |spec: &mut Fields<'_, '_>, name| spec.text(name).map(str::to_owned);
    let (guid, cluster_type) = (text(&mut spec, "clusterGUID"), text(&mut spec, "clusterType"));
    let calico_version = text(&mut spec, "calicoVersion");
    let datastore_ready = spec.boolean("datastoreReady");
    spec.accept(&[("variant", Form::Text)]);
    spec.finish();
    Some(ClusterInformation { guid, cluster_type, calico_version, datastore_ready })
}

pub(super) fn reservation(document: &mut Fields<'_, '_>) -> Option<IpReservation> {
    let Some(mut spec) = document.object("spec") else {
        return Some(IpReservation::default()).filter(|_| !document.is_set("spec"));
    };
    let reserved = spec.parse_each("reservedCIDRs", str::parse);
    spec.finish();
    Some(IpReservation { reserved })
}

pub(super) fn configuration(document: &mut Fields<'_, '_>) -> Option<IpamConfiguration> {
    let default = IpamConfiguration::default();
    let Some(mut spec) = document.object("spec") else {
        return Some(default).filter(|_| !document.is_set("spec"));
    };
    let strict_affinity = spec.boolean("strictAffinity").unwrap_or(default.strict_affinity);
    let auto_allocate_blocks = spec.boolean("autoAllocateBlocks").unwrap_or(default.auto_allocate_blocks);
    let most = spec.integer("maxBlocksPerHost", 0..=i64::from(i32::MAX)).unwrap_or(0);
    spec.accept(&[("kubeVirtVMAddressPersistence", Form::Text), ("ipCooldownSeconds", Form::Any)]);
    spec.finish();
    // The range is the reader's.
    let max_blocks_per_host = u32::try_from(most).unwrap_or(0);
    Some(IpamConfiguration { strict_affinity, auto_allocate_blocks, max_blocks_per_host })
}
