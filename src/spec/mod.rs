//! The Rollout as the user writes it: read strictly, every fault at once.
pub mod rollout;
pub mod values;
pub mod windows;

pub use rollout::*;
pub use values::{Allow, Bytes, Percent, Span, Weight};
