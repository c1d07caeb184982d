//! The real binary on real processes: killed, stopped, asked the wrong way, and told what to do by people.
//!
//! Each test has a folder with a daemon of its own (`yard`) and leaves no process behind. `crash` is the one that
//! kills the daemon again and again; its seed is printed, and `WADE_CRASH_SEED=7 cargo test --test platforms crash --
//! --nocapture` chooses it.

#[path = "platforms/yard.rs"]
mod yard;

#[path = "platforms/commands.rs"]
mod commands;
#[path = "platforms/crash.rs"]
mod crash;
#[path = "platforms/disk.rs"]
mod disk;
#[path = "platforms/doors.rs"]
mod doors;
#[path = "platforms/jaeger.rs"]
mod jaeger;
#[path = "platforms/logs.rs"]
mod logs;
#[path = "platforms/stops.rs"]
mod stops;
