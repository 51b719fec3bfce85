//! Other people's programs and filters on an interface's TC hooks. A packet that ours carries from the hook it came in by
//! meets none of those that stand behind ours there, and one that is put straight into a pod none of those by which
//! the pod's host-side interface sends. TCX programs come without an event, so they are looked for.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, FromRawFd, OwnedFd, RawFd},
};

use manx_abi::Program;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::{
    EbpfSink, Error,
    interface::{self, Interface},
    link_state, syscall,
};
use crate::netfilter::netlink::{Attributes, Requests};

/// `enum bpf_cmd` of `<linux/bpf.h>`.
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;

/// More the kernel attaches to no hook (`BPF_MPROG_MAX`).
const MOST: usize = 64;

/// Numbers of `<linux/rtnetlink.h>` and `<linux/pkt_sched.h>`.
mod tc {
    pub const GET_QDISC: u16 = 38;
    pub const GET_FILTER: u16 = 46;
    /// `struct tcmsg`: family, interface, handle, parent, and `info`, which has a filter's preference in its upper half.
    pub const HEADER: usize = 20;
    pub const INDEX: usize = 4;
    pub const PARENT: usize = 12;
    pub const INFO: usize = 16;
    pub const KIND: u16 = 1;
    pub const INGRESS: u32 = 0xffff_fff2;
    pub const EGRESS: u32 = 0xffff_fff3;
}

/// A TC hook of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Ingress,
    Egress,
}

impl Hook {
    /// `enum bpf_attach_type`: BPF_TCX_INGRESS, BPF_TCX_EGRESS.
    fn tcx(self) -> u32 {
        match self {
            Hook::Ingress => 46,
            Hook::Egress => 47,
        }
    }
}

/// The members of `union bpf_attr` for `BPF_PROG_QUERY`; unused ones are zero.
#[repr(C)]
#[derive(Default)]
struct Query {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    _hole: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The same for `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The head of `struct bpf_prog_info`; without room for them, the kernel gives no instructions and no maps.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; 16],
}

/// The numbers of the TCX programs of a hook, in their order. In this thread's network namespace; an interface that is
/// gone has none.
pub(super) fn programs(ifindex: u32, hook: Hook) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MOST];
    let mut query = Query {
        ifindex,
        attach_type: hook.tcx(),
        prog_ids: ids.as_mut_ptr() as u64,
        count: MOST as u32,
        ..Query::default()
    };
    // SAFETY: there is room for as many numbers as is said, and it outlives the call.
    match unsafe { syscall::bpf(BPF_PROG_QUERY, &mut query) } {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    Ok(ids.into_iter().take(query.count as usize).collect())
}

/// Such as `program count (TCX, id 17)`.
fn described(id: u32) -> String {
    let name = name(id).unwrap_or_default();
    let space = if name.is_empty() { "" } else { " " };
    format!("program{space}{name} (TCX, id {id})")
}

/// None if it has gone, or has none.
fn name(id: u32) -> Option<String> {
    let mut by_id = ById { id, ..ById::default() };
    // SAFETY: no pointers.
    let fd = unsafe { syscall::bpf(BPF_PROG_GET_FD_BY_ID, &mut by_id) }.ok()?;
    // SAFETY: the kernel has just given this descriptor to us, and to nobody else.
    let program = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let mut info = Info::default();
    // SAFETY: it is the head of the kernel's structure, of numbers, and what it could point to has no length.
    unsafe { syscall::describe(program.as_fd(), &mut info) }.ok()?;
    let name = info.name.split(|octet| *octet == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(name).into_owned())
}

/// The filters of an interface's `clsact` or `ingress` qdisc, each such as `tc filter (bpf, pref 49152)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filters {
    pub ingress: Vec<String>,
    pub egress: Vec<String>,
}

/// Of all interfaces that have some, in this thread's network namespace.
pub(super) fn filters() -> io::Result<BTreeMap<u32, Filters>> {
    let mut requests = Requests::open_for(NETLINK_ROUTE)?;
    let mut queues = Vec::new();
    requests.dump_for(tc::GET_QDISC, &[0; tc::HEADER], |body| queues.extend(queue(body)))?;
    let mut found = BTreeMap::new();
    for (ifindex, has_egress) in queues {
        let ingress = of_hook(&mut requests, ifindex, tc::INGRESS)?;
        // The `ingress` qdisc would answer with the same once more.
        let egress = if has_egress { of_hook(&mut requests, ifindex, tc::EGRESS)? } else { Vec::new() };
        if !ingress.is_empty() || !egress.is_empty() {
            found.insert(ifindex, Filters { ingress, egress });
        }
    }
    Ok(found)
}

fn of_hook(requests: &mut Requests, ifindex: u32, parent: u32) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    requests.dump_for(tc::GET_FILTER, &asked(ifindex, parent), |body| {
        if let Some(filter) = filter(body)
            && !found.contains(&filter)
        {
            found.push(filter);
        }
    })?;
    Ok(found)
}

fn asked(ifindex: u32, parent: u32) -> [u8; tc::HEADER] {
    let mut asked = [0; tc::HEADER];
    for (at, value) in [(tc::INDEX, ifindex), (tc::PARENT, parent)] {
        for (to, from) in asked.iter_mut().skip(at).zip(value.to_ne_bytes()) {
            *to = from;
        }
    }
    asked
}

fn number(body: &[u8], at: usize) -> Option<u32> {
    body.get(at..)?.first_chunk().map(|octets| u32::from_ne_bytes(*octets))
}

/// An interface with filters where packets come in, and whether also where they leave.
fn queue(body: &[u8]) -> Option<(u32, bool)> {
    let kind = Attributes(body.get(tc::HEADER..)?).text(tc::KIND);
    let has_egress = match kind.as_str() {
        "clsact" => true,
        "ingress" => false,
        _ => return None,
    };
    Some((number(body, tc::INDEX)?, has_egress))
}

/// One filter comes in several messages; they differ in nothing that is read here.
fn filter(body: &[u8]) -> Option<String> {
    let kind = Attributes(body.get(tc::HEADER..)?).text(tc::KIND);
    Some(format!("tc filter ({kind}, pref {})", number(body, tc::INFO)? >> 16))
}

/// What stands on the way in, around our program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Neighbours {
    pub before: Vec<String>,
    /// It would not see what ours carries.
    pub behind: Vec<String>,
}

/// `ours`: the number of our program, which comes last if it is not there yet. Filters come behind every program.
pub(super) fn around(ours: Option<u32>, programs: &[u32], filters: &[String]) -> Neighbours {
    let at = programs.iter().position(|id| Some(*id) == ours);
    let (before, behind) = programs.split_at(at.unwrap_or(programs.len()));
    let behind = behind.iter().filter(|id| Some(**id) != ours);
    Neighbours {
        before: before.iter().map(|id| described(*id)).collect(),
        behind: behind.map(|id| described(*id)).chain(filters.iter().cloned()).collect(),
    }
}

pub(super) fn all_filters() -> Result<BTreeMap<u32, Filters>, Error> {
    filters().map_err(|source| Error::Interfaces { source })
}

impl EbpfSink {
    /// Looks for qdiscs, filters and programs of others on the interfaces that have ours, of which no event of links tells.
    /// What comes by an interface where some stand behind ours is the stack's from here on. The pods' interfaces to which
    /// the way is not what it was: attach to them again. It costs three dumps, and a few system calls for each interface.
    pub fn look_around(&mut self) -> Result<Vec<u32>, Error> {
        let filters = all_filters()?;
        self.see_all_neighbours(&filters)?;
        let found = interface::all(&filters).map_err(|source| Error::Interfaces { source })?;
        let differs = |found: &Interface| {
            let known = self.interfaces.get(&found.ifindex).filter(|known| known.leads_elsewhere);
            known.is_some_and(|known| known.passes != found.passes)
        };
        Ok(found.iter().filter(|found| differs(found)).map(|found| found.ifindex).collect())
    }

    pub(super) fn see_all_neighbours(&mut self, filters: &BTreeMap<u32, Filters>) -> Result<(), Error> {
        let attached: Vec<(u32, String)> =
            self.attachments.keys().map(|(ifindex, name)| (*ifindex, (*name).to_owned())).collect();
        for (ifindex, name) in attached {
            let is_pod = name == Program::PodTc.name();
            self.see_neighbours(ifindex, if is_pod { Program::PodTc } else { Program::UplinkTc }, filters)?;
        }
        Ok(())
    }

    /// What stands around the program on the interface, also before it is there itself.
    pub(super) fn see_neighbours(
        &mut self,
        ifindex: u32,
        program: Program,
        filters: &BTreeMap<u32, Filters>,
    ) -> Result<(), Error> {
        let failed = |source| Error::Interfaces { source };
        let ours = link_state::look(&self.pins.link(program, ifindex)).map_err(failed)?;
        let others = programs(ifindex, Hook::Ingress).map_err(failed)?;
        let filters = filters.get(&ifindex).map_or(&[][..], |found| &found.ingress);
        let found = around(ours.map(|seen| seen.program_id), &others, filters);
        self.places.leave_to_stack(&self.maps, ifindex, !found.behind.is_empty());
        self.neighbours.insert(ifindex, found);
        Ok(())
    }

    /// What packets to a pod have to pass at its interface: "a qdisc (tbf)", or others' programs. They are the stack's: a
    /// redirect would pass it by.
    pub fn passes(&self, ifindex: u32) -> Option<&str> {
        self.interfaces.get(&ifindex).filter(|known| known.leads_elsewhere)?.passes.as_deref()
    }

    /// Programs and filters of others that stand behind ours where packets come in. What comes by the interface is the
    /// stack's for their sake.
    pub fn behind(&self, ifindex: u32) -> &[String] {
        self.neighbours.get(&ifindex).map_or(&[], |found| &found.behind)
    }

    /// Those that stand before ours. They see everything, and may set marks.
    pub fn before(&self, ifindex: u32) -> &[String] {
        self.neighbours.get(&ifindex).map_or(&[], |found| &found.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that no program has, so that they have no name.
    const NOBODY: [u32; 3] = [u32::MAX - 3, u32::MAX - 2, u32::MAX - 1];

    #[test]
    fn what_stands_behind_ours_is_told_from_what_stands_before() {
        let [first, ours, last] = NOBODY;
        let words = |id: u32| format!("program (TCX, id {id})");
        let filters = ["tc filter (bpf, pref 1)".to_owned()];
        let found = around(Some(ours), &NOBODY, &filters);
        assert_eq!(found.before, [words(first)]);
        assert_eq!(found.behind, [words(last), filters[0].clone()]);
        let not_there_yet = around(Some(ours), &[first, last], &filters);
        assert_eq!(not_there_yet.before, [words(first), words(last)]);
        assert_eq!(not_there_yet.behind, filters);
        assert_eq!(around(Some(ours), &[ours], &[]), Neighbours::default());
    }

    #[test]
    fn messages_that_are_cut_short_name_nothing() {
        let mut body = asked(7, tc::EGRESS).to_vec();
        body.splice(tc::INFO..tc::HEADER, (3u32 << 16 | 8).to_ne_bytes());
        for end in 0..body.len() {
            assert_eq!((queue(&body[..end]), filter(&body[..end])), (None, None));
        }
        assert_eq!(queue(&body), None);
        body.extend([11, 0, 1, 0]);
        body.extend(b"clsact\0\0");
        assert_eq!(queue(&body), Some((7, true)));
        assert_eq!(filter(&body).as_deref(), Some("tc filter (clsact, pref 3)"));
    }
}
