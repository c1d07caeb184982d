//! Numbers, times and foreign text as a person reads them.

use std::borrow::Cow;

use jiff::SignedDuration;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::spec::{Span, Weight};

/// Time since the release began: `08:25`, with hours only once there are any.
pub fn clock(since: SignedDuration) -> String {
    let secs = since.as_secs().max(0);
    let (hours, minutes, seconds) = (secs / 3600, secs / 60 % 60, secs % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes:02}:{seconds:02}")
    }
}

/// A length of time in whole seconds, `5m 3s`; milliseconds only below one second.
pub fn length(duration: SignedDuration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(0);
    let shown = if millis < 1000 { millis } else { millis / 1000 * 1000 };
    Span::millis(shown).to_string()
}

/// A moment in `zone`, to the second: `2026-11-22 02:14:34 UTC`.
pub fn moment(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// A weight as the timeline's label has it: `  5 %`, `100 %`.
pub fn weight(weight: Weight) -> String {
    let plain = weight.to_string();
    format!("{:>3} %", plain.trim_end_matches('%'))
}

/// A count with separators: `25,900`. Fractions (counts can be rescaled) are rounded.
pub fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A share of 1 as a percentage: `30.3 %`, `0.05 %`, `100 %`.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent {
        p if p >= 1.0 || p <= 0.0 => 1,
        p if p >= 0.005 => 2,
        _ => 4,
    };
    format!("{} %", trimmed(format!("{percent:.digits$}")))
}

/// Evidence given as ln E, as odds: `3,100 to 1`. Cut, not rounded, so that it never reads as enough when it is not.
pub fn odds(ln_e: f64) -> String {
    // exp(ln(100)) may fall a hair below 100.
    let e = ln_e.exp() * (1.0 + 1e-9);
    match e {
        e if e >= 1e6 => "over a million to 1".to_owned(),
        e if e < 10.0 => format!("{} to 1", trimmed(format!("{:.1}", (e * 10.0).floor() / 10.0))),
        e => {
            let unit = 10f64.powi(e.log10().floor() as i32 - 1);
            format!("{} to 1", count((e / unit).floor() * unit))
        }
    }
}

/// A multiple: `x1.5`, `x12`.
pub fn times(ratio: f64) -> String {
    if ratio < 10.0 {
        format!("x{}", trimmed(format!("{ratio:.1}")))
    } else {
        format!("x{}", count(ratio))
    }
}

/// Three digits that count: `212`, `2.5`, `0.041`.
pub fn figure(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return "0".to_owned();
    }
    let digits = 2.0 - value.abs().log10().floor();
    trimmed(format!("{value:.0$}", digits.clamp(0.0, 9.0) as usize))
}

/// Seconds as `212 ms` or `2.5 s`.
pub fn seconds(secs: f64) -> String {
    if secs < 1.0 {
        format!("{} ms", figure(secs * 1000.0))
    } else {
        format!("{} s", figure(secs))
    }
}

/// The width that whole pages are written for.
pub const PAGE: usize = 80;

/// Text broken between words so that it fits a page when its first line begins in column `at`; the lines that follow are
/// indented to the same column and begin with `mark`. A word that is longer than a line stays whole: it may be an address.
pub fn wrapped(text: &str, at: usize, mark: &str) -> String {
    let mut out = String::new();
    for (index, line) in text.lines().enumerate() {
        if index > 0 {
            out.push_str(&format!("\n{:at$}{mark}", ""));
        }
        let mut length = at + if index > 0 { mark.chars().count() } else { 0 };
        let mut begun = false;
        // A number stays with its unit.
        let kept = line.replace(" %", "\u{a0}%").replace(" to 1", "\u{a0}to\u{a0}1");
        for word in kept.split(' ') {
            let more = word.chars().count();
            if begun && length + 1 + more > PAGE {
                out.push_str(&format!("\n{:at$}{mark}", ""));
                length = at + mark.chars().count();
                begun = false;
            }
            if begun {
                out.push(' ');
                length += 1;
            }
            out.push_str(&word.replace('\u{a0}', " "));
            length += more;
            begun = true;
        }
    }
    out
}

/// `1 pod`, `4 pods`.
pub fn counted(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{} {noun}s", count(number as f64))
    }
}

/// Foreign text without anything that moves a cursor, changes a colour or hides: control characters become spaces, line
/// breaks stay.
pub fn clean(text: &str) -> Cow<'_, str> {
    let playful = |c: char| c.is_control() && c != '\n' || is_direction(c);
    if text.contains(playful) {
        Cow::Owned(text.chars().map(|c| if playful(c) { ' ' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Characters that reorder what surrounds them.
const fn is_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn trimmed(decimal: String) -> String {
    if decimal.contains('.') {
        decimal.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        decimal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(clock(SignedDuration::from_secs(505)), "08:25");
        assert_eq!(clock(SignedDuration::from_secs(3_725)), "1:02:05");
        assert_eq!(clock(SignedDuration::from_secs(-5)), "00:00");
        assert_eq!(length(SignedDuration::from_millis(61_400)), "1m 1s");
        assert_eq!(length(SignedDuration::from_millis(140)), "140ms");
        assert_eq!([weight(Weight::ZERO), weight(Weight::FULL)], ["  0 %", "100 %"]);
        assert_eq!(weight(Weight::from_permille(5).unwrap()), "0.5 %");
        assert_eq!(
            [count(999.0), count(25_900.4), count(1e6)],
            ["999", "25,900", "1,000,000"]
        );
        assert_eq!(
            [percent(0.3029), percent(0.0009), percent(0.0)],
            ["30.3 %", "0.09 %", "0 %"]
        );
        assert_eq!(
            [odds(3149f64.ln()), odds(100f64.ln()), odds(0.0)],
            ["3,100 to 1", "100 to 1", "1 to 1"]
        );
        assert_eq!([times(1.52), times(303.0)], ["x1.5", "x303"]);
        assert_eq!(
            [seconds(0.2123), seconds(2.5), seconds(0.0)],
            ["212 ms", "2.5 s", "0 ms"]
        );
        assert_eq!([counted(1, "fault"), counted(1200, "pod")], ["1 fault", "1,200 pods"]);
    }

    #[test]
    fn long_text_is_broken_between_words() {
        let long = ["word"; 30].join(" ");
        for line in format!("{:10}{}", "", wrapped(&long, 10, "")).lines() {
            assert!(
                line.chars().count() <= PAGE && line.starts_with("          word"),
                "{line:?}"
            );
        }
        let address = format!("at {}", "x".repeat(100));
        assert_eq!(wrapped(&address, 4, ""), format!("at\n    {}", "x".repeat(100)));
        assert_eq!(wrapped("one\ntwo", 2, "| "), "one\n  | two");
    }

    #[test]
    fn foreign_text_cannot_play_with_the_terminal() {
        assert_eq!(clean("boom \u{1b}[2Jgone\r\nnext"), "boom  [2Jgone \nnext");
        assert_eq!(clean("abc\u{202e}fed"), "abc fed");
        assert!(matches!(clean("plain → text"), Cow::Borrowed(_)));
    }
}
