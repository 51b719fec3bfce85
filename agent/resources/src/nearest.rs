//! Which of the known names was meant: for "unknown field" and its like.

/// The known name nearest to `text`, if it is near enough to have been meant. Letter case counts as nothing.
pub fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Nobody means a known name by writing a page of text.
    if text.len() > 64 {
        return None;
    }
    let wanted = text.to_lowercase();
    known
        .into_iter()
        .map(|name| (distance(&wanted, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.chars().count().max(3) / 3))
        .min()
        .map(|(_, name)| name)
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
    }

    #[test]
    fn what_resembles_nothing_gets_no_suggestion() {
        assert_eq!(nearest("holdTime", ["asNumber", "peerIP"]), None);
        assert_eq!(nearest(&"a".repeat(1000), ["asNumber"]), None);
    }
}
