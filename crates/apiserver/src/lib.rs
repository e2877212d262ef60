//! HTTP, authentication, authorization, admission, watch, discovery and OpenAPI.
//!
//! [`ApiServer`] answers the Kubernetes API over a [`hitless_store::Store`]. Everything that it knows of a kind is one row in
//! [`hitless_types::kinds`]; there is no list of kinds here, only rules that Kubernetes ties to single kinds
//! (Pods are bound and evicted, Services get addresses, namespaces end in two steps).
//!
//! The way of a request: `serve` (TLS, identity) -> `server` (routing, authorization) -> `read`, `watch`, `write`, `delete`
//! or a subresource -> the store.

mod admission;
mod apply;
mod auth;
mod binding;
mod body;
mod bootstrap;
mod clusterip;
mod codec;
mod core;
mod delete;
mod discovery;
mod eviction;
mod expiry;
mod fault;
mod lean;
mod logs;
mod metrics;
mod negotiate;
mod nodeport;
mod openapi;
mod options;
pub mod pki;
mod protobuf;
mod query;
mod read;
mod reply;
mod route;
mod scale;
mod serve;
mod server;
mod strategy;
mod streaming;
mod subresources;
mod table;
mod token_request;
mod tokens;
mod volatile;
mod watch;
mod write;

pub use auth::Identity;
pub use fault::Fault;
pub use options::{Limits, Options};
pub use server::{ApiServer, InProcess, StartError};
pub use tokens::TokenKey;
