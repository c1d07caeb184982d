//! Without a router: the number of pods that carry the Services' label is the split.
//!
//! The canary's pods are born without the label. A weight of 20 % beside eight stable pods means that two of them are
//! given it; going back takes it away, which moves *new* connections within a second, without ending a pod. At 100 %
//! the Services are pinned to the canary, so that stable stays warm and untouched.

use crate::spec::Weight;

/// How many of `most` canary pods serve for a weight, beside `stable` pods: as near as whole pods allow, at least one.
pub fn serving(weight: Weight, stable: u32, most: u32) -> u32 {
    if weight.is_zero() {
        return 0;
    }
    if weight.is_full() || stable == 0 {
        return most;
    }
    let (share, rest) = (u64::from(weight.permille()), u64::from(weight.rest().permille()));
    let pods = (u64::from(stable) * share + rest / 2) / rest;
    u32::try_from(pods).unwrap_or(u32::MAX).clamp(1, most.max(1))
}

/// The weight that so many pods make.
pub fn weight_of(serving: u32, stable: u32) -> Weight {
    let all = u64::from(serving) + u64::from(stable);
    let permille = (u64::from(serving) * 1000).checked_div(all).unwrap_or(0);
    Weight::from_permille(u16::try_from(permille).unwrap_or(1000)).unwrap_or(Weight::FULL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_come_as_near_to_the_weight_as_they_can() {
        let weight = |percent: u16| Weight::from_permille(percent * 10).expect("a percentage");
        let cases = [
            (0, 4, 4, 0),
            (5, 4, 1, 1),
            (20, 8, 8, 2),
            (50, 4, 4, 4),
            (80, 4, 4, 4),
            (100, 4, 4, 4),
            (5, 0, 3, 3),
        ];
        for (percent, stable, most, expected) in cases {
            assert_eq!(
                serving(weight(percent), stable, most),
                expected,
                "{percent} % beside {stable}"
            );
        }
        assert_eq!(weight_of(2, 8), weight(20));
        assert_eq!(weight_of(0, 0), Weight::ZERO);
    }
}
