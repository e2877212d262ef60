//! Wall-clock time, which is what the lines that this program prints carry.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970; zero if the machine's clock stands before that.
pub fn unix_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}
