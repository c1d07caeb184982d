//! Wade: progressive rollout with automatic rollback. (The map follows.)
pub mod cli;
pub mod clock;
pub mod controller;
pub mod daemon;
pub mod demo;
pub mod engine;
pub mod judge;
pub mod plan;
pub mod platforms;
pub mod signals;
pub mod sim;
pub mod smoke;
pub mod spec;
pub mod store;
