//! Services as they are now, and lists of releases.

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use super::numbers::{clean, count, length, moment};
use super::table::table;
use crate::daemon::api::{ReleaseSummary, RevisionView, RolloutView, Started};

/// Every service, one line each.
pub fn services(views: &[RolloutView]) -> String {
    if views.is_empty() {
        return "no rollouts; put one file per service into the rollouts folder of `wade serve`\n".to_owned();
    }
    let rows: Vec<Vec<String>> = views.iter().map(service_row).collect();
    table(
        &["ROLLOUT", "LISTEN", "SERVES", "READY", "RELEASE", "CANARY", "WHAT"],
        &rows,
    )
}

fn service_row(view: &RolloutView) -> Vec<String> {
    let none = || "–".to_owned();
    let release = view.release.as_ref();
    vec![
        view.name.clone(),
        view.listen.clone().unwrap_or_else(none),
        view.stable.as_ref().map_or_else(none, |stable| stable.version.clone()),
        view.stable
            .as_ref()
            .map_or_else(none, |stable| format!("{}/{}", stable.ready, stable.wanted)),
        release.map_or_else(none, |release| format!("{} {}", release.key.number, word(release))),
        view.canary
            .as_ref()
            .map_or_else(none, |canary| format!("{} at {}", canary.version, view.split)),
        release.map_or_else(
            || "nothing has been released yet".to_owned(),
            |release| release.summary.clone(),
        ),
    ]
}

/// One service with its revisions and instances.
pub fn service(view: &RolloutView, zone: &TimeZone) -> String {
    let mut out = String::new();
    let listen = view
        .listen
        .as_ref()
        .map(|listen| format!(" on {listen}"))
        .unwrap_or_default();
    let _ = writeln!(out, "{}{listen}", view.name);
    match &view.stable {
        Some(stable) => revision(&mut out, "stable", stable),
        None => out.push_str("  no revision serves yet\n"),
    }
    if let Some(canary) = &view.canary {
        revision(&mut out, "canary", canary);
        let _ = writeln!(out, "  split   canary {}", view.split);
    }
    if let Some(release) = &view.release {
        let _ = writeln!(
            out,
            "  release {} of {}: {}",
            release.key.number,
            clean(&release.version),
            word(release)
        );
        let _ = writeln!(out, "          {}", clean(&release.summary).replace('\n', " "));
        let since = release.ended.unwrap_or(release.created);
        let (verb, at) = (
            if release.ended.is_some() { "ended" } else { "asked for" },
            moment(since, zone),
        );
        let _ = writeln!(out, "          {verb} {at}, by {}", clean(&release.by));
    }
    for (id, reason) in &view.quarantined {
        let _ = writeln!(out, "  quarantined {id}: {}", clean(reason).replace('\n', " "));
    }
    out
}

fn revision(out: &mut String, side: &str, view: &RevisionView) {
    let _ = writeln!(
        out,
        "  {side:<7} {} ({})   {} of {} ready   {} requests, {} failed",
        clean(&view.version),
        view.id,
        view.ready,
        view.wanted,
        count(view.requests as f64),
        count(view.errors as f64)
    );
    for instance in &view.instances {
        let known =
            |name: &str, value: Option<String>| value.map(|value| format!("  {name} {value}")).unwrap_or_default();
        let restarts = (instance.restarts > 0).then(|| instance.restarts.to_string());
        let _ = writeln!(
            out,
            "          {} {}{}{}{}{}",
            instance.slot,
            instance.state,
            known("pid", instance.pid.map(|pid| pid.to_string())),
            known("port", instance.port.map(|port| port.to_string())),
            known("restarts", restarts),
            known(
                "·",
                instance
                    .diagnosis
                    .as_deref()
                    .map(|words| clean(words).replace('\n', " "))
            ),
        );
    }
}

/// What changed of a service, for `status -w` over all of them.
pub fn change(view: &RolloutView) -> String {
    let row = service_row(view);
    format!(
        "{}   serves {}   release {}   canary {}   {}",
        row[0],
        row[2],
        row[4],
        row[5],
        clean(&row[6]).replace('\n', " ")
    )
}

/// Releases, newest first.
pub fn history(releases: &[ReleaseSummary], zone: &TimeZone) -> String {
    if releases.is_empty() {
        return "nothing has been released yet\n".to_owned();
    }
    let row = |release: &ReleaseSummary| {
        let took = release.ended.map(|ended| length(ended.duration_since(release.created)));
        vec![
            release.key.number.to_string(),
            release.version.clone(),
            release.from.clone().unwrap_or_else(|| "–".to_owned()),
            word(release),
            moment(release.created, zone),
            took.unwrap_or_else(|| "running".to_owned()),
            release.by.clone(),
            release.summary.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = releases.iter().map(row).collect();
    table(
        &[
            "RELEASE",
            "VERSION",
            "FROM",
            "OUTCOME",
            "ASKED FOR",
            "TOOK",
            "BY",
            "WHY",
        ],
        &rows,
    )
}

/// How a release ended, or where it is.
pub fn word(release: &ReleaseSummary) -> String {
    let stuck = if release.stuck { ", stuck" } else { "" };
    match (&release.outcome, release.proven) {
        (Some(outcome), Some(true)) => format!("{outcome}, proven"),
        (Some(outcome), Some(false)) => format!("{outcome}, unproven"),
        (Some(outcome), None) => outcome.clone(),
        (None, _) => format!("{}{stuck}", release.phase),
    }
}

/// The head of a release: what goes where, what was found, the plan, and how to go back. Without a release (the
/// revision serves already) only what was found. `place` is what a command needs besides the name, ` -n shop`.
pub fn head(name: &str, place: &str, started: &Started) -> String {
    let way = match &started.stable {
        Some(stable) if started.release.is_some() => format!("{stable} → {}", started.canary),
        _ => started.canary.clone(),
    };
    let release = started
        .release
        .as_ref()
        .map(|key| format!("   release {}", key.number))
        .unwrap_or_default();
    let mut out = format!("{name} {}{place}{release}\n", clean(&way));
    let mut say = |label: &str, text: &str| {
        for (index, line) in clean(text.trim_end()).lines().enumerate() {
            let _ = writeln!(out, "{:<9}{line}", if index == 0 { label } else { "" });
        }
    };
    say("found", &started.found.join("\n"));
    if started.release.is_some() {
        say("plan", &started.plan);
        say("go back", &format!("wade abort {name}{place}"));
    }
    out
}
