//! Times as the lines that this program prints carry them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970; zero if the machine's clock stands before that.
pub fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros)
}

/// In whole microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
