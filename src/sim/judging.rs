//! Trials of the judge: how often does it take back what is healthy, how soon what is not, and how fast does a good
//! release reach everybody?
//!
//! The numbers that the documentation promises come from here, and `wade judge simulate` prints them again: releases
//! of [`scenarios`] are played second by second ([`service`], [`trial`]) before a judge with given [`settings`], and
//! counted ([`count`]). A seed is a release; the same ones are shown to every setting. The judge is the real one;
//! engine, platforms and sources are not here: [`crate::sim`] is about these.
//!
//! Healthy is what differs from stable by chance alone or within what is allowed. Nothing here is fitted to a service:
//! who wants to know about their own replays its past.

pub mod count;
pub mod early;
pub mod lines;
pub mod promote;
pub mod scenarios;
pub mod service;
pub mod settings;
pub mod speed;
pub mod trial;

#[cfg(test)]
mod tests;
