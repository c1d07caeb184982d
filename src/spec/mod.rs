//! Rollout as the user writes it.
