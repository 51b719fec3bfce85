//! Durations as Go writes them (`90s`, `1m30s`, `1.5h`), in whole seconds, rounded as Calico rounds.

/// The remedy is part of the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a duration; write 90s, 2m or 1m30s")]
pub(crate) struct ParseDurationError(String);

/// Whole seconds, rounded half up. Negative durations are not durations here.
pub(crate) fn seconds(text: &str) -> Result<u64, ParseDurationError> {
    let error = || ParseDurationError(crate::tree::excerpt(text));
    if text == "0" {
        return Ok(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(error());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| error())?;
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        total += number
            * match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(error()),
            };
        rest = tail;
    }
    // Go's durations are 64-bit nanoseconds.
    if !total.is_finite() || total > 9_223_372_036.0 {
        return Err(error());
    }
    Ok(total.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_writes_is_read() {
        for (text, expected) in [
            ("0", 0),
            ("90s", 90),
            ("1m30s", 90),
            ("1.5h", 5400),
            ("2m0s", 120),
            ("1499ms", 1),
            ("1500ms", 2),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "+", "90", "s", "-1s", "1 s", "1x", "1.2.3s", "999999999999h", "."] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
