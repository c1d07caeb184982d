//! Wade: progressive rollout with automatic rollback. (The map follows.)
pub mod clock;
pub mod judge;
pub mod platforms;
pub mod signals;
pub mod spec;
