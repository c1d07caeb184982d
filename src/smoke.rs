//! Smoke tests: the questions a new revision has to answer before it meets any user.
//!
//! **The idea.** Tests run in the order they are written, against the new revision's own addresses, so what answers is
//! the new revision and nothing else: no router, no weight, no luck. HTTP and gRPC tests ask every instance (one bad
//! instance of ten is a bad revision); a command runs once per instance and is told the address in `WADE_URL`. A test
//! may be tried several times, because a process that has just become ready may still be warming up, but all tries of
//! all tests end within one limit. The first test that keeps failing ends the run.
//!
//! **What is promised.** [`run`] always returns, within `within` and a little. The report is one sentence that names
//! the test, the instance, what came back and what was expected. It never shows a header's value or a variable's value
//! by itself (they may be secrets); an excerpt of an answer's body or of a command's last lines is bounded and escaped.
//! Dropping the future ends what was started: a command is killed together with its process group.
//!
//! **What it deliberately does not do.** It does not decide what a failure means (the engine rejects the release), it
//! does not repeat tests during traffic by itself, and it gives commands no shell: a list of words is a list of words.
//!
//! Next: `http`, `grpc`, `command` for one try each; `text` for what may be quoted.

mod command;
mod grpc;
mod http;
mod text;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::clock::stopwatch;
use crate::engine::SmokeReport;
use crate::plan::SmokePlan;
use crate::spec::{SmokeTest, Span};

pub use http::http_client;

/// The pause between two tries of one test.
pub const PAUSE: Duration = Duration::from_millis(250);
/// How long one HTTP or gRPC try may take when the test does not say.
pub const DEFAULT_ANSWER: Duration = Duration::from_secs(10);
/// How many instances are asked at the same time.
pub const AT_ONCE: usize = 8;
/// How many tests a report of success lists by name.
const LISTED: usize = 6;

/// One instance of the new revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmokeTarget {
    /// What the instance is called in reports, `hello-2`.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// What every path begins with there; empty where the instance itself listens. A detour (through a cluster's API
    /// server, say) has its secret here, so that nobody else on the machine can take it.
    pub prefix: String,
}

/// Runs all smoke tests against `targets` and says in one sentence how they ended.
///
/// `env` is added to what commands see (besides `PATH`, `HOME`, `LANG`, `TZ`, `TMPDIR` and `WADE_URL`; nothing else is
/// inherited). `client` must not follow redirects: see [`http_client`].
///
/// A failure to reach an instance is a failed test here, unlike in analysis: an instance that passed its readiness
/// check and cannot be asked is not fit for users.
pub async fn run(
    plan: &SmokePlan,
    targets: &[SmokeTarget],
    env: &BTreeMap<String, String>,
    client: &reqwest::Client,
) -> SmokeReport {
    if plan.tests.is_empty() {
        return report(true, "no smoke tests are declared".to_owned());
    }
    if targets.is_empty() {
        let tests = plan.tests.len();
        return report(
            false,
            format!(
                "smoke tests did not run: the new revision has no instance to ask ({tests} declared); check that it starts"
            ),
        );
    }
    let run = Run {
        plan,
        env,
        client,
        started: stopwatch(),
    };
    for test in &plan.tests {
        if let Err(sentence) = run.test(test, targets).await {
            return report(false, sentence);
        }
    }
    report(true, run.success(targets.len()))
}

/// Runs one command of somebody's, as a smoke test's command is run (see [`run`]), but about no instance.
///
/// # Errors
/// How it ended instead of with 0, with its last lines; it is killed after `within`.
pub async fn program(words: &[String], within: Span, env: &BTreeMap<String, String>) -> Result<(), String> {
    let limit = Limit {
        time: within.0,
        left_of: None,
    };
    command::run(words, limit, env).await.map_err(|failure| match failure {
        Failure::Answer { what, excerpt: None } => what,
        Failure::Answer {
            what,
            excerpt: Some((label, excerpt)),
        } => format!("it {what}; {label} {excerpt}"),
        Failure::Test(why) => why,
    })
}

fn report(passed: bool, summary: String) -> SmokeReport {
    SmokeReport { passed, summary }
}

/// Why one try failed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// The instance's answer (or silence) is at fault; another try may go better.
    Answer {
        /// What came back and what was expected, to follow `failed on hello-2: `.
        what: String,
        /// The bounded, escaped excerpt that helps, with how it is introduced: `body begins`, `last lines`.
        excerpt: Option<(&'static str, String)>,
    },
    /// The test itself cannot work, however often it is tried.
    Test(String),
}

impl Failure {
    fn answer(what: impl Into<String>) -> Self {
        Self::Answer {
            what: what.into(),
            excerpt: None,
        }
    }
}

/// How long one try may take, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    time: Duration,
    /// Set where the time left for all tests is shorter than what this try would have had.
    left_of: Option<Span>,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.left_of {
            None => write!(f, "{}", text::rounded(self.time)),
            Some(all) => write!(f, "the {} left of {all} for all smoke tests", text::rounded(self.time)),
        }
    }
}

struct Run<'a> {
    plan: &'a SmokePlan,
    env: &'a BTreeMap<String, String>,
    client: &'a reqwest::Client,
    started: Instant,
}

impl Run<'_> {
    /// One test on every instance: requests side by side, commands one after the other (they may share a fixture).
    /// The error is the sentence of the first instance, in the order given, on which the test failed.
    async fn test(&self, test: &SmokeTest, targets: &[SmokeTarget]) -> Result<(), String> {
        let at_once = match test {
            SmokeTest::Http(_) | SmokeTest::Grpc(_) => AT_ONCE,
            SmokeTest::Command(_) => 1,
        };
        // Boxed: the states of three protocols are large, and a type by name keeps the whole future `Send`.
        let questions: Vec<_> = targets
            .iter()
            .map(|target| self.on_target(test, target).boxed())
            .collect();
        stream::iter(questions).buffered(at_once).try_collect().await
    }

    /// All tries of one test on one instance.
    async fn on_target(&self, test: &SmokeTest, target: &SmokeTarget) -> Result<(), String> {
        let tries = self.plan.tries.max(1);
        let mut last = None;
        for number in 1..=tries {
            if number > 1 {
                tokio::time::sleep(PAUSE.min(self.left())).await;
            }
            let Some(limit) = self.limit(wanted(test)) else {
                return Err(self.out_of_time(test, target, number - 1, last.as_ref()));
            };
            match self.once(test, target, limit).await {
                Ok(()) => return Ok(()),
                Err(failure @ Failure::Test(_)) => return Err(sentence(test, target, number, &failure)),
                Err(failure) => last = Some(failure),
            }
        }
        let failure = last.expect("at least one try was made");
        Err(sentence(test, target, tries, &failure))
    }

    async fn once(&self, test: &SmokeTest, target: &SmokeTarget, limit: Limit) -> Result<(), Failure> {
        match test {
            SmokeTest::Http(test) => http::ask(test, target, limit, self.client).await,
            SmokeTest::Grpc(_) if !target.prefix.is_empty() => Err(Failure::Test(
                "gRPC cannot be asked through the API server's proxy; run Wade in the cluster, where pods have addresses"
                    .to_owned(),
            )),
            SmokeTest::Grpc(test) => grpc::ask(test, target.address, limit).await,
            SmokeTest::Command(test) => command::execute(test, target, limit, self.env).await,
        }
    }

    fn left(&self) -> Duration {
        self.plan.within.0.saturating_sub(self.started.elapsed())
    }

    /// The limit for a try that would like to have `wanted`; `None` when the time for all tests is up.
    fn limit(&self, wanted: Option<Duration>) -> Option<Limit> {
        let left = self.left();
        if left.is_zero() {
            return None;
        }
        Some(match wanted {
            Some(time) if time <= left => Limit { time, left_of: None },
            _ => Limit {
                time: left,
                left_of: Some(self.plan.within),
            },
        })
    }

    fn out_of_time(&self, test: &SmokeTest, target: &SmokeTarget, tried: u32, last: Option<&Failure>) -> String {
        let within = self.plan.within;
        match last {
            Some(failure) => format!(
                "{}; then the {within} for all smoke tests were up",
                sentence(test, target, tried, failure)
            ),
            None => format!(
                "smoke test {} did not run on {}: the {within} for all smoke tests were up; make the tests quicker or raise `limits.smoke`",
                Label(test),
                target.name
            ),
        }
    }

    fn success(&self, targets: usize) -> String {
        let tests = &self.plan.tests;
        let instances = if targets == 1 { "instance" } else { "instances" };
        let listed: Vec<String> = tests
            .iter()
            .take(LISTED)
            .map(|test| format!("{} on {targets} {instances}", Label(test)))
            .collect();
        let more = match tests.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        format!(
            "smoke tests passed: {count} of {count} in {} ({}{more})",
            text::rounded(self.started.elapsed()),
            listed.join(", "),
            count = tests.len()
        )
    }
}

/// The longest that a try of this test may take; `None` for a command that says nothing: then only the limit for all
/// tests holds.
fn wanted(test: &SmokeTest) -> Option<Duration> {
    match test {
        SmokeTest::Http(test) => Some(test.within.map_or(DEFAULT_ANSWER, |bound| http::patience(bound.0))),
        SmokeTest::Grpc(test) => Some(test.within.map_or(DEFAULT_ANSWER, |bound| bound.0)),
        SmokeTest::Command(test) => test.within.map(|bound| bound.0),
    }
}

fn sentence(test: &SmokeTest, target: &SmokeTarget, tries: u32, failure: &Failure) -> String {
    let (label, name) = (Label(test), &target.name);
    match failure {
        Failure::Test(why) => format!("smoke test {label} cannot run on {name}: {why}"),
        Failure::Answer { what, excerpt } => {
            let tries = if tries == 1 {
                "1 try".to_owned()
            } else {
                format!("{tries} tries")
            };
            let excerpt = match excerpt {
                Some((introduced, quoted)) => format!("; {introduced} `{quoted}`"),
                None => String::new(),
            };
            format!("smoke test {label} failed on {name}: {what} ({tries}){excerpt}")
        }
    }
}

/// What a test is called in a sentence.
struct Label<'a>(&'a SmokeTest);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SmokeTest::Http(test) => {
                let method = test.method.as_deref().unwrap_or("GET");
                // What follows `?` may be a token.
                let path = test.http.split('?').next().unwrap_or_default();
                write!(
                    f,
                    "{} {}",
                    text::quoted(method, text::LABEL),
                    text::quoted(path, text::LABEL)
                )
            }
            SmokeTest::Grpc(test) if test.grpc.is_empty() => f.write_str("gRPC health"),
            SmokeTest::Grpc(test) => write!(f, "gRPC health of {}", text::quoted(&test.grpc, text::LABEL)),
            SmokeTest::Command(test) => write!(f, "command `{}`", text::quoted(&test.command.join(" "), text::LABEL)),
        }
    }
}
