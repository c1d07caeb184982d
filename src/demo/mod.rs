//! What `wade demo` needs of the world: a service worth deploying and people who use it.
//!
//! Both are real (a listening process, real connections), small, and seeded; neither knows anything of releases. The
//! demo's story is told elsewhere: here are only its props, which end-to-end tests use as well.
pub mod load;
pub mod sample;
