//! The poller against a fake store, and what every store has in common.

use serde_json::{Value, json};

use super::*;
use crate::clock::ManualClock;
use crate::judge::observation::{Increment, Sides};
use crate::signals::http::http_client;
use crate::signals::prometheus::api::Secret;
use crate::signals::testing::{Answer, FakeServer, nobody};
use crate::signals::traces::attribution::{Names, Rule};
use crate::signals::{Condition, NoMeasurementKind};

const START: i64 = 1_700_000_000;

pub(in crate::signals::traces) fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(START + secs).unwrap()
}

/// All that began between two moments.
pub(in crate::signals::traces) fn all(from: Timestamp, to: Timestamp, wanted: &BTreeSet<String>) -> Window<'_> {
    Window {
        from,
        to,
        settled: from,
        is_new: &|_| true,
        wanted,
    }
}

/// A book of `shop`, whose canary is 2.0 and stable 1.0.
pub(in crate::signals::traces) fn book() -> TraceBook {
    let book = TraceBook::new(Rule::of("shop"), Arc::default());
    let names = |id: &str, version: &str| {
        Some(Names {
            id: id.to_owned(),
            version: version.to_owned(),
            ..Names::default()
        })
    };
    book.set_sides(Sides {
        canary: names("c", "2.0"),
        stable: names("s", "1.0"),
    });
    book
}

/// Requests and errors of both sides since the last call.
pub(in crate::signals::traces) fn taken(book: &TraceBook) -> Sides<(f64, f64)> {
    let of = |increment: &Option<Increment>| match increment {
        Some(Increment::Operations(operations)) => {
            operations.by_name.values().fold((0.0, 0.0), |(requests, errors), one| {
                (requests + one.requests, errors + one.errors)
            })
        }
        _ => (0.0, 0.0),
    };
    let sides = book.take();
    Sides {
        canary: of(&sides.canary),
        stable: of(&sides.stable),
    }
}

/// A span of `version`, begun so long after the start, as OTLP's JSON writes it.
fn span(n: u64, secs: i64, version: &str, fails: bool) -> Value {
    let begun = (START + secs) * 1_000_000_000;
    let mut span = json!({
        "traceId": format!("{n:032x}"), "spanId": format!("{n:016x}"), "name": "GET /pay", "kind": 2,
        "startTimeUnixNano": begun.to_string(), "endTimeUnixNano": (begun + 8_000_000).to_string(),
        "status": {},
    });
    if fails {
        span["status"] = json!({"code": 2, "message": "broken"});
    }
    let attribute = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    json!({
        "resource": {"attributes": [attribute("service.name", "shop"), attribute("service.version", version)]},
        "scopeSpans": [{"scope": {}, "spans": [span]}],
    })
}

fn answer(spans: &[Value]) -> Answer {
    FakeServer::json(json!({"result": {"resourceSpans": spans}}).to_string())
}

struct Fixture {
    server: FakeServer,
    clock: Arc<ManualClock>,
    book: TraceBook,
    poller: Poller,
}

impl Fixture {
    async fn new() -> Self {
        let server = FakeServer::start(answer(&[])).await;
        let (clock, book) = (Arc::new(ManualClock::new(at(0))), book());
        let jaeger = Jaeger::new(http_client().unwrap(), &server.url("/"), "shop", None).unwrap();
        let poller = Poller::new(Store::Jaeger(jaeger), book.clone(), Arc::default(), clock.clone());
        Self {
            server,
            clock,
            book,
            poller,
        }
    }

    async fn poll(&mut self, secs: i64, spans: &[Value]) -> Sides<(f64, f64)> {
        self.clock.set(at(secs));
        self.server.set(answer(spans));
        assert_eq!(self.poller.poll().await, Ok(None));
        taken(&self.book)
    }

    /// The window that was asked for last, in seconds after the start.
    fn window(&self) -> (i64, i64) {
        let (uri, _) = self.server.requests().pop().unwrap();
        let bound = |name: &str| {
            let query = uri
                .query()
                .unwrap()
                .split('&')
                .find_map(|pair| pair.strip_prefix(name))
                .unwrap();
            let moment: Timestamp = query.replace("%3A", ":").parse().unwrap();
            moment.as_second() - START
        };
        (bound("query.start_time_min="), bound("query.start_time_max="))
    }
}

const fn sides(canary: (f64, f64), stable: (f64, f64)) -> Sides<(f64, f64)> {
    Sides { canary, stable }
}

#[tokio::test]
async fn each_span_is_counted_once_and_late_ones_still_are() {
    let mut it = Fixture::new().await;
    it.poll(0, &[]).await;
    let (old, late) = (span(1, 1, "1.0", false), span(3, 2, "2.0", true));
    let first = it.poll(5, &[old.clone(), old.clone(), span(2, 4, "2.0", false)]).await;
    assert_eq!(first, sides((1.0, 0.0), (1.0, 0.0)), "twice in one answer is once");
    let second = it
        .poll(20, &[old.clone(), late.clone(), span(4, 18, "9.9", false)])
        .await;
    assert_eq!(second, sides((1.0, 1.0), (0.0, 0.0)), "the late one, and nobody's");
    assert_eq!(it.window(), (-25, 20), "back to before the last answer");
    // Out of the overlap: no longer known by its id, and not counted for that very reason.
    it.poll(60, &[]).await;
    assert_eq!(it.poll(61, &[old, late]).await, sides((0.0, 0.0), (0.0, 0.0)));
    assert_eq!(it.window(), (30, 61));
}

#[tokio::test]
async fn the_first_answer_teaches_what_stable_has_shown_and_counts_nothing() {
    let mut it = Fixture::new().await;
    let before = it
        .poll(0, &[span(1, -100, "1.0", true), span(2, -5, "2.0", true)])
        .await;
    assert_eq!((it.window(), before), ((-240, 0), sides((0.0, 0.0), (0.0, 0.0))));
    it.clock.set(at(5));
    it.server.set(answer(&[span(3, 3, "2.0", true)]));
    it.poller.poll().await.unwrap();
    let Some(Increment::Operations(canary)) = it.book.take().canary else {
        panic!("no canary")
    };
    let signature = &canary.by_name["GET /pay"].signatures[0];
    assert!(signature.seen_on_stable, "shown before the release: {signature:?}");
}

#[tokio::test]
async fn what_was_missed_while_the_store_was_away_is_counted_when_it_is_back() {
    let mut it = Fixture::new().await;
    it.poll(0, &[]).await;
    it.server.set(Answer::Status(503, "busy"));
    it.clock.set(at(5));
    let failure = it.poller.poll().await.unwrap_err();
    assert_eq!(failure.kind, NoMeasurementKind::Refused);
    assert_eq!(
        it.poll(100, &[span(1, 3, "2.0", false)]).await,
        sides((1.0, 0.0), (0.0, 0.0))
    );
    assert_eq!(it.window(), (-30, 100));
    it.server.set(Answer::Status(503, "busy"));
    it.clock.set(at(200));
    it.poller.poll().await.unwrap_err();
    it.poll(1000, &[]).await;
    assert_eq!(it.window(), (760, 1000), "a window has a greatest length");
}

#[tokio::test]
async fn what_is_remembered_is_bounded_and_nothing_is_counted_twice_for_it() {
    let mut it = Fixture::new().await;
    it.poll(0, &[]).await;
    let many: Vec<StoredSpan> = (0..MAX_SEEN as u64 + 10)
        .map(|n| StoredSpan {
            // The first ones are the oldest.
            start: at(1) + SignedDuration::from_nanos(n as i64),
            id: n,
            span: ServerSpan {
                at: at(2),
                resource: [("service.name", "shop"), ("service.version", "2.0")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
                operation: "GET /".to_owned(),
                seconds: 1.0,
                error: None,
                trace: TraceId((u128::from(n) + 1).to_be_bytes()),
            },
        })
        .collect();
    it.poller.count(many.clone(), at(0), at(3));
    assert_eq!(it.poller.seen.len(), MAX_SEEN);
    let first = taken(&it.book).canary.0;
    let floor = it.poller.floor.unwrap();
    it.poller.count(many, floor, at(3));
    assert_eq!((first, taken(&it.book).canary.0), (MAX_SEEN as f64 + 10.0, 0.0));
}

#[test]
fn what_has_settled_is_only_read_on_while_something_in_it_is_new() {
    let span = |secs| StoredSpan {
        start: at(secs),
        id: 1,
        span: ServerSpan {
            at: at(secs),
            resource: BTreeMap::new(),
            operation: String::new(),
            seconds: 0.0,
            error: None,
            trace: TraceId([1; 16]),
        },
    };
    let wanted = BTreeSet::new();
    let window = |is_new| Window {
        settled: at(20),
        is_new,
        ..all(at(0), at(30), &wanted)
    };
    let (new, known) = (window(&|_| true), window(&|_| false));
    assert!(known.goes_on(at(25), &[]), "not settled yet");
    assert!(!known.goes_on(at(15), &[span(16)]));
    assert!(new.goes_on(at(15), &[span(16)]));
    assert!(
        !new.goes_on(at(15), &[span(-1)]),
        "what will not be counted is nothing new"
    );
}

#[tokio::test]
async fn every_bad_answer_is_its_own_kind_of_no_measurement() {
    let client = || http_client().unwrap();
    let server = FakeServer::start(Answer::Never).await;
    let elsewhere = FakeServer::start(answer(&[])).await;
    let stores = |url: &str| {
        let mut jaeger = Jaeger::new(client(), url, "shop", None).unwrap();
        let mut tempo = Tempo::new(client(), url, "shop", None).unwrap();
        jaeger.set_timeout(Duration::from_millis(300));
        tempo.set_timeout(Duration::from_millis(300));
        [Store::Jaeger(jaeger), Store::Tempo(tempo)]
    };
    let table = [
        (Answer::Never, NoMeasurementKind::Slow, "in time"),
        (Answer::Status(401, "no"), NoMeasurementKind::Denied, "credentials"),
        (Answer::Status(403, "no"), NoMeasurementKind::Denied, "credentials"),
        (Answer::Status(404, "no"), NoMeasurementKind::Refused, "404"),
        (
            Answer::Status(500, r#"{"error":{"message":"no store"}}"#),
            NoMeasurementKind::Refused,
            "no store",
        ),
        (
            Answer::Redirect(elsewhere.url("/")),
            NoMeasurementKind::Redirected,
            "not followed",
        ),
        (FakeServer::json("<html>"), NoMeasurementKind::Garbled, "not understood"),
        (
            FakeServer::json(r#"{"result": 1, "traces": 1}"#),
            NoMeasurementKind::Garbled,
            "not understood",
        ),
    ];
    for (answer, kind, says) in table {
        server.set(answer);
        for store in stores(&server.url("/base/")) {
            let failure = store.read(all(at(0), at(5), &BTreeSet::new())).await.unwrap_err();
            assert_eq!(failure.kind, kind, "{says}: {failure}");
            let name = if matches!(store, Store::Jaeger(_)) {
                "Jaeger at http://"
            } else {
                "Tempo at http://"
            };
            assert!(
                failure.reason.contains(says) && failure.reason.contains(name),
                "{failure}"
            );
        }
    }
    assert_eq!(elsewhere.requests().len(), 0, "a redirect is not followed");
    for store in stores(&nobody().await) {
        let failure = store.read(all(at(0), at(5), &BTreeSet::new())).await.unwrap_err();
        assert_eq!(failure.kind, NoMeasurementKind::Unreachable);
    }
}

#[tokio::test]
async fn the_token_is_sent_and_never_printed() {
    let server = FakeServer::start(answer(&[])).await;
    let token = Some(Secret::new("hunter2"));
    let jaeger = Jaeger::new(http_client().unwrap(), &server.url("/"), "shop", token).unwrap();
    assert!(!format!("{jaeger:?} {jaeger}").contains("hunter2"));
    jaeger.read(all(at(0), at(5), &BTreeSet::new())).await.unwrap();
    let (_, headers) = server.requests().remove(0);
    assert_eq!(headers["authorization"], "Bearer hunter2");
    let address = |url: &str| Jaeger::new(http_client().unwrap(), url, "shop", None).map(|_| ());
    assert_eq!(
        address("http://u:p@h/"),
        Err(api::StoreAddressError::CredentialsInAddress)
    );
    assert!(matches!(
        address("h:16686"),
        Err(api::StoreAddressError::Address { .. })
    ));
}

/// The rest of a sample is the other source's.
struct Other;

impl Signals for Other {
    fn take(&mut self, _: Timestamp) -> Sample {
        Sample::empty(Condition::BothSilent)
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_a_note_and_not_a_condition() {
    let url = nobody().await;
    let jaeger = Jaeger::new(http_client().unwrap(), &url, "shop", None).unwrap();
    let clock = Arc::new(ManualClock::new(at(0)));
    let interval = Duration::from_millis(10);
    let store = StoreSource::start(Store::Jaeger(jaeger), book(), Arc::default(), interval, clock);
    let mut source = WithStore::new(Other, Some(store));
    let mut sample = source.take(at(0));
    for _ in 0..500 {
        if !sample.notes.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        sample = source.take(at(0));
    }
    assert_eq!(sample.condition, Condition::BothSilent);
    assert_eq!(sample.notes[0].kind, NoMeasurementKind::Unreachable);
    let said = &sample.sources[TRACES];
    assert!(
        said.starts_with("Jaeger at http://") && said.contains("cannot be reached"),
        "{said}"
    );
}
