//! What an OPEN says of us, what the peer's must say, and what both together mean (RFC 4271 §4.2 and §6.2, RFC
//! 4724 §3, RFC 6286, RFC 6793, RFC 9234 §4).

use std::net::Ipv4Addr;

use bytes::{BufMut, BytesMut};
use manx_net::Asn;

use crate::{
    config::{Config, Family, PeerConfig, PerFamily, Role},
    message::{
        notification::Notification,
        open::{AddPathOffer, Capabilities, GracefulRestartCapability, LongLived, OfferedRole, Open},
    },
    view::{AddPathView, GracefulRestartView, NegotiatedView},
};

/// Our side of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ours {
    pub local_as: Asn,
    pub remote_as: Asn,
    pub router_id: Ipv4Addr,
    pub hold_time: u16,
    pub families: Vec<Family>,
    /// RFC 8950.
    pub extended_next_hop: bool,
    /// RFC 9234; only towards another AS.
    pub role: Option<Role>,
    pub strict_role: bool,
    /// Seconds; `None`: the capability is not announced.
    pub restart_time: Option<u16>,
    /// RFC 8538.
    pub after_notification: bool,
    /// Seconds (RFC 9494); `None`: the capability is not announced.
    pub long_lived: Option<u32>,
    /// RFC 7911, each direction.
    pub add_path: AddPathUse,
}

/// In which direction several paths for a prefix are announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddPathUse {
    pub send: bool,
    pub receive: bool,
}

impl Ours {
    /// All that an OPEN depends on: if it differs, the session must be opened anew.
    pub fn new(config: &Config, peer: &PeerConfig) -> Ours {
        let restart = config.graceful_restart;
        let mut families = peer.families.clone();
        families.sort();
        families.dedup();
        let local_as = peer.local_as.unwrap_or(config.local_as);
        // RFC 9234 §4: within an AS there are no roles.
        let role = peer.role.filter(|_| local_as != peer.remote_as);
        Ours {
            local_as,
            role,
            strict_role: role.is_some() && peer.strict_role,
            remote_as: peer.remote_as,
            router_id: config.router_id,
            hold_time: peer.hold_time.unwrap_or(config.hold_time).seconds(),
            // It says nothing without the routes that it is about.
            extended_next_hop: peer.extended_next_hop && families.contains(&Family::Ipv4Unicast),
            families,
            restart_time: restart
                .enabled
                .then(|| peer.restart_time.unwrap_or(restart.restart_time).min(4095)),
            after_notification: restart.after_notification,
            // RFC 9494 §3: nothing without the other capability.
            long_lived: restart.long_lived.filter(|_| restart.enabled).map(|time| time.min(0x00ff_ffff)),
            add_path: AddPathUse { send: peer.add_path.send > 0, receive: peer.add_path.receive },
        }
    }

    pub fn is_ebgp(&self) -> bool {
        self.local_as != self.remote_as
    }

    /// `restarting`: the R bit; `preserved`: the F bit.
    pub fn open(&self, restarting: bool, preserved: bool) -> Open {
        Open {
            my_as: self.local_as.to_two_octets(),
            hold_time: self.hold_time,
            identifier: self.router_id,
            capabilities: Capabilities {
                families: self.families.clone(),
                multiprotocol: true,
                four_octet_as: Some(self.local_as.get()),
                route_refresh: true,
                enhanced_refresh: true,
                extended_messages: true,
                extended_next_hop: self.extended_next_hop,
                role: self.role.map_or(OfferedRole::None, |role| OfferedRole::One(role as u8)),
                graceful_restart: self.restart_time.map(|restart_time| GracefulRestartCapability {
                    restarting,
                    notifications: self.after_notification,
                    restart_time,
                    families: self.families.iter().map(|&family| (family, preserved)).collect(),
                }),
                long_lived: self
                    .long_lived
                    .iter()
                    .flat_map(|&time| {
                        self.families.iter().map(move |&family| LongLived { family, preserved, time })
                    })
                    .collect(),
                add_path: self.add_path_offers(),
            },
        }
    }

    fn add_path_offers(&self) -> Vec<AddPathOffer> {
        let AddPathUse { send, receive } = self.add_path;
        let families = self.families.iter().filter(|_| send || receive);
        families.map(|&family| AddPathOffer { family, receive, send }).collect()
    }

    /// Both OPENs together, or what the peer's is answered with.
    pub fn negotiate(&self, theirs: &Open) -> Result<Negotiated, Notification> {
        // Behaviour 17. The data is the AS number as ours would be written, which RFC 4271 leaves open: none.
        if theirs.as_number() != Some(self.remote_as.get()) {
            return Err(Notification::new(2, 2, &[]));
        }
        if matches!(theirs.hold_time, 1 | 2) {
            return Err(Notification::new(2, 6, &[]));
        }
        // Behaviour 18; RFC 6286 §2.1: within an AS identifiers are distinct, beyond it they need not be.
        let same_id = theirs.identifier == self.router_id;
        if theirs.identifier.is_unspecified() || (same_id && !self.is_ebgp()) {
            return Err(Notification::new(2, 3, &[]));
        }
        let role = self.role_of(theirs)?;
        let families: Vec<Family> =
            self.families.iter().copied().filter(|&family| theirs.capabilities.carries(family)).collect();
        if families.is_empty() {
            // Behaviour 22; RFC 5492 §5: the capabilities that we miss.
            let mut missing = BytesMut::new();
            for family in &self.families {
                missing.put_slice(&[1, 4]);
                missing.put_u16(family.afi());
                missing.put_slice(&[0, 1]);
            }
            return Err(Notification::new(2, 7, &missing));
        }
        let capabilities = &theirs.capabilities;
        Ok(Negotiated {
            families,
            hold_time: self.hold_time.min(theirs.hold_time),
            four_octet: capabilities.four_octet_as.is_some(),
            route_refresh: capabilities.route_refresh,
            enhanced_refresh: capabilities.enhanced_refresh,
            extended_messages: capabilities.extended_messages,
            extended_next_hop: self.extended_next_hop
                && capabilities.extended_next_hop
                && capabilities.carries(Family::Ipv4Unicast),
            after_notification: self.after_notification
                && self.restart_time.is_some()
                && capabilities.graceful_restart.as_ref().is_some_and(|restart| restart.notifications),
            restart: if self.restart_time.is_some() { capabilities.graceful_restart.clone() } else { None },
            long_lived: match self.long_lived {
                Some(ours) if capabilities.graceful_restart.is_some() => {
                    let bounded = |theirs: &LongLived| LongLived { time: theirs.time.min(ours), ..*theirs };
                    capabilities.long_lived.iter().map(bounded).collect()
                }
                _ => Vec::new(),
            },
            add_path: PerFamily::from_fn(|family| {
                let theirs = capabilities.add_path.iter().find(|offer| offer.family == family);
                theirs.map_or_else(AddPathUse::default, |theirs| AddPathUse {
                    send: self.add_path.send && theirs.receive,
                    receive: self.add_path.receive && theirs.send,
                })
            }),
            role,
            remote_id: theirs.identifier,
        })
    }

    /// What the peer says that it is, if it says so (RFC 9234 §4.2). Without a role of our own whatever it says is as
    /// good as any other.
    fn role_of(&self, theirs: &Open) -> Result<Option<Role>, Notification> {
        let mismatch = Err(Notification::new(2, 11, &[]));
        if !self.is_ebgp() {
            return Ok(None);
        }
        match (theirs.capabilities.role, self.role) {
            (OfferedRole::Contradictory, _) => mismatch,
            (OfferedRole::None, _) => {
                if self.strict_role {
                    mismatch
                } else {
                    Ok(None)
                }
            }
            (OfferedRole::One(said), None) => Ok(Role::from_wire(said)),
            (OfferedRole::One(said), Some(ours)) => match Role::from_wire(said) {
                Some(theirs) if theirs == ours.counterpart() => Ok(Some(theirs)),
                _ => mismatch,
            },
        }
    }
}

/// What holds for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub families: Vec<Family>,
    /// Seconds; 0: neither keepalives nor expiry.
    pub hold_time: u16,
    pub four_octet: bool,
    pub route_refresh: bool,
    pub enhanced_refresh: bool,
    pub extended_messages: bool,
    /// Both announced that IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Both announced that routes outlive the session even if it ends by NOTIFICATION (RFC 8538).
    pub after_notification: bool,
    /// The peer's, if both announced it.
    pub restart: Option<GracefulRestartCapability>,
    /// The peer's, if both announced it; for no longer than we ask for ourselves.
    pub long_lived: Vec<LongLived>,
    pub add_path: PerFamily<AddPathUse>,
    /// The peer's, if it said so (RFC 9234).
    pub role: Option<Role>,
    pub remote_id: Ipv4Addr,
}

impl Negotiated {
    /// Seconds between keepalives: a third of the hold time, or less if configured. `None`: none are sent.
    pub fn keepalive_time(&self, configured: Option<u16>) -> Option<u16> {
        if self.hold_time == 0 {
            return None;
        }
        let third = (self.hold_time / 3).max(1);
        Some(configured.map_or(third, |configured| configured.clamp(1, third)))
    }

    /// Will the peer's routes of this family outlive the session? For so many seconds.
    pub fn restart_time(&self, family: Family) -> Option<u16> {
        let restart = self.restart.as_ref()?;
        let included = restart.families.iter().any(|&(of, _)| of == family);
        (included && restart.restart_time > 0).then_some(restart.restart_time)
    }

    pub fn long_lived(&self, family: Family) -> Option<LongLived> {
        self.long_lived.iter().copied().find(|of| of.family == family)
    }

    /// Does the peer say that it still forwards for this family (the F bit)?
    pub fn preserved(&self, family: Family) -> bool {
        self.restart.as_ref().is_some_and(|restart| restart.families.contains(&(family, true)))
    }

    fn add_path_view(&self, family: Family) -> Option<AddPathView> {
        let AddPathUse { send, receive } = self.add_path[family];
        (send || receive).then_some(AddPathView { family, send, receive })
    }

    pub fn view(&self, keepalive: Option<u16>) -> NegotiatedView {
        NegotiatedView {
            families: self.families.clone(),
            hold_time: self.hold_time,
            keepalive_time: self.keepalive_time(keepalive).unwrap_or(0),
            four_octet_as: self.four_octet,
            route_refresh: self.route_refresh,
            enhanced_refresh: self.enhanced_refresh,
            extended_messages: self.extended_messages,
            extended_next_hop: self.extended_next_hop,
            role: self.role,
            add_path: self.families.iter().filter_map(|&family| self.add_path_view(family)).collect(),
            graceful_restart: self.restart.as_ref().map(|restart| GracefulRestartView {
                restarting: restart.restarting,
                notifications: restart.notifications,
                restart_time: restart.restart_time,
                preserved: restart.families.iter().filter(|(_, f)| *f).map(|&(family, _)| family).collect(),
                families: restart.families.iter().map(|&(family, _)| family).collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(local_as: u32, remote_as: u32) -> Ours {
        let config = Config::new(Asn::new(local_as).unwrap(), Ipv4Addr::new(10, 0, 0, 1));
        let peer = PeerConfig::new("10.0.0.2".parse().unwrap(), Asn::new(remote_as).unwrap());
        Ours::new(&config, &peer)
    }

    fn theirs(change: impl FnOnce(&mut Open)) -> Open {
        let mut open = ours(64512, 64512).open(false, false);
        open.identifier = Ipv4Addr::new(10, 0, 0, 2);
        change(&mut open);
        open
    }

    fn refusal(ours: &Ours, theirs: &Open) -> (u8, u8) {
        let error = ours.negotiate(theirs).unwrap_err();
        (error.code, error.subcode)
    }

    /// Behaviours 17 and 18.
    #[test]
    fn a_wrong_as_and_a_wrong_identifier_are_refused() {
        let ibgp = ours(64512, 64512);
        assert!(ibgp.negotiate(&theirs(|_| ())).is_ok());
        assert_eq!(refusal(&ours(64512, 64513), &theirs(|_| ())), (2, 2));
        assert_eq!(refusal(&ibgp, &theirs(|o| o.my_as = 0)), (2, 2));
        assert_eq!(refusal(&ibgp, &theirs(|o| o.identifier = Ipv4Addr::UNSPECIFIED)), (2, 3));
        let same_id = |o: &mut Open| o.identifier = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!(refusal(&ibgp, &theirs(same_id)), (2, 3));
        assert!(ours(64513, 64512).negotiate(&theirs(same_id)).is_ok());
        assert!(ibgp.negotiate(&theirs(|o| o.identifier = Ipv4Addr::new(224, 0, 0, 1))).is_ok());
    }

    /// Behaviour 11.
    #[test]
    fn the_lesser_hold_time_counts_and_1_and_2_are_refused() {
        let ibgp = ours(64512, 64512);
        for bad in [1, 2] {
            assert_eq!(refusal(&ibgp, &theirs(|o| o.hold_time = bad)), (2, 6));
        }
        let three = ibgp.negotiate(&theirs(|o| o.hold_time = 3)).unwrap();
        assert_eq!((three.hold_time, three.keepalive_time(None)), (3, Some(1)));
        let none = ibgp.negotiate(&theirs(|o| o.hold_time = 0)).unwrap();
        assert_eq!((none.hold_time, none.keepalive_time(Some(5))), (0, None));
        let long = ibgp.negotiate(&theirs(|o| o.hold_time = 240)).unwrap();
        assert_eq!(
            (long.hold_time, long.keepalive_time(None), long.keepalive_time(Some(5))),
            (90, Some(30), Some(5))
        );
    }

    /// RFC 7911 §5: a direction is used if one side offers to send and the other to receive.
    #[test]
    fn several_paths_go_where_one_side_sends_and_the_other_receives() {
        let bits = |bits: u8| AddPathUse { receive: bits & 1 != 0, send: bits & 2 != 0 };
        for (mine, offered, expected) in [
            (0, 3, 0),
            (1, 1, 0),
            (2, 2, 0),
            (1, 2, 1),
            (2, 1, 2),
            (3, 1, 2),
            (3, 2, 1),
            (3, 3, 3),
            (3, 0, 0),
        ] {
            let mut ours = ours(64512, 64512);
            ours.add_path = bits(mine);
            let offer = AddPathUse { ..bits(offered) };
            let offer =
                AddPathOffer { family: Family::Ipv6Unicast, receive: offer.receive, send: offer.send };
            let agreed = ours.negotiate(&theirs(|open| open.capabilities.add_path = vec![offer])).unwrap();
            assert_eq!(agreed.add_path[Family::Ipv6Unicast], bits(expected), "{mine} {offered}");
            assert_eq!(agreed.add_path[Family::Ipv4Unicast], AddPathUse::default());
        }
    }

    /// RFC 9234 §4.2.
    #[test]
    fn roles_that_do_not_fit_are_refused_and_a_missing_one_where_that_is_wanted() {
        let with = |role, strict_role| Ours { role, strict_role, ..ours(64513, 64512) };
        let saying = |role| theirs(|o| o.capabilities.role = role);
        let all = [Role::Provider, Role::RouteServer, Role::RouteServerClient, Role::Customer, Role::Peer];
        for ours in all {
            for theirs in all {
                let answer = with(Some(ours), true).negotiate(&saying(OfferedRole::One(theirs as u8)));
                if [(0, 3), (3, 0), (1, 2), (2, 1), (4, 4)].contains(&(ours as u8, theirs as u8)) {
                    assert_eq!(answer.unwrap().role, Some(theirs));
                } else {
                    let error = answer.unwrap_err();
                    assert_eq!((error.code, error.subcode), (2, 11), "{ours:?} {theirs:?}");
                }
            }
            assert_eq!(refusal(&with(Some(ours), false), &saying(OfferedRole::One(5))), (2, 11));
        }
        assert_eq!(refusal(&with(None, false), &saying(OfferedRole::Contradictory)), (2, 11));
        assert_eq!(refusal(&with(Some(Role::Peer), true), &saying(OfferedRole::None)), (2, 11));
        assert_eq!(with(Some(Role::Peer), false).negotiate(&saying(OfferedRole::None)).unwrap().role, None);
        assert_eq!(with(None, true).role_of(&saying(OfferedRole::One(77))).unwrap(), None);
    }

    /// RFC 9234 §4: roles are between ASes, and each is in the OPEN once.
    #[test]
    fn a_role_is_said_to_another_as_alone() {
        for (remote_as, expected) in [(64512, OfferedRole::None), (64513, OfferedRole::One(0))] {
            let config = Config::new(Asn::CALICO_DEFAULT, Ipv4Addr::new(10, 0, 0, 1));
            let mut peer = PeerConfig::new("10.0.0.2".parse().unwrap(), Asn::new(remote_as).unwrap());
            (peer.role, peer.strict_role) = (Some(Role::Provider), true);
            let ours = Ours::new(&config, &peer);
            assert_eq!(ours.open(false, false).capabilities.role, expected);
            assert_eq!(ours.strict_role, remote_as == 64513);
        }
        let ibgp = ours(64512, 64512);
        assert!(ibgp.negotiate(&theirs(|o| o.capabilities.role = OfferedRole::Contradictory)).is_ok());
    }

    /// Behaviour 22.
    #[test]
    fn families_are_the_common_ones_and_without_any_there_is_no_session() {
        let ibgp = ours(64512, 64512);
        let v4 = ibgp.negotiate(&theirs(|o| o.capabilities.families = vec![Family::Ipv4Unicast])).unwrap();
        assert_eq!(v4.families, [Family::Ipv4Unicast]);
        assert_eq!(refusal(&ibgp, &theirs(|o| o.capabilities.families = vec![])), (2, 7));
    }
}
