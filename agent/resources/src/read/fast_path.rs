//! Annotations of the fast path: `fastPath` on pools and configurations, and on configurations the lists by
//! interface and the check of sources.

use crate::{
    Kind,
    nearest::nearest,
    read::annotations::{Annotations, PREFIX},
    spec::{FastPathExtensions, FastPathSetting, ForInterfaces, SourceCheck},
    tree::excerpt,
};

const FAST_PATH: &str = "fastPath";
const FAST_PATH_INTERFACES: &str = "fastPathInterfaces";
const SOURCE_CHECK: &str = "sourceCheck";
const SOURCE_CHECK_INTERFACES: &str = "sourceCheckInterfaces";
/// Octets of an interface's name (IFNAMSIZ less the closing zero).
const LONGEST_NAME: usize = 15;

/// Where an annotation belongs that a kind does not have.
pub(super) fn elsewhere(kind: Kind, name: &str) -> Option<String> {
    match name {
        FAST_PATH => Some("it belongs on an IPPool, or for all of a node on a BGPConfiguration".to_owned()),
        FAST_PATH_INTERFACES | SOURCE_CHECK | SOURCE_CHECK_INTERFACES => {
            let instead = match (kind, name) {
                (Kind::IpPool, FAST_PATH_INTERFACES) => format!("; for the pool write {PREFIX}{FAST_PATH}"),
                _ => String::new(),
            };
            Some(format!("it belongs on a BGPConfiguration{instead}"))
        }
        _ => None,
    }
}

pub(super) fn of_pool(annotations: &mut Annotations<'_, '_>) -> Option<FastPathSetting> {
    annotations.parse(FAST_PATH, setting)
}

pub(super) fn of_configuration(annotations: &mut Annotations<'_, '_>) -> FastPathExtensions {
    FastPathExtensions {
        whole: annotations.parse(FAST_PATH, setting),
        interfaces: annotations.parse(FAST_PATH_INTERFACES, |text| by_interface(text, "Disabled", setting)),
        source_check: annotations.parse(SOURCE_CHECK, source_check),
        source_check_interfaces: annotations
            .parse(SOURCE_CHECK_INTERFACES, |text| by_interface(text, "Loose", source_check)),
    }
}

fn setting(text: &str) -> Result<FastPathSetting, String> {
    one_of(text, &FastPathSetting::ALL, FastPathSetting::name)
}

fn source_check(text: &str) -> Result<SourceCheck, String> {
    one_of(text, &SourceCheck::ALL, SourceCheck::name)
}

fn one_of<T: Copy>(text: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T, String> {
    let names: Vec<&str> = all.iter().map(|value| name(*value)).collect();
    all.iter().copied().find(|value| name(*value) == text).ok_or_else(|| {
        let all = names.join(", ");
        match nearest(text, names) {
            Some(near) => format!("\"{}\" is not one of {all}; did you mean {near}?", excerpt(text)),
            None => format!("\"{}\" is not one of {all}; write one of them", excerpt(text)),
        }
    })
}

/// `ens34=Disabled, cali*=Auto`. `example` is one of the settings.
fn by_interface<T>(
    text: &str,
    example: &str,
    value: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<ForInterfaces<T>>, String> {
    let mut read: Vec<ForInterfaces<T>> = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let Some((pattern, setting)) = entry.split_once('=') else {
            return Err(format!(
                "\"{}\" is without a setting; write INTERFACE=SETTING, such as ens34={example}",
                excerpt(entry)
            ));
        };
        let (pattern, setting) = (pattern.trim(), setting.trim());
        // What the kernel takes for a name (dev_valid_name).
        let valid = |c: char| !c.is_whitespace() && c != '/' && c != ':';
        let name = pattern.replace('*', "");
        if pattern.is_empty() || name.len() > LONGEST_NAME || !pattern.chars().all(valid) {
            return Err(format!(
                "\"{}\" is no name of an interface; it has 1 to {LONGEST_NAME} characters without blanks, / and :, \
                 and * stands for any text",
                excerpt(pattern)
            ));
        }
        if read.iter().any(|earlier| earlier.pattern == pattern) {
            return Err(format!("\"{}\" stands there twice; write one of them", excerpt(pattern)));
        }
        read.push(ForInterfaces { pattern: pattern.to_owned(), setting: value(setting)? });
    }
    Ok(read)
}
