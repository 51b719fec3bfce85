//! Numbers for people.

/// Octets, by thousands.
pub fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, "B")
}

/// Such as "9.4 Gbit/s".
pub fn bits_per_second(bits: f64) -> String {
    format!("{}/s", scaled(bits, "bit"))
}

/// Such as "812" or "1.4 M".
pub fn per_second(count: f64) -> String {
    scaled(count, "").trim_end().to_owned()
}

/// Three digits or so, with the prefix of the International System.
fn scaled(mut value: f64, unit: &str) -> String {
    for prefix in ["", "k", "M", "G", "T"] {
        if value < 999.5 || prefix == "T" {
            let digits =
                usize::from(value < 99.95 && value.fract() > 0.0 && !(prefix.is_empty() && value >= 10.0));
            return format!("{value:.digits$} {prefix}{unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.0} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_a_length_that_can_be_read() {
        let shown: Vec<String> = [0, 7, 999, 1_500, 99_949, 1_234_567, u64::MAX].map(bytes).into();
        assert_eq!(shown, ["0 B", "7 B", "999 B", "1.5 kB", "99.9 kB", "1.2 MB", "18446744 TB"]);
        assert_eq!(bits_per_second(9.41e9), "9.4 Gbit/s");
        assert_eq!([0.0, 0.5, 812.0, 1.4e6].map(per_second), ["0", "0.5", "812", "1.4 M"]);
    }
}
