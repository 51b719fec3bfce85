//! `GET /v1/drain`, and by POST the orders: how a node leaves without a packet lost.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainStatus {
    pub node: String,
    /// Null: it is not drained, nor about to be.
    pub drain: Option<Drain>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    pub stage: DrainStage,
    /// When it was ordered.
    pub since: String,
    /// What the peers' operators read as the reason.
    pub text: String,
    /// Packets a second that came by uplinks for pods, over the last seconds; null: not known yet, or no programs count them.
    pub packets: Option<f64>,
}

/// In this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DrainStage {
    /// Everybody is asked to go another way (RFC 8326), and the routes stay while packets come.
    Leaving,
    /// No packets come any more, and the routes of this node are withdrawn.
    Withdrawn,
    /// The sessions are closed.
    Closed,
}
