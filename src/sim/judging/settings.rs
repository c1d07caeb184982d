//! The judges that are tried: METHOD.md's own settings, Wade's, and Wade's with `burstWindow: auto`.

use std::sync::Arc;

use super::scenarios::Scenario;
use super::service::BOUNDS;
use super::trial::Look;
use crate::judge::config::{
    Blocks, Config, ErrorsConfig, GaugeConfig, LatencyConfig, MetricConfig, MetricKind, Tripwire,
};
use crate::judge::{Call, Counter, History, Increment, Judge, Observation, Sides};

/// A way to configure the judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settings {
    /// METHOD.md's reference: windows of 15 s and 5 s whatever the scrapes, no absolute allowance.
    Reference,
    /// What Wade does when nothing is said: the severe channel follows the scrapes.
    Usual,
    /// The same with `burstWindow: auto`.
    Auto,
    /// The usual settings with a tripwire besides: more than 5 % errors in two looks in a row.
    Tripwire,
}

impl Settings {
    /// All of them, in the order of a table.
    pub const ALL: [Settings; 4] = [Settings::Reference, Settings::Usual, Settings::Auto, Settings::Tripwire];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Settings::Reference => "reference",
            Settings::Usual => "default",
            Settings::Auto => "auto",
            Settings::Tripwire => "tripwire",
        }
    }

    /// The judge's configuration for a service like this.
    pub fn config(self, scenario: &Scenario) -> Config {
        let mut errors = ErrorsConfig::default();
        let mut latency = LatencyConfig::default();
        let mut config = Config::default();
        match self {
            Settings::Reference => errors.allow_abs = 0.0,
            Settings::Usual => {}
            Settings::Auto => config.when_calm = Some(Blocks::calm(scenario.every_s)),
            Settings::Tripwire => {
                errors.tripwire = Some(Tripwire {
                    max_ratio: 0.05,
                    looks: 2,
                    min_requests: 20.0,
                });
            }
        }
        if self != Settings::Reference {
            config = config.with_severe_blocks_for(scenario.every_s);
            latency.pass_of_total_traffic = errors.pass.of_total_traffic;
        }
        config.metrics = vec![
            MetricConfig::new(ERRORS, MetricKind::Errors(errors)),
            MetricConfig::new(LATENCY, MetricKind::Latency(latency)),
        ];
        if scenario.gauge.is_some() {
            let gauge = MetricKind::Gauge(GaugeConfig::default());
            config.metrics.push(MetricConfig::new(GAUGE, gauge));
        }
        config
    }
}

const ERRORS: &str = "errors";
const LATENCY: &str = "latency";
const GAUGE: &str = "lag";

/// A judge that reads scraped sums.
pub struct Reader {
    judge: Judge,
    counters: Sides<Counter>,
    le: Arc<[f64]>,
}

impl Reader {
    /// A judge for one release.
    pub fn new(config: Config, history: Option<&History>) -> Self {
        Reader {
            judge: Judge::new(config, history),
            counters: Sides::default(),
            le: BOUNDS.into(),
        }
    }

    /// One look.
    pub fn look(&mut self, look: &Look<'_>) -> Call {
        self.judge
            .start_stage(look.stage, look.stage_at_s, look.plan.next_weight);
        let counts = Sides {
            canary: look.canary.and_then(|sums| self.counters.canary.increments(Some(sums))),
            stable: look.stable.and_then(|sums| self.counters.stable.increments(Some(sums))),
        };
        let errors = |counts: &Vec<f64>| Increment::Counts {
            total: counts[0],
            bad: counts[1],
        };
        let latency = |counts: &Vec<f64>| Increment::Histogram {
            le: Arc::clone(&self.le),
            counts: counts[2..].to_vec(),
        };
        let mut seen = Observation::default();
        let both = |read: &dyn Fn(&Vec<f64>) -> Increment| Sides {
            canary: counts.canary.as_ref().map(read),
            stable: counts.stable.as_ref().map(read),
        };
        seen.metrics.insert(ERRORS.to_owned(), both(&errors));
        seen.metrics.insert(LATENCY.to_owned(), both(&latency));
        if let Some((canary, stable)) = look.gauge {
            let sides = Sides {
                canary: Some(Increment::Value(canary)),
                stable: Some(Increment::Value(stable)),
            };
            seen.metrics.insert(GAUGE.to_owned(), sides);
        }
        self.judge.take_in(look.t_s, &seen).call
    }
}
