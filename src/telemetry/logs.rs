//! The log as JSON: one object per line, with the names of [`FIELDS`](super::list::FIELDS) and no others at its top.
//!
//! Collectors (Elasticsearch, Loki, SLS) make an index of what they find, so a name must mean one thing and there must
//! not be ever more of them. What a line says besides (libraries have words of their own) lies below `fields`, of
//! which nothing is promised. Every text is [redacted](crate::redact::redact).

use std::fmt;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::list::FIELDS;
use crate::clock::{Clock, SystemClock};
use crate::redact::redact;

/// Below which name everything else lies.
const REST: &str = "fields";

/// Writes events as JSON.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let about = event.metadata();
        let mut line = Map::new();
        let now = SystemClock.now();
        line.insert("timestamp".to_owned(), json!(format!("{now:.6}")));
        line.insert("level".to_owned(), json!(about.level().as_str()));
        line.insert("target".to_owned(), json!(about.target()));
        line.append(&mut said.own);
        if !said.rest.is_empty() {
            line.insert(REST.to_owned(), Value::Object(said.rest));
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// What an event says, by whether its name is promised.
#[derive(Debug, Default)]
struct Said {
    own: Map<String, Value>,
    rest: Map<String, Value>,
}

impl Said {
    fn say(&mut self, field: &Field, value: Value) {
        // Events of the crate `log` are told with names like `log.target`.
        let name = field.name();
        let promised = |own: &str| own == name && own != REST;
        let place = if FIELDS.iter().any(|field| promised(field.name)) {
            &mut self.own
        } else {
            &mut self.rest
        };
        place.insert(name.to_owned(), value);
    }
}

impl Visit for Said {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.say(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.say(field, json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.say(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.say(field, json!(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.say(field, json!(redact(value)));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.say(field, json!(redact(&value.to_string())));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.say(field, json!(redact(&format!("{value:?}"))));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn names_that_are_promised_are_at_the_top_and_secrets_are_nowhere() {
        let page = Page::default();
        let own = page.clone();
        let log = tracing_subscriber::fmt()
            .event_format(JsonLines)
            .with_writer(move || own.clone())
            .finish();
        tracing::subscriber::with_default(log, || {
            let error = std::io::Error::other("GET https://u:hunter2@host: password=hunter2");
            tracing::warn!(rollout = "checkout", release = 3_u64, %error, lost = true, fields = 1, "no answer\nat all");
        });
        let bytes = page.0.lock().expect("no panic").clone();
        let text = String::from_utf8(bytes).expect("text");
        assert_eq!(text.lines().count(), 1, "{text}");
        let mut line: Value = serde_json::from_str(&text).expect("JSON");
        let at = line["timestamp"].take();
        at.as_str().expect("text").parse::<jiff::Timestamp>().expect("a time");
        assert_eq!(
            line,
            json!({
                "timestamp": null, "level": "WARN", "target": "wade::telemetry::logs::tests",
                "message": "no answer\nat all", "rollout": "checkout", "release": 3,
                "error": "GET https://…@host: password=…", "fields": {"lost": true, "fields": 1},
            })
        );
    }
}
