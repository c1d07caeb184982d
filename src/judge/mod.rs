//! The judge: observations in, verdict with evidence out.
pub mod observation;
