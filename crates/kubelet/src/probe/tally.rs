//! From single probes to a verdict: thresholds. Pure.

/// Counts equal results in a row.
#[derive(Clone, Debug)]
pub struct Tally {
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    run: u32,
}

impl Tally {
    /// Thresholds below one count as one.
    #[must_use]
    pub fn new(success_threshold: u32, failure_threshold: u32) -> Self {
        Self {
            success_threshold: success_threshold.max(1),
            failure_threshold: failure_threshold.max(1),
            last: None,
            run: 0,
        }
    }

    /// Takes one result; gives the verdict while it stands, `None` below the threshold.
    pub fn push(&mut self, success: bool) -> Option<bool> {
        if self.last == Some(success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(success);
            self.run = 1;
        }
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        (self.run >= threshold).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_need_as_many_in_a_row_as_was_asked() {
        let mut t = Tally::new(2, 3);
        let results = [true, false, true, true, false, false, false, false, true, true];
        let verdicts: Vec<_> = results.into_iter().map(|r| t.push(r)).collect();
        let (y, n) = (Some(true), Some(false));
        assert_eq!(verdicts, [None, None, None, y, None, None, n, n, None, y]);
    }
}
