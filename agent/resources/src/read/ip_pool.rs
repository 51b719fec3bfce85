//! The fields of IPPool.

use manx_net::{ParsePrefixError, Prefix};

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
    let cidr: Option<Prefix> = spec.parse("cidr", |text| {
        text.parse().map_err(|error: ParsePrefixError| match error {
            ParsePrefixError::HostBits { .. } => format!("IPPool CIDR must be strictly masked; {error}"),
            error => error.to_string(),
        })
    });
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
    selector(&mut spec, "nodeSelector", "global() selector is not valid for IPPool nodeSelector");
    let node_selector = spec.text("nodeSelector").unwrap_or("all()").to_owned();
    selector(&mut spec, "namespaceSelector", "global() selector is not valid for IPPool namespaceSelector");
    let of_namespaces = spec.text("namespaceSelector").is_some();
    let given = spec.length_of("allowedUses") > 0;
    let allowed_uses = allowed_uses(&mut spec);
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
    if allowed_uses.contains(&AllowedUse::LoadBalancer) {
        if disable_bgp_export {
            spec.refuse("disableBGPExport", "LoadBalancer IP pools cannot disable BGP export");
        }
        if node_selector != "all()" {
            spec.refuse(
                "nodeSelector",
                "IP Pool with AllowedUse LoadBalancer must have nodeSelector set to all()",
            );
        }
    }
    if given && of_namespaces && allowed_uses.contains(&AllowedUse::Tunnel) {
        spec.refuse("namespaceSelector", "IP Pool with AllowedUse Tunnel cannot have namespaceSelector");
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

/// Of nodes or namespaces; of neither has `global()` a meaning.
fn selector(spec: &mut Fields<'_, '_>, field: &'static str, global: &'static str) {
    match spec.text(field) {
        Some(text) if text.contains("global(") => spec.refuse(field, format!("{global}; leave it out")),
        _ => drop(spec.parse(field, value::selector)),
    }
}

/// Where no pod can have an address (RFC 3927, RFC 4291 §2.5.6), in Calico's words.
const LINK_LOCAL: [(&str, &str); 2] = [("169.254.0.0/16", "IPv4"), ("fe80::/10", "IPv6")];

/// What depends on the pool's family and size.
fn check_cidr(spec: &Fields<'_, '_>, pool: &IpPool) {
    let (cidr, size) = (pool.cidr, pool.block_size);
    if !cidr.is_v4() && pool.ipip_mode != Encapsulation::Never {
        spec.refuse("ipipMode", "IPIP is not supported on IPv6 pools; use vxlanMode, or Never");
    }
    for (range, family) in LINK_LOCAL {
        if range.parse().is_ok_and(|range: Prefix| range.overlaps(cidr)) {
            spec.refuse(
                "cidr",
                format!(
                    "IPPool CIDR overlaps with {family} link local range {range}; pods cannot be reached by such addresses"
                ),
            );
        }
    }
    let range = if cidr.is_v4() { 20..=32 } else { 116..=128 };
    if !range.contains(&size) {
        spec.refuse(
            "blockSize",
            format!(
                "blockSize must be between 20 and 32 for IPv4 pools, and between 116 and 128 for IPv6 pools, not {size}"
            ),
        );
    } else if size < cidr.len() && !pool.disabled {
        let field = if spec.is_set("blockSize") { "blockSize" } else { "cidr" };
        spec.refuse(
            field,
            format!(
                "IP pool size is too small for use with Calico IPAM. It must be equal to or greater than the block size: \
                 {cidr} holds no block of size {size}"
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
