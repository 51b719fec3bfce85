//! The forms in which `get` prints objects, beside tables, YAML and JSON.

pub mod columns;
pub mod jsonpath;
