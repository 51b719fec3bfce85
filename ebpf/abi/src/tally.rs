//! What is counted by prefix and by next hop.

/// One CPU's value of `PREFIX_COUNTS` and of `HOP_COUNTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Of several packets in one skb (GSO) each is counted.
    pub packets: u64,
    /// From the IP header to the end of the frame; the header of a packet of several is counted once.
    pub bytes: u64,
}

impl Tally {
    pub const SIZE: usize = 16;

    pub const fn from_words([packets, bytes]: [u64; 2]) -> Tally {
        Tally { packets, bytes }
    }
}
