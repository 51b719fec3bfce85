//! The forms of single values that several kinds share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    duration,
    fields::{Fields, Form},
    selector::Selector,
    spec::{Community, Interface, PeerIp, SecretKey},
    tree::excerpt,
};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    #[error(
        "\"{}\" is not a name; use lower case letters, digits, '-' and '.', with a letter or digit at both ends \
         and at most 253 characters",
        excerpt(.0)
    )]
    Name(String),
    #[error(
        "the label's key \"{}\" is none; write letters, digits, '-', '_' and '.', at most 63, with a letter or digit at both \
         ends, and maybe a domain and a slash before it",
        excerpt(.0)
    )]
    LabelKey(String),
    #[error(
        "the label's value \"{}\" is none; write letters, digits, '-', '_' and '.', at most 63, with a letter or digit at \
         both ends, or nothing",
        excerpt(.0)
    )]
    LabelValue(String),
    #[error("\"{}\" is not an IPv4 address with the length of its network; write 192.168.80.121/24", excerpt(.0))]
    Interface4(String),
    #[error("\"{}\" is not an IPv6 address with the length of its network; write 2001:db8::1/64", excerpt(.0))]
    Interface6(String),
    #[error("\"{}\" is not an IPv4 address; write four numbers, such as 224.0.0.1", excerpt(.0))]
    Ipv4(String),
    #[error("\"{}\" is not an IP address; write 192.0.2.1 or 2001:db8::1", excerpt(.0))]
    Ip(String),
    #[error(
        "\"{}\" is not an address to peer with; write 192.0.2.1, 192.0.2.1:1790, 2001:db8::1 or [2001:db8::1]:1790",
        excerpt(.0)
    )]
    PeerIp(String),
    #[error("\"{}\" has a zone; a link-local peer needs an address that is the same on all nodes", excerpt(.0))]
    Zone(String),
    #[error("{0} is no address of a host")]
    NotAHost(IpAddr),
    #[error("\"{}\" is longer than 1024 characters", excerpt(.0))]
    LongSelector(String),
    #[error(
        "\"{}\" is not a community; write aa:nn with numbers to 65535, or aa:nn:mm with numbers to 4294967295",
        excerpt(.0)
    )]
    Community(String),
    #[error(
        "\"{}\" is not a pattern of interfaces; write 1 to 15 letters, digits, '_', '.', '-', and '*' for any text",
        excerpt(.0)
    )]
    InterfacePattern(String),
    #[error("\"{}\" is not a selector: {error}", excerpt(.text))]
    Selector { text: String, error: crate::selector::ParseSelectorError },
}

/// As Kubernetes wants the key and the value of a label.
pub(crate) fn label(key: &str, value: &str) -> Result<(), ValueError> {
    let is_word = |text: &str| {
        let is_end = |letter: char| letter.is_ascii_alphanumeric();
        text.len() <= 63
            && text.starts_with(is_end)
            && text.ends_with(is_end)
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let (domain, word) = key.split_once('/').map_or((None, key), |(domain, word)| (Some(domain), word));
    if !is_word(word) || domain.is_some_and(|domain| name(domain).is_err()) {
        return Err(ValueError::LabelKey(key.to_owned()));
    }
    if !value.is_empty() && !is_word(value) {
        return Err(ValueError::LabelValue(value.to_owned()));
    }
    Ok(())
}

/// A DNS subdomain (RFC 1123), as Kubernetes wants names.
pub(crate) fn name(text: &str) -> Result<String, ValueError> {
    let label = |label: &str| {
        label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && label.starts_with(|c: char| c != '-')
            && label.ends_with(|c: char| c != '-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err(ValueError::Name(text.to_owned()))
    }
}

/// An address of a node, such as `192.168.80.121/24`; without a length it is the address alone.
pub(crate) fn interface4(text: &str) -> Result<Interface<Ipv4Addr>, ValueError> {
    let (addr, len) = split_length(text, 32).ok_or_else(|| ValueError::Interface4(text.to_owned()))?;
    let addr: Ipv4Addr = addr.parse().map_err(|_| ValueError::Interface4(text.to_owned()))?;
    host(addr.into())?;
    Ok(Interface { addr, len })
}

/// As [`interface4`].
pub(crate) fn interface6(text: &str) -> Result<Interface<Ipv6Addr>, ValueError> {
    let (addr, len) = split_length(text, 128).ok_or_else(|| ValueError::Interface6(text.to_owned()))?;
    let addr: Ipv6Addr = addr.parse().map_err(|_| ValueError::Interface6(text.to_owned()))?;
    host(addr.into())?;
    Ok(Interface { addr, len })
}

fn split_length(text: &str, max: u8) -> Option<(&str, u8)> {
    let Some((addr, len)) = text.split_once('/') else { return Some((text, max)) };
    let digits = !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
    let len = len.parse().ok().filter(|len| digits && *len <= max)?;
    Some((addr, len))
}

/// An address that one host can have.
fn host(addr: IpAddr) -> Result<IpAddr, ValueError> {
    let broadcast = matches!(addr, IpAddr::V4(addr) if addr.is_broadcast());
    if addr.is_unspecified() || addr.is_multicast() || broadcast {
        return Err(ValueError::NotAHost(addr));
    }
    Ok(addr)
}

pub(crate) fn ipv4(text: &str) -> Result<Ipv4Addr, ValueError> {
    text.parse().map_err(|_| ValueError::Ipv4(text.to_owned()))
}

pub(crate) fn ip(text: &str) -> Result<IpAddr, ValueError> {
    text.parse().map_err(|_| ValueError::Ip(text.to_owned()))
}

pub(crate) fn peer_ip(text: &str) -> Result<PeerIp, ValueError> {
    if text.contains('%') {
        return Err(ValueError::Zone(text.to_owned()));
    }
    if let Ok(addr) = text.parse() {
        return Ok(PeerIp { addr: host(addr)?, port: None });
    }
    let error = || ValueError::PeerIp(text.to_owned());
    let (addr, port) = text.rsplit_once(':').ok_or_else(error)?;
    let addr: IpAddr = match addr.strip_prefix('[').and_then(|addr| addr.strip_suffix(']')) {
        Some(addr) => addr.parse::<Ipv6Addr>().map_err(|_| error())?.into(),
        None => addr.parse::<Ipv4Addr>().map_err(|_| error())?.into(),
    };
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port > 0).ok_or_else(error)?;
    Ok(PeerIp { addr: host(addr)?, port: Some(port) })
}

/// `aa:nn` or `aa:nn:mm`, decimal, without leading zeros or signs.
pub(crate) fn community(text: &str) -> Result<Community, ValueError> {
    fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
        let digits = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse().ok().filter(|_| digits)
    }
    let parts: Vec<&str> = text.split(':').collect();
    let read = match *parts {
        [a, b] => number(a).zip(number(b)).map(|(a, b)| Community::Standard(a, b)),
        [a, b, c] => number(a).zip(number(b)).zip(number(c)).map(|((a, b), c)| Community::Large(a, b, c)),
        _ => None,
    };
    read.ok_or_else(|| ValueError::Community(text.to_owned()))
}

pub(crate) fn interface_pattern(text: &str) -> Result<String, ValueError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"_.*-".contains(&b);
    if text.len() <= 15 && text.bytes().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(ValueError::InterfacePattern(text.to_owned()))
    }
}

/// A valid selector, as written.
pub(crate) fn selector(text: &str) -> Result<Selector, ValueError> {
    if text.len() > 1024 {
        return Err(ValueError::LongSelector(text.to_owned()));
    }
    Selector::parse(text).map_err(|error| ValueError::Selector { text: text.to_owned(), error })
}

/// `password: { secretKeyRef: { name, key } }`.
pub(crate) fn secret(fields: &mut Fields<'_, '_>, name: &'static str) -> Option<SecretKey> {
    let mut password = fields.object(name)?;
    let reference = password.object("secretKeyRef").and_then(|mut reference| {
        let secret = reference.text("name").map(str::to_owned);
        let key = reference.text("key").map(str::to_owned);
        reference.accept(&[("optional", Form::Bool)]);
        for (field, value) in [("name", &secret), ("key", &key)] {
            if value.is_none() && !reference.is_set(field) {
                reference.refuse(field, "is missing; a password is named by a secret's name and a key in it");
            }
        }
        reference.finish();
        Some(SecretKey { name: secret?, key: key? })
    });
    password.finish();
    reference
}

/// A duration in whole seconds within a range.
pub(crate) fn seconds(fields: &mut Fields<'_, '_>, name: &'static str, least: u32, most: u32) -> Option<u32> {
    let seconds = fields.parse(name, duration::seconds)?;
    let seconds = u32::try_from(seconds).ok().filter(|seconds| (least..=most).contains(seconds));
    if seconds.is_none() {
        fields.refuse(name, format!("must be {least}s to {most}s"));
    }
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_address_may_have_a_port() {
        let plain = |text: &str| peer_ip(text).map(|peer| (peer.addr.to_string(), peer.port));
        assert_eq!(plain("192.0.2.1"), Ok(("192.0.2.1".into(), None)));
        assert_eq!(plain("192.0.2.1:1790"), Ok(("192.0.2.1".into(), Some(1790))));
        assert_eq!(plain("2001:db8::1"), Ok(("2001:db8::1".into(), None)));
        assert_eq!(plain("[2001:db8::1]:1790"), Ok(("2001:db8::1".into(), Some(1790))));
        for bad in ["", "x", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "[2001:db8::1]", "[192.0.2.1]:1"]
        {
            assert_eq!(plain(bad), Err(ValueError::PeerIp(bad.into())), "{bad}");
        }
        assert!(matches!(plain("fe80::1%eth0"), Err(ValueError::Zone(_))));
        assert!(matches!(plain("0.0.0.0"), Err(ValueError::NotAHost(_))));
    }

    #[test]
    fn a_nodes_address_keeps_its_host_bits() {
        assert_eq!(interface4("192.168.80.121/24").unwrap().to_string(), "192.168.80.121/24");
        assert_eq!(interface4("192.168.80.121").unwrap().to_string(), "192.168.80.121/32");
        assert_eq!(interface6("2001:db8::1/64").unwrap().to_string(), "2001:db8::1/64");
        for bad in ["192.168.80.121/33", "192.168.80.121/", "192.168.80/24", "2001:db8::1/64", "224.0.0.1/24"]
        {
            assert!(interface4(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_dns_subdomains() {
        for good in ["default", "node.k8s-worker-01", "node1-fd00-10--0-122", "1"] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in ["", "Node", "a_b", "-a", "a-", "a..b", ".a", &"a".repeat(254)] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
