//! A shop with one release, people with tokens that are their names, and the API served on loopback.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::HeaderMap;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::{Caller, Doors, Gatekeeper, Right, Settings, TlsFiles, Transport, gate::bearer, router, serve};
use crate::controller::Notice;
use crate::daemon::api::{
    Acknowledged, CommandRequest, Problem, ProblemKind, ReleaseRequest, ReleaseSummary, RolloutView, Started,
};
use crate::daemon::client::{Door, Notices};
use crate::daemon::views::summary;
use crate::engine::{Actor, Phase};
use crate::plan::ALL_STABLE;
use crate::store::{ReleaseKey, ReleaseRecord};

/// What stands behind the API in tests.
pub(super) struct Shop {
    pub(super) record: Mutex<ReleaseRecord>,
    pub(super) rollouts: Mutex<Vec<(String, RolloutView)>>,
    /// What was asked for, as `user verb`.
    pub(super) asked: Mutex<Vec<String>>,
    /// How often a release's notices were opened.
    pub(super) opened: AtomicUsize,
    pub(super) notices: broadcast::Sender<Notice>,
    /// How long a command takes.
    pub(super) slowness: Mutex<Duration>,
}

impl Shop {
    /// A release as the simulator went through it, with its history up to the middle.
    pub(super) fn new() -> Arc<Self> {
        let mut record = crate::sim::run(&crate::sim::generate::case(3)).record;
        assert!(record.history.len() > 6, "a release in which something happens");
        record.canary.workload = serde_json::json!({"template": {"env": "SECRET"}});
        Arc::new(Self {
            rollouts: Mutex::new(vec![("shop".to_owned(), view(&record))]),
            record: Mutex::new(record),
            asked: Mutex::default(),
            opened: AtomicUsize::new(0),
            notices: broadcast::channel(64).0,
            slowness: Mutex::default(),
        })
    }

    pub(super) fn key(&self) -> ReleaseKey {
        self.record.lock().unwrap().key.clone()
    }

    /// The path of the release, with `rest`.
    pub(super) fn path(&self, rest: &str) -> String {
        let key = self.key();
        format!(
            "/api/v1/namespaces/shop/rollouts/{}/releases/{}{rest}",
            key.rollout, key.number
        )
    }

    /// The path of the rollout, with `rest`.
    pub(super) fn rollout(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/shop/rollouts/{}{rest}", self.key().rollout)
    }
}

pub(super) fn view(record: &ReleaseRecord) -> RolloutView {
    RolloutView {
        name: record.key.rollout.clone(),
        listen: None,
        split: ALL_STABLE,
        stable: None,
        canary: None,
        release: Some(summary(record)),
        quarantined: Default::default(),
    }
}

#[async_trait]
impl Doors for Arc<Shop> {
    fn at(&self, _: &str, by: &Actor) -> Arc<dyn Door> {
        Arc::new(ShopDoor(Arc::clone(self), by.clone()))
    }

    async fn rollouts(&self) -> Result<Vec<(String, RolloutView)>, Problem> {
        Ok(self.rollouts.lock().unwrap().clone())
    }
}

struct ShopDoor(Arc<Shop>, Actor);

impl ShopDoor {
    fn note(&self, what: &str) {
        let from = self.1.from.as_deref().unwrap_or("nowhere");
        self.0
            .asked
            .lock()
            .unwrap()
            .push(format!("{} {what} from {from}", self.1.user));
    }

    fn named(&self, name: &str) -> Result<(), Problem> {
        if name == self.0.key().rollout {
            Ok(())
        } else {
            Err(Problem::new(
                ProblemKind::NotFound,
                format!("there is no rollout {name}"),
            ))
        }
    }
}

#[async_trait]
impl Door for ShopDoor {
    async fn rollouts(&self) -> Result<Vec<RolloutView>, Problem> {
        Ok(vec![view(&self.0.record.lock().unwrap())])
    }

    async fn rollout(&self, name: &str) -> Result<RolloutView, Problem> {
        self.named(name)?;
        Ok(view(&self.0.record.lock().unwrap()))
    }

    async fn release(&self, name: &str, _: &ReleaseRequest) -> Result<Started, Problem> {
        self.named(name)?;
        self.note("release");
        Ok(Started {
            release: Some(self.0.key()),
            found: Vec::new(),
            plan: String::new(),
            stable: None,
            canary: "2".to_owned(),
        })
    }

    async fn preview(&self, name: &str, _: &ReleaseRequest) -> Result<String, Problem> {
        self.named(name)?;
        Ok("5 → 100 %".to_owned())
    }

    async fn command(&self, name: &str, request: &CommandRequest) -> Result<Acknowledged, Problem> {
        self.named(name)?;
        let slowness = *self.0.slowness.lock().unwrap();
        tokio::time::sleep(slowness).await;
        self.note(&request.kind.to_string());
        Ok(Acknowledged {
            release: self.0.key(),
            command: 1,
            followed: None,
            message: "recorded".to_owned(),
        })
    }

    async fn releases(&self, name: &str) -> Result<Vec<ReleaseSummary>, Problem> {
        self.named(name)?;
        Ok(vec![summary(&self.0.record.lock().unwrap())])
    }

    async fn record(&self, key: &ReleaseKey) -> Result<ReleaseRecord, Problem> {
        let record = self.0.record.lock().unwrap().clone();
        if *key == record.key {
            Ok(record)
        } else {
            Err(Problem::new(
                ProblemKind::NotFound,
                format!("there is no record of {key}"),
            ))
        }
    }

    async fn events(&self, key: &ReleaseKey, from: u64) -> Result<Box<dyn Notices>, Problem> {
        let live = self.0.notices.subscribe();
        let record = self.record(key).await?;
        self.0.opened.fetch_add(1, Ordering::SeqCst);
        let past = record
            .history
            .iter()
            .filter(|entry| entry.number >= from)
            .map(|entry| Notice::Entry {
                key: key.clone(),
                entry: entry.clone(),
                phase: Phase::Starting,
            })
            .collect();
        Ok(Box::new(ShopNotices {
            past,
            live,
            over: false,
        }))
    }
}

struct ShopNotices {
    past: std::collections::VecDeque<Notice>,
    live: broadcast::Receiver<Notice>,
    over: bool,
}

#[async_trait]
impl Notices for ShopNotices {
    async fn next(&mut self) -> Result<Option<Notice>, Problem> {
        if let Some(notice) = self.past.pop_front() {
            return Ok(Some(notice));
        }
        if self.over {
            return Ok(None);
        }
        match self.live.recv().await {
            Ok(notice) => {
                self.over = matches!(
                    &notice,
                    Notice::Entry {
                        phase: Phase::Done(_),
                        ..
                    }
                );
                Ok(Some(notice))
            }
            Err(_) => Err(Problem::new(ProblemKind::Unavailable, "the carrier is gone")),
        }
    }
}

/// A gate where a token is a name, and rights are a list.
#[derive(Default)]
pub(super) struct Guards {
    /// `ann get rollouts.wade.dev shop`; `*` in the place of the namespace for all.
    pub(super) rights: Mutex<BTreeSet<String>>,
    /// Rights are not asked for.
    pub(super) open: AtomicBool,
    pub(super) away: AtomicBool,
}

#[async_trait]
impl Gatekeeper for Arc<Guards> {
    async fn authenticate(&self, headers: &HeaderMap, _: SocketAddr) -> Result<Caller, Problem> {
        let user = bearer(headers)?;
        if user == "nobody" {
            return Err(Problem::new(ProblemKind::Unauthenticated, "the token is not accepted"));
        }
        Ok(Caller {
            actor: Actor::named(user),
            ..Caller::default()
        })
    }

    async fn allow(&self, by: &Caller, right: Right<'_>) -> Result<(), Problem> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Problem::new(ProblemKind::Unavailable, "the API server is away"));
        }
        let rights = self.rights.lock().unwrap();
        let has =
            |place: &str| rights.contains(&format!("{} {} {} {place}", by.actor.user, right.verb, right.resource));
        if self.open.load(Ordering::SeqCst) || has("*") || (!right.namespace.is_empty() && has(right.namespace)) {
            Ok(())
        } else {
            Err(Problem::new(ProblemKind::Forbidden, format!("may not {}", right.verb)))
        }
    }
}

/// The API, served until this is dropped.
pub(super) struct Served {
    pub(super) shop: Arc<Shop>,
    pub(super) guards: Arc<Guards>,
    pub(super) address: SocketAddr,
    pub(super) client: reqwest::Client,
    _stop: DropGuard,
}

impl Served {
    /// With everything permitted, and limits that no test meets by accident.
    pub(super) async fn open() -> Self {
        let served = Self::with(generous(), Transport::default(), None).await;
        served.guards.open.store(true, Ordering::SeqCst);
        served
    }

    pub(super) async fn with(settings: Settings, transport: Transport, files: Option<TlsFiles>) -> Self {
        let guards = Arc::new(Guards::default());
        let gate: Arc<dyn Gatekeeper> = Arc::new(Arc::clone(&guards));
        Self::kept(settings, transport, files, guards, gate).await
    }

    pub(super) async fn kept(
        settings: Settings,
        transport: Transport,
        files: Option<TlsFiles>,
        guards: Arc<Guards>,
        gate: Arc<dyn Gatekeeper>,
    ) -> Self {
        let shop = Shop::new();
        let app = router(Arc::new(Arc::clone(&shop)), gate, settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, files, app, transport, stop.clone()));
        Self {
            shop,
            guards,
            address,
            client: crate::signals::http::builder().build().unwrap(),
            _stop: stop.drop_guard(),
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) async fn get(&self, user: &str, path: &str) -> reqwest::Response {
        self.client.get(self.url(path)).bearer_auth(user).send().await.unwrap()
    }

    pub(super) async fn post(&self, user: &str, path: &str, body: &str) -> reqwest::Response {
        self.client
            .post(self.url(path))
            .bearer_auth(user)
            .header("content-type", "application/json")
            .body(body.to_owned())
            .send()
            .await
            .unwrap()
    }

    /// The status of an answer and what its problem says.
    pub(super) async fn problem(response: reqwest::Response) -> (u16, String) {
        let status = response.status().as_u16();
        let problem: Problem = response.json().await.expect("a problem as JSON");
        (status, problem.message)
    }
}

pub(super) fn generous() -> Settings {
    Settings {
        rate: 1e6,
        burst: 1e6,
        ..Settings::default()
    }
}
