//! The numbers: families from [`list::METRICS`](super::list::METRICS), their series, and the page that is read of them.
//!
//! Only what is in the list can be counted, only with as many labels as it has, and where the list says which words a
//! label may say, only these. So a page is bounded whatever happens: a word that is not in the list becomes `other`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::list::{Bound, Kind, METRICS, Metric};

/// The content type of [`Numbers::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What stands for everything that has no series of its own.
pub const OTHER: &str = "other";

/// The labels' values, in the order of the list.
type Labels = Vec<String>;

/// One series.
#[derive(Clone, Debug, PartialEq)]
enum Series {
    Value(f64),
    Histogram { counts: Vec<u64>, sum: f64 },
}

/// Which form of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    OpenMetrics,
    Text,
}

/// All numbers of a process.
#[derive(Debug, Default)]
pub struct Numbers(Mutex<BTreeMap<&'static str, BTreeMap<Labels, Series>>>);

impl Numbers {
    /// Adds to a counter or gauge.
    pub fn add(&self, metric: Metric, labels: &[&str], by: f64) {
        self.change(metric, labels, |series| {
            if let Series::Value(value) = series {
                *value += by;
            }
        });
    }

    /// Makes a series that is not there yet begin at 0, or without values: what first appears with 1 has not increased.
    pub fn begin(&self, metric: Metric, labels: &[&str]) {
        self.change(metric, labels, |_| {});
    }

    /// Counts one.
    pub fn count(&self, metric: Metric, labels: &[&str]) {
        self.add(metric, labels, 1.0);
    }

    /// Sets a gauge.
    pub fn set(&self, metric: Metric, labels: &[&str], to: f64) {
        self.change(metric, labels, |series| *series = Series::Value(to));
    }

    /// Adds a value to a histogram.
    pub fn observe(&self, metric: Metric, labels: &[&str], seen: f64) {
        let Kind::Histogram(bounds) = metric.kind else { return };
        self.change(metric, labels, |series| {
            if let Series::Histogram { counts, sum } = series {
                let at = bounds.iter().position(|bound| seen <= *bound).unwrap_or(bounds.len());
                counts[at] += 1;
                *sum += seen;
            }
        });
    }

    /// Removes the series of a gauge whose first labels are these.
    pub fn remove(&self, metric: Metric, first: &[&str]) {
        if let Some(family) = self.lock().get_mut(metric.name) {
            family.retain(|labels, _| !labels.iter().zip(first).all(|(own, gone)| own == gone));
        }
    }

    /// The value of a counter or gauge; of a histogram how many values it has.
    pub fn get(&self, metric: Metric, labels: &[&str]) -> Option<f64> {
        match self.lock().get(metric.name)?.get(&bounded(metric, labels))? {
            Series::Value(value) => Some(*value),
            Series::Histogram { counts, .. } => Some(counts.iter().sum::<u64>() as f64),
        }
    }

    /// The page as OpenMetrics text, see [`CONTENT_TYPE`].
    pub fn render(&self) -> String {
        let mut page = self.page(Form::OpenMetrics);
        page.push_str("# EOF\n");
        page
    }

    /// The page as Prometheus text 0.0.4, which can be joined with others.
    pub fn render_text(&self) -> String {
        self.page(Form::Text)
    }

    fn page(&self, form: Form) -> String {
        let families = self.lock();
        let mut page = String::with_capacity(16 * 1024);
        for metric in METRICS {
            let name = match form {
                Form::OpenMetrics => metric.name.trim_end_matches("_total"),
                Form::Text => metric.name,
            };
            put(
                &mut page,
                format_args!("# HELP {name} {}\n# TYPE {name} {}\n", metric.help, metric.kind.word()),
            );
            for (labels, series) in families.get(metric.name).into_iter().flatten() {
                lines(&mut page, metric, labels, series);
            }
        }
        page
    }

    fn change(&self, metric: Metric, labels: &[&str], change: impl FnOnce(&mut Series)) {
        let mut families = self.lock();
        let family = families.entry(metric.name).or_default();
        let series = family
            .entry(bounded(metric, labels))
            .or_insert_with(|| match metric.kind {
                Kind::Counter | Kind::Gauge => Series::Value(0.0),
                Kind::Histogram(bounds) => Series::Histogram {
                    counts: vec![0; bounds.len() + 1],
                    sum: 0.0,
                },
            });
        change(series);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, BTreeMap<Labels, Series>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many labels as the list says, each with a word that the list allows.
fn bounded(metric: Metric, labels: &[&str]) -> Labels {
    debug_assert_eq!(metric.labels.len(), labels.len(), "the labels of {}", metric.name);
    let words = labels.iter().map(Some).chain(std::iter::repeat(None));
    let bounded = metric
        .labels
        .iter()
        .zip(words)
        .map(|(label, word)| match (label.bound, word) {
            (Bound::Words(known), Some(word)) if known.contains(word) => *word,
            (Bound::Rollouts | Bound::Version, Some(word)) => *word,
            _ => OTHER,
        });
    bounded.map(str::to_owned).collect()
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("writing to a string cannot fail");
}

fn lines(page: &mut String, metric: &Metric, labels: &[String], series: &Series) {
    let name = metric.name;
    let pairs: Vec<String> = metric
        .labels
        .iter()
        .zip(labels)
        .map(|(label, value)| format!("{}=\"{}\"", label.name, escaped(value)))
        .collect();
    let braces = |more: &str| {
        let all: Vec<&str> = pairs
            .iter()
            .map(String::as_str)
            .chain((!more.is_empty()).then_some(more))
            .collect();
        if all.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", all.join(","))
        }
    };
    match (series, metric.kind) {
        (Series::Histogram { counts, sum }, Kind::Histogram(bounds)) => {
            let mut total = 0;
            let words = bounds
                .iter()
                .map(|bound| format!("{bound:?}"))
                .chain(["+Inf".to_owned()]);
            for (count, bound) in counts.iter().zip(words) {
                total += count;
                put(
                    page,
                    format_args!("{name}_bucket{} {total}\n", braces(&format!("le=\"{bound}\""))),
                );
            }
            let own = braces("");
            put(page, format_args!("{name}_sum{own} {sum}\n{name}_count{own} {total}\n"));
        }
        (Series::Value(value), _) => put(page, format_args!("{name}{} {value}\n", braces(""))),
        // A series is made by its metric's kind.
        (Series::Histogram { .. }, _) => {}
    }
}

/// Label values escape backslash, quote and newline.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::super::list;
    use super::*;

    #[test]
    fn a_page_has_every_family_once_and_counts_what_it_was_told() {
        let numbers = Numbers::default();
        numbers.count(list::ENDED, &["shop", "a\"b", "Promoted"]);
        numbers.add(list::ENDED, &["shop", "a\"b", "Promoted"], 2.0);
        numbers.set(list::LEADER, &[], 1.0);
        numbers.observe(list::RESTORED_SECONDS, &[], 0.7);
        numbers.observe(list::RESTORED_SECONDS, &[], 5000.0);
        let page = numbers.render();
        for line in [
            "# TYPE wade_releases_ended counter\n",
            "wade_releases_ended_total{namespace=\"shop\",rollout=\"a\\\"b\",outcome=\"Promoted\"} 3\n",
            "wade_leader 1\n",
            "wade_release_restored_seconds_bucket{le=\"0.5\"} 0\n",
            "wade_release_restored_seconds_bucket{le=\"1.0\"} 1\n",
            "wade_release_restored_seconds_bucket{le=\"+Inf\"} 2\n",
            "wade_release_restored_seconds_sum 5000.7\nwade_release_restored_seconds_count 2\n",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
        assert_eq!(page.matches("# TYPE").count(), METRICS.len());
        let text = numbers.render_text();
        assert!(text.contains("# TYPE wade_releases_ended_total counter\n") && !text.contains("EOF"));
    }

    #[test]
    fn a_word_that_is_not_in_the_list_gets_no_series_of_its_own() {
        let numbers = Numbers::default();
        for word in ["nonsense", "more", "ask"] {
            numbers.count(list::ASKED, &[word, "ok"]);
        }
        assert_eq!(numbers.get(list::ASKED, &[OTHER, "ok"]), Some(2.0));
        assert_eq!(numbers.get(list::ASKED, &["ask", "ok"]), Some(1.0));
    }

    #[test]
    fn series_of_what_is_over_are_removed() {
        let numbers = Numbers::default();
        for (rollout, phase) in [("a", "starting"), ("a", "gated"), ("b", "gated")] {
            numbers.set(list::PHASE, &["shop", rollout, phase], 1.0);
        }
        numbers.remove(list::PHASE, &["shop", "a"]);
        assert_eq!(numbers.get(list::PHASE, &["shop", "a", "gated"]), None);
        assert_eq!(numbers.get(list::PHASE, &["shop", "b", "gated"]), Some(1.0));
    }
}
