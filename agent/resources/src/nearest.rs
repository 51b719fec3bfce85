//! Which of the known names was meant: for "unknown field" and its like.

use std::cmp::Reverse;

/// The known name nearest to `text`, if it is near enough to have been meant. Letter case counts as nothing.
pub fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Nobody means a known name by writing a page of text.
    if text.len() > 64 {
        return None;
    }
    let wanted = text.to_lowercase();
    // One letter may be anything.
    wanted.chars().nth(1)?;
    known
        .into_iter()
        .map(|name| {
            let lower = name.to_lowercase();
            (!is_short_for(&wanted, &lower), distance(&wanted, &lower), Reverse(lower.chars().count()), name)
        })
        .filter(|(is_no_short, distance, _, name)| {
            !is_no_short || *distance <= (name.chars().count().max(3) / 3)
        })
        .min()
        .map(|(.., name)| name)
}

/// Begins as the name does, and has only letters of it, in their order, half of them at least.
fn is_short_for(text: &str, name: &str) -> bool {
    let mut letters = name.chars();
    text.chars().next() == name.chars().next()
        && text.chars().all(|letter| letters.any(|of_name| of_name == letter))
        && text.chars().count() * 2 >= name.chars().count()
}

/// Insertions, deletions, substitutions and swaps of neighbours that make one of the other.
#[expect(
    clippy::indexing_slicing,
    reason = "i and j run from 1 to the lengths, and each row has one entry more than `b`"
)]
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substitution = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substitution.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let known = ["asNumber", "peerIP", "peerSelector"];
        assert_eq!(nearest("asNumer", known), Some("asNumber"));
        assert_eq!(nearest("ASNUMBER", known), Some("asNumber"));
        assert_eq!(nearest("peerPI", known), Some("peerIP"));
        let kinds = ["no", "node", "nodes", "bgpconfig", "felixconfig"];
        assert_eq!(nearest("nod", kinds), Some("node"), "the longest of those that are as near");
        assert_eq!(nearest("fconfig", kinds), Some("felixconfig"), "what it is short for");
    }

    #[test]
    fn what_resembles_nothing_gets_no_suggestion() {
        assert_eq!(nearest("holdTime", ["asNumber", "peerIP"]), None);
        assert_eq!(nearest(&"a".repeat(1000), ["asNumber"]), None);
        assert_eq!(nearest("b", ["bf", "bp"]), None);
    }
}
