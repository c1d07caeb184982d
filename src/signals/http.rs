//! The one place that builds HTTP clients, and the reading of bodies with a limit.
//!
//! One place, because every client has to make the same promises: no redirects (a metrics URL that redirects is a
//! login page), no proxy from the environment (pods and metrics servers are inside), timeouts, Wade's name, and
//! rustls with the ring provider.

use std::sync::Once;
use std::time::Duration;

use reqwest::{Client, ClientBuilder, Response, redirect};

use crate::signals::{NoMeasurement, NoMeasurementKind};

/// How long a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a whole request may take where the caller sets nothing shorter.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How many idle connections are kept per host.
const IDLE_PER_HOST: usize = 2;

/// Why a client could not be built.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client could not be set up; check the CA certificates of this machine (or the `ca` given)")]
pub struct ClientError(#[source] reqwest::Error);

/// A client that trusts what this machine trusts.
///
/// # Errors
/// [`ClientError`] if the machine's certificates cannot be read.
pub fn http_client() -> Result<Client, ClientError> {
    http_client_trusting(&[])
}

/// A client that also trusts the certificates in `ca_pem` (PEM, any number; empty for none).
///
/// # Errors
/// [`ClientError`] if the certificates cannot be read.
pub fn http_client_trusting(ca_pem: &[u8]) -> Result<Client, ClientError> {
    let certificates = match ca_pem {
        [] => Vec::new(),
        pem => reqwest::Certificate::from_pem_bundle(pem).map_err(ClientError)?,
    };
    let builder = || builder().timeout(REQUEST_TIMEOUT);
    builder()
        .tls_certs_merge(certificates.clone())
        .build()
        .or_else(|error| {
            // A slim image has no certificates at all. Pods are asked by plain HTTP; whoever is asked by HTTPS is then
            // refused one by one, by name.
            tracing::info!(%error, "this machine trusts no certificates; only those that were given are trusted");
            builder().tls_certs_only(certificates).build()
        })
        .map_err(ClientError)
}

/// What every client here has in common, without a limit on the whole request: for callers that follow a stream.
pub fn builder() -> ClientBuilder {
    install_tls_provider();
    Client::builder()
        .user_agent(concat!("wade/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST)
}

/// Makes ring the provider of this process unless another was installed; repeating it is harmless.
fn install_tls_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Err means that the embedding program installed one before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// [`NoMeasurement`] naming `what` if it is longer (nothing beyond the limit is read), slow or broken.
pub async fn bounded_body(mut response: Response, limit: usize, what: &str) -> Result<Vec<u8>, NoMeasurement> {
    let too_large = || {
        let reason = format!(
            "{what} answered with more than {} MiB, the limit; ask for fewer series",
            limit >> 20
        );
        NoMeasurement::new(NoMeasurementKind::TooLarge, reason)
    };
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| transport_failure(&error, what))?
    {
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A failed request in words.
pub fn transport_failure(error: &reqwest::Error, what: &str) -> NoMeasurement {
    if error.is_timeout() {
        return NoMeasurement::new(
            NoMeasurementKind::Slow,
            format!("{what} did not answer in time; is it overloaded?"),
        );
    }
    // The innermost cause is what a person can act on ("connection refused"); the outer ones repeat the URL.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let reason = format!("{what} cannot be reached ({cause}); check the address and that it is running");
    NoMeasurement::new(NoMeasurementKind::Unreachable, reason)
}

/// Refuses every status but success, in words.
///
/// # Errors
/// [`NoMeasurement`] naming `what` and the status.
pub fn success(response: Response, what: &str) -> Result<Response, NoMeasurement> {
    let status = response.status();
    let (kind, reason) = match status.as_u16() {
        200..=299 => return Ok(response),
        300..=399 => (
            NoMeasurementKind::Redirected,
            format!("{what} redirects ({status}), which is not followed; give the final address"),
        ),
        401 | 403 => (
            NoMeasurementKind::Denied,
            format!("{what} refused Wade's credentials ({status}); check the token or user"),
        ),
        _ => (
            NoMeasurementKind::Refused,
            format!("{what} answered {status}; check the address and path"),
        ),
    };
    Err(NoMeasurement::new(kind, reason))
}
