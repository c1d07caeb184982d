//! Connections: who is slow is let go, who is many is bounded, and certificates are read again.

use std::net::SocketAddr;
use std::path::Path;

use axum::routing::get;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::DropGuard;

use super::*;
use crate::clock::stopwatch;

fn quick() -> Transport {
    Transport {
        head_within: Duration::from_millis(200),
        handshake_within: Duration::from_millis(200),
        write_within: Duration::from_millis(300),
        look: Duration::from_millis(20),
        ..Transport::default()
    }
}

/// `/` answers who asks, `/flood` never ends.
fn app() -> Router {
    let flood = || async {
        let chunks =
            futures_util::stream::repeat_with(|| Ok::<_, Infallible>(bytes::Bytes::from(vec![b'x'; 64 * 1024])));
        Body::from_stream(chunks)
    };
    let whoami = |request: axum::extract::Request| async move {
        request.extensions().get::<Peer>().expect("a peer").0.ip().to_string()
    };
    Router::new().route("/", get(whoami)).route("/flood", get(flood))
}

async fn start(files: Option<TlsFiles>, transport: Transport) -> (SocketAddr, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, files, app(), transport, stop.clone()));
    (address, stop.drop_guard())
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> String {
    let request = b"GET / HTTP/1.1\r\nhost: wade\r\nconnection: close\r\n\r\n";
    let _ = stream.write_all(request).await;
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    text
}

/// How long until the other end closes.
async fn closed(mut stream: TcpStream) -> Duration {
    let began = stopwatch();
    let mut rest = Vec::new();
    let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "it is never closed");
    began.elapsed()
}

#[tokio::test]
async fn without_certificates_only_loopback_is_served() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = serve(listener, None, app(), quick(), CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(refused.kind, ProblemKind::Invalid);
    assert!(
        refused.message.contains("without TLS") && refused.message.contains("api.tls.cert"),
        "{refused}"
    );
    let (address, _stop) = start(None, quick()).await;
    assert!(
        ask(TcpStream::connect(address).await.unwrap())
            .await
            .ends_with("127.0.0.1")
    );
}

#[tokio::test]
async fn who_sends_slowly_or_nothing_is_let_go_and_others_are_answered_meanwhile() {
    let (address, _stop) = start(None, quick()).await;
    let silent = TcpStream::connect(address).await.unwrap();
    let mut drip = TcpStream::connect(address).await.unwrap();
    let dripping = async {
        let began = stopwatch();
        for byte in b"GET / HTTP/1.1\r\nhost: wade\r\nx: ".iter().chain(&[b'y'; 1000]) {
            if drip.write_all(&[*byte]).await.is_err() || began.elapsed() > Duration::from_secs(5) {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        began.elapsed()
    };
    let (silence, drips, answer) = tokio::join!(closed(silent), dripping, async {
        ask(TcpStream::connect(address).await.unwrap()).await
    });
    assert!(silence < Duration::from_secs(2), "{silence:?}");
    assert!(
        drips < Duration::from_secs(2),
        "a drop now and then does not keep the door open: {drips:?}"
    );
    assert!(answer.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn who_does_not_read_is_let_go() {
    let (address, _stop) = start(None, quick()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /flood HTTP/1.1\r\nhost: wade\r\n\r\n")
        .await
        .unwrap();
    sleep(Duration::from_millis(1500)).await;
    // What was on its way can still be read; then it ends, though the answer never does.
    let mut read = 0_usize;
    let mut buffer = vec![0; 1 << 20];
    let drained = async {
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            read += count;
        }
    };
    timeout(Duration::from_secs(10), drained).await.expect("it was let go");
    assert!(read < 64 << 20, "{read}");
}

#[tokio::test]
async fn heads_are_bounded_and_one_address_has_its_share() {
    let transport = Transport {
        per_address: 3,
        head_within: Duration::from_secs(20),
        ..quick()
    };
    let (address, _stop) = start(None, transport).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let long = format!("GET / HTTP/1.1\r\nhost: wade\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    let _ = stream.write_all(long.as_bytes()).await;
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    assert!(!text.contains(" 200 "), "{text}");
    drop(stream);

    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    sleep(Duration::from_millis(100)).await;
    assert_eq!(
        ask(TcpStream::connect(address).await.unwrap()).await,
        "",
        "the fourth is closed"
    );
    drop(held);
    sleep(Duration::from_millis(100)).await;
    assert!(
        ask(TcpStream::connect(address).await.unwrap())
            .await
            .starts_with("HTTP/1.1 200"),
        "and gets in later"
    );
}

#[tokio::test]
async fn a_stop_ends_what_would_never_end() {
    let (address, stop) = start(None, quick()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /flood HTTP/1.1\r\nhost: wade\r\n\r\n")
        .await
        .unwrap();
    stream.read_u8().await.unwrap();
    drop(stop);
    let mut buffer = vec![0; 1 << 20];
    let drained = async { while let Ok(1..) = stream.read(&mut buffer).await {} };
    timeout(Duration::from_secs(5), drained).await.expect("it ends");
}

fn certs(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/daemon/otlp/certs")
        .join(name)
}

/// Which of the test's certificates is shown, and an answer that is served behind it.
async fn shown(address: SocketAddr) -> &'static str {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(certs("ca.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector
        .connect(name, stream)
        .await
        .expect("a certificate of our authority");
    let shown = stream.get_ref().1.peer_certificates().expect("one was shown")[0].clone();
    assert!(ask(stream).await.contains("200 OK"));
    let of = |name: &str| CertificateDer::from_pem_file(certs(name)).unwrap();
    ["server.pem", "client.pem"]
        .into_iter()
        .find(|name| of(name) == shown)
        .expect("one of the two")
}

#[tokio::test]
async fn certificates_are_read_again_and_a_broken_pair_is_no_outage() {
    let folder = tempfile::tempdir().unwrap();
    let files = TlsFiles {
        cert: folder.path().join("tls.crt"),
        key: folder.path().join("tls.key"),
        client_ca: None,
    };
    let put = |from: &str, to: &Path| {
        // Moved into place, as a Secret's files are.
        let new = folder.path().join("new");
        std::fs::copy(certs(from), &new).unwrap();
        std::fs::rename(&new, to).unwrap();
    };
    put("server.pem", &files.cert);
    put("server.key", &files.key);
    let (address, _stop) = start(Some(files.clone()), quick()).await;
    let plain = ask(TcpStream::connect(address).await.unwrap()).await;
    assert!(!plain.contains("200 OK"), "no plain HTTP beside it: {plain}");
    assert_eq!(shown(address).await, "server.pem");

    // A pair that does not fit, then no certificate at all: the old pair stays.
    put("client.pem", &files.cert);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(shown(address).await, "server.pem");
    std::fs::write(&files.cert, "nonsense").unwrap();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(shown(address).await, "server.pem");

    // A pair that can be used is used.
    put("client.pem", &files.cert);
    put("client.key", &files.key);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(shown(address).await, "client.pem");

    put("server.pem", &files.cert);
    put("server.key", &files.key);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(shown(address).await, "server.pem");
}
