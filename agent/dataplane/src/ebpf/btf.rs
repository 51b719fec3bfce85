//! The few questions that the loader has to the kernel's BTF: the id of a function, and where a member of a structure
//! stands. Read in one pass over the bytes, since a parsed copy of the kernel's types is tens of megabytes.

/// Types of the kernel, or of a module of it.
#[derive(Clone, Copy)]
pub(super) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Names of the kernel's own types, which a module's go on from; none for the kernel itself.
    before: &'a [u8],
    /// The first type's id.
    first: u32,
}

/// Bytes that are not BTF as this reader knows it (`Documentation/bpf/btf.rst`, kinds up to ENUM64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotBtf;

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNC: u32 = 12;
const HEAD: usize = 12;
const MEMBER: usize = 12;
/// How deep structures without names lie in others, at most.
const DEPTH: u32 = 4;

/// A type as it lies in the section.
struct Type<'a> {
    name: u32,
    info: u32,
    /// What follows the head, as its kind wants it.
    rest: &'a [u8],
}

impl Type<'_> {
    fn kind(&self) -> u32 {
        self.info >> 24 & 0x1f
    }
}

impl<'a> Btf<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Btf<'a>, NotBtf> {
        let magic = bytes.get(..2).and_then(|magic| magic.try_into().ok()).map(u16::from_ne_bytes);
        if magic != Some(MAGIC) {
            return Err(NotBtf);
        }
        let header = word(bytes, 4)? as usize;
        let section = |at| -> Result<&'a [u8], NotBtf> {
            let start = header.checked_add(word(bytes, at)? as usize).ok_or(NotBtf)?;
            let end = start.checked_add(word(bytes, at + 4)? as usize).ok_or(NotBtf)?;
            bytes.get(start..end).ok_or(NotBtf)
        };
        // Id 0 is void, which no section has.
        Ok(Btf { types: section(8)?, strings: section(16)?, before: &[], first: 1 })
    }

    /// The types of a module: its ids and names go on where the kernel's end (`Documentation/bpf/btf.rst`, split BTF).
    pub fn parse_module(bytes: &'a [u8], kernel: &Btf<'a>) -> Result<Btf<'a>, NotBtf> {
        let types = kernel.iter().try_fold(0u32, |count, found| found.map(|_| count + 1))?;
        let first = kernel.first.checked_add(types).ok_or(NotBtf)?;
        Ok(Btf { before: kernel.strings, first, ..Btf::parse(bytes)? })
    }

    /// The id of a function.
    pub fn function(&self, name: &str) -> Result<Option<u32>, NotBtf> {
        for (place, found) in (self.first..).zip(self.iter()) {
            let found = found?;
            if found.kind() == FUNC && self.name(found.name)? == name.as_bytes() {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// The offset in octets of a member of a structure, if it stands on an octet's boundary.
    pub fn member(&self, structure: &str, member: &str) -> Result<Option<u32>, NotBtf> {
        for found in self.iter() {
            let found = found?;
            if found.kind() != STRUCT || self.name(found.name)? != structure.as_bytes() {
                continue;
            }
            for field in found.rest.chunks_exact(MEMBER) {
                if self.name(word(field, 0)?)? == member.as_bytes() {
                    let place = word(field, 8)?;
                    // With the flag the high octet is a bit field's width.
                    let bits = if found.info >> 31 == 1 { place & 0x00ff_ffff } else { place };
                    return Ok((bits % 8 == 0).then_some(bits / 8));
                }
            }
        }
        Ok(None)
    }

    /// The offsets in octets of members of structures, each as [`Btf::member`] says it, in one pass. A member of a structure or
    /// union without a name within another is one of the outer.
    pub fn members<const N: usize>(&self, wanted: [(&str, &str); N]) -> Result<[Option<u32>; N], NotBtf> {
        let mut found = [None; N];
        for outer in self.iter() {
            let outer = outer?;
            if outer.kind() != STRUCT {
                continue;
            }
            let name = self.name(outer.name)?;
            for ((structure, member), found) in wanted.iter().zip(&mut found) {
                if found.is_none() && structure.as_bytes() == name {
                    *found = self.within(&outer, member, DEPTH)?;
                }
            }
        }
        Ok(found)
    }

    fn within(&self, outer: &Type<'_>, member: &str, depth: u32) -> Result<Option<u32>, NotBtf> {
        let offset = |field: &[u8]| -> Result<Option<u32>, NotBtf> {
            let place = word(field, 8)?;
            // With the flag the high octet is a bit field's width.
            let bits = if outer.info >> 31 == 1 { place & 0x00ff_ffff } else { place };
            Ok((bits % 8 == 0).then_some(bits / 8))
        };
        let mut unnamed = Vec::new();
        for field in outer.rest.chunks_exact(MEMBER) {
            match self.name(word(field, 0)?)? {
                name if name == member.as_bytes() => return offset(field),
                [] => unnamed.push(field),
                _ => {}
            }
        }
        let Some(depth) = depth.checked_sub(1) else { return Ok(None) };
        for field in unnamed {
            let (Some(inner), Some(start)) = (self.aggregate(word(field, 4)?)?, offset(field)?) else {
                continue;
            };
            if let Some(offset) = self.within(&inner, member, depth)? {
                return Ok(start.checked_add(offset));
            }
        }
        Ok(None)
    }

    /// The structure or union of this id.
    fn aggregate(&self, id: u32) -> Result<Option<Type<'a>>, NotBtf> {
        let Some(place) = id.checked_sub(self.first) else { return Ok(None) };
        let found = self.iter().nth(place as usize).transpose()?;
        Ok(found.filter(|found| matches!(found.kind(), STRUCT | UNION)))
    }

    fn name(&self, offset: u32) -> Result<&'a [u8], NotBtf> {
        let offset = offset as usize;
        let rest = match offset.checked_sub(self.before.len()) {
            Some(own) => self.strings.get(own..),
            None => self.before.get(offset..),
        };
        let rest = rest.ok_or(NotBtf)?;
        let end = rest.iter().position(|octet| *octet == 0).ok_or(NotBtf)?;
        rest.get(..end).ok_or(NotBtf)
    }

    fn iter(&self) -> impl Iterator<Item = Result<Type<'a>, NotBtf>> {
        let mut left = self.types;
        std::iter::from_fn(move || {
            if left.is_empty() {
                return None;
            }
            let next = take(left);
            left = match &next {
                Ok((_, after)) => after,
                Err(NotBtf) => &[],
            };
            Some(next.map(|(found, _)| found))
        })
    }
}

/// The first type, and what follows it.
fn take(bytes: &[u8]) -> Result<(Type<'_>, &[u8]), NotBtf> {
    let (name, info) = (word(bytes, 0)?, word(bytes, 4)?);
    let members = (info & 0xffff) as usize;
    let length = match info >> 24 & 0x1f {
        // Integers, variables and tags of declarations.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Data sections and enumerations of 64 bits have members as large as structures'.
        STRUCT | UNION | 15 | 19 => members * MEMBER,
        // Enumerations and prototypes.
        6 | 13 => members * 8,
        2 | 7..=FUNC | 16 | 18 => 0,
        _ => return Err(NotBtf),
    };
    let rest = bytes.get(HEAD..HEAD + length).ok_or(NotBtf)?;
    let after = bytes.get(HEAD + length..).ok_or(NotBtf)?;
    Ok((Type { name, info, rest }, after))
}

fn word(bytes: &[u8], at: usize) -> Result<u32, NotBtf> {
    let octets = bytes.get(at..at + 4).ok_or(NotBtf)?;
    octets.try_into().map(u32::from_ne_bytes).map_err(|_| NotBtf)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn section(strings: &[u8], types: &[&[u32]]) -> Vec<u8> {
        let types: Vec<u8> =
            types.iter().flat_map(|words| words.iter().flat_map(|w| w.to_ne_bytes())).collect();
        let mut out = MAGIC.to_ne_bytes().to_vec();
        out.extend([1, 0]);
        for number in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            out.extend(number.to_ne_bytes());
        }
        out.extend(types);
        out.extend(strings);
        out
    }

    const fn info(kind: u32, members: u32) -> u32 {
        kind << 24 | members
    }

    /// An integer, a structure whose second member stands 5 octets in, a function.
    fn kernel() -> Vec<u8> {
        let strings = b"\0int\0flow\0status\0timeout\0ask\0";
        section(
            strings,
            &[
                &[1, info(1, 0), 4, 32],
                &[5, info(STRUCT, 2), 8, 10, 1, 0, 17, 1, 40],
                &[0, info(13, 1), 1, 0, 1],
                &[25, info(FUNC, 0), 3],
            ],
        )
    }

    #[test]
    fn a_function_has_the_number_of_its_place() {
        let bytes = kernel();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.function("ask"), Ok(Some(4)));
        // A structure of that name is no function.
        assert_eq!(btf.function("flow"), Ok(None));
    }

    #[test]
    fn a_member_stands_where_its_structure_says() {
        let bytes = kernel();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.member("flow", "timeout"), Ok(Some(5)));
        assert_eq!(btf.member("flow", "status"), Ok(Some(0)));
        assert_eq!(btf.member("flow", "mark"), Ok(None));
        assert_eq!(btf.member("packet", "status"), Ok(None));
    }

    #[test]
    fn a_member_of_a_structure_without_a_name_is_its_outers() {
        let strings = b"\0int\0flow\0status\0dev\0";
        let bytes = section(
            strings,
            &[
                &[1, info(1, 0), 4, 32],
                &[0, info(UNION, 1), 8, 17, 1, 0],
                &[0, info(STRUCT, 2), 16, 10, 1, 0, 0, 2, 64],
                &[5, info(STRUCT, 2), 24, 10, 1, 0, 0, 3, 64],
            ],
        );
        let btf = Btf::parse(&bytes).unwrap();
        let found = btf.members([("flow", "dev"), ("flow", "status"), ("flow", "none"), ("int", "dev")]);
        assert_eq!(found, Ok([Some(16), Some(0), None, None]));
    }

    /// Of a module beside [`kernel`]: a function with a name of its own, one with the kernel's name `ask`, a structure
    /// with the kernel's name `int` and a member with its own.
    fn module(kernel: &Btf<'_>) -> Vec<u8> {
        let own = kernel.strings.len() as u32;
        let strings = b"\0look_up\0mark\0";
        section(
            strings,
            &[
                &[own + 1, info(FUNC, 0), 3],
                &[25, info(FUNC, 0), 3],
                &[1, info(STRUCT, 1), 8, own + 9, 1, 32],
            ],
        )
    }

    #[test]
    fn a_modules_types_go_on_where_the_kernels_end() {
        let bytes = kernel();
        let kernel = Btf::parse(&bytes).unwrap();
        let bytes = module(&kernel);
        let module = Btf::parse_module(&bytes, &kernel).unwrap();
        // The kernel has four types, and void.
        assert_eq!(module.function("look_up"), Ok(Some(5)));
        assert_eq!(module.function("ask"), Ok(Some(6)));
        assert_eq!(module.member("int", "mark"), Ok(Some(4)));
        // What only the kernel has is asked of the kernel.
        assert_eq!(module.member("flow", "status"), Ok(None));
        assert_eq!(kernel.function("look_up"), Ok(None));
    }

    #[test]
    fn a_modules_names_end_with_its_own() {
        let bytes = kernel();
        let kernel = Btf::parse(&bytes).unwrap();
        let end = kernel.strings.len() as u32 + 1;
        let bytes = section(b"\0", &[&[end, info(FUNC, 0), 3]]);
        let module = Btf::parse_module(&bytes, &kernel).unwrap();
        assert_eq!(module.function("ask"), Err(NotBtf));
        for length in 0..bytes.len() {
            assert!(Btf::parse_module(&bytes[..length], &kernel).is_err(), "{length}");
        }
    }

    #[test]
    fn bytes_that_end_early_are_refused_and_not_read_beyond() {
        let bytes = kernel();
        for length in 0..bytes.len() {
            let cut = bytes.get(..length).unwrap();
            assert!(Btf::parse(cut).is_err(), "{length}");
        }
        let unknown = section(b"\0", &[&[0, info(30, 0), 0]]);
        assert_eq!(Btf::parse(&unknown).unwrap().function("ask"), Err(NotBtf));
        let beyond = section(b"\0", &[&[9, info(FUNC, 0), 0]]);
        assert_eq!(Btf::parse(&beyond).unwrap().function("ask"), Err(NotBtf));
    }

    fn ask(bytes: &[u8]) {
        if let Ok(btf) = Btf::parse(bytes) {
            let _ = (btf.function("b"), btf.member("a", "b"), btf.members([("a", "b"), ("", "b")]));
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_types_or_are_not(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            ask(&bytes);
            let mut begun = MAGIC.to_ne_bytes().to_vec();
            begun.extend(bytes);
            ask(&begun);
        }

        #[test]
        fn types_that_are_damaged_anywhere_are_read_or_refused(
            types in prop::collection::vec((0u32..20, 0u32..4, prop::collection::vec(0u32..8, 0..12)), 0..8),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let types: Vec<Vec<u32>> = types
                .into_iter()
                .map(|(kind, members, rest)| [vec![1, info(kind, members), 4], rest].concat())
                .collect();
            let mut bytes = section(b"\0a\0b\0", &types.iter().map(Vec::as_slice).collect::<Vec<_>>());
            ask(&bytes);
            for (place, octet) in damage {
                *place.get_mut(&mut bytes) = octet;
            }
            ask(&bytes);
        }
    }
}
