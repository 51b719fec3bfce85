//! Command lines. BIRD's clients write keywords out before they send them.

use std::net::IpAddr;

use manx_net::Prefix;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Status,
    Memory,
    Protocols {
        all: bool,
        of: Pattern,
    },
    Routes(Routes),
    /// From now on only `show` is allowed, which it is anyway.
    Restrict,
    /// An empty line.
    Nothing,
}

/// Names of protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    All,
    Name(String),
    /// With `*` for any characters and `?` for one.
    Glob(String),
}

impl Pattern {
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Pattern::All => true,
            Pattern::Name(own) => own == name,
            Pattern::Glob(glob) => is_like(glob.as_bytes(), name.as_bytes()),
        }
    }
}

/// Linear but for the last star, so that no pattern takes long.
fn is_like(glob: &[u8], name: &[u8]) -> bool {
    let (mut at, mut name_at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(octet) = name.get(name_at) {
        match (glob.get(at), star) {
            (Some(b'*'), _) => {
                star = Some((at + 1, name_at));
                at += 1;
            }
            (Some(wanted), _) if *wanted == b'?' || wanted == octet => {
                at += 1;
                name_at += 1;
            }
            (_, Some((after, from))) => {
                star = Some((after, from + 1));
                at = after;
                name_at = from + 1;
            }
            (_, None) => return false,
        }
    }
    glob.get(at..).unwrap_or_default().iter().all(|octet| *octet == b'*')
}

/// `show route`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    pub which: Which,
    /// With their attributes.
    pub all: bool,
    /// Of each prefix the one in use.
    pub primary: bool,
    /// Only how many there are.
    pub count: bool,
    /// Of this protocol only.
    pub protocol: Option<String>,
    /// What went to this protocol, or did not.
    pub exported: Option<(Exported, String)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    #[default]
    All,
    /// This prefix.
    Exact(Prefix),
    /// The longest that covers this.
    For(Prefix),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exported {
    Yes,
    No,
}

/// Why a command is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    TooLong,
    /// It would change something.
    Denied(&'static str),
    /// Not understood, or not answered here.
    Unknown(String),
}

impl Refusal {
    pub fn code(&self) -> u16 {
        match self {
            Refusal::TooLong => 9000,
            Refusal::Denied(_) => 8007,
            Refusal::Unknown(_) => 9001,
        }
    }

    pub fn text(&self) -> String {
        match self {
            Refusal::TooLong => "Command too long".to_owned(),
            Refusal::Denied(instead) => {
                format!("Access denied: nothing is changed by this socket; {instead}")
            }
            Refusal::Unknown(what) => what.clone(),
        }
    }
}

/// What changes something, and what does so with Manx.
const ORDERS: [(&str, &str); 10] = [
    ("configure", "resources take effect as they are written"),
    ("disable", "manxctl peer disable ADDRESS does it"),
    ("enable", "manxctl peer enable ADDRESS does it"),
    ("restart", "manxctl peer disable ADDRESS and enable do it"),
    ("reload", "manxctl peer refresh ADDRESS does it"),
    ("graceful", "systemctl restart manxd is one"),
    ("down", "systemctl stop manxd does it"),
    ("debug", "manxctl log-level debug does it"),
    ("mrtdump", "manxctl history has what became of the sessions"),
    ("add", "resources take effect as they are written"),
];

pub fn parse(line: &str) -> Result<Command, Refusal> {
    let words = words(line)?;
    let mut words = words.iter();
    let unknown = |word: &str| {
        Refusal::Unknown(format!(
            "syntax error, unexpected \"{word}\"; Manx answers show status, show protocols, show route and show memory"
        ))
    };
    let Some(first) = words.next() else { return Ok(Command::Nothing) };
    match first.text.as_str() {
        "show" => {}
        "restrict" => return Ok(Command::Restrict),
        word => {
            let order = ORDERS.iter().find(|(order, _)| *order == word);
            return Err(order.map_or_else(|| unknown(word), |(_, instead)| Refusal::Denied(instead)));
        }
    }
    let what = words.next().map(|word| word.text.as_str()).unwrap_or_default();
    let rest: Vec<&Word> = words.collect();
    let alone = |command: Command| match rest.first() {
        None => Ok(command),
        Some(word) => Err(unknown(&word.text)),
    };
    match what {
        "status" => alone(Command::Status),
        "memory" => alone(Command::Memory),
        "protocols" => protocols(&rest).ok_or_else(|| unknown(rest.last().map_or("", |word| &word.text))),
        "route" => routes(&rest).map(Command::Routes),
        word => Err(unknown(word)),
    }
}

fn protocols(rest: &[&Word]) -> Option<Command> {
    let (all, rest) = match rest {
        [first, rest @ ..] if first.is("all") => (true, rest),
        rest => (false, rest),
    };
    let of = match rest {
        [] => Pattern::All,
        [Word { text, quoted: true }] => Pattern::Glob(text.clone()),
        [Word { text, quoted: false }] => Pattern::Name(text.clone()),
        _ => return None,
    };
    Some(Command::Protocols { all, of })
}

fn routes(rest: &[&Word]) -> Result<Routes, Refusal> {
    let mut routes = Routes::default();
    let mut words = rest.iter();
    let unknown = |what: String| Refusal::Unknown(what);
    while let Some(word) = words.next() {
        let mut next = || {
            let next = words.next().map(|word| word.text.clone());
            next.ok_or_else(|| {
                unknown(format!("syntax error, unexpected end of the line after {}", word.text))
            })
        };
        match word.text.as_str() {
            "all" => routes.all = true,
            "primary" => routes.primary = true,
            "count" | "stats" => routes.count = true,
            "protocol" => routes.protocol = Some(next()?),
            "export" => routes.exported = Some((Exported::Yes, next()?)),
            "noexport" => routes.exported = Some((Exported::No, next()?)),
            "table" => {
                let table = next()?;
                if !["master", "master4", "master6"].contains(&table.as_str()) {
                    return Err(unknown(format!(
                        "{table} is not a table; there is one, and it is {}",
                        crate::TABLE
                    )));
                }
            }
            "for" => routes.which = Which::For(prefix(&next()?)?),
            "where" | "filter" | "filtered" | "preexport" => {
                return Err(unknown(format!(
                    "\"{}\" is not answered here; manxctl explain PREFIX shows what was refused, and by which rule",
                    word.text
                )));
            }
            text => routes.which = Which::Exact(prefix(text)?),
        }
    }
    Ok(routes)
}

fn prefix(text: &str) -> Result<Prefix, Refusal> {
    let address = text.parse::<IpAddr>().map(Prefix::host);
    let no_prefix = || {
        Refusal::Unknown(format!("syntax error, unexpected \"{text}\", which is no address and no prefix"))
    };
    address.or_else(|_| text.parse()).map_err(|_| no_prefix())
}

#[derive(Debug)]
struct Word {
    text: String,
    quoted: bool,
}

impl Word {
    fn is(&self, text: &str) -> bool {
        !self.quoted && self.text == text
    }
}

/// A semicolon may end a line, and a hash begins a comment, as in BIRD's configuration.
fn words(line: &str) -> Result<Vec<Word>, Refusal> {
    if line.len() > crate::LONGEST {
        return Err(Refusal::TooLong);
    }
    let mut words = Vec::new();
    let mut rest = line.trim().trim_end_matches(';');
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { return Ok(words) };
        if first == '#' {
            return Ok(words);
        }
        let (text, after, quoted) = if first == '"' {
            let inner = rest.strip_prefix('"').unwrap_or_default();
            let (text, after) = inner
                .split_once('"')
                .ok_or_else(|| Refusal::Unknown("syntax error, a quote is not closed".to_owned()))?;
            (text, after, true)
        } else {
            let (text, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            (text, after, false)
        };
        words.push(Word { text: text.to_owned(), quoted });
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is(line: &str) -> Command {
        parse(line).unwrap_or_else(|refusal| panic!("{line}: {refusal:?}"))
    }

    fn routes(line: &str) -> Routes {
        match is(line) {
            Command::Routes(routes) => routes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_calicos_programs_and_people_send_is_understood() {
        assert_eq!(is("show status"), Command::Status);
        assert_eq!(is(" show memory ; "), Command::Memory);
        assert_eq!(is("show protocols"), Command::Protocols { all: false, of: Pattern::All });
        let name = Pattern::Name("Mesh_10_0_0_1".into());
        assert_eq!(is("show protocols all Mesh_10_0_0_1"), Command::Protocols { all: true, of: name });
        let glob = Pattern::Glob("Mesh*".into());
        assert_eq!(is("show protocols \"Mesh*\""), Command::Protocols { all: false, of: glob });
        assert_eq!(is("restrict"), Command::Restrict);
        assert_eq!(is("  # a comment"), Command::Nothing);
        assert_eq!(routes("show route"), Routes::default());
        let every = routes("show route table master for 172.16.1.7 all primary protocol static1 count");
        let which = Which::For("172.16.1.7/32".parse().unwrap());
        assert_eq!(
            every,
            Routes {
                which,
                all: true,
                primary: true,
                count: true,
                protocol: Some("static1".into()),
                exported: None
            }
        );
        assert_eq!(routes("show route fd00::/64").which, Which::Exact("fd00::/64".parse().unwrap()));
        assert_eq!(routes("show route export x").exported, Some((Exported::Yes, "x".into())));
        assert_eq!(routes("show route noexport x").exported, Some((Exported::No, "x".into())));
    }

    #[test]
    fn what_would_change_something_is_denied_with_what_does_it() {
        for (line, instead) in [
            ("configure", "resources take effect"),
            ("configure soft", "resources take effect"),
            ("disable Mesh_10_0_0_1", "manxctl peer disable"),
            ("down", "systemctl stop"),
            ("reload in all", "manxctl peer refresh"),
        ] {
            let refusal = parse(line).unwrap_err();
            assert_eq!(refusal.code(), 8007, "{line}");
            assert!(
                refusal.text().starts_with("Access denied: ") && refusal.text().contains(instead),
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (line, said) in [
            ("show", "syntax error, unexpected \"\""),
            ("show ospf x", "syntax error, unexpected \"ospf\""),
            ("dump", "syntax error, unexpected \"dump\""),
            ("show status now", "syntax error, unexpected \"now\""),
            ("show protocols a b c", "syntax error, unexpected \"c\""),
            ("show route nowhere", "which is no address and no prefix"),
            ("show route for", "unexpected end of the line after for"),
            ("show route table t", "t is not a table"),
            ("show route where proto = \"x\"", "is not answered here"),
            ("show protocols \"x", "a quote is not closed"),
        ] {
            let refusal = parse(line).unwrap_err();
            assert!(refusal.code() == 9001 && refusal.text().contains(said), "{line}: {}", refusal.text());
        }
        assert_eq!(parse(&"x".repeat(LONG)).unwrap_err().text(), "Command too long");
    }

    const LONG: usize = crate::LONGEST + 1;

    #[test]
    fn a_star_stands_for_anything() {
        for (glob, name, is) in [
            ("*", "", true),
            ("Mesh*", "Mesh_10", true),
            ("*_10", "Mesh_10_10", true),
            ("*_10", "Mesh_10_11", false),
            ("M?sh*1*", "Mesh_10", true),
            ("", "x", false),
            ("a*b*c", "aXbXbXc", true),
        ] {
            assert_eq!(Pattern::Glob(glob.into()).matches(name), is, "{glob} {name}");
        }
        // No pattern takes long.
        assert!(!is_like(
            &b"*a".repeat(1000),
            &b"a".repeat(2000).iter().chain(b"b").copied().collect::<Vec<_>>()
        ));
    }

    proptest! {
        #[test]
        fn any_line_ends_in_an_answer(line in "\\PC{0,60}|show route [a-z0-9:./ \"*;#]{0,40}|show protocols [a-z \"*]{0,20}") {
            let _ = parse(&line);
        }
    }
}
