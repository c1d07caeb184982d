//! families (skeleton).
