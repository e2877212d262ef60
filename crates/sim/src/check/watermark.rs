//! A watermark is true, and never falls.
//!
//! Rule 2 of the closed loop: when a service proxy says R, its kernel routes what the disk said at R or at some later revision.

use std::collections::BTreeMap;

use super::view::View;
use crate::world::Fact;

#[derive(Default)]
pub(super) struct Watermarks {
    /// The highest word of each incarnation.
    said: BTreeMap<String, u64>,
}

impl Watermarks {
    pub(super) fn see(&mut self, view: &View, fact: &Fact, violations: &mut Vec<String>) {
        let Fact::Said { consumer, incarnation, revision } = fact else { return };
        let highest = self.said.entry(incarnation.clone()).or_default();
        if *revision < *highest {
            violations.push(format!("the watermark of {consumer} falls from {highest} to {revision}"));
        }
        *highest = (*highest).max(*revision);
        let kernel = consumer.strip_prefix("service-proxy-").and_then(|node| view.kernels.get(node));
        // Zero is a sign of life before the first commit.
        let Some(kernel) = kernel.filter(|_| *revision > 0) else { return };
        let from = view.wanted.partition_point(|(at, _)| at <= revision).saturating_sub(1);
        if !view.wanted.iter().skip(from).any(|(_, wanted)| *wanted == *kernel.routes) {
            let wanted = view.wanted.get(from).map(|(_, wanted)| wanted);
            violations.push(format!(
                "{consumer} says {revision}, and its kernel routes {:?} where {wanted:?} was wanted then",
                kernel.routes
            ));
        }
    }
}
