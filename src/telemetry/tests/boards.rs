//! The boards and the alert rules against the list of metrics, and against a real Prometheus that has read a page of
//! ours: every query has to give data, not only no error. Skipped where no Prometheus is installed.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use axum::routing::get;
use serde_json::Value;

use super::*;
use crate::apiserver::Meter;
use crate::signals::http::http_client;
use crate::signals::prometheus::real::{BINARY, Server};

const FLEET: &str = include_str!("../../../dashboards/wade-fleet.json");
const RELEASE: &str = include_str!("../../../dashboards/wade-release.json");
const ALERTS: &str = include_str!("../../../dashboards/alerts.yaml");
const DOCS: &str = include_str!("../../../docs/telemetry.md");

fn board(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn rules() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(ALERTS).expect("YAML");
    let groups = rules["groups"].as_array().expect("groups").clone();
    groups
        .iter()
        .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
        .collect()
}

/// Every text of a board under one of these names, wherever it is.
fn texts(value: &Value, names: &[&str], found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| texts(item, names, found)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if names.contains(&name.as_str()) => found.push(text.clone()),
                    value => texts(value, names, found),
                }
            }
        }
        _ => {}
    }
}

/// What is asked of Prometheus, as Grafana would ask it for one release.
fn queries() -> Vec<String> {
    let mut found = Vec::new();
    for text in [FLEET, RELEASE] {
        let mut own = Vec::new();
        texts(&board(text), &["expr"], &mut own);
        assert!(own.len() > 15, "the board has lost its queries: {own:?}");
        let mut variables = Vec::new();
        texts(&board(text), &["definition"], &mut variables);
        let series = variables.iter().map(|definition| {
            let inner = definition.strip_prefix("label_values(").expect("a query for labels");
            inner.rsplit_once(", ").expect("and the label's name").0.to_owned()
        });
        own.extend(series);
        found.extend(own);
    }
    found.extend(
        rules()
            .iter()
            .map(|rule| rule["expr"].as_str().expect("an expression").to_owned()),
    );
    let filled = |query: String| {
        let query = query.replace("$namespace", "shop").replace("$rollout", "checkout");
        query.replace("$__rate_interval", "30s").replace("$__range", "1h")
    };
    found.into_iter().map(filled).collect()
}

/// The names of Wade's metrics in a query.
fn metrics(query: &str) -> Vec<&str> {
    let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    query
        .split(|letter| !word(letter))
        .filter(|name| name.starts_with("wade_"))
        .collect()
}

/// The list's name of a metric as a query calls it.
fn family(name: &str) -> Option<&'static str> {
    let of = |metric: &&list::Metric| {
        let histogram = matches!(metric.kind, list::Kind::Histogram(_));
        let part = |end| name.strip_suffix(end) == Some(metric.name);
        if histogram {
            ["_bucket", "_sum", "_count"].into_iter().any(part)
        } else {
            metric.name == name
        }
    };
    list::METRICS.iter().find(of).map(|metric| metric.name)
}

#[test]
fn boards_and_rules_ask_for_what_is_in_the_list_and_for_all_of_it() {
    let queries = queries();
    let mut asked = BTreeSet::new();
    for query in &queries {
        let names = metrics(query);
        assert!(!names.is_empty(), "{query} asks for nothing of Wade's");
        for name in names {
            asked.insert(family(name).unwrap_or_else(|| panic!("{name} of {query} is in no list")));
        }
    }
    let all: BTreeSet<&str> = list::METRICS.iter().map(|metric| metric.name).collect();
    let unseen: Vec<&&str> = all.difference(&asked).collect();
    assert!(unseen.is_empty(), "nobody looks at {unseen:?}");
}

#[test]
fn boards_name_their_panels_once_and_take_the_data_source_from_a_variable() {
    for text in [FLEET, RELEASE] {
        let board = board(text);
        assert_eq!(board["schemaVersion"], 42);
        let panels = board["panels"].as_array().expect("panels");
        let ids: BTreeSet<i64> = panels.iter().filter_map(|panel| panel["id"].as_i64()).collect();
        assert_eq!(ids.len(), panels.len());
        for panel in panels {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
            for target in panel["targets"].as_array().expect("targets") {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{panel}");
            }
        }
        let variables = board["templating"]["list"].as_array().expect("variables");
        assert!(
            variables
                .iter()
                .any(|one| one["type"] == "datasource" && one["name"] == "datasource")
        );
    }
}

#[test]
fn every_alert_is_explained() {
    for rule in rules() {
        let name = rule["alert"].as_str().expect("a name");
        assert!(
            DOCS.contains(&format!("`{name}`")),
            "docs/telemetry.md does not explain {name}"
        );
    }
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards");
    for words in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]] {
        let Ok(run) = Command::new("promtool").args(words).current_dir(&folder).output() else {
            println!("skipped: promtool is not installed");
            return;
        };
        let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{words:?}: {said}");
    }
}

/// Serves the page of metrics; where.
async fn serve(telemetry: &Arc<Telemetry>) -> String {
    let telemetry = Arc::clone(telemetry);
    let page = move || async move { ([(http::header::CONTENT_TYPE, CONTENT_TYPE)], telemetry.render()) };
    let app = axum::Router::new().route("/metrics", get(page));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Everything that a process counts besides releases, once.
fn tick(telemetry: &Telemetry) {
    telemetry.looked(Duration::from_millis(3));
    telemetry.answered(200, Some(Duration::from_millis(2)));
    telemetry.asked("patch", "ok", Some(Duration::from_millis(5)));
    telemetry.asked("watch", "unreachable", None);
    telemetry.watches(4, 1);
    let numbers = telemetry.registry();
    numbers.set(list::API_STREAMS, &[], 2.0);
    numbers.count(list::RECORD_WRITES, &["unavailable"]);
    numbers.observe(list::RECORD_SECONDS, &[], 0.01);
}

/// Whether a query gives data, a number that is one.
async fn answers(client: &reqwest::Client, port: u16, query: &str) -> Result<bool, String> {
    let url = format!("http://127.0.0.1:{port}/api/v1/query");
    let Ok(answer) = client.get(&url).query(&[("query", query)]).send().await else {
        return Ok(false);
    };
    let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
    if answer["status"] != "success" && answer["errorType"] != "unavailable" {
        return Err(answer.to_string());
    }
    let results = answer
        .pointer("/data/result")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    Ok(results
        .iter()
        .any(|result| result["value"][1].as_str().is_some_and(|value| value != "NaN")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_gives_data_in_a_real_prometheus() {
    if !Path::new(BINARY).exists() {
        println!("skipped: {BINARY} is not installed");
        return;
    }
    let (one, two) = (quiet(), quiet());
    let targets = [serve(&one).await, serve(&two).await].map(|address| format!("'{address}'"));
    let dir = tempfile::tempdir().expect("a folder");
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: wade\n  static_configs:\n  - {{targets: [{}]}}\n",
        targets.join(", ")
    );
    std::fs::write(dir.path().join("prometheus.yml"), config).expect("written");
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|free| free.local_addr())
        .expect("a port")
        .port();
    let _server = Server::start(dir.path(), port);
    let client = http_client().expect("a client");

    // Four releases: one that nothing can be measured of, one that is stuck, and two that will end.
    let now = crate::clock::Clock::now(&crate::clock::SystemClock);
    let mut stories = ["checkout", "cart", "login", "search"].map(|name| Story::of(name, 7, now));
    let following: Vec<_> = stories.iter().map(|story| story.follow(&one, None)).collect();
    let [checkout, cart, login, search] = &mut stories;
    checkout.reach_users();
    checkout.look(Some(verdict(Call::Undecided, 1.0)));
    checkout.go(
        Event::SignalsLost {
            kind: NoData::SourceDown,
        },
        "the source is down",
    );
    cart.reach_users();
    let (command, outcome, reason) = (Some(1), Outcome::Aborted, "enough".to_owned());
    cart.go(
        Event::Retreated {
            command,
            outcome,
            reason,
        },
        "enough",
    );
    cart.go(
        Event::GotStuck {
            traffic_on: TrafficOn::Canary,
        },
        "the router does not answer",
    );
    login.reach_users();
    search.reach_users();
    for telemetry in [&one, &two] {
        telemetry.leads(true);
        tick(telemetry);
    }

    let mut open: Vec<String> = queries();
    let watch = crate::clock::stopwatch();
    let mut scraped = false;
    while !open.is_empty() {
        assert!(watch.elapsed() < Duration::from_secs(90), "no data for {open:#?}");
        checkout.look(Some(verdict(Call::Undecided, 1.0)));
        for number in 0..40 {
            checkout.trouble(&format!("the API server does not answer ({number})"));
        }
        tick(&one);
        let mut left = Vec::new();
        for query in open {
            match answers(&client, port, &query).await {
                Ok(true) => {}
                Ok(false) => left.push(query),
                Err(error) => panic!("{query}: {error}"),
            }
        }
        open = left;
        let has = answers(&client, port, "wade_release_number{rollout=\"login\"}").await == Ok(true);
        if has && !scraped {
            // What was there before the first scrape has not increased.
            scraped = true;
            login.roll_back();
            search.promote();
        } else if scraped && watch.elapsed() > Duration::from_secs(10) {
            one.leads(false);
            two.leads(false);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(
        answers(&client, port, "wade_nothing_of_the_kind").await,
        Ok(false),
        "the check can fail"
    );
    drop(stories);
    for one in following {
        one.await.expect("no panic");
    }
}
