//! The ack ledger and the Pod's end-of-life state machine: pure, no I/O.
pub mod answers;
pub mod end_of_life;
pub mod ledger;
