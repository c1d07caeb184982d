//! The small values that specs are written in: weights, durations, ratios, allowances, sizes.
//!
//! Each is a checked newtype with one text form, used alike in YAML, JSON, records and on the command line: it parses
//! from that form, prints it, and its JSON Schema carries a `format` by which the strict reader (`spec::read`) finds
//! the parser again, so that a bad value is reported together with all other faults.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A share of traffic in steps of 0.1 %, from 0 to 100 %. Text form: `5%`, `0.5%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// No traffic.
    pub const ZERO: Self = Self(0);
    /// All traffic.
    pub const FULL: Self = Self(1000);

    /// A weight from tenths of a percent; `None` above 1000.
    pub const fn from_permille(permille: u16) -> Option<Self> {
        if permille <= 1000 { Some(Self(permille)) } else { None }
    }

    /// Tenths of a percent, 0 to 1000.
    pub const fn permille(self) -> u16 {
        self.0
    }

    /// The share as a number from 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 1000.0
    }

    /// What is left for the other side: 100 % minus this.
    pub const fn rest(self) -> Self {
        Self(1000 - self.0)
    }

    /// Whether no traffic at all is meant.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether all traffic is meant.
    pub const fn is_full(self) -> bool {
        self.0 == 1000
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(10) {
            write!(f, "{}%", self.0 / 10)
        } else {
            write!(f, "{}.{}%", self.0 / 10, self.0 % 10)
        }
    }
}

impl FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help =
            || format!("`{text}` is not a weight; write a percentage from 0% to 100% in steps of 0.1, like `5%`");
        let number = text.strip_suffix('%').ok_or_else(help)?.trim_end();
        let value: f64 = number.parse().map_err(|_| help())?;
        let permille = value * 10.0;
        if !(0.0..=1000.0).contains(&permille) || (permille - permille.round()).abs() > 1e-9 {
            return Err(help());
        }
        Ok(Self(permille.round() as u16))
    }
}

/// A length of time. Text form as humantime reads it: `90s`, `5m`, `1h 30m`, `200ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// A span of whole seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// A span of milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// The span in seconds.
    pub fn as_secs_f64(self) -> f64 {
        self.0.as_secs_f64()
    }

    /// The span as jiff counts it, for arithmetic with timestamps.
    pub fn signed(self) -> jiff::SignedDuration {
        jiff::SignedDuration::try_from(self.0).unwrap_or(jiff::SignedDuration::MAX)
    }
}

/// The longest hiccup that is no news: a length of time, or as short as stable's past allows. Text form: `15s`, `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BurstWindow {
    /// Short if thirty minutes of history show that stable does not burst, else the default.
    Auto,
    /// This long.
    Of(Span),
}

impl BurstWindow {
    /// The length that is written, if one is.
    pub fn span(self) -> Option<Span> {
        match self {
            BurstWindow::Auto => None,
            BurstWindow::Of(span) => Some(span),
        }
    }
}

impl fmt::Display for BurstWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BurstWindow::Auto => f.write_str("auto"),
            BurstWindow::Of(span) => span.fmt(f),
        }
    }
}

impl FromStr for BurstWindow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(BurstWindow::Auto);
        }
        text.parse()
            .map(BurstWindow::Of)
            .map_err(|fault: String| format!("{fault}, or write `auto`"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = humantime::parse_duration(text).map_err(|error| {
            // The two commonest slips get words of their own.
            let problem = if text.starts_with('-') {
                "is negative".to_owned()
            } else if text.parse::<f64>().is_ok() {
                "has no unit".to_owned()
            } else {
                format!("is not a duration ({error})")
            };
            format!("`{text}` {problem}; write a number with a unit, like `90s`, `5m` or `1h`")
        })?;
        if duration > Duration::from_secs(366 * 86_400) {
            return Err(format!("`{text}` is longer than a year; write a shorter duration"));
        }
        Ok(Self(duration))
    }
}

/// A share or probability from 0 to 1. Text form: a percentage, `1%`, `0.05%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// From a number between 0 and 1; `None` outside.
    pub fn from_fraction(fraction: f64) -> Option<Self> {
        (0.0..=1.0).contains(&fraction).then_some(Self(fraction))
    }

    /// The share as a number from 0 to 1.
    pub const fn fraction(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", trim_number(self.0 * 100.0))
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_suffix("pp")
            .or_else(|| text.strip_suffix('%'))
            .and_then(|number| number.trim().parse::<f64>().ok())
            .and_then(|percent| Self::from_fraction(percent / 100.0))
            .ok_or_else(|| {
                format!("`{text}` is not a percentage; write a number from 0% to 100%, like `1%` or `0.05%`")
            })
    }
}

/// How much worse than stable the canary may be: `times` stable's value plus `plus`.
/// Text form: `1.1x + 0.02pp`, `1.2x`, `0.5pp` (then `times` is 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allow {
    /// Factor on stable's value, at least 1.
    pub times: f64,
    /// Absolute addition as a share (0.0002 for `0.02pp`).
    pub plus: f64,
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.plus > 0.0 {
            write!(f, "{}x + {}pp", trim_number(self.times), trim_number(self.plus * 100.0))
        } else {
            write!(f, "{}x", trim_number(self.times))
        }
    }
}

impl FromStr for Allow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = || {
            format!(
                "`{text}` is not an allowance; write a factor of at least 1 and, if wanted, percentage points, like `1.2x` or `1.1x + 0.02pp`"
            )
        };
        let (mut times, mut plus) = (None, None);
        for part in text.split('+').map(str::trim) {
            if let Some(number) = part.strip_suffix('x') {
                let value: f64 = number.trim().parse().map_err(|_| help())?;
                if times.replace(value).is_some() {
                    return Err(help());
                }
            } else if let Some(number) = part.strip_suffix("pp") {
                let value: f64 = number.trim().parse().map_err(|_| help())?;
                if plus.replace(value / 100.0).is_some() {
                    return Err(help());
                }
            } else {
                return Err(help());
            }
        }
        let allow = Self {
            times: times.unwrap_or(1.0),
            plus: plus.unwrap_or(0.0),
        };
        if (1.0..=1000.0).contains(&allow.times) && (0.0..=1.0).contains(&allow.plus) {
            Ok(allow)
        } else {
            Err(help())
        }
    }
}

/// A size in bytes. Text form: `512`, `64KiB`, `256MiB`, `2GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const BYTE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) = BYTE_UNITS
            .into_iter()
            .find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size))
            .unwrap_or(("", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = || format!("`{text}` is not a size; write a whole number with KiB, MiB or GiB, like `256MiB`");
        let (number, size) = BYTE_UNITS
            .into_iter()
            .find_map(|(unit, size)| text.strip_suffix(unit).map(|number| (number, size)))
            .ok_or_else(help)?;
        let count: u64 = number.trim().parse().map_err(|_| help())?;
        count.checked_mul(size).map(Self).ok_or_else(help)
    }
}

/// A number without trailing zeros and without the noise of binary fractions. Ten digits after the point: a share as
/// small as one in 10^9 must not be written as none.
pub(crate) fn trim_number(value: f64) -> String {
    let text = format!("{value:.10}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What the strict reader calls for a string whose schema names a `format` of ours.
pub(crate) fn check_format(format: &str, text: &str) -> Option<Result<(), String>> {
    Some(match format {
        "weight" => Weight::from_str(text).map(drop),
        "duration-words" => Span::from_str(text).map(drop),
        "burst-window" => BurstWindow::from_str(text).map(drop),
        "percent" => Percent::from_str(text).map(drop),
        "allowance" => Allow::from_str(text).map(drop),
        "bytes" => Bytes::from_str(text).map(drop),
        _ => return None,
    })
}

macro_rules! text_value {
    ($type:ident, $format:literal, $doc:literal, [$($example:literal),+]) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format, "description": $doc, "examples": [$($example),+] })
            }
        }
    };
}

text_value!(
    Weight,
    "weight",
    "A share of traffic from 0% to 100% in steps of 0.1%.",
    ["5%", "0.5%"]
);
text_value!(
    Span,
    "duration-words",
    "A length of time: a number with a unit, or several.",
    ["90s", "5m", "1h 30m"]
);
text_value!(
    BurstWindow,
    "burst-window",
    "A length of time, or `auto`: short if stable's history shows no bursts.",
    ["15s", "auto"]
);
text_value!(
    Percent,
    "percent",
    "A share or probability from 0% to 100%.",
    ["1%", "0.05%"]
);
text_value!(
    Allow,
    "allowance",
    "How much worse than stable: a factor and, if wanted, percentage points.",
    ["1.1x + 0.02pp", "1.2x"]
);
text_value!(Bytes, "bytes", "A size in bytes with KiB, MiB or GiB.", ["256MiB"]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_read_back_as_they_were_written() {
        for text in ["0%", "5%", "0.1%", "99.9%", "100%"] {
            assert_eq!(text.parse::<Weight>().map(|w| w.to_string()), Ok(text.to_owned()));
        }
        for text in ["1.1x + 0.02pp", "1.2x", "1x + 0.5pp"] {
            assert_eq!(text.parse::<Allow>().map(|a| a.to_string()), Ok(text.to_owned()));
        }
        for text in ["256MiB", "3KiB", "0", "1000"] {
            assert_eq!(text.parse::<Bytes>().map(|b| b.to_string()), Ok(text.to_owned()));
        }
        for text in ["auto", "15s"] {
            assert_eq!(text.parse::<BurstWindow>().map(|w| w.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("1%".parse::<Percent>().map(|p| p.to_string()), Ok("1%".to_owned()));
        assert_eq!("1h 30m".parse::<Span>().map(|s| s.to_string()), Ok("1h 30m".to_owned()));
    }

    #[test]
    fn values_outside_their_range_are_refused() {
        for text in ["101%", "-1%", "5", "0.05%", "x%", "NaN%", "inf%", ""] {
            assert!(text.parse::<Weight>().is_err(), "{text}");
        }
        for text in ["0.9x", "1.1", "1.1x + 1.2x", "x", "1x + -1pp", "NaNx"] {
            assert!(text.parse::<Allow>().is_err(), "{text}");
        }
        for text in ["-5s", "5", "soon", "2000 years"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
            assert!(text.parse::<BurstWindow>().is_err(), "{text}");
        }
    }
}
