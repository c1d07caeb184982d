//! Analysis: windows of the judge, metrics, sources.

use std::collections::BTreeSet;

use super::super::fault::{Fault, Path};
use super::super::rollout::{
    AnalysisSpec, MetricSpec, PassEarly, PrometheusSource, Rollout, Source, TraceStore, TracesSpec, Workload,
};
use super::super::values::{BurstWindow, Percent};
use super::{check_not_zero, check_url_path};

/// The share of falsely rolled back releases above which a judge is of no use.
const MAX_FALSE_ROLLBACK: f64 = 0.5;

pub(in crate::spec) fn check_analysis(path: &Path, analysis: &AnalysisSpec, faults: &mut Vec<Fault>) {
    for (field, span) in [
        ("burstWindow", analysis.burst_window.and_then(BurstWindow::span)),
        ("severeWindow", analysis.severe_window),
        ("look", analysis.look),
    ] {
        check_not_zero(&path.key(field), span, "a window of no time holds no request", faults);
    }
    if let Some(share) = analysis.false_rollback
        && (share.fraction() <= 0.0 || share.fraction() > MAX_FALSE_ROLLBACK)
    {
        let fault = Fault::new(
            path.key("falseRollback"),
            "this share of false rollbacks makes no judge",
        );
        faults.push(
            fault
                .found(format!("`{share}`"))
                .help("write more than 0% (at 0% nothing is ever rolled back) and at most 50%; the default is 1%"),
        );
    }
    if let (Some(look), Some(window)) = (analysis.look, analysis.burst_window.and_then(BurstWindow::span))
        && look > window
    {
        let fault = Fault::new(
            path.key("look"),
            "the looks are further apart than the window they fill",
        )
        .found(format!("look {look}, burstWindow {window}"));
        faults.push(fault.help("write a `look` of at most `burstWindow`"));
    }
    if let Some(history) = &analysis.history {
        let path = path.key("history");
        check_not_zero(&path.key("least"), history.least, "no history proves nothing", faults);
        check_not_zero(
            &path.key("block"),
            history.block,
            "a block of no time holds no request",
            faults,
        );
        if let (Some(least), Some(block)) = (history.least, history.block)
            && block > least
        {
            let fault = Fault::new(path.key("block"), "one block is longer than all of the history");
            faults.push(
                fault
                    .found(format!("block {block}, least {least}"))
                    .help("write a shorter `block`"),
            );
        }
    }
    if let Some(PassEarly::When(rule)) = &analysis.pass_early
        && let Some(share) = rule.errors_of_all_traffic
    {
        check_not_nothing(&path.key("passEarly").key("errorsOfAllTraffic"), share, faults);
    }
    if let Some(tripwire) = &analysis.tripwire {
        check_not_nothing(&path.key("tripwire").key("errors"), tripwire.errors, faults);
    }
    if let Some(metrics) = &analysis.metrics {
        check_metrics(&path.key("metrics"), metrics, faults);
    }
    if let Some(traces) = &analysis.traces {
        check_traces(&path.key("traces"), traces, faults);
    }
    match &analysis.source {
        Some(Source::Scrape(scrape)) => {
            let path = path.key("source").key("scrape");
            check_url_path(&path.key("path"), &scrape.path, faults);
            check_not_zero(&path.key("every"), scrape.every, "this asks without a break", faults);
        }
        Some(Source::Prometheus(prometheus)) => {
            check_prometheus(&path.key("source").key("prometheus"), prometheus, faults);
        }
        None => {}
    }
}

/// What the judge will read from must exist: asked once the strategy's and the rollout's words are laid together.
pub(in crate::spec) fn check_sources(path: &Path, rollout: &Rollout, analysis: &AnalysisSpec, faults: &mut Vec<Fault>) {
    let Workload::Process(process) = &rollout.spec.workload else {
        return;
    };
    if let Some(Source::Scrape(_)) = analysis.source
        && process.port.is_none()
    {
        let fault = Fault::new(
            path.key("source").key("scrape"),
            "the processes have no port to read from",
        );
        faults.push(fault.help("write `port: auto` in `spec.workload.process`, or use another source"));
    }
    if analysis.source.is_none() && process.metrics.is_none() {
        for (index, metric) in analysis.metrics.iter().flatten().enumerate() {
            let name = match metric {
                MetricSpec::Counters(counters) => &counters.name,
                MetricSpec::Gauge(gauge) => &gauge.name,
                MetricSpec::Errors(_) | MetricSpec::Latency(_) => continue,
            };
            let problem = format!("there is no source to read `{name}` from");
            let fault = Fault::new(path.key("metrics").index(index), problem);
            faults.push(
                fault.help("add `source: {scrape: {path: /metrics}}` or `source: {prometheus: …}` to `analysis`"),
            );
        }
    }
}

fn check_metrics(path: &Path, metrics: &[MetricSpec], faults: &mut Vec<Fault>) {
    if metrics.is_empty() {
        let fault = Fault::new(path.clone(), "nothing would be judged");
        faults.push(fault.help("list a metric, like `- errors: {}`, or remove the line for errors and latency"));
    }
    let mut names = BTreeSet::new();
    for (index, metric) in metrics.iter().enumerate() {
        let path = path.index(index);
        let (path, name) = match metric {
            MetricSpec::Errors(errors) => {
                let path = path.key("errors");
                check_limit(&path.key("max"), errors.max, faults);
                (path, "errors")
            }
            MetricSpec::Latency(latency) => {
                let path = path.key("latency");
                if let Some(quantiles) = &latency.quantiles {
                    let path = path.key("quantiles");
                    if quantiles.is_empty() {
                        let fault = Fault::new(path.clone(), "no quantile would be compared");
                        faults.push(fault.help("list some, like `[p50, p99]`, or remove the line"));
                    }
                    for (index, quantile) in quantiles.iter().enumerate() {
                        if quantiles[..index].contains(quantile) {
                            let fault = Fault::new(path.index(index), format!("{quantile:?} is written twice"));
                            faults.push(fault.help("remove one"));
                        }
                    }
                }
                (path, "latency")
            }
            MetricSpec::Counters(counters) => {
                let path = path.key("counters");
                check_limit(&path.key("max"), counters.max, faults);
                check_query(&path.key("total"), &counters.total, faults);
                check_query(&path.key("bad"), &counters.bad, faults);
                if counters.total == counters.bad {
                    let fault = Fault::new(path.key("bad"), "all events would count as bad");
                    faults.push(
                        fault
                            .found(format!("`{}` for both", counters.bad))
                            .help("name the counter of bad events"),
                    );
                }
                (path.key("name"), counters.name.as_str())
            }
            MetricSpec::Gauge(gauge) => {
                let path = path.key("gauge");
                check_query(&path.key("query"), &gauge.query, faults);
                check_not_zero(&path.key("every"), gauge.every, "this compares without a break", faults);
                (path.key("name"), gauge.name.as_str())
            }
        };
        if name.trim().is_empty() || name.chars().any(char::is_control) {
            let fault = Fault::new(path.clone(), "the metric has no usable name").found(format!("`{name}`"));
            faults.push(fault.help("write a short name; reasons and records use it"));
        }
        if !names.insert(name) {
            let fault = Fault::new(path, format!("there are two metrics called `{name}`"));
            faults.push(fault.help("keep one, or give the other another name"));
        }
    }
}

fn check_query(path: &Path, query: &str, faults: &mut Vec<Fault>) {
    if query.trim().is_empty() {
        faults.push(Fault::new(path.clone(), "nothing is asked for").help("write the name of a series, or PromQL"));
    }
}

fn check_limit(path: &Path, limit: Option<Percent>, faults: &mut Vec<Fault>) {
    if let Some(limit) = limit {
        check_not_nothing(path, limit, faults);
    }
}

fn check_not_nothing(path: &Path, share: Percent, faults: &mut Vec<Fault>) {
    if share.fraction() <= 0.0 {
        let fault = Fault::new(path.clone(), "no service keeps a limit of 0%").found(format!("`{share}`"));
        faults.push(fault.help("write the smallest share that matters, like `0.1%`, or remove the line"));
    }
}

fn check_traces(path: &Path, traces: &TracesSpec, faults: &mut Vec<Fault>) {
    if let Some(share) = traces.new_errors {
        check_not_nothing(&path.key("newErrors"), share, faults);
    }
    if traces.service.as_ref().is_some_and(|service| service.trim().is_empty()) {
        let fault = Fault::new(path.key("service"), "no service has this name").found("an empty text");
        faults.push(fault.help("write the service's `service.name`, or remove the line for the rollout's name"));
    }
    let nameless =
        |attributes: &Vec<String>| attributes.is_empty() || attributes.iter().any(|name| name.trim().is_empty());
    if traces.attributes.as_ref().is_some_and(nameless) {
        let fault = Fault::new(path.key("attributes"), "no attribute would tell the revisions apart");
        faults.push(fault.help("list resource attributes, like `[service.version]`, or remove the line"));
    }
    if let Some(store) = &traces.from {
        let kind = match store {
            TraceStore::Jaeger(_) => "jaeger",
            TraceStore::Tempo(_) => "tempo",
        };
        let path = path.key("from").key(kind);
        check_server(path.key("url"), &store.address().url, "http://127.0.0.1:16686", faults);
        check_not_zero(
            &path.key("every"),
            store.address().every,
            "this asks without a break",
            faults,
        );
    }
}

fn check_prometheus(path: &Path, prometheus: &PrometheusSource, faults: &mut Vec<Fault>) {
    check_server(path.key("url"), &prometheus.url, "http://127.0.0.1:9090", faults);
    check_not_zero(
        &path.key("every"),
        prometheus.every,
        "this asks without a break",
        faults,
    );
    for (field, matchers) in [("canary", &prometheus.canary), ("stable", &prometheus.stable)] {
        if matchers.trim().is_empty() {
            let fault = Fault::new(path.key(field), "without label matchers both sides would be one");
            faults.push(fault.help(format!("write what tells them apart, like `revision=\"${{{field}}}\"`")));
        }
    }
    if prometheus.canary == prometheus.stable && !prometheus.canary.trim().is_empty() {
        let fault = Fault::new(
            path.key("stable"),
            "both sides have the same matchers, so nothing would be compared",
        );
        faults.push(
            fault
                .found(format!("`{}`", prometheus.stable))
                .help("write what tells the two revisions apart"),
        );
    }
}

/// The address of a server that is asked over HTTP; `like` shows how one is written.
fn check_server(url: Path, address: &str, like: &str, faults: &mut Vec<Fault>) {
    let rest = address
        .strip_prefix("http://")
        .or_else(|| address.strip_prefix("https://"));
    let authority = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    match authority {
        // The address is shown in reasons, records and logs; the fault does not repeat it either.
        Some(authority) if authority.contains('@') => {
            let fault = Fault::new(
                url,
                "the address holds a user name or password, and addresses are shown to everybody",
            );
            faults.push(fault.help("put a bearer token into a file and name it in `tokenFile`"));
        }
        Some(authority) if !authority.is_empty() && address.bytes().all(|byte| byte.is_ascii_graphic()) => {
            if address.contains(['?', '#']) {
                let fault = Fault::new(url, "the address of a server has no `?` or `#`");
                faults.push(fault.help(format!("write the address alone, like `{like}`")));
            }
        }
        Some(_) | None => {
            let fault = Fault::new(url, "this is not the address of a server").found(format!("`{address}`"));
            faults.push(fault.help(format!("write it with `http://` or `https://`, like `{like}`")));
        }
    }
}
