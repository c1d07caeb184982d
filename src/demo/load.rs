//! A steady stream of users: requests at a constant rate, every one of them accounted for.
//!
//! **The idea.** Users do not wait for each other. The schedule is open: request *k* is due at `k / rps`, whether or not
//! earlier ones have been answered, and its latency counts from when it was *due*, so that a stall shows with its full
//! length instead of hiding the requests that were never sent (coordinated omission). Every request ends in exactly one
//! of four ways: answered below 500, answered with 500 or more, lost (no whole answer), or skipped (not sent because
//! [`MOST_IN_FLIGHT`] were under way). `sent = answered + lost + in flight` holds in every snapshot.
//!
//! Answers are counted by the `x-version` header that the sample service sets; an answer without one (a proxy's own 503)
//! is counted under [`NO_VERSION`].
//!
//! **Keep-alive** connections are pooled, newest first. A request that a pooled connection gives back *unsent*, because
//! the other side had closed it in the meantime, is sent on another one, as every HTTP client does; a request of which a
//! single byte went out is never repeated: it is lost, and that is what is to be seen.
//!
//! **What it deliberately does not do.** It finds no maximum (that is a benchmark) and follows no redirects.

mod latency;
mod tally;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, SystemClock, stopwatch};
use tally::Tally;

pub use tally::{Loss, Moment, NO_VERSION, Snapshot, VersionCount};

/// Requests under way at most; what is due beyond that is skipped, and counted as such.
pub const MOST_IN_FLIGHT: usize = 512;
/// A request without a whole answer after this is lost.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections kept at most.
const MOST_IDLE: usize = 128;
/// Pooled connections tried for one request before a new one is opened.
const MOST_STALE: usize = MOST_IDLE;
/// Above this, requests are skipped anyway and the schedule itself would cost a core.
const MOST_RPS: f64 = 50_000.0;

/// What users ask for, and how many of 100 of them.
const MIX: [(&str, u32); 4] = [("/", 60), ("/cart", 29), ("/pay", 10), ("/refund", 1)];

/// A running load. Dropping it ends the schedule; requests under way end by themselves.
pub struct Load {
    shared: Arc<Shared>,
    schedule: JoinHandle<()>,
}

impl Load {
    /// Starts sending `rps` requests a second to `target`; `seed` decides who asks for what. Must be called inside a
    /// tokio runtime. A rate that is not above 0 sends nothing.
    pub fn start(target: SocketAddr, rps: f64, seed: u64) -> Self {
        Self::start_with(target, rps, seed, Arc::new(SystemClock))
    }

    /// As [`Load::start`], with the wall clock that dates bad answers.
    pub fn start_with(target: SocketAddr, rps: f64, seed: u64, clock: Arc<dyn Clock>) -> Self {
        let shared = Arc::new(Shared {
            target,
            host: HeaderValue::from_str(&target.to_string()).expect("a socket address is plain ASCII"),
            clock,
            began: stopwatch(),
            idle: Mutex::new(Vec::new()),
            tally: Mutex::new(Tally::default()),
            stop: CancellationToken::new(),
            requests: TaskTracker::new(),
        });
        let schedule = tokio::spawn(schedule(Arc::clone(&shared), rps, seed));
        Self { shared, schedule }
    }

    /// What has happened so far.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.tally().snapshot(self.shared.began.elapsed())
    }

    /// Ends the schedule, waits for requests under way (at most [`TIMEOUT`] each) and returns the final account.
    pub async fn stop(mut self) -> Snapshot {
        self.shared.stop.cancel();
        // The schedule cannot fail; if it panicked, what was counted still counts.
        let _ = (&mut self.schedule).await;
        self.shared.requests.close();
        self.shared.requests.wait().await;
        self.snapshot()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

type Connection = SendRequest<Empty<Bytes>>;

struct Shared {
    target: SocketAddr,
    host: HeaderValue,
    clock: Arc<dyn Clock>,
    began: std::time::Instant,
    idle: Mutex<Vec<Connection>>,
    tally: Mutex<Tally>,
    stop: CancellationToken,
    requests: TaskTracker,
}

async fn schedule(shared: Arc<Shared>, rps: f64, seed: u64) {
    if rps.is_nan() || rps <= 0.0 {
        return;
    }
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rps.min(MOST_RPS)));
    // Late ticks are made up for: the rate is what was promised.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let room = Arc::new(Semaphore::new(MOST_IN_FLIGHT));
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    loop {
        let due = tokio::select! {
            due = ticks.tick() => due,
            () = shared.stop.cancelled() => return,
        };
        let path = pick(dice.random_range(0..100));
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            shared.tally().skipped();
            continue;
        };
        shared.tally().sent();
        let shared = Arc::clone(&shared);
        let requests = shared.requests.clone();
        requests.spawn(async move {
            shared.request(path, due).await;
            drop(permit);
        });
    }
}

/// The path for a throw from 0 to 99.
fn pick(throw: u32) -> &'static str {
    let mut up_to = 0;
    for (path, share) in MIX {
        up_to += share;
        if throw < up_to {
            return path;
        }
    }
    MIX[0].0
}

/// An answer, as far as it is counted.
struct Answer {
    status: u16,
    version: Option<String>,
}

impl Shared {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        // Counters are whole at every moment, so a panic elsewhere spoils nothing.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn request(&self, path: &'static str, due: Instant) {
        let outcome = match tokio::time::timeout(TIMEOUT, self.exchange(path)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Loss::TimedOut),
        };
        let moment = Moment {
            after: self.began.elapsed(),
            at: self.clock.now(),
        };
        match outcome {
            Ok(answer) => {
                let latency = due.into_std().elapsed();
                self.tally()
                    .answered(answer.version.as_deref(), answer.status, latency, moment);
            }
            Err(loss) => self.tally().lost(loss, moment),
        }
    }

    async fn exchange(&self, path: &'static str) -> Result<Answer, Loss> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = Uri::from_static(path);
        request.headers_mut().insert(HOST, self.host.clone());
        request
            .headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static("wade-load"));
        for _ in 0..MOST_STALE {
            let Some(mut connection) = self.pooled() else { break };
            match connection.try_send_request(request).await {
                Ok(response) => return self.finish(connection, response).await,
                // Closed under us before a byte went out.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Loss::of(error.error())),
                },
            }
        }
        let mut connection = self.connect().await?;
        match connection.send_request(request).await {
            Ok(response) => self.finish(connection, response).await,
            Err(error) => Err(Loss::of(&error)),
        }
    }

    /// An idle connection that is open as far as this side knows.
    fn pooled(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Connection, Loss> {
        let stream = TcpStream::connect(self.target)
            .await
            .map_err(|error| Loss::of(&error))?;
        // Requests are small: none should wait for the peer's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Loss::of(&error))?;
        // Ends when the sender is dropped or the peer closes; its error reaches the request that is under way.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn finish(
        &self,
        mut connection: Connection,
        response: hyper::Response<hyper::body::Incoming>,
    ) -> Result<Answer, Loss> {
        let answer = Answer {
            status: response.status().as_u16(),
            version: response
                .headers()
                .get("x-version")
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned),
        };
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame.map_err(|error| Loss::of(&error))?;
        }
        // Ready again once the connection has seen the end of the answer; an error means that it closes.
        if connection.ready().await.is_ok() && !self.stop.is_cancelled() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < MOST_IDLE {
                idle.push(connection);
            }
        }
        Ok(answer)
    }
}
