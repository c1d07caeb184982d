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

mod extras;
mod rules;

use serde_json::Value;

use extras::{add_mirror, match_of, match_rule, mirror_of, without_mirror};
use rules::{
    Pair, Side, backends, base, complete, concerns, counterpart, first_difference, items, renamed, same_weights, set,
    take_canary_out, weight, write_weights,
};

use super::release::{RouteKind, RouteRef, canary_name};
use crate::apiserver::value::{list, name, number, text};
use crate::plan::{ALL_STABLE, Split};
use crate::spec::Weight;

/// How many rules a route may have.
const MOST_RULES: usize = 16;
/// How many matches a route may have in all its rules together.
const MOST_MATCHES: usize = 127;

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

#[cfg(test)]
mod tests;
