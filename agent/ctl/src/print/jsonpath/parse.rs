//! Templates and paths from their text, character by character, with the place of what is wrong.

use serde_json::Value;

use super::{Compare, MAX_DEPTH, Operand, Path, Piece, Step, TemplateError};

pub(super) struct Parser<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    /// Characters that were read.
    at: usize,
}

impl<'t> Parser<'t> {
    pub(super) fn new(text: &'t str) -> Parser<'t> {
        Parser { rest: text.chars().peekable(), at: 0 }
    }

    pub(super) fn peek(&mut self) -> Option<char> {
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

    pub(super) fn wrong(&self, why: impl Into<String>) -> TemplateError {
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

    pub(super) fn blanks(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.next();
        }
    }

    /// Up to the end, or the `{end}` of the range that is `depth` deep.
    pub(super) fn pieces(&mut self, depth: usize) -> Result<Vec<Piece>, TemplateError> {
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

    pub(super) fn path(&mut self, depth: usize) -> Result<Path, TemplateError> {
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
