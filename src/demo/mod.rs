//! What `wade demo` needs of the world: a service worth deploying and people who use it.
//!
//! Both are real (a listening process, real connections), small, and seeded; neither knows anything of releases. Its
//! stories are told in [`run`] (six versions, good and bad) and [`traces`] (a fault that hides in one operation), on the
//! [`stage`] that both share; the props, [`sample`] and [`load`], are used by end-to-end tests as well.
pub mod load;
pub mod run;
pub mod sample;
mod stage;
pub mod traces;

pub use run::run;
pub use stage::Options;
