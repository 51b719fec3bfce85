//! What glibc keeps after the loader's heap has been freed.
#![allow(unsafe_code)]

/// Gives free heap back to the kernel.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim takes no pointer and may be called at any time (malloc_trim(3), MT-Safe).
        unsafe { libc::malloc_trim(0) };
    }
}
