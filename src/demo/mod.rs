//! What `wade demo` needs of the world: a service worth deploying and people who use it.
//!
//! Both are real (a listening process, real connections), small, and seeded; neither knows anything of releases. The
//! demo's story is told in [`run`]; its props, [`sample`] and [`load`], are used by end-to-end tests as well.
pub mod load;
pub mod run;
pub mod sample;

pub use run::{Options, run};
