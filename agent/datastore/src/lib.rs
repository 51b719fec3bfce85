//! manx-datastore
