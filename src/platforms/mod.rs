//! What carries revisions: one adapter per platform.
pub mod local;
