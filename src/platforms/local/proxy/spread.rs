//! Which revision the next request goes to, so that the share is exact and nobody can fall in step with it.
//!
//! Chance would be simple and wrong: at 5 % of 1,000 requests it gives anything from 3.6 % to 6.4 %, and the judge
//! would have to carry that spread. Counting ("every 20th") is exact, and a client that always sends its requests in
//! twenties would see one revision only. So: the split is a line of 1000 points, and request *i* takes the point
//! `i * 619 mod 1000`. 619 has no factor in common with 1000 and is close to the golden section, which gives both:
//!
//! * every 1000 requests in a row visit every point once: the share of any such window is exact to the permille;
//!   shorter windows stay within about three requests of it (low discrepancy);
//! * requests taken at any step *d* that divides 1000 (one client of *d* in lockstep) visit `1000 / d` points at
//!   equal distances *d*: their share is off by less than `d / 1000` of a whole, whichever of the *d* clients it is.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::routes::WHOLE_PERMILLE;

const WHOLE: usize = WHOLE_PERMILLE as usize;
const STEP: usize = 619;

/// Where the count stands; it goes on when weights change, so that flipping them often cannot favour anyone.
#[derive(Debug, Default)]
pub(super) struct Turn(AtomicUsize);

impl Turn {
    /// The next point on the line, below 1000.
    pub(super) fn next_point(&self) -> usize {
        // Reduced before the product, or the wrap at 2^64 would break the period once in a blue moon's lifetime.
        (self.0.fetch_add(1, Ordering::Relaxed) % WHOLE) * STEP % WHOLE
    }
}

/// Which part of the line belongs to whom.
#[derive(Debug)]
pub(super) struct Line(Option<Box<[u8; WHOLE]>>);

impl Line {
    /// Weights in permille, in order; they sum to 1000 or to 0. At most 256 of them.
    pub(super) fn new(weights: impl IntoIterator<Item = u16>) -> Self {
        let mut owners = Vec::with_capacity(WHOLE);
        for (index, weight) in weights.into_iter().enumerate() {
            let owner = u8::try_from(index).expect("routes hold at most MAX_BACKENDS");
            owners.extend(std::iter::repeat_n(owner, usize::from(weight)));
        }
        Self(owners.into_boxed_slice().try_into().ok())
    }

    /// Whose turn it is; `None` when all weights are 0.
    pub(super) fn owner(&self, turn: &Turn) -> Option<usize> {
        self.0.as_ref().map(|owners| usize::from(owners[turn.next_point()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(weights: [u16; 2], count: usize) -> Vec<usize> {
        let (line, turn) = (Line::new(weights), Turn::default());
        (0..count)
            .map(|_| line.owner(&turn).expect("weights sum to 1000"))
            .collect()
    }

    #[test]
    fn any_thousand_in_a_row_are_exact() {
        for weight in [1, 7, 50, 333, 500, 999] {
            for window in picks([1000 - weight, weight], 2500).windows(1000) {
                assert_eq!(window.iter().sum::<usize>(), usize::from(weight));
            }
        }
    }

    #[test]
    fn short_windows_stay_close() {
        for weight in [10, 50, 200, 500] {
            let picked = picks([1000 - weight, weight], 2000);
            for length in [20, 50, 100, 250] {
                for window in picked.windows(length) {
                    let expected = length as f64 * f64::from(weight) / 1000.0;
                    let off = window.iter().sum::<usize>() as f64 - expected;
                    assert!(off.abs() < 3.0, "{weight} permille, {length} requests: off by {off}");
                }
            }
        }
    }

    #[test]
    fn clients_in_lockstep_get_their_share() {
        for clients in [2, 4, 5, 10, 20, 50] {
            let picked = picks([950, 50], 1000);
            for client in 0..clients {
                let own: usize = picked.iter().skip(client).step_by(clients).sum();
                let expected = 50.0 / clients as f64;
                assert!(
                    (own as f64 - expected).abs() <= 1.0,
                    "{clients} clients, number {client}: {own}"
                );
            }
        }
    }

    #[test]
    fn no_weights_no_owner() {
        assert_eq!(Line::new([0, 0]).owner(&Turn::default()), None);
    }
}
