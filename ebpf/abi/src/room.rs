//! What interfaces take at most.

use crate::capacity;

/// One CPU's value of `ROOMS`: an interface's MTU as the kernel has said it. It is good while the namespace has the same
/// generation of IPv4 routes, which changes with each MTU and with each interface that goes, whatever the family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// No interface has the number 0.
    pub ifindex: u32,
    /// Before the kernel was asked.
    pub generation: u32,
    /// Octets behind the Ethernet header.
    pub mtu: u32,
    pub unused: u32,
}

impl Room {
    pub const SIZE: usize = 16;

    /// Interfaces that were made one after the other have slots side by side.
    #[inline(always)]
    pub const fn slot(ifindex: u32) -> u32 {
        ifindex & (capacity::ROOMS as u32 - 1)
    }
}

const _: () = assert!(core::mem::size_of::<Room>() == Room::SIZE);
const _: () = assert!(capacity::ROOMS.is_power_of_two());
