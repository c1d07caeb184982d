//! What `proxy_ratio.py` measures: our proxy and a small backend, as two processes of this one program.
//!
//! `proxy_ratio backend` and `proxy_ratio proxy <backend address>` print the address they listen on and serve until
//! their standard input closes. Started by `cargo bench` it runs the script, which does the rest.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, ExitCode};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use wade::platforms::local::proxy::{Backend, Proxy, ProxyConfig, Routes};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    match arguments.first().map(String::as_str) {
        Some("backend") => runtime.block_on(backend()),
        Some("proxy") => runtime.block_on(proxy(arguments[1].parse().expect("an address follows"))),
        _ => return compare(),
    }
    ExitCode::SUCCESS
}

fn compare() -> ExitCode {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/proxy_ratio.py");
    let program = std::env::current_exe().expect("this program has a path");
    match Command::new("python3").arg(script).arg(program).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("skipped: python3 did not start ({error})");
            ExitCode::SUCCESS
        }
    }
}

async fn until_told() {
    let mut end = Vec::new();
    let _ = tokio::io::stdin().read_to_end(&mut end).await;
}

async fn backend() {
    let listener = TcpListener::bind(LOOPBACK).await.expect("loopback has a port");
    println!("{}", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("it is a socket");
            tokio::spawn(async move {
                let service = service_fn(|_: Request<Incoming>| async {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(
                        b"{\"answer\":\"small\"}\n",
                    ))))
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    until_told().await;
}

async fn proxy(backend: SocketAddr) {
    let proxy = Proxy::bind(ProxyConfig::new("bench", LOOPBACK)).expect("loopback has a port");
    let share = |revision: &str, weight| Backend {
        revision: revision.to_owned(),
        weight,
        endpoints: vec![backend],
    };
    let split = vec![share("stable", 950), share("canary", 50)];
    proxy
        .set_routes(Routes {
            split,
            ..Routes::default()
        })
        .expect("weights sum to 1000");
    println!("{}", proxy.local_addr());
    until_told().await;
}
