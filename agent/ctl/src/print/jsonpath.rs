//! kubectl's templates: text, and in braces what is taken from an object: `{range .items[*]}{.metadata.name}{"\n"}{end}`.
//! Fields, `..`, `*`, indices, slices, unions and filters; no regular expressions, as there. What is missing is empty.
//! Parsing and evaluation are bounded, whatever the template.

use serde_json::Value;

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

struct Parser<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    /// Characters that were read.
    at: usize,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Parser<'t> {
        Parser { rest: text.chars().peekable(), at: 0 }
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.at += usize::from(next.is_some());
        next
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.next();
        }
        found
    }

    fn wrong(&self, why: impl Into<String>) -> TemplateError {
        TemplateError::Syntax { at: self.at + 1, why: why.into() }
    }

    fn expect(&mut self, wanted: char) -> Result<(), TemplateError> {
        self.blanks();
        if self.eat(wanted) {
            return Ok(());
        }
        let found = self.peek().map_or_else(|| "the end".to_owned(), |found| format!("'{found}'"));
        Err(self.wrong(format!("{found} stands where '{wanted}' must")))
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.next();
        }
    }

    /// Up to the end, or the `{end}` of the range that is `depth` deep.
    fn pieces(&mut self, depth: usize) -> Result<Vec<Piece>, TemplateError> {
        if depth > MAX_DEPTH {
            return Err(self.wrong(format!("ranges are nested more than {MAX_DEPTH} deep")));
        }
        let mut pieces = Vec::new();
        let mut text = String::new();
        loop {
            match self.next() {
                None if depth > 0 => return Err(self.wrong("{range …} has no {end}")),
                None => break,
                Some('{') => {
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    if self.action(depth, &mut pieces)? {
                        return Ok(pieces);
                    }
                }
                Some(other) => text.push(other),
            }
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(pieces)
    }

    /// What is in braces; true if it is the end of a range.
    fn action(&mut self, depth: usize, pieces: &mut Vec<Piece>) -> Result<bool, TemplateError> {
        loop {
            self.blanks();
            match self.peek() {
                Some('}') => {
                    self.next();
                    return Ok(false);
                }
                Some(quote @ ('"' | '\'')) => pieces.push(Piece::Text(self.quoted(quote)?)),
                Some(letter) if letter.is_ascii_alphabetic() => {
                    let mut word = String::new();
                    while let Some(letter) = self.peek().filter(char::is_ascii_alphanumeric) {
                        word.push(letter);
                        self.next();
                    }
                    match word.as_str() {
                        "range" => {
                            self.blanks();
                            let path = self.path(0)?;
                            self.expect('}')?;
                            let inner = self.pieces(depth + 1)?;
                            pieces.push(Piece::Range(path, inner));
                            return Ok(false);
                        }
                        "end" if depth > 0 => {
                            self.expect('}')?;
                            return Ok(true);
                        }
                        "end" => return Err(self.wrong("{end} has no {range …}")),
                        word => return Err(self.wrong(format!("\"{word}\" is no path; write .{word}"))),
                    }
                }
                Some(_) => pieces.push(Piece::Print(self.path(0)?)),
                None => return Err(self.wrong("a brace is not closed")),
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, TemplateError> {
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None => return Err(self.wrong("a quote is not closed")),
                Some('\\') => text.push(match self.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some(other) => other,
                    None => return Err(self.wrong("a quote is not closed")),
                }),
                Some(found) if found == quote => return Ok(text),
                Some(other) => text.push(other),
            }
        }
    }

    fn path(&mut self, depth: usize) -> Result<Path, TemplateError> {
        if depth > MAX_DEPTH {
            return Err(self.wrong(format!("filters are nested more than {MAX_DEPTH} deep")));
        }
        let from_root = self.eat('$');
        let current = !from_root && self.eat('@');
        let mut steps = Vec::new();
        let began = self.at;
        loop {
            match self.peek() {
                Some('.') => {
                    self.next();
                    if self.eat('.') {
                        steps.push(Step::Recursive);
                    }
                    match self.peek() {
                        Some('*') => {
                            self.next();
                            steps.push(Step::All);
                        }
                        Some('[') | None => {}
                        _ => steps.extend(self.name().map(Step::Field)),
                    }
                }
                Some('[') => {
                    self.next();
                    steps.push(self.brackets(depth)?);
                }
                _ if self.at == began && !from_root && !current => {
                    let found =
                        self.peek().map_or_else(|| "the end".to_owned(), |found| format!("'{found}'"));
                    return Err(
                        self.wrong(format!("{found} stands where a path must, such as .metadata.name"))
                    );
                }
                _ => return Ok(Path { from_root, steps }),
            }
        }
    }

    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        while let Some(letter) = self.peek() {
            if letter == '\\' {
                self.next();
                name.extend(self.next());
                continue;
            }
            if letter.is_whitespace() || ".[]{}()=!<>,'\"".contains(letter) {
                break;
            }
            name.push(letter);
            self.next();
        }
        (!name.is_empty()).then_some(name)
    }

    /// Behind `[`, and the `]`.
    fn brackets(&mut self, depth: usize) -> Result<Step, TemplateError> {
        let mut steps = Vec::new();
        loop {
            self.blanks();
            steps.push(match self.peek() {
                Some('*') => {
                    self.next();
                    Step::All
                }
                Some('?') => {
                    self.next();
                    self.filter(depth)?
                }
                Some(quote @ ('"' | '\'')) => Step::Field(self.quoted(quote)?.replace("\\.", ".")),
                _ => self.index()?,
            });
            self.blanks();
            if !self.eat(',') {
                break;
            }
        }
        self.expect(']')?;
        let last = steps.pop().unwrap_or(Step::All);
        if steps.is_empty() {
            return Ok(last);
        }
        steps.push(last);
        Ok(Step::Union(steps))
    }

    fn index(&mut self) -> Result<Step, TemplateError> {
        let first = self.number()?;
        if !self.eat(':') {
            return first.map(Step::Index).ok_or_else(|| {
                self.wrong("in brackets stand an index, a slice, *, a filter ?(…), or names in quotes")
            });
        }
        let second = self.number()?;
        let by = if self.eat(':') { self.number()?.unwrap_or(1) } else { 1 };
        if by < 1 {
            return Err(self.wrong("a slice goes forward, by 1 or more"));
        }
        Ok(Step::Slice(first, second, by))
    }

    fn number(&mut self) -> Result<Option<i64>, TemplateError> {
        self.blanks();
        let mut digits = String::new();
        while let Some(digit) = self.peek().filter(|c| c.is_ascii_digit() || (*c == '-' && digits.is_empty()))
        {
            digits.push(digit);
            self.next();
        }
        self.blanks();
        match digits.as_str() {
            "" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| self.wrong(format!("{digits} is no index"))),
        }
    }

    /// Behind `?`.
    fn filter(&mut self, depth: usize) -> Result<Step, TemplateError> {
        self.expect('(')?;
        let left = self.operand(depth)?;
        self.blanks();
        let compare = match self.peek() {
            Some(')') => None,
            Some('=' | '!' | '<' | '>') => {
                let first = self.next();
                let more = self.eat('=');
                Some(match (first, more) {
                    (Some('='), true) => Compare::Equal,
                    (Some('!'), true) => Compare::NotEqual,
                    (Some('<'), true) => Compare::LessOrEqual,
                    (Some('<'), false) => Compare::Less,
                    (Some('>'), true) => Compare::GreaterOrEqual,
                    (Some('>'), false) => Compare::Greater,
                    _ => return Err(self.wrong("filters compare by ==, !=, <, <=, > and >=")),
                })
            }
            _ => return Err(self.wrong("filters compare by ==, !=, <, <=, > and >=")),
        };
        let right = match compare {
            Some(compare) => Some((compare, self.operand(depth)?)),
            None => None,
        };
        self.expect(')')?;
        Ok(Step::Filter(left, right))
    }

    fn operand(&mut self, depth: usize) -> Result<Operand, TemplateError> {
        self.blanks();
        match self.peek() {
            Some(quote @ ('"' | '\'')) => Ok(Operand::Value(Value::String(self.quoted(quote)?))),
            Some('@' | '$' | '.') => Ok(Operand::Path(self.path(depth + 1)?)),
            _ => {
                let mut word = String::new();
                while let Some(letter) =
                    self.peek().filter(|c| c.is_ascii_alphanumeric() || "-+.".contains(*c))
                {
                    word.push(letter);
                    self.next();
                }
                match serde_json::from_str(&word) {
                    Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => {
                        Ok(Operand::Value(value))
                    }
                    _ => {
                        Err(self
                            .wrong("a filter compares with a path, a number, true, false, or text in quotes"))
                    }
                }
            }
        }
    }
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
