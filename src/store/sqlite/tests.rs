//! Claims about the store.
