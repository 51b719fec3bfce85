//! Addresses of own blocks that nobody has, remembered: to ask the FIB for each packet of a scan is most of what dropping
//! it costs. A pod that comes changes the FIB's number, and so does every route; the next packet asks again.

use aya_ebpf::helpers::bpf_jiffies64;
use manx_abi::Vacancy;

use crate::{
    fib::Addresses,
    generation::{self, Context},
    maps::{self, Switches},
};

/// What is remembered of one address, and what it is compared with.
#[derive(Clone, Copy)]
pub struct Memory {
    slot: *mut Vacancy,
    address: [u64; 2],
    ifindex: u32,
    generation: u32,
    lifetime: u32,
}

impl Memory {
    /// None where nothing may be remembered: the kernel does not say when its routes change, a rule may choose the table by
    /// more than the interface, or nobody keeps the maps.
    #[inline(always)]
    pub fn of<C: Context, A: Addresses>(
        ctx: &C,
        ifindex: u32,
        destination: &A,
        switches: Switches,
    ) -> Option<Memory> {
        let lifetime = switches.vacancy();
        if lifetime == 0 || !switches.is_kept() {
            return None;
        }
        // Read before the FIB is asked, so that a change meanwhile is one that comes after.
        let generation = generation::of(ctx, A::GENERATION)?;
        let address = destination.number();
        Some(Memory { slot: maps::vacancy(address)?, address, ifindex, generation, lifetime })
    }

    /// Whether the FIB calls the address a blackhole. `ask` asks it.
    #[inline(always)]
    pub fn is_vacant(self, ask: impl FnOnce() -> bool) -> bool {
        // SAFETY: a number out of the kernel's clock.
        let now = unsafe { bpf_jiffies64() } as u32;
        // SAFETY: the slot is a live map value of this CPU's, of numbers only.
        let before = unsafe { self.slot.read() };
        let is_known = before.address == self.address
            && before.ifindex == self.ifindex
            && before.generation == self.generation;
        let age = now.wrapping_sub(before.asked);
        let was_settled = is_known && before.settled != 0;
        if was_settled && age < self.lifetime {
            return true;
        }
        let is_vacant = ask();
        let settled = was_settled || is_known && age >= Vacancy::SETTLES;
        if is_vacant && (settled || !is_known) {
            let Memory { slot, address, ifindex, generation, .. } = self;
            let settled = u32::from(settled);
            // SAFETY: as above.
            unsafe { slot.write(Vacancy { address, ifindex, generation, asked: now, settled }) };
        } else if !is_vacant && is_known {
            // No interface has this number.
            // SAFETY: as above.
            unsafe { (*self.slot).ifindex = 0 };
        }
        is_vacant
    }
}
