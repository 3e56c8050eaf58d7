//! When something happened: whole numbers as they are, decimals and ISO 8601 in microseconds.
//!
//! Times only order a user's interactions, so a file needs one kind of them, not a certain unit.

use serde::Serialize;

/// How times are spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeKind {
    /// Whole numbers, kept as they are.
    Integer,
    /// Numbers with a decimal point, kept in microseconds.
    Decimal,
    /// Dates, kept in microseconds.
    Iso8601,
}

/// Reads times, all of the kind that the first one was.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// The kind of the first; none before it.
    pub(super) kind: Option<TimeKind>,
    range: Option<(i64, i64)>,
}

/// What a time must look like.
const MUST: &str =
    "is no time; whole seconds or milliseconds, or ISO 8601 such as 2024-05-31T12:00:00Z";

impl Clock {
    /// A time as a number that orders it among others.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(super) fn read(&mut self, text: &str) -> Result<i64, String> {
        let time = self.number(text.trim())?;
        let (low, high) = self.range.unwrap_or((time, time));
        self.range = Some((low.min(time), high.max(time)));
        Ok(time)
    }

    fn number(&mut self, text: &str) -> Result<i64, String> {
        let quoted = || super::faults::quoted(text);
        if text.is_empty() {
            return Err("is empty where a time should be".into());
        }
        if let Ok(whole) = text.parse::<i64>() {
            return match *self.kind.get_or_insert(TimeKind::Integer) {
                TimeKind::Integer => Ok(whole),
                TimeKind::Decimal => {
                    whole.checked_mul(MICROS).ok_or_else(|| format!("{} is out of range", quoted()))
                }
                TimeKind::Iso8601 => Err(self.mixed(&quoted(), "a number")),
            };
        }
        if let Some(micros) = decimal(text) {
            return match *self.kind.get_or_insert(TimeKind::Decimal) {
                TimeKind::Decimal => Ok(micros),
                TimeKind::Integer if micros % MICROS == 0 => Ok(micros / MICROS),
                TimeKind::Integer => Err(self.mixed(&quoted(), "a number with a fraction")),
                TimeKind::Iso8601 => Err(self.mixed(&quoted(), "a number")),
            };
        }
        match iso8601(text) {
            Some(micros) => match *self.kind.get_or_insert(TimeKind::Iso8601) {
                TimeKind::Iso8601 => Ok(micros),
                _ => Err(self.mixed(&quoted(), "a date")),
            },
            None => Err(format!("{} {MUST}", quoted())),
        }
    }

    fn mixed(&self, quoted: &str, what: &str) -> String {
        let first = match self.kind {
            Some(TimeKind::Integer) => "a whole number",
            Some(TimeKind::Decimal) => "a decimal",
            Some(TimeKind::Iso8601) | None => "a date",
        };
        format!("{quoted} is {what}, but the first time was {first}; spell all times alike")
    }

    /// The earliest and the latest time as dates, where their size tells the unit.
    pub(super) fn dates(&self) -> Option<[String; 2]> {
        let (low, high) = self.range?;
        let unit = self.second()?;
        Some([low, high].map(|time| date_of(time.div_euclid(unit))))
    }

    /// How much of a time is a second, as its size tells; none where there are no times, or where they tell of several
    /// units.
    pub(super) fn second(&self) -> Option<i64> {
        let (_, high) = self.range?;
        match self.kind {
            Some(TimeKind::Integer) => {
                (!self.has_units() && !self.are_dates()).then(|| second_of(high))
            }
            _ => Some(MICROS),
        }
    }

    /// Whether times are dates without signs between their parts, such as 20240131 or 20240131235959.
    pub(super) fn are_dates(&self) -> bool {
        let is_date = |time: i64| {
            let day = if time < 100_000_000 { time } else { time / 1_000_000 };
            let (year, month, day) = (day / 10_000, day / 100 % 100, day % 100);
            (1900..2200).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day)
        };
        self.kind == Some(TimeKind::Integer)
            && self.range.is_some_and(|(low, high)| is_date(low) && is_date(high))
    }

    /// Whether the earliest time is told in another unit than the latest: both are of 1973 or later, each in its own.
    pub(super) fn has_units(&self) -> bool {
        let Some((low, high)) = self.range else { return false };
        self.kind == Some(TimeKind::Integer)
            && low >= 100_000_000
            && second_of(low) != second_of(high)
    }
}

/// How much of a whole time is a second: seconds reach 10^11 in the year 5138, milliseconds have passed it since 1973.
fn second_of(time: i64) -> i64 {
    match time.unsigned_abs() {
        0..100_000_000_000 => 1,
        100_000_000_000..100_000_000_000_000 => 1000,
        100_000_000_000_000..100_000_000_000_000_000 => MICROS,
        _ => 1_000_000_000,
    }
}

const MICROS: i64 = 1_000_000;

/// A number with a decimal point or an exponent, in millionths; digits beyond are cut off.
fn decimal(text: &str) -> Option<i64> {
    let negative = text.starts_with('-');
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (digits, exponent) = match digits.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (digits, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !plain(whole) || !plain(fraction) {
        return None;
    }
    let mut micros: i64 = 0;
    let places =
        i64::try_from(whole.len()).ok()?.checked_add(i64::from(exponent))?.checked_add(6)?;
    let all = whole.bytes().chain(fraction.bytes()).chain(std::iter::repeat(b'0'));
    if places > 40 {
        return None;
    }
    for digit in all.take(usize::try_from(places).unwrap_or(0)) {
        micros = micros.checked_mul(10)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(if negative { -micros } else { micros })
}

/// `YYYY-MM-DD`, then perhaps `T` or a space, `HH:MM`, `:SS`, a fraction, and `Z` or an offset; without
/// one it is UTC.
fn iso8601(text: &str) -> Option<i64> {
    let mut rest = Scan(text.as_bytes());
    let year = rest.number(4)?;
    rest.skip(b'-')?;
    let month = rest.number(2)?;
    rest.skip(b'-')?;
    let day = rest.number(2)?;
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return None;
    }
    let mut seconds = days_from_civil(year, month, day) * 86400;
    let mut micros = 0;
    if !rest.0.is_empty() {
        rest.skip(b'T').or_else(|| rest.skip(b't')).or_else(|| rest.skip(b' '))?;
        let hour = rest.number(2)?;
        rest.skip(b':')?;
        let minute = rest.number(2)?;
        let mut second = 0;
        if rest.skip(b':').is_some() {
            second = rest.number(2)?;
            if rest.skip(b'.').or_else(|| rest.skip(b',')).is_some() {
                micros = rest.fraction()?;
            }
        }
        // 60 is a leap second.
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        seconds += hour * 3600 + minute * 60 + second - rest.offset()?;
    }
    rest.0.is_empty().then_some(seconds * MICROS + micros)
}

/// The rest of a text that is read from its beginning.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    fn skip(&mut self, byte: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    fn number(&mut self, digits: usize) -> Option<i64> {
        let (head, rest) = self.0.split_at_checked(digits)?;
        self.0 = rest;
        head.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
    }

    /// Digits after the point, in millionths.
    fn fraction(&mut self) -> Option<i64> {
        let digits = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        let (head, rest) = self.0.split_at(digits);
        self.0 = rest;
        let head = head.iter().chain(std::iter::repeat(&b'0')).take(6);
        (digits > 0).then(|| head.fold(0, |n, b| n * 10 + i64::from(b - b'0')))
    }

    /// The offset from UTC in seconds.
    fn offset(&mut self) -> Option<i64> {
        // pandas and SQL write a space before it.
        let _ = self.skip(b' ');
        if self.0.is_empty() || self.skip(b'Z').is_some() || self.skip(b'z').is_some() {
            return Some(0);
        }
        if self.0 == b"UTC" {
            self.0 = &[];
            return Some(0);
        }
        let sign = if self.skip(b'-').is_some() { -1 } else { self.skip(b'+').map(|()| 1)? };
        let hours = self.number(2)?;
        let _ = self.skip(b':');
        let minutes = if self.0.is_empty() { 0 } else { self.number(2)? };
        (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (Howard Hinnant's `days_from_civil`).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse of [`days_from_civil`], as `YYYY-MM-DD`.
fn date_of(seconds: i64) -> String {
    let days = seconds.div_euclid(86400) + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<i64, String> {
        Clock::default().read(text)
    }

    #[test]
    fn dates_are_microseconds_of_utc() {
        let day = 1_709_164_800 * MICROS; // 2024-02-29
        let cases = [
            ("1970-01-01", 0),
            ("2024-02-29", day),
            ("2024-02-29T01:02", day + 3720 * MICROS),
            ("2024-02-29 01:02:03", day + 3723 * MICROS),
            ("2024-02-29T01:02:03Z", day + 3723 * MICROS),
            ("2024-02-29T01:02:03.5Z", day + 3723 * MICROS + 500_000),
            ("2024-02-29T01:02:03.123456789+01:30", day - 1677 * MICROS + 123_456),
            ("2024-02-29T01:02:03-0530", day + (3723 + 19800) * MICROS),
            ("2024-02-29 01:02:03+00", day + 3723 * MICROS),
            ("2024-02-29 01:02:03 UTC", day + 3723 * MICROS),
            ("1969-12-31T23:59:59Z", -MICROS),
            ("0001-01-01", -62_135_596_800 * MICROS),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        let wrong = [
            "2023-02-29",
            "2024-13-01",
            "2024-00-01",
            "2024-01-32",
            "2024-1-1",
            "2024-01-01T25:00",
            "2024-01-01T10:60",
            "2024-01-01T10",
            "2024-01-01T10:00:00+99:00",
            "2024-01-01x",
            "yesterday",
            "09 13, 2014",
            "12/31/2024",
            "1.2.3",
            "1e",
            "e5",
            ".",
            "-",
            "NaN",
            "inf",
            "9e99",
        ];
        for text in wrong {
            let error = read(text).unwrap_err();
            assert!(error.contains("is no time") && error.contains("ISO 8601"), "{text}: {error}");
        }
        assert!(read(" ").unwrap_err().contains("is empty"));
    }

    #[test]
    fn numbers_are_kept_or_in_millionths_when_the_first_is_a_decimal() {
        assert_eq!(read("1393545600"), Ok(1_393_545_600));
        assert_eq!(read("9223372036854775807"), Ok(i64::MAX));
        assert_eq!(read("-5"), Ok(-5));
        assert_eq!(read("1393545600.25"), Ok(1_393_545_600_250_000));
        assert_eq!(read("1.3935456E9"), Ok(1_393_545_600_000_000));
        assert_eq!(read("-0.5"), Ok(-500_000));
        let mut clock = Clock::default();
        assert_eq!(clock.read("10.5"), Ok(10_500_000));
        assert_eq!(clock.read("11"), Ok(11_000_000));
        assert!(clock.read("9223372036854775807").unwrap_err().contains("out of range"));
    }

    #[test]
    fn kinds_do_not_mix() {
        let mut clock = Clock::default();
        assert_eq!(clock.read("10"), Ok(10));
        assert_eq!(clock.read("11.0"), Ok(11));
        let error = clock.read("11.5").unwrap_err();
        assert_eq!(
            error,
            "\"11.5\" is a number with a fraction, but the first time was a whole number; spell all times alike"
        );
        assert!(
            clock.read("2024-01-01").unwrap_err().contains("is a date, but the first time was")
        );
        let mut clock = Clock::default();
        clock.read("2024-01-01").unwrap();
        assert!(clock.read("17").unwrap_err().contains("the first time was a date"));
    }

    /// A clock that has read these times.
    fn clock_of(texts: &[&str]) -> Clock {
        let mut clock = Clock::default();
        for text in texts {
            clock.read(text).unwrap();
        }
        clock
    }

    #[test]
    fn times_of_several_units_have_none() {
        let units = |texts: &[&str]| {
            let clock = clock_of(texts);
            (clock.second(), clock.has_units())
        };
        assert_eq!(units(&["1700000000", "1700000001000"]), (None, true));
        assert_eq!(units(&["1700000000000", "1700000001"]), (None, true));
        // An unknown time, and the first days of 1970.
        assert_eq!(units(&["0", "1700000001000"]), (Some(1000), false));
        assert_eq!(units(&["5", "1700000001"]), (Some(1), false));
        assert_eq!(units(&["1700000000.5", "5.5"]), (Some(MICROS), false));
    }

    #[test]
    fn dates_without_signs_are_no_seconds() {
        for (texts, are) in [
            (["20240131", "20231224"], true),
            (["20240131235959", "19991231000000"], true),
            (["20240131", "20241301"], false),
            (["20240131", "1700000000"], false),
            (["5", "20240131"], false),
        ] {
            let clock = clock_of(&texts);
            assert_eq!((clock.are_dates(), clock.second().is_none()), (are, are), "{texts:?}");
        }
    }

    #[test]
    fn the_range_is_told_as_dates() {
        let dates = |texts: &[&str]| clock_of(texts).dates().unwrap();
        assert_eq!(dates(&["1709164800", "0"]), ["1970-01-01", "2024-02-29"]);
        assert_eq!(dates(&["1709164800123"]), ["2024-02-29", "2024-02-29"]);
        assert_eq!(dates(&["1709164800.5"]), ["2024-02-29", "2024-02-29"]);
        assert_eq!(dates(&["2024-02-29T23:59:59Z"]), ["2024-02-29", "2024-02-29"]);
        assert_eq!(Clock::default().dates(), None);
    }

    proptest! {
        #[test]
        fn dates_count_days(day in -700_000i64..2_900_000) {
            let date = date_of(day * 86400);
            prop_assert_eq!(iso8601(&date), Some(day * 86400 * MICROS));
        }

        #[test]
        fn nothing_panics(text in "[0-9T:.+eZ -]{0,30}") {
            let _ = read(&text);
        }
    }
}
