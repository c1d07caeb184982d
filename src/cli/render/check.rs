//! What a release would meet, as a person reads it: a word in the margin, then sentences.

use super::numbers::clean;
use crate::cluster::check::{Check, Standing, Writer};

/// The width of the margin.
const MARGIN: usize = 13;

/// The whole check.
pub fn check(seen: &Check) -> String {
    let mut out = Page::default();
    let to = match &seen.canary {
        Some(canary) => format!("{} → {}", seen.stable, canary),
        None => format!("{}, any new version", seen.stable),
    };
    out.head(&format!(
        "{}   {}   {to}   {} pods",
        seen.deployment, seen.namespace, seen.replicas
    ));
    let services: Vec<String> = seen
        .services
        .iter()
        .map(|service| format!("{}{}", service.name, if service.headless { " (headless)" } else { "" }))
        .collect();
    out.say("services", &one_line(&services, "none selects the pods"));
    let routes: Vec<String> = seen
        .routes
        .iter()
        .map(|route| {
            let declared = if route.declared { ", canary declared in it" } else { "" };
            format!("{} {} → {}{declared}", route.kind, route.name, route.service)
        })
        .collect();
    out.say("routes", &one_line(&routes, "none: the share of pods is the split"));
    for line in &seen.not_canaried {
        out.say("not canaried", line);
    }
    out.say("isolation", &seen.isolation.why);
    for writer in &seen.writers {
        out.say("written by", &sentence(writer));
    }
    for line in seen.room.iter() {
        out.say("room", line);
    }
    for line in &seen.around {
        out.say("around", line);
    }
    out.say("metrics", &metrics(seen));
    out.say("history", &seen.metrics.history);
    out.say("judge", &seen.outlook);
    for (index, line) in seen.plan.lines().enumerate() {
        out.say(if index == 0 { "plan" } else { "" }, line);
    }
    for warning in &seen.warnings {
        out.say("note", warning);
    }
    for right in &seen.lacking.needed {
        out.say("missing", &format!("permission: {right}"));
    }
    for refusal in &seen.refusals {
        out.say("REFUSED", refusal);
    }
    out.say(
        "",
        match seen.standing() {
            Standing::Ready => "a release may begin (exit 0)",
            Standing::Refused => "a release would be refused (exit 5)",
            Standing::NotPermitted => "permissions are missing; `wade rbac` prints the Role that gives them (exit 7)",
        },
    );
    out.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, text: &str) {
        self.0.push_str(&clean(text));
        self.0.push('\n');
    }

    /// A word once for the lines that belong to it.
    fn say(&mut self, word: &str, text: &str) {
        for (index, line) in text.lines().enumerate() {
            let word = if index == 0 { word } else { "" };
            self.0.push_str(format!("{word:<MARGIN$}{}", clean(line)).trim_end());
            self.0.push('\n');
        }
    }
}

fn one_line(parts: &[String], none: &str) -> String {
    if parts.is_empty() {
        none.to_owned()
    } else {
        parts.join(", ")
    }
}

fn sentence(writer: &Writer) -> String {
    let fights = if writer.puts_back {
        ", which puts it back by itself"
    } else {
        ""
    };
    format!(
        "{}: {} is written by {}{fights}; {}",
        writer.object, writer.field, writer.tool, writer.advice
    )
}

fn metrics(seen: &Check) -> String {
    let metrics = &seen.metrics;
    let mut parts = Vec::new();
    parts.extend(metrics.place.clone());
    if !metrics.names.is_empty() {
        parts.push(metrics.names.join(", "));
    }
    parts.extend(metrics.requests_per_second.map(|rate| format!("{rate:.1} requests/s")));
    parts.extend(metrics.why_not.clone());
    one_line(&parts, "none")
}
