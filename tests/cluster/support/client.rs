//! A client that sends at a constant rate and remembers every answer.
//!
//! It is an open loop: a slow answer does not hold back the next request, or an outage would hide most of what it
//! costs. Nothing is tried twice. A connection that was closed while it lay idle is replaced before anything is sent on
//! it, as every client does; one that closes on a request is a lost request.
//!
//! One thing is the node's and not the release's: a connection to a Service's address that kube-proxy's rules did not
//! catch in the moment they were being replaced. The node answers it with "network unreachable", which nothing else
//! does, so that it can be told from a pod that is gone ("no route to host"); a few of those begin anew.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{now, seconds};

/// How many connections of one client the node may fail to translate.
const UNTRANSLATED: u32 = 3;

/// After this a request counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a connection carries one request or many.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Connections {
    /// A new one for each request: each is sent where the cluster says at that moment.
    New,
    /// Kept open: pods that left stay in use until they close the connection.
    Kept,
}

/// What is sent, and where.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// The address that is connected to.
    pub(crate) to: SocketAddr,
    /// The Host header, by which a Gateway chooses the route.
    pub(crate) host: String,
    /// Requests a second.
    pub(crate) rate: u32,
    /// How connections are used.
    pub(crate) connections: Connections,
    /// A header that every request carries.
    pub(crate) header: Option<(&'static str, &'static str)>,
}

/// One request's end.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// When it was due to be sent.
    pub(crate) sent: Timestamp,
    /// When it ended.
    pub(crate) done: Timestamp,
    /// How it ended.
    pub(crate) end: End,
}

/// How a request ended.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum End {
    /// With an answer. The version is empty if it is not the application's: a proxy answered in its place.
    Answered { status: u16, version: String },
    /// With none; the words say why.
    Lost(String),
}

impl Answer {
    /// Anything but a 200.
    pub(crate) fn is_bad(&self) -> bool {
        !matches!(self.end, End::Answered { status: 200, .. })
    }

    /// Answered by this version, well or not.
    pub(crate) fn is_from(&self, wanted: &str) -> bool {
        matches!(&self.end, End::Answered { version, .. } if version == wanted)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { status, version } if version.is_empty() => {
                write!(f, "{status} (not from the application)")
            }
            Self::Answered { status, version } => write!(f, "{status} from {version}"),
            Self::Lost(why) => write!(f, "lost: {why}"),
        }
    }
}

/// A client at work. Dropped, it stops.
#[derive(Debug)]
pub(crate) struct Client {
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    load: Load,
    answers: Mutex<Vec<Answer>>,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    untranslated: AtomicU32,
}

impl Client {
    /// Begins to send.
    pub(crate) fn start(load: Load) -> Self {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            load,
            answers: Mutex::default(),
            idle: Mutex::default(),
            untranslated: AtomicU32::new(0),
        });
        let task = tokio::spawn(send_all(shared.clone(), stop.clone()));
        Self { shared, stop, task }
    }

    /// What has come back so far.
    pub(crate) fn so_far(&self) -> Tally {
        Tally::new(lock(&self.shared.answers).clone())
    }

    /// Stops sending, waits for the answers that are under way, and returns all of them.
    pub(crate) async fn stop(mut self) -> Tally {
        self.stop.cancel();
        (&mut self.task).await.expect("sending does not panic");
        self.so_far()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn send_all(shared: Arc<Shared>, stop: CancellationToken) {
    let mut due = interval(Duration::from_secs(1) / shared.load.rate);
    // A busy machine is made up for: the rate is a promise to whoever divides by it.
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = due.tick() => {}
        }
        let shared = shared.clone();
        under_way.spawn(async move {
            let sent = now();
            let end = match timeout(PATIENCE, ask(&shared)).await {
                Ok(Ok(end)) => end,
                Ok(Err(why)) => End::Lost(why),
                Err(_) => End::Lost(format!("no answer within {} s", PATIENCE.as_secs())),
            };
            let done = now();
            lock(&shared.answers).push(Answer { sent, done, end });
        });
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

async fn ask(shared: &Shared) -> Result<End, String> {
    let mut connection = connection(shared).await?;
    let mut request = http::Request::get("/").header(http::header::HOST, &shared.load.host);
    if let Some((name, value)) = shared.load.header {
        request = request.header(name, value);
    }
    let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
    let answer = connection.send_request(request).await.map_err(|error| chain(&error))?;
    let version = answer.headers().get("x-version").and_then(|value| value.to_str().ok());
    let end = End::Answered {
        status: answer.status().as_u16(),
        version: version.unwrap_or_default().to_owned(),
    };
    answer.into_body().collect().await.map_err(|error| chain(&error))?;
    if shared.load.connections == Connections::Kept {
        lock(&shared.idle).push(connection);
    }
    Ok(end)
}

async fn connection(shared: &Shared) -> Result<SendRequest<Empty<Bytes>>, String> {
    loop {
        let kept = lock(&shared.idle).pop();
        let Some(mut kept) = kept else { break };
        if kept.ready().await.is_ok() {
            return Ok(kept);
        }
        // Closed while it lay there: look at the next one.
    }
    let stream = loop {
        match TcpStream::connect(shared.load.to).await {
            Ok(stream) => break stream,
            Err(error)
                if error.kind() == std::io::ErrorKind::NetworkUnreachable
                    && shared.untranslated.fetch_add(1, Ordering::Relaxed) < UNTRANSLATED =>
            {
                eprintln!("{} was not translated by the node once", shared.load.to);
            }
            Err(error) => return Err(format!("connect: {error}")),
        }
    };
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
    tokio::spawn(async move {
        // Its error comes out at the request that it ended.
        let _ = connection.await;
    });
    Ok(sender)
}

fn chain(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers, in the order in which their requests were due.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    answers: Vec<Answer>,
}

impl Tally {
    fn new(mut answers: Vec<Answer>) -> Self {
        answers.sort_by_key(|answer| answer.sent);
        Self { answers }
    }

    /// Only those whose request was due in this time; the end is not part of it.
    pub(crate) fn between(&self, from: Timestamp, to: Timestamp) -> Self {
        self.only(|answer| (from..to).contains(&answer.sent))
    }

    /// Only those that the condition holds for.
    pub(crate) fn only(&self, holds: impl Fn(&Answer) -> bool) -> Self {
        Self {
            answers: self.answers.iter().filter(|answer| holds(answer)).cloned().collect(),
        }
    }

    /// Everything but a 200.
    pub(crate) fn bad(&self) -> Self {
        self.only(Answer::is_bad)
    }

    /// Those that got no answer at all.
    pub(crate) fn lost(&self) -> Self {
        self.only(|answer| matches!(answer.end, End::Lost(_)))
    }

    /// How many.
    pub(crate) fn total(&self) -> usize {
        self.answers.len()
    }

    /// How many ended each way.
    pub(crate) fn ends(&self) -> BTreeMap<End, usize> {
        let mut ends = BTreeMap::new();
        for answer in &self.answers {
            *ends.entry(answer.end.clone()).or_default() += 1;
        }
        ends
    }

    /// The moment the first one came back.
    pub(crate) fn first(&self) -> Option<Timestamp> {
        self.answers.iter().map(|answer| answer.done).min()
    }

    /// The moment the last one came back.
    pub(crate) fn last(&self) -> Option<Timestamp> {
        self.answers.iter().map(|answer| answer.done).max()
    }

    /// How many were due in each second since the first, and how many of these ended badly.
    pub(crate) fn per_second(&self) -> Vec<(usize, usize)> {
        let mut buckets = Vec::new();
        for answer in &self.answers {
            let offset = seconds(self.answers[0].sent, answer.sent);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "sorted: never negative"
            )]
            let bucket = offset as usize;
            if buckets.len() <= bucket {
                buckets.resize(bucket + 1, (0, 0));
            }
            buckets[bucket].0 += 1;
            buckets[bucket].1 += usize::from(answer.is_bad());
        }
        buckets
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bad = self.bad();
        write!(f, "{} requests, {} bad", self.total(), bad.total())?;
        if let (Some(begun), Some(first), Some(last)) = (self.first(), bad.first(), bad.last()) {
            let (first, last) = (seconds(begun, first), seconds(begun, last));
            write!(f, " (from {first:.1} s to {last:.1} s after the start)")?;
        }
        for (end, count) in self.ends() {
            write!(f, "; {count} {end}")?;
        }
        Ok(())
    }
}
