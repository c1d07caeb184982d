//! http (skeleton).
