//! Nodes on a real machine: network namespaces, cgroups, containerd, runc and CNI as they come.
//!
//! Each test has a cluster of its own in a network namespace of its own, which stands for the machine's, so nothing of the
//! machine's own network is touched; and its guard takes everything away, also when the test fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "this is a test: a panic is how it fails")]

mod lab;
mod life;
mod network;
mod ruin;
