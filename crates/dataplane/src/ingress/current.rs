//! The one value that all workers choose by, and the proof that none of them chooses by the one before.
//!
//! A choice borrows the present value, runs without waiting, and gives back something that does not hold it. [`Current::publish`]
//! puts a new value in its place and returns when the old one has been dropped. That is the whole proof: whoever is choosing owns a share of the
//! value that it chooses by; a value that was dropped has no owner; and no one can come to own it any more, since nothing leads to it.
//! So once `publish` has returned, no choice by an earlier value is under way or will be.

use std::{ops::Deref, sync::Arc};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

/// A value that says when it is gone. It says so itself: a lost sender or a forgotten count is never taken for it.
#[derive(Debug)]
struct Held<T> {
    value: T,
    gone: CancellationToken,
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

/// What is chosen by. Clones see the same.
#[derive(Debug)]
pub struct Current<T>(Arc<ArcSwap<Held<T>>>);

impl<T> Clone for Current<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Current<T> {
    /// Begins with this value.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Held { value, gone: CancellationToken::new() })))
    }

    /// Chooses by the present value. `choose` cannot wait, and what it gives cannot borrow from the value.
    pub fn choose<R>(&self, choose: impl FnOnce(&T) -> R) -> R {
        let held = self.0.load();
        choose(&held.deref().value)
    }

    /// Puts `value` in place of the present one. Returns when nobody chooses by the old one any more.
    pub async fn publish(&self, value: T) {
        let old = self.0.swap(Arc::new(Held { value, gone: CancellationToken::new() }));
        let gone = old.gone.clone();
        drop(old);
        gone.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicBool, AtomicU64, Ordering},
        },
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn it_waits_for_a_choice_that_is_under_way_and_not_for_later_ones() {
        let current = Current::new(1);
        let (entered, leave) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let choosing = std::thread::spawn({
            let (current, entered, leave) = (current.clone(), entered.clone(), leave.clone());
            move || {
                current.choose(|value| {
                    entered.wait();
                    leave.wait();
                    *value
                })
            }
        });
        entered.wait();
        let mut publishing = tokio::spawn({
            let current = current.clone();
            async move { current.publish(2).await }
        });
        let early = tokio::time::timeout(Duration::from_millis(50), &mut publishing).await;
        assert!(early.is_err(), "a choice by the old value is under way");
        assert_eq!(current.choose(|value| *value), 2, "whoever chooses now does so by the new one");
        leave.wait();
        assert_eq!(choosing.join().unwrap(), 1);
        // A choice by the new value does not hold it up.
        current.choose(|_| ());
        tokio::time::timeout(Duration::from_secs(30), publishing).await.unwrap().unwrap();
    }

    /// While a choice by value N runs, nothing beyond N has been published: else somebody was told too early.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn no_choice_ever_sees_a_value_older_than_what_was_published() {
        const LAST: u64 = 20_000;
        let current = Current::new(0_u64);
        let (published, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let choosers: Vec<_> = (0..3)
            .map(|_| {
                let (current, published, end) = (current.clone(), published.clone(), end.clone());
                std::thread::spawn(move || {
                    let mut choices = 0_u64;
                    while !end.load(Ordering::Relaxed) {
                        current.choose(|value| {
                            std::hint::black_box((0..50).sum::<u64>());
                            let told = published.load(Ordering::SeqCst);
                            assert!(*value >= told, "chose by {value} after {told} was published");
                        });
                        choices += 1;
                    }
                    choices
                })
            })
            .collect();
        for value in 1..=LAST {
            current.publish(value).await;
            published.store(value, Ordering::SeqCst);
        }
        end.store(true, Ordering::Relaxed);
        for chooser in choosers {
            assert!(chooser.join().unwrap() > 0);
        }
        assert_eq!(current.choose(|value| *value), LAST);
    }
}
