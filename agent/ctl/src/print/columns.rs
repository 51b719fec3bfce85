//! `-o custom-columns=`, in both dialects: calicoctl's names headings of the kind's own table (`NAME,ASN`), kubectl's
//! gives each a path (`NAME:.metadata.name`). A column with a colon is of kubectl's.

use std::str::FromStr;

use serde_json::Value;

use super::jsonpath::{Path, TemplateError, shown};

#[derive(Clone, Debug, PartialEq)]
pub struct Columns(pub Vec<Column>);

#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// One of the kind's table.
    Heading(String),
    Path(String, Path),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnsError {
    #[error("need to specify at least one column, such as NAME or NAME:.metadata.name")]
    None,
    #[error("column {0} has no path; write it as {0}:.metadata.name")]
    NoPath(String),
    #[error("column {column}: {why}")]
    Path { column: String, why: TemplateError },
}

impl FromStr for Columns {
    type Err = ColumnsError;

    fn from_str(text: &str) -> Result<Columns, ColumnsError> {
        let columns = split(text).into_iter().map(|column| match column.split_once(':') {
            None if column.trim().is_empty() => Err(ColumnsError::None),
            None => Ok(Column::Heading(column.trim().to_owned())),
            Some((heading, path)) if path.trim().is_empty() => Err(ColumnsError::NoPath(heading.to_owned())),
            Some((heading, path)) => match Path::parse(path) {
                Ok(path) => Ok(Column::Path(heading.to_owned(), path)),
                Err(why) => Err(ColumnsError::Path { column: heading.to_owned(), why }),
            },
        });
        columns.collect::<Result<_, _>>().map(Columns)
    }
}

/// At commas, but for those in brackets and parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut parts, mut from) = (0_usize, Vec::new(), 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '[' | '(' => depth += 1,
            ']' | ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.extend(text.get(from..at));
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(text.get(from..));
    parts
}

/// All that a path leads to, or that it leads to nothing.
pub fn cell(path: &Path, document: &Value) -> Result<String, TemplateError> {
    let values = path.values(document)?;
    if values.is_empty() {
        return Ok("<none>".to_owned());
    }
    Ok(values.into_iter().map(shown).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_dialects_are_told_apart_by_the_colon() {
        let Columns(columns) = "NAME,RACK:.metadata.labels['a','b'],IP:{.spec.ip}".parse().unwrap();
        assert_eq!(columns.len(), 3);
        assert_eq!(columns[0], Column::Heading("NAME".to_owned()));
        let document = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        let cells: Vec<String> = columns
            .iter()
            .filter_map(|column| match column {
                Column::Path(_, path) => Some(cell(path, &document).unwrap()),
                Column::Heading(_) => None,
            })
            .collect();
        assert_eq!(cells, ["1,2", "<none>"]);
    }

    #[test]
    fn a_column_that_says_nothing_is_an_error() {
        let said = |text: &str| text.parse::<Columns>().unwrap_err().to_string();
        assert_eq!(said(""), "need to specify at least one column, such as NAME or NAME:.metadata.name");
        assert_eq!(said("A,"), said(""));
        assert_eq!(said("A:"), "column A has no path; write it as A:.metadata.name");
        assert!(said("A:.b[").starts_with("column A: at character "));
    }
}
