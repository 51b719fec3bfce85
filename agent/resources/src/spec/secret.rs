//! What must not be shown.

use std::{collections::BTreeMap, fmt};

/// `Secret`, as Kubernetes has it: values by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secret {
    pub data: BTreeMap<String, Hidden>,
}

/// Octets that no form of printing shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub Vec<u8>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(..)")
    }
}
