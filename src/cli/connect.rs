//! Whom a verb speaks to: a daemon, or a cluster in which nothing is installed.
//!
//! A name like `deployment/checkout`, a namespace or a context means the cluster; everything else the daemon. After that
//! no verb can tell them apart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::exit::Failure;
use super::pipeline::environment;
use crate::apiserver::{ApiServer, ConnectOptions};
use crate::clock::SystemClock;
use crate::cluster::{Cluster, Options};
use crate::daemon::api::{Problem, ProblemKind};
use crate::daemon::client::Client;
use crate::telemetry::{Settings, Telemetry};

/// Where `wade serve` makes its socket if nothing else is said, seen from its configuration's folder.
pub const DEFAULT_SOCKET: &str = "wade-data/wade.sock";
/// How long a daemon may take to answer a question. Requests for releases may wait longer: for a running release.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// A token longer than this is another file.
const MAX_TOKEN: usize = 4096;

/// Which daemon.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Which daemon")]
pub struct Connection {
    /// The daemon's unix socket
    #[arg(long, env = "WADE_SOCKET", value_name = "PATH", default_value = DEFAULT_SOCKET, hide_env_values = true)]
    pub socket: PathBuf,
    /// The daemon's HTTP address instead, like http://127.0.0.1:7711
    #[arg(
        long,
        env = "WADE_URL",
        value_name = "URL",
        requires = "token_file",
        hide_env_values = true
    )]
    pub url: Option<String>,
    /// A file with the token for --url
    #[arg(long, env = "WADE_TOKEN_FILE", value_name = "PATH", hide_env_values = true)]
    pub token_file: Option<PathBuf>,
    /// Which cluster, if it is about one.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Which cluster.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Which cluster (for deployment/NAME)")]
pub struct ClusterArgs {
    /// The namespace; the context's own if left out
    #[arg(long, short, env = "WADE_NAMESPACE", value_name = "NAME", hide_env_values = true)]
    pub namespace: Option<String>,
    /// The kubeconfig's context; its current one if left out
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig file; KUBECONFIG, ~/.kube/config or the pod's own account if left out
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
    /// Where a daemon of Wade lives, if one does: it is asked then; wade-system if left out
    #[arg(long, env = "WADE_HOME_NAMESPACE", value_name = "NAME", hide_env_values = true)]
    pub home: Option<String>,
}

impl ClusterArgs {
    fn is_said(&self) -> bool {
        self.namespace.is_some() || self.context.is_some() || self.kubeconfig.is_some()
    }

    /// A handle on the cluster; nothing is sent yet.
    ///
    /// # Errors
    /// No kubeconfig, or one that cannot be understood.
    pub async fn api(&self) -> Result<ApiServer, Failure> {
        let options = ConnectOptions {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            namespace: self.namespace.clone(),
            token_file: None,
        };
        let connected = ApiServer::connect(&options).await;
        connected.map_err(|error| {
            Problem {
                kind: ProblemKind::Unavailable,
                message: error.to_string(),
            }
            .into()
        })
    }
}

/// The Deployment that a name means, if it means one: `deployment/checkout`, as kubectl writes it.
pub fn deployment(name: &str) -> Option<&str> {
    let (kind, own) = name.split_once('/')?;
    matches!(kind, "deployment" | "deployments" | "deploy" | "deployment.apps").then_some(own)
}

/// With what tells of the releases that this process carries, as the environment says.
fn observed(options: Options) -> Options {
    let telemetry = options
        .telemetry
        .unwrap_or_else(|| Telemetry::new(Settings::from_env(environment)));
    Options {
        telemetry: Some(telemetry),
        ..options
    }
}

impl Connection {
    /// A client for whoever carries the releases of `name`, and the name without its kind; nothing is asked yet.
    ///
    /// # Errors
    /// No socket is there, the token cannot be read, or no cluster is configured.
    pub async fn open(&self, name: Option<&str>) -> Result<(Client, String), Failure> {
        self.open_with(name, Options::default()).await
    }

    /// The cluster, for a verb that only it understands, and the Deployment's name.
    ///
    /// # Errors
    /// It is not about a Deployment, or no cluster is configured.
    pub async fn cluster(&self, name: &str, options: Options) -> Result<(Arc<Cluster>, String), Failure> {
        let own = match (deployment(name), name.contains('/')) {
            (Some(own), _) => own,
            (None, false) => name,
            (None, true) => {
                return Err(Failure::usage(format!(
                    "`{name}` is no Deployment; write deployment/NAME (StatefulSets and DaemonSets are not supported yet)"
                )));
            }
        };
        let api = self.cluster.api().await?;
        Ok((
            Arc::new(Cluster::new(api, observed(options), Arc::new(SystemClock))?),
            own.to_owned(),
        ))
    }

    /// As [`Self::open`], with what a release in a cluster needs to know.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(&self, name: Option<&str>, options: Options) -> Result<(Client, String), Failure> {
        let said = name.unwrap_or_default();
        if let Some((kind, own)) = said.split_once('/')
            && deployment(said).is_none()
        {
            return Err(Failure::usage(format!(
                "`{kind}` cannot be released; write deployment/{own} (StatefulSets and DaemonSets are not supported yet)"
            )));
        }
        if deployment(said).is_none() && !self.cluster.is_said() {
            let client = match (&self.url, &self.token_file) {
                (Some(url), Some(file)) => Client::http(url, token(file)?)?,
                _ => Client::socket(&self.socket)?,
            };
            return Ok((client, said.to_owned()));
        }
        let api = self.cluster.api().await?;
        let options = Options {
            home: self.cluster.home.clone(),
            ..observed(options)
        };
        let cluster = Arc::new(Cluster::new(api, options, Arc::new(SystemClock))?);
        let own = deployment(said).unwrap_or(said).to_owned();
        Ok((Client::over(Arc::new(cluster), false), own))
    }
}

fn token(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!(
            "the token file {} cannot be read: {error}; name the file that `http.tokenFile` of wade.yaml names",
            path.display()
        ))
    })?;
    let token = text.trim();
    if token.is_empty() || token.len() > MAX_TOKEN || token.contains(char::is_whitespace) {
        return Err(Failure::usage(format!(
            "{} does not hold a token; name the file that `http.tokenFile` of wade.yaml names",
            path.display()
        )));
    }
    Ok(token.to_owned())
}

/// An answer, or that the daemon does not give one in time.
///
/// # Errors
/// The daemon's own [`Problem`], or that it hangs.
pub async fn answered<T>(question: impl Future<Output = Result<T, Problem>>) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER_WITHIN, question).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Problem {
            kind: ProblemKind::Unavailable,
            message: format!(
                "the daemon has not answered within {} s; its log says what it is doing",
                ANSWER_WITHIN.as_secs()
            ),
        }
        .into()),
    }
}
