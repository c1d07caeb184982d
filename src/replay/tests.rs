//! Recordings made here, judged whole: what people read, and that a file loses nothing.

use jiff::tz::TimeZone;

use super::file::{read, write};
use super::*;
use crate::cli::render::replay::{answer, page};
use crate::spec::OnUndecided;

/// A minute's kind of traffic: requests a second of canary and stable, and the share of each that fails.
#[derive(Clone, Copy)]
struct Minute {
    canary: (f64, f64),
    stable: (f64, f64),
}

const HEALTHY: Minute = Minute {
    canary: (50.0, 0.001),
    stable: (950.0, 0.001),
};
const WORSE: Minute = Minute {
    canary: (50.0, 0.05),
    ..HEALTHY
};

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_795_341_600 + secs).unwrap()
}

/// Looks every 5 s; the canary has no requests in the first minute.
fn recording(minutes: &[Minute]) -> Recording {
    let counts = |(rps, failing): (f64, f64)| {
        Some(Increment::Counts {
            total: rps * 5.0,
            bad: rps * 5.0 * failing,
        })
    };
    let mut looks = Vec::new();
    for (minute, traffic) in minutes.iter().enumerate() {
        for look in 0..12 {
            let mut seen = Observation::default();
            let canary = if minute == 0 { (0.0, 0.0) } else { traffic.canary };
            let sides = Sides {
                canary: counts(canary),
                stable: counts(traffic.stable),
            };
            seen.metrics.insert("errors".to_owned(), sides);
            looks.push(Look {
                t_s: (minute * 60 + look * 5 + 5) as f64,
                stage: None,
                seen,
            });
        }
    }
    let history = History {
        block_s: 300.0,
        pods: vec![vec![(30_000.0, 30.0); 6]; 4],
    };
    let source = "http_requests_total{version=\"1.4.2\"} against {version=\"1.4.1\"}, Prometheus at http://prom:9090";
    Recording {
        from: Some(at(0)),
        history: Some(history),
        sources: [("errors".to_owned(), source.to_owned())].into(),
        looks,
        notes: Vec::new(),
    }
}

/// The usual plan with errors alone, which is what these recordings have.
fn plan() -> Plan {
    let mut plan = usual_plan();
    plan.judge.metrics.retain(|metric| metric.name == "errors");
    plan
}

fn shown(recording: &Recording, plan: &Plan) -> String {
    let replayed = replay(plan, recording, false);
    let page = page(&replayed, recording, plan, &TimeZone::UTC, false);
    let wide: Vec<&str> = page.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "wider than a terminal: {wide:#?}");
    page
}

#[test]
fn a_release_that_would_have_been_rolled_back() {
    insta::assert_snapshot!(shown(&recording(&[HEALTHY, HEALTHY, WORSE, WORSE]), &plan()));
}

#[test]
fn a_release_that_would_have_gone_to_everybody() {
    let recording = recording(&[HEALTHY; 30]);
    let replayed = replay(&plan(), &recording, false);
    let proven = End::Everybody {
        proven: true,
        failed_later_s: None,
    };
    assert_eq!(replayed.end, proven);
    insta::assert_snapshot!(shown(&recording, &plan()));
}

#[test]
fn a_recording_that_ends_too_early_says_what_could_have_been_seen() {
    let few = Minute {
        canary: (1.0, 0.0),
        stable: (19.0, 0.002),
    };
    insta::assert_snapshot!(shown(&recording(&[few; 3]), &plan()));
}

#[test]
fn stages_that_are_too_short_are_told_when_the_evidence_comes_later() {
    let mut plan = plan();
    plan.judge.pass_early = false;
    for stage in &mut plan.stages {
        stage.max = stage.max.min(crate::spec::Span::secs(60));
        stage.min = stage.min.min(stage.max);
    }
    let mut minutes = vec![HEALTHY; 8];
    minutes.extend([WORSE; 4]);
    let recording = recording(&minutes);
    let replayed = replay(&plan, &recording, false);
    let End::Everybody {
        proven: false,
        failed_later_s: Some(later),
    } = replayed.end
    else {
        panic!("{:?}", replayed.end);
    };
    assert!(later > replayed.ended_s);
    let said = answer(&replayed, &recording, &TimeZone::UTC);
    assert!(said.contains("would have been wrong"), "{said}");
    plan.on_undecided = OnUndecided::Return;
    assert_eq!(replay(&plan, &recording, false).end, End::Returned);
}

#[test]
fn a_canary_without_requests_is_no_release() {
    let silent = Minute {
        canary: (0.0, 0.0),
        ..HEALTHY
    };
    let replayed = replay(&plan(), &recording(&[silent; 3]), false);
    assert_eq!((replayed.end, replayed.canary_since_s), (End::NoCanary, None));
}

#[test]
fn what_was_recorded_is_judged_as_what_was_read() {
    let mut recording = recording(&[HEALTHY, HEALTHY, WORSE, WORSE]);
    for (index, look) in recording.looks.iter_mut().enumerate() {
        let sides = |canary, stable| Sides { canary, stable };
        let buckets = |n: f64| {
            Some(Increment::Histogram {
                le: [0.1, 0.5].into(),
                counts: vec![n, 3.0, 0.5],
            })
        };
        let own = |total| Some(Increment::Counts { total, bad: 1.0 });
        look.seen
            .metrics
            .insert("latency".to_owned(), sides(buckets(9.0), buckets(181.25)));
        look.seen.metrics.insert("jobs".to_owned(), sides(own(7.0), None));
        let value = (index % 2 == 0).then_some(Increment::Value(0.1 + index as f64));
        look.seen
            .metrics
            .insert("queue".to_owned(), sides(value.clone(), value));
    }
    let plan = usual_plan();
    let mut text = Vec::new();
    write(&recording, &plan, &mut text).unwrap();
    let contents = read(text.as_slice()).unwrap();
    // What a side did not show in a look is not in its line; an empty metric says as much.
    for look in &mut recording.looks {
        look.seen
            .metrics
            .retain(|_, sides| sides.canary.is_some() || sides.stable.is_some());
    }
    assert_eq!(contents.recording, recording);
    assert_eq!((contents.plan.as_deref(), contents.has_stages), (Some(&plan), false));
    assert_eq!(
        replay(&plan, &contents.recording, false),
        replay(&plan, &recording, false)
    );
    // And the judge on a pipe understands it too.
    let mut answers = Vec::new();
    crate::judge::stdio::serve(text.as_slice(), &mut answers).unwrap();
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.lines().count(), recording.looks.len(), "{answers}");
    assert!(
        answers.lines().last().unwrap().contains("\"fail\"") && !answers.contains("error\":"),
        "{answers}"
    );
}

#[test]
fn a_benchs_recording_keeps_its_own_stages_and_settings() {
    let mut lines =
        "{\"type\":\"start\",\"run\":\"7\",\"config\":{\"alpha\":0.05,\"metrics\":[{\"kind\":\"errors\"}]},\
                     \"history\":null}\n"
            .to_owned();
    for look in 1..=20 {
        lines += &format!(
            "{{\"type\":\"look\",\"run\":\"7\",\"t\":{},\"step\":{},\"step_start\":{},\"next_weight\":0.5,\
             \"canary\":{{\"requests\":{},\"errors\":{}}},\"stable\":{{\"requests\":{},\"errors\":{}}}}}\n",
            look * 5,
            look / 10,
            look / 10 * 50,
            look * 50,
            look * 3,
            look * 950,
            look * 9
        );
    }
    lines += "{\"type\":\"end\",\"run\":\"7\"}\n{\"type\":\"weather\"}\n";
    let contents = read(lines.as_bytes()).unwrap();
    assert!(contents.has_stages && contents.plan.is_none());
    let mut plan = usual_plan();
    plan.judge = contents.config.clone().unwrap();
    assert_eq!((plan.judge.alpha, plan.judge.metrics.len()), (0.05, 1));
    let replayed = replay(&plan, &contents.recording, true);
    assert_eq!(replayed.end, End::RolledBack);
    let mut answers = Vec::new();
    crate::judge::stdio::serve(lines.as_bytes(), &mut answers).unwrap();
    let answers = String::from_utf8(answers).unwrap();
    let first = answers.lines().position(|line| line.contains("\"fail\"")).unwrap();
    assert_eq!(
        replayed.ended_s,
        (first as f64 + 1.0) * 5.0,
        "as the judge on a pipe: {answers}"
    );
}

#[test]
fn every_fault_of_a_file_is_named_with_its_line() {
    let lines = "{\"type\":\"look\",\"run\":\"a\",\"t\":1}\nnot json\n{\"type\":\"start\",\"run\":\"a\"}\n\
                 {\"type\":\"look\",\"run\":\"b\",\"t\":1}\n{\"type\":\"look\",\"run\":\"a\",\"t\":5}\n\
                 {\"type\":\"look\",\"run\":\"a\",\"t\":3}\n{\"type\":\"look\",\"run\":\"a\"}\n";
    let faults = read(lines.as_bytes()).unwrap_err();
    let starts = ["line 1: ", "line 2: ", "line 4: ", "line 6: ", "line 7: "];
    assert_eq!(faults.len(), starts.len(), "{faults:#?}");
    for (fault, start) in faults.iter().zip(starts) {
        assert!(fault.starts_with(start), "{fault}");
    }
    assert!(read("".as_bytes()).unwrap_err()[0].contains("no look"));
    let garbage = "x\n".repeat(1000);
    assert!(read(garbage.as_bytes()).unwrap_err().len() <= 21);
}
