//! A past period, read from the server as the live source would have read it, look by look.
//!
//! Counters are fetched in pieces of a few minutes: a plain selector with its scrapes' own timestamps, an expression
//! evaluated at each look. Resets, families that are chosen and buckets that are brought together are the business of the
//! same [`Tally`] as live, so a replay sees what Wade would have seen; only what the server no longer has is missing.

use jiff::{SignedDuration, Timestamp};

use super::query::{self, Asked, Collected, Part, plan};
use super::*;
use crate::signals::{Condition, NoMeasurement, NoMeasurementKind};

/// The longest piece that is asked for at once; halved while an answer is too large.
const PIECE: SignedDuration = SignedDuration::from_mins(5);

/// What both sides did from `from` to `to`, every `step`: each moment with what a source would have handed out there.
///
/// # Errors
/// [`NoMeasurement`] if a query fails, or stable was never seen.
pub async fn samples(
    api: &Api,
    config: &PrometheusConfig,
    from: Timestamp,
    to: Timestamp,
    step: SignedDuration,
) -> Result<Vec<(Timestamp, Sample)>, NoMeasurement> {
    let asked = plan(config).map_err(|error| NoMeasurement::new(NoMeasurementKind::Unusable, error.to_string()))?;
    let mut reader = Reader {
        api,
        config,
        asked,
        step,
        last: BTreeMap::new(),
        tally: Tally::new(from, config.patience, configured(&config.metrics)).reading_from(origin(api, config)),
        seen: BTreeSet::new(),
    };
    let lookback = SignedDuration::try_from(MAX_WINDOW).unwrap_or(SignedDuration::from_mins(5));
    let before = reader.read(from - lookback, from, true).await?;
    reader.count(from, before, true);
    let mut samples = Vec::new();
    let mut piece = longest(PIECE, step);
    let mut at = from;
    while at < to {
        let looks = (to.duration_since(at).as_secs_f64() / step.as_secs_f64())
            .ceil()
            .max(1.0);
        let until = at + (step * looks.min(1e6) as i32).min(piece);
        match reader.read(at, until, false).await {
            Ok(read) => {
                samples.extend(reader.looks(at, until, read));
                at = until;
            }
            Err(failure) if failure.kind == NoMeasurementKind::TooLarge && piece > step => {
                piece = longest(piece / 2, step);
            }
            Err(failure) => return Err(failure),
        }
    }
    if reader.seen.contains(&Side::Stable) {
        return Ok(samples);
    }
    let reason = format!(
        "{api} has no sample of stable ({}) between {from} and {to}; check the label matchers, the times, and how long it keeps samples",
        config.matchers.stable
    );
    Err(NoMeasurement::new(NoMeasurementKind::Empty, reason))
}

/// As many whole steps as fit into `most`, at least one.
fn longest(most: SignedDuration, step: SignedDuration) -> SignedDuration {
    let steps = (most.as_secs_f64() / step.as_secs_f64()).floor().max(1.0);
    step * steps as i32
}

struct Reader<'a> {
    api: &'a Api,
    config: &'a PrometheusConfig,
    asked: Vec<Asked>,
    step: SignedDuration,
    last: BTreeMap<String, Timestamp>,
    tally: Tally,
    seen: BTreeSet<Side>,
}

/// What one piece brought.
struct Piece {
    round: Round,
    /// Values of gauges, each at its look.
    gauges: Vec<(Timestamp, MetricName, Side, f64)>,
}

impl Reader<'_> {
    /// Everything in (`from`, `to`]; only the newest of each series if it is the `baseline`.
    async fn read(&mut self, from: Timestamp, to: Timestamp, baseline: bool) -> Result<Piece, NoMeasurement> {
        let answers = join_all(self.asked.iter().map(|asked| self.ask(asked, from, to, baseline))).await;
        let mut collected = Collected::new(self.config.pod_label.clone());
        let mut gauges = Vec::new();
        for (asked, answer) in self.asked.iter().zip(answers) {
            match &asked.part {
                Part::Gauge(metric) => {
                    let values = if baseline { Vec::new() } else { asked.values(answer?)? };
                    gauges.extend(
                        values
                            .into_iter()
                            .map(|(at, value)| (at, metric.clone(), asked.side, value)),
                    );
                }
                _ => collected.add(asked, answer?, &self.last, baseline)?,
            }
        }
        self.seen.extend(collected.sides_seen());
        let failures = collected.take_notes().into_iter().map(|note| (None, note)).collect();
        let scrapes = collected.into_scrapes();
        for scrape in &scrapes {
            let last = self
                .last
                .entry(scrape.scrape.target.clone())
                .or_insert(scrape.scrape.at);
            *last = scrape.scrape.at.max(*last);
        }
        query::forget_old(&mut self.last);
        let round = Round {
            scrapes,
            failures,
            baseline,
            ..Round::default()
        };
        Ok(Piece { round, gauges })
    }

    async fn ask(&self, asked: &Asked, from: Timestamp, to: Timestamp, baseline: bool) -> Result<Data, NoMeasurement> {
        if asked.is_selector() {
            let window = to.duration_since(from).as_secs_f64().ceil().max(1.0) as u64;
            self.api.instant_at(asked.expression(window), to).await
        } else if baseline {
            self.api.range_at(asked.expression(0), to, to, self.step).await
        } else {
            self.api
                .range_at(asked.expression(0), from + self.step, to, self.step)
                .await
        }
    }

    fn count(&mut self, at: Timestamp, piece: Piece, baseline: bool) {
        self.tally.round(
            at,
            Round {
                baseline,
                ..piece.round
            },
        );
        // What came before the period is nobody's increment.
        let _ = self.tally.take(at);
    }

    /// The looks after `from` until `until`, each with what had been scraped by then.
    fn looks(&mut self, from: Timestamp, until: Timestamp, piece: Piece) -> Vec<(Timestamp, Sample)> {
        let Piece { mut round, gauges } = piece;
        let mut samples = Vec::new();
        let mut at = from;
        while at < until {
            at += self.step;
            let (now, later) = round.scrapes.into_iter().partition(|scrape| scrape.scrape.at <= at);
            round.scrapes = later;
            // The server counts in milliseconds.
            let values = gauges
                .iter()
                .filter(|(moment, ..)| moment.as_millisecond() == at.as_millisecond());
            let due = Round {
                scrapes: now,
                gauges: values
                    .map(|(_, metric, side, value)| (metric.clone(), *side, *value))
                    .collect(),
                failures: std::mem::take(&mut round.failures),
                ..Round::default()
            };
            self.tally.round(at, due);
            let mut sample = self.tally.take(at);
            // Silence in the past is for the judge to see, not a source that is down.
            sample.condition = Condition::Measured;
            samples.push((at, sample));
        }
        samples
    }
}
