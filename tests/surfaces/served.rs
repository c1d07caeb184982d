//! A daemon with real processes and real requests: deploys, a bad version, a gate, an abort, a rollback, a restart.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use super::{Ran, command, wade};

/// Threads that send requests one after the other.
const USERS: usize = 2;

fn rollout(name: &str, more: &str) -> String {
    let wade = env!("CARGO_BIN_EXE_wade");
    format!(
        "\
apiVersion: wade.dev/v1alpha1
kind: Rollout
metadata: {{name: {name}}}
spec:
  workload:
    process:
      command: [/bin/sh, -c, 'exec {wade} sample-service --version \"$VERSION\" --fail-percent \"$FAIL\"']
      env: {{VERSION: '${{version}}', FAIL: '${{fail}}'}}
      port: auto
      ready: {{http: /healthz}}
      allowRoot: true
  variables: {{fail: {{default: '0'}}}}
  traffic: {{listen: '127.0.0.1:0'}}
  strategy: {{canary: {{steps: [{{weight: 50%, min: 1s, max: 2s}}], bake: 1s}}}}
  analysis: {{look: 500ms, tripwire: {{errors: 50%, looks: 1, minRequests: 5}}}}
  limits: {{settle: 500ms}}
{more}"
    )
}

/// `wade serve` in a folder of its own; everything it started is gone when it is dropped.
struct Served {
    folder: tempfile::TempDir,
    daemon: Child,
    /// What it said where it listens.
    said: Vec<String>,
}

impl Served {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("wade.yaml"),
            "apiVersion: wade.dev/v1alpha1\nkind: Config\n",
        )
        .unwrap();
        std::fs::create_dir(folder.path().join("rollouts")).unwrap();
        std::fs::write(folder.path().join("rollouts/hello.yaml"), rollout("hello", "")).unwrap();
        let gates = "  gates: [{before: 50%}]\n";
        std::fs::write(folder.path().join("rollouts/gated.yaml"), rollout("gated", gates)).unwrap();
        let (daemon, said) = serve(folder.path());
        Self { folder, daemon, said }
    }

    fn wade(&self, args: &[&str]) -> Ran {
        wade(self.folder.path(), args)
    }

    /// SIGTERM, and the same configuration again once it has ended.
    fn restart(&mut self) {
        self.stop();
        (self.daemon, self.said) = serve(self.folder.path());
    }

    fn stop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.daemon.id()).unwrap()).unwrap();
        // Gone already is fine.
        let _ = kill_process(pid, Signal::TERM);
        let _ = self.daemon.wait();
    }

    fn address(&self, name: &str) -> String {
        let start = format!("{name} on ");
        let line = self
            .said
            .iter()
            .find_map(|line| line.strip_prefix(&start))
            .expect("it says where it listens");
        line.split(',').next().unwrap().to_owned()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // With --stop-processes it takes the services with it.
        self.stop();
    }
}

fn serve(folder: &Path) -> (Child, Vec<String>) {
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let mut daemon = command(folder, &["serve", "--stop-processes"])
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(daemon.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let last = line.starts_with("commands on ");
        said.push(line);
        if last {
            break;
        }
    }
    assert!(
        said.last().is_some_and(|line| line.starts_with("commands on ")),
        "serve ended: {said:?}"
    );
    (daemon, said)
}

/// People who use the service until they are dropped.
struct Users {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Users {
    fn of(address: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let user = || {
            let (stop, address) = (Arc::clone(&stop), address.to_owned());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Whether it answers well is the judge's business.
                    if let Ok(mut stream) = TcpStream::connect(&address) {
                        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\nconnection: close\r\n\r\n");
                        let _ = stream.read_to_end(&mut Vec::new());
                    }
                }
            })
        };
        let threads = (0..USERS).map(|_| user()).collect();
        Self { stop, threads }
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .drain(..)
            .for_each(|thread| thread.join().expect("users do not panic"));
    }
}

/// `seen` ended with `code`, and its output holds `parts` in this order.
#[track_caller]
fn told(seen: &Ran, code: i32, parts: &[&str]) {
    assert_eq!(seen.code, code, "{}\n{}", seen.out, seen.err);
    let mut rest = seen.out.as_str();
    for part in parts {
        let at = rest
            .find(part)
            .unwrap_or_else(|| panic!("{part:?} is missing, or not in its place:\n{}", seen.out));
        rest = &rest[at + part.len()..];
    }
    assert!(
        !seen.out.contains('\u{1b}'),
        "control characters in a pipe: {:?}",
        seen.out
    );
}

#[test]
fn a_service_is_deployed_goes_back_and_is_told_about() {
    let mut served = Served::start();
    let first = served.wade(&["deploy", "hello", "--version", "1.0.0"]);
    told(
        &first,
        0,
        &[
            "hello 1.0.0   release 1",
            "go back",
            "start",
            "ready",
            "FIRST DEPLOY",
            "(exit 0)",
        ],
    );
    told(
        &served.wade(&["deploy", "hello", "--version", "1.0.0"]),
        0,
        &["serves already"],
    );
    let users = Users::of(&served.address("hello"));

    let second = served.wade(&["deploy", "-f", "rollouts/hello.yaml", "--set", "version=1.1.0"]);
    told(
        &second,
        0,
        &[
            "1.0.0 → 1.1.0",
            "plan",
            " 50 %",
            "100 %",
            "PROMOTED",
            "1.1.0 serves",
            "(exit 0)",
        ],
    );

    let bad = served.wade(&[
        "deploy",
        "hello",
        "--version",
        "1.2.0",
        "--set",
        "fail=100",
        "--reason",
        "be brave",
    ]);
    told(
        &bad,
        3,
        &[
            " 50 %",
            "FAIL",
            "errors",
            "back",
            "1.1.0",
            "ROLLED BACK",
            "failed answers",
            "(exit 3)",
        ],
    );
    let why = served.wade(&["why", "hello"]);
    told(
        &why,
        0,
        &[
            "ROLLED BACK",
            "be brave",
            "what happened",
            "FAIL",
            "last verdict",
            "fail",
            "failed requests",
        ],
    );
    told(
        &served.wade(&["deploy", "hello", "--version", "1.2.0", "--set", "fail=100"]),
        5,
        &[],
    );

    told(
        &served.wade(&["deploy", "hello", "--version", "1.3.0", "--detach"]),
        0,
        &["wade status -w hello"],
    );
    let abort = served.wade(&["abort", "hello", "--reason", "customers call"]);
    told(&abort, 0, &["aborted by", "customers call", "ABORTED"]);
    told(&served.wade(&["abort", "hello"]), 5, &[]);
    told(&served.wade(&["settle"]), 0, &["no release is unfinished"]);

    let back = served.wade(&["rollback", "hello"]);
    told(&back, 0, &["1.1.0 → 1.0.0", "PROMOTED", "1.0.0 serves"]);
    drop(users);

    served.restart();
    // Adopted at once, but ready only once the new daemon has asked it.
    for _ in 0..50 {
        if served.wade(&["status"]).out.contains("1/1") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    told(&served.wade(&["status"]), 0, &["hello", "1.0.0", "1/1", "Promoted"]);
    let history = served.wade(&["history", "hello", "-o", "json"]);
    let outcomes: Vec<String> = history
        .out
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["outcome"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(
        outcomes,
        ["Promoted", "Aborted", "RolledBack", "Promoted", "FirstDeploy"]
    );
}

#[test]
fn a_gate_waits_for_a_person_and_json_tells_the_same_story() {
    let served = Served::start();
    let first = served.wade(&["deploy", "gated", "--version", "1.0.0", "-o", "json"]);
    let lines: Vec<serde_json::Value> = first
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (head, last) = (lines.first().unwrap(), lines.last().unwrap());
    assert_eq!(
        (first.code, head["release"]["number"].as_u64(), last["outcome"].as_str()),
        (0, Some(1), Some("FirstDeploy"))
    );
    assert!(
        lines[1..lines.len() - 1].iter().all(|line| line["event"].is_string()),
        "{}",
        first.out
    );

    let waiting = served.wade(&["deploy", "gated", "--version", "1.1.0", "--wait", "1s"]);
    told(
        &waiting,
        6,
        &["gate", "before 50%", "wade approve gated", "nobody has said yes"],
    );
    told(
        &served.wade(&["settle", "--wait", "1s"]),
        6,
        &["gated", "still unfinished"],
    );
    told(&served.wade(&["resume", "gated"]), 5, &["not followed"]);
    told(
        &served.wade(&["approve", "gated", "--reason", "looks fine"]),
        0,
        &["approved by", "looks fine"],
    );
    let followed = served.wade(&["status", "-w", "gated"]);
    told(&followed, 0, &["gated on", "gate", "approved by", " 50 %"]);
    told(&served.wade(&["settle"]), 0, &["no release is unfinished"]);
    told(&served.wade(&["deploy", "nosuch", "--version", "1"]), 2, &[]);
}
