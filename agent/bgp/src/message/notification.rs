//! NOTIFICATION (RFC 4271 §4.5) with the names of its codes (RFC 6608, 4486, 7313, 9687) and the shutdown
//! communication (RFC 9003).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::{NOTIFICATION, write_message};

/// Why the sender closes the session.
#[derive(Clone, PartialEq, Eq)]
pub struct Notification {
    pub code: u8,
    pub subcode: u8,
    pub data: Bytes,
}

/// Cease subcodes, RFC 4486.
pub mod cease {
    pub const MAXIMUM_PREFIXES: u8 = 1;
    pub const SHUTDOWN: u8 = 2;
    pub const DECONFIGURED: u8 = 3;
    pub const CONFIGURATION_CHANGE: u8 = 6;
    pub const COLLISION: u8 = 7;
    pub const OUT_OF_RESOURCES: u8 = 8;
    /// RFC 8538 §3.
    pub const HARD_RESET: u8 = 9;
    /// RFC 9384.
    pub const BFD_DOWN: u8 = 10;
}

impl Notification {
    pub fn new(code: u8, subcode: u8, data: &[u8]) -> Notification {
        Notification { code, subcode, data: Bytes::copy_from_slice(data) }
    }

    pub fn cease(subcode: u8) -> Notification {
        Notification::new(6, subcode, &[])
    }

    /// Cease with a text; at most 255 octets of it, cut between characters (RFC 9003 §2).
    pub fn cease_with_text(subcode: u8, text: &str) -> Notification {
        let end = text.floor_char_boundary(255);
        let mut data = BytesMut::with_capacity(1 + end);
        data.put_u8(end as u8);
        #[expect(clippy::indexing_slicing, reason = "`end` is a character boundary within the text")]
        data.put_slice(&text.as_bytes()[..end]);
        Notification { code: 6, subcode, data: data.freeze() }
    }

    pub fn hold_timer_expired() -> Notification {
        Notification::new(4, 0, &[])
    }

    /// RFC 9687 §5.
    pub fn send_hold_timer_expired() -> Notification {
        Notification::new(8, 0, &[])
    }

    /// The body has at least two octets: framing saw to it; should it not, the answer is code 0.
    pub fn parse(body: &Bytes) -> Notification {
        match **body {
            [code, subcode, ..] => Notification { code, subcode, data: body.slice(2..) },
            _ => Notification { code: 0, subcode: 0, data: Bytes::new() },
        }
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(21 + self.data.len());
        write_message(&mut out, NOTIFICATION, |out| {
            out.put_u8(self.code);
            out.put_u8(self.subcode);
            // What we echo of a broken message may be as long as that was.
            #[expect(clippy::indexing_slicing, reason = "cut at its own length")]
            out.put_slice(&self.data[..self.data.len().min(4000)]);
        });
        out.freeze()
    }

    /// The same in a Hard Reset, so that the peer does not keep our routes (RFC 8538 §3.1).
    pub fn hard_reset(&self) -> Notification {
        let mut data = BytesMut::with_capacity(2 + self.data.len());
        data.put_u8(self.code);
        data.put_u8(self.subcode);
        data.put_slice(&self.data);
        Notification { code: 6, subcode: cease::HARD_RESET, data: data.freeze() }
    }

    pub fn is_hard_reset(&self) -> bool {
        (self.code, self.subcode) == (6, cease::HARD_RESET)
    }

    /// What a Hard Reset is about; else the NOTIFICATION itself. A Hard Reset in a Hard Reset is not looked into.
    fn essence(&self) -> Notification {
        match *self.data {
            [code, subcode, ..] if self.is_hard_reset() => {
                Notification { code, subcode, data: self.data.slice(2..) }
            }
            _ => self.clone(),
        }
    }

    /// "Cease / Peer De-configured"; of a Hard Reset also what it is about.
    pub fn name(&self) -> String {
        let essence = self.essence();
        if essence == *self {
            return self.plain_name();
        }
        format!("{} ({})", self.plain_name(), essence.plain_name())
    }

    fn plain_name(&self) -> String {
        let (code, subcode) = names(self.code, self.subcode);
        match (code, subcode) {
            (Some(code), Some(subcode)) => format!("{code} / {subcode}"),
            (Some(code), None) if self.subcode == 0 => code.to_owned(),
            (Some(code), None) => format!("{code} / subcode {}", self.subcode),
            (None, _) => format!("code {} / subcode {}", self.code, self.subcode),
        }
    }

    /// The shutdown communication of Cease/2 and /4, with control characters escaped: it goes into logs.
    pub fn text(&self) -> Option<String> {
        self.essence().plain_text()
    }

    fn plain_text(&self) -> Option<String> {
        if self.code != 6 || !matches!(self.subcode, 2 | 4) {
            return None;
        }
        let (&length, rest) = self.data.split_first()?;
        let text = rest.get(..usize::from(length))?;
        if text.is_empty() {
            return None;
        }
        Some(
            String::from_utf8_lossy(text)
                .chars()
                .flat_map(|c| {
                    let escaped =
                        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}');
                    escaped.then(|| c.escape_default()).into_iter().flatten().chain((!escaped).then_some(c))
                })
                .collect(),
        )
    }

    /// Did the sender find fault with what we sent, rather than end the session for its own reasons?
    pub fn is_error(&self) -> bool {
        !matches!(self.essence().code, 4 | 6 | 8)
    }
}

impl fmt::Debug for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({}) {:02x?}", self.code, self.subcode, self.name(), &self.data[..])
    }
}

fn names(code: u8, subcode: u8) -> (Option<&'static str>, Option<&'static str>) {
    let (name, subcodes): (&str, &[&str]) = match code {
        1 => (
            "Message Header Error",
            &["Unspecific", "Connection Not Synchronized", "Bad Message Length", "Bad Message Type"],
        ),
        2 => (
            "OPEN Message Error",
            &[
                "Unspecific",
                "Unsupported Version Number",
                "Bad Peer AS",
                "Bad BGP Identifier",
                "Unsupported Optional Parameter",
                "Authentication Failure",
                "Unacceptable Hold Time",
                "Unsupported Capability",
                "",
                "",
                "",
                "Role Mismatch",
            ],
        ),
        3 => (
            "UPDATE Message Error",
            &[
                "Unspecific",
                "Malformed Attribute List",
                "Unrecognized Well-known Attribute",
                "Missing Well-known Attribute",
                "Attribute Flags Error",
                "Attribute Length Error",
                "Invalid ORIGIN Attribute",
                "AS Routing Loop",
                "Invalid NEXT_HOP Attribute",
                "Optional Attribute Error",
                "Invalid Network Field",
                "Malformed AS_PATH",
            ],
        ),
        4 => ("Hold Timer Expired", &[]),
        5 => (
            "Finite State Machine Error",
            &[
                "Unspecified",
                "Unexpected Message in OpenSent State",
                "Unexpected Message in OpenConfirm State",
                "Unexpected Message in Established State",
            ],
        ),
        6 => (
            "Cease",
            &[
                "",
                "Maximum Number of Prefixes Reached",
                "Administrative Shutdown",
                "Peer De-configured",
                "Administrative Reset",
                "Connection Rejected",
                "Other Configuration Change",
                "Connection Collision Resolution",
                "Out of Resources",
                "Hard Reset",
                "BFD Down",
            ],
        ),
        7 => ("ROUTE-REFRESH Message Error", &["", "Invalid Message Length"]),
        8 => ("Send Hold Timer Expired", &[]),
        _ => return (None, None),
    };
    (Some(name), subcodes.get(usize::from(subcode)).copied().filter(|name| !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Behaviour 60.
    #[test]
    fn a_shutdown_text_is_cut_between_characters_and_read_back_escaped() {
        let long = "ä".repeat(200);
        let sent = Notification::cease_with_text(cease::SHUTDOWN, &long);
        assert_eq!(sent.data.len(), 1 + 254);
        assert_eq!(sent.text().unwrap().chars().count(), 127);
        let sent = Notification::cease_with_text(cease::SHUTDOWN, "back\nsoon\u{1b}[31m");
        assert_eq!(sent.text().unwrap(), "back\\nsoon\\u{1b}[31m");
    }

    #[test]
    fn a_shutdown_text_longer_than_the_message_is_no_text() {
        assert_eq!(Notification::new(6, 2, &[200, b'x']).text(), None);
        assert_eq!(Notification::new(6, 2, &[]).text(), None);
    }

    #[test]
    fn codes_have_the_names_of_their_rfcs() {
        assert_eq!(Notification::new(2, 2, &[]).name(), "OPEN Message Error / Bad Peer AS");
        assert_eq!(Notification::cease(7).name(), "Cease / Connection Collision Resolution");
        assert_eq!(Notification::new(4, 0, &[]).name(), "Hold Timer Expired");
        assert_eq!(Notification::new(6, 99, &[]).name(), "Cease / subcode 99");
        assert_eq!(Notification::new(99, 1, &[]).name(), "code 99 / subcode 1");
    }

    #[test]
    fn a_hard_reset_shows_what_it_is_about() {
        let reset = Notification::cease_with_text(cease::SHUTDOWN, "back soon").hard_reset();
        assert_eq!((reset.code, reset.subcode, &reset.data[..4]), (6, 9, &[6, 2, 9, b'b'][..]));
        assert_eq!(reset.name(), "Cease / Hard Reset (Cease / Administrative Shutdown)");
        assert_eq!(reset.text().as_deref(), Some("back soon"));
        assert!(!reset.is_error() && Notification::new(3, 1, &[]).hard_reset().is_error());
        assert_eq!(Notification::cease(9).name(), "Cease / Hard Reset");
    }

    #[test]
    fn what_is_encoded_is_parsed_back() {
        let sent = Notification::new(1, 2, &[0, 5]);
        let mut wire = BytesMut::from(&sent.encode()[..]);
        let Ok(Some(super::super::Message::Notification(body))) =
            super::super::next_message(&mut wire, super::super::MAX_LEN)
        else {
            panic!("not a NOTIFICATION")
        };
        assert_eq!(Notification::parse(&body), sent);
    }
}
