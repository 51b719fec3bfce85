//! Messages as the wire has them: framing and the five types (RFC 4271 §4, RFC 2918). Parsing is with `nom` and
//! cannot run past its input; what is wrong with a message has a type, and that type knows the NOTIFICATION
//! that answers it. What a correct message *means* for a session is the session's business.

pub mod notification;
pub mod open;
pub mod refresh;
pub mod update;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use notification::Notification;

pub const MARKER: [u8; 16] = [0xff; 16];
pub const HEADER_LEN: usize = 19;
/// Unless both sides announced extended messages, and for OPEN and KEEPALIVE always (RFC 8654 §3).
pub const MAX_LEN: usize = 4096;
/// With extended messages.
pub const MAX_EXTENDED_LEN: usize = 65535;

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
const ROUTE_REFRESH: u8 = 5;

/// One framed message: the bytes after the header, not looked into yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Open(Bytes),
    Update(Bytes),
    Notification(Bytes),
    Keepalive,
    RouteRefresh(Bytes),
}

/// RFC 4271 §6.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    #[error("the marker is not all ones")]
    NotSynchronized,
    #[error("a message of this type cannot be {0} octets long")]
    BadLength(u16),
    #[error("message type {0} does not exist")]
    BadType(u8),
}

impl FramingError {
    pub fn notification(self) -> Notification {
        match self {
            FramingError::NotSynchronized => Notification::new(1, 1, &[]),
            FramingError::BadLength(length) => Notification::new(1, 2, &length.to_be_bytes()),
            FramingError::BadType(kind) => Notification::new(1, 3, &[kind]),
        }
    }
}

/// Takes the next message off the front of `buffer`; `None` if it is not complete yet. A header is judged as soon as
/// it is there, so that no length makes us wait for more than `longest` octets.
pub fn next_message(buffer: &mut BytesMut, longest: usize) -> Result<Option<Message>, FramingError> {
    let Some(header) = buffer.first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let [marker @ .., a, b, kind] = *header;
    if marker != MARKER {
        return Err(FramingError::NotSynchronized);
    }
    let length = u16::from_be_bytes([a, b]);
    let size = usize::from(length);
    if !(HEADER_LEN..=longest).contains(&size) {
        return Err(FramingError::BadLength(length));
    }
    let possible = match kind {
        OPEN => (29..=MAX_LEN).contains(&size),
        UPDATE => size >= 23,
        NOTIFICATION => size >= 21,
        KEEPALIVE => size == HEADER_LEN,
        // RFC 7313 §5 has its own error for a wrong length; it needs the body's first octets to be judged.
        ROUTE_REFRESH => true,
        other => return Err(FramingError::BadType(other)),
    };
    if !possible {
        return Err(FramingError::BadLength(length));
    }
    if buffer.len() < size {
        return Ok(None);
    }
    let mut whole = buffer.split_to(size);
    whole.advance(HEADER_LEN);
    let body = whole.freeze();
    Ok(Some(match kind {
        OPEN => Message::Open(body),
        UPDATE => Message::Update(body),
        NOTIFICATION => Message::Notification(body),
        KEEPALIVE => Message::Keepalive,
        _ => Message::RouteRefresh(body),
    }))
}

/// Appends a message with the body that `body` writes. The caller keeps it within
/// what the peer takes.
pub fn write_message(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_slice(&MARKER);
    out.put_u16(0);
    out.put_u8(kind);
    body(out);
    let length = out.len() - start;
    debug_assert!(length <= MAX_EXTENDED_LEN, "a message of {length} octets");
    #[expect(clippy::indexing_slicing, reason = "the header was written above")]
    out[start + 16..start + 18].copy_from_slice(&(length as u16).to_be_bytes());
}

pub fn keepalive() -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_LEN);
    write_message(&mut out, KEEPALIVE, |_| ());
    out.freeze()
}

/// The length of the message that `bytes` begins with, which we wrote ourselves.
pub fn length_of_first(bytes: &[u8]) -> Option<usize> {
    let [.., a, b, _] = *bytes.first_chunk::<HEADER_LEN>()?;
    Some(usize::from(u16::from_be_bytes([a, b])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(kind: u8, length: u16, body: usize) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_slice(&MARKER);
        out.put_u16(length);
        out.put_u8(kind);
        out.put_bytes(0, body);
        out
    }

    /// Behaviour 6.
    #[test]
    fn a_length_that_the_type_cannot_have_is_answered_with_that_length() {
        for (kind, length) in
            [(KEEPALIVE, 20), (OPEN, 28), (UPDATE, 22), (NOTIFICATION, 20), (KEEPALIVE, 18), (UPDATE, 4097)]
        {
            let error = next_message(&mut framed(kind, length, 0), MAX_LEN).unwrap_err();
            assert_eq!(error, FramingError::BadLength(length));
            assert_eq!(error.notification(), Notification::new(1, 2, &length.to_be_bytes()));
        }
    }

    /// Behaviour 23.
    #[test]
    fn an_extended_message_may_be_longer_but_open_and_keepalive_may_not() {
        for kind in [UPDATE, NOTIFICATION, ROUTE_REFRESH] {
            let mut whole = framed(kind, 65535, 65535 - HEADER_LEN);
            assert!(next_message(&mut whole.clone(), MAX_EXTENDED_LEN).unwrap().is_some());
            let error = next_message(&mut whole, MAX_LEN).unwrap_err();
            assert_eq!(error, FramingError::BadLength(65535));
        }
        for kind in [OPEN, KEEPALIVE] {
            let error = next_message(&mut framed(kind, 4097, 0), MAX_EXTENDED_LEN).unwrap_err();
            assert_eq!(error, FramingError::BadLength(4097));
        }
    }

    /// Behaviour 7.
    #[test]
    fn a_broken_marker_and_an_unknown_type_have_their_own_errors() {
        let mut broken = framed(KEEPALIVE, 19, 0);
        broken[7] = 0xfe;
        assert_eq!(
            next_message(&mut broken, MAX_LEN).unwrap_err().notification(),
            Notification::new(1, 1, &[])
        );
        let error = next_message(&mut framed(6, 19, 0), MAX_LEN).unwrap_err();
        assert_eq!(error.notification(), Notification::new(1, 3, &[6]));
    }

    proptest! {
        /// Behaviour 5.
        #[test]
        fn where_the_stream_is_cut_changes_nothing(sizes in prop::collection::vec(4usize..300, 1..20), cut in 1usize..50) {
            let mut stream = BytesMut::new();
            for size in &sizes {
                write_message(&mut stream, UPDATE, |out| out.put_bytes(7, *size));
            }
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for piece in stream.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(Message::Update(body)) = next_message(&mut buffer, MAX_LEN).unwrap() {
                    seen.push(body.len());
                }
            }
            prop_assert_eq!(seen, sizes);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn no_bytes_make_the_framing_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = next_message(&mut buffer, MAX_LEN) {}
        }
    }
}
