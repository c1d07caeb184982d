//! One server span, as much of it as is counted.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A span of kind server: one request that a revision has answered.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSpan {
    /// When it ended, by the clock of whoever made it.
    pub at: Timestamp,
    /// The attributes of its resource by which it is attributed to a revision (`service.version`, `k8s.pod.name`, …).
    /// Only those that were asked for.
    pub resource: BTreeMap<String, String>,
    /// Its name, or method and route where the name is none of a few.
    pub operation: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Set if the request failed.
    pub error: Option<SpanError>,
    /// The trace that it is part of.
    pub trace: TraceId,
}

/// Why a request failed, as the span tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanError {
    /// The exception's type, or the status where no exception was recorded.
    pub kind: String,
    /// The message as it was written, not normalised; empty if there is none.
    pub message: String,
}

/// A trace's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TraceId(pub [u8; 16]);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<TraceId> for String {
    fn from(id: TraceId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for TraceId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16)
            .ok()
            .filter(|_| !text.is_empty() && text.len() <= 32)
            .map(|id| Self(id.to_be_bytes()))
            .ok_or_else(|| format!("a trace id is up to 32 hexadecimal digits, not `{text}`"))
    }
}
