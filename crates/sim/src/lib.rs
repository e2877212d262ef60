//! The simulation: the cluster's own control code on virtual time, seeded, with faults, and checkers that share no code with it.
//!
//! What runs is the product: API server with its router, controllers, scheduler, kubelets, service proxies. What is simulated are
//! the ports: disk, kernel, container runtime, network, and (see [`machine`]) random numbers and clocks. One seed is one
//! [`plan::Plan`]; one run of it is one [`run::Outcome`], the same each time.
//!
//! `hitless-sim run SEED` shows one run, `hitless-sim sweep` makes many, each in a process of its own.

mod check;
pub mod cluster;
pub mod disk;
pub mod kernel;
pub mod machine;
pub mod plan;
pub mod run;
pub mod runtime;
pub mod wire;
pub mod world;
