//! How releases, services and evidence look in a terminal: plain functions from values to text.
//!
//! Nothing here asks the daemon, the clock or the terminal, so every picture has a golden test. Colour is a tone on a
//! [`Line`], put on by whoever prints it; what is read in a pipeline's log is the same text without it. Text that came
//! from a service or another machine goes through [`numbers::clean`], because a log line of a failing service must not
//! play with an operator's terminal.
//!
//! Read [`line`] for the shape, [`timeline`] for what each event says, [`why`] for a whole record.

pub mod chart;
pub mod check;
pub mod evidence;
pub mod line;
pub mod numbers;
pub mod replay;
pub mod status;
pub mod table;
pub mod timeline;
pub mod why;

#[cfg(test)]
mod tests;

pub use line::{Line, Tone};
pub use timeline::{Context, Timeline, record_lines};
