//! What may be fast and why, in `manxctl dataplane status`.

use std::fmt::Write;

use manx_api::{InterfaceMode, Modes, PoolMode};

use crate::table;

pub fn render(modes: &Modes) -> String {
    let mut out = String::new();
    if !modes.pools.is_empty() {
        let rows: Vec<Vec<String>> = modes.pools.iter().map(pool).collect();
        out.push_str(&table::columns(&["POOL", "CIDR", "MODE", "SINCE", "WHY"], &rows));
    }
    // Writing to a String cannot fail; so below.
    for line in modes.interfaces.iter().filter_map(interface) {
        let _ = writeln!(out, "{line}");
    }
    for found in &modes.found {
        let _ = writeln!(out, "Found: {found}");
    }
    for note in &modes.notes {
        let _ = writeln!(out, "Note: {note}");
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

fn pool(pool: &PoolMode) -> Vec<String> {
    [&pool.name, &pool.cidr, &pool.mode, &pool.since, &pool.reason].map(Clone::clone).to_vec()
}

/// What is not as it is for every interface.
fn interface(interface: &InterfaceMode) -> Option<String> {
    let mode = interface.mode.as_ref().map(|mode| match &interface.reason {
        Some(reason) => format!("{mode} ({reason})"),
        None => mode.clone(),
    });
    let check =
        (interface.source_check != "Strict").then(|| format!("source check {}", interface.source_check));
    let said: Vec<String> = mode.into_iter().chain(check).collect();
    (!said.is_empty()).then(|| format!("Interface {}: {}", interface.name, said.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_listed_and_of_interfaces_what_is_unusual() {
        let interface = |name: &str, mode: Option<&str>, check: &str| InterfaceMode {
            name: name.into(),
            mode: mode.map(Into::into),
            reason: mode.map(|_| "Disabled by manx.dev/fastPathInterfaces".into()),
            source_check: check.into(),
        };
        let modes = Modes {
            pools: vec![PoolMode {
                name: "p".into(),
                cidr: "172.16.0.0/16".into(),
                mode: "guarded".into(),
                reason: "netfilter tracks connections here".into(),
                since: "2026-01-01T00:00:00.000Z".into(),
            }],
            interfaces: vec![
                interface("ens33", Some("off"), "Strict"),
                interface("cali0", None, "Strict"),
                interface("cali1", None, "Loose"),
            ],
            found: vec![
                "table inet t, chain c, handle 2: limit has to see every packet: by the stack, pool q".into(),
            ],
            notes: vec!["nf_conntrack_tcp_be_liberal=1".into()],
        };
        let text = render(&modes);
        let expected = "\
POOL   CIDR            MODE      SINCE                      WHY
p      172.16.0.0/16   guarded   2026-01-01T00:00:00.000Z   netfilter tracks connections here
Interface ens33: off (Disabled by manx.dev/fastPathInterfaces)
Interface cali1: source check Loose
Found: table inet t, chain c, handle 2: limit has to see every packet: by the stack, pool q
Note: nf_conntrack_tcp_be_liberal=1

";
        let trimmed: String = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        assert_eq!(trimmed, expected);
        assert_eq!(render(&Modes::default()), "");
    }
}
