//! HTTPRoute and GRPCRoute: what the user's own rules become while a release runs, and how they come back.
//!
//! Both kinds have the same shape of rules, so everything here takes `spec.rules` as a value. Three things are put into
//! them, each recognisable without a record: the canary's backend beside stable's (its name), an extra rule for a
//! header or cookie (it leads to the canary only and matches what another rule matches, plus one header), and a
//! RequestMirror filter (its backend's name). So what is ours can be taken out of rules that somebody else has edited
//! meanwhile, and their edits stay.
//!
//! Order matters to the data plane: a backend and its first weight never come in one write ([`warmed`], then
//! [`with_split`]), because Envoy answers 503 for a backend that it hears of together with its traffic.
//!
//! [`with_split`] to all-stable has no precondition: it works on whatever it finds.

use serde_json::{Map, Value, json};

use super::release::{RouteKind, RouteRef, canary_name};
use crate::apiserver::value::{list, name, number, text};
use crate::plan::{ALL_STABLE, Split};
use crate::spec::{NamedMatch, TrafficMatch, Weight};

/// The largest weight that a backend may have.
const MOST_WEIGHT: u64 = 1_000_000;
/// How many rules a route may have.
const MOST_RULES: usize = 16;
/// How many matches a route may have in all its rules together.
const MOST_MATCHES: usize = 127;

/// The Service that serves and the one beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair<'a> {
    service: &'a str,
    canary: &'a str,
}

/// What rules do for one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Nothing of ours is in them: all to stable, and the canary's backend is missing everywhere.
    Absent,
    /// Exactly this, in every rule that leads to the Service, each with the canary's backend.
    Split(Split),
    /// No split of ours: somebody else has written. [`warmed`], then [`with_split`], puts ours back.
    NotOurs {
        /// What is otherwise, in words.
        what: String,
    },
}

/// Whether a rule of the route gives traffic to the Service (at this port, if one is said).
pub fn leads_to(route: &Value, service: &str, port: Option<u16>) -> bool {
    let pair = Pair { service, canary: "" };
    let at_port = |reference: &Value| match (port, number(reference, "/port")) {
        (Some(port), Some(at)) => u64::from(port) == at,
        _ => true,
    };
    list(route, "/spec/rules")
        .iter()
        .flat_map(backends)
        .filter(|one| pair.side(one) == Side::Stable && !is_foreign(one, route))
        .any(|one| weight(one) > 0 && at_port(one))
}

/// The Services among `services` that the route leads to, each with the rules as they are now.
pub fn references(route: &Value, kind: RouteKind, services: &[String]) -> Vec<RouteRef> {
    let led = services.iter().filter(|service| leads_to(route, service, None));
    led.map(|service| {
        let canary = canary_name(service);
        let pair = Pair {
            service,
            canary: &canary,
        };
        let mut concerned = list(route, "/spec/rules").iter().filter(|rule| pair.serves(rule));
        RouteRef {
            kind,
            name: name(route).to_owned(),
            service: service.clone(),
            rules: route.pointer("/spec/rules").cloned().unwrap_or(Value::Null),
            declared: concerned.all(|rule| pair.is_warm(rule)),
        }
    })
    .collect()
}

/// Why this route cannot be split in the ways that a plan wants, found before anything is touched. The other functions
/// here take rules without their namespace and rely on this having found nothing.
pub fn refusals<'a>(
    route: &Value,
    service: &str,
    canary: &str,
    splits: impl IntoIterator<Item = &'a Split>,
) -> Vec<String> {
    let pair = Pair { service, canary };
    let rules = route.pointer("/spec/rules").unwrap_or(&Value::Null);
    let mut found = Vec::new();
    for (at, rule) in items(rules).iter().enumerate() {
        let ours = backends(rule).iter().filter(|one| pair.side(one) != Side::Other);
        if let Some(foreign) = ours.clone().find(|one| is_foreign(one, route)) {
            found.push(format!(
                "rule {} leads to Service {} of namespace {}, which cannot be told from the one of this namespace while \
                 a release runs; move it to a route of its own",
                at + 1,
                text(foreign, "/name"),
                text(foreign, "/namespace")
            ));
        }
        let given: u64 = ours.filter(|one| pair.side(one) == Side::Canary).map(weight).sum();
        if pair.serves(rule) && given > 0 {
            found.push(format!(
                "rule {} gives Service {canary} the weight {given} already; set it to 0, or run `wade settle` if an \
                 earlier release left it",
                at + 1
            ));
        }
    }
    let warm = warmed(rules, service, canary);
    for split in splits {
        if let Err(why) = with_split(&warm, rules, service, canary, split)
            && !found.contains(&why)
        {
            found.push(why);
        }
    }
    found
}

/// Whether a backend is of another namespace than the route.
fn is_foreign(reference: &Value, route: &Value) -> bool {
    !["", text(route, "/metadata/namespace")].contains(&text(reference, "/namespace"))
}

/// The rules with the canary's backend beside stable's, at weight 0, wherever it is not there yet. Nothing else
/// changes; everything that stable's backend says (port, filters) is said of the canary's too.
pub fn warmed(rules: &Value, service: &str, canary: &str) -> Value {
    let pair = Pair { service, canary };
    let mut rules = items(rules).to_vec();
    for rule in rules.iter_mut().filter(|rule| pair.serves(rule) && !pair.is_warm(rule)) {
        let beside = backends(rule)
            .iter()
            .flat_map(|one| match pair.side(one) {
                Side::Stable => vec![one.clone(), renamed(one, pair.canary, 0)],
                Side::Canary | Side::Other => vec![one.clone()],
            })
            .collect();
        set(rule, "backendRefs", Value::Array(beside));
    }
    Value::Array(rules)
}

/// The rules as they are now, with this split for the Service in every rule that leads to it. What other backends of
/// such a rule get stays exactly as it was.
///
/// # Errors
/// One sentence: the canary's backend is missing ([`warmed`] comes first), the weights cannot be divided this finely,
/// or the route cannot hold what the split needs. All to stable never fails.
pub fn with_split(now: &Value, original: &Value, service: &str, canary: &str, split: &Split) -> Result<Value, String> {
    let pair = Pair { service, canary };
    let mut rules = Vec::new();
    for (at, rule) in items(now).iter().enumerate() {
        if match_of(now, at, original, pair).is_some() {
            continue;
        }
        let mut rule = without_mirror(rule, original, pair);
        if !concerns(&rule, original, pair) {
            rules.push(rule);
            continue;
        }
        complete(&mut rule, pair);
        if !pair.is_warm(&rule) && split.reaches_canary() {
            return Err(format!(
                "rule {} leads to Service {} and not to {}; the canary's backend has to be there before its first \
                 weight",
                at + 1,
                pair.service,
                pair.canary
            ));
        }
        let base = base(&rule, original, pair);
        write_weights(&mut rule, pair, &base, split.weight).map_err(|why| format!("rule {}: {why}", at + 1))?;
        if let Some(wanted) = &split.matching {
            rules.push(match_rule(&rule, pair, wanted).map_err(|why| format!("rule {}: {why}", at + 1))?);
        }
        if !split.mirror.is_zero() {
            add_mirror(&mut rule, pair, split.mirror).map_err(|why| format!("rule {}: {why}", at + 1))?;
        }
        rules.push(rule);
    }
    let matches: usize = rules.iter().map(|rule| list(rule, "/matches").len().max(1)).sum();
    if split.matching.is_some() && (rules.len() > MOST_RULES || matches > MOST_MATCHES) {
        return Err(format!(
            "a header or cookie match needs {} rules with {matches} matches, and a route holds {MOST_RULES} rules with \
             {MOST_MATCHES} matches; split the route in two, or leave the match out of the strategy",
            rules.len()
        ));
    }
    Ok(Value::Array(rules))
}

/// What the rules do for the Service now.
pub fn split_of(now: &Value, original: &Value, service: &str, canary: &str) -> Observed {
    match read_split(now, original, Pair { service, canary }) {
        Ok((_, false)) => Observed::Absent,
        Ok((split, true)) => Observed::Split(split),
        Err(what) => Observed::NotOurs { what },
    }
}

/// The rules without anything of ours: exactly the original if nobody else has written, else with their changes.
pub fn restored(now: &Value, original: &Value, service: &str, canary: &str) -> Value {
    let pair = Pair { service, canary };
    let mut rules = Vec::new();
    for (at, rule) in items(now).iter().enumerate() {
        if match_of(now, at, original, pair).is_some() {
            continue;
        }
        let mut rule = without_mirror(rule, original, pair);
        if concerns(&rule, original, pair) {
            complete(&mut rule, pair);
            let base = base(&rule, original, pair);
            write_weights(&mut rule, pair, &base, Weight::ZERO).expect("weights that are not divided fit as before");
            match counterpart(&rule, original, pair) {
                Some(before) if same_weights(&rule, before, pair) => rule = before.clone(),
                counterpart => {
                    let declared = |rule: &Value| pair.is_warm(rule);
                    // An edited rule has no counterpart: if the user declares the canary's backend at all, it stays.
                    let stays = counterpart.map_or_else(|| items(original).iter().any(declared), declared);
                    if !stays {
                        take_canary_out(&mut rule, pair);
                    }
                }
            }
        }
        rules.push(rule);
    }
    Value::Array(rules)
}

/// Whether every gateway that serves the route has taken its present form.
///
/// # Errors
/// Which gateway has not, and what it says.
pub fn confirmed(route: &Value) -> Result<(), String> {
    let generation = number(route, "/metadata/generation").unwrap_or(0);
    let parents: Vec<&Value> = list(route, "/status/parents")
        .iter()
        .filter(|parent| !text(parent, "/controllerName").is_empty())
        .collect();
    let route = name(route);
    if parents.is_empty() {
        return Err(format!(
            "no gateway has taken the route {route}; look at its parentRefs and at the gateway's listeners"
        ));
    }
    for parent in parents {
        let gateway = text(parent, "/parentRef/name");
        for wanted in ["Accepted", "ResolvedRefs"] {
            let condition = list(parent, "/conditions")
                .iter()
                .find(|condition| text(condition, "/type") == wanted);
            let Some(condition) = condition else {
                return Err(format!(
                    "gateway {gateway} has not said {wanted} of the route {route} yet"
                ));
            };
            if number(condition, "/observedGeneration").unwrap_or(0) < generation {
                return Err(format!(
                    "gateway {gateway} has not looked at the route {route} since its last change"
                ));
            }
            if text(condition, "/status") != "True" {
                return Err(format!(
                    "gateway {gateway} says {wanted} {} of the route {route}: {} ({})",
                    text(condition, "/status"),
                    text(condition, "/message"),
                    text(condition, "/reason"),
                ));
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Stable,
    Canary,
    Other,
}

impl Pair<'_> {
    fn side(self, reference: &Value) -> Side {
        let service = matches!(text(reference, "/kind"), "" | "Service") && text(reference, "/group").is_empty();
        match text(reference, "/name") {
            name if service && name == self.service => Side::Stable,
            name if service && !name.is_empty() && name == self.canary => Side::Canary,
            _ => Side::Other,
        }
    }

    /// Whether the rule names stable, and gives it or the canary traffic.
    fn serves(self, rule: &Value) -> bool {
        let ours = backends(rule).iter().filter(|one| self.side(one) != Side::Other);
        let named = backends(rule).iter().any(|one| self.side(one) == Side::Stable);
        named && ours.map(weight).sum::<u64>() > 0
    }

    /// Whether the canary's backend is there, with whatever weight.
    fn is_warm(self, rule: &Value) -> bool {
        backends(rule).iter().any(|one| self.side(one) == Side::Canary)
    }

    fn only_canary(self, rule: &Value) -> bool {
        !backends(rule).is_empty() && backends(rule).iter().all(|one| self.side(one) == Side::Canary)
    }

    /// Whether a filter is a mirror to the canary.
    fn mirrors(self, filter: &Value) -> bool {
        text(filter, "/type") == "RequestMirror"
            && filter
                .pointer("/requestMirror/backendRef")
                .is_some_and(|reference| self.side(reference) == Side::Canary)
    }
}

/// Where stable's and the canary's backends are in a rule, the first beside the first, and where the others are.
struct Places {
    pairs: Vec<(usize, Option<usize>)>,
    others: Vec<usize>,
}

fn places(rule: &Value, pair: Pair<'_>) -> Places {
    let of = |side: Side| {
        let all = backends(rule).iter().enumerate();
        all.filter(move |(_, one)| pair.side(one) == side).map(|(at, _)| at)
    };
    let mut canaries = of(Side::Canary);
    let pairs = of(Side::Stable).map(|stable| (stable, canaries.next())).collect();
    Places {
        pairs,
        others: of(Side::Other).chain(canaries).collect(),
    }
}

/// Whether a rule is one that we divide: it leads to the Service, or somebody has left it to the canary alone. A rule
/// for the canary alone that was there before the release is the user's own.
fn concerns(rule: &Value, original: &Value, pair: Pair<'_>) -> bool {
    pair.serves(rule) || (pair.only_canary(rule) && !items(original).contains(rule))
}

/// Puts stable's backend back beside a canary's that has been left alone.
fn complete(rule: &mut Value, pair: Pair<'_>) {
    if pair.only_canary(rule) {
        let both = backends(rule)
            .iter()
            .flat_map(|one| [renamed(one, pair.service, weight(one)), renamed(one, pair.canary, 0)])
            .collect();
        set(rule, "backendRefs", Value::Array(both));
    }
}

fn take_canary_out(rule: &mut Value, pair: Pair<'_>) {
    let left = backends(rule)
        .iter()
        .filter(|one| pair.side(one) != Side::Canary)
        .cloned()
        .collect();
    set(rule, "backendRefs", Value::Array(left));
}

/// What each pair and each other backend of a rule gets, in this order.
fn units(rule: &Value, pair: Pair<'_>) -> Vec<u64> {
    let places = places(rule, pair);
    let refs = backends(rule);
    let both = |(stable, canary): &(usize, Option<usize>)| {
        weight(&refs[*stable]).saturating_add(canary.map_or(0, |canary| weight(&refs[canary])))
    };
    let pairs = places.pairs.iter().map(both);
    pairs.chain(places.others.iter().map(|at| weight(&refs[*at]))).collect()
}

/// The weights to divide: the original ones if the rule still has their proportions, else the present ones in lowest
/// terms, so that dividing twice gives what dividing once gives.
fn base(rule: &Value, original: &Value, pair: Pair<'_>) -> Vec<u64> {
    let now = units(rule, pair);
    if let Some(before) = counterpart(rule, original, pair) {
        let before = units(before, pair);
        if lowest(&before) == lowest(&now) {
            return before;
        }
    }
    lowest(&now)
}

/// The original of a rule: the same but for weights and for what is ours.
fn counterpart<'a>(rule: &Value, original: &'a Value, pair: Pair<'_>) -> Option<&'a Value> {
    let wanted = skeleton(rule, pair);
    items(original)
        .iter()
        .find(|before| pair.serves(before) && skeleton(before, pair) == wanted)
}

fn same_weights(rule: &Value, before: &Value, pair: Pair<'_>) -> bool {
    lowest(&units(rule, pair)) == lowest(&units(before, pair))
}

/// A rule without weights and without anything that could be ours.
fn skeleton(rule: &Value, pair: Pair<'_>) -> Value {
    let mut rule = rule.clone();
    take_canary_out(&mut rule, pair);
    for reference in array(&mut rule, "backendRefs") {
        if let Value::Object(fields) = reference {
            fields.shift_remove("weight");
        }
    }
    take_filters_out(&mut rule, |filter| pair.mirrors(filter));
    rule
}

fn write_weights(rule: &mut Value, pair: Pair<'_>, base: &[u64], share: Weight) -> Result<(), String> {
    let places = places(rule, pair);
    let share = u64::from(share.permille());
    let alone = places.pairs.len() == 1 && places.others.is_empty();
    let divided = alone && share > 0 && share < 1000;
    // Alone in a rule, weights are what people read: of a hundred, or of a thousand.
    let base = if divided { vec![1] } else { base.to_vec() };
    let scales: &[u64] = if divided { &[100, 1000] } else { &[1, 100, 1000] };
    let exact = |scale: &&u64| {
        let pairs = &base[..places.pairs.len()];
        pairs.iter().all(|one| (one * **scale * share).is_multiple_of(1000))
    };
    let scale = *scales
        .iter()
        .find(exact)
        .expect("a multiple of a thousand divides by a thousand");
    let mut weights = vec![0; backends(rule).len()];
    for ((stable, canary), one) in places.pairs.iter().zip(&base) {
        let of_canary = one * scale * share / 1000;
        weights[*stable] = one * scale - if canary.is_some() { of_canary } else { 0 };
        if let Some(canary) = canary {
            weights[*canary] = of_canary;
        }
    }
    for (other, one) in places.others.iter().zip(&base[places.pairs.len()..]) {
        weights[*other] = one * scale;
    }
    if weights.iter().any(|one| *one > MOST_WEIGHT) {
        weights = lowest(&weights);
    }
    if weights.iter().any(|one| *one > MOST_WEIGHT) {
        return Err(format!(
            "its weights are too large to divide them by {}.{} % (a weight goes to {MOST_WEIGHT}); write them as \
             smaller numbers",
            share / 10,
            share % 10
        ));
    }
    for (reference, one) in array(rule, "backendRefs").iter_mut().zip(weights) {
        set(reference, "weight", json!(one));
    }
    Ok(())
}

/// The rule that goes before `rule`: what it matches, and the header too, to the canary alone.
fn match_rule(rule: &Value, pair: Pair<'_>, wanted: &TrafficMatch) -> Result<Value, String> {
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
fn match_of(now: &Value, at: usize, original: &Value, pair: Pair<'_>) -> Option<TrafficMatch> {
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

const COOKIE_HEAD: &str = r"^(.*;\s*)?";
const COOKIE_TAIL: &str = r"(;.*)?$";
const ANY_COOKIE: &str = "[^;]*";
const ANY_HEADER: &str = ".*";

fn header_of(wanted: &TrafficMatch) -> Value {
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

fn wanted_by(header: &Value) -> Option<TrafficMatch> {
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
fn quoted(text: &str) -> String {
    let mut pattern = String::new();
    for letter in text.chars() {
        if r"\.+*?()|[]{}^$".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

fn unquoted(pattern: &str) -> String {
    let mut letters = pattern.chars();
    let mut text = String::new();
    while let Some(letter) = letters.next() {
        text.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    text
}

fn add_mirror(rule: &mut Value, pair: Pair<'_>, share: Weight) -> Result<(), String> {
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
fn mirror_of(rule: &Value, original: &Value, pair: Pair<'_>) -> Result<Weight, String> {
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

fn without_mirror(rule: &Value, original: &Value, pair: Pair<'_>) -> Value {
    let kept = counterpart(rule, original, pair).map_or(&[][..], |before| list(before, "/filters"));
    let mut rule = rule.clone();
    take_filters_out(&mut rule, |filter| pair.mirrors(filter) && !kept.contains(filter));
    rule
}

/// Takes filters out; an empty list goes too, unless it was empty before.
fn take_filters_out(rule: &mut Value, out: impl Fn(&Value) -> bool) {
    let left: Vec<Value> = list(rule, "/filters").iter().filter(|one| !out(one)).cloned().collect();
    if left.len() == list(rule, "/filters").len() {
        return;
    }
    match (rule, left.is_empty()) {
        (Value::Object(fields), true) => drop(fields.shift_remove("filters")),
        (rule, _) => set(rule, "filters", Value::Array(left)),
    }
}

fn read_split(now: &Value, original: &Value, pair: Pair<'_>) -> Result<(Split, bool), String> {
    let mut split = ALL_STABLE;
    let mut seen: Option<(usize, Weight)> = None;
    let (mut with, mut without) = (None, None);
    for (at, rule) in items(now).iter().enumerate() {
        if let Some(wanted) = match_of(now, at, original, pair) {
            split.matching = Some(wanted);
            continue;
        }
        if !concerns(rule, original, pair) {
            continue;
        }
        let number = at + 1;
        if !pair.serves(rule) {
            return Err(format!("rule {number} leads to {} alone", pair.canary));
        }
        let share = match share_of(rule, pair)? {
            Some(share) => {
                with = with.or(Some(number));
                share
            }
            None => {
                without = without.or(Some(number));
                Weight::ZERO
            }
        };
        match seen {
            Some((first, before)) if before != share && without.is_none() => {
                return Err(format!(
                    "rule {first} gives {} {before} and rule {number} {share}",
                    pair.canary
                ));
            }
            Some(_) => {}
            None => {
                seen = Some((number, share));
                split.mirror = mirror_of(rule, original, pair)?;
            }
        }
        split.weight = share;
    }
    if seen.is_none() {
        return Err(format!("no rule leads to Service {} any more", pair.service));
    }
    if let (Some(_), Some(number)) = (with, without) {
        return Err(format!(
            "rule {number} leads to Service {} and not to {}",
            pair.service, pair.canary
        ));
    }
    let wanted = with_split(now, original, pair.service, pair.canary, &split)?;
    match first_difference(now, &wanted) {
        None => Ok((split, with.is_some())),
        Some(number) => Err(format!("rule {number} is not as Wade writes it for {split}")),
    }
}

/// The canary's share of the Service's own traffic in a rule; `None` where the canary's backend is missing.
fn share_of(rule: &Value, pair: Pair<'_>) -> Result<Option<Weight>, String> {
    let sum = |side: Side| {
        let ours = backends(rule).iter().filter(|one| pair.side(one) == side);
        ours.map(weight).sum::<u64>()
    };
    if !pair.is_warm(rule) {
        return Ok(None);
    }
    let (stable, canary) = (sum(Side::Stable), sum(Side::Canary));
    let whole = stable + canary;
    let permille = (canary * 1000).is_multiple_of(whole).then(|| canary * 1000 / whole);
    let share = permille.and_then(|permille| u16::try_from(permille).ok().and_then(Weight::from_permille));
    share.map(Some).ok_or_else(|| {
        format!(
            "{} has {canary} of {whole}, a share that Wade does not write",
            pair.canary
        )
    })
}

/// The number of the first rule that differs by more than the scale of its weights.
fn first_difference(now: &Value, wanted: &Value) -> Option<usize> {
    let (now, wanted) = (items(now), items(wanted));
    (0..now.len().max(wanted.len()))
        .find(|at| now.get(*at).map(in_lowest_terms) != wanted.get(*at).map(in_lowest_terms))
        .map(|at| at + 1)
}

fn in_lowest_terms(rule: &Value) -> Value {
    let mut rule = rule.clone();
    let weights: Vec<u64> = backends(&rule).iter().map(weight).collect();
    for (reference, one) in array(&mut rule, "backendRefs").iter_mut().zip(lowest(&weights)) {
        set(reference, "weight", json!(one));
    }
    rule
}

/// Numbers in the same proportions, as small as they get.
fn lowest(numbers: &[u64]) -> Vec<u64> {
    let gcd = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let common = numbers.iter().fold(0, |common, one| gcd(common, *one)).max(1);
    numbers.iter().map(|one| one / common).collect()
}

/// The rules as a list.
fn items(rules: &Value) -> &[Value] {
    list(rules, "")
}

fn backends(rule: &Value) -> &[Value] {
    list(rule, "/backendRefs")
}

/// What a backend gets; a weight that is not said is 1.
fn weight(reference: &Value) -> u64 {
    number(reference, "/weight").unwrap_or(1)
}

fn renamed(reference: &Value, name: &str, weight: u64) -> Value {
    let mut reference = reference.clone();
    set(&mut reference, "name", json!(name));
    set(&mut reference, "weight", json!(weight));
    reference
}

fn set(object: &mut Value, field: &str, value: Value) {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if let Value::Object(fields) = object {
        fields.insert(field.to_owned(), value);
    }
}

fn array<'a>(object: &'a mut Value, field: &str) -> &'a mut [Value] {
    object
        .get_mut(field)
        .and_then(Value::as_array_mut)
        .map_or(&mut [], Vec::as_mut_slice)
}

#[cfg(test)]
mod tests;
