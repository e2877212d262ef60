//! The consumer's word: up to which revision the data plane holds every EndpointSlice change.
//!
//! What must hold (rule 2 of the loop): within one incarnation it never falls, and it is never ahead of what was committed.

use hitless_base::Revision;

/// What was committed, and what of that has been said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    committed: Option<Revision>,
    /// The highest that this incarnation has said or is saying: a report whose answer was lost may have been taken.
    said: Option<Revision>,
    /// The highest that the API server is known to have taken of this incarnation.
    taken: Option<Revision>,
}

impl Watermark {
    /// Nothing committed, nothing said.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The data plane holds everything up to `revision` now. Lower than before only after a new list of a store that was set back.
    pub fn commit(&mut self, revision: Revision) {
        self.committed = Some(revision);
    }

    /// Whether what is true has fallen below what was said: then only a new incarnation may speak.
    #[must_use]
    pub fn needs_new_incarnation(&self) -> bool {
        self.said.is_some_and(|said| self.committed.is_none_or(|committed| committed < said))
    }

    /// Begins a new incarnation, which has said nothing.
    pub fn begin_incarnation(&mut self) {
        (self.said, self.taken) = (None, None);
    }

    /// Whether there is something to say that the API server does not know yet.
    #[must_use]
    pub fn is_news(&self) -> bool {
        !self.needs_new_incarnation() && self.committed > self.taken
    }

    /// The revision to say now (0: not yet any); the caller says it next. `None`: a new incarnation must come first.
    pub fn say(&mut self) -> Option<Revision> {
        if self.needs_new_incarnation() {
            return None;
        }
        if let Some(committed) = self.committed {
            self.said = Some(committed);
        }
        Some(self.committed.unwrap_or_default())
    }

    /// The API server has taken `revision`, said by this incarnation.
    pub fn taken(&mut self, revision: Revision) {
        self.taken = self.taken.max(Some(revision));
    }

    /// The API server knows nothing any more (it was restarted): the same is to be said again.
    pub fn forgotten(&mut self) {
        self.taken = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Commit(u64),
        /// Says it; whether the answer comes back.
        Say(bool),
        Forgotten,
        Register,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u64..20).prop_map(Step::Commit),
            4 => any::<bool>().prop_map(Step::Say),
            1 => Just(Step::Forgotten),
            1 => Just(Step::Register),
        ]
    }

    proptest! {
        #[test]
        fn it_never_falls_in_an_incarnation_and_is_never_ahead(steps in prop::collection::vec(step(), 0..60)) {
            let mut watermark = Watermark::new();
            let (mut committed, mut heard) = (0, 0);
            for step in steps {
                match step {
                    Step::Commit(revision) => {
                        watermark.commit(Revision(revision));
                        committed = revision;
                    }
                    Step::Say(answered) => match watermark.say() {
                        Some(said) => {
                            prop_assert!(said.0 >= heard, "fell from {} to {}", heard, said);
                            prop_assert!(said.0 <= committed, "{} is ahead of {}", said, committed);
                            heard = said.0;
                            if answered {
                                watermark.taken(said);
                                prop_assert!(!watermark.is_news());
                            }
                        }
                        None => prop_assert!(committed < heard, "silent without need"),
                    },
                    Step::Forgotten => watermark.forgotten(),
                    Step::Register => {
                        watermark.begin_incarnation();
                        heard = 0;
                    }
                }
            }
            // Whatever happened: after a new incarnation it can speak, and says what is true.
            watermark.begin_incarnation();
            prop_assert_eq!(watermark.say(), Some(Revision(committed)));
        }
    }

    #[test]
    fn news_is_what_the_api_server_does_not_know() {
        let mut watermark = Watermark::new();
        assert!(!watermark.is_news());
        assert_eq!(watermark.say(), Some(Revision::ZERO), "a heartbeat before the first commit");
        watermark.commit(Revision(7));
        assert!(watermark.is_news());
        let said = watermark.say().unwrap();
        watermark.commit(Revision(9));
        watermark.taken(said);
        assert!(watermark.is_news(), "9 came while 7 was being said");
    }
}
