//! The control packet (RFC 5880 §4.1).

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

pub const VERSION: u8 = 1;
/// Without authentication.
pub const LENGTH: usize = 24;

/// RFC 5880 §4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    AdminDown,
    Down,
    Init,
    Up,
}

impl State {
    pub const ALL: [State; 4] = [State::AdminDown, State::Down, State::Init, State::Up];

    pub const fn name(self) -> &'static str {
        match self {
            State::AdminDown => "AdminDown",
            State::Down => "Down",
            State::Init => "Init",
            State::Up => "Up",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a session went down for the last time (RFC 5880 §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    pub const NONE: Diagnostic = Diagnostic(0);
    pub const TIME_EXPIRED: Diagnostic = Diagnostic(1);
    pub const NEIGHBOR_SAID: Diagnostic = Diagnostic(3);
    pub const ADMIN_DOWN: Diagnostic = Diagnostic(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "No Diagnostic",
            1 => "Control Detection Time Expired",
            2 => "Echo Function Failed",
            3 => "Neighbor Signaled Session Down",
            4 => "Forwarding Plane Reset",
            5 => "Path Down",
            6 => "Concatenated Path Down",
            7 => "Administratively Down",
            8 => "Reverse Concatenated Path Down",
            other => return write!(f, "diagnostic {other}"),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub diagnostic: Diagnostic,
    pub state: State,
    /// Asks for an answer with `is_final`.
    pub poll: bool,
    pub is_final: bool,
    /// The C bit: BFD runs apart from the control plane, and outlives its restart.
    pub independent: bool,
    pub demand: bool,
    pub detect_multiplier: u8,
    pub my_discriminator: u32,
    /// 0: not known yet.
    pub your_discriminator: u32,
    pub desired_min_tx: Duration,
    /// Zero: nothing is to be sent.
    pub required_min_rx: Duration,
    pub required_min_echo_rx: Duration,
}

/// Why a packet counts for nothing (RFC 5880 §6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    #[error("it has {0} octets, and says that it has {1}")]
    Length(usize, u8),
    #[error("it is of version {0}, and this is version {VERSION}")]
    Version(u8),
    #[error("it is authenticated, and no key is configured")]
    Authenticated,
    #[error("its detection multiplier is 0")]
    NoMultiplier,
    #[error("it says that it is multipoint, which is not in use")]
    Multipoint,
    #[error("it has no discriminator of its sender")]
    NoDiscriminator,
    #[error("it has no discriminator of ours, and says that the session is {0}")]
    NotAddressed(State),
}

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

impl Packet {
    /// In the order of RFC 5880 §6.8.6.
    pub fn parse(octets: &[u8]) -> Result<Packet, PacketError> {
        let Some(&[first, second, detect_multiplier, length, ref rest @ ..]) = octets.first_chunk::<LENGTH>()
        else {
            return Err(PacketError::Length(octets.len(), octets.get(3).copied().unwrap_or(0)));
        };
        if first >> 5 != VERSION {
            return Err(PacketError::Version(first >> 5));
        }
        if usize::from(length) < LENGTH || usize::from(length) > octets.len() {
            return Err(PacketError::Length(octets.len(), length));
        }
        if detect_multiplier == 0 {
            return Err(PacketError::NoMultiplier);
        }
        if second & MULTIPOINT != 0 {
            return Err(PacketError::Multipoint);
        }
        let mut words = rest.chunks_exact(4).map(|word| match word {
            &[a, b, c, d] => u32::from_be_bytes([a, b, c, d]),
            _ => 0,
        });
        let mut word = || words.next().unwrap_or(0);
        let (my_discriminator, your_discriminator) = (word(), word());
        let mut interval = || Duration::from_micros(u64::from(word()));
        if my_discriminator == 0 {
            return Err(PacketError::NoDiscriminator);
        }
        let state = match second >> 6 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        };
        if your_discriminator == 0 && !matches!(state, State::Down | State::AdminDown) {
            return Err(PacketError::NotAddressed(state));
        }
        if second & AUTHENTICATED != 0 {
            return Err(PacketError::Authenticated);
        }
        Ok(Packet {
            diagnostic: Diagnostic(first & 0x1f),
            state,
            poll: second & POLL != 0,
            is_final: second & FINAL != 0,
            independent: second & INDEPENDENT != 0,
            demand: second & DEMAND != 0,
            detect_multiplier,
            my_discriminator,
            your_discriminator,
            desired_min_tx: interval(),
            required_min_rx: interval(),
            required_min_echo_rx: interval(),
        })
    }

    pub fn encode(&self) -> [u8; LENGTH] {
        let state = match self.state {
            State::AdminDown => 0,
            State::Down => 1,
            State::Init => 2,
            State::Up => 3,
        };
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        let mut octets = [0; LENGTH];
        let head = [
            VERSION << 5 | self.diagnostic.0 & 0x1f,
            state << 6
                | bit(self.poll, POLL)
                | bit(self.is_final, FINAL)
                | bit(self.independent, INDEPENDENT)
                | bit(self.demand, DEMAND),
            self.detect_multiplier,
            LENGTH as u8,
        ];
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            micros(self.desired_min_tx),
            micros(self.required_min_rx),
            micros(self.required_min_echo_rx),
        ];
        let all = head.into_iter().chain(words.into_iter().flat_map(u32::to_be_bytes));
        for (octet, value) in octets.iter_mut().zip(all) {
            *octet = value;
        }
        octets
    }
}

fn micros(interval: Duration) -> u32 {
    u32::try_from(interval.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Packet {
        Packet {
            diagnostic: Diagnostic::TIME_EXPIRED,
            state: State::Init,
            poll: true,
            is_final: false,
            independent: true,
            demand: false,
            detect_multiplier: 3,
            my_discriminator: 0x0102_0304,
            your_discriminator: 5,
            desired_min_tx: Duration::from_millis(300),
            required_min_rx: Duration::from_millis(300),
            required_min_echo_rx: Duration::ZERO,
        }
    }

    #[test]
    fn a_packet_is_laid_out_as_in_the_rfc() {
        let octets = packet().encode();
        // 300 ms are 0x493e0 µs.
        assert_eq!(
            octets,
            [0x21, 0xa8, 3, 24, 1, 2, 3, 4, 0, 0, 0, 5, 0, 4, 0x93, 0xe0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0]
        );
        assert_eq!(Packet::parse(&octets), Ok(packet()));
    }

    #[test]
    fn what_the_rfc_discards_is_discarded_with_the_reason() {
        let whole = packet().encode();
        let with = |at: usize, value: u8| {
            let mut octets = whole.to_vec();
            octets[at] = value;
            Packet::parse(&octets).unwrap_err()
        };
        assert_eq!(Packet::parse(&whole[..23]), Err(PacketError::Length(23, 24)));
        assert_eq!(Packet::parse(&[]), Err(PacketError::Length(0, 0)));
        assert_eq!(with(0, 0x41), PacketError::Version(2));
        assert_eq!(with(0, 0x01), PacketError::Version(0));
        assert_eq!(with(3, 23), PacketError::Length(24, 23));
        assert_eq!(with(3, 25), PacketError::Length(24, 25));
        assert_eq!(with(2, 0), PacketError::NoMultiplier);
        assert_eq!(with(1, 0xa9), PacketError::Multipoint);
        assert_eq!(with(1, 0xac), PacketError::Authenticated);
        let mut octets = whole;
        octets[4..8].fill(0);
        assert_eq!(Packet::parse(&octets), Err(PacketError::NoDiscriminator));
        let mut octets = whole;
        octets[8..12].fill(0);
        assert_eq!(Packet::parse(&octets), Err(PacketError::NotAddressed(State::Init)));
        octets[1] = 0x40;
        assert!(Packet::parse(&octets).is_ok());
    }

    #[test]
    fn what_stands_behind_the_packet_is_left_alone() {
        let mut octets = packet().encode().to_vec();
        octets.extend([0xff; 40]);
        assert_eq!(Packet::parse(&octets), Ok(packet()));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_as_it_was(octets in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(packet) = Packet::parse(&octets) {
                let again = packet.encode();
                prop_assert_eq!(&again[..3], &octets[..3]);
                prop_assert_eq!(&again[4..], &octets[4..LENGTH]);
                prop_assert_eq!(Packet::parse(&again), Ok(packet));
            }
        }
    }
}
