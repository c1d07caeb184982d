//! A short look at the pods' own metrics, before a release: where they are, and how many requests come in.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::apiserver::value::{list, name, text};
use crate::clock::Clock;
use crate::platforms::kubernetes::MetricsPort;
use crate::platforms::kubernetes::reach::{Reach, Way};
use crate::signals::exposition::{Format, parse};
use crate::signals::families::track;
use crate::signals::http::{bounded_body, success};
use crate::signals::scrape::{ScrapeConfig, Scraper, Target};
use crate::signals::{Side, Signals};

/// How long one port may take to show its metrics.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long requests are counted.
const COUNT_FOR: Duration = Duration::from_millis(2500);
/// The largest page of metrics that is read.
const MOST_BYTES: usize = 4 << 20;

/// What the pods show.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probe {
    /// Where metrics are.
    pub metrics: Option<MetricsPort>,
    /// What the numbers would be read from, `http_requests_total`.
    pub names: Vec<String>,
    /// Requests per second of all stable pods together, where that could be counted.
    pub requests_per_second: Option<f64>,
    /// Why there are no metrics, if there are none.
    pub why_not: Option<String>,
}

/// Looks for metrics on a ready pod, then counts requests for a moment on all of them.
pub async fn probe(pods: &[Arc<Value>], reach: &Reach, client: &reqwest::Client, clock: &Arc<dyn Clock>) -> Probe {
    let Some(pod) = pods.first() else {
        return Probe {
            why_not: Some("no ready pod to ask".to_owned()),
            ..Probe::default()
        };
    };
    let candidates = candidates(pod);
    if candidates.is_empty() {
        return Probe {
            why_not: Some("the pods name no port".to_owned()),
            ..Probe::default()
        };
    }
    let (mut why_not, mut unknown) = (String::new(), None);
    for candidate in candidates {
        let Some(way) = reach.way(name(pod), text(pod, "/status/podIP"), candidate.port) else {
            continue;
        };
        match shows_requests(&way, &candidate.path, client).await {
            Ok(true) => return count(pods, candidate, reach, client, clock).await,
            // A service that has had no request yet often shows no family of requests.
            Ok(false) => unknown = unknown.or(Some(candidate)),
            Err(why) => why_not = format!("port {}{}: {why}", candidate.port, candidate.path),
        }
    }
    if let Some(metrics) = unknown {
        return Probe {
            metrics: Some(metrics),
            why_not: Some(
                "no family of requests that Wade knows (yet); name your own under analysis.metrics".to_owned(),
            ),
            ..Probe::default()
        };
    }
    Probe {
        why_not: Some(why_not),
        ..Probe::default()
    }
}

/// Whether a page of metrics has a known family of requests.
async fn shows_requests(way: &Way, path: &str, client: &reqwest::Client) -> Result<bool, String> {
    let url = format!("http://{}{}{path}", way.address, way.prefix);
    let asked = async {
        let response = client.get(url).send().await.map_err(|error| error.to_string())?;
        let response = success(response, "the metrics").map_err(|error| error.to_string())?;
        bounded_body(response, MOST_BYTES, "the metrics")
            .await
            .map_err(|error| error.to_string())
    };
    let body = tokio::time::timeout(ANSWER_WITHIN, asked)
        .await
        .map_err(|_| "no answer in time".to_owned())??;
    let shown = parse(&body, Format::Classic).map_err(|error| error.to_string())?;
    if shown.points.is_empty() {
        return Err("nothing is shown".to_owned());
    }
    Ok(!track(&shown.points).is_empty())
}

async fn count(
    pods: &[Arc<Value>],
    metrics: MetricsPort,
    reach: &Reach,
    client: &reqwest::Client,
    clock: &Arc<dyn Clock>,
) -> Probe {
    let scraper = Scraper::start(client.clone(), ScrapeConfig::default(), Arc::clone(clock));
    let targets = pods.iter().filter_map(|pod| {
        let way = reach.way(name(pod), text(pod, "/status/podIP"), metrics.port)?;
        Some(Target {
            pod: name(pod).to_owned(),
            side: Side::Stable,
            url: format!("http://{}{}{}", way.address, way.prefix, metrics.path),
            started: None,
        })
    });
    scraper.set_targets(targets.collect());
    tokio::time::sleep(COUNT_FOR).await;
    let mut scraper = scraper;
    let sample = scraper.take(clock.now());
    // At most so many pods are read; the rest is taken to be like them.
    let read = pods.len().clamp(1, crate::signals::scrape::MAX_PODS) as f64;
    let rate = sample.rates.stable.map(|rate| rate * pods.len() as f64 / read);
    Probe {
        metrics: Some(metrics),
        names: sample.found,
        requests_per_second: rate,
        why_not: None,
    }
}

/// Where metrics may be, most likely first: what the usual annotations say, ports by name, then every port.
fn candidates(pod: &Value) -> Vec<MetricsPort> {
    let annotation = |key: &str| crate::apiserver::value::annotation(pod, key);
    let path = annotation("prometheus.io/path").unwrap_or("/metrics").to_owned();
    let mut found: Vec<MetricsPort> = Vec::new();
    let mut add = |port: u16| {
        if !found.iter().any(|known| known.port == port) {
            found.push(MetricsPort {
                port,
                path: path.clone(),
            });
        }
    };
    if let Some(port) = annotation("prometheus.io/port").and_then(|port| port.parse().ok()) {
        add(port);
    }
    let ports: Vec<(&str, u16)> = list(pod, "/spec/containers")
        .iter()
        .flat_map(|container| list(container, "/ports"))
        .filter(|port| matches!(text(port, "/protocol"), "" | "TCP"))
        .filter_map(|port| {
            let number = crate::apiserver::value::number(port, "/containerPort")?;
            Some((text(port, "/name"), u16::try_from(number).ok()?))
        })
        .collect();
    for (_, port) in ports
        .iter()
        .filter(|(name, _)| name.contains("metrics") || name.contains("prom"))
    {
        add(*port);
    }
    ports.iter().for_each(|(_, port)| add(*port));
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotations_come_first_then_names_then_every_port() {
        let pod = json!({
            "metadata": { "annotations": { "prometheus.io/port": "9100" } },
            "spec": { "containers": [
                { "ports": [{ "containerPort": 8080, "name": "http" }, { "containerPort": 53, "protocol": "UDP" }] },
                { "ports": [{ "containerPort": 9090, "name": "http-metrics" }] },
            ] },
        });
        let ports: Vec<u16> = candidates(&pod).iter().map(|candidate| candidate.port).collect();
        assert_eq!(ports, [9100, 9090, 8080]);
    }
}
