//! What Wade decides, as an operator would read it: golden timelines, the table of legal moves, and random walks.
//!
//! A story is a few scripted lines (who does what, when) against a small world that obeys; the engine is asked exactly
//! when it said it wants to be asked again. What comes out is one line per event with its sentence. Regenerating a
//! golden is a decision: read the difference.

mod hooks;
mod moves;
mod no_data;
mod people;
mod plans;
mod retreats;
mod story;
mod strategies;
mod trouble;
mod walks;
mod windows;
