//! What the API server itself says was asked of it: its audit log, one line for each request that has ended.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use super::node::Node;

/// The log from a moment on.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    file: PathBuf,
    from: u64,
}

/// One request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    /// When it came.
    #[serde(rename = "requestReceivedTimestamp")]
    pub(crate) at: Timestamp,
    pub(crate) verb: String,
    #[serde(rename = "requestURI")]
    pub(crate) uri: String,
    #[serde(default)]
    pub(crate) user_agent: String,
    pub(crate) user: User,
    #[serde(rename = "objectRef")]
    pub(crate) object: Option<Object>,
    #[serde(rename = "responseStatus")]
    pub(crate) response: Option<Status>,
}

/// As whom it was asked.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct User {
    pub(crate) username: String,
}

/// About what.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Object {
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What came of it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    #[serde(default)]
    pub(crate) code: u16,
}

impl Request {
    /// Whether it asked for a change.
    pub(crate) fn is_write(&self) -> bool {
        matches!(
            self.verb.as_str(),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        )
    }

    /// Whether it is about a namespace's objects.
    pub(crate) fn is_in(&self, namespace: &str) -> bool {
        self.object.as_ref().is_some_and(|object| object.namespace == namespace)
    }
}

impl Audit {
    /// From now on.
    pub(crate) fn start(node: &Node) -> Self {
        let file = PathBuf::from(node.value("WADE_CLUSTER_AUDIT_LOG"));
        let from = file.metadata().expect("the API server logs from its start on").len();
        Self { file, from }
    }

    /// The requests since then that the condition holds for. A watch is in it once it has ended.
    pub(crate) async fn requests(&self, holds: impl Fn(&Request) -> bool) -> Vec<Request> {
        // The server writes them in batches of its own making.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut log = File::open(&self.file).expect("it was there before");
        log.seek(SeekFrom::Start(self.from)).expect("logs only grow");
        BufReader::new(log)
            .lines()
            .map_while(Result::ok)
            // The last line may be half written.
            .filter_map(|line| serde_json::from_str(&line).ok())
            .filter(holds)
            .collect()
    }
}
