//! Prometheus (also VictoriaMetrics, Thanos, Mimir) as a source, through its HTTP API.
//!
//! The idea: Prometheus is asked for *raw counters with their own timestamps*, not for rates. A plain selector is
//! fetched as a short range (`errors_total{...}[60s]`), which returns each scrape once, with the moment of the
//! scrape: an unchanged scrape is recognised as no news, a scrape between two questions is not lost, and resets are
//! seen per series ([`series`](super::series)). Only an expression of the user's own that is more than a selector is
//! evaluated as it stands.
//!
//! A poll counts as a whole or not at all: were one of two queries missing, series would later appear to be new that
//! are old. Whatever goes wrong is a [`NoMeasurement`]; it is never zero errors and never a failure of the canary.
//!
//! The crate `prometheus-http-query` provides the result types; its client reads answers without a limit, does not
//! show warnings and cannot be told what a redirect means, so the transport is [`api`]'s own.

pub mod api;
mod native;
pub mod past;
mod query;

#[cfg(test)]
pub(crate) mod real;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use prometheus_http_query::response::Data;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::clock::Clock;
use crate::judge::observation::{MetricName, Sides};
use crate::signals::prometheus::api::Api;
use crate::signals::prometheus::query::{Asked, Collected, Part, plan};
use crate::signals::tally::{Origin, Round, Tally};
use crate::signals::{ERRORS, NoMeasurement, NoMeasurementKind, Patience, Sample, Side, Signals};

/// The first look reaches this far back, which is also how long Prometheus itself holds a sample for current.
const MAX_WINDOW: Duration = Duration::from_secs(300);
/// Every later look reaches back to the last good one and this much further, as scrapes arrive late.
const WINDOW_SLACK: Duration = Duration::from_secs(60);
/// Length of a block of history.
const HISTORY_BLOCK: SignedDuration = SignedDuration::from_mins(5);
/// The most blocks of history that are asked for.
const MAX_HISTORY_BLOCKS: i64 = 48;

/// A metric to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrometheusMetric {
    /// Requests, errors and latency from the known families, under the names `errors` and `latency`.
    Known,
    /// Two counters.
    Counts {
        /// The metric's name; `errors` replaces the known families.
        name: MetricName,
        /// Counts bad events: a series name, or PromQL with `${side}` where the side's matchers belong.
        bad: String,
        /// Counts all events.
        total: String,
    },
    /// A histogram in seconds.
    Buckets {
        /// The metric's name; `latency` replaces the known families.
        name: MetricName,
        /// Its buckets, with their `le` label.
        buckets: String,
    },
    /// A number that goes up and down; the query must give one value per side.
    Gauge {
        /// The metric's name.
        name: MetricName,
        /// A series name or PromQL with `${side}`.
        query: String,
    },
}

/// What to ask.
#[derive(Clone, Debug)]
pub struct PrometheusConfig {
    /// Label matchers of each side, without braces (`namespace="shop",pod=~"checkout-7f9c.*"`).
    pub matchers: Sides<String>,
    /// The label that names a pod; without it `pod`, `kubernetes_pod_name` or `instance`, whichever is there.
    pub pod_label: Option<String>,
    /// What to read.
    pub metrics: Vec<PrometheusMetric>,
    /// From one poll to the next.
    pub interval: Duration,
    /// When something is silent or down.
    pub patience: Patience,
}

impl PrometheusConfig {
    /// The known families every 5 s.
    pub fn known(matchers: Sides<String>) -> Self {
        Self {
            matchers,
            pod_label: None,
            metrics: vec![PrometheusMetric::Known],
            interval: Duration::from_secs(5),
            patience: Patience::default(),
        }
    }
}

/// A configuration that cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrometheusConfigError {
    /// A query that is the same for both sides compares a revision with itself.
    #[error(
        "metric {metric}: the query {query:?} has no ${{side}}, so it cannot tell the revisions apart; write it as {{${{side}}}} inside a selector"
    )]
    NoSide {
        /// The metric.
        metric: MetricName,
        /// What was written.
        query: String,
    },
    /// Without matchers a side would be all series of the server.
    #[error("the label matchers of {side} are empty, so every series of the server would count; give at least one")]
    NoMatchers {
        /// Which side.
        side: Side,
    },
}

/// What one pod did in the past, in blocks of equal length, the oldest first; (0, 0) where it was not there.
#[derive(Clone, Debug, PartialEq)]
pub struct PodHistory {
    /// The pod.
    pub pod: String,
    /// (requests, errors) per block.
    pub blocks: Vec<(f64, f64)>,
}

/// The running source. Dropping it ends the asking.
#[derive(Debug)]
pub struct Prometheus {
    tally: Arc<Mutex<Tally>>,
    task: JoinHandle<()>,
}

impl Prometheus {
    /// Begins to ask in the background. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`PrometheusConfigError`] if the queries cannot tell the sides apart.
    pub fn start(api: Api, config: PrometheusConfig, clock: Arc<dyn Clock>) -> Result<Self, PrometheusConfigError> {
        let poller = Poller::new(api, config, clock)?;
        let tally = Arc::new(Mutex::new(poller.new_tally(poller.clock.now())));
        let task = tokio::spawn(run(poller, Arc::clone(&tally)));
        Ok(Self { tally, task })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Signals for Prometheus {
    fn take(&mut self, now: Timestamp) -> Sample {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).take(now)
    }

    fn expect_canary_traffic(&mut self, since: Option<Timestamp>) {
        self.tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .expect_canary_traffic(since);
    }
}

async fn run(mut poller: Poller, tally: Arc<Mutex<Tally>>) {
    let mut ticks = tokio::time::interval(poller.config.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let round = poller.poll().await;
        tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .round(poller.clock.now(), round);
    }
}

/// What stable's pods did in the last `span` (30 min is what the judge wants), in blocks of 5 min.
///
/// Read from the known families, or from `errors` where that is configured with plain series.
///
/// # Errors
/// [`NoMeasurement`] if nothing could be read; a release then begins without history.
pub async fn history(
    api: &Api,
    config: &PrometheusConfig,
    clock: &dyn Clock,
    span: SignedDuration,
) -> Result<Vec<PodHistory>, NoMeasurement> {
    history_before(api, config, clock.now(), span).await
}

/// The same in the `span` before `end`.
///
/// # Errors
/// As [`history`].
pub async fn history_before(
    api: &Api,
    config: &PrometheusConfig,
    end: Timestamp,
    span: SignedDuration,
) -> Result<Vec<PodHistory>, NoMeasurement> {
    let unusable = |error: PrometheusConfigError| NoMeasurement::new(NoMeasurementKind::Unusable, error.to_string());
    let blocks = (span.as_secs() / HISTORY_BLOCK.as_secs()).clamp(1, MAX_HISTORY_BLOCKS);
    let end_secs = end.as_second();
    let begin_secs = end_secs - blocks * HISTORY_BLOCK.as_secs();
    let asked: Vec<Asked> = plan(config)
        .map_err(unusable)?
        .into_iter()
        .filter(|asked| asked.side == Side::Stable && asked.is_for_history())
        .collect();
    let answers = join_all(asked.iter().map(|asked| {
        api.range(
            asked.history_expression(),
            begin_secs,
            end_secs,
            HISTORY_BLOCK.as_secs(),
        )
    }));
    let mut collected = Collected::new(config.pod_label.clone());
    for (asked, answer) in asked.iter().zip(answers.await) {
        collected.add(asked, answer?, &BTreeMap::new(), false)?;
    }
    let began = Timestamp::from_second(begin_secs).unwrap_or(Timestamp::MIN);
    let configured = configured(&config.metrics);
    let mut tally = Tally::new(began, config.patience, configured);
    let mut pods: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut scrapes = collected.into_scrapes();
    for block in 0..=blocks {
        let at = began + HISTORY_BLOCK * (block as i32);
        let (now, later) = scrapes.into_iter().partition(|scrape| scrape.scrape.at <= at);
        scrapes = later;
        tally.round(
            at,
            Round {
                scrapes: now,
                baseline: block == 0,
                ..Round::default()
            },
        );
        for pod in tally.take(at).pods {
            let series = pods.entry(pod.pod).or_insert_with(|| vec![(0.0, 0.0); blocks as usize]);
            // Block 0 is the baseline and has no increments.
            series[block.max(1) as usize - 1] = (pod.requests, pod.errors);
        }
    }
    if pods.is_empty() {
        let reason = format!(
            "{api} has no history of stable ({}) in a known metric family",
            config.matchers.stable
        );
        return Err(NoMeasurement::new(NoMeasurementKind::Empty, reason));
    }
    Ok(pods
        .into_iter()
        .map(|(pod, blocks)| PodHistory { pod, blocks })
        .collect())
}

fn configured(metrics: &[PrometheusMetric]) -> BTreeSet<MetricName> {
    metrics
        .iter()
        .filter_map(|metric| match metric {
            PrometheusMetric::Known | PrometheusMetric::Gauge { .. } => None,
            PrometheusMetric::Counts { name, .. } | PrometheusMetric::Buckets { name, .. } => Some(name.clone()),
        })
        .collect()
}

/// What is asked, in words.
fn origin(api: &Api, config: &PrometheusConfig) -> Origin {
    let own = config.metrics.iter().filter_map(|metric| match metric {
        PrometheusMetric::Known => None,
        PrometheusMetric::Counts { name, bad, total } => Some((name.clone(), format!("{bad} of {total}"))),
        PrometheusMetric::Buckets { name, buckets } => Some((name.clone(), buckets.clone())),
        PrometheusMetric::Gauge { name, query } => Some((name.clone(), query.clone())),
    });
    let Sides { canary, stable } = &config.matchers;
    let place = format!("{{{canary}}} against {{{stable}}}, {api}");
    Origin {
        own: own.map(|(name, query)| (name, format!("{query}, {api}"))).collect(),
        place,
    }
}

/// Asks and remembers what was already seen.
struct Poller {
    api: Api,
    config: PrometheusConfig,
    clock: Arc<dyn Clock>,
    asked: Vec<Asked>,
    /// The newest sample per target, so that a window's old samples are not read again.
    last: BTreeMap<String, Timestamp>,
    /// When the last good poll was, by the tokio clock (which tests can pause).
    last_good: Option<tokio::time::Instant>,
    baseline: bool,
}

impl Poller {
    fn new(api: Api, config: PrometheusConfig, clock: Arc<dyn Clock>) -> Result<Self, PrometheusConfigError> {
        let asked = plan(&config)?;
        Ok(Self {
            api,
            config,
            clock,
            asked,
            last: BTreeMap::new(),
            last_good: None,
            baseline: true,
        })
    }

    fn new_tally(&self, began: Timestamp) -> Tally {
        Tally::new(began, self.config.patience, configured(&self.config.metrics))
            .reading_from(origin(&self.api, &self.config))
    }

    async fn poll(&mut self) -> Round {
        let started = tokio::time::Instant::now();
        let window = self
            .last_good
            .map_or(MAX_WINDOW, |good| {
                (started.duration_since(good) + WINDOW_SLACK).min(MAX_WINDOW)
            })
            .as_secs();
        let answers = join_all(
            self.asked
                .iter()
                .map(|asked| self.api.instant(asked.expression(window))),
        )
        .await;
        match self.understand(answers) {
            Ok(round) => {
                self.last_good = Some(started);
                round
            }
            Err(failure) => Round {
                failures: vec![(None, failure)],
                ..Round::default()
            },
        }
    }

    fn understand(&mut self, answers: Vec<Result<Data, NoMeasurement>>) -> Result<Round, NoMeasurement> {
        let mut round = Round {
            baseline: self.baseline,
            ..Round::default()
        };
        let mut collected = Collected::new(self.config.pod_label.clone());
        let mut counters: BTreeSet<Side> = BTreeSet::new();
        for (asked, answer) in self.asked.iter().zip(answers) {
            if let Part::Gauge(metric) = &asked.part {
                match answer.and_then(|data| asked.one_value(data)) {
                    Ok(value) => round.gauges.push((metric.clone(), asked.side, value)),
                    // A gauge stands for itself; the counters are not worse for it.
                    Err(failure) => round.failures.push((None, failure)),
                }
                continue;
            }
            counters.insert(asked.side);
            collected.add(asked, answer?, &self.last, self.baseline)?;
        }
        round
            .failures
            .extend(collected.take_notes().into_iter().map(|note| (None, note)));
        let sides = collected.sides_seen().clone();
        round.scrapes = collected.into_scrapes();
        for scrape in &round.scrapes {
            let last = self
                .last
                .entry(scrape.scrape.target.clone())
                .or_insert(scrape.scrape.at);
            *last = scrape.scrape.at.max(*last);
        }
        query::forget_old(&mut self.last);
        if counters.contains(&Side::Stable) && !sides.contains(&Side::Stable) {
            let reason = format!(
                "{} has no recent sample of stable ({}) for {}; check the label matchers and that it scrapes the pods",
                self.api,
                self.config.matchers.stable,
                if configured(&self.config.metrics).contains(ERRORS) {
                    "the queries given"
                } else {
                    "any known metric family"
                },
            );
            round
                .failures
                .push((Some(Side::Stable), NoMeasurement::new(NoMeasurementKind::Empty, reason)));
        } else {
            // Until stable was seen once, nothing can be new.
            self.baseline = false;
        }
        Ok(round)
    }
}
