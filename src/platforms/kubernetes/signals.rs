//! What is measured of a release on Kubernetes: the pods' own metrics, or a Prometheus server.
//!
//! Both per pod, so that resets are seen and stable's own behaviour can be compared pod with pod. Which pods there are
//! is watched; they are asked every second, directly or through the API server (see `reach`).

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use super::look::Look;
use super::reach::Reach;
use super::release::Release;
use crate::apiserver::value::{is_ready, name, text, time};
use crate::apiserver::view::View;
use crate::clock::Clock;
use crate::judge::{History, Sides};
use crate::plan::{HistoryPlan, Measure};
use crate::signals::scrape::{Scraper, Target};
use crate::signals::source::{self, Past, Traced, Unmeasured};
use crate::signals::traces::{Names, TraceHub};
use crate::signals::{Sample, Side, Signals};
use crate::spec::{Source, Span};

/// One source for one release.
pub struct KubernetesSignals {
    view: Arc<View>,
    release: Release,
    reach: Reach,
    source: Traced,
    scraper: Option<(Arc<Scraper>, String, Vec<Target>)>,
    past: Past,
}

impl KubernetesSignals {
    /// A source that reads the release's pods as `measure` says. Must be called inside a tokio runtime.
    pub fn new(
        view: Arc<View>,
        release: Release,
        reach: Reach,
        measure: &Measure,
        history: &HistoryPlan,
        client: &reqwest::Client,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let past: Past = Arc::new(Mutex::new(None));
        let mut scraper = None;
        let source: Box<dyn Signals> = match (&measure.source, &release.metrics) {
            (Some(Source::Prometheus(source)), _) => {
                let ids = Sides {
                    canary: release.canary_set(),
                    stable: release.stable_set(),
                };
                source::prometheus_source(source, measure, history, &ids, client, clock, &past)
            }
            (Some(Source::Scrape(source)), Some(_)) => {
                let shared = source::scraper(source, &measure.metrics, client, clock);
                scraper = Some((Arc::clone(&shared), source.path.clone(), Vec::new()));
                Box::new(shared)
            }
            (Some(Source::Scrape(source)), None) => Box::new(Unmeasured(format!(
                "the pods show no metrics at {} (or may not be asked); readiness, restarts and smoke tests are what is left",
                source.path
            ))),
            (None, _) => Box::new(Unmeasured(
                "the pods show no metrics and no Prometheus is named; readiness, restarts and smoke tests are what is left"
                    .to_owned(),
            )),
        };
        let hub = TraceHub::default();
        let (source, book) = source::traced(
            source,
            measure.traces.as_ref(),
            &release.deployment,
            &hub,
            client,
            clock,
        );
        if let Some(book) = book {
            let names = |set: String| {
                Some(Names {
                    id: set.clone(),
                    version: String::new(),
                    replica_set: Some(set),
                })
            };
            book.set_sides(Sides {
                canary: names(release.canary_set()),
                stable: names(release.stable_set()),
            });
        }
        Self {
            view,
            release,
            reach,
            source,
            scraper,
            past,
        }
    }

    /// Where the pods are to be looked at as often as they are read, each reading wakes the controller: two clocks of the
    /// same period beside each other would make every finding up to a period older.
    #[must_use]
    pub fn waking(self, look: Span, wake: &Arc<Notify>) -> Self {
        if let Some((scraper, ..)) = &self.scraper
            && look.as_secs_f64() <= scraper.interval().as_secs_f64()
        {
            tokio::spawn(wake_each_round(scraper.rounds(), Arc::clone(wake)));
        }
        self
    }

    fn refresh(&mut self) {
        let Some((scraper, path, last)) = &mut self.scraper else {
            return;
        };
        let Some(metrics) = &self.release.metrics else { return };
        let look = Look::new(&self.view, &self.release);
        let mut targets = Vec::new();
        for (side, pods) in [(Side::Stable, &look.stable_pods), (Side::Canary, &look.canary_pods)] {
            for pod in pods.iter().filter(|pod| is_ready(pod)) {
                let Some(way) = self.reach.way(name(pod), text(pod, "/status/podIP"), metrics.port) else {
                    continue;
                };
                targets.push(Target {
                    pod: name(pod).to_owned(),
                    side,
                    url: format!("http://{}{}{path}", way.address, way.prefix),
                    started: time(pod, "/status/startTime"),
                });
            }
        }
        if targets != *last {
            last.clone_from(&targets);
            scraper.set_targets(targets);
        }
    }
}

/// Ends with the scraper.
async fn wake_each_round(mut rounds: watch::Receiver<u64>, wake: Arc<Notify>) {
    while rounds.changed().await.is_ok() {
        wake.notify_one();
    }
}

impl Signals for KubernetesSignals {
    fn take(&mut self, now: Timestamp) -> Sample {
        self.refresh();
        self.source.take(now)
    }

    fn expect_canary_traffic(&mut self, since: Option<Timestamp>) {
        self.source.expect_canary_traffic(since);
    }

    fn history(&self) -> Option<History> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
