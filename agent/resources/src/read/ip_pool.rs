//! The fields of IPPool.

use manx_net::Prefix;

use crate::{
    fields::{Fields, Form},
    read::{annotations::Annotations, extensions, fast_path, value},
    spec::{AllowedUse, AssignmentMode, Encapsulation, IpPool},
    tree::excerpt,
};

const MODES: [(&str, Encapsulation); 3] = [
    ("Never", Encapsulation::Never),
    ("Always", Encapsulation::Always),
    ("CrossSubnet", Encapsulation::CrossSubnet),
];

pub(super) fn read(document: &mut Fields<'_, '_>, annotations: &mut Annotations<'_, '_>) -> Option<IpPool> {
    let fast_path = fast_path::of_pool(annotations);
    let extensions = extensions::of_pool(annotations);
    let Some(mut spec) = document.object("spec") else {
        if !document.is_set("spec") {
            document.refuse("spec", "is missing; an IPPool needs spec.cidr");
        }
        return None;
    };
    let cidr: Option<Prefix> = spec.parse("cidr", str::parse);
    if cidr.is_none() && !spec.is_set("cidr") {
        spec.refuse("cidr", "is missing; write a prefix, such as 172.16.0.0/16");
    }
    let block_size = spec.integer("blockSize", 0..=128).and_then(|len| u8::try_from(len).ok());
    let mode = spec.choice(
        "assignmentMode",
        &[("Automatic", AssignmentMode::Automatic), ("Manual", AssignmentMode::Manual)],
    );
    let ipip_mode = spec.choice("ipipMode", &MODES).unwrap_or_default();
    let vxlan_mode = spec.choice("vxlanMode", &MODES).unwrap_or_default();
    let nat_outgoing = spec.boolean("natOutgoing").unwrap_or(false);
    let disabled = spec.boolean("disabled").unwrap_or(false);
    let disable_bgp_export = spec.boolean("disableBGPExport").unwrap_or(false);
    spec.parse("nodeSelector", value::selector);
    let node_selector = spec.text("nodeSelector").unwrap_or("all()").to_owned();
    let allowed_uses = allowed_uses(&mut spec);
    spec.parse("namespaceSelector", value::selector);
    if spec.is_set("ipip") || spec.is_set("nat-outgoing") {
        spec.accept(&[("ipip", Form::Any), ("nat-outgoing", Form::Any)]);
        spec.refuse_all("ipip and nat-outgoing are fields of the old v1 form; use ipipMode and natOutgoing");
    }
    if ipip_mode != Encapsulation::Never && vxlan_mode != Encapsulation::Never {
        spec.refuse("vxlanMode", "ipipMode and vxlanMode cannot both be enabled on the same IP pool");
    }
    let encapsulated = ipip_mode != Encapsulation::Never || vxlan_mode != Encapsulation::Never;
    if encapsulated && allowed_uses.contains(&AllowedUse::LoadBalancer) {
        spec.refuse("allowedUses", "LoadBalancer IP pool cannot have IPIP or VXLAN enabled");
    }
    let pool = cidr.map(|cidr| IpPool {
        cidr,
        ipip_mode,
        vxlan_mode,
        nat_outgoing,
        disabled,
        disable_bgp_export,
        block_size: block_size.filter(|len| *len > 0).unwrap_or(if cidr.is_v4() { 26 } else { 122 }),
        node_selector,
        allowed_uses,
        assignment_mode: mode.unwrap_or_default(),
        fast_path,
        extensions,
    });
    if let Some(pool) = &pool {
        check_cidr(&spec, pool);
    }
    spec.finish();
    pool
}

/// What depends on the pool's family and size.
fn check_cidr(spec: &Fields<'_, '_>, pool: &IpPool) {
    let (cidr, size) = (pool.cidr, pool.block_size);
    if !cidr.is_v4() && pool.ipip_mode != Encapsulation::Never {
        spec.refuse("ipipMode", "IPIP is not supported on IPv6 pools; use vxlanMode, or Never");
    }
    let link_local = match cidr {
        Prefix::V4(cidr) => cidr.addr().is_link_local(),
        Prefix::V6(cidr) => cidr.addr().is_unicast_link_local(),
    };
    if link_local {
        spec.refuse("cidr", format!("{cidr} is link-local; pods cannot be reached by such addresses"));
    }
    let (family, range) = if cidr.is_v4() { ("IPv4", 20..=32) } else { ("IPv6", 116..=128) };
    if !range.contains(&size) {
        let (from, to) = range.into_inner();
        spec.refuse("blockSize", format!("the block size of an {family} pool is {from} to {to}, not {size}"));
    } else if size < cidr.len() && !pool.disabled {
        let field = if spec.is_set("blockSize") { "blockSize" } else { "cidr" };
        spec.refuse(
            field,
            format!(
                "IP pool size is too small: {cidr} holds no block of size {size}; it must be equal to or \
                     greater than the block size"
            ),
        );
    }
}

fn allowed_uses(spec: &mut Fields<'_, '_>) -> Vec<AllowedUse> {
    let mut uses = Vec::new();
    for text in spec.texts("allowedUses") {
        match text {
            "Workload" => uses.push(AllowedUse::Workload),
            "Tunnel" => uses.push(AllowedUse::Tunnel),
            "LoadBalancer" => uses.push(AllowedUse::LoadBalancer),
            _ => {
                let text = excerpt(text);
                spec.refuse(
                    "allowedUses",
                    format!("\"{text}\" is not one of Workload, Tunnel, LoadBalancer"),
                );
            }
        }
    }
    if uses.contains(&AllowedUse::LoadBalancer) && uses.iter().any(|used| *used != AllowedUse::LoadBalancer) {
        spec.refuse("allowedUses", "LoadBalancer cannot be combined with Workload or Tunnel allowed uses");
    }
    if uses.is_empty() {
        uses = vec![AllowedUse::Workload, AllowedUse::Tunnel];
    }
    uses
}
