//! OPEN (RFC 4271 §4.2) and its capabilities (RFC 5492), in the plain and in the extended form of the optional
//! parameters (RFC 9072). Whether the peer may be who it says is judged by the session.

use std::net::Ipv4Addr;

use bytes::{BufMut, Bytes, BytesMut};
use nom::{
    IResult, Parser,
    multi::length_data,
    number::complete::{be_u8, be_u16, be_u32},
};

use super::{OPEN, notification::Notification, write_message};
use crate::config::Family;

mod capability {
    pub const MULTIPROTOCOL: u8 = 1;
    pub const ROUTE_REFRESH: u8 = 2;
    pub const EXTENDED_NEXT_HOP: u8 = 5;
    pub const EXTENDED_MESSAGES: u8 = 6;
    pub const ROLE: u8 = 9;
    pub const GRACEFUL_RESTART: u8 = 64;
    pub const FOUR_OCTET_AS: u8 = 65;
    pub const ADD_PATH: u8 = 69;
    pub const ENHANCED_REFRESH: u8 = 70;
    pub const LONG_LIVED_RESTART: u8 = 71;
}

/// AFI and SAFI of the routes, AFI of their next hops, each of two octets (RFC 8950 §4).
const IPV4_BY_IPV6: [u8; 6] = [0, 1, 0, 1, 0, 2];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// As the two-octet field has it: 23456 where the real one does not fit.
    pub my_as: u16,
    /// Seconds, as sent: 1 and 2 are for the session to refuse.
    pub hold_time: u16,
    pub identifier: Ipv4Addr,
    pub capabilities: Capabilities,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Multiprotocol (RFC 4760 §8), of the families that Manx carries.
    pub families: Vec<Family>,
    /// There was a multiprotocol capability, of whatever family. Without any it is IPv4 unicast.
    pub multiprotocol: bool,
    /// RFC 6793; may be 0, which the session refuses.
    pub four_octet_as: Option<u32>,
    pub route_refresh: bool,
    /// RFC 7313.
    pub enhanced_refresh: bool,
    /// RFC 8654.
    pub extended_messages: bool,
    /// RFC 8950 §4, of the one pair that Manx knows: IPv4 unicast with IPv6 next hops.
    pub extended_next_hop: bool,
    pub role: OfferedRole,
    pub graceful_restart: Option<GracefulRestartCapability>,
    pub long_lived: Vec<LongLived>,
    pub add_path: Vec<AddPathOffer>,
}

/// RFC 7911 §4, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddPathOffer {
    pub family: Family,
    /// Takes several paths for a prefix.
    pub receive: bool,
    /// Announces several.
    pub send: bool,
}

/// RFC 9234 §4.1, as the octet stands there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OfferedRole {
    #[default]
    None,
    One(u8),
    /// Several that differ, for the session to refuse.
    Contradictory,
}

/// RFC 9494 §3, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongLived {
    pub family: Family,
    /// The F bit: forwarding state was preserved.
    pub preserved: bool,
    /// Seconds, 24 bits.
    pub time: u32,
}

/// RFC 4724 §3.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestartCapability {
    /// The R bit.
    pub restarting: bool,
    /// The N bit (RFC 8538 §2): routes outlive a NOTIFICATION, too.
    pub notifications: bool,
    /// Seconds, 12 bits.
    pub restart_time: u16,
    /// With the F bit.
    pub families: Vec<(Family, bool)>,
}

/// RFC 4271 §6.2, as far as the message alone shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("BGP version {0}")]
    Version(u8),
    #[error("optional parameter type {0}")]
    Parameter(u8),
    #[error("the optional parameters do not add up")]
    Malformed,
}

impl OpenError {
    pub fn notification(self) -> Notification {
        match self {
            OpenError::Version(_) => Notification::new(2, 1, &4u16.to_be_bytes()),
            OpenError::Parameter(_) => Notification::new(2, 4, &[]),
            OpenError::Malformed => Notification::new(2, 0, &[]),
        }
    }
}

impl Capabilities {
    /// What the peer can carry (behaviour 20).
    pub fn carries(&self, family: Family) -> bool {
        if self.multiprotocol { self.families.contains(&family) } else { family == Family::Ipv4Unicast }
    }

    fn read(&mut self, code: u8, value: &[u8]) {
        match code {
            capability::MULTIPROTOCOL => {
                let parsed: IResult<&[u8], (u16, u8, u8)> = (be_u16, be_u8, be_u8).parse(value);
                let Ok(([], (afi, _, safi))) = parsed else { return };
                self.multiprotocol = true;
                if let Some(family) = Family::from_wire(afi, safi)
                    && !self.families.contains(&family)
                {
                    self.families.push(family);
                }
            }
            capability::ROUTE_REFRESH => self.route_refresh = true,
            capability::ENHANCED_REFRESH => self.enhanced_refresh = true,
            capability::EXTENDED_MESSAGES => self.extended_messages = true,
            capability::EXTENDED_NEXT_HOP => {
                let (tuples, _) = value.as_chunks::<6>();
                self.extended_next_hop |= tuples.contains(&IPV4_BY_IPV6);
            }
            capability::ROLE => {
                // A value of another length is no role.
                let [role] = *value else { return };
                self.role = match self.role {
                    OfferedRole::None => OfferedRole::One(role),
                    OfferedRole::One(other) if other == role => OfferedRole::One(role),
                    _ => OfferedRole::Contradictory,
                };
            }
            capability::FOUR_OCTET_AS => {
                let parsed: IResult<&[u8], u32> = be_u32.parse(value);
                if let Ok(([], number)) = parsed {
                    self.four_octet_as = Some(number);
                }
            }
            capability::GRACEFUL_RESTART => {
                let parsed: IResult<&[u8], u16> = be_u16.parse(value);
                let Ok((rest, head)) = parsed else { return };
                let families = rest
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .filter_map(|&[a, b, safi, flags]| {
                        let family = Family::from_wire(u16::from_be_bytes([a, b]), safi)?;
                        Some((family, flags & 0x80 != 0))
                    })
                    .collect();
                self.graceful_restart = Some(GracefulRestartCapability {
                    restarting: head & 0x8000 != 0,
                    notifications: head & 0x4000 != 0,
                    restart_time: head & 0x0fff,
                    families,
                });
            }
            capability::LONG_LIVED_RESTART => {
                let (tuples, _) = value.as_chunks::<7>();
                self.long_lived = tuples
                    .iter()
                    .filter_map(|&[a, b, safi, flags, x, y, z]| {
                        let family = Family::from_wire(u16::from_be_bytes([a, b]), safi)?;
                        let time = u32::from_be_bytes([0, x, y, z]);
                        Some(LongLived { family, preserved: flags & 0x80 != 0, time })
                    })
                    .collect();
            }
            capability::ADD_PATH => {
                let (tuples, rest) = value.as_chunks::<4>();
                // With any other value the capability as a whole is not understood.
                let understood = rest.is_empty() && tuples.iter().all(|[.., mode]| (1..=3).contains(mode));
                let tuples = if understood { tuples } else { &[] };
                self.add_path.clear();
                for &[a, b, safi, mode] in tuples {
                    if let Some(family) = Family::from_wire(u16::from_be_bytes([a, b]), safi)
                        && self.add_path.iter().all(|offer| offer.family != family)
                    {
                        let (receive, send) = (mode & 1 != 0, mode & 2 != 0);
                        self.add_path.push(AddPathOffer { family, receive, send });
                    }
                }
            }
            _ => {}
        }
    }

    fn write(&self, out: &mut BytesMut) {
        for family in &self.families {
            out.put_slice(&[capability::MULTIPROTOCOL, 4]);
            out.put_u16(family.afi());
            out.put_slice(&[0, 1]);
        }
        if self.route_refresh {
            out.put_slice(&[capability::ROUTE_REFRESH, 0]);
        }
        if self.extended_next_hop {
            out.put_slice(&[capability::EXTENDED_NEXT_HOP, IPV4_BY_IPV6.len() as u8]);
            out.put_slice(&IPV4_BY_IPV6);
        }
        if self.extended_messages {
            out.put_slice(&[capability::EXTENDED_MESSAGES, 0]);
        }
        if let OfferedRole::One(role) = self.role {
            out.put_slice(&[capability::ROLE, 1, role]);
        }
        if let Some(restart) = &self.graceful_restart {
            out.put_slice(&[capability::GRACEFUL_RESTART, 2 + 4 * restart.families.len() as u8]);
            out.put_u16(
                u16::from(restart.restarting) << 15
                    | u16::from(restart.notifications) << 14
                    | restart.restart_time & 0x0fff,
            );
            for (family, preserved) in &restart.families {
                out.put_u16(family.afi());
                out.put_slice(&[1, u8::from(*preserved) << 7]);
            }
        }
        if !self.long_lived.is_empty() {
            out.put_slice(&[capability::LONG_LIVED_RESTART, 7 * self.long_lived.len() as u8]);
            for LongLived { family, preserved, time } in &self.long_lived {
                out.put_u16(family.afi());
                out.put_slice(&[1, u8::from(*preserved) << 7]);
                out.put_slice(&time.to_be_bytes()[1..]);
            }
        }
        if let Some(number) = self.four_octet_as {
            out.put_slice(&[capability::FOUR_OCTET_AS, 4]);
            out.put_u32(number);
        }
        if !self.add_path.is_empty() {
            out.put_slice(&[capability::ADD_PATH, 4 * self.add_path.len() as u8]);
            for AddPathOffer { family, receive, send } in &self.add_path {
                out.put_u16(family.afi());
                out.put_slice(&[1, u8::from(*receive) | u8::from(*send) << 1]);
            }
        }
        if self.enhanced_refresh {
            out.put_slice(&[capability::ENHANCED_REFRESH, 0]);
        }
    }
}

fn fixed_part(body: &[u8]) -> IResult<&[u8], (u8, u16, u16, u32, u8)> {
    (be_u8, be_u16, be_u16, be_u32, be_u8).parse(body)
}

fn parameter(extended: bool) -> impl FnMut(&[u8]) -> IResult<&[u8], (u8, &[u8])> {
    move |input| {
        if extended {
            (be_u8, length_data(be_u16)).parse(input)
        } else {
            (be_u8, length_data(be_u8)).parse(input)
        }
    }
}

fn one_capability(input: &[u8]) -> IResult<&[u8], (u8, &[u8])> {
    (be_u8, length_data(be_u8)).parse(input)
}

impl Open {
    pub fn parse(body: &[u8]) -> Result<Open, OpenError> {
        let (rest, (version, my_as, hold_time, identifier, length)) =
            fixed_part(body).map_err(|_| OpenError::Malformed)?;
        if version != 4 {
            return Err(OpenError::Version(version));
        }
        // RFC 9072 §2: a first parameter of type 255 says that lengths have two octets from here on.
        let (extended, declared, parameters) = match *rest {
            [255, a, b, ref parameters @ ..] if length != 0 => {
                (true, usize::from(u16::from_be_bytes([a, b])), parameters)
            }
            _ => (false, usize::from(length), rest),
        };
        if parameters.len() != declared {
            return Err(OpenError::Malformed);
        }
        let mut capabilities = Capabilities::default();
        let mut rest = parameters;
        while !rest.is_empty() {
            let (after, (kind, mut value)) = parameter(extended)(rest).map_err(|_| OpenError::Malformed)?;
            if kind != 2 {
                return Err(OpenError::Parameter(kind));
            }
            while !value.is_empty() {
                let (after, (code, content)) = one_capability(value).map_err(|_| OpenError::Malformed)?;
                capabilities.read(code, content);
                value = after;
            }
            rest = after;
        }
        Ok(Open { my_as, hold_time, identifier: Ipv4Addr::from_bits(identifier), capabilities })
    }

    pub fn encode(&self) -> Bytes {
        let mut capabilities = BytesMut::new();
        self.capabilities.write(&mut capabilities);
        let mut out = BytesMut::with_capacity(64 + capabilities.len());
        write_message(&mut out, OPEN, |out| {
            out.put_u8(4);
            out.put_u16(self.my_as);
            out.put_u16(self.hold_time);
            out.put_u32(self.identifier.to_bits());
            if capabilities.is_empty() {
                out.put_u8(0);
            } else {
                // What Manx can say is far below the 253 octets that one parameter holds.
                out.put_u8(capabilities.len() as u8 + 2);
                out.put_slice(&[2, capabilities.len() as u8]);
                out.put_slice(&capabilities);
            }
        });
        out.freeze()
    }

    /// The peer's AS: from the capability if there is one. `None` is an OPEN that claims AS 0, or two different
    /// numbers (behaviour 17: a two-octet field that is neither AS_TRANS nor the capability's number is refused).
    pub fn as_number(&self) -> Option<u32> {
        let number = match self.capabilities.four_octet_as {
            None => u32::from(self.my_as),
            Some(number) if self.my_as == 23456 || u32::from(self.my_as) == number => number,
            Some(_) => return None,
        };
        (number != 0).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::HEADER_LEN;

    fn sample() -> Open {
        Open {
            my_as: 64512,
            hold_time: 90,
            identifier: Ipv4Addr::new(192, 168, 80, 121),
            capabilities: Capabilities {
                families: vec![Family::Ipv4Unicast, Family::Ipv6Unicast],
                multiprotocol: true,
                four_octet_as: Some(64512),
                route_refresh: true,
                enhanced_refresh: true,
                extended_messages: true,
                extended_next_hop: true,
                role: OfferedRole::One(3),
                graceful_restart: Some(GracefulRestartCapability {
                    restarting: true,
                    notifications: true,
                    restart_time: 120,
                    families: vec![(Family::Ipv4Unicast, true), (Family::Ipv6Unicast, false)],
                }),
                long_lived: vec![
                    LongLived { family: Family::Ipv4Unicast, preserved: true, time: 0x00ab_cdef },
                    LongLived { family: Family::Ipv6Unicast, preserved: false, time: 1 },
                ],
                add_path: vec![
                    AddPathOffer { family: Family::Ipv4Unicast, receive: true, send: true },
                    AddPathOffer { family: Family::Ipv6Unicast, receive: false, send: true },
                ],
            },
        }
    }

    /// The fixed part with these optional parameters.
    fn body(parameters: &[u8]) -> Vec<u8> {
        let mut body = vec![4, 0xfc, 0, 0, 90, 10, 0, 0, 1, parameters.len() as u8];
        body.extend_from_slice(parameters);
        body
    }

    #[test]
    fn what_is_encoded_is_parsed_back() {
        assert_eq!(Open::parse(&sample().encode()[HEADER_LEN..]), Ok(sample()));
    }

    /// Behaviour 16.
    #[test]
    fn another_version_is_answered_with_ours() {
        for version in [3, 5] {
            let mut bytes = body(&[]);
            bytes[0] = version;
            let error = Open::parse(&bytes).unwrap_err();
            assert_eq!(error.notification(), Notification::new(2, 1, &[0, 4]));
        }
    }

    /// Behaviour 19.
    #[test]
    fn capabilities_mean_the_same_in_one_parameter_in_several_and_in_the_extended_form() {
        let one = body(&[2, 14, 1, 4, 0, 1, 0, 1, 65, 4, 0, 0, 0xfc, 0, 2, 0]);
        let several = body(&[2, 6, 1, 4, 0, 1, 0, 1, 2, 6, 65, 4, 0, 0, 0xfc, 0, 2, 2, 2, 0]);
        let mut extended = body(&[]);
        extended[9] = 255;
        extended.extend([255, 0, 17, 2, 0, 14, 1, 4, 0, 1, 0, 1, 65, 4, 0, 0, 0xfc, 0, 2, 0]);
        let expected = Open::parse(&one).unwrap();
        assert!(expected.capabilities.route_refresh && expected.capabilities.four_octet_as == Some(64512));
        assert_eq!(Open::parse(&several).unwrap(), expected);
        assert_eq!(Open::parse(&extended).unwrap(), expected);
    }

    /// Behaviour 19.
    #[test]
    fn an_unknown_parameter_is_2_4_and_a_cut_capability_2_0() {
        assert_eq!(Open::parse(&body(&[1, 2, 0, 0])), Err(OpenError::Parameter(1)));
        assert_eq!(Open::parse(&body(&[2, 4, 65, 4, 0, 0])), Err(OpenError::Malformed));
        assert_eq!(Open::parse(&body(&[2])), Err(OpenError::Malformed));
    }

    /// Behaviour 20.
    #[test]
    fn unknown_capabilities_are_ignored_and_no_multiprotocol_means_ipv4() {
        let open = Open::parse(&body(&[2, 5, 200, 3, 1, 2, 3])).unwrap();
        assert!(open.capabilities.carries(Family::Ipv4Unicast));
        assert!(!open.capabilities.carries(Family::Ipv6Unicast));
        let only_evpn = Open::parse(&body(&[2, 6, 1, 4, 0, 25, 0, 70])).unwrap();
        assert!(!only_evpn.capabilities.carries(Family::Ipv4Unicast));
        let twice = Open::parse(&body(&[2, 12, 1, 4, 0, 1, 0, 1, 1, 4, 0, 1, 0, 1])).unwrap();
        assert_eq!(twice.capabilities.families, [Family::Ipv4Unicast]);
    }

    /// RFC 7911 §4.
    #[test]
    fn an_add_path_capability_with_a_value_that_has_no_meaning_is_ignored_as_a_whole() {
        let offers = |value: &[u8]| {
            let head = [2, value.len() as u8 + 2, 69, value.len() as u8];
            Open::parse(&body(&[&head, value].concat())).unwrap().capabilities.add_path
        };
        let v4 = |receive, send| AddPathOffer { family: Family::Ipv4Unicast, receive, send };
        assert_eq!(offers(&[0, 1, 1, 1]), [v4(true, false)]);
        assert_eq!(offers(&[0, 1, 1, 2, 0, 25, 70, 3]), [v4(false, true)]);
        // Of two for one family the first counts.
        assert_eq!(offers(&[0, 1, 1, 3, 0, 1, 1, 1]), [v4(true, true)]);
        for meaningless in
            [&[0, 1, 1, 0][..], &[0, 1, 1, 4], &[0, 1, 1, 3, 0, 2, 1, 255], &[0, 1, 1, 3, 0], &[]]
        {
            assert_eq!(offers(meaningless), []);
        }
    }

    /// Behaviour 17.
    #[test]
    fn the_as_number_is_the_capabilitys_and_zero_or_two_different_ones_are_none() {
        let with = |my_as, four_octet_as| Open {
            my_as,
            capabilities: Capabilities { four_octet_as, ..Capabilities::default() },
            ..sample()
        };
        assert_eq!(with(23456, Some(70000)).as_number(), Some(70000));
        assert_eq!(with(64512, None).as_number(), Some(64512));
        assert_eq!(with(64512, Some(64512)).as_number(), Some(64512));
        assert_eq!(with(0, None).as_number(), None);
        assert_eq!(with(23456, Some(0)).as_number(), None);
        assert_eq!(with(64512, Some(64513)).as_number(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(tail in prop::collection::vec(any::<u8>(), 0..300), length: u8) {
            let mut bytes = body(&[]);
            bytes[9] = length;
            bytes.extend(tail);
            let _ = Open::parse(&bytes);
        }
    }
}
