//! Who may be told of a route: the rules of RFC 4271 §9.1.3 and RFC 4456 §6, the well-known communities, and
//! the built-in export policy. Peers for which all of it comes out the same, bytes included, share an update
//! group.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use manx_net::{Asn, Prefix};

use super::table::{OWN, Path};
use crate::{
    attr::{
        Attributes,
        encode::{Outgoing, OutgoingKind},
    },
    config::{ExportRule, Family, NextHopMode, NormalPriority, Role, WellKnown},
    policy::{Candidate, Change, Community, NORMAL_PRIORITY, Rules, Verdict, changed, is_elevated},
    view::Export,
};

/// Everything on which the bytes for a peer depend. Peers with equal keys get the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupKey {
    pub family: Family,
    pub kind: PeerKind,
    pub next_hop_mode: NextHopMode,
    /// Our address towards these peers; `None` if we have none of this family.
    pub self_next_hop: Option<IpAddr>,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Ours, to a peer of another AS (RFC 9234).
    pub role: Option<Role>,
    /// Beside a global [`Self::self_next_hop`], our address on the link to these peers (RFC 2545 §3).
    pub link_local: Option<Ipv6Addr>,
    pub cluster_id: Ipv4Addr,
    /// Clients of one cluster get each other's routes from us.
    pub client_to_client: bool,
    pub four_octet: bool,
    /// Longer UPDATEs are taken (RFC 8654).
    pub extended_messages: bool,
    /// Routes with LLGR_STALE may go there (RFC 9494 §4.4).
    pub long_lived: bool,
    /// So many paths of a prefix go there, with their names (RFC 7911); 0: the best alone, without.
    pub add_path: u8,
    pub rules: ExportRules,
}

/// What the peers' rules let out, and how it is changed on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExportRules {
    pub rules: Rules,
    pub graceful_shutdown: bool,
}

impl GroupKey {
    /// May a route of this family have this next hop? RFC 8950 §4: IPv4 by IPv6 only where both sides said so.
    fn takes(&self, next_hop: IpAddr) -> bool {
        match self.family {
            Family::Ipv4Unicast => next_hop.is_ipv4() || self.extended_next_hop,
            Family::Ipv6Unicast => next_hop.is_ipv6(),
        }
    }
}

impl ExportRules {
    /// `learned`: not our own route. What a rule sees is the route as it is here, before anything that the session's
    /// kind does to it.
    pub fn judge(
        &self,
        prefix: Prefix,
        attributes: &Attributes,
        learned: bool,
        kind: PeerKind,
    ) -> Verdict<'_> {
        if self.rules.is_empty() {
            return Verdict::Fallthrough;
        }
        let peer_type = kind.peer_type();
        self.rules.judge(&Candidate {
            prefix,
            attributes,
            learned,
            peer_type,
            interface: attributes.interface(),
        })
    }

    /// The set with which a route leaves that these changes are for.
    pub fn changed<'a>(&self, attributes: &'a Attributes, changes: &[Change]) -> Cow<'a, Attributes> {
        let mut set = changed(attributes, changes);
        if self.graceful_shutdown {
            let community = Change::AddCommunity(Community::Standard(WellKnown::GRACEFUL_SHUTDOWN));
            set = Cow::Owned(changed(&set, &[community, Change::SetLocalPref(0)]).into_owned());
        }
        set
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerKind {
    Ebgp { local_as: Asn },
    Ibgp { client: bool },
}

/// What export must know of the peer from which the best path came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub kind: PeerKind,
    pub router_id: Ipv4Addr,
    pub cluster_id: Ipv4Addr,
}

/// The built-in policy, ready to be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    rule: ExportRule,
    normal_priority: NormalPriority,
    /// The prefixes that we originate, of which there may be thousands, and their lengths.
    own: HashSet<Prefix>,
    own_lengths: BTreeSet<u8>,
}

impl Policy {
    pub fn new(
        rule: ExportRule,
        normal_priority: NormalPriority,
        own: impl IntoIterator<Item = Prefix>,
    ) -> Policy {
        let own: HashSet<Prefix> = own.into_iter().collect();
        Policy { rule, normal_priority, own_lengths: own.iter().map(|own| own.len()).collect(), own }
    }

    fn is_inside_own(&self, prefix: Prefix) -> bool {
        let mut lengths = self.own_lengths.range(..=prefix.len());
        lengths.any(|&len| Prefix::new(prefix.addr(), len).is_some_and(|around| self.own.contains(&around)))
    }

    /// For routes learned from peers.
    pub fn judge(&self, prefix: Prefix) -> Ruling {
        let elevated = self.by_pool(prefix);
        let usual = if self.is_inside_own(prefix) { Export::InsideOwnBlock } else { elevated };
        let normal = self.normal_priority.of(Family::of(prefix)).unwrap_or(NORMAL_PRIORITY);
        Ruling { usual, elevated, normal }
    }

    fn by_pool(&self, prefix: Prefix) -> Export {
        match self.rule.pools.iter().find(|pool| pool.prefix.covers(prefix)) {
            Some(pool) if pool.export => Export::Sent,
            Some(_) => Export::PoolNotExported,
            None if self.rule.transit => Export::Sent,
            None if self.rule.services.iter().any(|services| services.covers(prefix)) => Export::Sent,
            None => Export::NoTransit,
        }
    }
}

/// What the built-in rules say of a prefix: [`Export::Sent`], or what forbids it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    usual: Export,
    /// For a path of a better priority than the usual one: a pod that is about to move says so where it will be, though
    /// its block is ours.
    elevated: Export,
    /// The usual priority.
    normal: u32,
}

impl Ruling {
    fn on(self, attributes: &Attributes) -> Export {
        if self.usual == self.elevated || !is_elevated(attributes.local_pref(), self.normal) {
            self.usual
        } else {
            self.elevated
        }
    }
}

/// May this best path go to this group? `source` is `None` for an own route, `policy` what [`Policy::judge`] says.
pub fn verdict(
    prefix: Prefix,
    path: &Path,
    source: Option<Source>,
    policy: Ruling,
    key: &GroupKey,
) -> Export {
    let attributes = &*path.attributes;
    if attributes.has_community(WellKnown::NO_ADVERTISE) {
        return Export::NoAdvertise;
    }
    if matches!(key.kind, PeerKind::Ebgp { .. })
        && (attributes.has_community(WellKnown::NO_EXPORT)
            || attributes.has_community(WellKnown::NO_EXPORT_SUBCONFED)
            || (source.is_some() && attributes.has_community(WellKnown::BLACKHOLE)))
    {
        return Export::NoExport;
    }
    // RFC 9234 §5: what has come from a provider, a peer or a route server goes to none of them.
    if attributes.only_to_customers.is_some()
        && matches!(key.role, Some(Role::Customer | Role::Peer | Role::RouteServerClient))
    {
        return Export::OnlyToCustomers;
    }
    if !key.long_lived && attributes.has_community(WellKnown::LLGR_STALE) {
        return Export::LongLivedStale;
    }
    if let Some(source) = source
        && let (PeerKind::Ibgp { client: from }, PeerKind::Ibgp { client: to }) = (source.kind, key.kind)
    {
        if !from && !to {
            return Export::NotReflected;
        }
        if from && to && !key.client_to_client && source.cluster_id == key.cluster_id {
            return Export::ClientToClient;
        }
    }
    // The peer's rules come first, as Calico's filters do; a route that they leave open is the built-in ones'.
    match key.rules.judge(prefix, attributes, source.is_some(), key.kind) {
        Verdict::Reject(_) => return Export::Filter,
        Verdict::Accept(..) => {}
        Verdict::Amend(_) | Verdict::Fallthrough if source.is_some() => match policy.on(attributes) {
            Export::Sent => {}
            forbidden => return forbidden,
        },
        Verdict::Amend(_) | Verdict::Fallthrough => {}
    }
    match next_hop(attributes, path.peer == OWN, key) {
        None => Export::NoNextHop,
        // The reflector must not put itself in the way because a client is old.
        Some(next_hop) if !key.takes(next_hop) => Export::NextHopFamily,
        Some(_) => Export::Sent,
    }
}

/// Behaviours 39 and 49: unchanged within the AS, self towards others and for own routes, unless the mode says
/// otherwise. A link-local next hop means nothing beyond its link and becomes self.
fn next_hop(attributes: &Attributes, own: bool, key: &GroupKey) -> Option<IpAddr> {
    let ebgp = matches!(key.kind, PeerKind::Ebgp { .. });
    let link_local = matches!(attributes.next_hop, IpAddr::V6(a) if a.is_unicast_link_local());
    let self_ = match key.next_hop_mode {
        _ if own || link_local => true,
        NextHopMode::Auto => ebgp,
        NextHopMode::Self_ => true,
        NextHopMode::Keep => false,
    };
    if self_ { key.self_next_hop } else { Some(attributes.next_hop) }
}

/// The changes with which a route leaves, for one whose verdict is [`Export::Sent`].
pub fn outgoing(attributes: &Attributes, source: Option<Source>, key: &GroupKey) -> Option<Outgoing> {
    let kind = match (key.kind, source) {
        (PeerKind::Ebgp { local_as }, source) => {
            OutgoingKind::Ebgp { prepend: local_as, own: source.is_none() }
        }
        (PeerKind::Ibgp { .. }, Some(Source { kind: PeerKind::Ibgp { .. }, router_id, .. })) => {
            OutgoingKind::Reflected { originator: router_id, cluster_id: key.cluster_id }
        }
        (PeerKind::Ibgp { .. }, _) => OutgoingKind::Ibgp,
    };
    let next_hop = next_hop(attributes, source.is_none(), key).filter(|&next_hop| key.takes(next_hop))?;
    // RFC 2545 §3: both addresses only of what is on the link; of others' next hops we do not know a second one.
    let ours = Some(next_hop) == key.self_next_hop;
    let link_local = key.link_local.filter(|&address| ours && IpAddr::V6(address) != next_hop);
    let only_to_customers = match (key.kind, key.role) {
        (PeerKind::Ebgp { local_as }, Some(Role::Provider | Role::Peer | Role::RouteServer)) => {
            Some(local_as.get())
        }
        _ => None,
    };
    Some(Outgoing { next_hop, link_local, four_octet: key.four_octet, only_to_customers, kind })
}

/// Do both sets, each from its source, leave as the same bytes (behaviour 48)?
pub fn leaves_alike(
    prefix: Prefix,
    (a, of_a): (&Attributes, Option<Source>),
    (b, of_b): (&Attributes, Option<Source>),
    key: &GroupKey,
) -> bool {
    let changes = |x, of: Option<Source>| key.rules.judge(prefix, x, of.is_some(), key.kind).changes();
    let inside = |x: &Attributes| (x.med, x.local_pref(), x.originator_id);
    let ebgp = matches!(key.kind, PeerKind::Ebgp { .. });
    changes(a, of_a) == changes(b, of_b)
        && outgoing(a, of_a, key) == outgoing(b, of_b, key)
        && a.origin == b.origin
        && a.as_path == b.as_path
        && a.atomic_aggregate == b.atomic_aggregate
        && a.aggregator == b.aggregator
        && a.communities == b.communities
        && a.extended == b.extended
        && a.large == b.large
        && a.unknown == b.unknown
        && a.only_to_customers == b.only_to_customers
        && a.partial == b.partial
        && (ebgp || (inside(a) == inside(b) && a.cluster_list == b.cluster_list))
        && ((of_a.is_some() && of_b.is_some()) || a.med == b.med)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const SENT: Ruling = Ruling { usual: Export::Sent, elevated: Export::Sent, normal: NORMAL_PRIORITY };
    use crate::{
        config::PoolRule,
        rib::table::{NO_NEXT_HOP, PackedStanding},
    };

    fn prefix() -> Prefix {
        "172.16.0.0/26".parse().unwrap()
    }

    const CLIENT: PeerKind = PeerKind::Ibgp { client: true };
    const PLAIN: PeerKind = PeerKind::Ibgp { client: false };

    fn ebgp() -> PeerKind {
        PeerKind::Ebgp { local_as: Asn::CALICO_DEFAULT }
    }

    fn key(kind: PeerKind, next_hop_mode: NextHopMode) -> GroupKey {
        GroupKey {
            family: Family::Ipv4Unicast,
            kind,
            next_hop_mode,
            self_next_hop: Some("10.0.0.1".parse().unwrap()),
            extended_next_hop: false,
            role: None,
            link_local: None,
            cluster_id: Ipv4Addr::new(1, 1, 1, 1),
            client_to_client: true,
            four_octet: true,
            extended_messages: false,
            long_lived: true,
            add_path: 0,
            rules: ExportRules::default(),
        }
    }

    fn path(communities: &[u32], peer: u16) -> Path {
        let mut attributes = Attributes::own(communities);
        attributes.next_hop = "10.9.9.9".parse().unwrap();
        Path {
            attributes: Arc::new(attributes),
            next_hop: NO_NEXT_HOP,
            id: 0,
            peer,
            number: 0,
            generation: 0,
            standing: PackedStanding::BEST,
        }
    }

    fn from(kind: PeerKind) -> Option<Source> {
        Some(Source { kind, router_id: Ipv4Addr::new(2, 2, 2, 2), cluster_id: Ipv4Addr::new(1, 1, 1, 1) })
    }

    /// Behaviours 38 and 49.
    #[test]
    fn clients_reach_all_and_others_reach_clients_and_other_ases_only() {
        for (source, target, expected) in [
            (CLIENT, CLIENT, Export::Sent),
            (CLIENT, PLAIN, Export::Sent),
            (CLIENT, ebgp(), Export::Sent),
            (PLAIN, CLIENT, Export::Sent),
            (PLAIN, PLAIN, Export::NotReflected),
            (PLAIN, ebgp(), Export::Sent),
            (ebgp(), PLAIN, Export::Sent),
            (ebgp(), CLIENT, Export::Sent),
            (ebgp(), ebgp(), Export::Sent),
        ] {
            let key = key(target, NextHopMode::Auto);
            assert_eq!(verdict(prefix(), &path(&[], 0), from(source), SENT, &key), expected);
        }
    }

    /// Behaviour 50.
    #[test]
    fn well_known_communities_bind_own_routes_too() {
        for (community, within, beyond) in [
            (WellKnown::NO_EXPORT, Export::Sent, Export::NoExport),
            (WellKnown::NO_EXPORT_SUBCONFED, Export::Sent, Export::NoExport),
            (WellKnown::NO_ADVERTISE, Export::NoAdvertise, Export::NoAdvertise),
        ] {
            for (peer, source) in [(OWN, None), (0, from(CLIENT))] {
                let path = path(&[5, community], peer);
                let judge = |kind| verdict(prefix(), &path, source, SENT, &key(kind, NextHopMode::Auto));
                assert_eq!((judge(CLIENT), judge(ebgp())), (within, beyond));
            }
        }
    }

    /// RFC 7999 §3.2: a neighbour asks us, not our neighbours; what we ask of ours is our own route.
    #[test]
    fn a_learned_blackhole_stays_within_the_as_and_an_own_one_goes_out() {
        let judge = |peer, source, kind| {
            let path = path(&[WellKnown::BLACKHOLE], peer);
            verdict(prefix(), &path, source, SENT, &key(kind, NextHopMode::Auto))
        };
        assert_eq!(judge(0, from(CLIENT), CLIENT), Export::Sent);
        assert_eq!(judge(0, from(ebgp()), ebgp()), Export::NoExport);
        assert_eq!(judge(OWN, None, ebgp()), Export::Sent);
    }

    #[test]
    fn only_pools_leave_and_nothing_inside_an_own_block() {
        let pools = vec![
            PoolRule { prefix: "172.16.128.0/17".parse().unwrap(), export: false },
            PoolRule { prefix: "172.16.0.0/16".parse().unwrap(), export: true },
        ];
        let own = ["172.16.36.192/26".parse().unwrap()];
        let policy = Policy::new(
            ExportRule { pools, transit: false, ..ExportRule::default() },
            NormalPriority::default(),
            own,
        );
        for (prefix, expected) in [
            ("172.16.118.64/26", Export::Sent),
            ("172.16.118.65/32", Export::Sent),
            ("172.16.36.193/32", Export::InsideOwnBlock),
            ("172.16.200.0/26", Export::PoolNotExported),
            ("10.0.0.0/8", Export::NoTransit),
            ("0.0.0.0/0", Export::NoTransit),
        ] {
            let ruling = policy.judge(prefix.parse().unwrap());
            assert_eq!(ruling.on(&path(&[], 0).attributes), expected, "{prefix}");
            // One that is about to move into another node's hands leaves though it lies in our block, and no pool's rule is
            // another for it.
            let moving = Attributes { local_pref: Some(2_147_483_647 - 512), ..Attributes::own(&[]) };
            let elevated = if expected == Export::InsideOwnBlock { Export::Sent } else { expected };
            assert_eq!(ruling.on(&moving), elevated, "{prefix}");
        }
        let plain =
            Policy::new(ExportRule { transit: true, ..ExportRule::default() }, NormalPriority::default(), []);
        assert_eq!(plain.judge("10.0.0.0/8".parse().unwrap()), SENT);
    }

    #[test]
    fn the_next_hop_is_kept_within_the_as_and_self_beyond_unless_the_mode_says_otherwise() {
        let (kept, own): (IpAddr, IpAddr) = ("10.9.9.9".parse().unwrap(), "10.0.0.1".parse().unwrap());
        for (kind, mode, expected) in [
            (CLIENT, NextHopMode::Auto, kept),
            (ebgp(), NextHopMode::Auto, own),
            (CLIENT, NextHopMode::Self_, own),
            (ebgp(), NextHopMode::Keep, kept),
        ] {
            let out = outgoing(&path(&[], 0).attributes, from(CLIENT), &key(kind, mode)).unwrap();
            assert_eq!(out.next_hop, expected);
            let out = outgoing(&path(&[], OWN).attributes, None, &key(kind, mode)).unwrap();
            assert_eq!(out.next_hop, own);
        }
        let mut nowhere = key(ebgp(), NextHopMode::Auto);
        nowhere.self_next_hop = None;
        assert_eq!(verdict(prefix(), &path(&[], 0), from(CLIENT), SENT, &nowhere), Export::NoNextHop);
    }
}
