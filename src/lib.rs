//! Wade ships a new version of a running service step by step and takes it back by itself if it is worse.
//!
//! This is the map. A release goes through the modules like this:
//!
//! ```text
//!   rollout.yaml ──► spec ──► plan ─────────────┐           what is asked, made complete; recorded with the release
//!                  (read,   (flat list          │
//!                  strict)   of stages)         ▼
//!   people ──commands──────────────────────► engine ──► next state, history entries, desired states, wake time
//!   processes, proxy ──► platforms ─World──►  decide(plan, state, facts, now)
//!   counters ─► signals ─► judge ──verdict─►    ▲  │
//!                                               │  ▼
//!                      controller:  observe → measure → judge → decide → record → act → wait
//!                                                                          │       │
//!                                                                        store   platforms
//! ```
//!
//! # The inner ring: plain synchronous functions over values
//! No runtime, no network, no clock, no chance; ordered maps wherever order shows. In reading order:
//!
//! * [`spec`]: the Rollout as a user writes it; read strictly, every fault at once with its line.
//! * [`plan`]: from a Rollout to a flat list of stages, everything defaulted and nothing implied.
//! * [`engine`]: the one function that moves a release, the table of legal moves, and what should hold in each state.
//! * [`judge`]: increments of counters in, a verdict with its evidence out.
//!
//! # The outer ring: adapters that touch the world
//! Imports point inwards only.
//!
//! * [`apiserver`]: a Kubernetes API server: requests, watches, objects as values.
//! * [`signals`]: where the judge's increments come from (the proxy, the processes' `/metrics`, Prometheus).
//! * [`platforms`]: what carries revisions: a Deployment on Kubernetes, or real processes behind Wade's own proxy; and the
//!   author's own jobs beside either.
//! * [`smoke`]: the questions a new revision answers before it meets a user.
//! * [`store`]: the record, written before anything is done: SQLite, or a ConfigMap with a Lease.
//! * [`controller`]: one release, pass by pass. The order in which a pass does things is where the promises come from.
//! * [`notify`]: telling Slack and webhooks what a release does, without ever holding it up.
//! * [`telemetry`]: metrics, Kubernetes Events, a trace per release and JSON logs, beside the release as well.
//! * [`daemon`]: many releases on one machine, the API, what happens after a crash.
//! * [`cluster`]: one release at a time on Kubernetes, carried by the step of a pipeline, without a daemon.
//! * [`crd`]: the custom resources of a daemon in a cluster, from the types.
//! * [`operator`]: that daemon: whatever changes a Deployment becomes a release of `cluster`'s, whoever changed it.
//! * [`install`]: what such a daemon is made of, as manifests, a chart and `wade install`.
//! * [`api`]: the HTTP API that may be exposed: who calls, may they, how much, and what they are told.
//! * [`cli`]: one file per verb; whatever a verb can do, any program can do through the API.
//!
//! # Around them
//! * [`clock`]: the one place that asks the machine for the time.
//! * [`redact`]: other people's text without passwords, tokens and keys.
//! * [`sim`]: the unchanged controller in virtual time, in a world where everything that can go wrong does.
//! * [`replay`]: a past period judged again by the present settings.
//! * [`demo`]: a service worth deploying, people who use it, and the story told by `wade demo`.
//!
//! Decisions, and what was rejected, are in `docs/architecture.md`; how to change things, in `docs/hacking.md`.

pub mod api;
pub mod apiserver;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod controller;
pub mod crd;
pub mod daemon;
pub mod demo;
pub mod engine;
pub mod install;
pub mod judge;
pub mod notify;
pub mod operator;
pub mod plan;
pub mod platforms;
pub mod redact;
pub mod replay;
pub mod signals;
pub mod sim;
pub mod smoke;
pub mod spec;
pub mod store;
pub mod telemetry;

#[cfg(test)]
mod docs_test;
