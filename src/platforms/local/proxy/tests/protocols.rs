//! What is not plain HTTP/1.1: WebSocket, HTTP/2, gRPC.

use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::harness::*;
use crate::platforms::local::proxy::*;

#[tokio::test]
async fn a_websocket_is_a_tunnel_and_in_flight_until_it_closes() {
    let listener = TcpListener::bind(LOOPBACK).await.expect("loopback has a port");
    let addr = listener.local_addr().expect("it is bound");
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let mut socket = tokio_tungstenite::accept_async(stream).await.expect("a handshake");
        // Before the client says anything: such bytes may come together with the 101.
        socket.send(Message::text("welcome")).await.expect("open");
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() {
                socket.send(message).await.expect("open");
            }
        }
    });
    let proxy = proxy(Routes::all_to("stable", vec![addr]));
    let url = format!("ws://{}/chat", proxy.local_addr());
    let (mut socket, answer) = tokio_tungstenite::connect_async(url).await.expect("a handshake");
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut heard = vec![socket.next().await.expect("open").expect("whole")];
    for n in 0..100 {
        socket.send(Message::text(format!("{n}"))).await.expect("open");
        heard.push(socket.next().await.expect("open").expect("whole"));
    }
    let said: Vec<_> = (0..100).map(|n| Message::text(format!("{n}"))).collect();
    assert_eq!((&heard[0], &heard[1..]), (&Message::text("welcome"), &said[..]));
    // The tunnel outlives its revision's place in the routes.
    proxy.set_routes(Routes::default()).expect("valid");
    socket.send(Message::text("still here")).await.expect("open");
    assert_eq!(
        socket.next().await.expect("open").expect("whole"),
        Message::text("still here")
    );
    assert_eq!(
        (proxy.drained("stable"), proxy.snapshot().revisions["stable"].in_flight),
        (false, 1)
    );
    socket.close(None).await.expect("open");
    while let Some(Ok(_)) = socket.next().await {}
    assert_eq!(proxy.wait_drained("stable", SOON).await, Drain::Drained);
    assert_eq!(proxy.snapshot().revisions["stable"].users.code_classes, [1, 0, 0, 0, 0]);
    server.await.expect("the server ended well");
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let origin = Origin::named("no websockets").await;
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr]));
    let mut client = Client::to(proxy.local_addr()).await;
    let asked = [("connection", "upgrade"), ("upgrade", "websocket")];
    assert_eq!(client.get(&asked).await, (StatusCode::OK, "no websockets".to_owned()));
    assert_eq!(client.who().await, "no websockets");
}

#[tokio::test]
async fn grpc_goes_through_with_its_trailers_and_statuses() {
    let listener = TcpListener::bind(LOOPBACK).await.expect("loopback has a port");
    let addr = listener.local_addr().expect("it is bound");
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("shop", tonic_health::ServingStatus::Serving)
        .await;
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let service = TowerToHyperService::new(service);
        http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await
    });
    let proxy = proxy(Routes::all_to("stable", vec![addr]));
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", proxy.local_addr())).expect("a URI");
    let mut client = HealthClient::new(channel.connect().await.expect("the proxy listens"));
    let ask = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = client.check(ask("shop")).await.expect("healthy").into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    let status = client.check(ask("other")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
    // A server stream: open, and in flight, until its client leaves.
    let mut watch = client.watch(ask("shop")).await.expect("a stream").into_inner();
    assert_eq!(
        watch.message().await.expect("whole").expect("one").status(),
        ServingStatus::Serving
    );
    reporter
        .set_service_status("shop", tonic_health::ServingStatus::NotServing)
        .await;
    assert_eq!(
        watch.message().await.expect("whole").expect("one").status(),
        ServingStatus::NotServing
    );
    assert_eq!(proxy.snapshot().revisions["stable"].in_flight, 1);
    drop(watch);
    until("the stream ends", || {
        proxy.snapshot().revisions["stable"].in_flight == 0
    })
    .await;
    let users = &proxy.snapshot().revisions["stable"].users;
    assert_eq!((users.requests, users.errors), (2, 0));
    server.abort();
}

#[tokio::test]
async fn a_grpc_status_that_blames_the_server_is_an_error() {
    let origin = Origin::serving(|request: Request<Incoming>| async move {
        let status = HeaderValue::from_str(request.uri().path().trim_start_matches('/')).expect("a number");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status);
        let frames = [Frame::data("data".into()), Frame::trailers(trailers)].map(Ok);
        let mut answer = Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames))));
        answer
            .headers_mut()
            .insert("content-type", HeaderValue::from_static("application/grpc+proto"));
        answer
    })
    .await;
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr]));
    let stream = TcpStream::connect(proxy.local_addr()).await.expect("the proxy listens");
    let (mut sender, conn) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    tokio::spawn(conn);
    for status in ["0", "5", "13", "14"] {
        let uri = format!("http://{}/{status}", proxy.local_addr());
        let answer = sender
            .send_request(Request::post(uri).body(text("call")).expect("valid"))
            .await
            .expect("answered");
        let collected = answer.into_body().collect().await.expect("complete");
        assert_eq!(collected.trailers().expect("trailers")["grpc-status"], status);
    }
    let users = &proxy.snapshot().revisions["stable"].users;
    assert_eq!(
        (users.requests, users.errors, users.code_classes),
        (4, 2, [0, 4, 0, 0, 0])
    );
}
