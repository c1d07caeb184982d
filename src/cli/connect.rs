//! Which daemon a verb speaks to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exit::Failure;
use crate::daemon::api::{Problem, ProblemKind};
use crate::daemon::client::Client;

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
}

impl Connection {
    /// A client for the daemon; nothing is sent yet.
    ///
    /// # Errors
    /// No socket is there, or the token cannot be read.
    pub fn client(&self) -> Result<Client, Failure> {
        match (&self.url, &self.token_file) {
            (Some(url), Some(file)) => Ok(Client::http(url, token(file)?)?),
            _ => Ok(Client::socket(&self.socket)?),
        }
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
