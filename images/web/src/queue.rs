//! The task queue of `web queue`: numbered tasks, each to be taken once and done once, and counts that show whether they were.
//!
//! A request may be sent again when its answer was lost. So each worker numbers its requests, and the answer to the latest is kept: the
//! same number again gets the same answer and changes nothing. A task that was taken and not done within the lease is given to somebody
//! else: its worker has died with it, and that shows as a task taken twice.
//!
//! What must hold: no task leaves the counts, whatever workers say; and memory is bounded: tasks and workers are, and each worker's
//! memory is one answer.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    time::{Duration, Instant},
};

use crate::http::{Request, query_number, query_text};

/// No more tasks than this over the queue's life.
const TASKS_MAX: usize = 200_000;
/// No more workers than this over the queue's life.
const WORKERS_MAX: usize = 10_000;
const NAME_BYTES_MAX: usize = 100;

/// Status and body.
pub type Answer = (u16, String);

/// Tasks and who works on them.
pub struct Queue {
    lease: Duration,
    /// A task's number is its place here, counted from 1.
    tasks: Vec<Task>,
    /// Places of tasks; one that is no longer waiting is passed over.
    waiting: VecDeque<usize>,
    /// When what was taken is taken back, in order of time: the place, and which taking of that task it was.
    leases: VecDeque<(Instant, usize, u32)>,
    workers: BTreeMap<String, Worker>,
    done_unknown: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Taken,
    Done,
}

struct Task {
    state: State,
    taken: u32,
    done: u32,
}

#[derive(Default)]
struct Worker {
    last: Option<(u64, Answer)>,
    taken: u64,
    done: u64,
}

impl Queue {
    /// Nothing in it. What is taken and not done within `lease` waits again.
    pub fn new(lease: Duration) -> Self {
        Self {
            lease,
            tasks: Vec::new(),
            waiting: VecDeque::new(),
            leases: VecDeque::new(),
            workers: BTreeMap::new(),
            done_unknown: 0,
        }
    }

    /// The answer to a request; `None` if its path is none of the queue's.
    pub fn answer(&mut self, request: &Request, now: Instant) -> Option<Answer> {
        let query = request.query.as_str();
        let wants = match request.path.as_str() {
            "/tasks" | "/take" | "/done" => "POST",
            "/state" => "GET",
            _ => return None,
        };
        if request.method != wants {
            return Some((405, format!("this takes {wants} only\n")));
        }
        self.take_back(now);
        Some(match request.path.as_str() {
            "/tasks" => self.add(query_number(query, "count").unwrap_or(1)),
            "/state" => (200, self.state()),
            path => {
                let (name, number) = (query_text(query, "worker"), query_number(query, "n"));
                match (name.filter(|name| is_name(name)), number) {
                    (Some(name), Some(number)) if path == "/take" => {
                        self.once(name, number, |queue| queue.take(now))
                    }
                    (Some(name), Some(number)) => match query_number(query, "id") {
                        Some(id) => self.once(name, number, |queue| queue.done(id)),
                        None => (400, "id: the task's number is missing\n".to_owned()),
                    },
                    _ => (400, "worker (a name) or n (the request's number) is missing\n".to_owned()),
                }
            }
        })
    }

    fn add(&mut self, count: u64) -> Answer {
        let room = TASKS_MAX - self.tasks.len();
        let Some(count) = usize::try_from(count).ok().filter(|count| *count <= room) else {
            return (503, format!("no room for {count} tasks more: {TASKS_MAX} is the most\n"));
        };
        for _ in 0..count {
            self.waiting.push_back(self.tasks.len());
            self.tasks.push(Task { state: State::Waiting, taken: 0, done: 0 });
        }
        (200, format!("{}\n", self.tasks.len()))
    }

    /// Does what is asked, unless it is the worker's latest request once more.
    fn once(&mut self, name: &str, number: u64, act: impl FnOnce(&mut Self) -> (Answer, Count)) -> Answer {
        if !self.workers.contains_key(name) && self.workers.len() >= WORKERS_MAX {
            return (503, format!("no room for another worker: {WORKERS_MAX} is the most\n"));
        }
        let last = self.workers.get(name).and_then(|worker| worker.last.as_ref());
        match last {
            Some((latest, answer)) if *latest == number => return answer.clone(),
            Some((latest, _)) if *latest > number => {
                return (409, format!("request {number} comes after {latest} of the same worker\n"));
            }
            _ => {}
        }
        let (answer, count) = act(self);
        let worker = self.workers.entry(name.to_owned()).or_default();
        worker.last = Some((number, answer.clone()));
        match count {
            Count::Taken => worker.taken += 1,
            Count::Done => worker.done += 1,
            Count::Nothing => {}
        }
        answer
    }

    fn take(&mut self, now: Instant) -> (Answer, Count) {
        while let Some(place) = self.waiting.pop_front() {
            let Some(task) = self.tasks.get_mut(place).filter(|task| task.state == State::Waiting) else {
                continue;
            };
            task.state = State::Taken;
            task.taken += 1;
            self.leases.push_back((now + self.lease, place, task.taken));
            return ((200, format!("{}\n", place + 1)), Count::Taken);
        }
        ((204, String::new()), Count::Nothing)
    }

    fn done(&mut self, id: u64) -> (Answer, Count) {
        let place = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        let task = place.and_then(|place| self.tasks.get_mut(place)).filter(|task| task.taken > 0);
        let Some(task) = task else {
            self.done_unknown += 1;
            return ((404, format!("nobody has taken a task {id}\n")), Count::Nothing);
        };
        task.state = State::Done;
        task.done += 1;
        if task.done > 1 {
            return ((409, format!("task {id} was done before\n")), Count::Done);
        }
        ((200, "ok\n".to_owned()), Count::Done)
    }

    /// Lets those wait again, before all others, whose lease has run out.
    fn take_back(&mut self, now: Instant) {
        while let Some((_, place, taking)) = self.leases.pop_front_if(|(until, ..)| *until <= now) {
            if let Some(task) = self.tasks.get_mut(place)
                && task.state == State::Taken
                && task.taken == taking
            {
                task.state = State::Waiting;
                self.waiting.push_front(place);
            }
        }
    }

    fn state(&self) -> String {
        let count = |holds: &dyn Fn(&Task) -> bool| self.tasks.iter().filter(|task| holds(task)).count();
        let mut text = format!(
            concat!(
                r#"{{"added":{},"waiting":{},"taken":{},"done":{},"taken_twice":{},"done_twice":{},"#,
                r#""done_unknown":{},"workers":{{"#
            ),
            self.tasks.len(),
            count(&|task| task.state == State::Waiting),
            count(&|task| task.state == State::Taken),
            count(&|task| task.state == State::Done),
            count(&|task| task.taken > 1),
            count(&|task| task.done > 1),
            self.done_unknown
        );
        for (index, (name, worker)) in self.workers.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let (taken, done) = (worker.taken, worker.done);
            let _infallible = write!(text, r#"{comma}"{name}":{{"taken":{taken},"done":{done}}}"#);
        }
        text.push_str("}}\n");
        text
    }
}

/// Which of the worker's counts a request adds to.
enum Count {
    Taken,
    Done,
    Nothing,
}

/// Whether it needs no quotes anywhere.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    struct Bench {
        queue: Queue,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { queue: Queue::new(LEASE), now: Instant::now() }
        }

        fn ask(&mut self, method: &str, target: &str) -> Answer {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let request = Request {
                method: method.to_owned(),
                path: path.to_owned(),
                query: query.to_owned(),
                ..Request::default()
            };
            self.queue.answer(&request, self.now).unwrap()
        }

        fn post(&mut self, target: &str) -> Answer {
            self.ask("POST", target)
        }

        fn state(&mut self) -> String {
            self.ask("GET", "/state").1
        }
    }

    fn ok(text: &str) -> Answer {
        (200, format!("{text}\n"))
    }

    #[test]
    fn each_task_is_taken_once_and_done_once() {
        let mut bench = Bench::new();
        assert_eq!(bench.post("/tasks?count=2"), ok("2"));
        assert_eq!(bench.post("/take?worker=a&n=1"), ok("1"));
        assert_eq!(bench.post("/take?worker=b/0&n=1"), ok("2"));
        assert_eq!(bench.post("/take?worker=a&n=2"), (204, String::new()));
        assert_eq!(bench.post("/done?worker=a&n=3&id=1"), ok("ok"));
        assert_eq!(
            bench.state(),
            concat!(
                r#"{"added":2,"waiting":0,"taken":1,"done":1,"taken_twice":0,"done_twice":0,"done_unknown":0,"#,
                r#""workers":{"a":{"taken":1,"done":1},"b/0":{"taken":1,"done":0}}}"#,
                "\n"
            )
        );
    }

    #[test]
    fn the_same_request_again_gets_the_same_answer_and_changes_nothing() {
        let mut bench = Bench::new();
        bench.post("/tasks?count=2");
        let first = bench.post("/take?worker=a&n=5");
        let before = bench.state();
        assert_eq!(bench.post("/take?worker=a&n=5"), first);
        assert_eq!(bench.state(), before);
        assert_eq!(bench.post("/done?worker=a&n=6&id=1"), bench.post("/done?worker=a&n=6&id=1"));
        assert!(bench.state().contains(r#""done":1,"taken_twice":0,"done_twice":0,"#));
        // One that was overtaken by a later one cannot be told from a mix-up.
        assert_eq!(bench.post("/take?worker=a&n=5").0, 409);
    }

    #[test]
    fn what_a_dead_worker_had_is_given_to_another_and_shows() {
        let mut bench = Bench::new();
        bench.post("/tasks?count=2");
        bench.post("/take?worker=dead&n=1");
        bench.now += LEASE - Duration::from_millis(1);
        assert!(bench.state().contains(r#""waiting":1,"taken":1,"#));
        bench.now += Duration::from_millis(1);
        assert_eq!(bench.post("/take?worker=b&n=1"), ok("1"), "before the others");
        assert!(bench.state().contains(r#""taken_twice":1,"#));
        // It was not dead: both do it.
        assert_eq!(bench.post("/done?worker=dead&n=2&id=1").0, 200);
        assert_eq!(bench.post("/done?worker=b&n=2&id=1").0, 409);
        assert!(bench.state().contains(r#""done":1,"taken_twice":1,"done_twice":1,"#));
        // What is done in time is not taken back.
        bench.post("/take?worker=b&n=3");
        bench.post("/done?worker=b&n=4&id=2");
        bench.now += LEASE * 2;
        assert!(bench.state().contains(r#""waiting":0,"taken":0,"done":2,"#), "{}", bench.state());
    }

    #[test]
    fn a_task_done_while_it_waits_again_is_not_given_out() {
        let mut bench = Bench::new();
        bench.post("/tasks");
        bench.post("/take?worker=slow&n=1");
        bench.now += LEASE;
        assert!(bench.state().contains(r#""waiting":1,"#));
        assert_eq!(bench.post("/done?worker=slow&n=2&id=1").0, 200);
        assert_eq!(bench.post("/take?worker=b&n=1").0, 204);
        assert!(bench.state().contains(r#""done":1,"taken_twice":0,"#));
    }

    #[test]
    fn what_is_wrong_is_refused_and_counted() {
        let mut bench = Bench::new();
        bench.post("/tasks");
        for id in [0, 1, 2, u64::MAX] {
            assert_eq!(bench.post(&format!("/done?worker=w{id}&n=1&id={id}")).0, 404, "{id}");
        }
        assert!(bench.state().contains(r#""done":0,"#) && bench.state().contains(r#""done_unknown":4,"#));
        for (target, status) in [
            ("/take", 400),
            ("/take?worker=a", 400),
            ("/take?worker=a\"b&n=1", 400),
            ("/take?worker=&n=1", 400),
            ("/done?worker=a&n=1", 400),
            ("/state", 405),
            ("/tasks?count=200000", 503),
            ("/tasks?count=18446744073709551615", 503),
        ] {
            assert_eq!(bench.post(target).0, status, "{target}");
        }
        assert_eq!(bench.ask("GET", "/take?worker=a&n=1").0, 405);
        assert_eq!(bench.post("/tasks?count=199999").0, 200);
        assert!(
            bench.queue.answer(&Request { path: "/".to_owned(), ..Request::default() }, bench.now).is_none()
        );
        for worker in 0..WORKERS_MAX + 1 {
            bench.post(&format!("/take?worker=w{worker}&n=2"));
        }
        assert_eq!(bench.queue.workers.len(), WORKERS_MAX);
    }
}
