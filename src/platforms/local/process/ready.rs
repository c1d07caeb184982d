//! One look at whether an instance can take traffic. The answer is yes, or what was seen instead, in words.

use std::io;
use std::net::Ipv4Addr;
use std::process::ExitStatus;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::process::{Signal, kill_process_group};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::launch;
use super::ledger::SlotKey;
use super::proc;
use super::spec::{ProcessSpec, Ready};

/// Looks once. Cancelling it closes its connection or ends its command.
pub(super) async fn probe(
    spec: &ProcessSpec,
    key: &SlotKey,
    port: Option<u16>,
    patience: Duration,
) -> Result<(), String> {
    let look = async {
        match (&spec.ready, port) {
            (Ready::None, _) => Ok(()),
            (Ready::Command(words), _) => command(spec, key, port, words).await,
            (Ready::Http { path }, Some(port)) => get(port, path).await,
            (Ready::Tcp, Some(port)) => connect(port).await.map(drop),
            (Ready::Http { .. } | Ready::Tcp, None) => Err("it was started without a port".to_owned()),
        }
    };
    timeout(patience, look)
        .await
        .unwrap_or_else(|_| Err(format!("{} gave no answer within {patience:?}", tried(spec))))
}

fn tried(spec: &ProcessSpec) -> String {
    match &spec.ready {
        Ready::Http { path } => format!("GET {path}"),
        Ready::Tcp => "connecting".to_owned(),
        Ready::Command(words) => format!("`{}`", words[0]),
        Ready::None => "nothing".to_owned(),
    }
}

async fn connect(port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => format!("nothing listens on 127.0.0.1:{port} (connection refused)"),
            _ => format!("connecting to 127.0.0.1:{port} failed: {error}"),
        })
}

async fn get(port: u16, path: &str) -> Result<(), String> {
    let failed = |error: hyper::Error| format!("GET {path} on port {port} was not answered in HTTP: {error}");
    let stream = connect(port).await?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = http::Request::get(path)
        .header(http::header::HOST, format!("127.0.0.1:{port}"))
        .header(http::header::USER_AGENT, "wade-ready")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("GET {path} is not a request: {error}"))?;
    let status = requests.send_request(request).await.map_err(failed)?.status();
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("GET {path} on port {port} answered {status}"))
    }
}

async fn command(spec: &ProcessSpec, key: &SlotKey, port: Option<u16>, words: &[String]) -> Result<(), String> {
    let object = format!("{key} readiness");
    let prepared = launch::prepare(spec, key, port).and_then(|launch| launch::probe_command(&launch, words, &object));
    let mut command = tokio::process::Command::from(prepared.map_err(|diagnosis| diagnosis.to_string())?);
    let mut child = command
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("`{}` did not start: {error}", words[0]))?;
    let _group = child.id().map(GroupGuard);
    let status = child
        .wait()
        .await
        .map_err(|error| format!("`{}` could not be awaited: {error}", words[0]))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{}` {}", words[0], ending(status)))
    }
}

fn ending(status: ExitStatus) -> String {
    status.code().map_or_else(
        || "was ended by a signal".to_owned(),
        |code| format!("exited with {code}"),
    )
}

/// Ends what a readiness command started, however the look ended.
struct GroupGuard(u32);

impl Drop for GroupGuard {
    fn drop(&mut self) {
        if let Some(group) = proc::to_pid(self.0) {
            // Usually nobody is left (ESRCH). The number is not reused within the microseconds since the wait.
            let _gone_is_fine = kill_process_group(group, Signal::KILL);
        }
    }
}
