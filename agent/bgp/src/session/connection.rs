//! One TCP connection to a peer: its place in the state machine, its input, and the messages that go before any
//! routes.

use std::{
    collections::VecDeque,
    net::{Ipv6Addr, SocketAddr},
};

use bytes::{Bytes, BytesMut};

use super::negotiation::Negotiated;
use crate::{
    Time,
    event::ConnId,
    message::{FramingError, MAX_EXTENDED_LEN, MAX_LEN, Message, next_message},
    rib::table::PeerSlot,
    view::{Direction, SessionState},
};

#[derive(Debug)]
pub struct Connection {
    pub id: ConnId,
    pub peer: PeerSlot,
    pub direction: Direction,
    pub stage: Stage,
    pub local: Option<SocketAddr>,
    pub remote: SocketAddr,
    /// Our address on the link that we share with the peer.
    pub link_local: Option<Ipv6Addr>,
    /// When it was accepted or its dial succeeded.
    pub since: Time,
    pub negotiated: Option<Negotiated>,
    /// Since the last message that counts (RFC 4271 §4.4). The timer looks here when it fires, so that a message
    /// costs no more than this.
    pub heard: Time,
    /// When the driver last took something to send; it does when the peer reads. The send hold timer looks here.
    pub taken: Time,
    /// [`crate::Output::Transmit`] has been said.
    pub asked: bool,
    input: BytesMut,
    output: VecDeque<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Dialling,
    OpenSent,
    OpenConfirm,
    Established,
    /// Nothing is read any more; what is queued goes out.
    Closing,
}

impl Connection {
    pub fn new(
        id: ConnId,
        peer: PeerSlot,
        direction: Direction,
        stage: Stage,
        remote: SocketAddr,
        now: Time,
    ) -> Connection {
        Connection {
            id,
            peer,
            direction,
            stage,
            local: None,
            remote,
            link_local: None,
            since: now,
            negotiated: None,
            heard: now,
            taken: now,
            asked: false,
            input: BytesMut::new(),
            output: VecDeque::new(),
        }
    }

    pub fn state(&self) -> SessionState {
        match self.stage {
            Stage::Dialling => SessionState::Connect,
            Stage::OpenSent => SessionState::OpenSent,
            Stage::OpenConfirm => SessionState::OpenConfirm,
            Stage::Established => SessionState::Established,
            Stage::Closing => SessionState::Idle,
        }
    }

    /// Bytes have arrived; take messages with [`Self::next_message`] until there is none.
    pub fn feed(&mut self, bytes: Bytes) {
        if self.input.is_empty() {
            // Whoever holds the only reference gives it away without a copy.
            self.input = BytesMut::from(bytes);
        } else {
            self.input.extend_from_slice(&bytes);
        }
    }

    pub fn next_message(&mut self) -> Result<Option<Message>, FramingError> {
        let extended = self.negotiated.as_ref().is_some_and(|negotiated| negotiated.extended_messages);
        let message = next_message(&mut self.input, if extended { MAX_EXTENDED_LEN } else { MAX_LEN })?;
        if message.is_none() && self.input.is_empty() {
            // An idle session keeps no buffer.
            self.input = BytesMut::new();
        }
        Ok(message)
    }

    pub fn queue(&mut self, message: Bytes) {
        self.output.push_back(message);
    }

    /// One keepalive waiting is enough: a peer that does not read costs nothing.
    pub fn queue_keepalive(&mut self, keepalive: Bytes) {
        if self.output.back() != Some(&keepalive) {
            self.queue(keepalive);
        }
    }

    pub fn next_output(&mut self) -> Option<Bytes> {
        self.output.pop_front()
    }
}
