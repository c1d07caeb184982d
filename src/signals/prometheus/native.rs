//! Native histograms, read as classic ones.
//!
//! Prometheus answers a native histogram as a list of the buckets that are populated, at whatever resolution the process
//! chose. Two pods, or two moments of one, then have different bounds, and the bounds that all have in common are few. So
//! each is read at the bounds of one fixed grid, four to the doubling from 61 µs to 128 s (schema 2 of the format): exact
//! for schemas from 2 on, whose bounds contain the grid's; for coarser ones a bucket counts from its upper bound on, the
//! same for both sides. What comes out is what the pod would have shown as a classic histogram with 85 buckets, and
//! everything after this (resets, families, the judge) is the same code.
//!
//! Where a pod shows a histogram both ways, the classic one is taken: it is what other pods of it may show alone.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Bounds to a doubling.
const PER_DOUBLING: i32 = 4;
/// The lowest and the highest bound, as powers of two.
const POWERS: std::ops::RangeInclusive<i32> = -14..=7;

/// The grid's bounds, ascending.
fn grid() -> impl Iterator<Item = f64> {
    (POWERS.start() * PER_DOUBLING..=POWERS.end() * PER_DOUBLING)
        .map(|step| (f64::from(step) / f64::from(PER_DOUBLING)).exp2())
}

/// Whether an answer may hold native histograms at all; all others are not looked at twice.
pub(super) fn may_hold(body: &[u8]) -> bool {
    body.windows(11)
        .any(|window| window == b"\"histogram\"" || window == b"\"histograms")
}

/// Replaces every native histogram of an answer of the query API by classic series.
pub(super) fn as_classic(answer: &mut Value) {
    let Some(result) = answer.pointer_mut("/data/result").and_then(Value::as_array_mut) else {
        return;
    };
    let classic: BTreeSet<String> = result
        .iter()
        .filter_map(|series| series.get("metric"))
        .filter(|metric| metric.get("le").is_some())
        .map(|metric| identity(metric, ""))
        .collect();
    let series = std::mem::take(result);
    for one in series {
        let native = one.get("histograms").is_some() || one.get("histogram").is_some();
        let metric = one.get("metric").cloned().unwrap_or_default();
        if !native {
            result.push(one);
        } else if !classic.contains(&identity(&metric, "_bucket")) {
            result.extend(split(&one, &metric));
        }
    }
}

/// What tells a histogram from others: its name and labels without `le`.
fn identity(metric: &Value, suffix: &str) -> String {
    let mut labels: Map<String, Value> = metric.as_object().cloned().unwrap_or_default();
    labels.remove("le");
    let name = labels.remove("__name__").unwrap_or_default();
    let mut labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
    labels.sort();
    format!("{}{suffix}{labels:?}", name.as_str().unwrap_or_default())
}

/// The classic series of one native one: its buckets and its count.
fn split(series: &Value, metric: &Value) -> Vec<Value> {
    let samples: Vec<(Value, Sample)> = match (series.get("histograms"), series.get("histogram")) {
        (Some(Value::Array(samples)), _) => samples.iter().filter_map(sample).collect(),
        (_, Some(one)) => sample(one).into_iter().collect(),
        _ => Vec::new(),
    };
    let is_range = series.get("histograms").is_some();
    let labelled = |suffix: &str, le: Option<String>| {
        let mut metric = metric.clone();
        let name = metric["__name__"].as_str().unwrap_or_default();
        // A function takes the name away; the labels say enough then.
        if !name.is_empty() {
            metric["__name__"] = json!(format!("{name}{suffix}"));
        }
        if let Some(le) = le {
            metric["le"] = json!(le);
        }
        metric
    };
    let told = |metric: Value, value: &dyn Fn(&Sample) -> f64| {
        let pair = |(at, sample): &(Value, Sample)| json!([at, value(sample).to_string()]);
        let mut series = json!({ "metric": metric });
        if is_range {
            series["values"] = samples.iter().map(pair).collect();
        } else if let Some(only) = samples.first() {
            series["value"] = pair(only);
        }
        series
    };
    if samples.is_empty() {
        return Vec::new();
    }
    let mut classic: Vec<Value> = grid()
        .map(|bound| {
            told(labelled("_bucket", Some(bound.to_string())), &|sample| {
                sample.up_to(bound)
            })
        })
        .collect();
    classic.push(told(labelled("_bucket", Some("+Inf".to_owned())), &|sample| {
        sample.count
    }));
    if metric.get("__name__").is_some() {
        classic.push(told(labelled("_count", None), &|sample| sample.count));
    }
    classic
}

/// One native histogram at one moment.
struct Sample {
    count: f64,
    /// Upper bound and count of the populated buckets, as sent.
    buckets: Vec<(f64, f64)>,
}

impl Sample {
    /// Observations up to a bound.
    fn up_to(&self, bound: f64) -> f64 {
        // The server writes bounds in decimal; the last digit may be off.
        let fits = |upper: f64| upper <= bound * (1.0 + 1e-9);
        self.buckets
            .iter()
            .filter(|(upper, _)| fits(*upper))
            .map(|(_, count)| count)
            .sum()
    }
}

/// `[time, {"count": "…", "sum": "…", "buckets": [[rule, "lower", "upper", "count"], …]}]`
fn sample(pair: &Value) -> Option<(Value, Sample)> {
    let number = |value: &Value| value.as_str()?.parse::<f64>().ok().filter(|number| !number.is_nan());
    let histogram = pair.get(1)?;
    let buckets = histogram.get("buckets").and_then(Value::as_array);
    let buckets = buckets.into_iter().flatten().filter_map(|bucket| {
        let (upper, count) = (number(bucket.get(2)?)?, number(bucket.get(3)?)?);
        Some((upper, count))
    });
    let sample = Sample {
        count: number(histogram.get("count")?)?,
        buckets: buckets.collect(),
    };
    Some((pair.get(0)?.clone(), sample))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(at: f64, buckets: &[(f64, f64, u32)]) -> Value {
        let all: u32 = buckets.iter().map(|(.., count)| count).sum();
        let buckets: Vec<Value> = buckets
            .iter()
            .map(|(low, high, count)| json!([0, low.to_string(), high.to_string(), count.to_string()]))
            .collect();
        json!([at, { "count": all.to_string(), "sum": "1.5", "buckets": buckets }])
    }

    fn of<'a>(answer: &'a Value, name: &str, le: Option<&str>) -> Vec<&'a Value> {
        let result = answer["data"]["result"].as_array().expect("a list");
        result
            .iter()
            .filter(|one| one["metric"]["__name__"] == name && one["metric"]["le"].as_str() == le)
            .collect()
    }

    #[test]
    fn a_range_of_native_histograms_becomes_classic_buckets_and_a_count() {
        let eighth = 2f64.powf(-3.0 + 0.125);
        let mut answer = json!({ "status": "success", "data": { "resultType": "matrix", "result": [
            { "metric": { "__name__": "http_request_duration_seconds", "pod": "a" }, "histograms": [
                native(10.0, &[(0.115, 0.125, 7), (0.125, eighth, 2), (0.4, 0.5, 1)]),
                native(12.0, &[(0.115, 0.125, 9), (0.125, eighth, 2), (0.4, 0.5, 4), (200.0, 256.0, 1)]),
            ] },
            { "metric": { "__name__": "http_requests_total", "pod": "a" }, "values": [[10.0, "10"]] },
        ] } });
        as_classic(&mut answer);
        let values = |le: &str| of(&answer, "http_request_duration_seconds_bucket", Some(le))[0]["values"].clone();
        assert_eq!(values("0.125"), json!([[10.0, "7"], [12.0, "9"]]));
        // Schema 3 has bounds between the grid's: what is below the next bound of the grid counts there.
        assert_eq!(values("0.14865088937534013"), json!([[10.0, "9"], [12.0, "11"]]));
        assert_eq!(values("0.5"), json!([[10.0, "10"], [12.0, "15"]]));
        assert_eq!(values("128"), json!([[10.0, "10"], [12.0, "15"]]));
        assert_eq!(values("+Inf"), json!([[10.0, "10"], [12.0, "16"]]));
        let count = of(&answer, "http_request_duration_seconds_count", None);
        assert_eq!(count[0]["values"], json!([[10.0, "10"], [12.0, "16"]]));
        assert_eq!(
            of(&answer, "http_requests_total", None).len(),
            1,
            "what is no histogram stays"
        );
        assert_eq!(answer["data"]["result"].as_array().map(Vec::len), Some(85 + 1 + 1 + 1));
    }

    #[test]
    fn what_is_shown_as_classic_too_is_read_once() {
        let metric = json!({ "__name__": "http_request_duration_seconds", "pod": "a" });
        let mut answer = json!({ "data": { "result": [
            { "metric": metric, "histogram": native(10.0, &[(0.4, 0.5, 1)]) },
            { "metric": { "__name__": "http_request_duration_seconds_bucket", "pod": "a", "le": "0.5" },
                "value": [10.0, "1"] },
        ] } });
        as_classic(&mut answer);
        assert_eq!(answer["data"]["result"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn a_single_moment_keeps_its_shape_and_nonsense_is_left_out() {
        let mut answer = json!({ "data": { "result": [
            { "metric": { "pod": "a" }, "histogram": native(10.0, &[(0.4, 0.5, 3)]) },
            { "metric": { "pod": "b" }, "histogram": [10.0, { "count": "many" }] },
        ] } });
        as_classic(&mut answer);
        let result = answer["data"]["result"].as_array().expect("a list");
        assert!(
            result
                .iter()
                .all(|one| one["metric"]["pod"] == "a" && one["value"][0] == 10.0)
        );
        assert!(may_hold(br#"{"histograms":[]}"#) && !may_hold(br#"{"values":[]}"#));
    }
}
