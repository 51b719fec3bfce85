//! What annotations say of the fast path: which packets the programs may carry past the host's stack, and what they
//! ask of a packet's source.

use serde::Serialize;

/// Of a pool, of an interface, and of the whole node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum FastPathSetting {
    /// As what netfilter does on the node allows.
    #[default]
    Auto,
    /// Past netfilter, whatever it does.
    Enabled,
    /// By the host's stack.
    Disabled,
}

/// Whose packets a pod's interface may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum SourceCheck {
    /// The source's route leads back to this interface.
    #[default]
    Strict,
    /// Some unicast route leads back to the source.
    Loose,
    Off,
}

/// As resources write it.
impl FastPathSetting {
    pub const ALL: [FastPathSetting; 3] =
        [FastPathSetting::Auto, FastPathSetting::Enabled, FastPathSetting::Disabled];

    pub fn name(self) -> &'static str {
        match self {
            FastPathSetting::Auto => "Auto",
            FastPathSetting::Enabled => "Enabled",
            FastPathSetting::Disabled => "Disabled",
        }
    }
}

/// As resources write it.
impl SourceCheck {
    pub const ALL: [SourceCheck; 3] = [SourceCheck::Strict, SourceCheck::Loose, SourceCheck::Off];

    pub fn name(self) -> &'static str {
        match self {
            SourceCheck::Strict => "Strict",
            SourceCheck::Loose => "Loose",
            SourceCheck::Off => "Off",
        }
    }
}

/// A setting for the interfaces whose names fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForInterfaces<T> {
    /// A name; `*` stands for any text, also none.
    pub pattern: String,
    pub setting: T,
}

impl<T: Copy> ForInterfaces<T> {
    /// What a list says of an interface: the first entry that fits counts.
    pub fn find(list: &[ForInterfaces<T>], name: &str) -> Option<T> {
        list.iter().find(|entry| fits(entry.pattern.as_bytes(), name.as_bytes())).map(|entry| entry.setting)
    }
}

/// Names of interfaces have at most 15 octets, so that trying all places for a star costs nothing.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([b'*', rest @ ..], _) => {
            (0..=name.len()).any(|skipped| fits(rest, name.get(skipped..).unwrap_or_default()))
        }
        ([a, pattern @ ..], [b, name @ ..]) => a == b && fits(pattern, name),
        ([], []) => true,
        _ => false,
    }
}

/// Of `BGPConfiguration/default`, and for one node of `BGPConfiguration/node.NAME`. None: not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FastPathExtensions {
    pub whole: Option<FastPathSetting>,
    pub interfaces: Option<Vec<ForInterfaces<FastPathSetting>>>,
    pub source_check: Option<SourceCheck>,
    pub source_check_interfaces: Option<Vec<ForInterfaces<SourceCheck>>>,
}

impl FastPathExtensions {
    /// What is set here, and `wider` for what is not. A list stands in the place of the wider one as a whole.
    pub fn or(&self, wider: &FastPathExtensions) -> FastPathExtensions {
        let interfaces = self.interfaces.as_ref().or(wider.interfaces.as_ref());
        let checks = self.source_check_interfaces.as_ref().or(wider.source_check_interfaces.as_ref());
        FastPathExtensions {
            whole: self.whole.or(wider.whole),
            interfaces: interfaces.cloned(),
            source_check: self.source_check.or(wider.source_check),
            source_check_interfaces: checks.cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_that_fits_an_interface_counts() {
        let entry = |pattern: &str, setting| ForInterfaces { pattern: pattern.into(), setting };
        let list = [entry("cali0*", 1), entry("cali*", 2), entry("ens34", 3), entry("e*s*4", 4)];
        let of = |name| ForInterfaces::find(&list, name);
        assert_eq!(
            [of("cali01"), of("cali1"), of("ens34"), of("enps24")],
            [Some(1), Some(2), Some(3), Some(4)]
        );
        assert_eq!([of("ens3"), of("ens345"), of("docker0")], [None; 3]);
    }
}
