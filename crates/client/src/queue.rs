//! A work queue of keys: each key is worked on by one worker at a time, however often it is asked for.
//!
//! Bounded by the number of different keys; a failed key comes back with backoff.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    future::Future,
    sync::Arc,
    time::Duration,
};

use hitless_base::Backoff;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What a worker says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do until something changes.
    Done,
    /// Look again after this time.
    Again(Duration),
    /// It failed: look again with backoff.
    Retry,
}

#[derive(Default)]
struct State {
    ready: VecDeque<String>,
    /// Keys in `ready`, or asked for while being worked on.
    waiting: HashSet<String>,
    working: HashSet<String>,
    /// Earliest time for each delayed key, and the keys by time.
    delayed: HashMap<String, Instant>,
    by_time: BTreeMap<Instant, Vec<String>>,
    backoffs: HashMap<String, Backoff>,
}

/// The queue. Clones share it.
#[derive(Clone, Default)]
pub struct Queue {
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
    linger: Duration,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty queue whose work begins `linger` after it was first asked for: what is asked for meanwhile is done with it, and what
    /// comes first in the cluster is not held up by it.
    #[must_use]
    pub fn lingering(linger: Duration) -> Self {
        Self { linger, ..Self::default() }
    }

    /// Asks for work on `key` as soon as a worker is free (and the queue's linger is over).
    pub fn add(&self, key: impl Into<String>) {
        if self.linger.is_zero() { self.add_now(key.into()) } else { self.add_after(key, self.linger) }
    }

    fn add_now(&self, key: String) {
        let mut state = self.state.lock();
        if state.waiting.insert(key.clone()) && !state.working.contains(&key) {
            state.ready.push_back(key);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Asks for work on `key` after `delay` (or sooner, if it was asked for sooner).
    pub fn add_after(&self, key: impl Into<String>, delay: Duration) {
        if delay.is_zero() {
            return self.add_now(key.into());
        }
        let (key, at) = (key.into(), Instant::now() + delay);
        let mut state = self.state.lock();
        if state.delayed.get(&key).is_some_and(|earlier| *earlier <= at) {
            return;
        }
        state.delayed.insert(key.clone(), at);
        state.by_time.entry(at).or_default().push(key);
        drop(state);
        self.wake.notify_one();
    }

    /// Runs `workers` workers until `cancel`; `work` is called with one key at a time, never twice at once for one key.
    pub fn run<F, W>(&self, tasks: &TaskTracker, cancel: &CancellationToken, workers: usize, work: F)
    where
        F: Fn(String) -> W + Clone + Send + 'static,
        W: Future<Output = Outcome> + Send,
    {
        for _ in 0..workers.max(1) {
            let (queue, cancel, work) = (self.clone(), cancel.clone(), work.clone());
            tasks.spawn(async move {
                loop {
                    let key = tokio::select! {
                        () = cancel.cancelled() => return,
                        key = queue.next() => key,
                    };
                    let outcome = work(key.clone()).await;
                    queue.finish(&key, outcome);
                }
            });
        }
    }

    /// The next key to work on.
    async fn next(&self) -> String {
        loop {
            let sleep_until = {
                let mut state = self.state.lock();
                promote(&mut state, Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.by_time.keys().next().copied()
            };
            match sleep_until {
                Some(at) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    fn finish(&self, key: &str, outcome: Outcome) {
        let mut state = self.state.lock();
        state.working.remove(key);
        if state.waiting.contains(key) {
            state.ready.push_back(key.to_owned());
            self.wake.notify_one();
        }
        let delay = match outcome {
            Outcome::Done => {
                state.backoffs.remove(key);
                None
            }
            Outcome::Again(delay) => {
                state.backoffs.remove(key);
                Some(delay)
            }
            Outcome::Retry => Some(
                state
                    .backoffs
                    .entry(key.to_owned())
                    .or_insert_with(|| Backoff::new(Duration::from_millis(5), Duration::from_secs(30)))
                    .step_with_jitter(),
            ),
        };
        drop(state);
        if let Some(delay) = delay {
            self.add_after(key, delay);
        }
    }
}

/// Moves delayed keys whose time has come to the ready ones.
fn promote(state: &mut State, now: Instant) {
    while let Some(entry) = state.by_time.first_entry() {
        let at = *entry.key();
        if at > now {
            return;
        }
        for key in entry.remove() {
            // A key that was asked for sooner in the meantime has another time by now.
            if state.delayed.get(&key) != Some(&at) {
                continue;
            }
            state.delayed.remove(&key);
            if state.waiting.insert(key.clone()) && !state.working.contains(&key) {
                state.ready.push_back(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_key_is_never_worked_on_twice_at_once_and_never_forgotten() {
        let (queue, tasks, cancel) = (Queue::new(), TaskTracker::new(), CancellationToken::new());
        let (running, runs) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let done = Arc::new(Notify::new());
        let (r, n, d) = (running.clone(), runs.clone(), done.clone());
        let asks = queue.clone();
        queue.run(&tasks, &cancel, 4, move |key| {
            let (r, n, d, asks) = (r.clone(), n.clone(), d.clone(), asks.clone());
            async move {
                assert_eq!(r.fetch_add(1, Ordering::SeqCst), 0, "two workers on one key");
                if n.fetch_add(1, Ordering::SeqCst) == 0 {
                    asks.add(key); // asked for while being worked on: must run once more
                } else {
                    d.notify_one();
                }
                tokio::task::yield_now().await;
                r.fetch_sub(1, Ordering::SeqCst);
                Outcome::Done
            }
        });
        queue.add("a");
        tokio::time::timeout(Duration::from_secs(5), done.notified()).await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        cancel.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_while_the_queue_lingers_is_one_piece_of_work() {
        let queue = Queue::lingering(Duration::from_millis(10));
        let start = Instant::now();
        queue.add("a");
        tokio::time::sleep(Duration::from_millis(6)).await;
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed(), Duration::from_millis(10), "the first asking counts");
        // Asked for while it is worked on: once more, and that later too.
        queue.add("a");
        tokio::time::sleep(Duration::from_millis(5)).await;
        queue.finish("a", Outcome::Done);
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed(), Duration::from_millis(20));
        queue.finish("a", Outcome::Done);
        assert!(tokio::time::timeout(Duration::from_secs(1), queue.next()).await.is_err(), "nothing is left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sooner_time_wins_over_a_later_one() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(1));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 1);
    }
}
