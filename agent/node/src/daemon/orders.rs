//! What an operator orders for a peer, besides what the resources say: it lasts as long as this process.

use std::net::{IpAddr, SocketAddr};

use manx_api as api;
use manx_bgp::{
    Event, PeerKey,
    view::{PeerView, SessionState},
};

use super::{Daemon, answers};
use crate::api::{Answer, PeerOrder};

impl Daemon {
    pub(super) fn carry_out(&mut self, address: IpAddr, order: PeerOrder) -> Answer {
        let Some(speaker) = &mut self.speaker else { return Answer::Unavailable(self.no_plan()) };
        let peers: Vec<PeerView> =
            speaker.peers().into_iter().filter(|peer| peer.address == address).collect();
        if peers.is_empty() {
            return Answer::Unknown(format!(
                "{address} is no peer of this node; `manxctl node status` lists them"
            ));
        }
        if order == PeerOrder::Refresh
            && let Some(why) = peers.iter().find_map(why_no_refresh)
        {
            return Answer::Unavailable(format!("{address} cannot be asked for its routes: {why}"));
        }
        let now = self.clock.now();
        for peer in &peers {
            let key = PeerKey { address, port: peer.port };
            let (event, said) = match &order {
                PeerOrder::Refresh => (Event::Refresh { peer: key }, "is asked for its routes again"),
                PeerOrder::Disable { text } => {
                    (Event::Disable { peer: key, text: text.clone() }, "is disabled by an operator")
                }
                PeerOrder::Enable => (Event::Enable { peer: key }, "is enabled by an operator"),
            };
            tracing::info!(peer = %key, "{said}");
            speaker.handle(event, now);
        }
        let peers = peers.iter().map(|peer| SocketAddr::new(peer.address, peer.port)).collect();
        answers::json(&api::Ordered { node: self.node.clone(), peers })
    }
}

fn why_no_refresh(peer: &PeerView) -> Option<String> {
    match &peer.negotiated {
        Some(agreed) if peer.state == SessionState::Established => {
            (!agreed.route_refresh).then(|| "it did not offer ROUTE-REFRESH (RFC 2918)".to_owned())
        }
        _ => Some(format!("there is no session ({})", peer.state.name())),
    }
}
