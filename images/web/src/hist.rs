//! A latency histogram with logarithmic buckets, 32 to each doubling: its error is at most one part in 32.
//!
//! It is printed as pairs of a bucket's highest value and its count, so that whoever merges several needs no knowledge of
//! the buckets.

const SUB_BITS: u32 = 5;
const SUB: u64 = 1 << SUB_BITS;
/// Values are cut off here (about 67 s), far beyond any timeout.
const VALUE_MAX: u64 = (1 << 26) - 1;

/// Counts of latencies in microseconds.
pub struct Histogram {
    counts: Vec<u64>,
}

impl Histogram {
    /// An empty one.
    pub fn new() -> Self {
        Self { counts: vec![0; index(VALUE_MAX) + 1] }
    }

    /// Counts one latency.
    pub fn record(&mut self, us: u64) {
        if let Some(count) = self.counts.get_mut(index(us.min(VALUE_MAX))) {
            *count += 1;
        }
    }

    /// The buckets in use, as JSON: `[[HIGHEST_US,COUNT],...]`.
    pub fn json(&self) -> String {
        let pairs: Vec<String> = self.buckets().map(|(us, count)| format!("[{us},{count}]")).collect();
        format!("[{}]", pairs.join(","))
    }

    /// Each bucket in use: its highest value in microseconds, and its count.
    fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(index, count)| (highest(index), *count))
    }
}

/// Values below 64 have a bucket each; above, the five bits after the highest choose it.
fn index(us: u64) -> usize {
    let shift = (u64::BITS - us.leading_zeros()).saturating_sub(SUB_BITS + 1);
    let index = u64::from(shift) * SUB + (us >> shift);
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn highest(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * SUB {
        return index;
    }
    let shift = index / SUB - 1;
    let top = index - shift * SUB;
    ((top + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_that_is_at_most_a_32nd_wide() {
        for us in (0..5_000).chain((5_000..VALUE_MAX).step_by(9_973)).chain([VALUE_MAX]) {
            let high = highest(index(us));
            assert!(high >= us, "{us} -> {high}");
            assert!(high - us <= us / SUB, "{us} -> {high}");
            assert_eq!(index(high), index(us), "{us}");
            assert_eq!(index(high + 1), index(us) + 1, "{us}");
        }
    }

    #[test]
    fn counts_come_back() {
        let mut hist = Histogram::new();
        for us in [10, 10, 1_000, u64::MAX] {
            hist.record(us);
        }
        let buckets: Vec<_> = hist.buckets().collect();
        assert_eq!(buckets, [(10, 2), (1_007, 1), (VALUE_MAX, 1)]);
    }
}
