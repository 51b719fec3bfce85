//! kubectl's templates: text, and in braces what is taken from an object: `{range .items[*]}{.metadata.name}{"\n"}{end}`.
//! Fields, `..`, `*`, indices, slices, unions and filters; no regular expressions, as there. What is missing is empty.
//! Parsing and evaluation are bounded, whatever the template.

mod parse;

use serde_json::Value;

use parse::Parser;

/// Ranges in ranges, and paths in filters.
const MAX_DEPTH: usize = 16;
/// Values that one template may come by.
const MAX_VISITS: usize = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("at character {at}: {why}")]
    Syntax { at: usize, why: String },
    #[error("the template comes by more than a million values")]
    TooMuch,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Print(Path),
    Range(Path, Vec<Piece>),
}

/// A path alone, such as custom-columns have.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    from_root: bool,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// The value and all below it.
    Recursive,
    All,
    /// From, to and by: of a list. One index is a slice of one.
    Index(i64),
    Slice(Option<i64>, Option<i64>, i64),
    Union(Vec<Step>),
    Filter(Operand, Option<(Compare, Operand)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(Path),
    Value(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Template {
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        // An expression without braces is meant as one.
        if text.starts_with(['.', '$', '[']) && !text.contains('{') {
            return Ok(Template(vec![Piece::Print(Path::parse(text)?)]));
        }
        let mut parser = Parser::new(text);
        let pieces = parser.pieces(0)?;
        Ok(Template(pieces))
    }

    pub fn print(&self, value: &Value) -> Result<String, TemplateError> {
        let mut out = String::new();
        let mut visits = MAX_VISITS;
        print(&self.0, value, value, &mut out, &mut visits)?;
        Ok(out)
    }
}

fn print(
    pieces: &[Piece],
    root: &Value,
    current: &Value,
    out: &mut String,
    visits: &mut usize,
) -> Result<(), TemplateError> {
    for piece in pieces {
        match piece {
            Piece::Text(text) => {
                spend(visits, 1)?;
                out.push_str(text);
            }
            Piece::Print(path) => {
                let found: Vec<String> = path.find(root, current, visits)?.into_iter().map(shown).collect();
                // What is printed is what may not grow without bound.
                spend(visits, found.iter().map(|text| text.len() / 64).sum())?;
                out.push_str(&found.join(" "));
            }
            Piece::Range(path, pieces) => {
                for value in path.find(root, current, visits)? {
                    print(pieces, root, value, out, visits)?;
                }
            }
        }
    }
    Ok(())
}

/// Text bare, everything else as JSON.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn spend(visits: &mut usize, count: usize) -> Result<(), TemplateError> {
    *visits = visits.checked_sub(count).ok_or(TemplateError::TooMuch)?;
    Ok(())
}

impl Path {
    /// With or without braces and the leading dot.
    pub fn parse(text: &str) -> Result<Path, TemplateError> {
        let bare = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        let dotted =
            if bare.starts_with(['.', '$', '@', '[']) { bare.to_owned() } else { format!(".{bare}") };
        let mut parser = Parser::new(&dotted);
        let path = parser.path(0)?;
        parser.blanks();
        match parser.peek() {
            None => Ok(path),
            Some(other) => Err(parser.wrong(format!("'{other}' is no part of a path"))),
        }
    }

    /// All that the path leads to.
    pub fn values<'v>(&self, value: &'v Value) -> Result<Vec<&'v Value>, TemplateError> {
        self.find(value, value, &mut MAX_VISITS.clone())
    }

    fn find<'v>(
        &self,
        root: &'v Value,
        current: &'v Value,
        visits: &mut usize,
    ) -> Result<Vec<&'v Value>, TemplateError> {
        let mut found = vec![if self.from_root { root } else { current }];
        for step in &self.steps {
            let mut next = Vec::new();
            for value in found {
                step.take(root, value, &mut next, visits)?;
            }
            found = next;
        }
        Ok(found)
    }
}

impl Step {
    fn take<'v>(
        &self,
        root: &'v Value,
        value: &'v Value,
        next: &mut Vec<&'v Value>,
        visits: &mut usize,
    ) -> Result<(), TemplateError> {
        spend(visits, 1)?;
        match (self, value) {
            (Step::Field(name), Value::Object(map)) => next.extend(map.get(name)),
            (Step::All, Value::Object(map)) => {
                spend(visits, map.len())?;
                next.extend(map.values());
            }
            (Step::All, Value::Array(items)) => {
                spend(visits, items.len())?;
                next.extend(items);
            }
            (Step::Index(index), Value::Array(items)) => {
                next.extend(place(*index, items.len()).and_then(|index| items.get(index)));
            }
            (Step::Slice(from, to, by), Value::Array(items)) => {
                spend(visits, items.len())?;
                let len = items.len();
                let bound = |index: Option<i64>, otherwise: usize| {
                    index.map_or(otherwise, |index| {
                        let index = if index < 0 { index.saturating_add_unsigned(len as u64) } else { index };
                        usize::try_from(index).unwrap_or(0).min(len)
                    })
                };
                let (from, to) = (bound(*from, 0), bound(*to, len));
                let by = usize::try_from(*by).unwrap_or(1).max(1);
                next.extend(items.iter().take(to).skip(from).step_by(by));
            }
            (Step::Union(steps), value) => {
                for step in steps {
                    step.take(root, value, next, visits)?;
                }
            }
            (Step::Filter(left, right), Value::Array(items)) => {
                for item in items {
                    if holds(left, right.as_ref(), root, item, visits)? {
                        next.push(item);
                    }
                }
            }
            (Step::Recursive, value) => {
                // Not by recursion: whatever is nested is nested in what was found.
                let mut open = vec![value];
                while let Some(value) = open.pop() {
                    spend(visits, 1)?;
                    next.push(value);
                    match value {
                        Value::Object(map) => open.extend(map.values().rev()),
                        Value::Array(items) => open.extend(items.iter().rev()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn place(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add_unsigned(len as u64)? } else { index };
    usize::try_from(index).ok().filter(|index| *index < len)
}

fn holds(
    left: &Operand,
    right: Option<&(Compare, Operand)>,
    root: &Value,
    item: &Value,
    visits: &mut usize,
) -> Result<bool, TemplateError> {
    let mut value = |operand: &Operand| -> Result<Option<Value>, TemplateError> {
        Ok(match operand {
            Operand::Value(value) => Some(value.clone()),
            Operand::Path(path) => path.find(root, item, visits)?.first().map(|value| (*value).clone()),
        })
    };
    let left = value(left)?;
    let Some((compare, right)) = right else { return Ok(left.is_some()) };
    let (Some(left), Some(right)) = (left, value(right)?) else { return Ok(false) };
    let order = match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left.partial_cmp(&right),
        _ => Some(shown(&left).cmp(&shown(&right))),
    };
    Ok(order.is_some_and(|order| match compare {
        Compare::Equal => order.is_eq(),
        Compare::NotEqual => order.is_ne(),
        Compare::Less => order.is_lt(),
        Compare::LessOrEqual => order.is_le(),
        Compare::Greater => order.is_gt(),
        Compare::GreaterOrEqual => order.is_ge(),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn nodes() -> Value {
        json!({
            "kind": "List",
            "items": [
                {"kind": "None", "metadata": {"name": "127.0.0.1", "labels": {"kubernetes.io/hostname": "127.0.0.1"}}, "status": {"capacity": {"cpu": 4}, "addresses": [{"type": "LegacyHostIP", "address": "127.0.0.1"}]}},
                {"kind": "None", "metadata": {"name": "127.0.0.2"}, "status": {"capacity": {"cpu": 8}, "addresses": [{"type": "LegacyHostIP", "address": "127.0.0.2"}, {"type": "another", "address": "127.0.0.3"}]}}
            ],
            "users": [{"name": "myself", "user": {}}, {"name": "e2e", "user": {"username": "admin", "password": "secret"}}]
        })
    }

    /// The examples of kubectl's reference, and its corners.
    #[test]
    fn templates_print_what_kubectl_prints() {
        for (template, printed) in [
            ("kind is {.kind}", "kind is List"),
            ("{.kind}", "List"),
            (".kind", "List"),
            ("{$.kind}", "List"),
            ("{['kind']}", "List"),
            ("{..name}", "127.0.0.1 127.0.0.2 myself e2e"),
            ("{.items[*].metadata.name}", "127.0.0.1 127.0.0.2"),
            ("{.users[0].name}", "myself"),
            ("{.users[-1].name}", "e2e"),
            ("{.users[0:1].name}", "myself"),
            ("{.users[:].name}", "myself e2e"),
            ("{.users[::2].name}", "myself"),
            ("{.items[*]['metadata.name', 'status.capacity']}", ""),
            ("{.items[1].status.capacity['cpu','mem']}", "8"),
            ("{.users[?(@.name==\"e2e\")].user.password}", "secret"),
            ("{.items[?(@.status.capacity.cpu>4)].metadata.name}", "127.0.0.2"),
            ("{.items[?(@.metadata.labels)].metadata.name}", "127.0.0.1"),
            (
                "{range .items[*]}[{.metadata.name}, {.status.capacity}] {end}",
                "[127.0.0.1, {\"cpu\":4}] [127.0.0.2, {\"cpu\":8}] ",
            ),
            ("{range .items[*]}{.metadata.name}{'\\t'}{end}", "127.0.0.1\t127.0.0.2\t"),
            ("{.items[0].metadata.labels.kubernetes\\.io/hostname}", "127.0.0.1"),
            ("{.missing.deeper[3]}", ""),
            ("{.users[9].name}", ""),
            ("plain", "plain"),
            ("{.users[0]}", "{\"name\":\"myself\",\"user\":{}}"),
            (
                "{range .items[*]}{range .status.addresses[*]}{.address}{\" \"}{end}{end}",
                "127.0.0.1 127.0.0.2 127.0.0.3 ",
            ),
        ] {
            assert_eq!(Template::parse(template).unwrap().print(&nodes()).unwrap(), printed, "{template}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_template_is_told_with_its_place() {
        for (template, said) in [
            ("{.a", "at character 4: a brace is not closed"),
            ("{range .a}x", "at character 12: {range …} has no {end}"),
            ("{end}", "at character 5: {end} has no {range …}"),
            ("{a}", "at character 3: \"a\" is no path; write .a"),
            (
                "{.a[}",
                "at character 5: in brackets stand an index, a slice, *, a filter ?(…), or names in quotes",
            ),
            ("{.a[?(@.b=~'x')]}", "at character 11: filters compare by ==, !=, <, <=, > and >="),
        ] {
            assert_eq!(Template::parse(template).unwrap_err().to_string(), said, "{template}");
        }
        let bomb = Template::parse(&format!("{{{}}}", "..".repeat(40))).unwrap();
        let deep = json!([
            [[[[[[[1, 2], 3], 4], 5], 6], [1, 2, 3, 4]], [[1, 2], [3, 4]]],
            [[[1], [2]], [3, [4, [5]]]]
        ]);
        assert_eq!(bomb.print(&deep), Err(TemplateError::TooMuch));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_template_makes_the_printer_panic(
            parts in prop::collection::vec(prop_oneof![
                "\\PC{0,4}",
                prop::sample::select(vec![
                    "{", "}", "[", "]", "(", ")", "?", "@", "$", ".", "..", "*", ",", ":", "'", "\"", "\\", "range ",
                    "end", "==", "<", ">=", "items", "name", "-1", "0", "99999999999999999999", "{range .items[*]}", "{end}", "{..name}", "[?(@.name==",
                ]).prop_map(str::to_owned),
            ], 0..20),
        ) {
            if let Ok(template) = Template::parse(&parts.concat()) {
                let _printed = template.print(&nodes());
            }
            if let Ok(path) = Path::parse(&parts.concat()) {
                let _values = path.values(&nodes());
            }
        }
    }
}
