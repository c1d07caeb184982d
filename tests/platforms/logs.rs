//! The log as JSON: every line parses, and has no names at its top but those of the documented list.

use serde_json::Value;
use wade::engine::Outcome;
use wade::telemetry::list::FIELDS;

use super::yard::{GOOD, Rollout, SERVICE, Yard};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_a_short_run_is_json_with_the_names_of_the_list() {
    let mut yard = Yard::new(&Rollout::default());
    yard.launch(&["--log-format", "json"]);
    let client = yard.answering().await;
    let record = yard.release(&client, "1.0.0", GOOD).await;
    assert_eq!(record.state.outcome(), Some(&Outcome::FirstDeploy));
    let refused = yard.release(&client, "1.1.0", "--crash-at-start").await;
    assert!(refused.state.outcome().is_some_and(|outcome| !outcome.is_forward()));
    // Its metrics know of both.
    let page = client_page(&yard).await;
    for (outcome, count) in [
        ("FirstDeploy", 1),
        (refused.state.outcome().expect("it is over").label(), 1),
    ] {
        let line = format!(
            "wade_releases_ended_total{{namespace=\"\",rollout=\"{SERVICE}\",outcome=\"{outcome}\"}} {count}\n"
        );
        assert!(page.contains(&line), "{line} is not in\n{page}");
    }
    yard.terminate().await;

    let text = std::fs::read_to_string(yard.path("log")).expect("a log");
    // What is said once on standard output is no log.
    let (log, said): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('{'));
    assert!(said.iter().all(|line| line.contains(" on ")), "{said:?}");
    assert!(log.len() > 10, "{text}");
    let mut releases = 0;
    for line in log {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let fields = line.as_object().expect("an object");
        for name in fields.keys() {
            assert!(
                FIELDS.iter().any(|field| field.name == name),
                "{name} is not in the list: {line}"
            );
        }
        for name in ["timestamp", "level", "target", "message"] {
            assert!(fields.get(name).is_some_and(Value::is_string), "{name}: {line}");
        }
        let at = fields["timestamp"].as_str().expect("a text");
        assert!(at.parse::<jiff::Timestamp>().is_ok(), "{at}");
        if fields.contains_key("phase") {
            assert_eq!(line["rollout"], SERVICE, "{line}");
            assert!(line["release"].is_u64() && line["reason"].is_string(), "{line}");
            releases += 1;
        }
    }
    assert!(releases > 10, "{text}");
}

/// The page of metrics, from the socket.
async fn client_page(yard: &Yard) -> String {
    let client = reqwest::Client::builder()
        .unix_socket(yard.socket())
        .no_proxy()
        .build()
        .expect("a client");
    let answer = client.get("http://localhost/metrics").send().await.expect("an answer");
    answer.text().await.expect("a page")
}
