//! Wade reads the processes' own `/metrics`, every second, so that nothing has to be installed and evidence is fresh.
//!
//! The idea: one background task asks all targets at once, and what came back is a [`Round`] for the
//! [`tally`](super::tally). Everything is bounded: [`MAX_PODS`] per side, 4 MiB, 10,000 series and 2 s an answer, no
//! redirects, no proxy.
//!
//! It does not find the pods; the platform does and calls [`Scraper::set_targets`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use reqwest::Client;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::clock::Clock;
use crate::judge::observation::MetricName;
use crate::signals::exposition::{ExpositionError, Format, Labels, MAX_BYTES, Point, parse, series_id};
use crate::signals::families::{process_start, track};
use crate::signals::http::{bounded_body, success, transport_failure};
use crate::signals::series::{Reading, ResetRule, Scrape, Value};
use crate::signals::tally::{Origin, PodScrape, Role, Round, Tally};
use crate::signals::{NoMeasurement, NoMeasurementKind, Patience, Sample, Side, Signals};

#[cfg(test)]
mod tests;

/// The most pods per side that are scraped; more would not make the verdict quicker.
pub const MAX_PODS: usize = 10;

/// One process to scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The pod's or instance's name, unique and never reused by another process of the other side.
    pub pod: String,
    /// The revision it runs.
    pub side: Side,
    /// Where its metrics are (`http://10.0.0.7:9090/metrics`).
    pub url: String,
    /// When it started, where the platform knows. A process that is older than the scraper begins with a baseline.
    pub started: Option<Timestamp>,
}

/// Which series of a process make up a metric: the name and labels that must be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesMatch {
    /// The series' name.
    pub name: String,
    /// Labels it must have; others may be there.
    pub labels: Labels,
}

impl SeriesMatch {
    /// As a person would write it.
    fn text(&self) -> String {
        let labels: Vec<String> = self
            .labels
            .iter()
            .map(|(label, value)| format!("{label}={value:?}"))
            .collect();
        match labels.as_slice() {
            [] => self.name.clone(),
            labels => format!("{}{{{}}}", self.name, labels.join(",")),
        }
    }

    fn matches(&self, point: &Point) -> bool {
        point.name == self.name && self.labels.iter().all(|(label, value)| point.label(label) == value)
    }
}

/// A metric of the user's own, read from the processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScrapeMetric {
    /// A gauge; the side's value is the mean over all matching series of its pods.
    Gauge {
        /// The metric's name in the analysis.
        name: MetricName,
        /// Its series.
        series: SeriesMatch,
    },
    /// Two counters.
    Counts {
        /// The metric's name in the analysis; `errors` replaces the known families.
        name: MetricName,
        /// Counts bad events.
        bad: SeriesMatch,
        /// Counts all events.
        total: SeriesMatch,
    },
}

/// How to scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeConfig {
    /// From one round to the next; 1 to 2 s.
    pub interval: Duration,
    /// The longest time an answer may take.
    pub timeout: Duration,
    /// When something is silent or down.
    pub patience: Patience,
    /// Metrics beside the known families.
    pub metrics: Vec<ScrapeMetric>,
}

impl Default for ScrapeConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            patience: Patience::default(),
            metrics: Vec::new(),
        }
    }
}

/// The running scraper. Dropping it ends the scraping.
#[derive(Debug)]
pub struct Scraper {
    tally: Arc<Mutex<Tally>>,
    targets: watch::Sender<Vec<Target>>,
    rounds: watch::Receiver<u64>,
    interval: Duration,
    task: JoinHandle<()>,
}

impl Scraper {
    /// Starts scraping in the background, with no targets yet. Must be called inside a tokio runtime.
    pub fn start(client: Client, config: ScrapeConfig, clock: Arc<dyn Clock>) -> Self {
        let configured = config.metrics.iter().map(|metric| metric.name().clone()).collect();
        let tally = Tally::new(clock.now(), config.patience, configured).reading_from(origin(&config.metrics));
        let tally = Arc::new(Mutex::new(tally));
        let (targets, seen_targets) = watch::channel(Vec::new());
        let (done, rounds) = watch::channel(0);
        let interval = config.interval;
        let task = tokio::spawn(run(client, config, clock, Arc::clone(&tally), seen_targets, done));
        Self {
            tally,
            targets,
            rounds,
            interval,
            task,
        }
    }

    /// From one round to the next.
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// Changes with each round that has come back, for whoever wants to look at once; closed when the scraper ends.
    pub fn rounds(&self) -> watch::Receiver<u64> {
        self.rounds.clone()
    }

    /// From now on these are scraped, at most [`MAX_PODS`] per side (the first of each). Targets of the first call
    /// existed before; a target that comes later counts from its start.
    pub fn set_targets(&self, targets: Vec<Target>) {
        self.targets.send_replace(targets);
    }
}

impl Drop for Scraper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Shared, so that whoever knows the targets can keep them up to date while a release reads the measurements.
impl Signals for Arc<Scraper> {
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

impl Signals for Scraper {
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

/// What is read, in words.
fn origin(metrics: &[ScrapeMetric]) -> Origin {
    const PLACE: &str = " on each instance";
    let words = |metric: &ScrapeMetric| match metric {
        ScrapeMetric::Gauge { series, .. } => format!("{}{PLACE}", series.text()),
        ScrapeMetric::Counts { bad, total, .. } => format!("{} of {}{PLACE}", bad.text(), total.text()),
    };
    Origin {
        place: PLACE.to_owned(),
        own: metrics
            .iter()
            .map(|metric| (metric.name().clone(), words(metric)))
            .collect(),
    }
}

impl ScrapeMetric {
    fn name(&self) -> &MetricName {
        match self {
            Self::Gauge { name, .. } | Self::Counts { name, .. } => name,
        }
    }
}

async fn run(
    client: Client,
    config: ScrapeConfig,
    clock: Arc<dyn Clock>,
    tally: Arc<Mutex<Tally>>,
    targets: watch::Receiver<Vec<Target>>,
    done: watch::Sender<u64>,
) {
    let mut ticks = tokio::time::interval(config.interval);
    // A slow round delays the next one instead of being followed by a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = true;
    loop {
        ticks.tick().await;
        let targets = targets.borrow().clone();
        if targets.is_empty() {
            continue;
        }
        let round = scrape_round(&client, &config, clock.as_ref(), targets, first).await;
        first &= round.scrapes.is_empty();
        tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .round(clock.now(), round);
        done.send_modify(|rounds| *rounds += 1);
    }
}

/// Asks all targets once, at the same time.
async fn scrape_round(
    client: &Client,
    config: &ScrapeConfig,
    clock: &dyn Clock,
    targets: Vec<Target>,
    first: bool,
) -> Round {
    let mut per_side: BTreeMap<Side, usize> = BTreeMap::new();
    let (asked, beyond): (Vec<_>, Vec<_>) = targets.into_iter().partition(|target| {
        let count = per_side.entry(target.side).or_default();
        *count += 1;
        *count <= MAX_PODS
    });
    // A pod that moves up into the first ten later has been counting all the time.
    let mut round = Round {
        unread: beyond.into_iter().map(|target| target.pod).collect(),
        ..Round::default()
    };
    let answers = join_all(asked.into_iter().map(|target| async move {
        let points = fetch(client, config.timeout, &target).await;
        (target, clock.now(), points)
    }));
    let mut gauges: BTreeMap<(MetricName, Side), (f64, f64)> = BTreeMap::new();
    let mut outcomes: BTreeMap<Side, (usize, Vec<NoMeasurement>)> = BTreeMap::new();
    for (target, at, points) in answers.await {
        let outcome = outcomes.entry(target.side).or_default();
        match points {
            Ok(points) => {
                outcome.0 += 1;
                gauge_values(config, target.side, &points, &mut gauges);
                round.scrapes.push(pod_scrape(config, target, at, &points));
            }
            Err(failure) => {
                outcome.1.push(failure);
                if first {
                    round.unread.push(target.pod);
                }
            }
        }
    }
    for (side, (answered, failures)) in outcomes {
        match failures.into_iter().next() {
            None => {}
            // One pod of several that fails is worth a note, but the side is measured.
            Some(failure) if answered > 0 => round.failures.push((None, failure)),
            Some(failure) => round.failures.push((Some(side), failure)),
        }
    }
    round.gauges = gauges
        .into_iter()
        .map(|((metric, side), (sum, series))| (metric, side, sum / series))
        .collect();
    round
}

/// Reads one target's metrics.
async fn fetch(client: &Client, timeout: Duration, target: &Target) -> Result<Vec<Point>, NoMeasurement> {
    // OpenMetrics is not asked for: it has nothing more that is used here, and classic text is understood by all.
    let what = format!("{} ({})", target.pod, target.url);
    let request = client
        .get(&target.url)
        .header("accept", "text/plain;version=0.0.4")
        .timeout(timeout);
    let response = request.send().await.map_err(|error| transport_failure(&error, &what))?;
    let response = success(response, &what)?;
    let content_type = response
        .headers()
        .get("content-type")
        .and_then(|value| value.to_str().ok());
    let format = Format::of_content_type(content_type);
    let body = bounded_body(response, MAX_BYTES, &what).await?;
    let read = parse(&body, format).map_err(|error| {
        let kind = match error {
            ExpositionError::TooLong | ExpositionError::TooManySeries => NoMeasurementKind::TooLarge,
            ExpositionError::CutOff | ExpositionError::NotMetrics { .. } => NoMeasurementKind::Garbled,
        };
        NoMeasurement::new(kind, format!("{what}: {error}"))
    })?;
    Ok(read.points)
}

fn gauge_values(
    config: &ScrapeConfig,
    side: Side,
    points: &[Point],
    gauges: &mut BTreeMap<(MetricName, Side), (f64, f64)>,
) {
    for metric in &config.metrics {
        let ScrapeMetric::Gauge { name, series } = metric else {
            continue;
        };
        for point in points
            .iter()
            .filter(|point| series.matches(point) && point.value.is_finite())
        {
            let mean = gauges.entry((name.clone(), side)).or_default();
            mean.0 += point.value;
            mean.1 += 1.0;
        }
    }
}

fn pod_scrape(config: &ScrapeConfig, target: Target, at: Timestamp, points: &[Point]) -> PodScrape {
    let Target { pod, side, started, .. } = target;
    let reading = |series, role, value| Reading {
        series,
        meaning: (side, role),
        value,
        reset: ResetRule::FromZero,
    };
    let mut readings: Vec<_> = track(points)
        .into_iter()
        .map(|one| reading(one.series, Role::Known(one.family, one.meaning), one.value))
        .collect();
    for metric in &config.metrics {
        let ScrapeMetric::Counts { name, bad, total } = metric else {
            continue;
        };
        for (role, series) in [(Role::Bad(name.clone()), bad), (Role::Total(name.clone()), total)] {
            let tag = if matches!(role, Role::Bad(_)) { "bad" } else { "total" };
            readings.extend(points.iter().filter(|point| series.matches(point)).map(|point| {
                // The same series may count for several metrics, so the metric is part of the identity.
                let id = format!("{name}/{tag}/{}", series_id(&point.name, &point.labels, None));
                reading(id, role.clone(), Value::Count(point.value))
            }));
        }
    }
    let scrape = Scrape {
        target: pod.clone(),
        at,
        started: process_start(points).or(started),
        readings,
    };
    PodScrape {
        pod,
        sides: BTreeSet::from([side]),
        scrape,
    }
}
