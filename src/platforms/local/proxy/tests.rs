//! The proxy as its neighbours see it: real sockets on loopback, real backends, nothing of its inside.

mod endings;
mod endpoints;
mod harness;
mod http1;
mod protocols;
mod routing;
