//! Certificates of the receiver, and of those who may send to it.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::TlsFiles;
use crate::daemon::api::{Problem, ProblemKind};

/// What answers a handshake, with client certificates required where an authority is named. `place` is where the files
/// are named (`otlp.tls`), for messages; `protocols` are those that are spoken afterwards, the best first.
pub(crate) fn acceptor(files: &TlsFiles, place: &str, protocols: &[&str]) -> Result<TlsAcceptor, Problem> {
    let unfit = |field: &str, path: &Path, what: String| unfit(place, field, path, &what);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unfit("cert", &files.cert, error.to_string()))?;
    let config = match &files.client_ca {
        None => config.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(place, "clientCa", path)? {
                roots
                    .add(authority)
                    .map_err(|error| unfit("clientCa", path, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| unfit("clientCa", path, error.to_string()))?;
            config.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| {
        unfit(
            "key",
            &files.key,
            format!("{error}; name a PEM file with a private key"),
        )
    })?;
    let mut config = config
        .with_single_cert(certificates(place, "cert", &files.cert)?, key)
        .map_err(|error| unfit("cert", &files.cert, error.to_string()))?;
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(place: &str, field: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let unfit = |what: String| {
        unfit(
            place,
            field,
            path,
            &format!("{what}; name a PEM file with certificates"),
        )
    };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unfit(error.to_string()))?;
    if found.is_empty() {
        return Err(unfit("there is no certificate in it".to_owned()));
    }
    Ok(found)
}

fn unfit(place: &str, field: &str, path: &Path, what: &str) -> Problem {
    Problem {
        kind: ProblemKind::Invalid,
        message: format!("{place}.{field} {}: {what}", path.display()),
    }
}
