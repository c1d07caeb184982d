//! Helpers of the tests (skeleton).
