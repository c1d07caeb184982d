//! prometheus (skeleton).
