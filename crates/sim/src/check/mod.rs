//! What must hold, whatever the faults: rules that are checked with every fact, by code that the product does not contain.
//!
//! [`view::View`] is what a bystander knows who reads the disk, looks at the kernels and sees the processes. The rules are about that, and
//! know nothing of how the product comes to its decisions. Each rule names the line of the closed loop that it holds.

mod ends;
mod reach;
mod service;
mod view;
mod watermark;

#[cfg(test)]
mod tests;

use std::time::Duration;

use self::{ends::Ends, reach::Reach, service::Service, view::View, watermark::Watermarks};
use crate::world::Fact;

/// All rules, and what broke them.
#[derive(Default)]
pub struct Checkers {
    /// In the order in which they were seen.
    pub violations: Vec<String>,
    view: View,
    reach: Reach,
    ends: Ends,
    service: Service,
    watermarks: Watermarks,
}

impl Checkers {
    /// Takes a fact in.
    pub fn see(&mut self, now: Duration, fact: &Fact) {
        self.watermarks.see(&self.view, fact, &mut self.violations);
        let before = self.view.take(now, fact);
        self.reach.see(&self.view, now, fact, before.as_deref(), &mut self.violations);
        self.ends.see(&self.view, now, fact, &mut self.violations);
        self.service.see(&self.view, now, fact, &mut self.violations);
    }

    /// What must be true at the end, when all faults are mended and everything has come to rest.
    pub fn end(&mut self, now: Duration) {
        self.reach.end(&self.view, &mut self.violations);
        self.ends.end(&self.view, now, &mut self.violations);
    }
}
