//! The receiver, asked by real senders and by hostile ones.
