//! Releases that a judge must leave alone, and releases that it must take back: METHOD.md's kinds, as values.
//!
//! Healthy ones differ from stable by chance alone or stay within what is allowed. What they have in common with real
//! services is that errors rarely come one by one: they come in clumps, from single pods, in swings and incidents, and
//! the measuring itself has gaps. Bad ones are worse by more than is allowed, from large to just visible, at once or
//! late, under the same conditions.

use super::service::{Behaviour, Clumps, FINE, Fault, Hiccups, Weather};

/// What the judge should say to a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// Never to be rolled back.
    Healthy,
    /// To be rolled back before everybody has it.
    Bad,
    /// A hiccup beyond what is promised: shown, not bounded.
    Beyond,
}

/// One kind of release.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scenario {
    /// A short name, unique.
    pub name: &'static str,
    /// What should become of it.
    pub truth: Truth,
    /// Requests per second on the whole service.
    pub rps: f64,
    /// Pods at full size.
    pub pods: u32,
    /// Seconds between two scrapes, and looks.
    pub every_s: f64,
    /// How both revisions answer.
    pub usual: Behaviour,
    /// How the new one answers, where that is not a matter of a [`Fault`] alone.
    pub new_usual: Option<Behaviour>,
    /// What both go through.
    pub weather: Weather,
    /// What is wrong with the new one.
    pub fault: Fault,
    /// Whether thirty minutes of stable's past are known.
    pub history: bool,
    /// The share of scrapes that are lost, on each side.
    pub missed: f64,
    /// Restarts of single pods per hour, on each side.
    pub restarts_per_hour: f64,
    /// Whether only the canary's pods restart.
    pub crash_loop: bool,
    /// A gauge besides errors and latency: its noise (standard deviation of its logarithm) and memory in seconds.
    pub gauge: Option<(f64, f64)>,
}

const CALM: Behaviour = Behaviour {
    errors: 0.002,
    clumps: None,
    hiccups: None,
    median_s: 0.04,
    spread: 0.6,
    tail: 0.01,
};

const HEALTHY: Scenario = Scenario {
    name: "",
    truth: Truth::Healthy,
    rps: 1000.0,
    pods: 20,
    every_s: 2.0,
    usual: CALM,
    new_usual: None,
    weather: Weather::Still,
    fault: FINE,
    history: true,
    missed: 0.0,
    restarts_per_hour: 0.0,
    crash_loop: false,
    gauge: None,
};

const BAD: Scenario = Scenario {
    truth: Truth::Bad,
    rps: 500.0,
    ..HEALTHY
};

const fn errors(share: f64) -> Behaviour {
    Behaviour { errors: share, ..CALM }
}

/// Nine of ten errors in clumps of one pod.
const fn clumped(share: f64, least: u64, most: u64) -> Behaviour {
    Behaviour {
        errors: share,
        clumps: Some(Clumps {
            share: 0.9,
            least,
            most,
        }),
        ..CALM
    }
}

const fn unwell(per_pod_hour: f64, from_s: f64, to_s: f64, fails: f64, slower: f64) -> Behaviour {
    Behaviour {
        hiccups: Some(Hiccups {
            per_pod_hour,
            seconds: (from_s, to_s),
            fails,
            slower,
        }),
        ..CALM
    }
}

const fn times(factor: f64) -> Fault {
    Fault {
        errors_times: factor,
        ..FINE
    }
}

const fn plus(share: f64) -> Fault {
    Fault {
        errors_plus: share,
        ..FINE
    }
}

const fn slower(factor: f64) -> Fault {
    Fault { slower: factor, ..FINE }
}

const DOWN: Fault = plus(1.0);

/// A canary that fails this share of its requests from the first on.
pub const fn failing(share: f64) -> Scenario {
    Scenario {
        name: "fails",
        fault: plus(share),
        ..BAD
    }
}

/// A healthy release of a calm service.
pub const fn calm(rps: f64) -> Scenario {
    Scenario {
        name: "calm",
        rps,
        ..HEALTHY
    }
}

/// Services whose errors come in bursts, for finding out how much of their past must be known. Where a pod has less
/// than one hiccup an hour, a canary that has its tolerance of them has none in most stages: no past helps there.
pub fn bursty() -> impl Iterator<Item = Scenario> {
    SCENARIOS.iter().copied().filter(|scenario| {
        let often = |own: Hiccups| own.fails > 0.0 && own.per_pod_hour >= 1.0;
        let bursts = scenario.usual.clumps.is_some() || scenario.usual.hiccups.is_some_and(often);
        scenario.truth == Truth::Healthy && scenario.history && bursts
    })
}

/// All of them, healthy ones first.
#[rustfmt::skip]
pub static SCENARIOS: [Scenario; 67] = [
    Scenario { name: "calm", ..HEALTHY },
    Scenario { name: "calm, 1 % errors", usual: errors(0.01), ..HEALTHY },
    Scenario { name: "calm, 5 % errors", usual: errors(0.05), ..HEALTHY },
    Scenario { name: "calm, no errors at all", usual: errors(0.0), ..HEALTHY },
    Scenario { name: "calm, 5000/s, 0.02 % errors", rps: 5000.0, usual: errors(0.0002), ..HEALTHY },
    Scenario { name: "low traffic, 20/s", rps: 20.0, usual: errors(0.005), ..HEALTHY },
    Scenario { name: "very low traffic, 2/s", rps: 2.0, every_s: 5.0, usual: errors(0.02), ..HEALTHY },
    Scenario { name: "scraped every second", every_s: 1.0, ..HEALTHY },
    Scenario { name: "scraped every 5 s", every_s: 5.0, ..HEALTHY },
    Scenario { name: "scraped every 15 s", every_s: 15.0, ..HEALTHY },
    Scenario { name: "a fifth of the scrapes lost", missed: 0.2, ..HEALTHY },
    Scenario { name: "pods restart", restarts_per_hour: 60.0, ..HEALTHY },
    Scenario { name: "error rate swings x3", weather: Weather::Swing { factor: 3.0, period_s: 300.0 }, ..HEALTHY },
    Scenario { name: "error rate wanders", weather: Weather::Wander { factor: 2.0 }, ..HEALTHY },
    Scenario { name: "traffic swings x3", weather: Weather::Tides { factor: 3.0, period_s: 400.0 }, ..HEALTHY },
    Scenario { name: "latency swings x2", weather: Weather::Sluggish { factor: 2.0, period_s: 400.0 }, ..HEALTHY },
    Scenario { name: "common incidents, 20 % fail", weather: Weather::Incidents { fails: 0.2, every_s: 400.0, lasts_s: 60.0 }, ..HEALTHY },
    Scenario { name: "common outages, all fail", weather: Weather::Incidents { fails: 0.98, every_s: 500.0, lasts_s: 30.0 }, ..HEALTHY },
    Scenario { name: "common incident, long", weather: Weather::Incidents { fails: 0.05, every_s: 900.0, lasts_s: 450.0 }, ..HEALTHY },
    Scenario { name: "errors in pairs and triples", usual: clumped(0.002, 2, 3), ..HEALTHY },
    Scenario { name: "pairs and triples, without history", usual: clumped(0.002, 2, 3), history: false, ..HEALTHY },
    Scenario { name: "errors in clumps of 10 to 30", usual: clumped(0.005, 10, 30), ..HEALTHY },
    Scenario { name: "clumps, without history", usual: clumped(0.005, 10, 30), history: false, ..HEALTHY },
    Scenario { name: "clumps, 200/s", rps: 200.0, usual: clumped(0.005, 10, 30), ..HEALTHY },
    Scenario { name: "clumps, 200/s, without history", rps: 200.0, usual: clumped(0.005, 10, 30), history: false, ..HEALTHY },
    Scenario { name: "rare clumps", usual: clumped(0.0003, 10, 30), ..HEALTHY },
    Scenario { name: "rare clumps, without history", usual: clumped(0.0003, 10, 30), history: false, ..HEALTHY },
    Scenario { name: "hiccups of pods, 30 % for 5-15 s", usual: unwell(2.0, 5.0, 15.0, 0.3, 1.0), ..HEALTHY },
    Scenario { name: "hiccups, without history", usual: unwell(2.0, 5.0, 15.0, 0.3, 1.0), history: false, ..HEALTHY },
    Scenario { name: "short outages of pods, 1-4 s", usual: unwell(2.0, 1.0, 4.0, 1.0, 1.0), ..HEALTHY },
    Scenario { name: "short outages, without history", usual: unwell(2.0, 1.0, 4.0, 1.0, 1.0), history: false, ..HEALTHY },
    Scenario { name: "rare hiccups, one an hour", usual: unwell(0.05, 5.0, 12.0, 0.5, 1.0), ..HEALTHY },
    Scenario { name: "pauses of pods, x10 slower for 1-3 s", usual: unwell(20.0, 1.0, 3.0, 0.0, 10.0), ..HEALTHY },
    Scenario { name: "cold start, x5 slower for 45 s", fault: Fault { cold: 5.0, cold_s: 45.0, ..FINE }, ..HEALTHY },
    Scenario { name: "within the margins: x1.08, 1.1x slower", usual: errors(0.01), fault: Fault { errors_times: 1.08, slower: 1.1, ..FINE }, ..HEALTHY },
    Scenario { name: "a noisy gauge", gauge: Some((0.1, 20.0)), ..HEALTHY },

    Scenario { name: "outages of pods, 5-8 s", truth: Truth::Beyond, usual: unwell(0.5, 5.0, 8.0, 1.0, 1.0), ..HEALTHY },
    Scenario { name: "outages of 5-8 s, without history", truth: Truth::Beyond, usual: unwell(0.5, 5.0, 8.0, 1.0, 1.0), history: false, ..HEALTHY },
    Scenario { name: "outages of pods, 10-15 s", truth: Truth::Beyond, usual: unwell(0.5, 10.0, 15.0, 1.0, 1.0), ..HEALTHY },
    Scenario { name: "hiccups of pods, 30 % for 60 s", truth: Truth::Beyond, usual: unwell(0.5, 60.0, 60.0, 0.3, 1.0), ..HEALTHY },

    Scenario { name: "down, 1000/s", rps: 1000.0, fault: DOWN, ..BAD },
    Scenario { name: "down, 100/s", rps: 100.0, fault: DOWN, ..BAD },
    Scenario { name: "down, 10/s", rps: 10.0, fault: DOWN, ..BAD },
    Scenario { name: "down, no history, 15 s scrapes", fault: DOWN, history: false, every_s: 15.0, ..BAD },
    Scenario { name: "half fails, 100/s", rps: 100.0, fault: plus(0.5), ..BAD },
    Scenario { name: "one pod in three is down", fault: plus(0.33), ..BAD },
    Scenario { name: "errors x2, 1000/s, 1 %", rps: 1000.0, usual: errors(0.01), fault: times(2.0), ..BAD },
    Scenario { name: "errors x3", usual: errors(0.01), fault: times(3.0), ..BAD },
    Scenario { name: "errors x5", fault: times(5.0), ..BAD },
    Scenario { name: "20 % fail, without history", fault: plus(0.2), history: false, ..BAD },
    Scenario { name: "errors x5, 5000/s, 0.02 %", rps: 5000.0, usual: errors(0.0002), fault: times(5.0), ..BAD },
    Scenario { name: "errors x20, 50/s", rps: 50.0, fault: times(20.0), ..BAD },
    Scenario { name: "no errors before, 1 % now", usual: errors(0.0), fault: plus(0.01), ..BAD },
    Scenario { name: "2 pp more in a swing", weather: Weather::Swing { factor: 3.0, period_s: 300.0 }, fault: plus(0.02), ..BAD },
    Scenario { name: "5 pp more in common incidents", weather: Weather::Incidents { fails: 0.2, every_s: 400.0, lasts_s: 60.0 }, fault: plus(0.05), ..BAD },
    Scenario { name: "x10 in clumps, 1000/s", rps: 1000.0, usual: clumped(0.005, 10, 30), fault: times(10.0), ..BAD },
    Scenario { name: "5 pp more beside hiccups", usual: unwell(2.0, 5.0, 15.0, 0.3, 1.0), fault: plus(0.05), ..BAD },
    Scenario { name: "down from minute 3", fault: Fault { from_s: 180.0, ..DOWN }, ..BAD },
    Scenario { name: "leak: to 10 % within 5 min", fault: Fault { ramp_s: 300.0, ..plus(0.1) }, ..BAD },
    Scenario { name: "3 % fail from 20 % of the traffic on", fault: Fault { from_weight: 0.2, ..plus(0.03) }, ..BAD },
    Scenario { name: "crash loop, a third of its requests fail", fault: plus(0.33), restarts_per_hour: 240.0, crash_loop: true, ..BAD },
    Scenario { name: "a third of the scrapes lost, 10 % fail", fault: plus(0.1), missed: 0.33, ..BAD },
    Scenario { name: "1.6x slower", fault: slower(1.6), ..BAD },
    Scenario { name: "3x slower, 100/s", rps: 100.0, fault: slower(3.0), ..BAD },
    Scenario { name: "3 % take a second longer", fault: Fault { stalls: 0.03, ..FINE }, ..BAD },
    Scenario { name: "1.7x slower while latency swings", rps: 1000.0, weather: Weather::Sluggish { factor: 2.0, period_s: 400.0 }, fault: slower(1.7), ..BAD },
    Scenario { name: "a gauge twice as high", gauge: Some((0.1, 20.0)), fault: Fault { gauge_times: 2.0, ..FINE }, ..BAD },
];
