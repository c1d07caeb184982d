//! What is counted of spans, what is remembered, and that both are bounded.

use super::*;
use crate::signals::traces::span::SpanError;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + secs).unwrap()
}

fn names(id: &str, version: &str) -> Option<Names> {
    Some(Names {
        id: id.to_owned(),
        version: version.to_owned(),
        replica_set: None,
    })
}

fn book() -> TraceBook {
    let book = TraceBook::new(Rule::of("shop"), Arc::default());
    book.set_sides(Sides {
        canary: names("shop-2", "2.0"),
        stable: names("shop-1", "1.0"),
    });
    book
}

fn span(version: &str, operation: &str, error: Option<(&str, &str)>, trace: u128) -> ServerSpan {
    let resource = [("service.name", "shop"), ("service.version", version)];
    ServerSpan {
        at: at(0),
        resource: resource.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        operation: operation.to_owned(),
        seconds: 0.02,
        error: error.map(|(kind, message)| SpanError {
            kind: kind.to_owned(),
            message: message.to_owned(),
        }),
        trace: TraceId(trace.to_be_bytes()),
    }
}

fn operations(increment: Option<Increment>) -> Operations {
    match increment {
        Some(Increment::Operations(operations)) => operations,
        other => panic!("not operations: {other:?}"),
    }
}

#[test]
fn spans_are_counted_per_revision_and_operation_and_handed_out_once() {
    let book = book();
    let refused = Some(("PaymentError", "upstream 10.0.0.7:443 refused"));
    for trace in 1..=5 {
        book.offer(&span("2.0", "POST /pay/17", refused, trace), at(0));
    }
    book.offer(&span("1.0", "POST /pay/18", None, 9), at(0));
    assert_eq!(
        book.offer(&span("0.9", "POST /pay/18", None, 9), at(0)),
        Belongs::Neither
    );
    let taken = book.take();
    let pay = operations(taken.canary).by_name["POST /pay/?"].clone();
    assert_eq!((pay.requests, pay.errors, pay.latency[8]), (5.0, 5.0, 5.0));
    let expected = SignatureCounts {
        kind: "PaymentError".to_owned(),
        message: "upstream ? refused".to_owned(),
        count: 5.0,
        seen_on_stable: false,
        examples: (1..=3).map(|trace| format!("{trace:032x}")).collect(),
    };
    assert_eq!(pay.signatures, [expected]);
    assert_eq!(operations(taken.stable).by_name["POST /pay/?"].requests, 1.0);
    assert_eq!(book.take(), Sides::default());
}

#[test]
fn an_error_that_stable_has_shown_before_the_release_is_not_new_and_a_promoted_canary_keeps_its_own() {
    let book = TraceBook::new(Rule::of("shop"), Arc::default());
    let known = |book: &TraceBook| {
        let taken = operations(book.take().canary);
        taken.by_name["GET /"]
            .signatures
            .iter()
            .map(|s| s.seen_on_stable)
            .collect::<Vec<_>>()
    };
    let old = Some(("Timeout", "no answer within 30 s"));
    let new = Some(("NullPointer", "cart is null"));
    book.set_sides(Sides {
        canary: None,
        stable: names("shop-1", "1.0"),
    });
    book.offer(&span("1.0", "GET /", old, 1), at(0));
    book.take();
    book.set_sides(Sides {
        canary: names("shop-2", "2.0"),
        stable: names("shop-1", "1.0"),
    });
    book.offer(&span("2.0", "GET /", new, 1), at(0));
    book.offer(&span("2.0", "GET /", old, 1), at(0));
    assert_eq!(known(&book), [false, true]);

    book.set_sides(Sides {
        canary: names("shop-3", "3.0"),
        stable: names("shop-2", "2.0"),
    });
    book.offer(&span("3.0", "GET /", new, 1), at(0));
    assert_eq!(known(&book), [true], "the promoted canary's errors are stable's");

    book.set_sides(Sides {
        canary: names("shop-4", "4.0"),
        stable: names("shop-2", "2.0"),
    });
    let taken_back = Some(("OnlyInThree", ""));
    book.offer(&span("4.0", "GET /", taken_back, 1), at(0));
    assert_eq!(
        known(&book),
        [false],
        "a canary that was taken back leaves nothing behind"
    );
}

#[test]
fn a_million_names_cost_a_bounded_amount_and_the_other_revision_keeps_its_room() {
    let book = book();
    let long = "x".repeat(200);
    for i in 0..1_000_000u32 {
        // Letters, so that nothing is normalised away.
        let word: String = (0..8).map(|d| char::from(b'g' + (i >> (3 * d) & 7) as u8)).collect();
        let rest = if i % 100 == 0 { long.as_str() } else { "" };
        let error = (format!("Err{word}"), format!("{word} {rest}"));
        let name = format!("GET /{word}");
        book.offer(&span("2.0", &name, Some((&error.0, &error.1)), u128::from(i)), at(0));
        if i == 500_000 {
            book.offer(&span("1.0", "GET /honest", Some(("Timeout", "honest")), 1), at(0));
        }
    }
    let Footprint { entries, bytes } = book.footprint();
    assert!(
        entries <= 2 * (MAX_OPERATIONS + MAX_SIGNATURES) + 10 + MAX_OPERATIONS,
        "{entries} entries"
    );
    assert!(bytes < 512 * 1024, "{bytes} bytes");
    assert!(book.telemetry.get(Count::Operation) >= 999_000);
    assert!(book.telemetry.get(Count::Signature) >= 999_000);
    let taken = book.take();
    let (canary, stable) = (operations(taken.canary), operations(taken.stable));
    assert_eq!(canary.by_name.len(), MAX_OPERATIONS + 1);
    let all: f64 = canary.by_name.values().map(|counts| counts.requests).sum();
    assert_eq!(all, 1_000_000.0, "nothing is lost: the rest is under (other)");
    assert_eq!(stable.by_name["GET /honest"].requests, 1.0);
    assert_eq!(stable.by_name["GET /honest"].signatures[0].kind, "Timeout");
}

#[test]
fn senseless_and_late_spans_are_counted_and_not_used() {
    let book = book();
    let odd = ServerSpan {
        seconds: f64::NAN,
        ..span("2.0", "GET /", None, 1)
    };
    book.offer(&odd, at(0));
    book.offer(&span("2.0", "GET /", None, 1), at(301));
    assert_eq!(book.take(), Sides::default());
    assert_eq!(
        (book.telemetry.get(Count::Senseless), book.telemetry.get(Count::Late)),
        (1, 1)
    );
}

#[test]
fn room_comes_back_from_operations_that_nobody_asks_for_any_more() {
    let book = book();
    let word = |i: usize| format!("GET /{}", "ab".repeat(i + 1));
    for i in 0..MAX_OPERATIONS {
        book.offer(&span("1.0", &word(i % 60), None, 1), at(0));
        book.offer(&span("1.0", &format!("P{} /", "z".repeat(i)), None, 1), at(0));
    }
    assert!(book.telemetry.get(Count::Operation) > 0);
    let late = |operation: &str| ServerSpan {
        at: at(4_000),
        ..span("1.0", operation, None, 1)
    };
    book.take();
    book.offer(&late("GET /new"), at(4_000));
    assert_eq!(
        operations(book.take().stable).by_name.keys().collect::<Vec<_>>(),
        ["GET /new"]
    );
}
