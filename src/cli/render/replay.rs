//! What the settings would have done with a past period, as a person reads it.

use std::fmt::Write as _;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::chart::{chart, since_start};
use super::evidence::whole;
use super::line::{Line, Tone};
use super::numbers::{clean, counted, figure, length, moment, percent, times, wrapped};
use crate::judge::Verdict;
use crate::plan::{Plan, StageKind};
use crate::replay::{End, Recording, Replayed};

/// The whole page. `colour` puts the tones' escape sequences in.
pub fn page(replayed: &Replayed, recording: &Recording, plan: &Plan, zone: &TimeZone, colour: bool) -> String {
    let mut out = String::new();
    let mut say = |label: &str, text: String| {
        let _ = writeln!(out, "{label:<9} {}", wrapped(&clean(&text), 10, ""));
    };
    let last_s = recording.looks.last().map_or(0.0, |look| look.t_s);
    let begin = recording
        .from
        .map(|from| format!("{} for {}", moment(from, zone), length(seconds(last_s))))
        .unwrap_or_else(|| length(seconds(last_s)));
    say("replay", format!("{begin}, {}", counted(replayed.looks as u64, "look")));
    for (metric, source) in &recording.sources {
        say("read", format!("{metric}: {source}"));
    }
    let weights: Vec<String> = plan
        .stages
        .iter()
        .filter(|stage| matches!(stage.kind, StageKind::Judge | StageKind::Pause))
        .map(|stage| stage.split.to_string())
        .collect();
    say(
        "settings",
        format!(
            "{}, stages {}; at most {} false rollbacks",
            plan.strategy,
            weights.join(", "),
            percent(plan.judge.alpha)
        ),
    );
    if let (Some(share), Some(since)) = (replayed.canary_share, replayed.canary_since_s) {
        say(
            "traffic",
            format!(
                "the canary had {} of the requests, from {} on; a replay cannot give it more or less",
                percent(share),
                since_start(since)
            ),
        );
    }
    say("history", history(recording));
    for note in &recording.notes {
        say("note", note.clone());
    }
    out.push('\n');
    for moment in &replayed.moments {
        let line = Line::new(seconds(moment.t_s), tone(moment.what), moment.what, &moment.reason).fitted();
        let _ = writeln!(out, "{}", if colour { line.styled() } else { line.to_string() });
    }
    if let Some(verdict) = &replayed.verdict {
        let _ = write!(out, "\nlast verdict   {}", whole(verdict));
        let chart = chart(&replayed.course, verdict.needed, since_start);
        if !chart.is_empty() {
            let _ = write!(out, "\n{chart}");
        }
    }
    let _ = writeln!(out, "\n{}", wrapped(&clean(&answer(replayed, recording, zone)), 0, ""));
    out
}

fn history(recording: &Recording) -> String {
    match &recording.history {
        None => "none of stable, so no stage could pass early".to_owned(),
        Some(history) => {
            let blocks = history.pods.iter().map(Vec::len).min().unwrap_or(0);
            let bursts = match history.phi0() {
                None => "which cannot be compared".to_owned(),
                Some(phi0) if phi0 < 1.05 => "without bursts".to_owned(),
                Some(phi0) => format!("with bursts, so errors count {} times less", figure(phi0)),
            };
            format!(
                "of stable: {} in {}, {bursts}",
                counted(history.pods.len() as u64, "pod"),
                counted(blocks as u64, "block")
            )
        }
    }
}

/// What the settings would have done, and when, in a sentence or two.
pub fn answer(replayed: &Replayed, recording: &Recording, zone: &TimeZone) -> String {
    let at = |t_s: f64| {
        let moment = recording.from.and_then(|from| from.checked_add(seconds(t_s)).ok());
        match moment {
            Some(at) => format!("at {} ({})", clock_of(at, zone), since_start(t_s)),
            None => format!("at {}", since_start(t_s)),
        }
    };
    let after = |t_s: f64| {
        let since = replayed.canary_since_s.unwrap_or(0.0);
        format!("{} after the canary's first requests", length(seconds(t_s - since)))
    };
    let end = replayed.ended_s;
    match &replayed.end {
        End::RolledBack => format!("These settings would have rolled back {}, {}.", at(end), after(end)),
        End::Returned => format!(
            "These settings would have gone back {}, {}, because a stage was not proven in its time.",
            at(end),
            after(end)
        ),
        End::Everybody { proven, failed_later_s } => {
            let how = if *proven { "every stage passed" } else { "unproven" };
            let mut text = format!(
                "These settings would have gone to everybody {}, {}: {how}.",
                at(end),
                after(end)
            );
            if let Some(later) = failed_later_s {
                text.push_str(&format!(
                    " That would have been wrong: the evidence came {}. Longer stages would have seen it.",
                    at(*later)
                ));
            } else if !proven && let Some(sight) = sight(replayed.verdict.as_deref()) {
                text.push_str(&format!(" By then {sight}."));
            }
            text
        }
        End::Unfinished => {
            let sight = sight(replayed.verdict.as_deref())
                .map(|sight| format!(": {sight}"))
                .unwrap_or_default();
            format!("Undecided to the end of the recording{sight}.")
        }
        End::NoCanary => "The canary has no requests in this period, so there is nothing to judge.".to_owned(),
    }
}

/// What could have been seen by the end, told by the first metric that can.
fn sight(verdict: Option<&Verdict>) -> Option<String> {
    let metrics = &verdict?.metrics;
    let ratio = metrics
        .iter()
        .find_map(|metric| Some((&metric.name, metric.smallest_ratio?)));
    Some(match ratio {
        Some((name, ratio)) => format!("a rise of {name} to {} or more would have been seen", times(ratio)),
        None => "no rise could have been seen, there was too little to go by".to_owned(),
    })
}

fn tone(what: &str) -> Tone {
    match what {
        "FAIL" | "later" => Tone::Bad,
        "suspect" | "unproven" | "gate" => Tone::Warn,
        "pass" | "everyone" => Tone::Good,
        _ => Tone::Plain,
    }
}

fn clock_of(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string()
}

fn seconds(t_s: f64) -> SignedDuration {
    SignedDuration::try_from_secs_f64(t_s.max(0.0)).unwrap_or(SignedDuration::MAX)
}
