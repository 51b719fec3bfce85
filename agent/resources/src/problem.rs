//! What is wrong with a document, where, and what would be right: the one form in which parsing, validation
//! and the datastores report to a user.

use std::fmt;

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// The document is taken, but something in it has no effect.
    Warning,
    /// The document is refused.
    Error,
}

/// One thing wrong with one document. Prints as
/// `peers.yaml:7:13: BGPPeer "bgppeer-global": spec.asNumber: …`; what is not known is left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    pub severity: Severity,
    /// The file as the reader was told to call it.
    pub file: String,
    /// Line and column, both from 1; the column counts characters.
    pub place: Option<(usize, usize)>,
    /// The document's kind and name as written, such as `BGPPeer "bgppeer-global"`.
    pub subject: Option<String>,
    /// The path of the field, such as `spec.asNumber` or `spec.filters[2]`.
    pub field: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(": ")?;
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}
