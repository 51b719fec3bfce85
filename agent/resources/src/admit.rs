//! Rules that need more than the document: the object as it was, and the others. Calico asks them of whoever writes; a
//! directory that people edit by hand is read all the same, and the plan warns.

use crate::{
    Problem, Resource, Severity, Snapshot,
    spec::{AllowedUse, IpPool},
};

/// Why `new` may not take the place of `old`, among `all` as it will be then. `file` is what problems call the place
/// where it is written.
pub fn admit(file: &str, old: Option<&Resource>, new: &Resource, all: &Snapshot) -> Vec<Problem> {
    if old.is_some_and(|old| old.document() == new.document()) {
        return Vec::new();
    }
    let Resource::IpPool(pool) = new else { return Vec::new() };
    let mut problems = Vec::new();
    let mut refuse = |field: &str, message: String| {
        problems.push(Problem {
            severity: Severity::Error,
            file: file.to_owned(),
            place: None,
            subject: Some(format!("{} \"{}\"", new.kind(), new.name())),
            field: Some(field.to_owned()),
            message,
        });
    };
    if let Some(Resource::IpPool(before)) = old {
        let (before, now): (&IpPool, &IpPool) = (&before.spec, &pool.spec);
        let remedy = "make a new pool beside it, disable this one, and delete it when its addresses are free";
        if before.cidr != now.cidr {
            refuse("spec.cidr", format!("IPPool CIDR cannot be modified; it is {}: {remedy}", before.cidr));
        }
        if before.block_size != now.block_size {
            let size = before.block_size;
            refuse("spec.blockSize", format!("IPPool BlockSize cannot be modified; it is {size}: {remedy}"));
        }
        let balances = |pool: &IpPool| pool.allowed_uses.contains(&AllowedUse::LoadBalancer);
        if balances(before) && !balances(now) {
            let said = "IPPool allowed use cannot be changed from LoadBalancer to Workload or Tunnel";
            refuse("spec.allowedUses", format!("{said}; {remedy}"));
        }
    }
    let cidr = pool.spec.cidr;
    for other in all.ip_pools().filter(|other| other.name() != new.name() && other.spec.cidr.overlaps(cidr)) {
        let (name, of) = (other.name(), other.spec.cidr);
        // What has overlapped all along is not of this change.
        if old.is_some_and(|old| matches!(old, Resource::IpPool(before) if before.spec.cidr == cidr)) {
            continue;
        }
        refuse("spec.cidr", format!("IPPool({}) CIDR overlaps with IPPool({name}) CIDR {of}", new.name()));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn pool(name: &str, spec: &str) -> Resource {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        );
        let mut parsed = parse("f", &text);
        assert_eq!(parsed.problems, []);
        parsed.documents.remove(0).resource
    }

    fn said(old: Option<&Resource>, new: &Resource, others: &[&Resource]) -> Vec<String> {
        let mut all = Snapshot::default();
        others.iter().for_each(|other| all.insert((*other).clone()));
        all.insert(new.clone());
        admit("store", old, new, &all).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_pool_is_cannot_change_and_what_it_does_can() {
        let old = pool("a", "cidr: 10.0.0.0/16");
        assert_eq!(said(Some(&old), &pool("a", "cidr: 10.0.0.0/16, natOutgoing: true"), &[]), [""; 0]);
        let new = pool("a", "cidr: 10.1.0.0/16, blockSize: 28");
        let remedy = "make a new pool beside it, disable this one, and delete it when its addresses are free";
        assert_eq!(
            said(Some(&old), &new, &[]),
            [
                format!(
                    "store: IPPool \"a\": spec.cidr: IPPool CIDR cannot be modified; it is 10.0.0.0/16: {remedy}"
                ),
                format!(
                    "store: IPPool \"a\": spec.blockSize: IPPool BlockSize cannot be modified; it is 26: {remedy}"
                ),
            ]
        );
        let old = pool("a", "cidr: 10.0.0.0/16, allowedUses: [LoadBalancer]");
        assert_eq!(said(Some(&old), &pool("a", "cidr: 10.0.0.0/16, allowedUses: [Workload]"), &[]).len(), 1);
    }

    #[test]
    fn pools_that_overlap_are_refused_where_one_is_made_and_not_where_they_are() {
        let (old, other) = (pool("a", "cidr: 10.0.0.0/16"), pool("b", "cidr: 10.0.1.0/24"));
        assert_eq!(
            said(None, &other, &[&old]),
            ["store: IPPool \"b\": spec.cidr: IPPool(b) CIDR overlaps with IPPool(a) CIDR 10.0.0.0/16"]
        );
        assert_eq!(said(None, &pool("c", "cidr: 10.1.0.0/16"), &[&old, &other]), [""; 0]);
        let disabled = pool("b", "cidr: 10.0.1.0/24, disabled: true");
        assert_eq!(said(Some(&other), &disabled, &[&old]), [""; 0]);
    }
}
