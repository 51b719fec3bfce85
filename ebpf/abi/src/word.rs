//! The packed words of the block index and of the groups: one u32 each, so that the agent changes one by one store
//! and a program sees the old one or the new one.

/// What is known of an address by its place in the index.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Ask the trie. What zeroed memory says, so that a word that nobody wrote yet is slow and not wrong.
    Trie = 0,
    /// The tables have no route here.
    NoRoute = 1,
    /// The stack's.
    Pass = 2,
    /// The target is a group id.
    Via = 3,
    /// The target is an endpoint id.
    Local = 4,
    BlackholeOwn = 5,
    BlackholeExplicit = 6,
    Unreachable = 7,
    /// The target is the position in `WORDS` of a page: one word for each address of the block, in their order.
    /// Never inside a page.
    Page = 8,
}

impl TryFrom<u32> for Kind {
    type Error = crate::BadValue;

    fn try_from(found: u32) -> Result<Kind, crate::BadValue> {
        Ok(match found {
            0 => Kind::Trie,
            1 => Kind::NoRoute,
            2 => Kind::Pass,
            3 => Kind::Via,
            4 => Kind::Local,
            5 => Kind::BlackholeOwn,
            6 => Kind::BlackholeExplicit,
            7 => Kind::Unreachable,
            8 => Kind::Page,
            found => return Err(crate::BadValue { field: "kind", found }),
        })
    }
}

/// A [`Kind`] in the high four bits, its target in the low 28.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Word(pub u32);

impl Word {
    pub const TRIE: Word = Word::new(Kind::Trie, 0);
    pub const NO_ROUTE: Word = Word::new(Kind::NoRoute, 0);
    /// The largest group id, endpoint id or position.
    pub const TARGET_MAX: u32 = (1 << 28) - 1;

    /// Of a target beyond [`Self::TARGET_MAX`] the low bits are kept: the maps are smaller than that.
    #[inline(always)]
    pub const fn new(kind: Kind, target: u32) -> Word {
        Word((kind as u32) << 28 | target & Word::TARGET_MAX)
    }

    /// The number of a [`Kind`], or one that this ABI does not define.
    #[inline(always)]
    pub const fn kind(self) -> u32 {
        self.0 >> 28
    }

    #[inline(always)]
    pub const fn target(self) -> u32 {
        self.0 & Word::TARGET_MAX
    }

    #[inline(always)]
    pub const fn is(self, kind: Kind) -> bool {
        self.kind() == kind as u32
    }
}

/// A word of `GROUPS`: a single next hop, or a set of buckets over which flows are spread. Zero (next hop 0, which
/// is never given out) is a group not in use.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Group(pub u32);

impl Group {
    const SET: u32 = 1 << 31;

    #[inline(always)]
    pub const fn single(next_hop: u32) -> Group {
        Group(next_hop & !Group::SET)
    }

    #[inline(always)]
    pub const fn spread(set: u32) -> Group {
        Group(set | Group::SET)
    }

    /// The next-hop id, or else the id of a set in `BUCKETS`.
    #[inline(always)]
    pub const fn target(self) -> Result<u32, u32> {
        if self.0 & Group::SET == 0 { Ok(self.0) } else { Err(self.0 & !Group::SET) }
    }
}

/// Words of an element of a packed array (`WORDS`, `COUNTER_IDS`, `GROUPS`): an array rounds each element up to
/// eight octets, so they stand in elements of a page of memory each.
pub const PACKED: usize = 1024;

/// Value of a packed array.
pub type Packed = [u32; PACKED];

/// Next-hop ids of a set in `BUCKETS`.
pub const BUCKETS: usize = 64;

/// Value of `BUCKETS`. A bucket of 0 is never shown to a program: a set is filled before a group names it.
pub type BucketSet = [u32; BUCKETS];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_gives_back_its_kind_and_its_target() {
        for kind in 0..=8 {
            let kind = Kind::try_from(kind).unwrap();
            for target in [0, 1, 0x0102_0304, Word::TARGET_MAX] {
                let word = Word::new(kind, target);
                assert!(word.is(kind));
                assert_eq!((Kind::try_from(word.kind()), word.target()), (Ok(kind), target));
            }
        }
        assert!(Kind::try_from(Word(0xf000_0000).kind()).is_err());
    }

    #[test]
    fn memory_that_nobody_wrote_says_trie_and_names_no_next_hop() {
        assert_eq!(Word::default(), Word::TRIE);
        assert_eq!(Group::default().target(), Ok(0));
    }

    #[test]
    fn a_group_is_one_next_hop_or_a_set() {
        assert_eq!(Group::single(7).target(), Ok(7));
        assert_eq!(Group::spread(7).target(), Err(7));
    }
}
