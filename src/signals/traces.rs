//! Traces as evidence: what spans say about the revisions that made them.
//!
//! Whatever brings them (the receiver, a trace store that is asked), spans come as [`ServerSpan`]s: what is counted of a
//! span and nothing else. The [`TraceBook`] of a service counts them at once, per revision and operation, and forgets
//! them; [`WithTraces`] hands the counts to the judge beside everything else that is measured.
//!
//! Only spans of kind server are counted: one per request that a revision answered. Client spans are other services'
//! words about it, consumer spans have no canary's share of the traffic to be compared by.
//!
//! Traces are a sample of what users met, drawn by whoever makes them. So they may fail a release or hold it, and never
//! pass it: the judge asks other counts for that.
//!
//! Reading order: [`span`], [`normal`] (names and messages without what differs), [`attribution`] (whose span), [`book`]
//! (the counts), [`telemetry`] (what is counted about it), [`store`] (a store that is asked: [`jaeger`], [`tempo`]).

pub mod attribution;
pub mod book;
pub mod hub;
pub mod jaeger;
pub mod normal;
pub mod otlp;
pub mod span;
pub mod store;
pub mod telemetry;
pub mod tempo;
mod with;

pub use attribution::{Belongs, Names, Rule};
pub use book::TraceBook;
pub use hub::TraceHub;
pub use span::{ServerSpan, SpanError, TraceId};
pub use telemetry::{Count, Telemetry};
pub use with::WithTraces;

pub use crate::judge::observation::TRACES;
