//! Event streams: server-sent events for browsers and for whoever wants to resume, JSON lines for everybody else.
//!
//! A stream has a place while it lives (`limits`), shows so every few seconds, and asks anew from time to time whether
//! its caller is still who they were and still may: a right that was taken away, or a token that ran out, ends it. It
//! holds one frame at a time; a caller who does not read is let go by the connection (`serve`).

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::feed::{End, Follower};
use super::fleet::Fleet;
use super::limits::{Place, Settings};
use super::request::dress;
use super::routes::ROLLOUTS;
use super::{Caller, Gatekeeper, Right};
use crate::clock::stopwatch;
use crate::daemon::api::{Problem, ProblemKind};

/// Namespaces that one stream asks about, for callers who may not see them all.
const MOST_NAMESPACES: usize = 200;

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Server-sent events.
    Sse,
    /// One JSON value a line.
    Lines,
}

/// Who follows, so that they can be asked again.
pub(super) struct Who {
    pub(super) gate: Arc<dyn Gatekeeper>,
    pub(super) headers: HeaderMap,
    pub(super) peer: SocketAddr,
    pub(super) caller: Caller,
}

impl Who {
    /// Whether it is still the same caller.
    async fn again(&mut self) -> Result<(), Problem> {
        let caller = self.gate.authenticate(&self.headers, self.peer).await?;
        if caller.actor.user != self.caller.actor.user {
            return Err(Problem::new(
                ProblemKind::Unauthenticated,
                "the token is somebody else's now",
            ));
        }
        self.caller = caller;
        Ok(())
    }
}

/// What every stream has.
pub(super) struct Line {
    form: Form,
    _place: Place,
    frames: VecDeque<Bytes>,
    heartbeat: Interval,
    recheck: Interval,
    until: Instant,
}

impl Line {
    pub(super) fn new(form: Form, place: Place, settings: &Settings) -> Self {
        let ticks = |every| {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick comes at once.
            ticks.reset();
            ticks
        };
        Self {
            form,
            _place: place,
            frames: VecDeque::new(),
            heartbeat: ticks(settings.heartbeat),
            recheck: ticks(settings.recheck),
            until: stopwatch() + settings.stream_age,
        }
    }

    fn push(&mut self, id: Option<&str>, event: &str, json: &str) {
        let frame = match (self.form, id) {
            (Form::Lines, _) => format!("{json}\n"),
            (Form::Sse, Some(id)) => format!("id: {id}\nevent: {event}\ndata: {json}\n\n"),
            (Form::Sse, None) => format!("event: {event}\ndata: {json}\n\n"),
        };
        self.frames.push_back(frame.into());
    }

    /// Why a stream ends before its time; lines have no word for that.
    fn complain(&mut self, problem: &Problem) {
        if self.form == Form::Sse {
            let json = serde_json::to_string(problem).expect("problems are plain values");
            self.push(None, "problem", &json);
        }
    }

    /// A comment, which nobody sees and which keeps connections open.
    fn beat(&mut self) {
        if self.form == Form::Sse {
            self.frames.push_back(Bytes::from_static(b": here\n\n"));
        }
    }

    fn is_old(&self) -> bool {
        stopwatch() >= self.until
    }
}

/// An answer that goes on.
fn respond(form: Form, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    let media = match form {
        Form::Sse => "text/event-stream",
        Form::Lines => "application/x-ndjson",
    };
    dress(response.headers_mut(), media);
    // A proxy that collects would make a stream useless.
    let no = HeaderValue::from_static("no");
    response.headers_mut().insert("x-accel-buffering", no);
    response
}

/// The stream of one release.
pub(super) fn of_release(line: Line, follower: Follower, who: Who, right: (String, String)) -> Response {
    let form = line.form;
    let start = ReleaseStream {
        line,
        follower,
        who,
        right,
        over: false,
    };
    let frames = stream::unfold(start, |mut stream| async move {
        let frame = stream.next().await?;
        Some((Ok::<_, std::convert::Infallible>(frame), stream))
    });
    respond(form, Body::from_stream(frames))
}

struct ReleaseStream {
    line: Line,
    follower: Follower,
    who: Who,
    /// Namespace and rollout.
    right: (String, String),
    over: bool,
}

impl ReleaseStream {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.line.frames.pop_front() {
                return Some(frame);
            }
            if self.over || self.line.is_old() {
                return None;
            }
            self.take();
            if !self.line.frames.is_empty() || self.over {
                continue;
            }
            tokio::select! {
                () = self.follower.changed() => {}
                _ = self.line.heartbeat.tick() => self.line.beat(),
                _ = self.line.recheck.tick() => if let Err(problem) = self.recheck().await {
                    self.line.complain(&problem);
                    self.over = true;
                },
            }
        }
    }

    fn take(&mut self) {
        let news = self.follower.news();
        for (number, json) in news.notices {
            let id = number.map(|number| number.to_string());
            let event = if id.is_some() { "entry" } else { "look" };
            self.line.push(id.as_deref(), event, &json);
        }
        match news.end {
            None => {}
            Some(End::Over) => {
                if self.line.form == Form::Sse {
                    self.line.push(None, "end", "{}");
                }
                self.over = true;
            }
            Some(End::Lost(problem)) => {
                self.line.complain(&problem);
                self.over = true;
            }
        }
    }

    async fn recheck(&mut self) -> Result<(), Problem> {
        self.who.again().await?;
        let (namespace, name) = &self.right;
        let right = Right {
            verb: "watch",
            resource: super::routes::RELEASES,
            namespace,
            name: Some(name),
        };
        self.who.gate.allow(&self.who.caller, right).await
    }
}

/// Which namespaces somebody may see.
pub(super) struct Sight {
    verb: &'static str,
    all: bool,
    by_namespace: BTreeMap<String, bool>,
}

impl Sight {
    /// Asks whether they may see everything.
    pub(super) async fn of(gate: &dyn Gatekeeper, by: &Caller, verb: &'static str) -> Result<Self, Problem> {
        let right = Right {
            verb,
            resource: ROLLOUTS,
            namespace: "",
            name: None,
        };
        let all = match gate.allow(by, right).await {
            Ok(()) => true,
            Err(problem) if problem.kind == ProblemKind::Forbidden => false,
            Err(problem) => return Err(problem),
        };
        Ok(Self {
            verb,
            all,
            by_namespace: BTreeMap::new(),
        })
    }

    /// Whether they may see this namespace.
    pub(super) async fn sees(&mut self, gate: &dyn Gatekeeper, by: &Caller, namespace: &str) -> Result<bool, Problem> {
        if self.all {
            return Ok(true);
        }
        if let Some(known) = self.by_namespace.get(namespace) {
            return Ok(*known);
        }
        if self.by_namespace.len() >= MOST_NAMESPACES {
            return Err(Problem::new(
                ProblemKind::Forbidden,
                format!(
                    "there are rollouts in more than {MOST_NAMESPACES} namespaces and you may not see all of them; ask for one namespace"
                ),
            ));
        }
        let right = Right {
            verb: self.verb,
            resource: ROLLOUTS,
            namespace,
            name: None,
        };
        let may = match gate.allow(by, right).await {
            Ok(()) => true,
            Err(problem) if problem.kind == ProblemKind::Forbidden => false,
            Err(problem) => return Err(problem),
        };
        self.by_namespace.insert(namespace.to_owned(), may);
        Ok(may)
    }

    /// Whether there is anything that they were seen not to see, and nothing that they were seen to see.
    pub(super) fn is_blind(&self) -> bool {
        !self.all && !self.by_namespace.values().any(|may| *may)
    }
}

/// The stream of all rollouts.
pub(super) fn of_fleet(line: Line, fleet: Arc<Fleet>, who: Who, sight: Sight, last_id: Option<&str>) -> Response {
    let news = fleet.follow();
    let seen = last_id.and_then(|id| fleet.number(id)).unwrap_or(0);
    let start = FleetStream {
        reset: last_id.is_some() && seen == 0,
        line,
        fleet,
        news,
        who,
        sight,
        seen,
        over: false,
    };
    let frames = stream::unfold(start, |mut stream| async move {
        let frame = stream.next().await?;
        Some((Ok::<_, std::convert::Infallible>(frame), stream))
    });
    respond(Form::Sse, Body::from_stream(frames))
}

struct FleetStream {
    line: Line,
    fleet: Arc<Fleet>,
    news: watch::Receiver<u64>,
    who: Who,
    sight: Sight,
    seen: u64,
    /// What was seen before means nothing any more: everything is told anew.
    reset: bool,
    over: bool,
}

impl FleetStream {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.line.frames.pop_front() {
                return Some(frame);
            }
            if self.over || self.line.is_old() {
                return None;
            }
            self.news.borrow_and_update();
            if let Err(problem) = self.take().await {
                self.end(&problem);
                continue;
            }
            if !self.line.frames.is_empty() {
                continue;
            }
            tokio::select! {
                _ = self.news.changed() => {}
                _ = self.line.heartbeat.tick() => self.line.beat(),
                _ = self.line.recheck.tick() => if let Err(problem) = self.recheck().await {
                    self.end(&problem);
                },
            }
        }
    }

    fn end(&mut self, problem: &Problem) {
        self.line.complain(problem);
        self.over = true;
    }

    async fn take(&mut self) -> Result<(), Problem> {
        let Some(changes) = self.fleet.since(self.seen) else {
            return Ok(());
        };
        if std::mem::take(&mut self.reset) {
            self.line.push(None, "reset", "{}");
        }
        for change in changes {
            let sees = self
                .sight
                .sees(self.who.gate.as_ref(), &self.who.caller, &change.namespace)
                .await?;
            self.seen = change.number;
            if sees {
                let id = self.fleet.id(change.number);
                self.line.push(Some(&id), change.event, &change.json);
            }
        }
        Ok(())
    }

    /// Rights that were given since show with the next change of a rollout.
    async fn recheck(&mut self) -> Result<(), Problem> {
        self.who.again().await?;
        self.sight = Sight::of(self.who.gate.as_ref(), &self.who.caller, self.sight.verb).await?;
        Ok(())
    }
}
