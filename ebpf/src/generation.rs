//! How often the kernel's routes have changed: the number by which it knows itself that a route that somebody remembers is
//! no longer good. It stands in the network namespace, to which the kernel's own structures lead from a packet.

use core::{ffi::c_void, mem::transmute, ptr::read_volatile};

use aya_ebpf::{
    EbpfContext, Global,
    programs::{TcContext, XdpContext},
};
use manx_abi::kernel;

/// The loader says here whether it has found what is read here. At 0 the verifier takes it out.
#[unsafe(no_mangle)]
static GENERATIONS: Global<u32> = Global::new(0);

/// What a program was called with.
pub trait Context: EbpfContext {
    /// The device by which the packet came, out of the kernel's structure for the packet.
    ///
    /// # Safety
    /// `packet` is what `bpf_cast_to_kern_ctx` says of this context.
    unsafe fn device(packet: *const u8) -> *const u8;

    #[inline(always)]
    fn raw(&self) -> *mut c_void {
        self.as_ptr()
    }
}

impl Context for XdpContext {
    #[inline(always)]
    unsafe fn device(packet: *const u8) -> *const u8 {
        // SAFETY: as in `load`.
        unsafe { load(load(packet, kernel::XDP_RXQ), kernel::RXQ_DEV) }
    }
}

impl Context for TcContext {
    #[inline(always)]
    unsafe fn device(packet: *const u8) -> *const u8 {
        // SAFETY: as in `load`.
        unsafe { load(packet, kernel::SKB_DEV) }
    }
}

/// # Safety
/// `structure` is one of the kernel's that has a pointer at the offset that the loader writes in place of `offset`. The
/// verifier compares with the kernel's types, and what such a load finds unmapped reads as zero.
#[inline(always)]
unsafe fn load(structure: *const u8, offset: i16) -> *const u8 {
    // SAFETY: as the caller promises.
    unsafe { read_volatile(structure.add(offset as usize).cast::<*const u8>()) }
}

/// The number at this offset of the namespace in which the packet came. None where the kernel does not tell.
#[inline(always)]
pub fn of<C: Context>(ctx: &C, number: i16) -> Option<u32> {
    if GENERATIONS.load() == 0 {
        return None;
    }
    type Cast = extern "C" fn(*mut c_void) -> *const u8;
    // SAFETY: a call of the kernel's function, in the shape in which a program calls helpers; the verifier puts a move
    // between registers in its place.
    let cast = unsafe { transmute::<usize, Cast>(kernel::CAST_TO_KERN_CTX as usize) };
    // SAFETY: the context is the program's own; the namespace's numbers stand where its type says.
    unsafe {
        let net = load(C::device(cast(ctx.as_ptr())), kernel::DEV_NET);
        Some(read_volatile(net.add(number as usize).cast::<u32>()))
    }
}
