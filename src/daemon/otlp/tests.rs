//! The receiver, asked by real senders and by hostile ones.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry::trace::{Span as _, SpanKind, Status as SpanStatus, Tracer, TracerProvider};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use opentelemetry_sdk::trace::SdkTracerProvider;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::codec::CompressionEncoding;

use super::*;
use crate::clock::SystemClock;
use crate::judge::observation::{Increment, Sides};
use crate::signals::http::http_client;
use crate::signals::traces::{Names, Rule, TraceBook};

/// A receiver on free ports, and the book of the rollout `shop`.
struct Scene {
    grpc: SocketAddr,
    http: SocketAddr,
    book: TraceBook,
    hub: TraceHub,
    client: reqwest::Client,
    stop: CancellationToken,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Scene {
    async fn new(change: impl FnOnce(&mut OtlpSetup)) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut setup = OtlpSetup {
            grpc: Some(any),
            http: Some(any),
            ..OtlpSetup::default()
        };
        change(&mut setup);
        let hub = TraceHub::default();
        let book = hub.book(Rule::of("shop"));
        let names = |id: &str, version: &str| {
            Some(Names {
                id: id.to_owned(),
                version: version.to_owned(),
                replica_set: None,
            })
        };
        book.set_sides(Sides {
            canary: names("shop-2", "2.0"),
            stable: names("shop-1", "1.0"),
        });
        let receiver = Receiver::open(&setup, hub.clone(), Arc::new(SystemClock))
            .await
            .unwrap();
        let [grpc, http] = receiver.addresses().map(|address| address.unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(receiver.serve(stop.clone()));
        Self {
            grpc,
            http,
            book,
            hub,
            client: http_client().unwrap(),
            stop,
        }
    }

    fn post(&self, kind: &str, body: Vec<u8>) -> reqwest::RequestBuilder {
        self.client
            .post(format!("http://{}/v1/traces", self.http))
            .header("content-type", kind)
            .body(body)
    }

    async fn grpc(&self) -> TraceServiceClient<tonic::transport::Channel> {
        TraceServiceClient::connect(format!("http://{}", self.grpc))
            .await
            .unwrap()
    }

    /// The canary's requests and errors of an operation since the last call.
    fn counted(&self, operation: &str) -> Option<(f64, f64)> {
        match self.book.take().canary {
            Some(Increment::Operations(all)) => all
                .by_name
                .get(operation)
                .map(|counts| (counts.requests, counts.errors)),
            _ => None,
        }
    }

    fn count(&self, count: Count) -> u64 {
        self.hub.telemetry().get(count)
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    }
}

/// A request of the canary's with so many spans, each failing.
fn request(spans: usize) -> ExportTraceServiceRequest {
    let now = SystemClock.now().as_nanosecond() as u64;
    let span = Span {
        trace_id: vec![7; 16],
        span_id: vec![7; 8],
        name: "POST /pay".to_owned(),
        kind: 2,
        start_time_unix_nano: now - 1_000_000,
        end_time_unix_nano: now,
        status: Some(opentelemetry_proto::tonic::trace::v1::Status {
            code: 2,
            message: "refused".to_owned(),
        }),
        ..Span::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![text("service.name", "shop"), text("service.version", "2.0")],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                spans: vec![span; spans],
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn token_file(folder: &Path) -> PathBuf {
    let path = folder.join("token");
    std::fs::write(&path, "a-long-random-token\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn certs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/daemon/otlp/certs")
        .join(name)
}

const PROTOBUF: &str = "application/x-protobuf";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_of_the_opentelemetry_sdk_arrive() {
    let scene = Scene::new(|_| {}).await;
    let url = format!("http://{}/v1/traces", scene.http);
    let sender = tokio::task::spawn_blocking(move || {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_endpoint(url)
            .build()
            .unwrap();
        let resource = opentelemetry_sdk::Resource::builder_empty()
            .with_attributes([
                opentelemetry::KeyValue::new("service.name", "shop"),
                opentelemetry::KeyValue::new("service.version", "2.0"),
            ])
            .build();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter)
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("test");
        let mut span = tracer
            .span_builder("POST /pay")
            .with_kind(SpanKind::Server)
            .start(&tracer);
        span.record_error(&std::io::Error::other("upstream refused"));
        span.set_status(SpanStatus::error("refused"));
        span.end();
        provider.shutdown().unwrap();
    });
    sender.await.unwrap();
    assert_eq!(scene.counted("POST /pay"), Some((1.0, 1.0)));
    assert_eq!(scene.count(Count::Accepted), 1);
}

#[tokio::test]
async fn both_protocols_and_encodings_take_gzip_and_tell_what_was_of_no_use() {
    let scene = Scene::new(|_| {}).await;
    let mut body = request(3);
    body.resource_spans[0].scope_spans[0].spans[0].trace_id = vec![0; 16];

    let answer = scene.post(PROTOBUF, body.encode_to_vec()).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), scene.counted("POST /pay")),
        (200, Some((2.0, 2.0)))
    );
    let answer = opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse::decode(
        answer.bytes().await.unwrap(),
    );
    assert_eq!(answer.unwrap().partial_success.unwrap().rejected_spans, 1);

    let json = serde_json::to_vec(&body).unwrap();
    let answer = scene
        .post("application/json; charset=utf-8", gzip(&json))
        .header("content-encoding", "gzip")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (answer.status().as_u16(), scene.counted("POST /pay")),
        (200, Some((2.0, 2.0)))
    );
    let answer: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(answer["partialSuccess"]["rejectedSpans"], "1");

    let mut client = scene.grpc().await;
    let answer = client.export(body.clone()).await.unwrap().into_inner();
    assert_eq!(answer.partial_success.unwrap().rejected_spans, 1);
    assert_eq!(scene.counted("POST /pay"), Some((2.0, 2.0)));
    let mut client = client.send_compressed(CompressionEncoding::Gzip);
    let answer = client.export(request(1)).await.unwrap().into_inner();
    assert_eq!(
        (answer.partial_success, scene.counted("POST /pay")),
        (None, Some((1.0, 1.0)))
    );
    assert_eq!((scene.count(Count::Accepted), scene.count(Count::Partial)), (1, 3));
}

#[tokio::test]
async fn what_is_no_request_is_refused_in_words() {
    let scene = Scene::new(|_| {}).await;
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    let client = &scene.client;
    assert_eq!(
        status(client.get(format!("http://{}/v1/traces", scene.http))).await,
        405
    );
    assert_eq!(status(client.post(format!("http://{}/v1/logs", scene.http))).await, 404);
    assert_eq!(status(scene.post("text/plain", b"{}".to_vec())).await, 415);
    assert_eq!(status(scene.post(PROTOBUF, b"hello".to_vec())).await, 400);
    assert_eq!(status(scene.post("application/json", b"{".to_vec())).await, 400);
    let encoded =
        |encoding: &str, body: &[u8]| scene.post(PROTOBUF, body.to_vec()).header("content-encoding", encoding);
    assert_eq!(status(encoded("zstd", b"")).await, 415);
    assert_eq!(status(encoded("gzip", b"no gzip")).await, 400);
    // A page in somebody's browser.
    assert_eq!(
        status(scene.post(PROTOBUF, vec![]).header("origin", "http://evil.example")).await,
        401
    );
    assert_eq!((scene.count(Count::Malformed), scene.count(Count::Denied)), (3, 1));
}

#[tokio::test]
async fn bodies_that_are_too_large_or_become_so_are_refused() {
    let scene = Scene::new(|_| {}).await;
    let status = async |request: reqwest::RequestBuilder| request.send().await.map(|answer| answer.status().as_u16());
    let large = vec![0; MAX_REQUEST_BYTES + 1];
    // A sender that is still sending may see a broken connection instead of the answer.
    assert!(!matches!(status(scene.post(PROTOBUF, large)).await, Ok(code) if code != 413));
    // 256 MiB in 256 KiB.
    let bomb = gzip(&vec![0; 256 << 20]);
    assert!(bomb.len() < MAX_REQUEST_BYTES);
    let posted = scene.post(PROTOBUF, bomb).header("content-encoding", "gzip");
    assert_eq!(status(posted).await.unwrap(), 413);
    assert_eq!(scene.count(Count::TooLarge), 2);

    let mut much = request(1);
    much.resource_spans[0].scope_spans[0].spans[0].name = "x".repeat(2 * MAX_REQUEST_BYTES);
    let error = scene.grpc().await.export(much.clone()).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::OutOfRange, "{error}");
    let mut packed = scene.grpc().await.send_compressed(CompressionEncoding::Gzip);
    let error = packed.export(much).await.unwrap_err();
    assert!(
        matches!(error.code(), tonic::Code::OutOfRange | tonic::Code::ResourceExhausted),
        "{error}"
    );
    assert_eq!(scene.count(Count::TooLarge), 4);
    assert_eq!(scene.counted("POST /pay"), None);
}

#[tokio::test]
async fn only_who_knows_the_token_may_send() {
    let folder = tempfile::tempdir().unwrap();
    let path = token_file(folder.path());
    let scene = Scene::new(|setup| setup.token_file = Some(path)).await;
    let body = request(1).encode_to_vec();
    for shown in [
        None,
        Some("Bearer wrong-wrong-wrong-wrong"),
        Some("a-long-random-token"),
    ] {
        let mut posted = scene.post(PROTOBUF, body.clone());
        if let Some(shown) = shown {
            posted = posted.header("authorization", shown);
        }
        assert_eq!(posted.send().await.unwrap().status().as_u16(), 401, "{shown:?}");
    }
    let error = scene.grpc().await.export(request(1)).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unauthenticated);
    assert_eq!((scene.count(Count::Denied), scene.counted("POST /pay")), (4, None));

    let right = scene
        .post(PROTOBUF, body)
        .header("authorization", "Bearer a-long-random-token");
    assert_eq!(right.send().await.unwrap().status().as_u16(), 200);
    let mut right = tonic::Request::new(request(1));
    right
        .metadata_mut()
        .insert("authorization", "Bearer a-long-random-token".parse().unwrap());
    scene.grpc().await.export(right).await.unwrap();
    assert_eq!(scene.counted("POST /pay"), Some((2.0, 2.0)));
}

#[tokio::test]
async fn too_many_spans_are_told_to_come_back() {
    let scene = Scene::new(|setup| setup.spans_per_second = Some(5)).await;
    let body = request(20).encode_to_vec();
    assert_eq!(
        scene
            .post(PROTOBUF, body.clone())
            .send()
            .await
            .unwrap()
            .status()
            .as_u16(),
        200
    );
    let answer = scene.post(PROTOBUF, body).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 429);
    let after: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=4).contains(&after), "{after}");
    let error = scene.grpc().await.export(request(1)).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::ResourceExhausted);
    // Without it the sender would not try again.
    let details = error.details();
    let name = b"google.rpc.RetryInfo";
    assert!(details.windows(name.len()).any(|part| part == name), "{details:?}");
    assert_eq!(scene.count(Count::Limited), 2);
}

#[tokio::test]
async fn off_loopback_it_does_not_start_without_a_token_or_client_certificates() {
    let open = async |change: fn(&mut OtlpSetup, &Path)| {
        let folder = tempfile::tempdir().unwrap();
        token_file(folder.path());
        let mut setup = OtlpSetup {
            http: Some("0.0.0.0:0".parse().unwrap()),
            ..OtlpSetup::default()
        };
        change(&mut setup, folder.path());
        Receiver::open(&setup, TraceHub::default(), Arc::new(SystemClock))
            .await
            .map(|_| ())
            .map_err(|problem| problem.message)
    };
    let refused = open(|_, _| {}).await.unwrap_err();
    assert!(
        refused.contains("otlp.http is 0.0.0.0:0") && refused.contains("tokenFile"),
        "{refused}"
    );
    // Encryption alone tells nobody from anybody.
    let refused = open(|setup, _| {
        setup.tls = Some(TlsFiles {
            cert: certs("server.pem"),
            key: certs("server.key"),
            client_ca: None,
        });
    });
    assert!(refused.await.is_err());
    assert_eq!(
        open(|setup, folder| setup.token_file = Some(folder.join("token"))).await,
        Ok(())
    );
    let known = open(|setup, _| {
        setup.tls = Some(TlsFiles {
            cert: certs("server.pem"),
            key: certs("server.key"),
            client_ca: Some(certs("ca.pem")),
        });
    });
    assert_eq!(known.await, Ok(()));
    let unfit = open(|setup, folder| {
        setup.tls = Some(TlsFiles {
            cert: folder.join("token"),
            key: certs("server.key"),
            client_ca: Some(certs("ca.pem")),
        });
    });
    let unfit = unfit.await.unwrap_err();
    assert!(unfit.contains("otlp.tls.cert") && unfit.contains("PEM"), "{unfit}");
}

/// One request over TLS by hand; the first line of the answer, if one came.
async fn over_tls(address: SocketAddr, client: Option<(&str, &str)>, body: &[u8]) -> Option<String> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(certs("ca.pem")).unwrap())
        .unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        None => config.with_no_client_auth(),
        Some((cert, key)) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(certs(cert)).unwrap()],
                PrivateKeyDer::from_pem_file(certs(key)).unwrap(),
            )
            .unwrap(),
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .ok()?;
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {PROTOBUF}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body).await.ok()?;
    let mut answer = Vec::new();
    // In TLS 1.3 a client learns only here that its certificate was wanted.
    stream.read_to_end(&mut answer).await.ok()?;
    String::from_utf8_lossy(&answer).lines().next().map(str::to_owned)
}

#[tokio::test]
async fn with_an_authority_only_its_clients_may_send() {
    let scene = Scene::new(|setup| {
        setup.tls = Some(TlsFiles {
            cert: certs("server.pem"),
            key: certs("server.key"),
            client_ca: Some(certs("ca.pem")),
        });
    })
    .await;
    let body = request(1).encode_to_vec();
    assert_eq!(over_tls(scene.http, None, &body).await, None);
    assert_eq!(scene.counted("POST /pay"), None);
    let answer = over_tls(scene.http, Some(("client.pem", "client.key")), &body).await;
    assert_eq!(answer.as_deref(), Some("HTTP/1.1 200 OK"));
    assert_eq!(scene.counted("POST /pay"), Some((1.0, 1.0)));
    assert_eq!(scene.count(Count::Denied), 1);
}

#[tokio::test]
async fn who_connects_and_says_nothing_is_let_go() {
    let scene = Scene::new(|_| {}).await;
    for address in [scene.http, scene.grpc] {
        let mut silent = TcpStream::connect(address).await.unwrap();
        // The clock runs ahead by itself while nobody does anything.
        tokio::time::pause();
        let mut nothing = [0; 1];
        let read = timeout(2 * FIRST_WITHIN, silent.read(&mut nothing)).await;
        tokio::time::resume();
        assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    }
}
