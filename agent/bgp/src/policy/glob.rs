//! Patterns of interface names: `*` stands for any text, also none; every other character for itself.

/// Linear in the pattern's length times the name's: after a mismatch only the last `*` is tried again, for an
/// earlier one could do nothing that the last cannot.
pub fn fits(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.as_bytes(), name.as_bytes());
    let mut last_star: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, name) {
            ([b'*', rest @ ..], _) => {
                last_star = Some((rest, name));
                pattern = rest;
            }
            ([a, pattern_rest @ ..], [b, name_rest @ ..]) if a == b => {
                (pattern, name) = (pattern_rest, name_rest);
            }
            ([], []) => return true,
            _ => match last_star {
                Some((after, [_, shorter @ ..])) => {
                    (pattern, name) = (after, shorter);
                    last_star = Some((after, shorter));
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth", "eth0", false),
            ("eth*", "eth", true),
            ("*.calico", "vxlan.calico", true),
            ("*.calico", "calico", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("*ab", "aab", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("**", "a", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    /// By trying every way in which a `*` can be read.
    fn fits_slowly(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                fits_slowly(rest, name) || (!name.is_empty() && fits_slowly(pattern, &name[1..]))
            }
            ([a, pattern @ ..], [b, name @ ..]) => a == b && fits_slowly(pattern, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn the_quick_way_agrees_with_the_slow_one(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            prop_assert_eq!(fits(&pattern, &name), fits_slowly(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
