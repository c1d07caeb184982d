//! A request's way from the door to the answer: the same for all of [`ROUTES`](super::routes::ROUTES).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use tokio::sync::Semaphore;

use super::answers::{Placed, evidence, shown, timeline};
use super::feed::Feeds;
use super::fleet::Fleet;
use super::limits::{Buckets, MOST_CALLERS, Places, Settings};
use super::request::{At, Peer, Refusal, body, dress, json, own_origin, query, reason};
use super::routes::{Access, Act, DEPLOYMENTS, RELEASES, ROUTES, Route};
use super::stream::{Form, Line, Sight, Who, of_fleet, of_release};
use super::{Caller, Doors, Gatekeeper, Right, openapi};
use crate::clock::stopwatch;
use crate::daemon::api::{CommandRequest, Problem, ProblemKind, ReleaseRequest, ReleaseTarget};
use crate::engine::{Actor, CommandKind};
use crate::store::ReleaseKey;

/// For a place among the requests that are worked on.
const PLACE_WITHIN: Duration = Duration::from_secs(2);

/// What all requests share.
struct App {
    doors: Arc<dyn Doors>,
    gate: Arc<dyn Gatekeeper>,
    settings: Settings,
    rates: Mutex<Buckets>,
    at_once: Semaphore,
    places: Arc<Places>,
    feeds: Arc<Feeds>,
    fleet: Arc<Fleet>,
}

/// The API over `doors`, kept by `gate`. Whoever serves it puts a [`Peer`] into each request, as
/// [`serve`](super::serve()) does; without one, nothing is answered.
pub fn router(doors: Arc<dyn Doors>, gate: Arc<dyn Gatekeeper>, settings: Settings) -> Router {
    let app = Arc::new(App {
        fleet: Fleet::new(Arc::clone(&doors), settings.look),
        doors,
        gate,
        rates: Mutex::new(Buckets::new(settings.rate, settings.burst, MOST_CALLERS)),
        at_once: Semaphore::new(settings.at_once),
        places: Places::new(settings.streams, settings.streams_per_caller),
        feeds: Arc::default(),
        settings,
    });
    let mut router = Router::new();
    for route in &ROUTES {
        let app = Arc::clone(&app);
        let method = MethodFilter::try_from(route.method.clone()).expect("the list has GET and POST");
        let answer = on(method, move |request: Request| {
            let app = Arc::clone(&app);
            async move { app.answer(route, request).await }
        });
        router = router.route(route.path, answer);
    }
    router
        .fallback(|| async {
            Refusal::from(Problem::new(
                ProblemKind::NotFound,
                "there is nothing at this path; /api/v1/openapi.json describes what there is",
            ))
        })
        .method_not_allowed_fallback(|| async {
            Refusal::with(
                StatusCode::METHOD_NOT_ALLOWED,
                ProblemKind::Invalid,
                "this path does not take this method; /api/v1/openapi.json describes what there is",
            )
        })
}

impl App {
    async fn answer(self: Arc<Self>, route: &'static Route, request: Request) -> Response {
        let (mut parts, body) = request.into_parts();
        let answered = match route.access {
            Access::Open => open(route.act),
            _ => self.kept(route, &mut parts, body).await,
        };
        answered.unwrap_or_else(IntoResponse::into_response)
    }

    /// What takes a name.
    async fn kept(self: Arc<Self>, route: &'static Route, parts: &mut Parts, body: Body) -> Result<Response, Refusal> {
        let asked = self.asked(parts).await?;
        let at = At::read(parts).await?;
        if let Access::Needs(verb, resource) = route.access {
            self.allow(&asked.caller, verb, resource, &at).await?;
        }
        let within = self.settings.answer_within;
        let answered = tokio::time::timeout(within, self.act(route, asked, at, parts, body)).await;
        answered.unwrap_or_else(|_| {
            Err(Problem::new(
                ProblemKind::Unavailable,
                format!(
                    "no answer within {} s; what was asked for may go on, look before asking again",
                    within.as_secs_f64()
                ),
            )
            .into())
        })
    }

    /// Who asks, and whether they ask too often.
    async fn asked(&self, parts: &Parts) -> Result<Asked, Refusal> {
        own_origin(&parts.headers)?;
        let Some(Peer(peer)) = parts.extensions.get::<Peer>().copied() else {
            return Err(Problem::new(ProblemKind::Unavailable, "it is not known where the request comes from").into());
        };
        let mut caller = self.gate.authenticate(&parts.headers, peer).await?;
        caller.actor.from = Some(peer.ip().to_canonical().to_string());
        let taken = self
            .rates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(&caller.actor.user, stopwatch());
        match taken {
            Ok(()) => Ok(Asked {
                caller,
                peer,
                headers: parts.headers.clone(),
            }),
            Err(seconds) => Err(Refusal::from(Problem::new(
                ProblemKind::Busy,
                format!("{} asks too often; wait {seconds} s", caller.actor.user),
            ))
            .after(seconds)),
        }
    }

    async fn allow(&self, by: &Caller, verb: &str, resource: &str, at: &At) -> Result<(), Refusal> {
        let right = Right {
            verb,
            resource,
            namespace: &at.namespace,
            name: at.name(),
        };
        Ok(self.gate.allow(by, right).await?)
    }

    async fn act(
        self: &Arc<Self>,
        route: &Route,
        asked: Asked,
        at: At,
        parts: &Parts,
        sent: Body,
    ) -> Result<Response, Refusal> {
        if !matches!(route.act, Act::Events) {
            query(parts, &[])?;
        }
        let _working = match tokio::time::timeout(PLACE_WITHIN, self.at_once.acquire()).await {
            Ok(place) => place.expect("it is never closed"),
            Err(_) => {
                return Err(Problem::new(ProblemKind::Busy, "too many requests are worked on; try again later").into());
            }
        };
        let door = || self.doors.at(&at.namespace, &asked.caller.actor);
        let key = ReleaseKey {
            rollout: at.rollout.clone(),
            number: at.number,
        };
        match route.act {
            Act::Fleet => self.fleet_list(&asked).await,
            Act::FleetEvents => self.fleet_events(asked).await,
            Act::Rollouts => ok(&door().rollouts().await?),
            Act::Rollout => ok(&door().rollout(&at.rollout).await?),
            Act::Plan => {
                let request: ReleaseRequest = body(parts, sent, &self.settings).await?;
                let plan = door().preview(&at.rollout, &request).await?;
                let mut response = Response::new(Body::from(plan));
                dress(response.headers_mut(), "text/plain; charset=utf-8");
                Ok(response)
            }
            Act::Releases => ok(&door().releases(&at.rollout).await?),
            Act::Record => ok(&shown(door().record(&key).await?)),
            Act::Timeline => ok(&timeline(&door().record(&key).await?)),
            Act::Evidence => ok(&evidence(&door().record(&key).await?)),
            Act::Events => self.release_events(asked, &at, &key, parts).await,
            Act::Release => {
                let request: ReleaseRequest = body(parts, sent, &self.settings).await?;
                self.release(&asked, &at, request).await
            }
            Act::Command => {
                let request: CommandRequest = body(parts, sent, &self.settings).await?;
                self.command(&asked, &at, request).await
            }
            Act::OpenApi | Act::Health => open(route.act),
        }
    }

    async fn release(&self, asked: &Asked, at: &At, request: ReleaseRequest) -> Result<Response, Refusal> {
        reason(request.reason.as_deref())?;
        let verb = if request.emergency { "emergency" } else { "create" };
        let audit = Audit::new(asked, at, verb, request.reason.clone());
        audit.told(self.allow(&asked.caller, "create", RELEASES, at).await)?;
        if request.emergency {
            audit.told(self.allow(&asked.caller, "emergency", RELEASES, at).await)?;
        }
        if brings_new(&request) {
            // Else whoever may ask for releases could run images with a Deployment that they may not change. In the whole
            // namespace, because a rollout may be called otherwise than its Deployment.
            let namespace = At {
                namespace: at.namespace.clone(),
                ..At::default()
            };
            audit.told(self.allow(&asked.caller, "patch", DEPLOYMENTS, &namespace).await)?;
        }
        let (door, name) = (self.doors.at(&at.namespace, &asked.caller.actor), at.rollout.clone());
        let started = audit
            .carried(async move { door.release(&name, &request).await })
            .await?;
        Ok(json(StatusCode::CREATED, &started))
    }

    async fn command(&self, asked: &Asked, at: &At, request: CommandRequest) -> Result<Response, Refusal> {
        reason(request.reason.as_deref())?;
        let verb = verb_of(request.kind)
            .ok_or_else(|| Refusal::invalid("a release is superseded by asking for another one, not by a command"))?;
        let audit = Audit::new(asked, at, verb, request.reason.clone());
        audit.told(self.allow(&asked.caller, verb, RELEASES, at).await)?;
        let (door, name) = (self.doors.at(&at.namespace, &asked.caller.actor), at.rollout.clone());
        let done = audit
            .carried(async move { door.command(&name, &request).await })
            .await?;
        ok(&done)
    }

    async fn fleet_list(&self, asked: &Asked) -> Result<Response, Refusal> {
        let gate = self.gate.as_ref();
        let mut sight = Sight::of(gate, &asked.caller, "list").await?;
        let mut seen = Vec::new();
        for (namespace, rollout) in self.doors.rollouts().await? {
            if sight.sees(gate, &asked.caller, &namespace).await? {
                seen.push(Placed { namespace, rollout });
            }
        }
        if sight.is_blind() {
            return Err(no_sight(&asked.caller.actor));
        }
        ok(&seen)
    }

    async fn fleet_events(&self, asked: Asked) -> Result<Response, Refusal> {
        let gate = self.gate.as_ref();
        let mut sight = Sight::of(gate, &asked.caller, "watch").await?;
        // Who may see nothing at all is told so, and not left with a stream in which nothing happens.
        for (namespace, _) in self.doors.rollouts().await? {
            if sight.sees(gate, &asked.caller, &namespace).await? {
                break;
            }
        }
        if sight.is_blind() {
            return Err(no_sight(&asked.caller.actor));
        }
        let place = self.places.take(&asked.caller.actor.user)?;
        let line = Line::new(Form::Sse, place, &self.settings);
        let last = last_id(&asked.headers);
        let who = self.who(asked);
        Ok(of_fleet(line, Arc::clone(&self.fleet), who, sight, last.as_deref()))
    }

    async fn release_events(
        &self,
        asked: Asked,
        at: &At,
        key: &ReleaseKey,
        parts: &Parts,
    ) -> Result<Response, Refusal> {
        let from = match query(parts, &["from"])?.get("from") {
            Some(from) => from
                .parse()
                .map_err(|_| Refusal::invalid("`from` is the number of an entry"))?,
            None => 1,
        };
        // A browser that lost its connection says which entry it saw last.
        let last = last_id(&asked.headers).and_then(|id| id.parse::<u64>().ok());
        let from = last.map_or(from, |last| last.saturating_add(1));
        let form = match wants_sse(&asked.headers) {
            true => Form::Sse,
            false => Form::Lines,
        };
        let place = self.places.take(&asked.caller.actor.user)?;
        let follower = self
            .feeds
            .follow(self.doors.as_ref(), &at.namespace, key, from.max(1))
            .await?;
        let line = Line::new(form, place, &self.settings);
        let right = (at.namespace.clone(), at.rollout.clone());
        Ok(of_release(line, follower, self.who(asked), right))
    }

    fn who(&self, asked: Asked) -> Who {
        let mut headers = HeaderMap::new();
        // Nothing else of the request is needed again.
        if let Some(token) = asked.headers.get(header::AUTHORIZATION) {
            headers.insert(header::AUTHORIZATION, token.clone());
        }
        Who {
            gate: Arc::clone(&self.gate),
            headers,
            peer: asked.peer,
            caller: asked.caller,
        }
    }
}

/// Somebody's request, as far as who they are.
struct Asked {
    caller: Caller,
    peer: std::net::SocketAddr,
    headers: HeaderMap,
}

fn open(act: Act) -> Result<Response, Refusal> {
    match act {
        Act::Health => {
            let mut response = Response::new(Body::from("ok\n"));
            dress(response.headers_mut(), "text/plain; charset=utf-8");
            Ok(response)
        }
        _ => {
            let mut response = Response::new(Body::from(openapi::text()));
            dress(response.headers_mut(), "application/json");
            Ok(response)
        }
    }
}

fn ok(value: &impl serde::Serialize) -> Result<Response, Refusal> {
    Ok(json(StatusCode::OK, value))
}

fn no_sight(actor: &Actor) -> Refusal {
    Problem::new(
        ProblemKind::Forbidden,
        format!("{} may not see rollouts in any namespace that has some", actor.user),
    )
    .into()
}

fn wants_sse(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value
                .split(',')
                .any(|media| media.trim().starts_with("text/event-stream"))
        })
}

fn last_id(headers: &HeaderMap) -> Option<String> {
    headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
}

/// Whether a release says itself what is released, and not only that what is there (or was) should be.
fn brings_new(request: &ReleaseRequest) -> bool {
    match &request.target {
        ReleaseTarget::File { set, path } => !set.is_empty() || path.is_some(),
        ReleaseTarget::Rollback { .. } | ReleaseTarget::Retry => false,
    }
}

/// The verb that a command takes; none for what is not asked by people.
pub(super) const fn verb_of(kind: CommandKind) -> Option<&'static str> {
    Some(match kind {
        CommandKind::Approve => "approve",
        CommandKind::Promote { .. } => "promote",
        CommandKind::Pause => "pause",
        CommandKind::Resume => "resume",
        CommandKind::Abort => "abort",
        CommandKind::Retry => "retry",
        CommandKind::Supersede => return None,
    })
}

/// One act and who did it, for the log.
#[derive(Clone)]
struct Audit {
    actor: Actor,
    verb: &'static str,
    namespace: String,
    rollout: String,
    reason: String,
}

impl Audit {
    fn new(asked: &Asked, at: &At, verb: &'static str, reason: Option<String>) -> Self {
        Self {
            actor: asked.caller.actor.clone(),
            verb,
            namespace: at.namespace.clone(),
            rollout: at.rollout.clone(),
            reason: reason.unwrap_or_default(),
        }
    }

    /// Writes the line if it ended here.
    fn told<T>(&self, answered: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Err(refusal) = &answered {
            self.line(&format!("{:?}", refusal.kind()));
        }
        answered
    }

    /// Does it in a task of its own, so that it is finished and told whether or not its caller waits.
    async fn carried<T: Send + 'static>(
        &self,
        act: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Refusal> {
        let audit = self.clone();
        let task = tokio::spawn(async move {
            let done = act.await;
            match &done {
                Ok(_) => audit.line("done"),
                Err(problem) => audit.line(&format!("{:?}", problem.kind)),
            }
            done
        });
        match task.await {
            Ok(done) => Ok(done?),
            Err(_) => {
                self.line("broken");
                Err(Problem::new(ProblemKind::Unavailable, "the daemon failed at it; its log says more").into())
            }
        }
    }

    /// One line, with the same names every time. (Both forms of the log escape what is in a text.)
    fn line(&self, outcome: &str) {
        tracing::info!(
            target: "wade::audit",
            user = self.actor.user,
            groups = self.actor.groups.join(","),
            from = self.actor.from.as_deref().unwrap_or_default(),
            verb = self.verb,
            namespace = self.namespace,
            rollout = self.rollout,
            reason = self.reason,
            outcome,
            "api"
        );
    }
}
