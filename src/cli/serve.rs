//! `wade serve`: the daemon.
//!
//! Standard output says once where it listens; everything after that is a log on standard error. Being stopped stops
//! nothing that users need to keep: the services' processes run on, and the next `wade serve` takes them over.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::connect::DEFAULT_SOCKET;
use super::exit::{Exit, Failure};
use super::files::text;
use super::follow::Interrupts;
use super::pipeline::environment;
use super::screen::{Format, Screen};
use crate::clock::SystemClock;
use crate::daemon::api::Problem;
use crate::daemon::http::{serve_http, serve_socket};
use crate::daemon::otlp::{OtlpSetup, Receiver, TlsFiles};
use crate::daemon::{Daemon, Setup};
use crate::platforms::local::process;
use crate::spec::{Config, OtlpConfig, read_config};
use crate::telemetry::logs::JsonLines;
use crate::telemetry::{Settings, Telemetry};

/// How long callers that follow a release may keep the API open while the daemon stops.
const API_GRACE: Duration = Duration::from_secs(1);
/// What is logged unless told otherwise. What kube says of each request that failed, Wade says with the object and the
/// reason, and the same trouble only once.
const LOG: &str = "info,kube_client=off,kube_runtime=off";
/// How often it is looked whether the socket is open.
const OPENING_LOOK: Duration = Duration::from_millis(10);
/// How long background work may take to end when the process does.
const END_GRACE: Duration = Duration::from_secs(1);

/// Run the daemon: keep services running, release them, take commands
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  wade serve --config wade.yaml

with a wade.yaml like this (all paths are relative to it, and all lines but the first two may be left out):
  apiVersion: wade.dev/v1alpha1
  kind: Config
  data: wade-data           the record, output, and the socket wade.sock
  rollouts: rollouts        one file per service; these files decide which commands run
  http: {listen: 127.0.0.1:7711, tokenFile: token}
  otlp: {grpc: 127.0.0.1:4317, http: 127.0.0.1:4318}  traces, for rollouts that ask for them

SIGTERM or Ctrl-C stops the daemon and leaves the services' processes running; the next `wade serve` takes
them over and goes on with releases. A second signal stops it at once, which is safe as well.
WADE_LOG (or RUST_LOG) sets what is logged, like WADE_LOG=wade=debug.")]
pub(super) struct Args {
    /// The configuration
    #[arg(long, short, value_name = "FILE", default_value = "wade.yaml")]
    config: PathBuf,
    /// How the log is written
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: Format,
    /// Receive traces over gRPC here, like 127.0.0.1:4317 (over `otlp.grpc`)
    #[arg(long, value_name = "ADDRESS")]
    otlp_grpc: Option<SocketAddr>,
    /// Receive traces over HTTP here, like 127.0.0.1:4318 (over `otlp.http`)
    #[arg(long, value_name = "ADDRESS")]
    otlp_http: Option<SocketAddr>,
    /// Stop the services' processes as well when the daemon is stopped
    #[arg(long)]
    stop_processes: bool,
    #[command(flatten)]
    operate: super::operate::OperateArgs,
}

pub(super) fn run(args: Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return super::end(
                Format::Text,
                Err(Failure::other(format!("no runtime could be started: {error}"))),
            );
        }
    };
    let result = runtime.block_on(serve(args));
    // Followers of a release may still be connected; they find the next daemon by themselves.
    runtime.shutdown_timeout(END_GRACE);
    super::end(Format::Text, result)
}

/// Where everything is, absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Places {
    data: PathBuf,
    rollouts: PathBuf,
    strategies: Option<PathBuf>,
    socket: PathBuf,
    http: Option<(SocketAddr, PathBuf)>,
    otlp: OtlpSetup,
}

impl Places {
    /// `folder` is the configuration's, absolute.
    fn of(config: &Config, folder: &Path) -> Result<Self, Failure> {
        let data = folder.join(config.data.as_deref().unwrap_or("wade-data"));
        let http = config.http.as_ref().map(|http| {
            let listen = http.listen.parse().map_err(|error| {
                Failure::usage(format!(
                    "http.listen is `{}`: {error}; write an address like 127.0.0.1:7711",
                    http.listen
                ))
            });
            listen.map(|listen| (listen, folder.join(&http.token_file)))
        });
        Ok(Self {
            rollouts: folder.join(config.rollouts.as_deref().unwrap_or("rollouts")),
            strategies: config.strategies.as_ref().map(|strategies| folder.join(strategies)),
            socket: config
                .socket
                .as_ref()
                .map_or_else(|| data.join("wade.sock"), |socket| folder.join(socket)),
            http: http.transpose()?,
            otlp: otlp(config.otlp.as_ref(), folder)?,
            data,
        })
    }
}

/// Where traces come in; paths are relative to `folder`.
fn otlp(config: Option<&OtlpConfig>, folder: &Path) -> Result<OtlpSetup, Failure> {
    let Some(config) = config else {
        return Ok(OtlpSetup::default());
    };
    let address = |field: &str, text: Option<&String>| {
        let parse = |text: &String| {
            text.parse().map_err(|error| {
                Failure::usage(format!(
                    "otlp.{field} is `{text}`: {error}; write an address like 127.0.0.1:4317"
                ))
            })
        };
        text.map(parse).transpose()
    };
    Ok(OtlpSetup {
        grpc: address("grpc", config.grpc.as_ref())?,
        http: address("http", config.http.as_ref())?,
        token_file: config.token_file.as_ref().map(|path| folder.join(path)),
        tls: config.tls.as_ref().map(|tls| TlsFiles {
            cert: folder.join(&tls.cert),
            key: folder.join(&tls.key),
            client_ca: tls.client_ca.as_ref().map(|path| folder.join(path)),
        }),
        spans_per_second: config.spans_per_second,
    })
}

fn places(path: &Path) -> Result<Places, Failure> {
    let source = path.display().to_string();
    let config = read_config(&text(path)?, &source).map_err(|faults| Failure::usage(faults.to_string()))?;
    let path = std::fs::canonicalize(path).map_err(|error| Failure::usage(format!("{source}: {error}")))?;
    Places::of(&config, path.parent().unwrap_or(Path::new("/")))
}

async fn serve(args: Args) -> Result<Exit, Failure> {
    if args.operate.is_cluster() {
        begin_log(args.log_format)?;
        return Box::pin(super::operate::operate(args.operate)).await;
    }
    let mut places = places(&args.config)?;
    places.otlp.grpc = args.otlp_grpc.or(places.otlp.grpc);
    places.otlp.http = args.otlp_http.or(places.otlp.http);
    begin_log(args.log_format)?;
    let mut interrupts = Interrupts::new()?;
    let setup = Setup {
        data: places.data.clone(),
        rollouts: places.rollouts.clone(),
        strategies: places.strategies.clone(),
        processes: process::Settings::default(),
    };
    let telemetry = Telemetry::new(Settings::from_env(environment));
    let daemon = Daemon::start_with(setup, Arc::new(SystemClock), telemetry).await?;
    let stop = CancellationToken::new();
    let traces = if places.otlp.is_on() {
        Some(Receiver::open(&places.otlp, daemon.traces().clone(), Arc::new(SystemClock)).await?)
    } else {
        None
    };
    let traces_at = traces.as_ref().map(Receiver::addresses);
    let mut servers: JoinSet<Result<(), Problem>> = JoinSet::new();
    {
        let (daemon, stop, socket) = (Arc::clone(&daemon), stop.clone(), places.socket.clone());
        servers.spawn(async move { serve_socket(daemon, &socket, stop).await });
    }
    if let Some((listen, token)) = places.http.clone() {
        let (daemon, stop) = (Arc::clone(&daemon), stop.clone());
        servers.spawn(async move { serve_http(daemon, listen, &token, stop).await });
    }
    if let Some(traces) = traces {
        let stop = stop.clone();
        servers.spawn(async move {
            traces.serve(stop).await;
            Ok(())
        });
    }
    let failed = tokio::select! {
        () = opened(&places.socket) => {
            // Only now: whoever reads this may send a command at once.
            say_where(&daemon, &places);
            for (protocol, address) in ["grpc", "http"].into_iter().zip(traces_at.into_iter().flatten()) {
                if let Some(address) = address {
                    Screen::new(Format::Text).text(&format!("traces on {protocol}://{address}"));
                }
            }
            tokio::select! {
                () = interrupts.next() => None,
                // Only a way in that broke ends before it is told to.
                Some(end) = servers.join_next() => Some(end),
            }
        }
        () = interrupts.next() => None,
        Some(end) = servers.join_next() => Some(end),
    };
    if failed.is_none() {
        let rest = if args.stop_processes {
            "and the services' processes"
        } else {
            "the services' processes keep running"
        };
        tracing::info!("stopping; {rest}; once more to stop at once");
    }
    stop.cancel();
    let stopping = async {
        // A follower would keep its connection open to the end of its release.
        let _ = tokio::time::timeout(API_GRACE, async { while servers.join_next().await.is_some() {} }).await;
        servers.abort_all();
        let _ = std::fs::remove_file(&places.socket);
        daemon.stop(args.stop_processes).await;
    };
    tokio::select! {
        () = stopping => tracing::info!("stopped"),
        () = interrupts.next() => tracing::warn!("stopped at once"),
    }
    match failed {
        None | Some(Ok(Ok(()))) => Ok(Exit::Done),
        Some(Ok(Err(problem))) => Err(problem.into()),
        Some(Err(error)) => Err(Failure::other(format!("the API ended unexpectedly: {error}"))),
    }
}

/// Waits until the socket takes connections.
async fn opened(socket: &Path) {
    while tokio::net::UnixStream::connect(socket).await.is_err() {
        tokio::time::sleep(OPENING_LOOK).await;
    }
}

fn begin_log(format: Format) -> Result<(), Failure> {
    let words = std::env::var("WADE_LOG")
        .or_else(|_| std::env::var("RUST_LOG"))
        .unwrap_or_else(|_| LOG.to_owned());
    let filter = EnvFilter::try_new(&words).map_err(|error| {
        Failure::usage(format!(
            "WADE_LOG or RUST_LOG is `{words}`: {error}; write something like `info` or `wade=debug`"
        ))
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let begun = match format {
        Format::Text => log
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .try_init(),
        Format::Json => log.event_format(JsonLines).try_init(),
    };
    begun.map_err(|error| Failure::other(format!("the log cannot be started: {error}")))
}

/// Where users and commands come in, once, on standard output.
fn say_where(daemon: &Daemon, places: &Places) {
    let screen = Screen::new(Format::Text);
    match daemon.rollout_views() {
        Ok(views) if views.is_empty() => {
            screen.text(&format!("no usable rollouts in {} yet", places.rollouts.display()));
        }
        Ok(views) => {
            for view in views {
                let listen = view
                    .listen
                    .map_or_else(|| "takes no requests".to_owned(), |listen| format!("on {listen}"));
                let serves = view.stable.map_or_else(
                    || "nothing serves yet".to_owned(),
                    |stable| format!("{} serves", stable.version),
                );
                screen.text(&format!("{} {listen}, {serves}", view.name));
            }
        }
        Err(problem) => screen.text(&format!("services cannot be listed: {problem}")),
    }
    screen.text(&format!(
        "commands on {} (--socket, WADE_SOCKET; found by itself as ./{DEFAULT_SOCKET})",
        places.socket.display()
    ));
    if let Some((listen, token)) = &places.http {
        screen.text(&format!(
            "commands on http://{listen} with the token in {}",
            token.display()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: wade.dev/v1alpha1\nkind: Config\n";

    fn of(text: &str) -> Result<Places, Failure> {
        Places::of(
            &read_config(&format!("{HEAD}{text}"), "wade.yaml").unwrap(),
            Path::new("/srv/wade"),
        )
    }

    #[test]
    fn every_place_is_relative_to_the_configuration() {
        let expected = Places {
            data: "/srv/wade/wade-data".into(),
            rollouts: "/srv/wade/rollouts".into(),
            strategies: None,
            socket: "/srv/wade/wade-data/wade.sock".into(),
            http: None,
            otlp: OtlpSetup::default(),
        };
        assert_eq!(of(""), Ok(expected));
        let text = "data: /var/lib/wade\nrollouts: r\nstrategies: s\nsocket: run/wade.sock\nhttp: {listen: '127.0.0.1:7711', tokenFile: token}\n";
        let expected = Places {
            data: "/var/lib/wade".into(),
            rollouts: "/srv/wade/r".into(),
            strategies: Some("/srv/wade/s".into()),
            socket: "/srv/wade/run/wade.sock".into(),
            http: Some(("127.0.0.1:7711".parse().unwrap(), "/srv/wade/token".into())),
            otlp: OtlpSetup::default(),
        };
        assert_eq!(of(text), Ok(expected));
    }
}
