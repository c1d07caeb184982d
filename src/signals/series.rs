//! series (skeleton).
