//! manx-bgp
