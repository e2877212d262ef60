//! What others have answered, for as long as they said that it holds.
//!
//! Pure: the time comes from outside. Invariant: memory is bounded by [`ENTRIES_MAX`] answers of at most [`RECORDS_MAX`] records each; an
//! answer is never given for longer than its own time to live, and what is left of that is what its next reader is told.

use std::{collections::HashMap, time::Duration};

use hickory_proto::{
    op::ResponseCode,
    rr::{LowerName, RData, Record, RecordType},
};
use hitless_base::Timestamp;

use super::message::Records;

/// Answers that are kept.
pub const ENTRIES_MAX: usize = 8_192;
/// Answers of more records are not kept.
pub const RECORDS_MAX: usize = 64;
/// The longest time for which an answer is kept.
const KEEP_MAX: Duration = Duration::from_secs(3600);
/// The longest time for which "there is none" is kept.
const KEEP_NEGATIVE_MAX: Duration = Duration::from_secs(300);

/// What was asked of others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name, in lower case.
    pub name: LowerName,
    /// The type of the records.
    pub type_: RecordType,
    /// Whether signatures are wanted.
    pub dnssec_ok: bool,
    /// Whether signatures are to be left unchecked.
    pub checking_disabled: bool,
}

#[derive(Debug)]
struct Entry {
    records: Records,
    since: Timestamp,
    until: Timestamp,
}

/// See the module. Two generations: when the young one is full, it becomes the old one, and what was not asked for since is gone.
#[derive(Debug, Default)]
pub struct Cache {
    young: HashMap<Question, Entry>,
    old: HashMap<Question, Entry>,
}

impl Cache {
    /// The answer, if one is held that is still good; its times to live are what is left of them.
    pub fn get(&mut self, question: &Question, now: Timestamp) -> Option<Records> {
        if let Some(entry) = self.old.remove(question) {
            self.insert(question.clone(), entry);
        }
        let entry = self.young.get(question)?;
        if now < entry.since || now >= entry.until {
            self.young.remove(question);
            return None;
        }
        let age_s = now.duration_since(entry.since).as_secs();
        let age_s = u32::try_from(age_s).unwrap_or(u32::MAX);
        let mut records = entry.records.clone();
        let Records { answers, authorities, additionals, .. } = &mut records;
        for record in answers.iter_mut().chain(authorities).chain(additionals) {
            record.ttl = record.ttl.saturating_sub(age_s);
        }
        Some(records)
    }

    /// Keeps an answer, if it may be kept.
    pub fn put(&mut self, question: Question, records: &Records, now: Timestamp) {
        let Some(keep) = keep_for(records) else { return };
        let Ok(until) = now.checked_add(keep) else { return };
        self.insert(question, Entry { records: records.clone(), since: now, until });
    }

    fn insert(&mut self, question: Question, entry: Entry) {
        if self.young.len() >= ENTRIES_MAX / 2 && !self.young.contains_key(&question) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(question, entry);
    }

    /// How many answers are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// For how long an answer may be kept; `None`: not at all.
fn keep_for(records: &Records) -> Option<Duration> {
    let all = || records.answers.iter().chain(&records.authorities).chain(&records.additionals);
    if all().count() > RECORDS_MAX {
        return None;
    }
    let ends_in_alias = records.answers.iter().all(|r| r.record_type() == RecordType::CNAME);
    let seconds = match records.code {
        ResponseCode::NoError if !ends_in_alias => shortest(all())?,
        // RFC 2308: the shorter of the SOA record's own time and the one that it names, and of the names on the way there.
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let soa = records.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            })?;
            let soa = soa.min(shortest(records.answers.iter()).unwrap_or(u32::MAX));
            soa.min(u32::try_from(KEEP_NEGATIVE_MAX.as_secs()).unwrap_or(u32::MAX))
        }
        _ => return None,
    };
    let keep = Duration::from_secs(seconds.into()).min(KEEP_MAX);
    (!keep.is_zero()).then_some(keep)
}

fn shortest<'a>(records: impl Iterator<Item = &'a Record>) -> Option<u32> {
    records.map(|record| record.ttl).min()
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{
        Name,
        rdata::{A, SOA},
    };

    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + s).unwrap()
    }

    fn question(name: &str) -> Question {
        let name = LowerName::new(&Name::from_ascii(name).unwrap());
        Question { name, type_: RecordType::A, dnssec_ok: false, checking_disabled: false }
    }

    fn address(ttl: u32) -> Records {
        let record = Record::from_rdata(Name::root(), ttl, RData::A(A::new(1, 2, 3, 4)));
        Records { answers: vec![record], ..Records::default() }
    }

    fn negative(ttl: u32, minimum: u32) -> Records {
        let soa = SOA::new(Name::root(), Name::root(), 1, 2, 3, 4, minimum);
        let soa = Record::from_rdata(Name::root(), ttl, RData::SOA(soa));
        Records { authorities: vec![soa], ..Records::none(ResponseCode::NXDomain) }
    }

    #[test]
    fn an_answer_is_given_for_its_time_and_says_what_is_left_of_it() {
        let mut cache = Cache::default();
        cache.put(question("a."), &address(30), at(0));
        assert_eq!(cache.get(&question("A."), at(10)).unwrap().answers[0].ttl, 20);
        assert_eq!(cache.get(&question("a."), at(29)).unwrap().answers[0].ttl, 1);
        assert_eq!(cache.get(&question("a."), at(30)), None);
        assert!(cache.is_empty(), "what is no longer good is let go");
        let signed = Question { dnssec_ok: true, ..question("a.") };
        cache.put(question("a."), &address(30), at(0));
        assert_eq!(cache.get(&signed, at(1)), None);
    }

    #[test]
    fn no_such_name_holds_for_as_long_as_the_soa_says_and_failures_not_at_all() {
        let mut cache = Cache::default();
        cache.put(question("n."), &negative(100, 7), at(0));
        assert!(cache.get(&question("n."), at(6)).is_some());
        assert_eq!(cache.get(&question("n."), at(7)), None);
        cache.put(question("n."), &negative(9999, 9999), at(0));
        assert_eq!(cache.get(&question("n."), at(300)), None, "never longer than five minutes");
        for not_kept in
            [address(0), Records::none(ResponseCode::ServFail), Records::none(ResponseCode::NXDomain)]
        {
            cache.put(question("x."), &not_kept, at(0));
            assert_eq!(cache.get(&question("x."), at(0)), None);
        }
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let mut cache = Cache::default();
        cache.put(question("kept."), &address(3000), at(0));
        for n in 0..3 * ENTRIES_MAX {
            cache.put(question(&format!("n{n}.")), &address(3000), at(1));
            assert!(cache.len() <= ENTRIES_MAX);
            if n % 1000 == 0 {
                assert!(cache.get(&question("kept."), at(2)).is_some(), "after {n}");
            }
        }
        assert_eq!(cache.get(&question("n0."), at(2)), None);
    }
}
