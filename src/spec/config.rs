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
    /// Traces by the OpenTelemetry protocol; none are received if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp: Option<OtlpConfig>,
}

/// Where traces are received, and from whom. Off loopback it takes a token or client certificates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OtlpConfig {
    /// Where gRPC is spoken, `127.0.0.1:4317`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// Where HTTP is spoken, `127.0.0.1:4318`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// A file of mode 0600 with the token that senders show as `Authorization: Bearer …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// Certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<OtlpTls>,
    /// The most spans a second; 10000 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub spans_per_second: Option<u32>,
}

/// PEM files of the trace receiver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OtlpTls {
    /// The receiver's certificate and those up to its authority.
    pub cert: String,
    /// Its key.
    pub key: String,
    /// The authorities whose clients may send; without it any client may that knows the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<String>,
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
