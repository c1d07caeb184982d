//! The judge on a pipe: JSON lines in, one answer per look out, so that any bench can drive it (METHOD.md, section 8).
//!
//! ```text
//! -> {"type":"start","run":"7","config":{…},"history":{"block_s":300,"pods":[[[requests,errors],…],…]}}
//! -> {"type":"look","run":"7","t":35.0,"step":1,"step_start":30.0,"next_weight":0.2,"canary":{…}|null,"stable":{…}|null}
//! <- {"run":"7","verdict":"keep"|"fail"|"pass","log_e":1.2}
//! -> {"type":"flush"}     all answers are out afterwards
//! -> {"type":"end","run":"7"}
//! ```
//!
//! The words on the wire are those of the reference (`keep` is undecided), with its defaults, which allow no absolute
//! margin. Unknown keys and unknown types are ignored; a line that cannot be understood is answered with an `error` and
//! changes nothing. Many runs may be open at once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufWriter, Read, Write};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Call;

mod wire;

pub(crate) use wire::Run;
pub use wire::config;

/// Runs that may be open at once, a few kB each.
const MAX_RUNS: usize = 100_000;
/// Bytes up to which a line is first taken for a look.
const SHORT_LINE: usize = 16 << 10;
/// Bytes of a line; the history of a thousand pods fits many times.
const MAX_LINE: u64 = 16 << 20;

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    run: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Start {
    #[serde(default)]
    config: Value,
    #[serde(default)]
    history: Value,
}

#[derive(Serialize)]
struct Answer<'a> {
    run: &'a str,
    verdict: &'static str,
    log_e: f64,
}

#[derive(Serialize)]
struct Complaint<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<&'a str>,
    error: String,
}

/// Answers lines until the reader ends. Answers are written at the latest at a `flush` and at the end.
///
/// # Errors
/// Only those of the reader and the writer; what a line says wrong is answered on the wire.
pub fn serve(mut reader: impl BufRead, writer: impl Write) -> io::Result<()> {
    let mut out = BufWriter::new(writer);
    let mut runs = BTreeMap::new();
    let mut line = Vec::new();
    let mut number = 0u64;
    while read_line(&mut reader, &mut line)? {
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        if let Some(answer) = answer_look(&line, &mut runs) {
            write_line(&mut out, &answer)?;
            continue;
        }
        let head = serde_json::from_slice::<Head<'_>>(&line);
        let outcome = match &head {
            _ if line.len() as u64 > MAX_LINE => Err(format!("it is longer than {MAX_LINE} bytes")),
            Err(error) => Err(error.to_string()),
            Ok(head) => obey(head, &line, &mut runs, &mut out)?,
        };
        if let Err(fault) = outcome {
            let error = format!(
                "line {number} was not used: {fault}; send one JSON object a line with \"type\" start, look, flush or end"
            );
            let run = head.as_ref().ok().and_then(|head| head.run.as_deref());
            write_line(&mut out, &Complaint { run, error })?;
        }
    }
    out.flush()
}

/// The short way for what nearly every line is, a look at a run that is open: read once. `None` for all others, which
/// are then read with care.
fn answer_look<'a>(line: &'a [u8], runs: &mut BTreeMap<String, Run>) -> Option<Answer<'a>> {
    // A start may be megabytes of history; it is not read twice for nothing.
    let short = line.len() <= SHORT_LINE;
    let (kind, run, look) = short.then(|| wire::named_look(line))??;
    let standing = runs.get_mut(run).filter(|_| kind == "look")?.take_in(look);
    Some(Answer {
        run,
        verdict: word(standing.call),
        log_e: standing.ln_e,
    })
}

/// Does what a line says; the inner error is what is wrong with the line.
fn obey(
    head: &Head<'_>,
    line: &[u8],
    runs: &mut BTreeMap<String, Run>,
    out: &mut impl Write,
) -> io::Result<Result<(), String>> {
    let name = || head.run.as_deref().ok_or("it names no \"run\"".to_owned());
    let outcome = match head.kind.as_ref() {
        "start" => name().and_then(|name| start(name, line, runs)),
        "look" => {
            let answer = name().and_then(|name| {
                let run = runs.get_mut(name).ok_or(format!("run \"{name}\" was not started"))?;
                let look = serde_json::from_slice(line).map_err(|error| error.to_string())?;
                let standing = run.take_in(look);
                Ok(Answer {
                    run: name,
                    verdict: word(standing.call),
                    log_e: standing.ln_e,
                })
            });
            match answer {
                Ok(answer) => {
                    write_line(out, &answer)?;
                    Ok(())
                }
                Err(fault) => Err(fault),
            }
        }
        "end" => name().map(|name| {
            runs.remove(name);
        }),
        "flush" => {
            out.flush()?;
            Ok(())
        }
        _ => Ok(()),
    };
    Ok(outcome)
}

fn start(name: &str, line: &[u8], runs: &mut BTreeMap<String, Run>) -> Result<(), String> {
    if runs.len() >= MAX_RUNS && !runs.contains_key(name) {
        return Err(format!("{MAX_RUNS} runs are open already, end some first"));
    }
    let start: Start = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let run = Run::new(&start.config, &start.history).map_err(|error| error.to_string())?;
    runs.insert(name.to_owned(), run);
    Ok(())
}

fn word(call: Call) -> &'static str {
    match call {
        Call::Pass => "pass",
        Call::Fail => "fail",
        Call::Undecided => "keep",
    }
}

fn write_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Reads a line of at most [`MAX_LINE`] bytes (and one more, to tell) and skips what is beyond; false at the end.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let read = reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', line)?;
    if line.len() as u64 > MAX_LINE && line.last() != Some(&b'\n') {
        reader.skip_until(b'\n')?;
    }
    Ok(read > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(lines: &str) -> Vec<String> {
        let mut out = Vec::new();
        serve(lines.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_run_is_answered_look_by_look_until_it_fails() {
        let mut lines =
            "{\"type\":\"start\",\"run\":\"a\",\"config\":{\"metrics\":[{\"kind\":\"errors\"}]},\"history\":null}\n"
                .to_owned();
        for look in 1..=12 {
            lines += &format!(
                "{{\"type\":\"look\",\"run\":\"a\",\"t\":{},\"step\":0,\"canary\":{{\"requests\":{},\"errors\":{}}},\
                 \"stable\":{{\"requests\":{},\"errors\":0}}}}\n",
                look * 5,
                look * 50,
                look * 50,
                look * 1000
            );
        }
        let words: Vec<_> = conversation(&lines)
            .iter()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["verdict"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(words[..2], ["keep", "keep"], "one or two blocks are not enough");
        assert_eq!(words[3..], ["fail"; 9], "three blocks are, and a fail is final");
    }

    #[test]
    fn unknown_types_and_keys_are_ignored_and_bad_lines_are_answered() {
        let answers = conversation(concat!(
            "{\"type\":\"weather\",\"t\":\"sunny\"}\n",
            "\n",
            "{\"type\":\"start\",\"run\":\"a\",\"colour\":1,\"config\":{\"colour\":2}}\n",
            "{\"type\":\"look\",\"run\":\"a\",\"t\":5,\"colour\":3,\"canary\":null,\"stable\":null}\n",
            "not json\n",
            "{\"type\":\"look\",\"run\":\"b\",\"t\":5}\n",
            "{\"type\":\"start\",\"run\":\"c\",\"config\":{\"metrics\":[{\"kind\":\"mood\"}]}}\n",
            "{\"type\":\"look\",\"t\":5}\n",
            "{\"type\":\"flush\"}\n",
            "{\"type\":\"end\",\"run\":\"a\"}\n",
            "{\"type\":\"look\",\"run\":\"a\",\"t\":10}",
        ));
        assert!(
            answers[0].starts_with("{\"run\":\"a\",\"verdict\":\"keep\""),
            "{}",
            answers[0]
        );
        let faults = [
            "line 5 ",
            "run \"b\" was not started",
            "mood",
            "names no",
            "run \"a\" was not started",
        ];
        assert_eq!(answers.len(), 1 + faults.len(), "{answers:#?}");
        for (answer, fault) in answers[1..].iter().zip(faults) {
            let error = serde_json::from_str::<Value>(answer).unwrap()["error"]
                .as_str()
                .unwrap()
                .to_owned();
            assert!(error.contains(fault), "{error} should say {fault}");
        }
    }

    #[test]
    fn increments_on_the_wire_give_the_same_answers_as_sums() {
        let talk = |counts: &str, sums: bool| {
            let mut lines = format!("{{\"type\":\"start\",\"run\":\"a\",\"config\":{{\"counts\":\"{counts}\"}}}}\n");
            for look in 1..=20 {
                let times = if sums { look } else { 1 };
                lines += &format!(
                    "{{\"type\":\"look\",\"run\":\"a\",\"t\":{},\"canary\":{{\"requests\":{},\"errors\":{}}},\
                     \"stable\":{{\"requests\":{},\"errors\":{}}}}}\n",
                    look * 5,
                    times * 50,
                    times * 3,
                    times * 950,
                    times * 9
                );
            }
            conversation(&lines)
        };
        let answers = talk("cumulative", true);
        assert_eq!(answers, talk("increments", false));
        assert!(answers.last().unwrap().contains("fail"));
    }

    #[test]
    fn a_line_without_end_is_refused_and_the_next_one_read() {
        let mut lines = vec![b'x'; MAX_LINE as usize + 10];
        lines.extend_from_slice(b"\n{\"type\":\"start\",\"run\":\"a\"}\n{\"type\":\"look\",\"run\":\"a\",\"t\":1}\n");
        let mut out = Vec::new();
        serve(lines.as_slice(), &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(
            out.starts_with("{\"error\":\"line 1 was not used: it is longer"),
            "{out}"
        );
        assert!(out.contains("}\n{\"run\":\"a\",\"verdict\":\"keep\""), "{out}");
    }
}
