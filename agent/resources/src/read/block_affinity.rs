//! The fields of BlockAffinity, in the form of either API group.

use manx_net::Prefix;

use crate::{
    fields::{Fields, Form},
    spec::{AffinityState, BlockAffinity},
};

pub(super) fn read(document: &mut Fields<'_, '_>) -> Option<BlockAffinity> {
    let Some(mut spec) = document.object("spec") else {
        if !document.is_set("spec") {
            document.refuse("spec", "is missing; a BlockAffinity needs spec.node and spec.cidr");
        }
        return None;
    };
    let state = spec.choice(
        "state",
        &[
            ("confirmed", AffinityState::Confirmed),
            ("pending", AffinityState::Pending),
            ("pendingDeletion", AffinityState::PendingDeletion),
        ],
    );
    let node = spec.text("node").map(str::to_owned);
    if node.is_none() && !spec.is_set("node") {
        spec.refuse("node", "is missing; write the name of the Node that owns the block");
    }
    let cidr: Option<Prefix> = spec.parse("cidr", str::parse);
    if cidr.is_none() && !spec.is_set("cidr") {
        spec.refuse("cidr", "is missing; write the block, such as 172.16.36.192/26");
    }
    // The older API group has the text "true" where the newer has the truth value.
    let deleted = spec.parse("deleted", |text| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("is neither true nor false"),
    });
    // A virtual affinity belongs to no node: it is for the addresses of load balancers.
    let host = spec.choice("type", &[("host", true), ("virtual", false)]).unwrap_or(true);
    spec.accept(&[("claimTime", Form::Any)]);
    spec.finish();
    Some(BlockAffinity {
        state: state.unwrap_or_default(),
        node: node?,
        cidr: cidr?,
        deleted: deleted.unwrap_or(false),
        host,
    })
}
