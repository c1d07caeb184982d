//! From configuration to PromQL, and from its answers to scrapes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use prometheus_http_query::response::Data;

use super::{PrometheusConfig, PrometheusConfigError, PrometheusMetric};
use crate::judge::observation::MetricName;
use crate::signals::exposition::{Kind, Labels, Point, series_id};
use crate::signals::families::{Bounds, Family, PROCESS_START, process_start, track};
use crate::signals::series::{FORGET_AFTER, Reading, ResetRule, Scrape, Value};
use crate::signals::tally::{PodScrape, Role};
use crate::signals::{ERRORS, NoMeasurement, NoMeasurementKind, Side};

/// Where the side's matchers go in a query of the user's own.
const SIDE: &str = "${side}";
/// The labels that name a pod, unless one is configured; the first that is there.
const POD_LABELS: [&str; 3] = ["pod", "kubernetes_pod_name", "instance"];
/// The most samples of one poll.
const MAX_SAMPLES: usize = 200_000;

/// What a query's answer is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All known families.
    Known,
    /// All events of a metric.
    Total(MetricName),
    /// Its bad events.
    Bad(MetricName),
    /// Its buckets.
    Buckets(MetricName),
    /// Its present value.
    Gauge(MetricName),
}

/// One query for one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) part: Part,
    pub(super) side: Side,
    expression: String,
    /// The same for history, which has no use for buckets.
    history: String,
    /// A plain selector is fetched as a range, with the scrapes' own timestamps.
    selector: bool,
}

/// All queries of one poll.
pub(super) fn plan(config: &PrometheusConfig) -> Result<Vec<Asked>, PrometheusConfigError> {
    let mut asked = Vec::new();
    for side in Side::BOTH {
        let matchers = side.of(&config.matchers).trim().trim_end_matches(',');
        if matchers.is_empty() {
            return Err(PrometheusConfigError::NoMatchers { side });
        }
        let mut own = |part: Part, metric: &MetricName, query: &str| {
            let expression = expand(query, matchers).ok_or_else(|| PrometheusConfigError::NoSide {
                metric: metric.clone(),
                query: query.to_owned(),
            })?;
            let selector = is_selector(&expression) && !matches!(part, Part::Gauge(_));
            asked.push(Asked {
                part,
                side,
                history: expression.clone(),
                expression,
                selector,
            });
            Ok(())
        };
        for metric in &config.metrics {
            match metric {
                PrometheusMetric::Known => {}
                PrometheusMetric::Counts { name, bad, total } => {
                    own(Part::Total(name.clone()), name, total)?;
                    own(Part::Bad(name.clone()), name, bad)?;
                }
                PrometheusMetric::Buckets { name, buckets } => own(Part::Buckets(name.clone()), name, buckets)?,
                PrometheusMetric::Gauge { name, query } => own(Part::Gauge(name.clone()), name, query)?,
            }
        }
        if config.metrics.contains(&PrometheusMetric::Known) {
            let (expression, history) = (known_selector(matchers, true), known_selector(matchers, false));
            asked.push(Asked {
                part: Part::Known,
                side,
                expression,
                history,
                selector: true,
            });
        }
    }
    Ok(asked)
}

fn known_selector(matchers: &str, with_buckets: bool) -> String {
    let buckets = || Family::all().filter_map(Family::buckets).filter(|_| with_buckets);
    // A native histogram is one series, without a suffix.
    let native = buckets().filter_map(|name| name.strip_suffix("_bucket"));
    let names: Vec<&str> = Family::all()
        .map(Family::counter)
        .chain(buckets())
        .chain(native)
        .chain([PROCESS_START])
        .collect();
    format!("{{__name__=~\"{}\",{matchers}}}", names.join("|"))
}

/// A series name gets the side's matchers; anything else must say where they belong.
fn expand(query: &str, matchers: &str) -> Option<String> {
    let query = query.trim();
    if is_metric_name(query) {
        return Some(format!("{query}{{{matchers}}}"));
    }
    query.contains(SIDE).then(|| query.replace(SIDE, matchers))
}

fn is_metric_name(text: &str) -> bool {
    text.chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == ':')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// `name{...}` or `{...}` and nothing else. When in doubt it is an expression, which always works.
fn is_selector(expression: &str) -> bool {
    let Some((name, rest)) = expression.split_once('{') else {
        return is_metric_name(expression);
    };
    let (mut quoted, mut escaped) = (None, false);
    for (at, c) in rest.char_indices() {
        match (quoted, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some('"' | '\''), '\\') => escaped = true,
            (Some(quote), c) if c == quote => quoted = None,
            (Some(_), _) => {}
            (None, '"' | '\'' | '`') => quoted = Some(c),
            (None, '}') => {
                return (name.trim().is_empty() || is_metric_name(name.trim())) && rest[at + 1..].trim().is_empty();
            }
            (None, _) => {}
        }
    }
    false
}

impl Asked {
    /// The PromQL that fetches what happened in the last `window_secs`.
    pub(super) fn expression(&self, window_secs: u64) -> String {
        if self.selector {
            format!("{}[{window_secs}s]", self.expression)
        } else {
            self.expression.clone()
        }
    }

    /// Whether it is fetched with the scrapes' own timestamps.
    pub(super) fn is_selector(&self) -> bool {
        self.selector
    }

    /// The answers to a gauge's query over time; moments without exactly one number are left out.
    pub(super) fn values(&self, data: Data) -> Result<Vec<(Timestamp, f64)>, NoMeasurement> {
        let fail = |kind, what: &str| {
            let Self { side, expression, .. } = self;
            NoMeasurement::new(kind, format!("the gauge query {expression:?} for {side} {what}"))
        };
        let series = match data {
            Data::Matrix(series) => series,
            Data::Vector(_) | Data::Scalar(_) => return Err(fail(NoMeasurementKind::Garbled, "gave no range")),
        };
        if series.len() > 1 {
            let what = format!("gave {} series; wrap it in avg(), sum() or max()", series.len());
            return Err(fail(NoMeasurementKind::Unusable, &what));
        }
        let samples = series.into_iter().flat_map(|one| one.into_inner().1);
        samples
            .filter(|sample| sample.value().is_finite())
            .map(|sample| Ok((timestamp(sample.timestamp())?, sample.value())))
            .collect()
    }

    /// Whether it says something about stable's past requests and errors.
    pub(super) fn is_for_history(&self) -> bool {
        match &self.part {
            Part::Known => true,
            Part::Total(metric) | Part::Bad(metric) => metric == ERRORS,
            Part::Buckets(_) | Part::Gauge(_) => false,
        }
    }

    /// The PromQL for history.
    pub(super) fn history_expression(&self) -> String {
        self.history.clone()
    }

    /// The answer to a gauge's query.
    pub(super) fn one_value(&self, data: Data) -> Result<f64, NoMeasurement> {
        let fail = |kind, what: &str| {
            let Self { side, expression, .. } = self;
            NoMeasurement::new(kind, format!("the gauge query {expression:?} for {side} {what}"))
        };
        let value = match data {
            Data::Scalar(sample) => sample.value(),
            Data::Vector(series) => match series.as_slice() {
                [] => return Err(fail(NoMeasurementKind::Empty, "gave nothing; check its matchers")),
                [one] => one.sample().value(),
                many => {
                    let what = format!("gave {} series; wrap it in avg(), sum() or max()", many.len());
                    return Err(fail(NoMeasurementKind::Unusable, &what));
                }
            },
            Data::Matrix(_) => return Err(fail(NoMeasurementKind::Unusable, "gave a range; remove the [..]")),
        };
        if value.is_finite() {
            Ok(value)
        } else {
            Err(fail(
                NoMeasurementKind::NotANumber,
                &format!("gave {value}; guard divisions by zero"),
            ))
        }
    }
}

/// The answers of one poll, sorted by process and moment.
pub(super) struct Collected {
    pod_label: Option<String>,
    groups: BTreeMap<(Timestamp, String), Group>,
    /// Expressions have no moment of their own; all of one poll get the latest evaluation's.
    evaluated: BTreeMap<String, Group>,
    evaluated_at: Option<Timestamp>,
    starts: BTreeMap<String, Timestamp>,
    sides: BTreeSet<Side>,
    samples: usize,
    notes: Vec<NoMeasurement>,
}

#[derive(Default)]
struct Group {
    pod: String,
    parts: Vec<(Part, Side, ResetRule, Vec<Point>)>,
}

impl Group {
    fn push(&mut self, asked: &Asked, reset: ResetRule, point: Point) {
        match self
            .parts
            .iter_mut()
            .find(|(part, side, ..)| *part == asked.part && *side == asked.side)
        {
            Some((.., points)) => points.push(point),
            None => self.parts.push((asked.part.clone(), asked.side, reset, vec![point])),
        }
    }
}

impl Collected {
    pub(super) fn new(pod_label: Option<String>) -> Self {
        Self {
            pod_label,
            groups: BTreeMap::new(),
            evaluated: BTreeMap::new(),
            evaluated_at: None,
            starts: BTreeMap::new(),
            sides: BTreeSet::new(),
            samples: 0,
            notes: Vec::new(),
        }
    }

    /// Takes one answer. Samples not newer than `seen` of their target are left out; with `latest_only`, all but the
    /// newest of each series.
    pub(super) fn add(
        &mut self,
        asked: &Asked,
        data: Data,
        seen: &BTreeMap<String, Timestamp>,
        latest_only: bool,
    ) -> Result<(), NoMeasurement> {
        let garbled = |what: &str| {
            let reason = format!(
                "the query {:?} gave {what}; it must give one counter per series",
                asked.expression
            );
            NoMeasurement::new(NoMeasurementKind::Unusable, reason)
        };
        match data {
            Data::Scalar(_) => Err(garbled("a plain number without labels")),
            Data::Matrix(series) => {
                for one in series {
                    let (metric, samples) = one.into_inner();
                    let (name, labels) = split_name(metric);
                    let (pod, target) = self.identity(&labels);
                    // What an expression gives has no process of its own; see below.
                    let sum = !asked.selector && pod.is_empty();
                    let target = if asked.selector {
                        target
                    } else {
                        format!("{}/{pod}", asked.side)
                    };
                    let pod = if sum { asked.side.to_string() } else { pod };
                    let reset = if sum { ResetRule::Drop } else { ResetRule::FromZero };
                    if let (PROCESS_START, Some(last)) = (name.as_str(), samples.last()) {
                        let point = Point {
                            name,
                            labels,
                            kind: Kind::Gauge,
                            value: last.value(),
                        };
                        if let Some(start) = process_start(&[point]) {
                            self.starts.insert(target, start);
                        }
                        continue;
                    }
                    self.sides.insert(asked.side);
                    let skip = if latest_only {
                        samples.len().saturating_sub(1)
                    } else {
                        0
                    };
                    for sample in samples.iter().skip(skip) {
                        let at = timestamp(sample.timestamp())?;
                        if seen.get(&target).is_some_and(|last| at <= *last) {
                            continue;
                        }
                        self.count_sample(asked, sample.value())?;
                        let group = self.groups.entry((at, target.clone())).or_default();
                        group.pod.clone_from(&pod);
                        let point = Point {
                            name: name.clone(),
                            labels: labels.clone(),
                            kind: Kind::Untyped,
                            value: sample.value(),
                        };
                        group.push(asked, reset, point);
                    }
                }
                Ok(())
            }
            Data::Vector(series) => {
                for one in series {
                    let (metric, sample) = one.into_inner();
                    let (name, labels) = split_name(metric);
                    let (pod, _) = self.identity(&labels);
                    self.sides.insert(asked.side);
                    self.count_sample(asked, sample.value())?;
                    self.evaluated_at = self.evaluated_at.max(Some(timestamp(sample.timestamp())?));
                    // Without a pod it is a sum over pods, in which a reset cannot be told from a pod that left.
                    let reset = if pod.is_empty() {
                        ResetRule::Drop
                    } else {
                        ResetRule::FromZero
                    };
                    let group = self.evaluated.entry(format!("{}/{pod}", asked.side)).or_default();
                    group.pod = if pod.is_empty() { asked.side.to_string() } else { pod };
                    group.push(
                        asked,
                        reset,
                        Point {
                            name,
                            labels,
                            kind: Kind::Untyped,
                            value: sample.value(),
                        },
                    );
                }
                Ok(())
            }
        }
    }

    fn count_sample(&mut self, asked: &Asked, value: f64) -> Result<(), NoMeasurement> {
        self.samples += 1;
        if self.samples > MAX_SAMPLES {
            let reason = format!(
                "more than {MAX_SAMPLES} samples match {:?}, the limit; narrow the matchers",
                asked.expression
            );
            return Err(NoMeasurement::new(NoMeasurementKind::TooLarge, reason));
        }
        if !value.is_finite() && self.notes.is_empty() {
            let reason = format!(
                "a series of {:?} for {} shows {value}, which is not counted",
                asked.expression, asked.side
            );
            self.notes
                .push(NoMeasurement::new(NoMeasurementKind::NotANumber, reason));
        }
        Ok(())
    }

    /// The pod's name, and what was scraped: a pod may have several ports, each scraped at its own times.
    fn identity(&self, labels: &Labels) -> (String, String) {
        let get = |label: &str| labels.get(label).map_or("", String::as_str);
        let pod = match &self.pod_label {
            Some(label) => get(label),
            None => POD_LABELS
                .iter()
                .map(|label| get(label))
                .find(|pod| !pod.is_empty())
                .unwrap_or(""),
        };
        (pod.to_owned(), format!("{pod}|{}|{}", get("instance"), get("job")))
    }

    pub(super) fn take_notes(&mut self) -> Vec<NoMeasurement> {
        std::mem::take(&mut self.notes)
    }

    /// Sides of which any sample is in the window, old or new.
    pub(super) fn sides_seen(&self) -> &BTreeSet<Side> {
        &self.sides
    }

    pub(super) fn into_scrapes(self) -> Vec<PodScrape> {
        let Self {
            groups,
            evaluated,
            evaluated_at,
            starts,
            ..
        } = self;
        let evaluated = evaluated
            .into_iter()
            .filter_map(|(target, group)| Some(((evaluated_at?, target), group)));
        groups
            .into_iter()
            .chain(evaluated)
            .map(|((at, target), Group { pod, parts })| {
                let sides = parts.iter().map(|(_, side, ..)| *side).collect();
                let readings = parts
                    .into_iter()
                    .flat_map(|(part, side, reset, points)| readings(part, side, reset, &points));
                let started = starts.get(&target).copied();
                let scrape = Scrape {
                    readings: readings.collect(),
                    target,
                    at,
                    started,
                };
                PodScrape { pod, sides, scrape }
            })
            .collect()
    }
}

fn readings(part: Part, side: Side, reset: ResetRule, points: &[Point]) -> Vec<Reading<(Side, Role)>> {
    let reading = |series, role, value| Reading {
        series,
        meaning: (side, role),
        value,
        reset,
    };
    let counters = |role: Role, tag: &str| {
        let one = |point: &Point| {
            let id = series_id(&point.name, &point.labels, None);
            reading(format!("{side}/{tag}/{id}"), role.clone(), Value::Count(point.value))
        };
        points.iter().map(one).collect()
    };
    match part {
        Part::Known => track(points)
            .into_iter()
            .map(|one| reading(one.series, Role::Known(one.family, one.meaning), one.value))
            .collect(),
        Part::Total(metric) => counters(Role::Total(metric.clone()), &format!("{metric}/total")),
        Part::Bad(metric) => counters(Role::Bad(metric.clone()), &format!("{metric}/bad")),
        Part::Buckets(metric) => {
            let mut histograms: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for point in points {
                let Ok(le) = point.label("le").parse() else { continue };
                let id = series_id(&point.name, &point.labels, Some("le"));
                histograms
                    .entry(format!("{side}/{metric}/{id}"))
                    .or_default()
                    .push((le, point.value));
            }
            let mut bounds = Bounds::default();
            let one = |(series, pairs)| Some(reading(series, Role::Buckets(metric.clone()), bounds.histogram(pairs)?));
            histograms.into_iter().filter_map(one).collect()
        }
        // Gauges are values and go another way.
        Part::Gauge(_) => Vec::new(),
    }
}

/// Name and labels of a result. `into_iter` sorts what the crate keeps in a hash map.
fn split_name(metric: impl IntoIterator<Item = (String, String)>) -> (String, Labels) {
    let mut labels: Labels = metric.into_iter().collect();
    (labels.remove("__name__").unwrap_or_default(), labels)
}

fn timestamp(secs: f64) -> Result<Timestamp, NoMeasurement> {
    Timestamp::from_millisecond((secs * 1e3).round() as i64).map_err(|_| {
        NoMeasurement::new(
            NoMeasurementKind::Garbled,
            format!("a sample's time ({secs}) is not a date"),
        )
    })
}

/// Keeps the memory of seen samples to targets that are still there.
pub(super) fn forget_old(last: &mut BTreeMap<String, Timestamp>) {
    if let Some(newest) = last.values().copied().max() {
        last.retain(|_, at| newest.duration_since(*at) < FORGET_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_name_gets_the_matchers_and_an_expression_says_where_they_belong() {
        let matchers = r#"pod=~"a-.*""#;
        let cases = [
            ("http_errors_total", Some(r#"http_errors_total{pod=~"a-.*"}"#)),
            (
                "sum by (pod) (x{${side},code=\"500\"})",
                Some(r#"sum by (pod) (x{pod=~"a-.*",code="500"})"#),
            ),
            ("sum(x)", None),
        ];
        for (query, expanded) in cases {
            assert_eq!(expand(query, matchers).as_deref(), expanded, "{query}");
        }
    }

    #[test]
    fn only_plain_selectors_are_fetched_as_ranges() {
        for selector in ["up", r#"up{a="}"}"#, r#"{__name__="x",b='\'}'}"#, "up{a=`\\`} "] {
            assert!(is_selector(selector), "{selector}");
        }
        for expression in [
            "sum(up{})",
            "up{}[5m]",
            "up{} offset 5m",
            "up{a=\"b\"} + up{}",
            "up{a=\"b}",
            "rate(up[1m])",
        ] {
            assert!(!is_selector(expression), "{expression}");
        }
    }
}
