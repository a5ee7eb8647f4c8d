//! Luck that can be drawn again: one number of state a device.
//!
//! Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (SplitMix64).

/// A sequence of numbers that looks like chance.
#[derive(Clone, Debug)]
pub struct Luck(u64);

impl Luck {
    /// The sequence of a seed and of what it is for.
    pub fn of(seed: u64, what: u64) -> Self {
        let mut luck = Self(seed ^ what.wrapping_mul(0xd1b5_4a32_d192_ed03));
        luck.draw();
        luck
    }

    /// 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// From 0 up to 1, which it never is.
    pub fn part(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether something happens that so many of all meet.
    pub fn hits(&mut self, share: f64) -> bool {
        self.part() < share
    }

    /// Of mean 0 and deviation 1, even.
    pub fn even(&mut self) -> f32 {
        ((self.part() * 2.0 - 1.0) * 3_f64.sqrt()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the first numbers of seed 1234567 in the reference implementation (prng.di.unimi.it,
    /// splitmix64.c).
    #[test]
    fn numbers_are_those_of_the_reference() {
        let mut luck = Luck(1_234_567);
        let expected =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([luck.draw(), luck.draw(), luck.draw()], expected);
    }

    #[test]
    fn parts_are_even() {
        let mut luck = Luck::of(1, 2);
        let count = (0..100_000).filter(|_| luck.hits(0.2)).count();
        // Five deviations of a binomial.
        assert!(count.abs_diff(20_000) < 650, "{count}");
    }
}
