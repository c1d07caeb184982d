//! Adds increments up to what one [`Sample`] says: per metric and side, per pod, and who is silent.
//!
//! The idea: a source (scrapes, Prometheus) only brings [`Round`]s of what it read; everything that decides what
//! counts is here, without IO: which family a side is read from, how two histograms with different bounds are
//! compared, and which side was measured at all. A side that was not read since the last `take` is `None` in the
//! observation; one that was read and did nothing has zeros.
//!
//! It does not pair the two sides' windows; the judge does (METHOD.md 2.4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::judge::observation::{Increment, MetricName, Observation, Sides};
use crate::signals::families::{Choice, Family, Meaning, Outcome, choose};
use crate::signals::presence::Presence;
use crate::signals::series::{FORGET_AFTER, Scrape, SeriesState, Value};
use crate::signals::{ERRORS, LATENCY, NoMeasurement, NoMeasurementKind, Patience, PodIncrement, Sample, Side};

#[cfg(test)]
mod tests;

/// The most notes that are kept between two calls of `take`; further ones are dropped.
const MAX_NOTES: usize = 32;
/// The most targets whose sample interval is remembered.
const MAX_TARGETS: usize = 1_000;
/// Sample intervals longer than this are gaps, not a cadence.
const MAX_CADENCE: SignedDuration = SignedDuration::from_mins(5);

/// What a series contributes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// It belongs to a known family; whether it counts is decided when traffic was seen.
    Known(Family, Meaning),
    /// It counts all events of a configured metric.
    Total(MetricName),
    /// It counts the bad events of a configured metric.
    Bad(MetricName),
    /// It is a histogram of a configured metric.
    Buckets(MetricName),
}

/// One scrape of one pod's process.
#[derive(Clone, Debug, PartialEq)]
pub struct PodScrape {
    /// The pod, as people know it.
    pub pod: String,
    /// Which sides it speaks for; both where a router serves both.
    pub sides: BTreeSet<Side>,
    /// The readings, each with its side and role.
    pub scrape: Scrape<(Side, Role)>,
}

/// Everything that a source read in one go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    /// Per process and moment, any order.
    pub scrapes: Vec<PodScrape>,
    /// Present values of gauges.
    pub gauges: Vec<(MetricName, Side, f64)>,
    /// What failed, for which side (`None`: both).
    pub failures: Vec<(Option<Side>, NoMeasurement)>,
    /// Targets that exist but could not be read: if they are met for the first time later, they are old.
    pub unread: Vec<String>,
    /// Only remember the values; what was added before them happened before Wade began.
    pub baseline: bool,
}

/// State between rounds and between calls of `take`.
#[derive(Debug)]
pub struct Tally {
    series: SeriesState,
    presence: Presence,
    /// Metrics that are configured: the known families do not feed these.
    configured: BTreeSet<MetricName>,
    pins: Sides<Choice>,
    can_tell_errors: Sides<bool>,
    /// Bounds per histogram metric: those that all pods of both sides have in common.
    bounds: BTreeMap<MetricName, Arc<[f64]>>,
    intervals: BTreeMap<String, (Timestamp, SignedDuration)>,
    newest: Option<Timestamp>,
    seen_metrics: BTreeSet<MetricName>,
    origin: Origin,
    period: Period,
}

/// Where a source reads, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// What follows the name of a known family: ` on the pods' own page`.
    pub place: String,
    /// Metrics that are not read from a known family, and from what.
    pub own: BTreeMap<MetricName, String>,
}

/// What was added since the last `take`.
#[derive(Debug, Default)]
struct Period {
    measured: Sides<bool>,
    counts: BTreeMap<MetricName, Sides<Counts>>,
    histograms: BTreeMap<MetricName, Sides<Vec<f64>>>,
    gauges: BTreeMap<MetricName, Sides<Option<f64>>>,
    pods: BTreeMap<(Side, String), Counts>,
    notes: BTreeMap<String, NoMeasurement>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    total: f64,
    bad: f64,
}

impl Tally {
    /// Nothing read yet. `configured` names the metrics that known families must not feed.
    pub fn new(began: Timestamp, patience: Patience, configured: BTreeSet<MetricName>) -> Self {
        Self {
            series: SeriesState::new(began),
            presence: Presence::new(began, patience),
            configured,
            pins: Sides::default(),
            can_tell_errors: Sides::default(),
            bounds: BTreeMap::new(),
            intervals: BTreeMap::new(),
            newest: None,
            seen_metrics: BTreeSet::new(),
            origin: Origin::default(),
            period: Period::default(),
        }
    }

    /// With words for where it is read.
    #[must_use]
    pub fn reading_from(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }

    /// See [`Signals::expect_canary_traffic`](crate::signals::Signals::expect_canary_traffic).
    pub fn expect_canary_traffic(&mut self, since: Option<Timestamp>) {
        self.presence.expect_canary_traffic(since);
    }

    /// Takes what a source read; `now` is when it was received.
    pub fn round(&mut self, now: Timestamp, mut round: Round) {
        self.pin(&round.scrapes);
        for target in &round.unread {
            self.series.existed(target);
        }
        // A pod of stable that is met later is more likely an old one that could not be read before than a new one.
        // Taking it for new would add its whole life at once; taking it for old loses a second of a new one.
        for met in &round.scrapes {
            if met.sides.contains(&Side::Stable) && met.scrape.started.is_none() {
                self.series.existed(&met.scrape.target);
            }
        }
        let looked = !round.scrapes.is_empty();
        round
            .scrapes
            .sort_by(|a, b| (a.scrape.at, &a.scrape.target).cmp(&(b.scrape.at, &b.scrape.target)));
        let mut answered: Sides<Option<f64>> = Sides::default();
        for PodScrape { pod, sides, scrape } in round.scrapes {
            if !self.is_news(&scrape.target, scrape.at) {
                continue;
            }
            for side in sides {
                side.of_mut(&mut answered).get_or_insert_default();
            }
            for ((side, role), value) in self.series.observe(scrape) {
                if !round.baseline {
                    *side.of_mut(&mut answered).get_or_insert_default() += self.add(&pod, side, role, &value);
                }
            }
        }
        if looked {
            self.series.establish();
        }
        self.series.forget_gone();
        for (side, note) in round.failures {
            for side in side.map_or(Side::BOTH.to_vec(), |side| vec![side]) {
                self.presence.failed(side, &note.reason);
            }
            self.note(note);
        }
        for side in Side::BOTH {
            if let Some(requests) = side.of(&answered) {
                self.presence.answered(side, now, *requests);
                *side.of_mut(&mut self.period.measured) = true;
            }
        }
        for (metric, side, value) in round.gauges {
            *side.of_mut(self.period.gauges.entry(metric).or_default()) = Some(value);
        }
    }

    /// Hands out what was added since the last call.
    pub fn take(&mut self, now: Timestamp) -> Sample {
        let found: BTreeSet<&str> = [self.pins.stable, self.pins.canary]
            .iter()
            .flat_map(|pin| [pin.requests, pin.durations])
            .flatten()
            .map(Family::name)
            .collect();
        let sources = self.sources();
        self.note_what_is_missing();
        let observation = self.observation();
        let Period { pods, notes, .. } = std::mem::take(&mut self.period);
        Sample {
            observation,
            condition: self.presence.condition(now),
            newest: self.newest,
            rates: Sides {
                canary: self.presence.rate(Side::Canary),
                stable: self.presence.rate(Side::Stable),
            },
            pods: pods
                .into_iter()
                .map(|((side, pod), Counts { total, bad })| PodIncrement {
                    pod,
                    side,
                    requests: total,
                    errors: bad,
                })
                .collect(),
            notes: notes.into_values().collect(),
            doubt: None,
            found: found.into_iter().map(str::to_owned).collect(),
            sources,
        }
    }

    /// What each metric is read from, as far as that is settled.
    fn sources(&self) -> BTreeMap<MetricName, String> {
        let Origin { place, own } = &self.origin;
        let mut sources = own.clone();
        let known = |pick: fn(&Choice) -> Option<Family>| {
            let mut names: Vec<&str> = [self.pins.stable, self.pins.canary]
                .iter()
                .filter_map(|pin| pick(pin).map(Family::name))
                .collect();
            names.dedup();
            (!names.is_empty()).then(|| format!("{}{place}", names.join(" and ")))
        };
        for (metric, family) in [
            (ERRORS, known(|pin| pin.requests)),
            (LATENCY, known(|pin| pin.durations)),
        ] {
            if let Some(family) = family.filter(|_| !self.configured.contains(metric)) {
                sources.insert(metric.to_owned(), family);
            }
        }
        sources
    }

    /// Chooses the families of a side once it has traffic, so that two families never count one request twice.
    fn pin(&mut self, scrapes: &[PodScrape]) {
        // Stable first: the canary is read like stable where it can be.
        for side in [Side::Stable, Side::Canary] {
            let sightings: Vec<_> = scrapes
                .iter()
                .flat_map(|scrape| &scrape.scrape.readings)
                .filter(|reading| reading.meaning.0 == side)
                .filter_map(|reading| match reading.meaning.1 {
                    Role::Known(family, meaning) => Some((family, meaning, reading.value.total())),
                    Role::Total(_) | Role::Bad(_) | Role::Buckets(_) => None,
                })
                .collect();
            let prefer = self.pins.stable;
            let choice = choose(&sightings, prefer);
            let busy = |family: Family, durations: bool| {
                sightings.iter().any(|(f, meaning, total)| {
                    *f == family && (*meaning == Meaning::Durations) == durations && *total > 0.0
                })
            };
            let pin = side.of_mut(&mut self.pins);
            pin.requests = pin.requests.or(choice.requests.filter(|family| busy(*family, false)));
            pin.durations = pin.durations.or(choice.durations.filter(|family| busy(*family, true)));
            let pinned = pin.requests;
            if pinned.is_some() && !self.configured.contains(ERRORS) {
                self.seen_metrics.insert(ERRORS.to_owned());
            }
            *side.of_mut(&mut self.can_tell_errors) |= sightings.iter().any(|(family, meaning, _)| {
                Some(*family) == pinned
                    && matches!(
                        meaning,
                        Meaning::Requests(Outcome::Good) | Meaning::Requests(Outcome::Bad)
                    )
            });
        }
    }

    /// Whether a sample is newer than the last of its target; learns how far apart samples are.
    fn is_news(&mut self, target: &str, at: Timestamp) -> bool {
        let last = self.series.last_of(target);
        if last.is_some_and(|last| at <= last) {
            return false;
        }
        self.newest = self.newest.max(Some(at));
        if let Some(gap) = last
            .map(|last| at.duration_since(last))
            .filter(|gap| *gap <= MAX_CADENCE)
        {
            let known = self.intervals.len() < MAX_TARGETS || self.intervals.contains_key(target);
            if known {
                let interval = self.intervals.entry(target.to_owned()).or_insert((at, gap));
                *interval = (at, interval.1.min(gap));
            }
            self.intervals
                .retain(|_, (seen, _)| at.duration_since(*seen) < FORGET_AFTER);
            let cadence = self.intervals.values().map(|(_, gap)| *gap).max().unwrap_or_default();
            self.presence.set_cadence(cadence.unsigned_abs());
        }
        true
    }

    /// Adds one increment and returns how many requests it stands for.
    fn add(&mut self, pod: &str, side: Side, role: Role, value: &Value) -> f64 {
        let pin = side.of(&self.pins);
        match role {
            Role::Known(family, Meaning::Requests(outcome)) if pin.requests == Some(family) => {
                if self.configured.contains(ERRORS) {
                    return 0.0;
                }
                let bad = if outcome == Outcome::Bad { value.total() } else { 0.0 };
                self.count(
                    ERRORS,
                    pod,
                    side,
                    Counts {
                        total: value.total(),
                        bad,
                    },
                )
            }
            Role::Known(family, Meaning::Durations) if pin.durations == Some(family) => {
                if !self.configured.contains(LATENCY) {
                    self.histogram(LATENCY, side, value);
                }
                0.0
            }
            Role::Known(..) => 0.0,
            Role::Total(metric) => self.count(
                &metric,
                pod,
                side,
                Counts {
                    total: value.total(),
                    bad: 0.0,
                },
            ),
            Role::Bad(metric) => self.count(
                &metric,
                pod,
                side,
                Counts {
                    total: 0.0,
                    bad: value.total(),
                },
            ),
            Role::Buckets(metric) => {
                self.histogram(&metric, side, value);
                0.0
            }
        }
    }

    fn count(&mut self, metric: &str, pod: &str, side: Side, added: Counts) -> f64 {
        let add = |sum: &mut Counts| {
            sum.total += added.total;
            sum.bad += added.bad;
        };
        add(side.of_mut(self.period.counts.entry(metric.to_owned()).or_default()));
        self.seen_metrics.insert(metric.to_owned());
        if metric != ERRORS {
            return 0.0;
        }
        add(self.period.pods.entry((side, pod.to_owned())).or_default());
        added.total
    }

    fn histogram(&mut self, metric: &str, side: Side, value: &Value) {
        let Value::Buckets { le, cumulative } = value else {
            return;
        };
        let bounds = self.bounds.entry(metric.to_owned()).or_insert_with(|| le.clone());
        let sums = self.period.histograms.entry(metric.to_owned()).or_default();
        if bounds != le {
            let common: Arc<[f64]> = bounds.iter().copied().filter(|bound| le.contains(bound)).collect();
            if common.is_empty() {
                let reason = format!(
                    "{metric} of {side} has no bucket bound in common with the other pods, so it is not compared; use the same buckets in both versions"
                );
                self.note(NoMeasurement::new(NoMeasurementKind::Unusable, reason));
                return;
            }
            for sum in [&mut sums.canary, &mut sums.stable] {
                if !sum.is_empty() {
                    *sum = coarsen(bounds, sum, &common);
                }
            }
            *bounds = common;
        }
        let added = coarsen(le, cumulative, bounds);
        let sum = side.of_mut(sums);
        sum.resize(added.len(), 0.0);
        sum.iter_mut().zip(added).for_each(|(sum, added)| *sum += added);
        self.seen_metrics.insert(metric.to_owned());
    }

    fn note(&mut self, note: NoMeasurement) {
        if self.period.notes.len() < MAX_NOTES {
            self.period.notes.insert(note.reason.clone(), note);
        }
    }

    /// A side that answers but shows no requests in any known family is measured in vain; say so.
    fn note_what_is_missing(&mut self) {
        if !self.period.measured.stable || self.configured.contains(ERRORS) {
            return;
        }
        let reason = match self.pins.stable.requests {
            None => "stable's pods answer, but none of the known metric families on them counts a request yet; name your own under analysis.metrics".to_owned(),
            Some(family) if !self.can_tell_errors.stable => format!(
                "{} has no status label, so errors cannot be told from successes; name an errors metric under analysis.metrics",
                family.name()
            ),
            Some(_) => return,
        };
        self.note(NoMeasurement::new(NoMeasurementKind::Empty, reason));
    }

    fn observation(&mut self) -> Observation {
        let mut metrics: BTreeMap<MetricName, Sides<Option<Increment>>> = BTreeMap::new();
        let Period {
            measured,
            counts,
            histograms,
            gauges,
            ..
        } = &self.period;
        for metric in &self.seen_metrics {
            let mut sides: Sides<Option<Increment>> = Sides::default();
            for side in Side::BOTH.into_iter().filter(|side| *side.of(measured)) {
                *side.of_mut(&mut sides) = match self.bounds.get(metric) {
                    Some(le) => {
                        let sums = histograms
                            .get(metric)
                            .map(|sums| side.of(sums).as_slice())
                            .unwrap_or_default();
                        Some(Increment::Histogram {
                            le: le.clone(),
                            counts: per_bucket(sums, le.len() + 1),
                        })
                    }
                    None => {
                        let Counts { total, bad } = counts.get(metric).map(|c| *side.of(c)).unwrap_or_default();
                        let known = metric != ERRORS || self.configured.contains(ERRORS);
                        // Without a status label all requests would look like successes.
                        let can_tell = known || *side.of(&self.can_tell_errors) || total == 0.0;
                        can_tell.then_some(Increment::Counts {
                            total,
                            bad: bad.min(total),
                        })
                    }
                };
            }
            if sides != Sides::default() {
                metrics.insert(metric.clone(), sides);
            }
        }
        for (metric, sides) in gauges {
            let value = |v: Option<f64>| v.map(Increment::Value);
            metrics.insert(
                metric.clone(),
                Sides {
                    canary: value(sides.canary),
                    stable: value(sides.stable),
                },
            );
        }
        Observation { metrics }
    }
}

/// Cumulative counts at `to`'s bounds, which are among `from`'s; the last entry stays the total.
fn coarsen(from: &[f64], cumulative: &[f64], to: &[f64]) -> Vec<f64> {
    from.iter()
        .zip(cumulative)
        .filter(|(bound, _)| to.contains(bound))
        .map(|(_, count)| *count)
        .chain(cumulative.last().copied())
        .collect()
}

fn per_bucket(cumulative: &[f64], len: usize) -> Vec<f64> {
    if cumulative.is_empty() {
        return vec![0.0; len];
    }
    let before = std::iter::once(&0.0).chain(cumulative);
    cumulative
        .iter()
        .zip(before)
        .map(|(upto, below)| (upto - below).max(0.0))
        .collect()
}
