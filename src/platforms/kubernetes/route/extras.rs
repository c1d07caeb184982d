//! What a rule cannot say by weights: requests that go to the canary by header or cookie, and copies of requests.

use serde_json::{Value, json};

use super::rules::{Pair, Side, backends, counterpart, items, renamed, set, take_filters_out};
use crate::apiserver::value::{list, number, text};
use crate::spec::{NamedMatch, TrafficMatch, Weight};

/// The rule that goes before `rule`: what it matches, and the header too, to the canary alone.
pub(super) fn match_rule(rule: &Value, pair: Pair<'_>, wanted: &TrafficMatch) -> Result<Value, String> {
    let header = header_of(wanted);
    let name_of = |header: &Value| text(header, "/name").to_ascii_lowercase();
    let mut ours = rule.clone();
    if let Value::Object(fields) = &mut ours {
        // A rule's name is its own, within the route.
        fields.shift_remove("name");
    }
    let plain = list(rule, "/matches");
    let plain = if plain.is_empty() {
        vec![json!({})]
    } else {
        plain.to_vec()
    };
    let mut matches = Vec::new();
    for mut one in plain {
        if list(&one, "/headers")
            .iter()
            .any(|other| name_of(other) == name_of(&header))
        {
            return Err(format!(
                "it matches on the header {} already, and a route cannot match on a header twice; choose another \
                 header or cookie for the strategy's match",
                text(&header, "/name")
            ));
        }
        let mut headers = list(&one, "/headers").to_vec();
        headers.push(header.clone());
        set(&mut one, "headers", Value::Array(headers));
        matches.push(one);
    }
    set(&mut ours, "matches", Value::Array(matches));
    let canaries = backends(rule).iter().filter(|one| pair.side(one) == Side::Canary);
    let canaries = canaries.map(|one| renamed(one, pair.canary, 1)).collect();
    set(&mut ours, "backendRefs", Value::Array(canaries));
    Ok(ours)
}

/// What the rule at a place matches, if it is one of [`match_rule`]'s.
pub(super) fn match_of(now: &Value, at: usize, original: &Value, pair: Pair<'_>) -> Option<TrafficMatch> {
    let rule = items(now).get(at)?;
    if !pair.only_canary(rule) || items(original).contains(rule) {
        return None;
    }
    let mut plain = Vec::new();
    let mut header: Option<Value> = None;
    for one in list(rule, "/matches") {
        let mut headers = list(one, "/headers").to_vec();
        let last = headers.pop()?;
        if header.get_or_insert_with(|| last.clone()) != &last {
            return None;
        }
        let mut one = one.clone();
        match (&mut one, headers.is_empty()) {
            (Value::Object(fields), true) => drop(fields.shift_remove("headers")),
            (one, _) => set(one, "headers", Value::Array(headers)),
        }
        plain.push(one);
    }
    let same = |other: &Value| {
        let matches = list(other, "/matches");
        pair.serves(other) && (matches == plain || (matches.is_empty() && plain == [json!({})]))
    };
    let known = items(now).iter().any(same) || items(original).iter().any(same);
    known.then_some(header).flatten().and_then(|header| wanted_by(&header))
}

pub(super) const COOKIE_HEAD: &str = r"^(.*;\s*)?";
pub(super) const COOKIE_TAIL: &str = r"(;.*)?$";
pub(super) const ANY_COOKIE: &str = "[^;]*";
pub(super) const ANY_HEADER: &str = ".*";

pub(super) fn header_of(wanted: &TrafficMatch) -> Value {
    match wanted {
        TrafficMatch::Header(NamedMatch {
            name,
            value: Some(value),
        }) => {
            json!({"type": "Exact", "name": name, "value": value})
        }
        TrafficMatch::Header(NamedMatch { name, value: None }) => {
            json!({"type": "RegularExpression", "name": name, "value": ANY_HEADER})
        }
        TrafficMatch::Cookie(NamedMatch { name, value }) => {
            let value = value.as_deref().map_or_else(|| ANY_COOKIE.to_owned(), quoted);
            let pattern = format!("{COOKIE_HEAD}{}={value}{COOKIE_TAIL}", quoted(name));
            json!({"type": "RegularExpression", "name": "Cookie", "value": pattern})
        }
    }
}

pub(super) fn wanted_by(header: &Value) -> Option<TrafficMatch> {
    let (name, value) = (text(header, "/name"), text(header, "/value"));
    let cookie = value
        .strip_prefix(COOKIE_HEAD)
        .and_then(|rest| rest.strip_suffix(COOKIE_TAIL));
    match (text(header, "/type"), cookie) {
        ("RegularExpression", Some(pattern)) if name == "Cookie" => {
            let (name, value) = pattern.split_once('=')?;
            Some(TrafficMatch::Cookie(NamedMatch {
                name: unquoted(name),
                value: (value != ANY_COOKIE).then(|| unquoted(value)),
            }))
        }
        ("RegularExpression", _) if value != ANY_HEADER => None,
        (kind, _) => Some(TrafficMatch::Header(NamedMatch {
            name: name.to_owned(),
            value: (kind != "RegularExpression").then(|| value.to_owned()),
        })),
    }
}

/// A text as a pattern that matches it alone.
pub(super) fn quoted(text: &str) -> String {
    let mut pattern = String::new();
    for letter in text.chars() {
        if r"\.+*?()|[]{}^$".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

pub(super) fn unquoted(pattern: &str) -> String {
    let mut letters = pattern.chars();
    let mut text = String::new();
    while let Some(letter) = letters.next() {
        text.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    text
}

pub(super) fn add_mirror(rule: &mut Value, pair: Pair<'_>, share: Weight) -> Result<(), String> {
    if backends(rule).iter().any(|one| pair.side(one) == Side::Other) {
        return Err(format!(
            "a mirror copies what the whole rule gets, and the rule leads to others than Service {} too; give the \
             Service a rule of its own, or leave the mirror out of the strategy",
            pair.service
        ));
    }
    let stable = backends(rule).iter().find(|one| pair.side(one) == Side::Stable);
    let mut reference = json!({"group": "", "kind": "Service", "name": pair.canary});
    for field in ["namespace", "port"] {
        if let Some(value) = stable.and_then(|stable| stable.get(field)) {
            set(&mut reference, field, value.clone());
        }
    }
    let mut mirror = json!({"backendRef": reference});
    let share = share.permille();
    // `percent` is older than `fraction`, so it is what more gateways know.
    if share.is_multiple_of(10) {
        set(&mut mirror, "percent", json!(share / 10));
    } else {
        set(
            &mut mirror,
            "fraction",
            json!({"numerator": share, "denominator": 1000}),
        );
    }
    let mut filters = list(rule, "/filters").to_vec();
    filters.push(json!({"type": "RequestMirror", "requestMirror": mirror}));
    set(rule, "filters", Value::Array(filters));
    Ok(())
}

/// The share that our mirror copies, if there is one. Without a number everything is copied.
pub(super) fn mirror_of(rule: &Value, original: &Value, pair: Pair<'_>) -> Result<Weight, String> {
    let kept = without_mirror(rule, original, pair);
    let ours = list(rule, "/filters")
        .iter()
        .find(|filter| pair.mirrors(filter) && !list(&kept, "/filters").contains(filter));
    let Some(mirror) = ours.and_then(|filter| filter.get("requestMirror")) else {
        return Ok(Weight::ZERO);
    };
    let share = match (number(mirror, "/percent"), number(mirror, "/fraction/numerator")) {
        (Some(percent), _) => Some(percent * 10),
        (None, Some(part)) => {
            let whole = number(mirror, "/fraction/denominator").unwrap_or(100).max(1);
            (part * 1000).is_multiple_of(whole).then(|| part * 1000 / whole)
        }
        (None, None) => {
            return Err(format!(
                "the mirror to {} has no share, so everything is copied; the cluster's Gateway API is older than 1.3 \
                 and drops it",
                pair.canary
            ));
        }
    };
    share
        .and_then(|share| u16::try_from(share).ok())
        .and_then(Weight::from_permille)
        .ok_or_else(|| format!("the mirror to {} copies a share that Wade does not write", pair.canary))
}

pub(super) fn without_mirror(rule: &Value, original: &Value, pair: Pair<'_>) -> Value {
    let kept = counterpart(rule, original, pair).map_or(&[][..], |before| list(before, "/filters"));
    let mut rule = rule.clone();
    take_filters_out(&mut rule, |filter| pair.mirrors(filter) && !kept.contains(filter));
    rule
}
