//! The real `wade` as a process of its own, as a pipeline starts it: watched, and killed without warning.

use std::fs;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::space::Space;
use super::{eventually, now};

/// The binary under test.
const WADE: &str = env!("CARGO_BIN_EXE_wade");

/// A line that the step wrote.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) at: Timestamp,
    pub(crate) text: String,
}

/// A running step. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Step {
    words: String,
    child: Child,
    lines: Arc<Mutex<Vec<Line>>>,
    readers: Vec<JoinHandle<()>>,
    most_memory: Arc<Mutex<u64>>,
}

/// A step that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) lines: Vec<Line>,
    /// The most memory it held at a moment, in KiB; looked at five times a second.
    pub(crate) most_memory_kib: u64,
}

impl Ended {
    /// Its exit code; none if it was killed.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// All that it wrote.
    pub(crate) fn output(&self) -> String {
        join(&self.lines)
    }
}

impl Step {
    /// Starts `wade` with these words, as the node's admin.
    pub(crate) fn start(space: &Space, words: &[&str]) -> Self {
        Self::start_as(space, &space.node.kubeconfig(), words)
    }

    /// Starts `wade` with these words and somebody's kubeconfig.
    pub(crate) fn start_as(space: &Space, kubeconfig: &Path, words: &[&str]) -> Self {
        let mut child = Command::new(WADE)
            .args(words)
            .env("KUBECONFIG", kubeconfig)
            .env("NO_COLOR", "1")
            .current_dir(space.node.run_folder())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("cargo built it");
        let lines = Arc::<Mutex<Vec<Line>>>::default();
        let stdout = child.stdout.take().expect("it was asked for");
        let stderr = child.stderr.take().expect("it was asked for");
        let readers = vec![
            tokio::spawn(read(stdout, lines.clone())),
            tokio::spawn(read(stderr, lines.clone())),
        ];
        let most_memory = Arc::<Mutex<u64>>::default();
        if let Some(pid) = child.id() {
            tokio::spawn(watch_memory(pid, most_memory.clone()));
        }
        Self {
            words: words.join(" "),
            child,
            lines,
            readers,
            most_memory,
        }
    }

    /// What it has written so far, on both of its outputs.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a line that holds these words.
    pub(crate) async fn says(&self, words: &str, within: Duration) -> Line {
        let what = format!("`wade {}` says {words:?}", self.words);
        eventually(&what, within, || async {
            self.lines().into_iter().find(|line| line.text.contains(words))
        })
        .await
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// Sends it a signal by its name, like `TERM` or `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it has not been waited for").to_string();
        let sent = std::process::Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -s {name} {pid}");
    }

    /// Kills it without warning.
    pub(crate) async fn kill(mut self) -> Ended {
        // It may have ended in this moment; its status says.
        let _ = self.child.start_kill();
        self.ends(Duration::from_secs(10)).await
    }

    /// Waits until it ends; panics with its output if it does not.
    pub(crate) async fn ends(mut self, within: Duration) -> Ended {
        let Ok(status) = tokio::time::timeout(within, self.child.wait()).await else {
            panic!(
                "`wade {}` has not ended after {} s; it says:\n{}",
                self.words,
                within.as_secs(),
                join(&self.lines())
            );
        };
        for reader in self.readers.drain(..) {
            // Its pipe may be held by a process it has left behind; what came until now is what there is.
            let _ = tokio::time::timeout(Duration::from_secs(1), reader).await;
        }
        Ended {
            status: status.expect("it was started"),
            lines: self.lines(),
            most_memory_kib: *self.most_memory.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

async fn read(pipe: impl AsyncRead + Unpin, lines: Arc<Mutex<Vec<Line>>>) {
    let mut pipe = BufReader::new(pipe).lines();
    while let Ok(Some(text)) = pipe.next_line().await {
        let at = now();
        lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Line { at, text });
    }
}

/// The kernel keeps the high-water mark, but only as long as the process is there.
async fn watch_memory(pid: u32, most: Arc<Mutex<u64>>) {
    while let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
        let mark = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let Some(kib) = mark.and_then(|mark| mark.split_whitespace().next()?.parse().ok()) else {
            return;
        };
        *most.lock().unwrap_or_else(PoisonError::into_inner) = kib;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn join(lines: &[Line]) -> String {
    let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
    texts.join("\n")
}
