//! The one place that tells the time, so that a simulation can replace it.
//!
//! Pure cores take `now: Timestamp` as an argument and never ask.

use std::{future::Future, pin::Pin, time::Duration};

pub use jiff::Timestamp;

/// Wall-clock time and waiting.
pub trait Clock: Send + Sync + 'static {
    /// Now, in wall-clock time.
    fn now(&self) -> Timestamp;
    /// Resolves after `duration`.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The machine's own clock and tokio's timer.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }
}
