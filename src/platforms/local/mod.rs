//! One server: revisions as real processes behind an embedded weighted proxy.
pub mod process;
pub mod proxy;
