//! What is measured of a local service: the proxy's counters, the instances' own metrics, or a Prometheus server.
//!
//! A source is made anew for each release (and for the time between two): what a revision has counted before is then a
//! baseline, and no counter changes sides within the life of one source. The proxy's counters are preferred where
//! there are any, since a canary must not be the only witness about itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::process::RevisionProcesses;
use super::proxy::{LATENCY_BOUNDS_SECONDS, RevisionCounters, Traffic};
use super::service::{Running, Service, endpoint, ready_since};
use crate::judge::{History, Sides};
use crate::plan::{HistoryPlan, Measure};
use crate::signals::exposition::{self, Format};
use crate::signals::merge::Merged;
use crate::signals::prometheus::api::{Api, Auth, Secret};
use crate::signals::prometheus::{self, Prometheus, PrometheusConfig, PrometheusMetric};
use crate::signals::router::{RouterCounters, RouterLatency, RouterSide, RouterSignals};
use crate::signals::scrape::{ScrapeConfig, ScrapeMetric, Scraper, SeriesMatch, Target};
use crate::signals::{Condition, Patience, Sample, Side, Signals};
use crate::spec::{MetricSpec, PrometheusSource, Source};

/// How often instances are read when nobody says.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);
/// How often a Prometheus server is asked when nobody says.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// One source for one release, or for the time between two.
pub struct LocalSignals {
    service: Arc<Service>,
    router: RouterSignals,
    source: Box<dyn Signals>,
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
    /// A source that reads `service` as `measure` says. Must be called inside a tokio runtime.
    ///
    /// A source that cannot be asked (a query without a side, a token file that is missing) is one that is down, with
    /// the reason: never a release that cannot be driven.
    pub fn new(service: &Arc<Service>, measure: &Measure, history: &HistoryPlan, client: &reqwest::Client) -> Self {
        let clock = service.clock();
        let router = RouterSignals::new(clock.now(), Patience::default());
        let past = Arc::new(Mutex::new(None));
        let mut scraper = None;
        let other: Option<Box<dyn Signals>> = match &measure.source {
            None => None,
            Some(Source::Scrape(source)) => {
                let interval = source.every.map_or(SCRAPE_EVERY, |every| every.0);
                let config = ScrapeConfig {
                    interval,
                    metrics: scrape_metrics(&measure.metrics),
                    ..ScrapeConfig::default()
                };
                let shared = Arc::new(Scraper::start(client.clone(), config, Arc::clone(clock)));
                scraper = Some(ScraperTargets {
                    path: source.path.clone(),
                    scraper: Arc::clone(&shared),
                    last: Vec::new(),
                });
                Some(Box::new(shared))
            }
            Some(Source::Prometheus(source)) => Some(match prometheus(service, source, &measure.metrics, client) {
                Ok((api, config)) => {
                    fetch_history(
                        api.clone(),
                        config.clone(),
                        service,
                        history.least.signed(),
                        Arc::clone(&past),
                    );
                    match Prometheus::start(api, config, Arc::clone(clock)) {
                        Ok(source) => Box::new(source),
                        Err(error) => Box::new(Down(error.to_string())),
                    }
                }
                Err(reason) => Box::new(Down(reason)),
            }),
        };
        let source: Box<dyn Signals> = match other {
            Some(other) if service.has_proxy() => Box::new(Merged::new(router.clone(), other)),
            Some(other) => other,
            None => Box::new(router.clone()),
        };
        let mut signals = Self {
            service: Arc::clone(service),
            router,
            source,
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

/// A source that cannot even be asked.
struct Down(String);

impl Signals for Down {
    fn take(&mut self, _: Timestamp) -> Sample {
        Sample::empty(Condition::SourceDown { reason: self.0.clone() })
    }
}

/// The server and what to ask it, with `${canary}` and `${stable}` filled in.
fn prometheus(
    service: &Service,
    source: &PrometheusSource,
    metrics: &[MetricSpec],
    client: &reqwest::Client,
) -> Result<(Api, PrometheusConfig), String> {
    let auth = match &source.token_file {
        None => Auth::None,
        Some(path) => {
            let token = std::fs::read_to_string(path)
                .map_err(|error| format!("source.prometheus.tokenFile {path}: {error}"))?;
            Auth::Bearer(Secret::new(token.trim()))
        }
    };
    let api = Api::new(client.clone(), &source.url, auth, &[]).map_err(|error| error.to_string())?;
    let sides = service.sides();
    let id = |running: &Option<Running>| {
        running
            .as_ref()
            .map_or_else(|| "none".to_owned(), |running| running.id.clone())
    };
    let filled = |matchers: &str| {
        matchers
            .replace("${canary}", &id(&sides.canary))
            .replace("${stable}", &id(&sides.stable))
    };
    let mut asked = Vec::new();
    for metric in metrics {
        match metric {
            MetricSpec::Errors(_) | MetricSpec::Latency(_) if asked.contains(&PrometheusMetric::Known) => {}
            MetricSpec::Errors(_) | MetricSpec::Latency(_) => asked.push(PrometheusMetric::Known),
            MetricSpec::Counters(counters) => asked.push(PrometheusMetric::Counts {
                name: counters.name.clone(),
                bad: counters.bad.clone(),
                total: counters.total.clone(),
            }),
            MetricSpec::Gauge(gauge) => asked.push(PrometheusMetric::Gauge {
                name: gauge.name.clone(),
                query: gauge.query.clone(),
            }),
        }
    }
    let matchers = Sides {
        canary: filled(&source.canary),
        stable: filled(&source.stable),
    };
    Ok((
        api,
        PrometheusConfig {
            pod_label: source.pod_label.clone(),
            metrics: asked,
            interval: source.every.map_or(ASK_EVERY, |every| every.0),
            ..PrometheusConfig::known(matchers)
        },
    ))
}

/// Asks once, in the background, how stable behaved before the release; without an answer there is no history.
fn fetch_history(
    api: Api,
    config: PrometheusConfig,
    service: &Service,
    span: SignedDuration,
    into: Arc<Mutex<Option<History>>>,
) {
    let clock = Arc::clone(service.clock());
    tokio::spawn(async move {
        match prometheus::history(&api, &config, clock.as_ref(), span).await {
            Ok(pods) => {
                let pods = pods.into_iter().map(|pod| pod.blocks).collect();
                *into.lock().unwrap_or_else(PoisonError::into_inner) = Some(History { block_s: 300.0, pods });
            }
            Err(reason) => tracing::info!(%reason, "no history from Prometheus"),
        }
    });
}

/// The user's own metrics as the scraper wants them. Validation has seen to it that they are series, not expressions.
fn scrape_metrics(metrics: &[MetricSpec]) -> Vec<ScrapeMetric> {
    metrics
        .iter()
        .filter_map(|metric| match metric {
            MetricSpec::Counters(counters) => Some(ScrapeMetric::Counts {
                name: counters.name.clone(),
                bad: series(&counters.bad)?,
                total: series(&counters.total)?,
            }),
            MetricSpec::Gauge(gauge) => Some(ScrapeMetric::Gauge {
                name: gauge.name.clone(),
                series: series(&gauge.query)?,
            }),
            MetricSpec::Errors(_) | MetricSpec::Latency(_) => None,
        })
        .collect()
}

/// `name` or `name{label="value"}`, as the instances would show it.
fn series(text: &str) -> Option<SeriesMatch> {
    let shown = exposition::parse(format!("{text} 0\n").as_bytes(), Format::Classic).ok()?;
    let point = shown.points.into_iter().next()?;
    Some(SeriesMatch {
        name: point.name,
        labels: point.labels,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_series_are_read_with_and_without_labels() {
        let plain = SeriesMatch {
            name: "jobs_total".to_owned(),
            labels: Default::default(),
        };
        assert_eq!(series("jobs_total"), Some(plain));
        let labels = [("queue".to_owned(), "mail".to_owned())].into();
        assert_eq!(
            series("jobs_total{queue=\"mail\"}"),
            Some(SeriesMatch {
                name: "jobs_total".to_owned(),
                labels
            })
        );
        assert_eq!(series("sum(jobs_total)"), None);
    }
}
