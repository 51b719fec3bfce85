//! manx-resources
