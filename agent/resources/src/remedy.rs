//! What to do about text that is no YAML. The parser says what it did not expect, in the words of YAML's specification;
//! whoever wrote the file wants to know what to change.

/// Parts of the parser's messages, the more special ones first, and what mostly is behind them.
const REMEDIES: [(&str, &str); 11] = [
    ("tab", "indent with spaces, not with tabs"),
    (
        "mapping values are not allowed",
        "indent the line as its neighbours are, or put text that has \": \" in it in quotes",
    ),
    ("illegal placement of ':'", "is a ] or } missing before it?"),
    ("did not find expected key", "indent the line as its neighbours are"),
    ("simple key expect", "a line is \"key: value\", with a space behind the colon, or begins with \"- \""),
    ("unexpected character", "put text that begins with it in quotes"),
    ("unknown escape", "write \\\\ for a backslash, or use single quotes"),
    ("trailing content", "inside single quotes write '' for a quote; nothing may follow the last one"),
    ("in quoted scalar", "is the last quote missing?"),
    ("did not find expected ',' or", "is a comma, ] or } missing?"),
    ("did not find expected node content", "is a value, ] or } missing?"),
];

/// The parser's message with what to do about it, where that is known.
pub(crate) fn with_remedy(message: &str) -> String {
    let known = REMEDIES.iter().find(|(part, _)| message.contains(part));
    known.map_or_else(|| message.to_owned(), |(_, remedy)| format!("{message}; {remedy}"))
}
