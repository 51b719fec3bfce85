//! The two forms in which `calicoctl` prints tables: aligned columns (`get`), and boxes (`node status`). Widths are
//! counted in characters.

/// The spaces that end a column.
pub const GAP: usize = 3;

/// Characters of a line of prose.
const LINE: usize = 100;

/// Go's tabwriter as calicoctl sets it up: a column is at least 5 wide and ends in 3 spaces, the last one too.
pub fn columns<R: AsRef<[String]>>(headings: &[&str], rows: &[R]) -> String {
    let headings: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let lines: Vec<&[String]> =
        std::iter::once(headings.as_slice()).chain(rows.iter().map(AsRef::as_ref)).collect();
    let widths: Vec<usize> = widths(&lines).into_iter().map(|width| (width + GAP).max(5)).collect();
    let mut text = String::new();
    for line in lines {
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(cell);
            push_spaces(&mut text, width - cell.chars().count().min(*width));
        }
        text.push('\n');
    }
    text
}

/// The same for tables that are not calicoctl's: no line ends in blanks, or one long note would break every line of a
/// narrow terminal.
pub fn trimmed<R: AsRef<[String]>>(headings: &[&str], rows: &[R]) -> String {
    columns(headings, rows).lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

/// A sentence after `lead`, broken between words to fit a terminal; its further lines stand below its first word.
pub fn wrapped(lead: &str, text: &str) -> String {
    let indent = lead.chars().count();
    let mut out = lead.to_owned();
    let mut at = indent;
    for (place, word) in text.split_whitespace().enumerate() {
        let width = word.chars().count();
        if place > 0 && at + 1 + width > LINE {
            out.push('\n');
            push_spaces(&mut out, indent);
            at = indent;
        } else if place > 0 {
            out.push(' ');
            at += 1;
        }
        out.push_str(word);
        at += width;
    }
    out.push('\n');
    out
}

/// A frame of `+`, `-` and `|`, headings centred, cells to the left, numbers to the right.
pub fn boxed<R: AsRef<[String]>>(headings: &[&str], rows: &[R]) -> String {
    let headings: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let lines: Vec<&[String]> =
        std::iter::once(headings.as_slice()).chain(rows.iter().map(AsRef::as_ref)).collect();
    let widths = widths(&lines);
    let rule: String =
        widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect::<String>() + "+\n";
    let mut text = rule.clone();
    for (index, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            let gap = width - cell.chars().count().min(*width);
            let left = match index {
                0 => gap / 2,
                _ if is_number(cell) => gap,
                _ => 0,
            };
            text.push_str("| ");
            push_spaces(&mut text, left);
            text.push_str(cell);
            push_spaces(&mut text, gap - left + 1);
        }
        text.push_str("|\n");
        if index == 0 {
            text.push_str(&rule);
        }
    }
    text.push_str(&rule);
    text
}

/// As calicoctl's table sees one: digits, and maybe a point or a percent sign.
fn is_number(cell: &str) -> bool {
    let digits = cell.strip_suffix('%').unwrap_or(cell);
    digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.matches('.').count() <= 1
        && digits.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// The longest cell of each column of the first line.
fn widths(lines: &[&[String]]) -> Vec<usize> {
    let columns = lines.first().map_or(0, |line| line.len());
    (0..columns)
        .map(|column| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect()
}

fn push_spaces(text: &mut String, count: usize) {
    text.extend(std::iter::repeat_n(' ', count));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    #[test]
    fn no_line_of_ours_ends_in_blanks() {
        let rows = [["a".to_owned(), String::new()], ["b".to_owned(), "a long note".to_owned()]];
        assert_eq!(trimmed(&["X", "NOTE"], &rows), "X    NOTE\na\nb    a long note\n");
    }

    #[test]
    fn columns_are_the_articles_first_table() {
        let rows = rows(&[
            &["k8s-master-01", "(64512)", "192.168.80.121/24", ""],
            &["k8s-worker-01", "(64512)", "192.168.80.124/24", ""],
        ]);
        assert_eq!(
            columns(&["NAME", "ASN", "IPV4", "IPV6"], &rows),
            "NAME            ASN       IPV4                IPV6   \n\
             k8s-master-01   (64512)   192.168.80.121/24          \n\
             k8s-worker-01   (64512)   192.168.80.124/24          \n"
        );
    }

    #[test]
    fn a_column_is_at_least_five_wide() {
        assert_eq!(columns(&["A", "B"], &rows(&[&["", "x"]])), "A    B    \n     x    \n");
    }

    #[test]
    fn boxes_are_the_articles_second_table() {
        let rows = rows(&[&["192.168.80.121", "node specific", "up", "09:30:21", "Established"]]);
        let expected = "\
+----------------+---------------+-------+----------+-------------+
|  PEER ADDRESS  |   PEER TYPE   | STATE |  SINCE   |    INFO     |
+----------------+---------------+-------+----------+-------------+
| 192.168.80.121 | node specific | up    | 09:30:21 | Established |
+----------------+---------------+-------+----------+-------------+
";
        assert_eq!(boxed(&["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"], &rows), expected);
    }

    #[test]
    fn widths_count_characters() {
        assert_eq!(boxed(&["é"], &rows(&[&["ü"]])), "+---+\n| é |\n+---+\n| ü |\n+---+\n");
    }
}
