//! One rule of a route: which of its backends are ours, and what each gets.

use serde_json::{Map, Value, json};

use crate::apiserver::value::{list, number, text};
use crate::spec::Weight;

/// The largest weight that a backend may have.
pub(super) const MOST_WEIGHT: u64 = 1_000_000;

/// The Service that serves and the one beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair<'a> {
    pub(super) service: &'a str,
    pub(super) canary: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Stable,
    Canary,
    Other,
}

impl Pair<'_> {
    pub(super) fn side(self, reference: &Value) -> Side {
        let service = matches!(text(reference, "/kind"), "" | "Service") && text(reference, "/group").is_empty();
        match text(reference, "/name") {
            name if service && name == self.service => Side::Stable,
            name if service && !name.is_empty() && name == self.canary => Side::Canary,
            _ => Side::Other,
        }
    }

    /// Whether the rule names stable, and gives it or the canary traffic.
    pub(super) fn serves(self, rule: &Value) -> bool {
        let ours = backends(rule).iter().filter(|one| self.side(one) != Side::Other);
        let named = backends(rule).iter().any(|one| self.side(one) == Side::Stable);
        named && ours.map(weight).sum::<u64>() > 0
    }

    /// Whether the canary's backend is there, with whatever weight.
    pub(super) fn is_warm(self, rule: &Value) -> bool {
        backends(rule).iter().any(|one| self.side(one) == Side::Canary)
    }

    pub(super) fn only_canary(self, rule: &Value) -> bool {
        !backends(rule).is_empty() && backends(rule).iter().all(|one| self.side(one) == Side::Canary)
    }

    /// Whether a filter is a mirror to the canary.
    pub(super) fn mirrors(self, filter: &Value) -> bool {
        text(filter, "/type") == "RequestMirror"
            && filter
                .pointer("/requestMirror/backendRef")
                .is_some_and(|reference| self.side(reference) == Side::Canary)
    }
}

/// Where stable's and the canary's backends are in a rule, the first beside the first, and where the others are. A
/// canary's backend that has none of stable's beside it is in neither, so it gets nothing.
pub(super) struct Places {
    pub(super) pairs: Vec<(usize, Option<usize>)>,
    pub(super) others: Vec<usize>,
}

pub(super) fn places(rule: &Value, pair: Pair<'_>) -> Places {
    let of = |side: Side| {
        let all = backends(rule).iter().enumerate();
        all.filter(move |(_, one)| pair.side(one) == side).map(|(at, _)| at)
    };
    let mut canaries = of(Side::Canary);
    let pairs = of(Side::Stable).map(|stable| (stable, canaries.next())).collect();
    Places {
        pairs,
        others: of(Side::Other).collect(),
    }
}

/// Whether a rule is one that we divide: it leads to the Service, or somebody has left it to the canary alone. A rule
/// for the canary alone that was there before the release is the user's own.
pub(super) fn concerns(rule: &Value, original: &Value, pair: Pair<'_>) -> bool {
    pair.serves(rule) || (pair.only_canary(rule) && !items(original).contains(rule))
}

/// Puts stable's backend back beside a canary's that has been left alone.
pub(super) fn complete(rule: &mut Value, pair: Pair<'_>) {
    if pair.only_canary(rule) {
        let both = backends(rule)
            .iter()
            .flat_map(|one| [renamed(one, pair.service, weight(one)), renamed(one, pair.canary, 0)])
            .collect();
        set(rule, "backendRefs", Value::Array(both));
    }
}

pub(super) fn take_canary_out(rule: &mut Value, pair: Pair<'_>) {
    let left = backends(rule)
        .iter()
        .filter(|one| pair.side(one) != Side::Canary)
        .cloned()
        .collect();
    set(rule, "backendRefs", Value::Array(left));
}

/// What each pair and each other backend of a rule gets, in this order.
pub(super) fn units(rule: &Value, pair: Pair<'_>) -> Vec<u64> {
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
pub(super) fn base(rule: &Value, original: &Value, pair: Pair<'_>) -> Vec<u64> {
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
pub(super) fn counterpart<'a>(rule: &Value, original: &'a Value, pair: Pair<'_>) -> Option<&'a Value> {
    let wanted = skeleton(rule, pair);
    items(original)
        .iter()
        .find(|before| pair.serves(before) && skeleton(before, pair) == wanted)
}

pub(super) fn same_weights(rule: &Value, before: &Value, pair: Pair<'_>) -> bool {
    lowest(&units(rule, pair)) == lowest(&units(before, pair))
}

/// A rule without weights and without anything that could be ours.
pub(super) fn skeleton(rule: &Value, pair: Pair<'_>) -> Value {
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

/// Takes filters out; an empty list goes too, unless it was empty before.
pub(super) fn take_filters_out(rule: &mut Value, out: impl Fn(&Value) -> bool) {
    let left: Vec<Value> = list(rule, "/filters").iter().filter(|one| !out(one)).cloned().collect();
    if left.len() == list(rule, "/filters").len() {
        return;
    }
    match (rule, left.is_empty()) {
        (Value::Object(fields), true) => drop(fields.shift_remove("filters")),
        (rule, _) => set(rule, "filters", Value::Array(left)),
    }
}

pub(super) fn write_weights(rule: &mut Value, pair: Pair<'_>, base: &[u64], share: Weight) -> Result<(), String> {
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

/// The number of the first rule that differs by more than the scale of its weights.
pub(super) fn first_difference(now: &Value, wanted: &Value) -> Option<usize> {
    let (now, wanted) = (items(now), items(wanted));
    (0..now.len().max(wanted.len()))
        .find(|at| now.get(*at).map(in_lowest_terms) != wanted.get(*at).map(in_lowest_terms))
        .map(|at| at + 1)
}

pub(super) fn in_lowest_terms(rule: &Value) -> Value {
    let mut rule = rule.clone();
    let weights: Vec<u64> = backends(&rule).iter().map(weight).collect();
    for (reference, one) in array(&mut rule, "backendRefs").iter_mut().zip(lowest(&weights)) {
        set(reference, "weight", json!(one));
    }
    rule
}

/// Numbers in the same proportions, as small as they get.
pub(super) fn lowest(numbers: &[u64]) -> Vec<u64> {
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
pub(super) fn items(rules: &Value) -> &[Value] {
    list(rules, "")
}

pub(super) fn backends(rule: &Value) -> &[Value] {
    list(rule, "/backendRefs")
}

/// What a backend gets; a weight that is not said is 1.
pub(super) fn weight(reference: &Value) -> u64 {
    number(reference, "/weight").unwrap_or(1)
}

pub(super) fn renamed(reference: &Value, name: &str, weight: u64) -> Value {
    let mut reference = reference.clone();
    set(&mut reference, "name", json!(name));
    set(&mut reference, "weight", json!(weight));
    reference
}

pub(super) fn set(object: &mut Value, field: &str, value: Value) {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if let Value::Object(fields) = object {
        fields.insert(field.to_owned(), value);
    }
}

pub(super) fn array<'a>(object: &'a mut Value, field: &str) -> &'a mut [Value] {
    object
        .get_mut(field)
        .and_then(Value::as_array_mut)
        .map_or(&mut [], Vec::as_mut_slice)
}
