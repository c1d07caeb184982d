//! `wade serve --cluster`: the daemon of a cluster.
//!
//! Being stopped stops nothing that users need: what it carries is let go of, and another daemon, or the next `wade`,
//! goes on.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::middleware::from_fn_with_state;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::connect::ClusterArgs;
use super::exit::{Exit, Failure};
use super::follow::Interrupts;
use super::pipeline::environment;
use super::screen::{Format, Screen};
use crate::api::gate::ClusterGate;
use crate::api::{self, TlsFiles, Transport};
use crate::clock::SystemClock;
use crate::cluster::identity;
use crate::crd::SYSTEM;
use crate::operator::consider::HoldMode;
use crate::operator::desk::Desk;
use crate::operator::{Operator, Settings, probes};
use crate::spec::targets::AllowedHosts;
use crate::telemetry::meters::counted;
use crate::telemetry::{self, Telemetry};

/// What a daemon of a cluster is told.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "In a cluster")]
pub(super) struct OperateArgs {
    /// Look after a Kubernetes cluster: its Rollout objects, instead of files and processes
    #[arg(long)]
    cluster: bool,
    /// Look after this namespace alone; the whole cluster if left out
    #[arg(long, value_name = "NAME", requires = "cluster")]
    only_namespace: Option<String>,
    /// The namespace that Wade itself lives in
    #[arg(long, value_name = "NAME", default_value = SYSTEM, env = "WADE_HOME_NAMESPACE", hide_env_values = true)]
    home: String,
    /// The kubeconfig's context; the pod's own account if there is no kubeconfig
    #[arg(long, value_name = "NAME", requires = "cluster")]
    context: Option<String>,
    /// The kubeconfig file
    #[arg(long, value_name = "PATH", requires = "cluster")]
    kubeconfig: Option<std::path::PathBuf>,
    /// Where /healthz, /readyz and /metrics are
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    probes: SocketAddr,
    /// How changes by others are kept from rolling out by themselves
    #[arg(long, value_enum, default_value_t, value_name = "WAY")]
    hold: Hold,
    /// Where the API listens; nowhere if left out. Off loopback it needs --tls-cert and --tls-key
    #[arg(long, value_name = "ADDRESS", requires = "cluster")]
    api: Option<SocketAddr>,
    /// The API's certificate chain (PEM), read again when it changes
    #[arg(long, value_name = "PATH", requires = "tls_key")]
    tls_cert: Option<std::path::PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "PATH", requires = "tls_cert")]
    tls_key: Option<std::path::PathBuf>,
    /// Tokens of callers must have been issued for this audience
    #[arg(long, value_name = "NAME", requires = "api")]
    audience: Option<String>,
    /// A host that Rollouts may name for metrics, traces and notifications, like `hooks.slack.com`; can be repeated
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<String>,
    /// Releases at once, in all
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    most_releases: usize,
    /// Releases at once in one namespace
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    most_per_namespace: usize,
    /// Releases at once among Rollouts that say the same under this label, `team=2`
    #[arg(long, value_name = "LABEL=NUMBER", value_parser = per_label)]
    most_per_label: Option<(String, usize)>,
}

fn per_label(text: &str) -> Result<(String, usize), String> {
    let (key, number) = text.split_once('=').unwrap_or((text, ""));
    match number.parse() {
        Ok(number @ 1..) if !key.is_empty() => Ok((key.to_owned(), number)),
        _ => Err(format!("`{text}` is no label with a number; write `team=2`")),
    }
}

/// How changes by others are held.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Hold {
    /// By the policy `wade-hold` if it is installed, else by keeping Deployments paused
    #[default]
    Auto,
    /// By the policy, which somebody else installs
    Policy,
    /// By keeping Deployments paused between releases
    Paused,
}

impl OperateArgs {
    pub(super) fn is_cluster(&self) -> bool {
        self.cluster
    }
}

pub(super) async fn operate(args: OperateArgs) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::new()?;
    let connection = ClusterArgs {
        namespace: Some(args.home.clone()),
        context: args.context.clone(),
        kubeconfig: args.kubeconfig.clone(),
        home: None,
    };
    let home = connection.api().await?.from_inside();
    let place = home.in_namespace(args.only_namespace.as_deref().unwrap_or_default());
    let settings = Settings {
        identity: identity(),
        hosts: AllowedHosts(args.allow_host.clone()),
        hold: match args.hold {
            Hold::Auto => None,
            Hold::Policy => Some(HoldMode::Policy),
            Hold::Paused => Some(HoldMode::Paused),
        },
        most_releases: args.most_releases.max(1),
        most_per_namespace: args.most_per_namespace.max(1),
        most_per_label: args.most_per_label.clone(),
    };
    let listener = TcpListener::bind(args.probes)
        .await
        .map_err(|error| Failure::usage(format!("--probes {}: {error}; choose a free address", args.probes)))?;
    let at = listener
        .local_addr()
        .map_err(|error| Failure::other(format!("the listener has no address: {error}")))?;
    let stop = CancellationToken::new();
    let telemetry = Telemetry::new(telemetry::Settings::from_env(environment));
    let gate = ClusterGate::new(home.clone(), args.audience.clone());
    let operator = Operator::start(home, place.clone(), settings, telemetry, Arc::new(SystemClock));
    let api = match args.api {
        None => None,
        Some(address) => {
            let listener = TcpListener::bind(address)
                .await
                .map_err(|error| Failure::usage(format!("--api {address}: {error}; choose a free address")))?;
            let files = args
                .tls_cert
                .clone()
                .zip(args.tls_key.clone())
                .map(|(cert, key)| TlsFiles {
                    cert,
                    key,
                    client_ca: None,
                });
            let doors = Arc::new(Desk(Arc::clone(&operator)));
            let counting = from_fn_with_state(Arc::clone(operator.telemetry()), counted);
            let router = api::router(doors, Arc::new(gate), api::Settings::default()).layer(counting);
            Some(tokio::spawn(api::serve(
                listener,
                files,
                router,
                Transport::default(),
                stop.clone(),
            )))
        }
    };
    let probing = tokio::spawn(probes::serve(Arc::clone(&operator), listener, stop.clone()));
    let what = match place.namespace() {
        "" => "every namespace".to_owned(),
        one => format!("namespace {one}"),
    };
    Screen::new(Format::Text).text(&format!(
        "looking after {what} of {}; probes on http://{at}",
        place.place()
    ));
    let running = {
        let (operator, stop) = (Arc::clone(&operator), stop.clone());
        tokio::spawn(async move { operator.run(stop).await })
    };
    let broken = async {
        match api {
            // It ends by itself only if it cannot be served at all.
            Some(api) => match api.await {
                Ok(Err(problem)) => problem,
                _ => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    };
    let failed = tokio::select! {
        () = interrupts.next() => None,
        problem = broken => Some(problem),
    };
    tracing::info!("stopping; what runs is let go of, so that another daemon goes on; once more to stop at once");
    stop.cancel();
    let stopping = async {
        // What went wrong in it has been logged.
        let _ = running.await;
        let _ = probing.await;
    };
    tokio::select! {
        () = stopping => tracing::info!("stopped"),
        () = interrupts.next() => tracing::warn!("stopped at once"),
    }
    match failed {
        None => Ok(Exit::Done),
        Some(problem) => Err(problem.into()),
    }
}
