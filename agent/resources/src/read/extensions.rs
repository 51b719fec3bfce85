//! Which annotations each kind has, and what their values look like. Their meaning is in `docs/extensions.md`.

use manx_net::{Asn, Prefix};

use crate::{
    Kind,
    nearest::nearest,
    read::annotations::{Annotations, PREFIX, number},
    spec::{
        AddPath, Bfd, MaxPrefixes, Multipath, PeerExtensions, PeerRange, PoolExtensions, RangeAs, Reply,
        Role, SpeakerExtensions,
    },
    tree::excerpt,
};

/// A BGPPeer's, and those of them that the mesh has, too, with the name that they have there: as Calico's
/// `nodeMeshPassword` is to `password`.
const PEER: [(&str, Option<&str>); 12] = [
    (BGP_PEER.max_prefixes, Some(MESH.max_prefixes)),
    (BGP_PEER.max_prefixes_warn_at, Some(MESH.max_prefixes_warn_at)),
    (BGP_PEER.max_prefixes_accepted_only, Some(MESH.max_prefixes_accepted_only)),
    (BGP_PEER.blackholes, Some(MESH.blackholes)),
    (BGP_PEER.add_path, Some(MESH.add_path)),
    (BGP_PEER.extended_next_hop, Some(MESH.extended_next_hop)),
    (BGP_PEER.bfd, Some(MESH.bfd)),
    (LOCAL_ROLE, None),
    (STRICT_ROLE, None),
    (PEER_RANGE, None),
    (PEER_RANGE_AS, None),
    (PEER_RANGE_LIMIT, None),
];
const LOCAL_ROLE: &str = "localRole";
const STRICT_ROLE: &str = "strictRole";
pub(super) const PEER_RANGE: &str = "peerRange";
const PEER_RANGE_AS: &str = "peerRangeAS";
const PEER_RANGE_LIMIT: &str = "peerRangeLimit";

const SPEAKER: [&str; 9] = [
    "multipath",
    "longLivedRestartTime",
    "restartAfterNotification",
    "ebgpRequiresPolicy",
    "maxPaths",
    "clientToClient",
    "closeAfter",
    "holdRoutes",
    NOW,
];
/// `manxctl apply --now` writes it.
pub const NOW: &str = "now";
/// More is nobody's change, but an end of a session that never comes.
const LONGEST_PARTING: u32 = 86_400;

const GRACEFUL_SHUTDOWN: &str = "gracefulShutdown";

const POOL: [&str; 2] = ["unallocatedBlocks", "unassignedAddresses"];

struct PeerNames {
    max_prefixes: &'static str,
    max_prefixes_warn_at: &'static str,
    max_prefixes_accepted_only: &'static str,
    blackholes: &'static str,
    add_path: &'static str,
    extended_next_hop: &'static str,
    bfd: &'static str,
}

const BGP_PEER: PeerNames = PeerNames {
    max_prefixes: "maxPrefixes",
    max_prefixes_warn_at: "maxPrefixesWarnAt",
    max_prefixes_accepted_only: "maxPrefixesAcceptedOnly",
    blackholes: "blackholes",
    add_path: "addPath",
    extended_next_hop: "extendedNextHop",
    bfd: "bfd",
};

const MESH: PeerNames = PeerNames {
    max_prefixes: "nodeMeshMaxPrefixes",
    max_prefixes_warn_at: "nodeMeshMaxPrefixesWarnAt",
    max_prefixes_accepted_only: "nodeMeshMaxPrefixesAcceptedOnly",
    blackholes: "nodeMeshBlackholes",
    add_path: "nodeMeshAddPath",
    extended_next_hop: "nodeMeshExtendedNextHop",
    bfd: "nodeMeshBfd",
};

/// For [`Annotations::finish`]: where an annotation belongs that `kind` does not have.
pub(super) fn elsewhere(kind: Kind, name: &str) -> Option<String> {
    if let Some((_, mesh)) = PEER.iter().find(|(peer, _)| *peer == name) {
        return Some(match mesh {
            Some(mesh) if kind == Kind::BgpConfiguration => {
                format!("it belongs on a BGPPeer; for the node-to-node mesh write {PREFIX}{mesh}")
            }
            _ => "it belongs on a BGPPeer".to_owned(),
        });
    }
    let of_mesh = PEER.iter().any(|(_, mesh)| *mesh == Some(name));
    if of_mesh {
        return Some("it belongs on BGPConfiguration/default".to_owned());
    }
    if SPEAKER.contains(&name) {
        return Some("it belongs on a BGPConfiguration".to_owned());
    }
    if POOL.contains(&name) {
        return Some("it belongs on an IPPool".to_owned());
    }
    (name == GRACEFUL_SHUTDOWN).then(|| "it belongs on a Node".to_owned())
}

pub(super) fn of_peer(annotations: &mut Annotations<'_, '_>) -> PeerExtensions {
    let local_role = annotations.parse(LOCAL_ROLE, role);
    let strict_role = annotations.flag(STRICT_ROLE).unwrap_or(false);
    if strict_role && !annotations.is_set(LOCAL_ROLE) {
        annotations.warn(STRICT_ROLE, format!("has no effect without {PREFIX}{LOCAL_ROLE}"));
    }
    let range = peer_range(annotations);
    if range.is_some() {
        annotations.warn(BGP_PEER.bfd, format!("has no effect with {PREFIX}{PEER_RANGE}"));
    }
    PeerExtensions { local_role, strict_role, range, ..peering(annotations, &BGP_PEER) }
}

fn peer_range(annotations: &mut Annotations<'_, '_>) -> Option<PeerRange> {
    let prefix = annotations.parse(PEER_RANGE, str::parse::<Prefix>);
    let as_numbers = annotations.parse(PEER_RANGE_AS, range_as);
    // A speaker numbers its peers by two octets, and others want some, too.
    let limit = annotations.number(PEER_RANGE_LIMIT, 1..=50_000, "number of peers");
    if !annotations.is_set(PEER_RANGE) {
        for name in [PEER_RANGE_AS, PEER_RANGE_LIMIT] {
            annotations.warn(name, format!("has no effect without {PREFIX}{PEER_RANGE}"));
        }
    }
    Some(PeerRange { prefix: prefix?, as_numbers, limit: limit.unwrap_or(PeerRange::DEFAULT_LIMIT) })
}

/// `external`, or numbers: `65001, 65002`.
fn range_as(text: &str) -> Result<RangeAs, String> {
    if text == "external" {
        return Ok(RangeAs::External);
    }
    let numbers = words(text).map(|word| word.parse::<Asn>());
    let numbers = numbers
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{error}; write AS numbers, or \"external\" for any but this node's"))?;
    if numbers.is_empty() {
        return Err("there is no AS number; write some, or \"external\" for any but this node's".to_owned());
    }
    Ok(RangeAs::OneOf(numbers))
}

/// What `BGPConfiguration/default` says of the peers of the mesh.
pub(super) fn of_mesh(annotations: &mut Annotations<'_, '_>) -> PeerExtensions {
    peering(annotations, &MESH)
}

fn peering(annotations: &mut Annotations<'_, '_>, names: &PeerNames) -> PeerExtensions {
    let limit = annotations.number(names.max_prefixes, 1..=u32::MAX, "number of prefixes for each family");
    let warn_at = annotations.parse(names.max_prefixes_warn_at, |text| {
        number(text.strip_suffix('%').unwrap_or(text), 0..=100, "percentage of the limit (0: no warning)")
    });
    let accepted_only = annotations.flag(names.max_prefixes_accepted_only);
    if !annotations.is_set(names.max_prefixes) {
        for name in [names.max_prefixes_warn_at, names.max_prefixes_accepted_only] {
            annotations.warn(name, format!("has no effect without {PREFIX}{}", names.max_prefixes));
        }
    }
    PeerExtensions {
        max_prefixes: limit.map(|limit| MaxPrefixes {
            limit,
            // At most 100, as read.
            warn_at: warn_at.map_or(75, |per_cent| per_cent as u8),
            accepted_only: accepted_only.unwrap_or(false),
        }),
        blackholes: annotations.parse(names.blackholes, prefixes).unwrap_or_default(),
        add_path: annotations.parse(names.add_path, add_path).unwrap_or_default(),
        extended_next_hop: annotations.flag(names.extended_next_hop).unwrap_or(false),
        bfd: annotations.parse(names.bfd, bfd).flatten(),
        local_role: None,
        strict_role: false,
        range: None,
    }
}

pub(super) fn of_speaker(annotations: &mut Annotations<'_, '_>) -> SpeakerExtensions {
    let [
        multipath,
        long_lived,
        after_notification,
        policy,
        max_paths,
        client_to_client,
        close_after,
        hold_routes,
        now,
    ] = SPEAKER;
    SpeakerExtensions {
        multipath: annotations.parse(multipath, read_multipath),
        // RFC 9494 §3.1: three octets.
        long_lived_restart_time: annotations.seconds(long_lived, 0..=(1 << 24) - 1),
        restart_after_notification: annotations.flag(after_notification),
        ebgp_requires_policy: annotations.flag(policy),
        max_paths: annotations.number(max_paths, 1..=u32::MAX, "number of paths"),
        client_to_client: annotations.flag(client_to_client),
        close_after: annotations.seconds(close_after, 0..=LONGEST_PARTING),
        hold_routes: annotations.seconds(hold_routes, 0..=LONGEST_PARTING),
        now: annotations.parse(now, |text| Ok::<_, String>(text.to_owned())),
    }
}

pub(super) fn graceful_shutdown(annotations: &mut Annotations<'_, '_>) -> bool {
    annotations.flag(GRACEFUL_SHUTDOWN).unwrap_or(false)
}

pub(super) fn of_pool(annotations: &mut Annotations<'_, '_>) -> PoolExtensions {
    let [unallocated_blocks, unassigned_addresses] = POOL;
    let reply = |reply: Reply| (reply.name(), Some(reply));
    let with_forward = [("Forward", None), reply(Reply::Drop), reply(Reply::Reject)];
    let without = [(Reply::Drop.name(), Reply::Drop), (Reply::Reject.name(), Reply::Reject)];
    PoolExtensions {
        unallocated_blocks: annotations
            .parse(unallocated_blocks, |text| one_of(text, &with_forward))
            .unwrap_or_default(),
        unassigned_addresses: annotations
            .parse(unassigned_addresses, |text| one_of(text, &without))
            .unwrap_or_default(),
    }
}

/// One of some words, exactly as written here.
fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let words = || choices.iter().map(|(word, _)| *word);
    let remedy = match nearest(text, words()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("write one of {}", words().collect::<Vec<_>>().join(", ")),
    };
    Err(format!("\"{}\" is not known; {remedy}", excerpt(text)))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty())
}

fn prefixes(text: &str) -> Result<Vec<Prefix>, String> {
    let each = words(text).map(|word| word.parse::<Prefix>().map_err(|error| error.to_string()));
    let mut prefixes = each.collect::<Result<Vec<_>, _>>()?;
    prefixes.sort();
    prefixes.dedup();
    Ok(prefixes)
}

fn role(text: &str) -> Result<Role, String> {
    const ROLES: [Role; 5] = [Role::Provider, Role::RsServer, Role::RsClient, Role::Customer, Role::Peer];
    ROLES.into_iter().find(|role| role.name() == text).ok_or_else(|| {
        let remedy = match nearest(text, ROLES.map(Role::name)) {
            Some(near) => format!("did you mean {near}?"),
            None => {
                format!("write one of {}: what this node is to the peer", ROLES.map(Role::name).join(", "))
            }
        };
        format!("\"{}\" is no role; {remedy}", excerpt(text))
    })
}

/// `true`, `false`, or what is to be other than usual: `interval=100ms, multiplier=5, multihop`.
fn bfd(text: &str) -> Result<Option<Bfd>, String> {
    const HINT: &str = "write true, false, or interval=300ms, multiplier=3, and multihop or singlehop where the \
                        node's links do not tell";
    let mut read = Bfd::default();
    for word in words(text) {
        match word.split_once('=') {
            None if word == "false" => return Ok(None),
            None if word == "true" => {}
            None if word == "multihop" => read.multihop = Some(true),
            None if word == "singlehop" => read.multihop = Some(false),
            Some(("interval", interval)) => read.interval = millis(interval)?,
            // At most 255, as read.
            Some(("multiplier", many)) => {
                read.multiplier = number(many, 1..=255, "number of packets lost in a row")? as u8;
            }
            _ => return Err(format!("\"{}\" is nothing that BFD has; {HINT}", excerpt(word))),
        }
    }
    Ok(Some(read))
}

/// A process that sends more often is a burden, and one that sends less often is no faster than BGP.
fn millis(text: &str) -> Result<u32, String> {
    let (digits, factor) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 1000),
        (None, None) => (text, 0),
    };
    let millis = digits.parse::<u32>().ok().and_then(|number| number.checked_mul(factor));
    millis
        .filter(|millis| (10..=60_000).contains(millis))
        .ok_or_else(|| format!("\"{}\" is no interval; write 10ms to 60s", excerpt(text)))
}

/// `receive`, `send`, `send=4`, `both`, `both=4`, or two of them: `receive, send=4`.
fn add_path(text: &str) -> Result<AddPath, String> {
    let mut read = AddPath::default();
    for word in words(text) {
        let (what, paths) = match word.split_once('=') {
            Some((what, paths)) => (what, Some(number(paths, 1..=64, "number of paths for a prefix")? as u8)),
            None => (word, None),
        };
        let send = paths.unwrap_or(AddPath::DEFAULT_SEND);
        match what {
            "receive" if paths.is_none() => read.receive = true,
            "send" => read.send = send,
            "both" => read = AddPath { send, receive: true },
            _ => {
                return Err(format!(
                    "\"{}\" is no direction; write receive, send=N or both=N, where N is how many paths for a prefix \
                     are sent at most",
                    excerpt(word)
                ));
            }
        }
    }
    Ok(read)
}

/// `4` for both kinds, or `ebgp=4, ibgp=2`.
fn read_multipath(text: &str) -> Result<Multipath, String> {
    let paths = |text: &str| {
        Ok::<u8, String>(number(text, 1..=255, "number of paths that carry traffic together")? as u8)
    };
    if !text.contains('=') {
        let both = paths(text)?;
        return Ok(Multipath { ebgp: both, ibgp: both });
    }
    let mut read = Multipath::default();
    for word in words(text) {
        match word.split_once('=') {
            Some(("ebgp", number)) => read.ebgp = paths(number)?,
            Some(("ibgp", number)) => read.ibgp = paths(number)?,
            _ => {
                return Err(format!(
                    "\"{}\" is not a number of paths; write 4, or ebgp=4, ibgp=2",
                    excerpt(word)
                ));
            }
        }
    }
    Ok(read)
}
