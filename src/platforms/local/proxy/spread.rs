//! Which revision the next request goes to, so that the share is exact and nobody can fall in step with it.
//!
//! Chance would be simple and wrong: at 5 % of 1,000 requests it gives anything from 3.6 % to 6.4 %, and the judge
//! would have to carry that spread. Counting ("every 20th") is exact, and a client that always sends its requests in
//! twenties would see one revision only. So: the split is a line of 1000 points, and request *i* takes the point
//! `i * 703 mod 1000`. 703 has no factor in common with 1000, and 703/1000 is a continued fraction of ones and twos
//! only (0; 1, 2, 2, 1, 2, 1, 1, 1, 2, 1, 2), which is what makes multiples of the golden section spread so evenly:
//!
//! * every 1000 requests in a row visit every point once: the share of any such window is exact to the permille;
//! * any other window, at any weight, is off by less than 3.5 requests (computed for all of them, see the tests);
//! * requests taken at a step *d* that divides 1000 (one of *d* clients in lockstep) visit `1000 / d` points at equal
//!   distances: each client gets its share, to one request.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::routes::WHOLE_PERMILLE;

const WHOLE: usize = WHOLE_PERMILLE as usize;
const STEP: usize = 703;

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
    fn no_window_of_any_length_is_off_by_more_than_three_and_a_half() {
        for weight in 1..1000 {
            // How far the canary is ahead of its share, in thousandths; a window's error is a difference of two of these.
            let mut ahead = vec![0];
            for pick in picks([1000 - weight, weight], 1000) {
                let last = ahead[ahead.len() - 1];
                ahead.push(last + i64::try_from(pick * 1000).expect("0 or 1000") - i64::from(weight));
            }
            let spread = ahead.iter().max().expect("not empty") - ahead.iter().min().expect("not empty");
            assert!(spread < 3_500, "{weight} permille: {spread} thousandths");
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
