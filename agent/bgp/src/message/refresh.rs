//! ROUTE-REFRESH (RFC 2918) with the demarcations of RFC 7313.

use bytes::{BufMut, Bytes, BytesMut};
use nom::{
    IResult, Parser,
    number::complete::{be_u8, be_u16},
};

use super::{FramingError, HEADER_LEN, ROUTE_REFRESH, notification::Notification, write_message};
use crate::config::Family;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshKind {
    /// Send everything again.
    Request,
    /// What follows is everything again.
    Begin,
    /// What was not heard since `Begin` is gone.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    pub family: Family,
    pub kind: RefreshKind,
}

impl RouteRefresh {
    /// `None`: for a family or of a subtype that Manx does not know, which is ignored (RFC 7313 §5). Where RFC 7313 is
    /// in force a wrong length has its own NOTIFICATION, which carries the whole message.
    pub fn parse(body: &[u8], enhanced: bool) -> Result<Option<RouteRefresh>, Notification> {
        let parsed: IResult<&[u8], (u16, u8, u8)> = (be_u16, be_u8, be_u8).parse(body);
        match parsed {
            Ok(([], (afi, subtype, safi))) => {
                let kind = match subtype {
                    0 => RefreshKind::Request,
                    1 if enhanced => RefreshKind::Begin,
                    2 if enhanced => RefreshKind::End,
                    _ => return Ok(None),
                };
                Ok(Family::from_wire(afi, safi).map(|family| RouteRefresh { family, kind }))
            }
            _ if enhanced => {
                let mut whole = BytesMut::new();
                write_message(&mut whole, ROUTE_REFRESH, |out| out.put_slice(body));
                Err(Notification::new(7, 1, &whole))
            }
            _ => {
                // A message was at most as long as its header could say.
                let length = (HEADER_LEN + body.len()) as u16;
                Err(FramingError::BadLength(length).notification())
            }
        }
    }

    pub fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_LEN + 4);
        write_message(&mut out, ROUTE_REFRESH, |out| {
            out.put_u16(self.family.afi());
            out.put_u8(match self.kind {
                RefreshKind::Request => 0,
                RefreshKind::Begin => 1,
                RefreshKind::End => 2,
            });
            out.put_u8(1);
        });
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_parsed_back() {
        for family in Family::ALL {
            for kind in [RefreshKind::Request, RefreshKind::Begin, RefreshKind::End] {
                let refresh = RouteRefresh { family, kind };
                assert_eq!(RouteRefresh::parse(&refresh.encode()[HEADER_LEN..], true), Ok(Some(refresh)));
            }
        }
    }

    /// Behaviour 6.
    #[test]
    fn a_wrong_length_is_7_1_where_enhanced_refresh_is_in_force_and_1_2_elsewhere() {
        assert_eq!(RouteRefresh::parse(&[0, 1, 0], true).unwrap_err().code, 7);
        assert_eq!(RouteRefresh::parse(&[0, 1, 0, 1, 9], false), Err(Notification::new(1, 2, &[0, 24])));
    }

    #[test]
    fn an_unknown_family_or_subtype_is_ignored() {
        assert_eq!(RouteRefresh::parse(&[0, 25, 0, 70], true), Ok(None));
        assert_eq!(RouteRefresh::parse(&[0, 1, 77, 1], true), Ok(None));
    }
}
