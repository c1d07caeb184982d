//! Tells Prometheus which pods to scrape, in place of the Kubernetes discovery that Debian leaves out: one file for each
//! namespace, with the labels that the usual relabelling would give.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::api::Kind;
use super::recorder::{Recorder, text};
use super::space::Space;

/// How often the pods are looked at; half of Prometheus' scrape interval.
const EVERY: Duration = Duration::from_secs(1);

/// Keeps the file up to date until dropped, and then takes it away.
#[derive(Debug)]
pub(crate) struct Targets {
    file: PathBuf,
    task: JoinHandle<()>,
}

impl Targets {
    /// Has this namespace's pods scraped, as the recorder sees them.
    pub(crate) fn start(space: &Space, recorder: Arc<Recorder>) -> Self {
        let folder = PathBuf::from(space.node.value("WADE_CLUSTER_TARGETS"));
        let file = folder.join(format!("{}.json", space.name));
        let task = tokio::spawn(keep(file.clone(), recorder));
        Self { file, task }
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        self.task.abort();
        // It was perhaps never written.
        let _ = fs::remove_file(&self.file);
    }
}

async fn keep(file: PathBuf, recorder: Arc<Recorder>) {
    let mut written = Value::Null;
    loop {
        let targets: Vec<_> = recorder
            .history()
            .present(Kind::Pod)
            .iter()
            .filter_map(|pod| target(pod))
            .collect();
        let targets = Value::Array(targets);
        if targets != written {
            // Put in place whole: Prometheus reads it at a moment of its own.
            let part = file.with_extension("part");
            fs::write(&part, targets.to_string()).expect("node up made the folder");
            fs::rename(&part, &file).expect("it was written just now");
            written = targets;
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn target(pod: &Value) -> Option<Value> {
    let address = pod.pointer("/status/podIP")?.as_str()?;
    if text(pod, "/status/phase") != "Running" {
        return None;
    }
    Some(json!({
        "targets": [format!("{address}:8080")],
        "labels": {
            "namespace": text(pod, "/metadata/namespace"),
            "pod": text(pod, "/metadata/name"),
            "app": text(pod, "/metadata/labels/app"),
            "pod_template_hash": text(pod, "/metadata/labels/pod-template-hash"),
        }
    }))
}
