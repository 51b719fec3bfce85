//! `-n`: whose resources are meant. Those here belong to the cluster, but for secrets.

use anyhow::{bail, ensure};
use manx_resources::{Kind, Resource};

#[derive(Clone, Debug, Default, clap::Args)]
pub struct Scope {
    /// Refused, as calicoctl does: these resources belong to the cluster
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

impl Scope {
    /// In calicoctl's words.
    pub fn check_kind(&self, kind: Kind) -> anyhow::Result<()> {
        match (&self.namespace, kind) {
            (None, _) => Ok(()),
            (Some(_), Kind::Secret) => {
                bail!("secrets are found by their names, whatever namespace they are in; leave -n out")
            }
            (Some(_), kind) => bail!("{kind} is not namespaced; leave -n out"),
        }
    }

    /// The same of an object, which may name its namespace itself.
    pub fn check(&self, resource: &Resource) -> anyhow::Result<()> {
        let Some(namespace) = self.namespace.as_deref().filter(|_| resource.kind() == Kind::Secret) else {
            return self.check_kind(resource.kind());
        };
        let own = resource.document().pointer("/metadata/namespace").and_then(serde_json::Value::as_str);
        let Some(own) = own else {
            bail!("{} names no namespace; write metadata.namespace, or leave -n out", resource.key())
        };
        ensure!(own == namespace, "resource namespace does not match client namespace. {own} != {namespace}");
        Ok(())
    }
}
