use serde::{Deserialize, Serialize};

/// Whether others may count on this node, by the rule of calico-node's readiness probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    pub ready: bool,
    /// Why it is not, in one line; null if it is.
    pub reason: Option<String>,
    /// A sentence for each peer that is not Established, also where the node is ready without it; of very many the first.
    pub down: Vec<String>,
}
