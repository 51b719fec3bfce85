//! A node's plan as `manxctl plan -o json` prints it, read by the names that are its interface: what another speaker
//! in Manx's place has to be told.

use std::net::{IpAddr, Ipv4Addr};

use manx_api::PeerKind;
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub node: String,
    pub as_number: u32,
    pub router_id: Ipv4Addr,
    pub cluster_id: Option<Ipv4Addr>,
    pub listen_port: u16,
    pub peers: Vec<Peer>,
    pub blocks: Vec<String>,
    pub pools: Vec<Pool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    pub address: IpAddr,
    pub port: u16,
    pub as_number: u32,
    pub local_as_number: Option<u32>,
    pub kind: PeerKind,
    pub rr_client: bool,
    pub cluster_id: Option<Ipv4Addr>,
    pub dial: Dial,
    pub source_address: Option<IpAddr>,
    pub next_hop: NextHop,
    pub ttl_security: Option<u8>,
    pub password_from: Option<serde_json::Value>,
    /// Seconds.
    pub restart_time: Option<u32>,
    /// Seconds.
    pub keepalive_time: Option<u32>,
    pub allow_local_as: u32,
    pub filters: Vec<String>,
    pub resource: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Dial {
    First,
    Later,
    Never,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum NextHop {
    Auto,
    #[serde(rename = "self")]
    Own,
    Keep,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    pub cidr: String,
    pub disabled: bool,
    #[serde(rename = "disableBGPExport")]
    pub disable_bgp_export: bool,
}
