//! AS_PATH (RFC 4271 §4.3 b), kept in its four-octet wire form (RFC 6793): it is what is sent most often, and
//! it needs no more than one allocation.

use std::fmt;

use bytes::{BufMut, BytesMut};
use manx_net::Asn;

pub const SET: u8 = 1;
pub const SEQUENCE: u8 = 2;
/// RFC 5065 §3.
const CONFED_SEQUENCE: u8 = 3;
const CONFED_SET: u8 = 4;

/// Well formed by construction: segments of type 1 or 2, none empty, no AS 0.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct AsPath(Box<[u8]>);

impl AsPath {
    /// `None` if malformed (RFC 7606 §7.2): an unknown segment type, a segment that is empty or too long, or
    /// AS 0 (RFC 7607 §2). Confederation segments count as unknown, since Manx is in none (RFC 5065 §5).
    pub fn parse(wire: &[u8], four_octet: bool) -> Option<AsPath> {
        let width = if four_octet { 4 } else { 2 };
        let mut out = BytesMut::with_capacity(if four_octet { wire.len() } else { 2 * wire.len() });
        let mut rest = wire;
        while let [kind, count, after @ ..] = rest {
            let octets = usize::from(*count) * width;
            if !matches!(*kind, SET | SEQUENCE) || *count == 0 || after.len() < octets {
                return None;
            }
            let (numbers, after) = after.split_at(octets);
            out.put_slice(&[*kind, *count]);
            if four_octet {
                if numbers.as_chunks::<4>().0.contains(&[0; 4]) {
                    return None;
                }
                out.put_slice(numbers);
            } else {
                for &number in numbers.as_chunks::<2>().0 {
                    if number == [0; 2] {
                        return None;
                    }
                    out.put_u32(u32::from(u16::from_be_bytes(number)));
                }
            }
            rest = after;
        }
        rest.is_empty().then(|| AsPath(out[..].into()))
    }

    /// AS4_PATH. Segments of a confederation have no place there and are left out (RFC 6793 §6).
    pub fn parse_as4(wire: &[u8]) -> Option<AsPath> {
        let mut plain = Vec::with_capacity(wire.len());
        let mut rest = wire;
        while let [kind, count, after @ ..] = rest {
            let (segment, after) =
                rest.split_at_checked(rest.len() - after.len() + usize::from(*count) * 4)?;
            if !matches!(*kind, CONFED_SEQUENCE | CONFED_SET) {
                plain.extend_from_slice(segment);
            }
            rest = after;
        }
        // An octet that is left over is as wrong as it was.
        plain.extend_from_slice(rest);
        AsPath::parse(&plain, true)
    }

    /// The four-octet form.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    fn segments(&self) -> impl Iterator<Item = (u8, &[[u8; 4]])> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let [kind, count, after @ ..] = rest else { return None };
            // The constructor saw to it that a segment is all there.
            let (numbers, after) = after.split_at(usize::from(*count) * 4);
            rest = after;
            Some((*kind, numbers.as_chunks::<4>().0))
        })
    }

    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.segments().flat_map(|(_, numbers)| numbers.iter().map(|&n| u32::from_be_bytes(n)))
    }

    /// For the choice of the best path: a set counts as one (RFC 4271 §9.1.2.2 a).
    pub fn length(&self) -> usize {
        self.segments().map(|(kind, numbers)| if kind == SET { 1 } else { numbers.len() }).sum()
    }

    /// The neighbouring AS (RFC 4271 §9.1.2.2 c). `None` is our own: the path is empty, or begins with a set, so that a
    /// speaker of our AS made the route or aggregated it. An eBGP peer's own number stands before any set (§5.1.2 b).
    pub fn neighbour(&self) -> Option<u32> {
        match self.segments().next() {
            Some((SEQUENCE, [first, ..])) => Some(u32::from_be_bytes(*first)),
            _ => None,
        }
    }

    /// Does the path begin with these numbers? A set stands for any one of its members.
    pub fn begins_with(&self, begin: &[Asn]) -> bool {
        let mut wanted = begin.iter().map(|number| number.get().to_be_bytes());
        for (kind, numbers) in self.segments() {
            if kind == SET {
                match wanted.next() {
                    None => return true,
                    Some(one) if numbers.contains(&one) => {}
                    Some(_) => return false,
                }
                continue;
            }
            for number in numbers {
                match wanted.next() {
                    None => return true,
                    Some(one) if one == *number => {}
                    Some(_) => return false,
                }
            }
        }
        wanted.next().is_none()
    }

    pub fn count(&self, number: Asn) -> usize {
        self.numbers().filter(|&n| n == number.get()).count()
    }

    /// Is there a number that two octets cannot hold?
    pub fn needs_four_octets(&self) -> bool {
        self.numbers().any(|n| n > 0xffff)
    }

    /// With `number` in front (RFC 4271 §5.1.2 b).
    pub fn prepended(&self, number: Asn) -> AsPath {
        let mut out = BytesMut::with_capacity(self.0.len() + 6);
        match *self.0 {
            [SEQUENCE, count @ ..=254, ref rest @ ..] => {
                out.put_slice(&[SEQUENCE, count + 1]);
                out.put_u32(number.get());
                out.put_slice(rest);
            }
            ref rest => {
                out.put_slice(&[SEQUENCE, 1]);
                out.put_u32(number.get());
                out.put_slice(rest);
            }
        }
        AsPath(out[..].into())
    }

    /// The two-octet form, with AS_TRANS for what does not fit (RFC 6793 §4.2.2).
    pub fn two_octet_wire(&self) -> Box<[u8]> {
        let mut out = BytesMut::with_capacity(self.0.len());
        for (kind, numbers) in self.segments() {
            out.put_slice(&[kind, numbers.len() as u8]);
            for &number in numbers {
                let number = u32::from_be_bytes(number);
                out.put_u16(u16::try_from(number).unwrap_or(23456));
            }
        }
        out[..].into()
    }

    /// Puts AS4_PATH's numbers in the place of this path's last ones (RFC 6793 §4.2.3). An AS4_PATH that is longer
    /// than the path is ignored.
    pub fn merged(&self, as4: &AsPath) -> AsPath {
        let (ours, theirs) = (self.length(), as4.length());
        if ours < theirs {
            return self.clone();
        }
        let mut keep = ours - theirs;
        let mut out = BytesMut::with_capacity(self.0.len());
        for (kind, numbers) in self.segments() {
            if keep == 0 {
                break;
            }
            let taken = if kind == SET { numbers.len() } else { numbers.len().min(keep) };
            keep -= if kind == SET { 1 } else { taken };
            out.put_slice(&[kind, taken as u8]);
            #[expect(clippy::indexing_slicing, reason = "`taken` is at most the segment's length")]
            out.put_slice(numbers[..taken].as_flattened());
        }
        out.put_slice(&as4.0);
        AsPath(out[..].into())
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (kind, numbers)) in self.segments().enumerate() {
            let (open, close) = if kind == SET { ("{", "}") } else { ("", "") };
            if i > 0 {
                f.write_str(" ")?;
            }
            f.write_str(open)?;
            for (j, &number) in numbers.iter().enumerate() {
                let space = if j > 0 { " " } else { "" };
                write!(f, "{space}{}", u32::from_be_bytes(number))?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}

impl fmt::Debug for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn path(numbers: &[u32]) -> AsPath {
        let mut wire = BytesMut::new();
        for chunk in numbers.chunks(255) {
            wire.put_slice(&[SEQUENCE, chunk.len() as u8]);
            chunk.iter().for_each(|&n| wire.put_u32(n));
        }
        AsPath::parse(&wire, true).unwrap()
    }

    fn asn(n: u32) -> Asn {
        Asn::new(n).unwrap()
    }

    /// Behaviour 31.
    #[test]
    fn malformed_segments_are_seen() {
        for bad in [
            &[2, 0][..],
            &[0, 1, 0, 0, 0, 1],
            &[5, 1, 0, 0, 0, 1],
            &[3, 1, 0, 0, 0, 1],
            &[2, 2, 0, 0, 0, 1],
            &[2],
            &[2, 1, 0, 0, 0, 0],
        ] {
            assert_eq!(AsPath::parse(bad, true), None, "{bad:?}");
        }
        assert!(AsPath::parse(&[], true).unwrap().wire().is_empty());
        assert_eq!(AsPath::parse(&[2, 1, 0, 0], false), None);
    }

    /// Behaviour 43.
    #[test]
    fn a_set_counts_as_one() {
        let mixed = AsPath::parse(&[2, 1, 0, 0, 0, 9, 1, 2, 0, 0, 0, 7, 0, 0, 0, 8], true).unwrap();
        assert_eq!(mixed.length(), 2);
        assert_eq!(mixed.to_string(), "9 {7 8}");
        assert_eq!(mixed.neighbour(), Some(9));
        assert_eq!(AsPath::parse(&[1, 1, 0, 0, 0, 9], true).unwrap().neighbour(), None);
    }

    #[test]
    fn a_full_segment_is_not_prepended_to_but_preceded() {
        let full = path(&[7; 255]).prepended(asn(8));
        assert_eq!(full.length(), 256);
        assert_eq!(full.neighbour(), Some(8));
        assert_eq!(AsPath::parse(full.wire(), true), Some(full));
    }

    /// Behaviour 21.
    #[test]
    fn as4_path_replaces_the_tail_and_a_longer_one_is_ignored() {
        let two = path(&[64512, 23456, 23456]);
        assert_eq!(two.merged(&path(&[70000, 70001])), path(&[64512]).merged_raw(&path(&[70000, 70001])));
        assert_eq!(two.merged(&path(&[70000, 70001])).to_string(), "64512 70000 70001");
        assert_eq!(two.merged(&path(&[1, 2, 3, 4])), two);
        assert_eq!(path(&[64512, 70000]).two_octet_wire()[..], [2, 2, 0xfc, 0, 0x5b, 0xa0]);
    }

    impl AsPath {
        fn merged_raw(&self, tail: &AsPath) -> AsPath {
            AsPath([self.wire(), tail.wire()].concat().into())
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic_and_what_passes_stays_the_same(
            wire in prop::collection::vec(any::<u8>(), 0..80), four: bool,
        ) {
            if let Some(parsed) = AsPath::parse(&wire, four) {
                prop_assert_eq!(AsPath::parse(parsed.wire(), true), Some(parsed.clone()));
                if !four {
                    prop_assert_eq!(&parsed.two_octet_wire()[..], &wire[..]);
                }
                let _ = (parsed.length(), parsed.to_string(), parsed.neighbour());
            }
        }
    }
}
