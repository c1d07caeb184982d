//! The weighted proxy.
