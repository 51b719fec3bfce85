//! IPv4 and IPv6 prefixes. A prefix never has host bits and its length never exceeds its family's, by
//! construction; two equal routes are therefore equal values.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

macro_rules! prefix {
    ($(#[$doc:meta])* $name:ident, $addr:ty, $bits:ty, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            bits: $bits,
            len: u8,
        }

        impl $name {
            pub const MAX_LEN: u8 = $max;
            /// The default route.
            pub const DEFAULT: $name = $name { bits: 0, len: 0 };

            /// Host bits are cleared. `None` if `len` exceeds the family's.
            pub const fn new(addr: $addr, len: u8) -> Option<$name> {
                Self::from_bits(addr.to_bits(), len)
            }

            /// As [`Self::new`], from the address as a number.
            pub const fn from_bits(bits: $bits, len: u8) -> Option<$name> {
                if len > $max { None } else { Some($name { bits: bits & Self::mask_of(len), len }) }
            }

            /// The route to one address.
            pub const fn host(addr: $addr) -> $name {
                $name { bits: addr.to_bits(), len: $max }
            }

            const fn mask_of(len: u8) -> $bits {
                if len == 0 { 0 } else { <$bits>::MAX << ($max - len) }
            }

            pub const fn addr(self) -> $addr {
                <$addr>::from_bits(self.bits)
            }

            /// The network address as a number, host bits zero.
            pub const fn bits(self) -> $bits {
                self.bits
            }

            #[allow(clippy::len_without_is_empty, reason = "the length of a prefix is not a count of elements")]
            pub const fn len(self) -> u8 {
                self.len
            }

            /// A /32 or /128.
            pub const fn is_host(self) -> bool {
                self.len == $max
            }

            pub const fn contains(self, addr: $addr) -> bool {
                addr.to_bits() & Self::mask_of(self.len) == self.bits
            }

            /// True also for the prefix itself.
            pub const fn covers(self, other: $name) -> bool {
                self.len <= other.len && other.bits & Self::mask_of(self.len) == self.bits
            }

            pub const fn overlaps(self, other: $name) -> bool {
                self.covers(other) || other.covers(self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!("{}/{}", self.addr(), self.len))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.addr(), self.len)
            }
        }
    };
}

prefix!(
    /// An IPv4 prefix, /0 to /32.
    Prefix4, Ipv4Addr, u32, 32
);
prefix!(
    /// An IPv6 prefix, /0 to /128.
    Prefix6, Ipv6Addr, u128, 128
);

/// A prefix of either family. IPv4 sorts before IPv6, then by address, then the shorter first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prefix {
    V4(Prefix4),
    V6(Prefix6),
}

#[allow(clippy::len_without_is_empty, reason = "the length of a prefix is not a count of elements")]
impl Prefix {
    /// Host bits are cleared. `None` if `len` exceeds the family's.
    pub const fn new(addr: IpAddr, len: u8) -> Option<Prefix> {
        match addr {
            IpAddr::V4(a) => match Prefix4::new(a, len) {
                Some(p) => Some(Prefix::V4(p)),
                None => None,
            },
            IpAddr::V6(a) => match Prefix6::new(a, len) {
                Some(p) => Some(Prefix::V6(p)),
                None => None,
            },
        }
    }

    /// The route to one address.
    pub const fn host(addr: IpAddr) -> Prefix {
        match addr {
            IpAddr::V4(a) => Prefix::V4(Prefix4::host(a)),
            IpAddr::V6(a) => Prefix::V6(Prefix6::host(a)),
        }
    }

    pub const fn addr(self) -> IpAddr {
        match self {
            Prefix::V4(p) => IpAddr::V4(p.addr()),
            Prefix::V6(p) => IpAddr::V6(p.addr()),
        }
    }

    pub const fn len(self) -> u8 {
        match self {
            Prefix::V4(p) => p.len(),
            Prefix::V6(p) => p.len(),
        }
    }

    pub const fn is_v4(self) -> bool {
        matches!(self, Prefix::V4(_))
    }

    /// A /32 or /128.
    pub const fn is_host(self) -> bool {
        match self {
            Prefix::V4(p) => p.is_host(),
            Prefix::V6(p) => p.is_host(),
        }
    }

    /// False across families.
    pub const fn contains(self, addr: IpAddr) -> bool {
        match (self, addr) {
            (Prefix::V4(p), IpAddr::V4(a)) => p.contains(a),
            (Prefix::V6(p), IpAddr::V6(a)) => p.contains(a),
            _ => false,
        }
    }

    /// True also for the prefix itself; false across families.
    pub const fn covers(self, other: Prefix) -> bool {
        match (self, other) {
            (Prefix::V4(p), Prefix::V4(o)) => p.covers(o),
            (Prefix::V6(p), Prefix::V6(o)) => p.covers(o),
            _ => false,
        }
    }

    pub const fn overlaps(self, other: Prefix) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl From<Prefix4> for Prefix {
    fn from(p: Prefix4) -> Prefix {
        Prefix::V4(p)
    }
}

impl From<Prefix6> for Prefix {
    fn from(p: Prefix6) -> Prefix {
        Prefix::V6(p)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Prefix::V4(p) => fmt::Display::fmt(p, f),
            Prefix::V6(p) => fmt::Display::fmt(p, f),
        }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePrefixError {
    #[error("\"{0}\" is not a prefix; write ADDRESS/LENGTH, such as 172.16.0.0/16")]
    Syntax(String),
    #[error("\"{text}\": the length of an {family} prefix is 0 to {max}")]
    Length { text: String, family: &'static str, max: u8 },
    #[error("\"{text}\" has host bits set; the network is {network}")]
    HostBits { text: String, network: Prefix },
}

/// Strict: host bits are an error that names the network. For what a peer sends use [`Prefix::new`].
impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Prefix, ParsePrefixError> {
        let syntax = || ParsePrefixError::Syntax(text.to_owned());
        let (addr, len) = text.split_once('/').ok_or_else(syntax)?;
        let addr: IpAddr = addr.parse().map_err(|_| syntax())?;
        if len.is_empty() || !len.bytes().all(|b| b.is_ascii_digit()) {
            return Err(syntax());
        }
        let (family, max) = if addr.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
        let network = len
            .parse::<u8>()
            .ok()
            .and_then(|len| Prefix::new(addr, len))
            .ok_or_else(|| ParsePrefixError::Length { text: text.to_owned(), family, max })?;
        if network.addr() != addr {
            return Err(ParsePrefixError::HostBits { text: text.to_owned(), network });
        }
        Ok(network)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Prefix, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn the_seeds_block_is_read_and_printed() {
        assert_eq!(p("172.16.36.192/26").to_string(), "172.16.36.192/26");
        assert_eq!(p("fd00:10::/122").to_string(), "fd00:10::/122");
    }

    #[test]
    fn host_bits_are_an_error_that_names_the_network() {
        let error = "172.16.36.193/26".parse::<Prefix>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"172.16.36.193/26\" has host bits set; the network is 172.16.36.192/26"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "10.0.0.0", "10.0.0.0/", "10.0.0/8", "10.0.0.0/+8", "10.0.0.0/33", "::/129", "x/8"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn covering_is_by_bits_and_never_across_families() {
        assert!(p("172.16.0.0/16").covers(p("172.16.36.192/26")));
        assert!(p("0.0.0.0/0").covers(p("172.16.36.192/26")));
        assert!(!p("172.16.36.192/26").covers(p("172.16.0.0/16")));
        assert!(!p("0.0.0.0/0").covers(p("::/0")));
        assert!(p("172.16.36.192/26").contains("172.16.36.255".parse().unwrap()));
        assert!(!p("172.16.36.192/26").contains("172.16.37.0".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(bits: u128, len in 0u8..=128, v4: bool) {
            let prefix = if v4 {
                Prefix::V4(Prefix4::from_bits(bits as u32, len % 33).unwrap())
            } else {
                Prefix::V6(Prefix6::from_bits(bits, len).unwrap())
            };
            prop_assert_eq!(prefix.to_string().parse::<Prefix>().unwrap(), prefix);
        }
    }
}
