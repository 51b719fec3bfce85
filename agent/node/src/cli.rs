//! The flags of manxd and their environment variables.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The node daemon of Manx: speaks BGP, writes routes to the kernel and to eBPF maps, and attaches the programs
/// that forward pod traffic.
#[derive(Debug, Parser)]
#[command(
    name = "manxd",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Every flag has an environment variable, shown in brackets. SIGTERM stops the daemon and leaves \
                  routes, maps and programs in place: pods keep talking. `manxd cleanup` removes them."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground (the same as without a command)
    Run(Box<RunArgs>),
    /// Run the process that watches the paths to the peers (BFD); manxd starts it by itself where resources ask for it
    Bfd(BfdArgs),
    /// Remove everything that Manx ever put on this node: its routes, programs, maps, socket and state
    Cleanup(CleanupArgs),
    /// Print what makes a shell complete manxd's command lines
    Completion {
        /// For which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of manxd to a directory that is there already
    Man {
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The name of this node's Node resource [default: the host name, in lower case]
    #[arg(long, env = "MANX_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Where the resources are: dir:PATH, etcd://HOST:PORT,... or etcds://HOST:PORT,... by TLS
    #[arg(long, env = "MANX_DATASTORE", value_name = "URL", default_value = "dir:/etc/manx")]
    pub datastore: String,

    /// Interfaces that lead to other nodes, as a regular expression over the whole name [default: Calico's bpfDataIfacePattern]
    #[arg(long, env = "MANX_UPLINK", value_name = "REGEX")]
    pub uplink: Option<String>,

    /// How the names of the pods' host-side interfaces begin
    #[arg(long, env = "MANX_POD_INTERFACE_PREFIX", value_name = "TEXT", default_value = "cali", value_parser = name_prefix)]
    pub pod_interface_prefix: String,

    /// off: speak BGP only, write no routes and load no programs; for a reflector that carries no pods
    #[arg(long, env = "MANX_DATAPLANE", value_enum, default_value_t = DataplaneMode::On)]
    pub dataplane: DataplaneMode,

    /// Whether the eBPF programs forward, for pools of which the resources (manx.dev/fastPath) say nothing; off is for all
    #[arg(long, env = "MANX_FAST_PATH", value_enum, default_value_t = FastPathMode::Auto)]
    pub fast_path: FastPathMode,

    /// Entries of eBPF maps that are to be larger or smaller: routes4, routes6, words, blocks6, interfaces, counters
    #[arg(long, env = "MANX_MAP_SIZE", value_name = "NAME=ENTRIES,...")]
    pub map_size: Option<manx_dataplane::ebpf::Sizes>,

    /// Seconds from one audit to the next: BGP, FIB, maps and programs are compared, and what differs is put right
    #[arg(long, env = "MANX_AUDIT_INTERVAL", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub audit_interval: u32,

    /// Listen for BGP on this address only [default: every address, or the node's own with bindMode: NodeIP]
    #[arg(long, env = "MANX_LISTEN_ADDRESS", value_name = "ADDRESS")]
    pub listen_address: Option<IpAddr>,

    /// Answer /readyz and /livez by HTTP there, and nothing else, such as 127.0.0.1:9099 [default: on the API's socket only]
    #[arg(long, env = "MANX_HEALTH_ADDRESS", value_name = "ADDRESS:PORT")]
    pub health_address: Option<SocketAddr>,

    /// Answer /metrics by HTTP there, in OpenMetrics, such as 127.0.0.1:9091 [default: on the API's socket only]
    #[arg(long, env = "MANX_METRICS_ADDRESS", value_name = "ADDRESS:PORT")]
    pub metrics_address: Option<SocketAddr>,

    /// Answer BIRD's commands for IPv4 there, so that calicoctl, calico-node's probes and bird_exporter see this node, such as
    /// /var/run/calico/bird.ctl
    #[arg(long, env = "MANX_BIRD_SOCKET", value_name = "PATH")]
    pub bird_socket: Option<PathBuf>,

    /// The same for IPv6, such as /var/run/calico/bird6.ctl
    #[arg(long, env = "MANX_BIRD6_SOCKET", value_name = "PATH")]
    pub bird6_socket: Option<PathBuf>,

    /// The BGP identifier: an IPv4 address that no other node has, or hash, which is made of the node's name; CALICO_ROUTER_ID is
    /// understood, too [default: the node's IPv4 address, else hash]
    #[arg(long, env = "MANX_ROUTER_ID", value_name = "ADDRESS|hash")]
    pub router_id: Option<RouterId>,

    /// Where passwords are: the key K of the secret S is the file S/K in this directory
    #[arg(long, env = "MANX_SECRETS", value_name = "DIR", default_value = "/etc/manx/secrets")]
    pub secrets: PathBuf,

    /// The routing table that takes the routes
    #[arg(long, env = "MANX_TABLE", value_name = "N", default_value_t = 254, value_parser = clap::value_parser!(u32).range(1..))]
    pub table: u32,

    /// The routes' metric: others for the same prefix with a lower one come first [default: the kernel's, 0 for IPv4 and 1024 for IPv6]
    #[arg(long, env = "MANX_METRIC", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub metric: Option<u32>,

    /// Take over the routes inside pools that a routing daemon has left behind, by the name or number of their protocol:
    /// bird, zebra, bgp or 5 to 255
    #[arg(long, env = "MANX_ADOPT_PROTOCOL", value_name = "PROTOCOL")]
    pub adopt_protocol: Option<Protocol>,

    /// Where Felix says which pods peer with their node (localWorkloadSelector)
    #[arg(
        long,
        env = "MANX_ENDPOINT_STATUS",
        value_name = "DIR",
        default_value = "/var/run/calico/endpoint-status"
    )]
    pub endpoint_status: PathBuf,

    /// Only say whether the daemon could do its work with these flags, resources and secrets; ends in 0 if so, else in 1
    #[arg(long)]
    pub check_config: bool,

    #[command(flatten)]
    pub places: Places,

    /// Log lines as text or JSON
    #[arg(long, env = "MANX_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// error, warn, info, debug or trace, or directives such as warn,manxd=debug
    #[arg(long, env = "MANX_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

/// What Calico's node calls [`RunArgs::router_id`].
const CALICOS_ROUTER_ID: &str = "CALICO_ROUTER_ID";

impl RunArgs {
    /// As if what Calico's environment says had been said here; our own word comes before it.
    pub fn with_calicos_environment(mut self) -> anyhow::Result<RunArgs> {
        if self.router_id.is_none()
            && let Some(text) = std::env::var_os(CALICOS_ROUTER_ID).filter(|text| !text.is_empty())
        {
            let text = text.to_string_lossy();
            let read =
                text.parse().map_err(|error| anyhow::anyhow!("{CALICOS_ROUTER_ID}={text}: {error}"))?;
            self.router_id = Some(read);
        }
        Ok(self)
    }

    pub fn audit_interval(&self) -> Duration {
        Duration::from_secs(self.audit_interval.into())
    }
}

/// A BGP identifier, or how one is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterId {
    Address(Ipv4Addr),
    /// Of the node's name.
    Hash,
}

impl RouterId {
    pub fn of(self, node: &str) -> Ipv4Addr {
        match self {
            RouterId::Address(address) => address,
            RouterId::Hash => manx_resources::router_id_of_name(node),
        }
    }
}

impl FromStr for RouterId {
    type Err = String;

    fn from_str(text: &str) -> Result<RouterId, String> {
        if text == "hash" {
            return Ok(RouterId::Hash);
        }
        // RFC 6286 §2.1: any but zero. An address that no host can have is refused by older speakers.
        let address = text.parse::<Ipv4Addr>().ok();
        let address = address.filter(|address| !address.is_unspecified() && address.octets()[0] <= 223);
        address.map(RouterId::Address).ok_or_else(|| {
            "no BGP identifier; write an IPv4 address that no other node has, such as 10.0.0.1, or hash"
                .to_owned()
        })
    }
}

/// Names of interfaces have at most 15 octets (`IFNAMSIZ`), of which the prefix leaves one at least.
fn name_prefix(text: &str) -> Result<String, String> {
    match text.len() {
        0..=14 => Ok(text.to_owned()),
        _ => Err(String::from("the name of an interface has at most 15 octets, so none begins so")),
    }
}

/// What `run` puts on the node, and `cleanup` must find again.
#[derive(Args, Clone, Debug)]
pub struct Places {
    /// The unix socket of the local API
    #[arg(long, env = "MANX_API_SOCKET", value_name = "PATH", default_value = manx_api::DEFAULT_SOCKET)]
    pub api_socket: PathBuf,

    /// The directory of a bpffs in which maps and links are pinned
    #[arg(long, env = "MANX_BPF_DIR", value_name = "PATH", default_value = manx_api::DEFAULT_BPF_DIR)]
    pub bpf_dir: PathBuf,

    /// The unix socket of the BFD process, which outlives manxd
    #[arg(long, env = "MANX_BFD_SOCKET", value_name = "PATH", default_value = manx_api::DEFAULT_BFD_SOCKET)]
    pub bfd_socket: PathBuf,

    /// Where operators' blackholes and the last good resources are kept over a restart
    #[arg(long, env = "MANX_STATE_DIR", value_name = "DIR", default_value = "/var/lib/manx")]
    pub state_dir: PathBuf,

    /// What the routes' protocol field says, 5 to 255; in rt_protos.d, 77 is "manx"
    #[arg(long, env = "MANX_PROTOCOL", value_name = "N", default_value_t = 77, value_parser = clap::value_parser!(u8).range(5..))]
    pub protocol: u8,
}

impl Places {
    /// What the datastore said last, for a start while it says nothing.
    pub fn kept_resources(&self) -> PathBuf {
        self.state_dir.join("resources")
    }
}

/// Beside [`RunArgs`], for a process that is to be started by somebody else than manxd.
#[derive(Args, Clone, Debug)]
pub struct BfdArgs {
    /// The unix socket by which manxd says which sessions there are
    #[arg(long, env = "MANX_BFD_SOCKET", value_name = "PATH", default_value = manx_api::DEFAULT_BFD_SOCKET)]
    pub bfd_socket: PathBuf,

    /// So long the sessions go on without a manxd
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub linger: u32,

    /// Log lines as text or JSON
    #[arg(long, env = "MANX_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// error, warn, info, debug or trace
    #[arg(long, env = "MANX_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

#[derive(Args, Clone, Debug)]
pub struct CleanupArgs {
    #[command(flatten)]
    pub places: Places,

    /// Leave the routes, as those of another routing daemon that goes on with them: bird if nothing else is named
    #[arg(long, value_name = "PROTOCOL", num_args = 0..=1, default_missing_value = "bird")]
    pub hand_back: Option<Protocol>,
}

/// What a route's protocol field says, 5 to 255: lower ones are the kernel's and the administrator's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(pub u8);

/// Of routing daemons, as iproute2 has them.
const PROTOCOLS: [(&str, u8); 3] = [("bird", 12), ("zebra", 11), ("bgp", 186)];

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Protocol, String> {
        let named = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
        let number = named.or_else(|| text.parse().ok()).filter(|number| *number >= 5);
        number.map(Protocol).ok_or_else(|| {
            "no protocol of a routing daemon; write bird, zebra, bgp, or a number from 5 to 255".to_owned()
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|(_, number)| *number == self.0) {
            Some((name, number)) => write!(f, "{number} ({name})"),
            None => self.0.fmt(f),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DataplaneMode {
    /// Routes go into the kernel's FIB and the eBPF maps
    On,
    /// Next hops are looked up in the kernel's routes, and nothing is written
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FastPathMode {
    /// As netfilter allows: past it where it does nothing, by what conntrack knows where it tracks connections
    Auto,
    /// On, whatever netfilter does: packets of the fast path skip its rules, and Services break
    On,
    /// Off: programs count and pass, explicit blackholes still drop
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_of_run_has_an_environment_variable() {
        let command = Cli::command();
        // What a variable must not switch on by itself.
        let alone = ["help", "version", "check_config"];
        for arg in command.get_arguments().filter(|a| !alone.contains(&a.get_id().as_str())) {
            assert!(arg.get_env().is_some(), "--{} has none", arg.get_id());
        }
    }

    #[test]
    fn an_audit_comes_each_minute_or_as_often_as_is_asked_for() {
        let parse = |flags: &[&str]| Cli::try_parse_from([&["manxd"], flags].concat());
        assert_eq!(parse(&[]).unwrap().run.audit_interval(), Duration::from_secs(60));
        assert_eq!(parse(&["--audit-interval", "5"]).unwrap().run.audit_interval(), Duration::from_secs(5));
        assert!(parse(&["--audit-interval", "0"]).is_err());
    }

    #[test]
    fn the_readme_has_every_flag_and_its_variable() {
        let readme = include_str!("../../../README.md");
        let rows: Vec<&str> = readme.lines().filter(|line| line.starts_with("| `--")).collect();
        for arg in Cli::command().get_arguments() {
            let (Some(flag), Some(variable)) = (arg.get_long(), arg.get_env().and_then(|env| env.to_str()))
            else {
                continue;
            };
            let named = |row: &&str| {
                row.starts_with(&format!("| `--{flag}")) && row.contains(&format!("`{variable}`"))
            };
            assert!(rows.iter().any(named), "README.md has no row for --{flag} ({variable})");
        }
    }

    #[test]
    fn the_daemon_runs_without_a_command_and_with_one() {
        let bare = Cli::try_parse_from(["manxd", "--node-name", "kw01"]).unwrap();
        assert!(bare.command.is_none());
        assert_eq!(bare.run.node_name.as_deref(), Some("kw01"));
        let named = Cli::try_parse_from(["manxd", "run", "--node-name", "kw01"]).unwrap();
        assert!(
            matches!(named.command, Some(Command::Run(args)) if args.node_name.as_deref() == Some("kw01"))
        );
    }
}
