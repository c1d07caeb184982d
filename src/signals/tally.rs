//! tally (skeleton).
