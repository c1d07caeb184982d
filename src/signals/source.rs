//! From what a rollout says about its sources to a source that runs: the part that every platform shares.
//!
//! A source that cannot be asked (a token file that is missing, a query without a side) is one that is down, with the
//! reason: never a release that cannot be driven.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::clock::Clock;
use crate::judge::{History, Sides};
use crate::plan::{HistoryPlan, Measure};
use crate::signals::exposition::{self, Format};
use crate::signals::prometheus::api::{Api, Auth, Secret};
use crate::signals::prometheus::{self, Prometheus, PrometheusConfig, PrometheusMetric};
use crate::signals::scrape::{ScrapeConfig, ScrapeMetric, Scraper, SeriesMatch};
use crate::signals::traces::jaeger::Jaeger;
use crate::signals::traces::store::{Store, StoreSource, WithStore};
use crate::signals::traces::tempo::Tempo;
use crate::signals::traces::{Rule, TraceBook, TraceHub, WithTraces};
use crate::signals::{Condition, NoMeasurement, NoMeasurementKind, Sample, Signals};
use crate::spec::{MetricSpec, PrometheusSource, ScrapeSource, TraceStore, TracesSpec};

/// How often instances are read when nobody says.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);
/// How often a trace store is asked when nobody says.
const ASK_STORE_EVERY: Duration = Duration::from_secs(5);
/// How often a Prometheus server is asked when nobody says.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// What a Prometheus server remembers of stable; filled in the background.
pub type Past = Arc<Mutex<Option<History>>>;

/// A scraper as `source` says, without targets yet. Must be called inside a tokio runtime.
pub fn scraper(
    source: &ScrapeSource,
    metrics: &[MetricSpec],
    client: &reqwest::Client,
    clock: &Arc<dyn Clock>,
) -> Arc<Scraper> {
    let config = ScrapeConfig {
        interval: source.every.map_or(SCRAPE_EVERY, |every| every.0),
        metrics: scrape_metrics(metrics),
        ..ScrapeConfig::default()
    };
    Arc::new(Scraper::start(client.clone(), config, Arc::clone(clock)))
}

/// A Prometheus server as `source` says, with `${canary}` and `${stable}` filled in; what it remembers of stable comes
/// into `past`. Must be called inside a tokio runtime.
pub fn prometheus_source(
    source: &PrometheusSource,
    measure: &Measure,
    history: &HistoryPlan,
    ids: &Sides<String>,
    client: &reqwest::Client,
    clock: &Arc<dyn Clock>,
    past: &Past,
) -> Box<dyn Signals> {
    match prometheus(source, ids, &measure.metrics, client) {
        Ok((api, config)) => {
            fetch_history(
                api.clone(),
                config.clone(),
                Arc::clone(clock),
                history.asked().signed(),
                Arc::clone(past),
            );
            match Prometheus::start(api, config, Arc::clone(clock)) {
                Ok(source) => Box::new(source),
                Err(error) => Box::new(Down(error.to_string())),
            }
        }
        Err(reason) => Box::new(Down(reason)),
    }
}

/// Whatever is measured, with traces beside it.
pub type Traced = WithTraces<WithStore<Box<dyn Signals>>>;

/// `source`, and traces beside it as `spec` says, counted in the rollout's book of `hub`: what a receiver brings there, or
/// the answers of a store that is asked from now on. A store that cannot be asked is only told, as traces never decide
/// whether measuring works. Must be called inside a tokio runtime.
pub fn traced(
    source: Box<dyn Signals>,
    spec: Option<&TracesSpec>,
    rollout: &str,
    hub: &TraceHub,
    client: &reqwest::Client,
    clock: &Arc<dyn Clock>,
) -> (Traced, Option<TraceBook>) {
    let Some(spec) = spec else {
        return (WithTraces::new(WithStore::new(source, None), None), None);
    };
    let usual = Rule::of(rollout);
    let book = hub.book(Rule {
        service: spec.service.clone(),
        attributes: spec.attributes.clone().unwrap_or_else(|| usual.attributes.clone()),
        ..usual
    });
    let asked =
        spec.from.as_ref().map(
            |from| match trace_store(from, spec.service.as_deref().unwrap_or(rollout), client) {
                Ok(store) => {
                    let every = from.address().every.map_or(ASK_STORE_EVERY, |every| every.0);
                    let telemetry = Arc::clone(hub.telemetry());
                    StoreSource::start(store, book.clone(), telemetry, every, Arc::clone(clock))
                }
                Err(reason) => {
                    let why = NoMeasurement::new(NoMeasurementKind::Unusable, reason);
                    StoreSource::unfit(&from.address().url, why)
                }
            },
        );
    let source = WithTraces::new(WithStore::new(source, asked), Some(book.clone()));
    (source, Some(book))
}

fn trace_store(from: &TraceStore, service: &str, client: &reqwest::Client) -> Result<Store, String> {
    let address = from.address();
    let token = match &address.token_file {
        None => None,
        Some(path) => {
            let token =
                std::fs::read_to_string(path).map_err(|error| format!("traces.from, tokenFile {path}: {error}"))?;
            Some(Secret::new(token.trim()))
        }
    };
    let store = match from {
        TraceStore::Jaeger(_) => Jaeger::new(client.clone(), &address.url, service, token).map(Store::Jaeger),
        TraceStore::Tempo(_) => Tempo::new(client.clone(), &address.url, service, token).map(Store::Tempo),
    };
    store.map_err(|error| error.to_string())
}

/// There is nothing to measure by.
pub struct Unmeasured(pub String);

impl Signals for Unmeasured {
    fn take(&mut self, _: Timestamp) -> Sample {
        Sample::empty(Condition::Unmeasured { reason: self.0.clone() })
    }
}

/// A source that cannot even be asked.
struct Down(String);

impl Signals for Down {
    fn take(&mut self, _: Timestamp) -> Sample {
        Sample::empty(Condition::SourceDown { reason: self.0.clone() })
    }
}

/// The server and what to ask it where the matchers are filled in already, for the past.
///
/// # Errors
/// The token file or the address, in words.
pub fn asked_of(
    source: &PrometheusSource,
    metrics: &[MetricSpec],
    client: &reqwest::Client,
) -> Result<(Api, PrometheusConfig), String> {
    prometheus(source, &Sides::default(), metrics, client)
}

/// The server and what to ask it, with `${canary}` and `${stable}` filled in.
fn prometheus(
    source: &PrometheusSource,
    ids: &Sides<String>,
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
    let filled = |matchers: &str| {
        matchers
            .replace("${canary}", &ids.canary)
            .replace("${stable}", &ids.stable)
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
    clock: Arc<dyn Clock>,
    span: SignedDuration,
    into: Arc<Mutex<Option<History>>>,
) {
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
