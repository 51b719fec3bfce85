//! Four-octet AS numbers (RFC 6793). AS 0 is reserved (RFC 7607) and cannot be represented.

use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An autonomous system number, 1 to 4294967295.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(NonZeroU32);

impl Asn {
    /// AS_TRANS, which stands for a four-octet number towards a two-octet speaker (RFC 6793 §9).
    // Both constants are evaluated by the compiler: a zero would not compile.
    pub const TRANS: Asn = Asn(NonZeroU32::new(23456).unwrap());
    /// The number that Calico gives a cluster that says nothing else.
    pub const CALICO_DEFAULT: Asn = Asn(NonZeroU32::new(64512).unwrap());

    /// `None` for AS 0.
    pub const fn new(number: u32) -> Option<Asn> {
        match NonZeroU32::new(number) {
            Some(n) => Some(Asn(n)),
            None => None,
        }
    }

    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The number as the two-octet field carries it: itself, or AS_TRANS (RFC 6793 §9).
    pub const fn to_two_octets(self) -> u16 {
        let n = self.0.get();
        if n <= 0xffff { n as u16 } else { 23456 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAsnError {
    #[error("AS 0 is reserved (RFC 7607); an AS number is 1 to 4294967295")]
    Zero,
    #[error("\"{0}\" is not an AS number; write 64512, or 1.10 for 65546")]
    Syntax(String),
}

/// Plain (`64512`) and dotted (`1.10`) notation, RFC 5396.
impl FromStr for Asn {
    type Err = ParseAsnError;

    fn from_str(text: &str) -> Result<Asn, ParseAsnError> {
        let syntax = || ParseAsnError::Syntax(text.to_owned());
        // `u32::from_str` takes a leading '+', which is no AS number.
        if text.contains('+') {
            return Err(syntax());
        }
        let number = match text.split_once('.') {
            None => text.parse::<u32>().map_err(|_| syntax())?,
            Some((high, low)) => {
                let high: u16 = high.parse().map_err(|_| syntax())?;
                let low: u16 = low.parse().map_err(|_| syntax())?;
                u32::from(high) << 16 | u32::from(low)
            }
        };
        Asn::new(number).ok_or(ParseAsnError::Zero)
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AS{}", self.0)
    }
}

impl Serialize for Asn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.get())
    }
}

/// A number, or text in either notation.
impl<'de> Deserialize<'de> for Asn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Asn, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Asn;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an AS number, 1 to 4294967295")
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Asn, E> {
                u32::try_from(v)
                    .ok()
                    .and_then(Asn::new)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(v), &self))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Asn, E> {
                u64::try_from(v)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(v), &self))
                    .and_then(|v| self.visit_u64(v))
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Asn, E> {
                v.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_are_read() {
        assert_eq!("64512".parse::<Asn>().unwrap().get(), 64512);
        assert_eq!("1.10".parse::<Asn>().unwrap().get(), 65546);
    }

    #[test]
    fn zero_and_nonsense_are_refused() {
        assert_eq!("0".parse::<Asn>(), Err(ParseAsnError::Zero));
        assert_eq!("0.0".parse::<Asn>(), Err(ParseAsnError::Zero));
        for bad in ["", "-1", "+5", "4294967296", "1.65536", "1.2.3", "AS1"] {
            assert!(matches!(bad.parse::<Asn>(), Err(ParseAsnError::Syntax(_))), "{bad}");
        }
    }

    #[test]
    fn a_large_number_becomes_as_trans_in_two_octets() {
        assert_eq!(Asn::new(65535).unwrap().to_two_octets(), 65535);
        assert_eq!(Asn::new(65536).unwrap().to_two_octets(), 23456);
    }
}
