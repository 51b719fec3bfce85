//! Random numbers from a seed that is printed: a run that found something can be had again.

/// SplitMix64: every seed gives a full period, and it needs no crate.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `bound`, without it. A bound of 0 gives 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.word() % (bound.max(1) as u64)) as usize
    }

    pub fn byte(&mut self) -> u8 {
        self.word() as u8
    }

    /// So many times of a hundred.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }
}

/// `MANX_SEED`, or one that differs from run to run.
pub fn seed() -> u64 {
    let given = std::env::var("MANX_SEED").ok();
    let seed = given.map(|text| text.parse().expect("MANX_SEED is a number"));
    seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |since| since.as_nanos() as u64 % 1_000_000_000)
    })
}

/// `MANX_PACKETS`, or what suits a test that runs every time.
pub fn packets(usual: usize) -> usize {
    let given = std::env::var("MANX_PACKETS").ok();
    given.map_or(usual, |text| text.parse().expect("MANX_PACKETS is a number"))
}
