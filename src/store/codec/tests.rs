//! Nothing is lost on the way to disk and back.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::{decode, encode};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sample {
    floats: Vec<f64>,
    maybe: Option<f64>,
    count: u64,
    signed: i64,
    words: BTreeMap<String, String>,
}

fn bits(floats: &[f64]) -> Vec<u64> {
    floats.iter().map(|float| float.to_bits()).collect()
}

proptest! {
    #[test]
    fn every_value_comes_back_bit_for_bit(
        floats in proptest::collection::vec(any::<f64>().prop_filter("one NaN is like another", |f| !f.is_nan()), 0..8),
        maybe in proptest::option::of(prop_oneof![Just(f64::NEG_INFINITY), Just(f64::INFINITY), Just(-0.0)]),
        count in any::<u64>(),
        signed in any::<i64>(),
        words in proptest::collection::btree_map("\\$?\\$?(float|[a-z\"\\\\]*)", ".*", 0..4),
    ) {
        let sample = Sample { floats, maybe, count, signed, words };
        let text = encode(&sample).expect("words");
        let back: Sample = decode(&text).expect("a value");
        prop_assert_eq!(&back, &sample);
        prop_assert_eq!(bits(&back.floats), bits(&sample.floats));
        prop_assert_eq!(encode(&back).expect("words"), text);
    }
}

#[test]
fn infinities_are_readable_and_user_keys_are_not_mistaken_for_them() {
    let values = [f64::NEG_INFINITY, f64::INFINITY, 1.0, 0.1];
    assert_eq!(
        encode(&values).expect("words"),
        r#"[{"$float":"-inf"},{"$float":"inf"},1.0,0.1]"#
    );
    let mine = serde_json::json!({"$float": "-inf", "$$float": 1});
    let text = encode(&mine).expect("words");
    assert_eq!(text, r#"{"$$float":"-inf","$$$float":1}"#);
    assert_eq!(decode::<serde_json::Value>(&text).expect("a value"), mine);
    assert!(decode::<f64>(r#"{"$float":"nan"}"#).expect("a float").is_nan());
}

#[test]
fn nonsense_is_an_error_in_words() {
    for text in ["", "{", "null", r#"{"$float":"much"}"#, r#""x""#, "[1e999]"] {
        assert!(decode::<Sample>(text).is_err(), "{text}");
    }
    assert!(encode(&BTreeMap::from([(1, 2)])).is_err());
}
