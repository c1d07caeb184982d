//! When a release may begin: deploy windows and freezes, as people in a time zone mean them.
//!
//! `verdict(now)` is a function of the instant alone. Windows are clock times in a named zone, so "09:00 to 16:30 in
//! Berlin" stays that through summer time. The days on which clocks change follow RFC 5545, as calendars do: a time
//! that is skipped means the instant just as far after the gap (02:30 becomes 03:30), a time that comes twice means
//! its first coming. A window's end is not part of it. A freeze wins over every window.
//!
//! Going back to stable never asks here, and what cannot be read counts as closed: a window is a promise to people
//! that nothing moves outside of it. (`validate` reports unreadable ones long before.)

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

use super::rollout::{Day, Freeze, OpenWindow, Windows};

/// Whether a release may begin now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowVerdict {
    /// It may.
    Open,
    /// It may not.
    Closed {
        /// The reason, as a person would say it.
        why: String,
        /// When it may; `None` if that is not known or never.
        opens: Option<Timestamp>,
    },
}

impl Windows {
    /// Whether a release may begin at `now`, and if not, when.
    pub fn verdict(&self, now: Timestamp) -> WindowVerdict {
        match self.closed(now) {
            None => WindowVerdict::Open,
            Some(closed) => WindowVerdict::Closed {
                why: closed.why,
                opens: closed.until.and_then(|until| self.next_open(until)),
            },
        }
    }

    /// The first instant from `at` on at which everything is open.
    fn next_open(&self, mut at: Timestamp) -> Option<Timestamp> {
        // Each round leaves a freeze for good or reaches the start of a window, which only a freeze can spoil.
        for _ in 0..=2 * (self.freezes.len() + 1) {
            match self.closed(at) {
                None => return Some(at),
                Some(closed) => at = closed.until.filter(|until| *until > at)?,
            }
        }
        None
    }

    fn closed(&self, at: Timestamp) -> Option<Closed> {
        let mut frozen = self.freezes.iter().filter_map(|freeze| freeze.closed(at));
        if let Some(closed) = frozen.next() {
            return Some(closed);
        }
        if self.open.is_empty() || self.open.iter().any(|window| window.contains(at)) {
            return None;
        }
        let times: Vec<String> = self.open.iter().map(ToString::to_string).collect();
        Some(Closed {
            why: format!("outside of the deploy windows ({})", times.join("; ")),
            until: self.open.iter().filter_map(|window| window.next_start(at)).min(),
        })
    }
}

/// Why not, and the next instant at which it is worth asking again.
struct Closed {
    why: String,
    until: Option<Timestamp>,
}

impl std::fmt::Display for OpenWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (position, day) in self.days.iter().enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            write!(f, "{comma}{day:?}")?;
        }
        if !self.days.is_empty() {
            f.write_str(" ")?;
        }
        write!(f, "{} to {} {}", self.from, self.to, self.zone)
    }
}

impl OpenWindow {
    /// From when to when the window that begins on `date` is open; `None` if none does, or it cannot be read.
    fn on(&self, date: Date) -> Option<(Timestamp, Timestamp)> {
        if !self.days.is_empty() && !self.days.iter().any(|day| weekday(*day) == date.weekday()) {
            return None;
        }
        let zone = zone(&self.zone).ok()?;
        let (from, to) = (time_of_day(&self.from).ok()?, end_of_window(&self.to).ok()?);
        let end = match to {
            Some(to) if to > from => date.to_datetime(to),
            Some(to) => date.tomorrow().ok()?.to_datetime(to),
            None => date.tomorrow().ok()?.to_datetime(Time::midnight()),
        };
        Some((instant(date.to_datetime(from), &zone)?, instant(end, &zone)?))
    }

    fn contains(&self, at: Timestamp) -> bool {
        // An overnight window that is open now began yesterday.
        self.days_around(at, -1, 0).any(|(from, to)| (from..to).contains(&at))
    }

    fn next_start(&self, at: Timestamp) -> Option<Timestamp> {
        self.days_around(at, 0, 8).map(|(from, _)| from).find(|from| *from > at)
    }

    /// The windows that begin between `first` and `last` days after the local day of `at`.
    fn days_around(&self, at: Timestamp, first: i64, last: i64) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let today = zone(&self.zone).ok().map(|zone| at.to_zoned(zone).date());
        (first..=last).filter_map(move |days| self.on(today?.checked_add(days.days()).ok()?))
    }
}

impl Freeze {
    /// First instant of the freeze and the first after it.
    pub(super) fn span(&self) -> Result<(Timestamp, Timestamp), String> {
        let zone = zone(self.zone.as_deref().unwrap_or("UTC"))?;
        let far = |text: &str| format!("`{text}` is not within the years that can be counted");
        let from = match moment(&self.from)? {
            Moment::Day(date) => date.to_datetime(Time::midnight()),
            Moment::Instant(at) => at,
        };
        let to = match moment(&self.to)? {
            Moment::Day(date) => date
                .tomorrow()
                .map_err(|_| far(&self.to))?
                .to_datetime(Time::midnight()),
            Moment::Instant(at) => at,
        };
        let from = instant(from, &zone).ok_or_else(|| far(&self.from))?;
        let to = instant(to, &zone).ok_or_else(|| far(&self.to))?;
        Ok((from, to))
    }

    fn closed(&self, at: Timestamp) -> Option<Closed> {
        let zone = self.zone.as_deref().unwrap_or("UTC");
        match self.span() {
            Ok((from, to)) if (from..to).contains(&at) => Some(Closed {
                why: format!("frozen from {} to {} ({zone}): {}", self.from, self.to, self.why),
                until: Some(to),
            }),
            Ok(_) => None,
            Err(problem) => Some(Closed {
                why: format!("a freeze cannot be read: {problem}"),
                until: None,
            }),
        }
    }
}

/// A time of day, `09:00` or `09:00:30`.
pub(super) fn time_of_day(text: &str) -> Result<Time, String> {
    let shaped = matches!(text.len(), 5 | 8) && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
    shaped
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| format!("`{text}` is not a time of day; write hours and minutes, like `09:00`"))
}

/// As [`time_of_day`], with `24:00` (as `None`) for the end of the day.
pub(super) fn end_of_window(text: &str) -> Result<Option<Time>, String> {
    if text == "24:00" {
        return Ok(None);
    }
    time_of_day(text).map(Some)
}

/// A time zone by its IANA name, from the database bundled with Wade.
pub(super) fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| format!("`{name}` is not a time zone; write its IANA name, like `Europe/Berlin`"))
}

enum Moment {
    Day(Date),
    Instant(DateTime),
}

fn moment(text: &str) -> Result<Moment, String> {
    let help = || {
        format!(
            "`{text}` is neither a date nor a date with time; write `2026-12-20` or `2026-12-20T18:00`, the zone apart"
        )
    };
    if text.contains(['T', 't', ' ']) {
        // An offset in the text would be ignored beside `zone`; jiff takes `[zone]`, `+01:00` and `Z`, so look first.
        let clock = text.split(['T', 't', ' ']).nth(1).unwrap_or_default();
        if !clock.bytes().all(|byte| byte.is_ascii_digit() || byte == b':') {
            return Err(help());
        }
        return text.parse().map(Moment::Instant).map_err(|_| help());
    }
    text.parse().map(Moment::Day).map_err(|_| help())
}

fn instant(at: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    // `to_zoned` resolves gaps and folds as RFC 5545 does ("compatible").
    at.to_zoned(zone.clone()).ok().map(|zoned: Zoned| zoned.timestamp())
}

const fn weekday(day: Day) -> Weekday {
    match day {
        Day::Mon => Weekday::Monday,
        Day::Tue => Weekday::Tuesday,
        Day::Wed => Weekday::Wednesday,
        Day::Thu => Weekday::Thursday,
        Day::Fri => Weekday::Friday,
        Day::Sat => Weekday::Saturday,
        Day::Sun => Weekday::Sunday,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &[Day], from: &str, to: &str, zone: &str) -> OpenWindow {
        let (from, to, zone) = (from.to_owned(), to.to_owned(), zone.to_owned());
        OpenWindow {
            days: days.to_vec(),
            from,
            to,
            zone,
        }
    }

    fn open(windows: &[OpenWindow]) -> Windows {
        Windows {
            open: windows.to_vec(),
            ..Windows::default()
        }
    }

    fn freeze(from: &str, to: &str, zone: &str, why: &str) -> Freeze {
        Freeze {
            from: from.to_owned(),
            to: to.to_owned(),
            zone: Some(zone.to_owned()),
            why: why.to_owned(),
        }
    }

    /// `open`, or when it opens.
    fn at(windows: &Windows, now: &str) -> String {
        match windows.verdict(now.parse().unwrap()) {
            WindowVerdict::Open => "open".to_owned(),
            WindowVerdict::Closed { opens, .. } => opens.map_or_else(|| "never".to_owned(), |at| at.to_string()),
        }
    }

    #[test]
    fn clock_times_keep_their_meaning_when_the_clocks_change() {
        // Berlin leaves UTC+1 for UTC+2 on 2026-03-29 and comes back on 2026-10-25.
        let office = open(&[window(&[], "09:00", "17:00", "Europe/Berlin")]);
        for (now, expected) in [
            ("2026-03-28T07:59:59Z", "2026-03-28T08:00:00Z"),
            ("2026-03-28T08:00:00Z", "open"),
            ("2026-03-28T16:00:00Z", "2026-03-29T07:00:00Z"),
            ("2026-03-29T07:00:00Z", "open"),
            ("2026-03-29T15:00:00Z", "2026-03-30T07:00:00Z"),
            ("2026-10-24T15:00:00Z", "2026-10-25T08:00:00Z"),
            ("2026-10-25T07:30:00Z", "2026-10-25T08:00:00Z"),
            ("2026-10-25T15:59:59Z", "open"),
        ] {
            assert_eq!(at(&office, now), expected, "{now}");
        }
    }

    #[test]
    fn a_skipped_time_means_as_far_after_the_gap_and_a_doubled_one_its_first_coming() {
        let small_hours = open(&[window(&[], "02:15", "02:45", "Europe/Berlin")]);
        // 02:15 does not exist on 2026-03-29: the window is 03:15 to 03:45, that is 01:15 to 01:45 UTC.
        for (now, expected) in [
            ("2026-03-29T01:14:59Z", "2026-03-29T01:15:00Z"),
            ("2026-03-29T01:15:00Z", "open"),
            ("2026-03-29T01:45:00Z", "2026-03-30T00:15:00Z"),
            // 02:15 comes twice on 2026-10-25, at 00:15 and 01:15 UTC; only the first is meant.
            ("2026-10-25T00:15:00Z", "open"),
            ("2026-10-25T00:45:00Z", "2026-10-26T01:15:00Z"),
            ("2026-10-25T01:20:00Z", "2026-10-26T01:15:00Z"),
        ] {
            assert_eq!(at(&small_hours, now), expected, "{now}");
        }
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_it_begins_on() {
        let night = open(&[window(&[Day::Fri], "22:00", "02:00", "UTC")]);
        // 2026-01-02 is a Friday.
        for (now, expected) in [
            ("2026-01-02T01:00:00Z", "2026-01-02T22:00:00Z"),
            ("2026-01-02T22:00:00Z", "open"),
            ("2026-01-03T01:59:59Z", "open"),
            ("2026-01-03T02:00:00Z", "2026-01-09T22:00:00Z"),
        ] {
            assert_eq!(at(&night, now), expected, "{now}");
        }
        // Over the night in which Berlin loses an hour, four hours on the clock are three.
        let short = open(&[window(&[Day::Sat], "23:00", "03:00", "Europe/Berlin")]);
        assert_eq!(at(&short, "2026-03-29T00:59:59Z"), "open");
        assert_eq!(at(&short, "2026-03-29T01:00:00Z"), "2026-04-04T21:00:00Z");
    }

    #[test]
    fn a_day_can_be_open_until_its_end() {
        let weekend = open(&[window(&[Day::Sat, Day::Sun], "00:00", "24:00", "UTC")]);
        for (now, expected) in [
            ("2026-01-02T23:59:59Z", "2026-01-03T00:00:00Z"),
            ("2026-01-04T23:59:59Z", "open"),
            ("2026-01-05T00:00:00Z", "2026-01-10T00:00:00Z"),
        ] {
            assert_eq!(at(&weekend, now), expected, "{now}");
        }
    }

    #[test]
    fn a_freeze_wins_over_windows_and_names_its_reason() {
        let windows = Windows {
            open: vec![window(&[Day::Mon], "09:00", "12:00", "Europe/Berlin")],
            freezes: vec![freeze("2026-12-20T18:00", "2027-01-04", "Europe/Berlin", "Christmas")],
            ..Windows::default()
        };
        // Monday the 4th of January is frozen to its end, so the next Monday it is.
        assert_eq!(
            windows.verdict("2026-12-21T08:30:00Z".parse().unwrap()),
            WindowVerdict::Closed {
                why: "frozen from 2026-12-20T18:00 to 2027-01-04 (Europe/Berlin): Christmas".to_owned(),
                opens: Some("2027-01-11T08:00:00Z".parse().unwrap()),
            }
        );
        assert_eq!(
            windows.verdict("2026-12-20T16:00:00Z".parse().unwrap()),
            WindowVerdict::Closed {
                why: "outside of the deploy windows (Mon 09:00 to 12:00 Europe/Berlin)".to_owned(),
                opens: Some("2027-01-11T08:00:00Z".parse().unwrap()),
            }
        );
    }

    #[test]
    fn without_windows_only_freezes_close() {
        let windows = Windows {
            freezes: vec![
                freeze("2026-05-01", "2026-05-01", "Asia/Tokyo", "holiday"),
                freeze("2026-05-01T23:00", "2026-05-02T06:00", "Asia/Tokyo", "move"),
            ],
            ..Windows::default()
        };
        assert_eq!(at(&Windows::default(), "2026-05-01T10:00:00Z"), "open");
        assert_eq!(at(&windows, "2026-04-30T14:59:59Z"), "open");
        // The first freeze runs into the second.
        assert_eq!(at(&windows, "2026-04-30T15:00:00Z"), "2026-05-01T21:00:00Z");
        assert_eq!(at(&windows, "2026-05-01T21:00:00Z"), "open");
    }

    #[test]
    fn what_cannot_be_read_is_closed() {
        assert_eq!(
            at(
                &open(&[window(&[], "9 o'clock", "17:00", "UTC")]),
                "2026-05-01T10:00:00Z"
            ),
            "never"
        );
        assert_eq!(
            at(
                &open(&[window(&[], "09:00", "17:00", "Mars/Olympus")]),
                "2026-05-01T10:00:00Z"
            ),
            "never"
        );
        let windows = Windows {
            freezes: vec![freeze("soon", "later", "UTC", "x")],
            ..Windows::default()
        };
        assert_eq!(at(&windows, "2026-05-01T10:00:00Z"), "never");
    }
}
