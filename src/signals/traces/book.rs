//! The book of one service: spans in, counts per revision and operation out, in a bounded amount of memory.
//!
//! A span is counted the moment it comes and then forgotten: requests, errors and a latency histogram per operation, the
//! errors by what they say, and a few trace ids to look at. Who sends spans decides the names of operations and errors,
//! so every map here has a greatest size and every key a greatest length; what does not fit goes into `(other)`, on both
//! sides alike, and is counted. Each revision has its own room: junk from one cannot take the other's.
//!
//! The book also remembers which errors stable has shown, before a release as much as during it. That is what makes an
//! error of the canary a new one.

use std::collections::BTreeMap;
use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::attribution::{Belongs, Names, Rule};
use super::normal;
use super::span::{ServerSpan, TraceId};
use super::telemetry::{Count, Telemetry};
use crate::judge::observation::{Increment, OperationCounts, Operations, Sides, SignatureCounts};
use crate::signals::Side;

#[cfg(test)]
mod tests;

/// What does not fit is counted under this name.
pub const OTHER: &str = "(other)";
/// Operations with a name of their own that one revision may bring.
pub const MAX_OPERATIONS: usize = 100;
/// Error signatures that one revision may bring.
pub const MAX_SIGNATURES: usize = 200;
/// Traces shown per signature between two looks.
pub const MAX_EXAMPLES: usize = 3;
/// An operation that nobody has asked for so long makes room for others.
const FORGET_OPERATION: SignedDuration = SignedDuration::from_hours(1);
/// An error that has not been seen for so long is new again when room is needed.
const FORGET_SIGNATURE: SignedDuration = SignedDuration::from_hours(24);
/// How often it is looked for what can be forgotten.
const SWEEP_EVERY: SignedDuration = SignedDuration::from_secs(60);
/// Spans that ended longer ago say nothing about now: an exporter that was cut off sends its backlog.
pub const MAX_AGE: SignedDuration = SignedDuration::from_mins(5);

/// Upper bounds of the latency histograms in seconds: six a decade.
pub const LATENCY_BOUNDS_SECONDS: [f64; 30] = [
    0.001, 0.0015, 0.0022, 0.0033, 0.0047, 0.0068, 0.01, 0.015, 0.022, 0.033, 0.047, 0.068, 0.1, 0.15, 0.22, 0.33,
    0.47, 0.68, 1.0, 1.5, 2.2, 3.3, 4.7, 6.8, 10.0, 15.0, 22.0, 33.0, 47.0, 68.0,
];
const BUCKETS: usize = LATENCY_BOUNDS_SECONDS.len() + 1;

/// The book of one service. Clones are the same book.
#[derive(Clone, Debug)]
pub struct TraceBook {
    pages: Arc<Mutex<Pages>>,
    telemetry: Arc<Telemetry>,
}

/// How much a book holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Operations and signatures that are remembered, and those counted since the last take.
    pub entries: usize,
    /// About how many bytes all of it takes.
    pub bytes: usize,
}

#[derive(Debug)]
struct Pages {
    rule: Rule,
    sides: Sides<Option<Names>>,
    operations: Register<String>,
    signatures: Register<Signature>,
    periods: Sides<Period>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Signature {
    operation: String,
    kind: String,
    message: String,
}

/// What one side did since the last take.
#[derive(Debug, Default)]
struct Period {
    operations: BTreeMap<String, Counted>,
    signatures: BTreeMap<Signature, Shown>,
}

#[derive(Debug)]
struct Counted {
    requests: u64,
    errors: u64,
    latency: [u64; BUCKETS],
}

#[derive(Debug, Default)]
struct Shown {
    count: u64,
    examples: Vec<TraceId>,
}

impl TraceBook {
    /// A book without revisions: until it is told of some, every span is nobody's.
    pub fn new(rule: Rule, telemetry: Arc<Telemetry>) -> Self {
        let pages = Pages {
            rule,
            sides: Sides::default(),
            operations: Register::new(MAX_OPERATIONS, FORGET_OPERATION),
            signatures: Register::new(MAX_SIGNATURES, FORGET_SIGNATURE),
            periods: Sides::default(),
        };
        Self {
            pages: Arc::new(Mutex::new(pages)),
            telemetry,
        }
    }

    /// By what spans are attributed from now on.
    pub fn set_rule(&self, rule: Rule) {
        self.pages().rule = rule;
    }

    /// By what spans are attributed.
    pub fn rule(&self) -> Rule {
        self.pages().rule.clone()
    }

    /// Which revisions there are. What a canary has shown becomes stable's when it becomes stable, and is forgotten when
    /// it goes away. Saying the same again changes nothing.
    pub fn set_sides(&self, sides: Sides<Option<Names>>) {
        let mut pages = self.pages();
        if pages.sides == sides {
            return;
        }
        let id = |names: &Option<Names>| names.as_ref().map(|names| names.id.clone());
        let (before, now) = (
            Sides {
                canary: id(&pages.sides.canary),
                stable: id(&pages.sides.stable),
            },
            Sides {
                canary: id(&sides.canary),
                stable: id(&sides.stable),
            },
        );
        pages.sides = sides;
        let adopted = before.canary.is_some() && before.canary == now.stable;
        if adopted {
            pages.operations.adopt();
            pages.signatures.adopt();
            pages.periods.stable = std::mem::take(&mut pages.periods.canary);
        } else if before.stable != now.stable {
            pages.periods.stable = Period::default();
        }
        if before.canary != now.canary {
            pages.operations.forget_canary();
            pages.signatures.forget_canary();
            pages.periods.canary = Period::default();
        }
    }

    /// Whose spans carry these resource attributes. Counts nothing.
    pub fn side_of(&self, resource: &BTreeMap<String, String>) -> Belongs {
        let pages = self.pages();
        pages.rule.side_of(resource, &pages.sides)
    }

    /// Counts a span for the side that its resource attributes name.
    pub fn offer(&self, span: &ServerSpan, now: Timestamp) -> Belongs {
        let belongs = self.side_of(&span.resource);
        if let Belongs::To(side) = belongs {
            self.add(side, span, now);
        }
        belongs
    }

    /// Counts a span of `side`, for a source that asked for that side's spans. The caller sees to it that no span is
    /// counted twice.
    pub fn add(&self, side: Side, span: &ServerSpan, now: Timestamp) {
        let count = self.pages().add(side, span, now, &self.telemetry);
        self.telemetry.add(count, 1);
    }

    /// What both sides did since the last call; `None` for a side that sent nothing.
    pub fn take(&self) -> Sides<Option<Increment>> {
        let mut pages = self.pages();
        let Pages {
            periods, signatures, ..
        } = &mut *pages;
        let mut side = |side: Side| {
            let period = std::mem::take(side.of_mut(periods));
            (!period.operations.is_empty()).then(|| Increment::Operations(period.tell(signatures)))
        };
        Sides {
            canary: side(Side::Canary),
            stable: side(Side::Stable),
        }
    }

    /// How much it holds now.
    pub fn footprint(&self) -> Footprint {
        let pages = self.pages();
        let Pages {
            operations,
            signatures,
            periods,
            ..
        } = &*pages;
        let of = |signature: &Signature| {
            size_of::<Signature>()
                + signature.operation.capacity()
                + signature.kind.capacity()
                + signature.message.capacity()
        };
        let mut entries = operations.seen.len() + signatures.seen.len();
        let mut bytes: usize = operations
            .seen
            .keys()
            .map(|name| size_of::<String>() + name.capacity())
            .sum();
        bytes += signatures.seen.keys().map(of).sum::<usize>();
        bytes += entries * size_of::<Sides<Option<Timestamp>>>();
        for period in [&periods.canary, &periods.stable] {
            entries += period.operations.len() + period.signatures.len();
            bytes += period
                .operations
                .keys()
                .map(|name| size_of::<String>() + name.capacity() + size_of::<Counted>())
                .sum::<usize>();
            bytes += period
                .signatures
                .iter()
                .map(|(signature, shown)| {
                    of(signature) + size_of::<Shown>() + shown.examples.capacity() * size_of::<TraceId>()
                })
                .sum::<usize>();
        }
        Footprint { entries, bytes }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    /// Counts a span, and says as what.
    fn add(&mut self, side: Side, span: &ServerSpan, now: Timestamp, telemetry: &Telemetry) -> Count {
        if !span.seconds.is_finite() || span.seconds < 0.0 {
            return Count::Senseless;
        }
        if now.duration_since(span.at).abs() > MAX_AGE {
            return Count::Late;
        }
        let mut operation = normal::operation(&span.operation);
        if !self.operations.admit(side, &operation, now) {
            telemetry.add(Count::Operation, 1);
            operation = OTHER.to_owned();
        }
        let period = side.of_mut(&mut self.periods);
        let counted = period.operations.entry(operation.clone()).or_default();
        counted.requests += 1;
        counted.latency[LATENCY_BOUNDS_SECONDS.partition_point(|bound| *bound < span.seconds)] += 1;
        if let Some(error) = &span.error {
            counted.errors += 1;
            let mut signature = Signature {
                operation,
                kind: normal::kind(&error.kind),
                message: normal::message(&error.message),
            };
            if !self.signatures.admit(side, &signature, now) {
                telemetry.add(Count::Signature, 1);
                signature.kind = OTHER.to_owned();
                signature.message = String::new();
            }
            let shown = period.signatures.entry(signature).or_default();
            shown.count += 1;
            if shown.examples.len() < MAX_EXAMPLES && !shown.examples.contains(&span.trace) {
                shown.examples.push(span.trace);
            }
        }
        match side {
            Side::Canary => Count::OfCanary,
            Side::Stable => Count::OfStable,
        }
    }
}

impl Default for Counted {
    fn default() -> Self {
        Self {
            requests: 0,
            errors: 0,
            latency: [0; BUCKETS],
        }
    }
}

impl Period {
    fn tell(self, known: &Register<Signature>) -> Operations {
        let mut by_name: BTreeMap<String, OperationCounts> = self
            .operations
            .into_iter()
            .map(|(name, counted)| {
                let counts = OperationCounts {
                    requests: counted.requests as f64,
                    errors: counted.errors as f64,
                    latency: counted.latency.map(|count| count as f64).to_vec(),
                    signatures: Vec::new(),
                };
                (name, counts)
            })
            .collect();
        for (signature, shown) in self.signatures {
            let seen_on_stable = known.shown_by_stable(&signature);
            let Signature {
                operation,
                kind,
                message,
            } = signature;
            by_name.entry(operation).or_default().signatures.push(SignatureCounts {
                kind,
                message,
                count: shown.count as f64,
                seen_on_stable,
                examples: shown.examples.iter().map(TraceId::to_string).collect(),
            });
        }
        Operations {
            le: LATENCY_BOUNDS_SECONDS.into(),
            by_name,
        }
    }
}

/// Keys that have a place of their own, who has shown them, and when last.
#[derive(Debug)]
struct Register<K> {
    seen: BTreeMap<K, Seen>,
    /// Per side, the keys that it brought.
    brought: Sides<usize>,
    most: usize,
    forget_after: SignedDuration,
    swept: Option<Timestamp>,
}

#[derive(Debug)]
struct Seen {
    brought_by: Side,
    last: Sides<Option<Timestamp>>,
}

impl<K: Ord + Clone> Register<K> {
    fn new(most: usize, forget_after: SignedDuration) -> Self {
        Self {
            seen: BTreeMap::new(),
            brought: Sides::default(),
            most,
            forget_after,
            swept: None,
        }
    }

    /// Whether the key has a place, or gets one now.
    fn admit(&mut self, side: Side, key: &K, now: Timestamp) -> bool {
        if let Some(seen) = self.seen.get_mut(key) {
            *side.of_mut(&mut seen.last) = Some(now);
            return true;
        }
        if *side.of(&self.brought) >= self.most {
            self.sweep(now);
        }
        let brought = side.of_mut(&mut self.brought);
        if *brought >= self.most {
            return false;
        }
        *brought += 1;
        let mut last = Sides::default();
        *side.of_mut(&mut last) = Some(now);
        self.seen.insert(key.clone(), Seen { brought_by: side, last });
        true
    }

    fn shown_by_stable(&self, key: &K) -> bool {
        self.seen.get(key).is_some_and(|seen| seen.last.stable.is_some())
    }

    fn sweep(&mut self, now: Timestamp) {
        if self.swept.is_some_and(|at| now.duration_since(at) < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        let forget_after = self.forget_after;
        self.seen.retain(|_, seen| {
            let last = seen.last.canary.max(seen.last.stable);
            last.is_some_and(|last| now.duration_since(last) < forget_after)
        });
        self.count();
    }

    /// The canary has become stable: what it has shown is stable's now. What the old stable has shown stays known, as long
    /// as there is room.
    fn adopt(&mut self) {
        for seen in self.seen.values_mut() {
            seen.brought_by = Side::Stable;
            seen.last.stable = seen.last.stable.max(seen.last.canary.take());
        }
        while self.seen.len() > self.most {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| seen.last.stable);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            self.seen.remove(&oldest);
        }
        self.count();
    }

    fn forget_canary(&mut self) {
        self.seen.retain(|_, seen| {
            seen.last.canary = None;
            seen.brought_by = Side::Stable;
            seen.last.stable.is_some()
        });
        self.count();
    }

    fn count(&mut self) {
        let by = |side| self.seen.values().filter(|seen| seen.brought_by == side).count();
        self.brought = Sides {
            canary: by(Side::Canary),
            stable: by(Side::Stable),
        };
    }
}
