//! The values that autoscalers read in a namespace; `node/metrics.py` serves them.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::space::Space;

/// One namespace's metrics, until dropped.
#[derive(Debug)]
pub(crate) struct Metrics {
    file: PathBuf,
}

impl Metrics {
    /// Nothing is known yet: an autoscaler does nothing.
    pub(crate) fn new(space: &Space) -> Self {
        let folder = PathBuf::from(space.node.value("WADE_CLUSTER_METRICS"));
        Self {
            file: folder.join(format!("{}.json", space.name)),
        }
    }

    /// From now on these are the values; `node/metrics.py` says how they are written.
    pub(crate) fn set(&self, values: &Value) {
        // Put in place whole: it is read at any moment.
        let part = self.file.with_extension("part");
        fs::write(&part, values.to_string()).expect("the node made the folder");
        fs::rename(&part, &self.file).expect("it was written just now");
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        // It was perhaps never written.
        let _ = fs::remove_file(&self.file);
    }
}
