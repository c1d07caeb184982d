//! presence (skeleton).
