//! What the daemon is told: `wade.yaml`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The daemon's configuration, `kind: Config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Always `wade.dev/v1alpha1`.
    pub api_version: String,
    /// Always `Config`.
    pub kind: String,
    /// The folder for the record, output and the socket, relative to this file; `wade-data` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The folder with one file per rollout, relative to this file; `rollouts` if not said. These files decide which
    /// commands run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollouts: Option<String>,
    /// The folder with strategies of your own, relative to this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategies: Option<String>,
    /// The unix socket for commands, relative to this file; `wade.sock` in the data folder if not said. Mode 0600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Commands over HTTP as well, on loopback only and with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpConfig>,
}

/// Commands over HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpConfig {
    /// A loopback address, `127.0.0.1:7711`.
    pub listen: String,
    /// A file of mode 0600 with the token that callers send as `Authorization: Bearer …`.
    pub token_file: String,
}
