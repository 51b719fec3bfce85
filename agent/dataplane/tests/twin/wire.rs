//! The far end of an interface: frames in and out as they are on the wire.

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

/// The largest frame that the lab sends or receives: several packets in one.
const LARGEST: usize = 70_000;

/// `struct virtio_net_hdr`.
const OFFLOAD: usize = 10;

/// What stands beside the octets of a frame: which checksum is still to be worked out, and where the frame is several
/// packets in one. Offsets are from the frame's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offload {
    /// `VIRTIO_NET_HDR_F_*`.
    flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    kind: u8,
    /// Payload of each packet; 0: it is one.
    size: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

const NEEDS_CHECKSUM: u8 = 1;
const CHECKSUM_VERIFIED: u8 = 2;
const TCPV4: u8 = 1;
const TCPV6: u8 = 4;
/// The first packet has the congestion window reduced bit, and the others must not (RFC 3168 §6.1.2).
const ECN: u8 = 0x80;

impl Offload {
    /// Of a TCP packet whose header is at `transport`, with `size` octets in each of the packets that it is to be
    /// (0: it is one).
    pub fn tcp(v4: bool, transport: usize, size: u16, reduced: bool) -> Offload {
        let kind = match (size, v4) {
            (0, _) => 0,
            (_, true) => TCPV4,
            (_, false) => TCPV6,
        };
        Offload {
            flags: NEEDS_CHECKSUM,
            kind: if reduced && size > 0 { kind | ECN } else { kind },
            size,
            checksum_start: transport as u16,
            checksum_offset: 16,
        }
    }

    /// As [`Offload::tcp`], of one UDP packet.
    pub fn udp(transport: usize) -> Offload {
        Offload {
            flags: NEEDS_CHECKSUM,
            checksum_start: transport as u16,
            checksum_offset: 6,
            ..Offload::default()
        }
    }

    /// Without the word that somebody has looked at the checksum.
    pub fn unverified(self) -> Offload {
        Offload { flags: self.flags & !CHECKSUM_VERIFIED, ..self }
    }

    pub fn is_several(&self) -> bool {
        self.size > 0
    }

    /// The length of the headers is left out: it only says how much of the packet should lie in one piece.
    fn octets(self) -> [u8; OFFLOAD] {
        let [size, start, offset] =
            [self.size, self.checksum_start, self.checksum_offset].map(u16::to_ne_bytes);
        let length = if self.size == 0 { 0 } else { self.checksum_start + 20 }.to_ne_bytes();
        let [a, b, c, d, e, f, g, h] = [length, size, start, offset].concat().try_into().expect("eight");
        [self.flags, self.kind, a, b, c, d, e, f, g, h]
    }

    fn read(octets: [u8; OFFLOAD]) -> Offload {
        let [flags, kind, _, _, rest @ ..] = octets;
        let [a, b, c, d, e, f] = rest;
        let [size, checksum_start, checksum_offset] = [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes);
        Offload { flags, kind, size, checksum_start, checksum_offset }
    }
}

#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    buffer: Box<[u8; LARGEST]>,
    outgoing: bool,
    /// When the frame passed that was received last, since the epoch.
    pub time: Duration,
}

impl Tap {
    /// What comes in by the interface `ifindex` of this thread's namespace. It may be used from any thread afterwards.
    pub fn open(ifindex: u32) -> io::Result<Tap> {
        Tap::of(ifindex, false)
    }

    /// What the namespace itself sends out of the interface.
    pub fn of_outgoing(ifindex: u32) -> io::Result<Tap> {
        Tap::of(ifindex, true)
    }

    fn of(ifindex: u32, outgoing: bool) -> io::Result<Tap> {
        let every = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers are passed.
        let socket = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                i32::from(every),
            )
        };
        checked(socket)?;
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        // SAFETY: a structure of numbers, for which zero is "not given".
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every;
        address.sll_ifindex = ifindex as i32;
        // SAFETY: the structure lives on this stack and its size is given.
        checked(unsafe {
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32)
        })?;
        let tap = Tap { socket, buffer: Box::new([0; LARGEST]), outgoing, time: Duration::ZERO };
        tap.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, i32::from(!outgoing))?;
        tap.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        tap.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        tap.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        tap.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
        // What came by other interfaces before the socket was bound.
        let mut tap = tap;
        while tap.receive()?.is_some() {}
        Ok(tap)
    }

    fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        // SAFETY: the number lives on this stack and its size is given.
        checked(unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<i32>() as u32,
            )
        })
    }

    pub fn send(&self, offload: Offload, frame: &[u8]) -> io::Result<()> {
        let bytes = [&offload.octets()[..], frame].concat();
        // SAFETY: the range is that of a slice.
        checked(unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) } as i32)
    }

    /// The next frame that came in, its VLAN tag (which the kernel takes out) put back. `None`: there is none now.
    pub fn receive(&mut self) -> io::Result<Option<(Offload, Vec<u8>)>> {
        let mut place = libc::iovec { iov_base: self.buffer.as_mut_ptr().cast(), iov_len: self.buffer.len() };
        let mut control = [0u64; 16];
        // SAFETY: a structure of numbers and pointers, for which zero is "not given".
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        // SAFETY: a structure of numbers.
        let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = size_of_val(&from) as u32;
        message.msg_iov = &raw mut place;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: the pointers are to this stack and to the buffer, with their sizes, and nobody else uses them.
        let length = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_TRUNC) };
        if length < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        }
        if self.outgoing && from.sll_pkttype != libc::PACKET_OUTGOING {
            return self.receive();
        }
        let (header, frame) = self.buffer[..(length as usize).min(LARGEST)].split_at(OFFLOAD);
        let (offload, mut frame) = (Offload::read(header.try_into().expect("its size")), frame.to_vec());
        // SAFETY: the kernel has just filled in the control buffer.
        let (tag, time) = unsafe { beside(&message) };
        self.time = time;
        if let Some((protocol, tag)) = tag
            && frame.len() >= 12
        {
            let octets = [protocol.to_be_bytes(), tag.to_be_bytes()].concat();
            frame.splice(12..12, octets);
        }
        Ok(Some((offload, frame)))
    }
}

/// What came beside a frame: the tag that the kernel took out of it, and when it passed.
///
/// # Safety
/// `message` is one that the kernel has filled in.
unsafe fn beside(message: &libc::msghdr) -> (Option<(u16, u16)>, Duration) {
    let (mut tag, mut time) = (None, Duration::ZERO);
    // SAFETY: the macros stay within the control buffer, each header of which the kernel wrote.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: as above.
    while let Some(header) = unsafe { next.as_ref() } {
        // SAFETY: as above.
        let octets = unsafe { libc::CMSG_DATA(header) };
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                // SAFETY: a message of this type has this structure.
                let found = unsafe { octets.cast::<libc::tpacket_auxdata>().read_unaligned() };
                let is_tagged = found.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
                tag = is_tagged.then_some((found.tp_vlan_tpid, found.tp_vlan_tci));
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                // SAFETY: a message of this type has this structure.
                let found = unsafe { octets.cast::<libc::timespec>().read_unaligned() };
                time = Duration::new(found.tv_sec as u64, found.tv_nsec as u32);
            }
            _ => {}
        }
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    (tag, time)
}

fn checked(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps this thread on one processor: what it sends is then carried on there, in order.
pub fn stay_on_one_processor() {
    // SAFETY: a set of bits, for which zero is empty.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: no pointers are passed.
    let here = unsafe { libc::sched_getcpu() };
    // SAFETY: the set lives on this stack, and the macro checks the number against its size.
    unsafe { libc::CPU_SET(here.max(0) as usize, &mut set) };
    // SAFETY: the set lives on this stack and its size is given.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
