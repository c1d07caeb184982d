//! From counters that reset, come late or vanish to the judge: no evidence comes out of nothing.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::judge::{Call, Config, Judge};

/// A pod that serves, restarts and is scraped now and then.
struct Pod {
    name: String,
    side: Side,
    /// What its process counted: requests that went well, and those that did not.
    counted: [f64; 2],
    alive: bool,
    /// A scrape that is on its way longer than others.
    late: Option<PodScrape>,
}

impl Pod {
    fn scrape(&self, secs: i64) -> PodScrape {
        let [good, bad] = self.counted;
        let mut text = format!("http_requests_total{{code=\"200\"}} {good}");
        // A series appears with its first event.
        if bad > 0.0 {
            text += &format!("\nhttp_requests_total{{code=\"500\"}} {bad}");
        }
        pod(&self.name, self.side, secs, &text)
    }
}

/// Events of one side: all, and the bad ones.
type Events = Sides<[f64; 2]>;

/// Plays a minute and a half of a service whose canary never fails, through everything that happens to counters.
/// `look` sees each sample, and what really happened since Wade began.
fn play(seed: u64, mut look: impl FnMut(i64, Sample, &Events)) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut pods: Vec<Pod> = (0..9)
        .map(|number| Pod {
            name: format!("pod-{number}"),
            side: if number < 3 { Side::Canary } else { Side::Stable },
            counted: [f64::from(number * 1000), if number < 3 { 0.0 } else { 40.0 }],
            alive: true,
            late: None,
        })
        .collect();
    let mut tally = tally();
    let first = pods.iter().map(|pod| pod.scrape(0)).collect();
    tally.round(at(0), round(first));
    drop(tally.take(at(0)));
    let mut truth = Events::default();
    for secs in 1..90 {
        if rng.random_bool(0.05) {
            let side = if rng.random_bool(0.5) {
                Side::Canary
            } else {
                Side::Stable
            };
            pods.push(Pod {
                name: format!("late-pod-{secs}"),
                side,
                counted: [0.0; 2],
                alive: true,
                late: None,
            });
        }
        let mut scrapes = Vec::new();
        for pod in &mut pods {
            if rng.random_bool(0.02) {
                pod.alive = !pod.alive;
                // Who comes back has forgotten everything.
                pod.counted = [0.0; 2];
            }
            if !pod.alive {
                continue;
            }
            let good = f64::from(rng.random_range(0..30_u32));
            let bad = match pod.side {
                Side::Canary => 0.0,
                Side::Stable => f64::from(rng.random_range(0..3_u32)),
            };
            pod.counted[0] += good;
            pod.counted[1] += bad;
            let events = pod.side.of_mut(&mut truth);
            events[0] += good + bad;
            events[1] += bad;
            match rng.random_range(0..10) {
                // Lost.
                0 => {}
                // Held up; what it says is old when it comes.
                1 => pod.late = Some(pod.scrape(secs)),
                2 if pod.late.is_some() => scrapes.extend(pod.late.take()),
                _ => scrapes.push(pod.scrape(secs)),
            }
        }
        tally.round(at(secs), round(scrapes));
        look(secs, tally.take(at(secs)), &truth);
    }
}

#[test]
fn what_is_counted_never_exceeds_what_happened() {
    let mut most = 0.0;
    for seed in 0..200 {
        let mut counted = Events::default();
        play(seed, |secs, sample, truth| {
            let Some(sides) = sample.observation.metrics.get(ERRORS) else {
                return;
            };
            for side in [Side::Canary, Side::Stable] {
                if let Some(Increment::Counts { total, bad }) = side.of(sides) {
                    let sums = side.of_mut(&mut counted);
                    sums[0] += total;
                    sums[1] += bad;
                }
                let (seen, real) = (side.of(&counted), side.of(truth));
                assert!(
                    seen[0] <= real[0] && seen[1] <= real[1],
                    "seed {seed}, {secs} s, {side:?}: counted {seen:?} of {real:?}"
                );
            }
            most = f64::max(most, counted.stable[0]);
        });
    }
    assert!(most > 1000.0, "nothing was counted at all");
}

#[test]
fn a_canary_that_never_fails_has_no_evidence_against_it_whatever_its_counters_do() {
    let mut looks = 0;
    for seed in 0..200 {
        let mut judge = Judge::new(Config::default(), None);
        judge.start_stage(0, 0.0, 0.5);
        play(seed, |secs, sample, _| {
            let verdict = judge.look(secs as f64, &sample.observation);
            assert!(
                verdict.call != Call::Fail && verdict.evidence <= 1e-9,
                "seed {seed}, {secs} s: {}",
                verdict.reason
            );
            looks += usize::from(!sample.observation.metrics.is_empty());
        });
    }
    assert!(looks > 10_000, "{looks} looks had something to say");
}
