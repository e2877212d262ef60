//! A bound on silence that costs nothing while there is none: signs of life only note the time, and the timer is set anew when
//! it goes off too early.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Goes off when there was no sign of life for too long.
#[derive(Debug)]
pub struct Watchdog {
    silence_max: Duration,
    alive: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watchdog {
    /// Begins now.
    #[must_use]
    pub fn new(silence_max: Duration) -> Self {
        Self { silence_max, alive: Instant::now(), timer: None }
    }

    /// A sign of life.
    pub fn alive(&mut self) {
        self.alive = Instant::now();
    }

    /// Ready when the silence is too long.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let deadline = self.alive + self.silence_max;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            std::task::ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_off_after_silence_alone() {
        let start = Instant::now();
        let mut dog = Watchdog::new(Duration::from_secs(10));
        for _ in 0..5 {
            let early = tokio::time::timeout(Duration::from_secs(6), poll_fn(|cx| dog.poll(cx))).await;
            assert!(early.is_err());
            dog.alive();
        }
        poll_fn(|cx| dog.poll(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 40);
    }
}
