//! The sink as the daemon drives it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use manx_abi::{ABI_VERSION, Program, Tally};
use manx_net::Prefix;

use super::{
    Applied, Attachment, Counters, Error, Guard, InterfaceSettings, KeepAlive, Mode, Opened, Options,
    PoolNotIndexed, PoolSpec, Refusal, Status, XdpState,
    foreign::{self, Neighbours},
    held::Held,
    interface::{self, Interface},
    kfunc::{self, ModuleAsked},
    link_state::{self, LinkState},
    links::Programs,
    load,
    maps::{Handles, Maps},
    pins::{Pins, Restored},
    places::Places,
    pools,
    reader::Reader,
    settings,
    status::InterfaceCounts,
    take_off::Hold,
};
use crate::route::{Action, Mac, NextHop, Route};

/// An agent that has not been heard of for so long is dead or stopped.
pub const PULSE_LIMIT: Duration = Duration::from_secs(3);

/// To load the programs takes some 100 ms of the loop's time.
const ASKED_AGAIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct EbpfSink {
    pub(super) pins: Pins,
    /// A second hold on the pinned maps, to pin them again.
    pub(super) handles: Handles,
    pub(super) programs: Programs,
    pub(super) maps: Maps,
    pub(super) held: Held,
    pub(super) places: Places,
    pub(super) guard: Guard,
    /// A module that comes later may give the programs the guard.
    pub(super) module: ModuleAsked,
    pub(super) interfaces: BTreeMap<u32, Interface>,
    /// Of those that have a program of ours.
    pub(super) neighbours: BTreeMap<u32, Neighbours>,
    pub(super) attachments: BTreeMap<(u32, &'static str), Attachment>,
    pub(super) not_indexed: Vec<PoolNotIndexed>,
    /// Nobody else takes the programs off meanwhile.
    pub(super) hold: Option<Hold>,
}

impl EbpfSink {
    /// Loads the programs and takes over what an earlier run pinned, in this thread's network namespace. No link
    /// gets the new program before [`Self::attach_pod`] and [`Self::attach_uplink`], so maps that had to be made
    /// anew can be filled first; until then the old programs run on the old maps. Heavy (some 60 ms, and a
    /// transient heap of tens of MB, which is given back): call it before threads start.
    pub fn open(options: &Options) -> Result<(EbpfSink, Opened), Error> {
        load::open(options)
    }

    /// The host side of a pod's veth. Idempotent: call it again when the interface changed (MAC, up, its peer
    /// moved), or to make sure that the program is still there.
    pub fn attach_pod(&mut self, ifindex: u32) -> Result<(), Error> {
        let interface = self.look_at(ifindex)?;
        self.see_neighbours(ifindex, Program::PodTc, &foreign::all_filters()?)?;
        self.enter(&interface)?;
        self.programs.attach_tc(&self.pins, Program::PodTc, &interface)?;
        self.note(ifindex, Program::PodTc, None);
        Ok(())
    }

    /// An uplink: `uplink_tc`, and `uplink_xdp` where the driver has native XDP; the attachment says why not.
    /// Idempotent, as [`Self::attach_pod`].
    pub fn attach_uplink(&mut self, ifindex: u32) -> Result<Attachment, Error> {
        let interface = self.look_at(ifindex)?;
        if interface.mac.is_none() {
            return Err(Error::NotEthernet { ifindex });
        }
        self.see_neighbours(ifindex, Program::UplinkTc, &foreign::all_filters()?)?;
        // Without its own MAC in the map the program takes every frame for another's.
        self.enter(&interface)?;
        // TC drops what XDP does not; its failure must not cost both.
        let xdp = self
            .programs
            .attach_xdp(&self.pins, &interface)
            .unwrap_or_else(|error| XdpState::Absent(error.to_string()));
        self.programs.attach_tc(&self.pins, Program::UplinkTc, &interface)?;
        Ok(self.note(ifindex, Program::UplinkTc, Some(xdp)))
    }

    fn enter(&mut self, interface: &Interface) -> Result<(), Error> {
        let Mac(mac) = interface.mac.unwrap_or(Mac([0; 6]));
        self.places.enter(&self.maps, interface.ifindex, mac, Instant::now())
    }

    /// What an earlier call pinned and somebody has removed since. Maps are pinned again; links are not, for they
    /// went with their pins: attach to those interfaces again.
    pub fn restore_pins(&mut self) -> Result<Restored, Error> {
        let links = self.pinned_links();
        let moved = self.follow_filesystem(&links)?;
        let mut restored = self.pins.restore(&self.handles)?;
        if moved {
            restored = Restored { moved: Some(self.pins.root().to_owned()), ..Restored::default() };
        }
        let paths = links.iter().map(|(program, ifindex)| self.pins.link(*program, *ifindex));
        restored.removed.extend(paths.filter(|path| !path.exists()));
        Ok(restored)
    }

    /// Where somebody unmounted the BPF filesystem the links live on in it, out of reach for everybody else, as long as it
    /// is held: they are pinned in the one that is there now, which is mounted where none is. True if there were any.
    fn follow_filesystem(&mut self, links: &[(Program, u32)]) -> Result<bool, Error> {
        let root = self.pins.root().to_owned();
        let Some(hold) = self.hold.take_if(|hold| hold.has_lost(&root)) else { return Ok(false) };
        let moved = Pins::prepare(&root).and_then(|pins| pins.move_links(&hold, links));
        // As long as something is only there the old one has to stay.
        self.hold = if moved.is_ok() { Hold::take(&root) } else { Some(hold) };
        moved
    }

    fn pinned_links(&self) -> Vec<(Program, u32)> {
        let attachments = self.attachments.iter();
        let programs = attachments.flat_map(|((ifindex, _), attachment)| {
            let programs = match &attachment.xdp {
                None => &[Program::PodTc][..],
                Some(XdpState::Native) => &[Program::UplinkTc, Program::UplinkXdp],
                Some(XdpState::Absent(_)) => &[Program::UplinkTc],
            };
            programs.iter().map(|program| (*program, *ifindex))
        });
        programs.collect()
    }

    /// Every link that should be there, as the kernel has it now. A few system calls for each.
    pub fn links(&self) -> Vec<LinkState> {
        let mut found = Vec::new();
        for ((ifindex, _), attachment) in self.attachments.iter().filter(|(_, found)| found.claimed) {
            let programs = match &attachment.xdp {
                None => &[Program::PodTc][..],
                Some(XdpState::Native) => &[Program::UplinkTc, Program::UplinkXdp],
                Some(XdpState::Absent(_)) => &[Program::UplinkTc],
            };
            for program in programs {
                let pin = self.pins.link(*program, *ifindex);
                let seen = match link_state::look(&pin) {
                    Ok(seen) => seen,
                    Err(error) => {
                        tracing::warn!("cannot look at {}: {error}", pin.display());
                        continue;
                    }
                };
                found.push(LinkState {
                    program: program.name(),
                    ifindex: *ifindex,
                    pin,
                    link_id: seen.map_or(0, |seen| seen.link_id),
                    program_id: seen.map_or(0, |seen| seen.program_id),
                    condition: link_state::judge(seen, self.programs.id(*program)),
                });
            }
        }
        found
    }

    /// Takes the programs off an interface, or forgets one that is gone. Not attached is not an error.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), Error> {
        for program in Program::ALL {
            Programs::detach(&self.pins, program, ifindex)?;
        }
        self.leave(ifindex)?;
        self.interfaces.remove(&ifindex);
        self.neighbours.remove(&ifindex);
        self.attachments.retain(|(attached, _), _| *attached != ifindex);
        Ok(())
    }

    fn leave(&mut self, ifindex: u32) -> Result<(), Error> {
        let was_pod = self.attachments.contains_key(&(ifindex, Program::PodTc.name()));
        self.places.leave(&self.maps, ifindex, was_pod, Instant::now())
    }

    /// Detaches every interface of an earlier run that was not attached again since [`Self::open`], and removes the
    /// maps of older ABIs, which no program uses then.
    pub fn detach_unclaimed(&mut self) -> Result<Vec<u32>, Error> {
        let unclaimed = self.attachments.iter().filter(|(_, attachment)| !attachment.claimed);
        let unclaimed: Vec<(u32, &'static str)> = unclaimed.map(|(key, _)| *key).collect();
        for (ifindex, name) in &unclaimed {
            // An interface may have been a pod's and be an uplink now: only what was not asked for goes.
            for program in Program::ALL {
                let goes = match program {
                    Program::UplinkXdp => *name == Program::UplinkTc.name(),
                    program => program.name() == *name,
                };
                if goes {
                    Programs::detach(&self.pins, program, *ifindex)?;
                }
            }
            let others = self.attachments.keys().filter(|(other, _)| other == ifindex).count();
            if others == 1 {
                self.leave(*ifindex)?;
            }
            self.attachments.remove(&(*ifindex, *name));
        }
        // Entries whose interface went while no agent was there.
        let attached: BTreeSet<u32> = self.attachments.keys().map(|(ifindex, _)| *ifindex).collect();
        let left: Vec<u32> = self.places.interfaces().filter(|ifindex| !attached.contains(ifindex)).collect();
        for ifindex in left {
            self.leave(ifindex)?;
        }
        self.pins.remove_older()?;
        let interfaces: BTreeSet<u32> = unclaimed.into_iter().map(|(ifindex, _)| ifindex).collect();
        Ok(interfaces.into_iter().collect())
    }

    /// Writes, then removes; the order within is the sink's business: the more specific goes in before, and leaves
    /// after, what surrounds it. Single routes that the map cannot take are in [`Applied::refused`], and their
    /// packets go through the stack. For every packet a change is atomic: it gets the old answer or the new one.
    pub fn apply(&mut self, upserts: &[Route], removals: &[Prefix]) -> Result<Applied, Error> {
        let interfaces = &mut self.interfaces;
        let mut missing = BTreeSet::new();
        let find = |ifindex| interface::find(ifindex).ok().flatten();
        let mut interface = |ifindex| known(interfaces, &mut missing, ifindex, find);
        self.held.apply(&self.maps, upserts, removals, &mut interface)
    }

    /// Routes that the maps could not take so far, and why.
    pub fn refused(&self) -> impl Iterator<Item = (Prefix, &Refusal)> {
        self.held.refused()
    }

    /// Why the maps could not take this route.
    pub fn refusal(&self, prefix: Prefix) -> Option<&Refusal> {
        self.held.refusal(prefix)
    }

    /// These pools and no others, with their modes. Addresses of a pool that cannot be indexed are looked up in the
    /// tries; those are in the answer, and in [`Self::status`].
    pub fn set_pools(&mut self, specs: &[PoolSpec]) -> Result<Vec<PoolNotIndexed>, Error> {
        let now = Instant::now();
        let held = &mut self.held;
        let (cuts, mut not_indexed) = held.pools.set(specs);
        let modes = held.pools.modes(specs);
        // What is not shown yet has its mode before it is; what goes keeps it until it has gone. A number may pass from
        // one pool to another, whose packets find it at any moment of this: meanwhile it has the lower mode of both.
        pools::write_modes(&self.maps, pools::meanwhile(&pools::modes(&self.maps), &modes));
        let marked = held.mark_pools(&self.maps);
        held.count_outside();
        held.outside.write(&self.maps);
        marked?;
        let stay = held.index.staying(&cuts);
        held.index.set_pools(&stay, &held.entries, now);
        held.count_outside();
        // Addresses of a pool that goes, or is cut in another way, are the tries' from the moment of the change.
        held.outside.write(&self.maps);
        held.flush(&self.maps, now)?;
        let refused = held.index.set_pools(&cuts, &held.entries, now);
        held.flush(&self.maps, now)?;
        held.count_outside();
        held.outside.write(&self.maps);
        pools::write_modes(&self.maps, pools::all(&modes));
        for (cut, reason) in refused {
            let spec = specs.iter().find(|spec| spec.prefix == cut.prefix);
            not_indexed.extend(spec.map(|spec| spec.not_indexed(reason)));
        }
        self.not_indexed.clone_from(&not_indexed);
        Ok(not_indexed)
    }

    /// All neighbours that do not answer, next hops or not: what goes there is the stack's until they do. The next hops
    /// for which this changed, and whether they are silent now.
    pub fn set_silent(&mut self, silent: &BTreeSet<NextHop>) -> Result<Vec<(NextHop, bool)>, Error> {
        let changed = self.held.groups.set_silent(silent.clone());
        self.maps.execute(&self.held.groups.take_writes())?;
        Ok(changed)
    }

    /// Next hops in use that were said not to answer.
    pub fn silent_next_hops(&self) -> BTreeSet<NextHop> {
        let groups = &self.held.groups;
        groups.next_hops().map(|(_, hop)| hop).filter(|hop| groups.silent().contains(hop)).collect()
    }

    /// Whether this neighbour was said not to answer.
    pub fn is_silent(&self, hop: &NextHop) -> bool {
        self.held.groups.silent().contains(hop)
    }

    /// Makes the maps hold exactly these routes, whatever somebody else did to them: they are read back first, and
    /// what is right already is not written. What was written or removed is in the answer.
    pub fn reconcile(&mut self, desired: &[Route]) -> Result<Applied, Error> {
        let repaired = self.repair()?;
        let pools = self.held.pools.clone();
        let read = Held::read(&self.maps, Some(pools), false, Instant::now())?;
        let before = std::mem::replace(&mut self.held, read);
        // What was told of them is no news because everything is read anew.
        self.held.tried = before.refused().map(|(prefix, _)| prefix).collect();
        self.held.counters.remember(before.counters);
        self.held.groups.set_silent(before.groups.silent().clone());
        let wanted: BTreeSet<Prefix> = desired.iter().map(|route| route.prefix).collect();
        let removals: Vec<Prefix> = self.held.prefixes().filter(|prefix| !wanted.contains(prefix)).collect();
        let strangers = std::mem::take(&mut self.held.strangers);
        let strangers: Vec<Prefix> =
            strangers.into_iter().filter(|prefix| !wanted.contains(prefix)).collect();
        self.maps.remove_routes(&strangers)?;
        let mut applied = self.apply(desired, &removals)?;
        applied.removed += strangers.len();
        applied.repaired = repaired;
        Ok(applied)
    }

    /// What the kernel's tries hold, read back; an entry that means nothing is shown as what the programs make of it,
    /// `Pass`. Compare with [`Self::expected`], and see [`Self::faults`].
    pub fn dump(&self) -> Result<Vec<Route>, Error> {
        self.reader()?.dump()
    }

    /// Reads the maps beside this sink, from whatever thread.
    pub fn reader(&self) -> Result<Reader, Error> {
        Ok(Reader { maps: Maps::open(&self.handles)? })
    }

    /// A desired route as [`Self::dump`] should show it: as [`super::held_as`] says; without a pod's MAC where its
    /// interface is gone or no veth into another namespace; and `Pass` where it, or a more specific route, could
    /// not be written (then the next [`Self::apply`] that makes room writes it). A refused route without an older
    /// entry is not in the dump at all.
    pub fn expected(&self, route: &Route) -> Route {
        let interface = match route.action {
            Action::Local { ifindex, .. } => self.interfaces.get(&ifindex),
            _ => None,
        };
        self.held.expected(route, interface)
    }

    /// Of the node as a whole, from the next packet on. [`Mode::Off`] when the maps are new; else as the last run
    /// left it.
    pub fn set_whole_mode(&mut self, mode: Mode) {
        settings::set_mode(&self.maps, mode);
    }

    /// What an interface has of its own, from the next packet on; also before it is attached, and until it is
    /// detached.
    pub fn set_interface(&mut self, ifindex: u32, settings: InterfaceSettings) {
        self.places.set(&self.maps, ifindex, settings);
    }

    pub fn interface_settings(&self, ifindex: u32) -> InterfaceSettings {
        self.places.settings(ifindex)
    }

    /// How long conntrack keeps connections, for [`Mode::Guarded`].
    pub fn set_keep_alive(&mut self, keep_alive: KeepAlive) {
        settings::set_keep_alive(&self.maps, keep_alive);
    }

    /// Whether the programs may remember for a while that nobody has an address of an own block, as long as no route
    /// changes. They may where no rule chooses the table by a packet's source.
    pub fn set_vacancy(&mut self, may: bool) {
        settings::set_vacancy(&self.maps, may);
    }

    /// Tells the programs that an agent lives, so that they need not ask the kernel's FIB before each redirect whether
    /// a pod has come, gone or moved. Call it more often than every [`PULSE_LIMIT`]; where nobody ever did, they take
    /// the maps' word.
    pub fn pulse(&mut self) -> Result<(), Error> {
        let pulse = self.programs.pulse()?;
        settings::set_pulse(&self.maps, pulse, PULSE_LIMIT);
        Ok(())
    }

    /// Whether [`Mode::Guarded`] can be had; where it cannot, it means that the stack carries the packets.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Where conntrack was not there when the programs were loaded and is now, they are loaded anew with the guard, and
    /// put into the links in the place of the old ones: no packet finds a hook empty. True if that was done. While
    /// conntrack is not there it costs a look at a file; where no program could be loaded it is done again a little later.
    pub fn take_up_guard(&mut self) -> Result<bool, Error> {
        self.take_up(kfunc::has_conntrack_module(), kfunc::resolve, Instant::now())
    }

    pub(super) fn take_up(
        &mut self,
        has_module: bool,
        resolve: load::Resolve,
        now: Instant,
    ) -> Result<bool, Error> {
        if self.guard.is_available() {
            return Ok(false);
        }
        if !has_module {
            self.module = ModuleAsked::NotYet;
            return Ok(false);
        }
        match self.module {
            ModuleAsked::NotYet => {}
            ModuleAsked::Failed(at) if now.saturating_duration_since(at) >= ASKED_AGAIN => {}
            ModuleAsked::Failed(_) | ModuleAsked::Answered => return Ok(false),
        }
        let loaded = load::programs(&self.pins, &self.handles, resolve);
        load::give_back_heap();
        let (programs, guard) = loaded.inspect_err(|error| {
            self.module = ModuleAsked::Failed(now);
            self.guard = Guard::Absent(format!("the programs do not load anew: {error}"));
        })?;
        self.module = ModuleAsked::Answered;
        self.guard = guard;
        if !self.guard.is_available() {
            return Ok(false);
        }
        self.programs = programs;
        let claimed = self.attachments.iter().filter(|(_, attachment)| attachment.claimed);
        let attached: Vec<(u32, &'static str)> = claimed.map(|(key, _)| *key).collect();
        for (ifindex, program) in attached {
            let done = if program == Program::PodTc.name() {
                self.attach_pod(ifindex)
            } else {
                self.attach_uplink(ifindex).map(drop)
            };
            match done {
                // It went, and its news is on the way.
                Ok(()) | Err(Error::NoInterface { .. }) => {}
                Err(error) => tracing::warn!("the programs without the guard stay: {error}"),
            }
        }
        Ok(true)
    }

    /// Packets by program, interface and verdict.
    pub fn counters(&self) -> Result<Counters, Error> {
        let (others, gone_pods) = self.places.others(&self.maps)?;
        let mut counters = Counters::default();
        counters.add(Program::UplinkTc, &others);
        counters.pod_tc = gone_pods;
        for (ifindex, hooks) in self.places.counts(&self.maps)? {
            let is_pod = self.attachments.contains_key(&(ifindex, Program::PodTc.name()));
            let program = if is_pod { Program::PodTc } else { Program::UplinkTc };
            counters.add(program, &hooks);
            counters.interfaces.insert(ifindex, InterfaceCounts { program, hooks });
        }
        Ok(counters)
    }

    /// Packets and octets to each prefix that has a counter, since it got it. `None` is for all others together.
    pub fn prefix_counts(&self) -> Result<Vec<(Option<Prefix>, Tally)>, Error> {
        let tallies = self.maps.tallies(manx_abi::map::PREFIX_COUNTS)?;
        let of = |id: u32| tallies.get(&id).copied().unwrap_or_default();
        let mut counts: Vec<_> =
            self.held.counters.live().map(|(id, prefix)| (Some(prefix), of(id))).collect();
        counts.sort_unstable_by_key(|(prefix, _)| *prefix);
        counts.push((None, of(0)));
        Ok(counts)
    }

    /// The same for one prefix; `None` if it has no counter, or is not in the map.
    pub fn prefix_count(&self, prefix: Prefix) -> Result<Option<Tally>, Error> {
        match self.held.entries.get(prefix).map(|entry| entry.counter) {
            None | Some(0) => Ok(None),
            Some(id) => self.maps.tally(manx_abi::map::PREFIX_COUNTS, id).map(Some),
        }
    }

    /// Packets and octets to each next hop in use, since it came into use.
    pub fn next_hop_counts(&self) -> Result<Vec<(NextHop, Tally)>, Error> {
        let tallies = self.maps.tallies(manx_abi::map::HOP_COUNTS)?;
        let mut sums: BTreeMap<NextHop, Tally> = BTreeMap::new();
        for (id, hop) in self.held.groups.next_hops() {
            let (sum, tally) = (sums.entry(hop).or_default(), tallies.get(&id).copied().unwrap_or_default());
            sum.packets += tally.packets;
            sum.bytes += tally.bytes;
        }
        Ok(sums.into_iter().collect())
    }

    pub fn status(&self) -> Result<Status, Error> {
        let (routes4, routes6) = self.held.entries.counts();
        let (next_hops, _, groups) = self.held.groups.counts();
        Ok(Status {
            abi: ABI_VERSION,
            mode: settings::mode(&self.maps),
            routes4,
            routes6,
            capacity4: self.maps.capacity(manx_abi::map::ROUTES4)? as usize,
            capacity6: self.maps.capacity(manx_abi::map::ROUTES6)? as usize,
            next_hops,
            groups,
            endpoints: self.held.endpoints.len(),
            attachments: self.attachments.values().cloned().collect(),
            not_indexed: self.not_indexed.clone(),
            without_page: self.held.index.starved().len(),
            without_block6: self.held.index.lacking(),
        })
    }

    /// Reads the interface anew, and moves its pods' entries to what is so now.
    fn look_at(&mut self, ifindex: u32) -> Result<Interface, Error> {
        let found = interface::find(ifindex).map_err(|source| Error::Interfaces { source })?;
        let found = found.ok_or(Error::NoInterface { ifindex })?;
        if !found.is_ethernet {
            return Err(Error::NotEthernet { ifindex });
        }
        let before = self.interfaces.insert(ifindex, found.clone());
        if before.is_some_and(|before| before != found) {
            let routes = self.held.routes_to(ifindex);
            self.apply(&routes, &[])?;
        }
        Ok(found)
    }

    fn note(&mut self, ifindex: u32, program: Program, xdp: Option<XdpState>) -> Attachment {
        let attachment = Attachment { ifindex, program: program.name(), xdp, claimed: true };
        self.attachments.insert((ifindex, program.name()), attachment.clone());
        attachment
    }

    pub(super) fn find_links(&mut self) -> Result<(), Error> {
        let found = self.pins.found_links()?;
        let has_xdp = |ifindex| found.contains(&(Program::UplinkXdp, ifindex));
        for (program, ifindex) in found.iter().copied() {
            let (program, xdp) = match program {
                Program::PodTc => (program, None),
                Program::UplinkTc if !has_xdp(ifindex) => {
                    (program, Some(XdpState::Absent("not tried yet in this run".into())))
                }
                // A link that only XDP has is listed with the uplink's, so that it is found and removed too.
                Program::UplinkTc | Program::UplinkXdp => (Program::UplinkTc, Some(XdpState::Native)),
            };
            let attachment = Attachment { ifindex, program: program.name(), xdp, claimed: false };
            self.attachments.insert((ifindex, program.name()), attachment);
        }
        // Before anybody says how far they go.
        self.see_all_neighbours(&foreign::all_filters()?)
    }
}

/// What is known of a pod's interface; asked of the kernel the first time. What cannot be read is as good as gone, and
/// is not asked for again by the same change.
fn known(
    interfaces: &mut BTreeMap<u32, Interface>,
    missing: &mut BTreeSet<u32>,
    ifindex: u32,
    find: impl FnOnce(u32) -> Option<Interface>,
) -> Option<Interface> {
    if let Some(known) = interfaces.get(&ifindex) {
        return Some(known.clone());
    }
    if missing.contains(&ifindex) {
        return None;
    }
    let Some(found) = find(ifindex) else {
        missing.insert(ifindex);
        return None;
    };
    interfaces.insert(ifindex, found.clone());
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_asked_for_once_in_a_change() {
        let (mut interfaces, mut missing, mut asked) = (BTreeMap::new(), BTreeSet::new(), 0);
        for _ in 0..1000 {
            let find = |_| {
                asked += 1;
                None
            };
            assert_eq!(known(&mut interfaces, &mut missing, 7, find), None);
        }
        assert_eq!(asked, 1);
    }
}
