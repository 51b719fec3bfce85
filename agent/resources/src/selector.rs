//! Calico's label selectors: `has(rack) && rack in {'1', '2'} || !all()`. Parsed once, evaluated against labels.
//! Nesting is bounded, so that neither costs stack without limit.

use std::collections::{BTreeMap, BTreeSet};

/// Parentheses and negations that may stand around one another.
const MAX_DEPTH: usize = 64;
/// Calico's limit for a label's name in a selector.
const MAX_LABEL: usize = 512;

/// A parsed selector. The default selects everything, as the empty text does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    root: Term,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Term {
    #[default]
    All,
    Has(String),
    Equal(String, String),
    NotEqual(String, String),
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Contains(String, String),
    StartsWith(String, String),
    EndsWith(String, String),
    Not(Box<Term>),
    And(Vec<Term>),
    Or(Vec<Term>),
}

/// What is wrong with a selector, and at which character, from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("character {at}: {message}")]
pub struct ParseSelectorError {
    pub at: usize,
    pub message: &'static str,
}

impl Selector {
    pub fn parse(text: &str) -> Result<Selector, ParseSelectorError> {
        let mut parser = Parser { text, rest: text };
        parser.blanks();
        if parser.rest.is_empty() {
            return Ok(Selector::default());
        }
        let root = parser.or(0)?;
        if !parser.rest.is_empty() {
            return Err(parser.error("unexpected content at end of selector"));
        }
        Ok(Selector { root })
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.root.matches(labels)
    }
}

impl std::str::FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Selector, ParseSelectorError> {
        Selector::parse(text)
    }
}

impl Term {
    /// A label that is missing fails every comparison but `!=` and `not in`.
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let label = |name: &str| labels.get(name).map(String::as_str);
        match self {
            Term::All => true,
            Term::Has(name) => label(name).is_some(),
            Term::Equal(name, value) => label(name) == Some(value),
            Term::NotEqual(name, value) => label(name) != Some(value),
            Term::In(name, values) => label(name).is_some_and(|label| values.contains(label)),
            Term::NotIn(name, values) => !label(name).is_some_and(|label| values.contains(label)),
            Term::Contains(name, part) => label(name).is_some_and(|label| label.contains(part.as_str())),
            Term::StartsWith(name, part) => label(name).is_some_and(|label| label.starts_with(part.as_str())),
            Term::EndsWith(name, part) => label(name).is_some_and(|label| label.ends_with(part.as_str())),
            Term::Not(term) => !term.matches(labels),
            Term::And(terms) => terms.iter().all(|term| term.matches(labels)),
            Term::Or(terms) => terms.iter().any(|term| term.matches(labels)),
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    rest: &'t str,
}

impl<'t> Parser<'t> {
    fn error(&self, message: &'static str) -> ParseSelectorError {
        // `rest` is always the end of `text`.
        let read = self.text.len() - self.rest.len();
        let at = 1 + self.text.get(..read).map_or(0, |read| read.chars().count());
        ParseSelectorError { at, message }
    }

    /// Only space and tab separate; a line break is an error, as in Calico.
    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                self.blanks();
                true
            }
            None => false,
        }
    }

    fn or(&mut self, depth: usize) -> Result<Term, ParseSelectorError> {
        self.group(depth, "||", Term::Or, |parser| {
            parser.group(depth, "&&", Term::And, |parser| parser.operation(depth))
        })
    }

    fn group(
        &mut self,
        depth: usize,
        operator: &str,
        make: fn(Vec<Term>) -> Term,
        mut member: impl FnMut(&mut Self) -> Result<Term, ParseSelectorError>,
    ) -> Result<Term, ParseSelectorError> {
        if depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        let first = member(self)?;
        if !self.rest.starts_with(operator) {
            return Ok(first);
        }
        let mut members = vec![first];
        while self.eat(operator) {
            members.push(member(self)?);
        }
        Ok(make(members))
    }

    fn operation(&mut self, depth: usize) -> Result<Term, ParseSelectorError> {
        // Two negations cancel, so that any number of them nests no deeper than one.
        let mut negated = false;
        while self.eat("!") {
            negated = !negated;
        }
        let term = self.operand(depth)?;
        Ok(if negated { Term::Not(Box::new(term)) } else { term })
    }

    fn operand(&mut self, depth: usize) -> Result<Term, ParseSelectorError> {
        if self.eat("(") {
            let term = self.or(depth + 1)?;
            return if self.eat(")") { Ok(term) } else { Err(self.error("expected )")) };
        }
        // "has (x)" is no call: the parenthesis belongs to the word.
        if self.eat("has(") {
            let name = self.label()?;
            return if self.eat(")") {
                Ok(Term::Has(name))
            } else {
                Err(self.error("expected ) after the label of has("))
            };
        }
        if self.eat("all(") {
            return if self.eat(")") { Ok(Term::All) } else { Err(self.error("expected all()")) };
        }
        if self.rest.starts_with("global(") {
            return Err(self.error("global() has a meaning only in a namespaceSelector"));
        }
        let name = self.label()?;
        self.comparison(name)
    }

    fn label(&mut self) -> Result<String, ParseSelectorError> {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-')))
            .unwrap_or(self.rest.len());
        if end == 0 {
            return Err(self.error(if self.rest.is_empty() {
                "expected a label, has(label) or all(), found the end"
            } else {
                "expected a label, has(label), all(), ! or ("
            }));
        }
        if end > MAX_LABEL {
            return Err(self.error("a label has at most 512 characters"));
        }
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.blanks();
        Ok(name.to_owned())
    }

    /// Operators are words only here, right after a label, so that a label may be called `in`.
    fn comparison(&mut self, name: String) -> Result<Term, ParseSelectorError> {
        if self.eat("==") {
            Ok(Term::Equal(name, self.string()?))
        } else if self.eat("!=") {
            Ok(Term::NotEqual(name, self.string()?))
        } else if self.word("contains", "") {
            Ok(Term::Contains(name, self.string()?))
        } else if self.word("starts", "with") {
            Ok(Term::StartsWith(name, self.string()?))
        } else if self.word("ends", "with") {
            Ok(Term::EndsWith(name, self.string()?))
        } else if self.word("not", "in") {
            Ok(Term::NotIn(name, self.set()?))
        } else if self.word("in", "") {
            Ok(Term::In(name, self.set()?))
        } else if self.rest.starts_with('=') {
            Err(self.error("expected =="))
        } else {
            Err(self.error(
                "expected operator after label: ==, !=, in, not in, contains, starts with or ends with",
            ))
        }
    }

    /// An operator of one word or of two, which may be written together; no letter may follow it.
    fn word(&mut self, first: &str, second: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(first) else { return false };
        let rest = if second.is_empty() {
            Some(rest)
        } else {
            rest.trim_start_matches([' ', '\t']).strip_prefix(second)
        };
        match rest {
            Some(rest) if !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') => {
                self.rest = rest;
                self.blanks();
                true
            }
            _ => false,
        }
    }

    fn string(&mut self) -> Result<String, ParseSelectorError> {
        let mut chars = self.rest.chars();
        let quote = match chars.next() {
            Some(quote @ ('"' | '\'')) => quote,
            _ => return Err(self.error("expected a string in quotes")),
        };
        let Some((value, rest)) = chars.as_str().split_once(quote) else {
            return Err(self.error("unterminated string"));
        };
        self.rest = rest;
        self.blanks();
        Ok(value.to_owned())
    }

    fn set(&mut self) -> Result<BTreeSet<String>, ParseSelectorError> {
        if !self.eat("{") {
            return Err(self.error("expected { and a list of strings"));
        }
        let mut values = BTreeSet::new();
        loop {
            if self.eat("}") {
                return Ok(values);
            }
            values.insert(self.string()?);
            if !self.eat(",") && !self.rest.starts_with('}') {
                return Err(self.error("expected , or } after a string of the list"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(text: &[(&str, &str)]) -> BTreeMap<String, String> {
        text.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn selects(selector: &str) -> bool {
        let labels = labels(&[("rack", "r1"), ("in", "x"), ("route-reflector", "true"), ("a/b.c_d", "")]);
        Selector::parse(selector).unwrap_or_else(|error| panic!("{selector}: {error}")).matches(&labels)
    }

    fn error(selector: &str) -> String {
        Selector::parse(selector).unwrap_err().to_string()
    }

    #[test]
    fn each_operator_does_what_its_name_says() {
        for selector in [
            "",
            " ",
            "all()",
            "has(rack)",
            "!has(row)",
            "rack == 'r1'",
            "rack==\"r1\"",
            "rack != 'r2'",
            "rack in {'r1','r2'}",
            "rack in {'r1',}",
            "rack not in {'r2'}",
            "rack notin { }",
            "rack contains '1'",
            "rack starts with 'r'",
            "rack startswith 'r'",
            "rack ends with '1'",
            "in == 'x'",
            "in in {'x'}",
            "has(a/b.c_d)",
            "a/b.c_d == ''",
            "!!has(rack)",
            "! ! ! has(row)",
        ] {
            assert!(selects(selector), "{selector}");
        }
    }

    #[test]
    fn a_missing_label_fails_all_but_the_negative_comparisons() {
        for selector in
            ["row == ''", "row in {''}", "row contains ''", "row starts with ''", "row ends with ''"]
        {
            assert!(!selects(selector), "{selector}");
        }
        for selector in ["row != 'x'", "row not in {'x'}"] {
            assert!(selects(selector), "{selector}");
        }
    }

    #[test]
    fn and_binds_closer_than_or_and_not_closest() {
        assert!(selects("has(row) && has(row) || has(rack)"));
        assert!(selects("has(rack) || has(row) && has(row)"));
        assert!(!selects("(has(rack) || has(row)) && has(row)"));
        assert!(!selects("!has(rack) && has(rack)"));
        assert!(selects("!(has(rack) && has(row))"));
    }

    #[test]
    fn errors_say_where_and_what() {
        assert_eq!(error("rack = 'r1'"), "character 6: expected ==");
        assert_eq!(error("rack == 'r1"), "character 9: unterminated string");
        assert_eq!(error("rack 'r1'"), {
            "character 6: expected operator after label: ==, !=, in, not in, contains, starts with or ends with"
        });
        assert_eq!(error("has(rack) has(row)"), "character 11: unexpected content at end of selector");
        assert_eq!(error("has (rack)"), {
            "character 5: expected operator after label: ==, !=, in, not in, contains, starts with or ends with"
        });
        assert_eq!(error("rack == 'ü' &&"), {
            "character 15: expected a label, has(label) or all(), found the end"
        });
        assert_eq!(error("has(rack)\n"), "character 10: unexpected content at end of selector");
        assert_eq!(error("global()"), "character 1: global() has a meaning only in a namespaceSelector");
        assert_eq!(error("rack in {'a' 'b'}"), "character 14: expected , or } after a string of the list");
    }

    #[test]
    fn nesting_is_bounded_and_negations_do_not_nest() {
        assert_eq!(error(&"(".repeat(100_000)), "character 66: nested too deeply");
        assert!(Selector::parse(&format!("{}all()", "!".repeat(100_000))).is_ok());
    }

    fn arb_selector() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("all()".to_owned()),
            "has\\([abc]\\)",
            "[abc] (==|!=|contains|starts with|ends with) '[xy]{0,2}'",
            "[abc] (in|not in) \\{'[xy]', '[xy]{2}'\\}",
        ];
        leaf.prop_recursive(4, 32, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|a| format!("!({a})")),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) && ({b})")),
                (inner.clone(), inner).prop_map(|(a, b)| format!("({a}) || ({b})")),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,80}|[ab!&|(){}'\",= \\t]{0,120}") {
            let _ = Selector::parse(&text).map(|selector| selector.matches(&BTreeMap::new()));
        }

        #[test]
        fn what_the_grammar_makes_is_accepted_and_its_negation_is_the_opposite(
            text in arb_selector(),
            labels in prop::collection::btree_map("[abc]", "[xy]{0,2}", 0..3),
        ) {
            let selector = Selector::parse(&text).unwrap();
            let negation = Selector::parse(&format!("!({text})")).unwrap();
            prop_assert_ne!(selector.matches(&labels), negation.matches(&labels));
        }
    }
}
