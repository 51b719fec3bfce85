//! What may be fast and why, in `manxctl dataplane status`.

use std::fmt::Write;

use manx_api::{InterfaceMode, Modes, PoolMode};

use crate::table;

pub fn render(modes: &Modes) -> String {
    let mut out = String::new();
    if !modes.pools.is_empty() {
        let rows: Vec<Vec<String>> = modes.pools.iter().map(pool).collect();
        let lines = table::trimmed(&["POOL", "CIDR", "MODE", "SINCE"], &rows);
        let mut lines = lines.lines();
        let mut line = |out: &mut String| lines.next().map(|line| out.extend([line.trim_end(), "\n"]));
        line(&mut out);
        for (at, pool) in modes.pools.iter().enumerate() {
            line(&mut out);
            // A sentence that is many pools' is said once, below the last of them.
            if modes
                .pools
                .get(at + 1)
                .is_none_or(|next| (&next.mode, &next.reason) != (&pool.mode, &pool.reason))
            {
                out.push_str(&table::wrapped("  ", &pool.reason));
            }
        }
    }
    // Writing to a String cannot fail; so below.
    for line in modes.interfaces.iter().filter_map(interface) {
        let _ = writeln!(out, "{line}");
    }
    for found in &modes.found {
        out.push_str(&table::wrapped("Found: ", found));
    }
    for note in &modes.notes {
        out.push_str(&table::wrapped("Note: ", note));
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

fn pool(pool: &PoolMode) -> Vec<String> {
    [&pool.name, &pool.cidr, &pool.mode, &pool.since].map(Clone::clone).to_vec()
}

/// What is not as it is for every interface.
fn interface(interface: &InterfaceMode) -> Option<String> {
    let mode = interface.mode.as_ref().map(|mode| match &interface.reason {
        Some(reason) => format!("{mode} ({reason})"),
        None => mode.clone(),
    });
    let check = interface.source_check.as_ref().filter(|check| *check != "Strict");
    let check = check.map(|check| format!("source check {check}"));
    let said: Vec<String> = mode.into_iter().chain(check).collect();
    let since = interface.since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
    (!said.is_empty()).then(|| format!("Interface {}: {}{since}", interface.name, said.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_listed_and_of_interfaces_what_is_unusual() {
        let pool = |name: &str, reason: &str| PoolMode {
            name: name.into(),
            cidr: "172.16.0.0/16".into(),
            mode: "guarded".into(),
            reason: reason.into(),
            since: "2026-01-01T00:00:00.000Z".into(),
        };
        let interface = |name: &str, mode: Option<&str>, check: Option<&str>| InterfaceMode {
            name: name.into(),
            mode: mode.map(Into::into),
            reason: mode.map(|_| "Disabled by manx.dev/fastPathInterfaces".into()),
            source_check: check.map(Into::into),
            since: Some("2026-01-01T00:00:00.000Z".into()),
        };
        let modes = Modes {
            pools: vec![
                pool("p", "netfilter tracks connections here"),
                pool("q", "netfilter tracks connections here"),
                pool(
                    "r",
                    "netfilter tracks connections here (table inet calico, chain filter-FORWARD, handle 12): flows \
                     that it knows and does not translate are fast",
                ),
            ],
            interfaces: vec![
                interface("ens33", Some("off"), None),
                interface("cali0", None, Some("Strict")),
                interface("cali1", None, Some("Loose")),
            ],
            found: vec![
                "table inet t, chain c, handle 2: limit has to see every packet: by the stack, pool q".into(),
            ],
            notes: vec!["nf_conntrack_tcp_be_liberal=1".into()],
        };
        let text = render(&modes);
        let expected = "\
POOL   CIDR            MODE      SINCE
p      172.16.0.0/16   guarded   2026-01-01T00:00:00.000Z
q      172.16.0.0/16   guarded   2026-01-01T00:00:00.000Z
  netfilter tracks connections here
r      172.16.0.0/16   guarded   2026-01-01T00:00:00.000Z
  netfilter tracks connections here (table inet calico, chain filter-FORWARD, handle 12): flows that
  it knows and does not translate are fast
Interface ens33: off (Disabled by manx.dev/fastPathInterfaces) since 2026-01-01T00:00:00.000Z
Interface cali1: source check Loose since 2026-01-01T00:00:00.000Z
Found: table inet t, chain c, handle 2: limit has to see every packet: by the stack, pool q
Note: nf_conntrack_tcp_be_liberal=1

";
        assert_eq!(text, expected);
        assert_eq!(render(&Modes::default()), "");
    }
}
