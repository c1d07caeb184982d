//! Wade on a real Kubernetes node: real controllers, containers, Gateway and Prometheus; see `node/` beside this file.
//!
//! Every test needs that node and is ignored without it, so that `cargo test` stays what it is. `just cluster-test`
//! brings the node up, runs them all inside its network and takes it down; `just cluster-test baseline` runs the ones
//! of that name. While working, `just cluster-up` once, and the node is used and stays until `just cluster-down`.
//!
//! What a test stands on lies in `support`: a namespace of its own, clients that count every answer, a recorder that
//! watches from outside, and the real `wade` as a process. None of it uses Wade's own Kubernetes client: what checks
//! must not share a mistake with what is checked.

#[allow(dead_code, reason = "a toolbox: not every tool is in use while the suite grows")]
mod support;

mod api;
mod bad;
mod baseline;
mod broken;
mod daemon;
mod daemon_outages;
mod daemon_scale;
mod gitops;
mod hands;
mod harness;
mod healthy;
mod install;
mod jobs;
mod killed;
mod meddling;
mod order;
mod others;
mod outages;
mod permissions;
mod rights;
mod room;
mod rules;
mod soak;
mod stages;
mod telemetry;
mod ways;
