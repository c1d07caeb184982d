//! router (skeleton).
