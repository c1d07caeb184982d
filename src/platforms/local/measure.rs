//! What is measured of a local service: the proxy's counters, the instances' own metrics, or a Prometheus server.
//!
//! A source is made anew for each release (and for the time between two): what a revision has counted before is then a
//! baseline, and no counter changes sides within the life of one source. The proxy's counters are preferred where
//! there are any, since a canary must not be the only witness about itself.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use super::process::RevisionProcesses;
use super::proxy::{LATENCY_BOUNDS_SECONDS, RevisionCounters, Traffic};
use super::service::{Running, Service, endpoint, ready_since};
use crate::judge::{History, Sides};
use crate::plan::{HistoryPlan, Measure};
use crate::signals::merge::Merged;
use crate::signals::router::{RouterCounters, RouterLatency, RouterSide, RouterSignals};
use crate::signals::scrape::{Scraper, Target};
use crate::signals::source::{self, Traced};
use crate::signals::traces::{Names, TraceBook, TraceHub};
use crate::signals::{Patience, Sample, Side, Signals};
use crate::spec::Source;

/// One source for one release, or for the time between two.
pub struct LocalSignals {
    service: Arc<Service>,
    router: RouterSignals,
    source: Traced,
    book: Option<TraceBook>,
    scraper: Option<ScraperTargets>,
    history: Arc<Mutex<Option<History>>>,
}

/// The scraper's address book, kept up to date with every look.
struct ScraperTargets {
    path: String,
    scraper: Arc<Scraper>,
    last: Vec<Target>,
}

impl LocalSignals {
    /// A source that reads `service` as `measure` says, with the traces of `hub` beside. Must be called inside a tokio
    /// runtime.
    ///
    /// A source that cannot be asked (a query without a side, a token file that is missing) is one that is down, with
    /// the reason: never a release that cannot be driven.
    pub fn new(
        service: &Arc<Service>,
        measure: &Measure,
        history: &HistoryPlan,
        hub: &TraceHub,
        client: &reqwest::Client,
    ) -> Self {
        let clock = service.clock();
        let router = RouterSignals::new(clock.now(), Patience::default());
        let past = Arc::new(Mutex::new(None));
        let mut scraper = None;
        let other: Option<Box<dyn Signals>> = match &measure.source {
            None => None,
            Some(Source::Scrape(source)) => {
                let shared = source::scraper(source, &measure.metrics, client, clock);
                scraper = Some(ScraperTargets {
                    path: source.path.clone(),
                    scraper: Arc::clone(&shared),
                    last: Vec::new(),
                });
                Some(Box::new(shared))
            }
            Some(Source::Prometheus(source)) => {
                let sides = service.sides();
                let id = |running: &Option<Running>| {
                    running
                        .as_ref()
                        .map_or_else(|| "none".to_owned(), |running| running.id.clone())
                };
                let ids = Sides {
                    canary: id(&sides.canary),
                    stable: id(&sides.stable),
                };
                Some(source::prometheus_source(
                    source, measure, history, &ids, client, clock, &past,
                ))
            }
        };
        let source: Box<dyn Signals> = match other {
            Some(other) if service.has_proxy() => Box::new(Merged::new(router.clone(), other)),
            Some(other) => other,
            None => Box::new(router.clone()),
        };
        let (source, book) = source::traced(source, measure.traces.as_ref(), service.name(), hub, client, clock);
        let mut signals = Self {
            service: Arc::clone(service),
            router,
            source,
            book,
            scraper,
            history: past,
        };
        signals.refresh(clock.now());
        signals
    }

    fn refresh(&mut self, now: Timestamp) {
        let (sides, split) = (self.service.sides(), self.service.split());
        let mirrored = !split.mirror.is_zero() && !split.serves_users();
        if self.service.has_proxy() {
            let snapshot = self.service.traffic();
            let zero = RevisionCounters::default();
            let side = |running: &Option<Running>, mirrored: bool| {
                let running = running.as_ref()?;
                let counters = snapshot.revisions.get(&running.id).unwrap_or(&zero);
                // A shadow stage is judged by the copies; users' answers and copies are never added up.
                Some(if mirrored {
                    router_side(format!("{} mirrored", running.id), &counters.mirror)
                } else {
                    router_side(running.id.clone(), &counters.users)
                })
            };
            self.router.feed(
                now,
                Sides {
                    canary: side(&sides.canary, mirrored),
                    stable: side(&sides.stable, false),
                },
            );
        }
        if let Some(book) = &self.book {
            book.set_sides(Sides {
                canary: sides.canary.as_ref().map(names),
                stable: sides.stable.as_ref().map(names),
            });
        }
        if let Some(book) = &mut self.scraper {
            let targets = targets(&sides, &self.service.processes(), &book.path);
            if targets != book.last {
                book.last.clone_from(&targets);
                book.scraper.set_targets(targets);
            }
        }
    }
}

impl Signals for LocalSignals {
    fn take(&mut self, now: Timestamp) -> Sample {
        self.refresh(now);
        self.source.take(now)
    }

    fn expect_canary_traffic(&mut self, since: Option<Timestamp>) {
        self.source.expect_canary_traffic(since);
    }

    fn history(&self) -> Option<History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a revision's spans call it.
fn names(running: &Running) -> Names {
    Names {
        id: running.id.clone(),
        version: running.version.clone(),
        replica_set: None,
    }
}

fn targets(sides: &Sides<Option<Running>>, processes: &[RevisionProcesses], path: &str) -> Vec<Target> {
    let mut targets = Vec::new();
    for (side, running) in [(Side::Stable, &sides.stable), (Side::Canary, &sides.canary)] {
        let Some(running) = running else { continue };
        for instance in processes
            .iter()
            .filter(|p| p.revision == running.id)
            .flat_map(|p| &p.instances)
        {
            let (Some(_), Some(address), Some(pid)) = (ready_since(instance), endpoint(instance), instance.pid) else {
                continue;
            };
            targets.push(Target {
                pod: format!("{}-{}-{pid}", running.id, instance.slot),
                side,
                url: format!("http://{address}{path}"),
                started: None,
            });
        }
    }
    targets
}

fn router_side(revision: String, traffic: &Traffic) -> RouterSide {
    let latency = (!traffic.latency.is_empty()).then(|| RouterLatency {
        le: LATENCY_BOUNDS_SECONDS.into(),
        counts: traffic.latency.clone(),
    });
    RouterSide {
        revision,
        counters: RouterCounters {
            requests: traffic.requests,
            errors: traffic.errors,
        },
        latency,
    }
}
