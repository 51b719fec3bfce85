//! What there is to show, and how BIRD 1.6 shows it. Widths are those of its own format strings, since programs split
//! these lines.

use std::net::{IpAddr, Ipv4Addr};

use jiff::{Timestamp, Zoned};
use manx_net::{Asn, Prefix};

use crate::{Reply, TABLE};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub version: String,
    pub router_id: Ipv4Addr,
    /// "2026-11-22 11:07:00", in local time, as are the next two.
    pub now: String,
    pub started: String,
    pub configured: String,
    /// Restarting, and waiting for so many sessions.
    pub waiting_for: Option<usize>,
}

impl Status {
    pub fn show(&self) -> String {
        let mut reply = Reply::new();
        reply.line(1000, &format!("BIRD {}", self.version));
        reply.line(1011, &format!("Router ID is {}", self.router_id));
        reply.line(1011, &format!("Current server time is {}", self.now));
        reply.line(1011, &format!("Last reboot on {}", self.started));
        reply.line(1011, &format!("Last reconfiguration on {}", self.configured));
        if let Some(sessions) = self.waiting_for {
            reply.line(24, "Graceful restart recovery in progress");
            reply.line(24, &format!("  Waiting for {sessions} protocols to recover"));
        }
        reply.end(13, "Daemon is up and running")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Device,
    Direct,
    Static,
    Kernel,
    Bgp,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Device => "Device",
            Kind::Direct => "Direct",
            Kind::Static => "Static",
            Kind::Kernel => "Kernel",
            Kind::Bgp => "BGP",
        }
    }

    /// Of several protocols' routes for a prefix the one with the greatest is in use.
    pub fn preference(self) -> u32 {
        match self {
            Kind::Direct => 240,
            Kind::Static => 200,
            Kind::Bgp => 100,
            Kind::Kernel => 10,
            Kind::Device => 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    pub name: String,
    pub kind: Kind,
    /// `up`, `start` or `down`.
    pub state: &'static str,
    /// "11:07:00", or "2026-11-20" where it is long ago.
    pub since: String,
    pub bgp: Option<Bgp>,
}

/// What only a session has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bgp {
    /// RFC 4271's, such as "Established".
    pub state: String,
    /// What went wrong last, such as "Socket: Connection refused"; empty while it is established.
    pub error: String,
    pub neighbor: IpAddr,
    pub neighbor_as: Asn,
    pub statistics: Statistics,
    /// While it is established.
    pub negotiated: Option<Negotiated>,
    /// Of the resource that asks for it.
    pub description: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    pub imported: u64,
    pub filtered: u64,
    pub exported: u64,
    pub updates_received: u64,
    pub updates_sent: u64,
    /// Treated as withdrawn, for an attribute was wrong.
    pub invalid: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub neighbor_id: Option<Ipv4Addr>,
    pub internal: bool,
    pub rr_client: bool,
    pub refresh: bool,
    pub graceful_restart: bool,
    pub four_octet_as: bool,
    pub source: Option<IpAddr>,
    pub hold_time: u16,
    pub keepalive_time: u16,
}

impl Protocol {
    /// The line in the table.
    fn line(&self) -> String {
        let info = match &self.bgp {
            Some(bgp) => format!("{:<14}{}", bgp.state, bgp.error),
            None => String::new(),
        };
        format!(
            "{:<8} {:<8} {:<8} {:<5}  {:<10}  {info}",
            self.name,
            self.kind.name(),
            TABLE,
            self.state,
            self.since
        )
    }

    fn details(&self, reply: &mut Reply) {
        let mut say = |text: &str| reply.line(1006, text);
        if let Some(bgp) = &self.bgp {
            say(&format!("  Description:    {}", bgp.description));
        }
        say(&format!("  Preference:     {}", self.kind.preference()));
        say("  Input filter:   ACCEPT");
        say(&format!(
            "  Output filter:  {}",
            if self.bgp.is_some() { "calico_export_to_bgp_peers" } else { "REJECT" }
        ));
        if let Some(bgp) = &self.bgp {
            bgp.details(&mut say);
        }
        say("");
    }

    /// All of them that have been asked for, in a table, and with `all` each with what else is known of it.
    pub fn show<'p>(protocols: impl IntoIterator<Item = &'p Protocol>, all: bool) -> String {
        let mut reply = Reply::new();
        let mut any = false;
        for protocol in protocols {
            if !any {
                reply.line(2002, "name     proto    table    state  since       info");
            }
            any = true;
            reply.line(1002, &protocol.line());
            if all {
                protocol.details(&mut reply);
            }
        }
        if any { reply.end(0, "") } else { reply.end(8003, "No protocols match") }
    }
}

impl Bgp {
    fn details(&self, say: &mut impl FnMut(&str)) {
        let of = &self.statistics;
        say(&format!(
            "  Routes:         {} imported, {} filtered, {} exported",
            of.imported, of.filtered, of.exported
        ));
        say("  Route change stats:     received   rejected   filtered    ignored   accepted");
        let import = of.updates_received.saturating_sub(of.invalid);
        say(&format!(
            "    Import updates:     {:>10} {:>10}        ---        --- {import:>10}",
            of.updates_received, of.invalid
        ));
        say("    Import withdraws:          ---        ---        ---        ---        ---");
        say(&format!(
            "    Export updates:     {:>10}        ---        ---        --- {:>10}",
            of.updates_sent, of.updates_sent
        ));
        say("    Export withdraws:          ---        ---        ---        ---        ---");
        say(&format!("  BGP state:          {}", self.state));
        say(&format!("    Neighbor address: {}", self.neighbor));
        say(&format!("    Neighbor AS:      {}", self.neighbor_as.get()));
        if let Some(session) = &self.negotiated {
            if let Some(id) = session.neighbor_id {
                say(&format!("    Neighbor ID:      {id}"));
            }
            let word = |is: bool, word: &'static str| if is { word } else { "" };
            say(&format!(
                "    Neighbor caps:   {}{}{}",
                word(session.refresh, " refresh"),
                word(session.graceful_restart, " restart-able"),
                word(session.four_octet_as, " AS4")
            ));
            say(&format!(
                "    Session:          {}{}{}",
                if session.internal { "internal" } else { "external" },
                word(session.rr_client, " route-reflector"),
                word(session.four_octet_as, " AS4")
            ));
            if let Some(source) = session.source {
                say(&format!("    Source address:   {source}"));
            }
            // What is left of them nobody outside needs to know; the whole time is what was agreed.
            say(&format!("    Hold timer:       {0}/{0}", session.hold_time));
            say(&format!("    Keepalive timer:  {0}/{0}", session.keepalive_time));
        }
        if !self.error.is_empty() {
            say(&format!("    Last error:       {}", self.error));
        }
    }
}

/// As Calico's templates call a session.
pub fn name_of_session(kind: &str, address: IpAddr, port: u16) -> String {
    let address = address.to_string().replace(['.', ':'], "_");
    match port {
        179 => format!("{kind}_{address}"),
        port => format!("{kind}_{address}_port_{port}"),
    }
}

/// How a route leads there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    Via { gateway: IpAddr, interface: String },
    Device(String),
    Blackhole,
    Unreachable,
    Prohibited,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub prefix: Prefix,
    pub way: Way,
    pub kind: Kind,
    /// Of the protocol.
    pub protocol: String,
    pub since: String,
    /// Who said it, where that is not the gateway.
    pub from: Option<IpAddr>,
    /// Of those for the prefix this one is in use.
    pub primary: bool,
    /// It is to be in use, and the kernel does not have it.
    pub failed: bool,
    /// Of a session's: the distance of the next hop, as BIRD writes it ("0", "?", "-"), the AS where the path ends, and the
    /// origin's letter.
    pub bgp: Option<(String, Option<Asn>, char)>,
    /// Lines such as "BGP.local_pref: 100".
    pub attributes: Vec<String>,
}

impl Route {
    /// A line, or several with `all`. Of several routes for one prefix only the first shows it.
    pub fn show(&self, reply: &mut Reply, first_of_prefix: bool, all: bool) {
        let prefix = if first_of_prefix { self.prefix.to_string() } else { String::new() };
        let way = match &self.way {
            Way::Via { gateway, interface } => format!("via {gateway} on {interface}"),
            Way::Device(interface) => format!("dev {interface}"),
            Way::Blackhole => "blackhole".to_owned(),
            Way::Unreachable => "unreachable".to_owned(),
            Way::Prohibited => "prohibited".to_owned(),
        };
        let gateway = match &self.way {
            Way::Via { gateway, .. } => Some(gateway),
            _ => None,
        };
        let from = self.from.filter(|from| Some(from) != gateway);
        let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
        let mark = match (self.primary, self.failed) {
            (true, false) => " *",
            (true, true) => " !",
            (false, _) => "",
        };
        let preference = self.kind.preference();
        let info = match &self.bgp {
            None => format!(" ({preference})"),
            Some((metric, origin_as, origin)) => {
                let origin_as = origin_as.map(|number| format!("AS{}", number.get())).unwrap_or_default();
                format!(" ({preference}/{metric}) [{origin_as}{origin}]")
            }
        };
        reply.line(1007, &format!("{prefix:<18} {way} [{} {}{from}]{mark}{info}", self.protocol, self.since));
        if all {
            let (kind, cast) = (self.kind.name(), if gateway.is_some() { "unicast" } else { "unicast univ" });
            reply.line(1008, &format!("\tType: {kind} {cast}"));
            for attribute in &self.attributes {
                reply.line(1012, &format!("\t{attribute}"));
            }
        }
    }
}

/// As BIRD prints moments: the time of day, or the date of what is twenty hours ago.
pub fn since(at: Timestamp, now: &Zoned) -> String {
    let local = at.to_zoned(now.time_zone().clone());
    let old = now.timestamp().duration_since(at).as_hours() >= 20;
    local.strftime(if old { "%Y-%m-%d" } else { "%H:%M:%S" }).to_string()
}
