//! Keeping a user on one revision, by a cookie that names the user and not the revision.
//!
//! A cookie that names the revision is the obvious way, and it breaks progressive delivery: whoever saw stable at 5 %
//! stays on stable at 50 %, so the canary gets new users only and the judge waits for traffic that does not come. Here
//! the cookie is an opaque random number, and *weighted rendezvous hashing* says where that number lives: each
//! revision of weight `w` draws `u` in (0, 1) from (number, revision) and scores `w / -ln u`; the highest score wins
//! (Schindelhauer & Schomaker 2005, "Weighted distributed hash tables"). What follows from it:
//!
//! * among users, shares equal the weights, at every weight, not only for new users;
//! * when the canary's weight grows, its users stay, and only as many others join as the weight says;
//! * when it goes to 0, or the revision goes away, its users leave with their next request, and no cookie is left
//!   that points nowhere. If it comes back, the same users see it: nobody meets both versions in turn;
//! * another release draws anew: it is not always the same people who go first;
//! * nothing is stored, so a restart of the proxy changes nothing.
//!
//! A new user goes where the exact split says, and gets a number that lives there. A cookie that is not a number of ours is
//! replaced. It is not signed: forging one only chooses a revision that real users see too.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// Tries for a number that lives at a given revision. At a weight of 1 permille about 1,000 are needed; that this
/// many are not enough has a chance of 1 in 10 million, and then this user gets their cookie with a later request.
const MINT_TRIES: usize = 1 << 14;

/// Who a cookie stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UserNumber(u64);

impl UserNumber {
    pub(super) fn parse(cookie: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(cookie).ok().filter(|text| text.len() == 16)?;
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl std::fmt::Display for UserNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One revision as the lottery sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    salt: u64,
    weight: f64,
}

impl Ticket {
    pub(super) fn new(revision: &str, weight: u16) -> Self {
        let digest = Sha256::digest(revision.as_bytes());
        let salt = digest.iter().take(8).fold(0, |salt, byte| salt << 8 | u64::from(*byte));
        Self {
            salt,
            weight: f64::from(weight),
        }
    }

    fn score(&self, user: UserNumber) -> f64 {
        // 53 bits, and a half so that it is never 0 or 1.
        let uniform = ((mix(user.0 ^ self.salt) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        self.weight / -uniform.ln()
    }
}

/// Where a user lives: the index of the winning ticket, `None` if no ticket has a weight.
pub(super) fn home(tickets: &[Ticket], user: UserNumber) -> Option<usize> {
    let weighty = tickets.iter().enumerate().filter(|(_, ticket)| ticket.weight > 0.0);
    weighty
        .max_by(|(_, a), (_, b)| a.score(user).total_cmp(&b.score(user)))
        .map(|(index, _)| index)
}

/// Where new numbers come from.
#[derive(Debug)]
pub(super) struct Mint(AtomicU64);

impl Mint {
    /// A mint whose numbers cannot be guessed from outside; `RandomState` is the standard library's seed.
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(RandomState::new().hash_one("wade sticky cookie")))
    }

    /// A number that lives at the ticket of this index.
    pub(super) fn user_of(&self, tickets: &[Ticket], index: usize) -> Option<UserNumber> {
        let numbers = std::iter::repeat_with(|| UserNumber(mix(self.0.fetch_add(1, Ordering::Relaxed))));
        numbers
            .take(MINT_TRIES)
            .find(|user| home(tickets, *user) == Some(index))
    }
}

/// The finaliser of SplitMix64 (Steele, Lea & Flood 2014): every bit of the input moves half of the output's.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(canary: u16) -> [Ticket; 2] {
        [Ticket::new("stable", 1000 - canary), Ticket::new("canary", canary)]
    }

    #[test]
    fn growth_keeps_the_canarys_users_and_shares_follow_the_weights() {
        let users = || (0..20_000).map(|n| UserNumber(mix(n)));
        for (before, after) in [(1, 50), (50, 200), (200, 500), (500, 1000)] {
            let mut on_canary = 0;
            for user in users() {
                let was = home(&tickets(before), user);
                let is = home(&tickets(after), user);
                assert!(
                    was == Some(0) || is == Some(1),
                    "a canary user went back as the weight grew"
                );
                on_canary += usize::from(is == Some(1));
            }
            let share = on_canary as f64 / 20_000.0;
            assert!(
                (share - f64::from(after) / 1000.0).abs() < 0.02,
                "{after} permille became {share}"
            );
        }
    }

    #[test]
    fn at_weight_zero_everyone_leaves() {
        assert!((0..1000).all(|n| home(&tickets(0), UserNumber(n)) == Some(0)));
    }

    #[test]
    fn a_minted_user_lives_where_they_were_sent_and_reads_back() {
        let (mint, tickets) = (Mint::new(), tickets(50));
        for index in [0, 1] {
            let user = mint.user_of(&tickets, index).expect("50 permille is easily found");
            let read = UserNumber::parse(user.to_string().as_bytes());
            assert_eq!((read, home(&tickets, user)), (Some(user), Some(index)));
        }
    }
}
