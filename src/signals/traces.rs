//! Traces as evidence: what spans say about the revisions that made them.
//!
//! Whatever brings them (the receiver, a trace store that is asked), spans come as [`ServerSpan`]s: what is counted of a
//! span and nothing else.

pub mod span;

pub use span::{ServerSpan, SpanError, TraceId};
