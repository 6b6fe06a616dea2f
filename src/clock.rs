//! Time: the wall clock for what people read, the monotonic clock for every deadline.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;
use uuid::Uuid;

/// `IMF-fixdate` of RFC 9110 section 5.6.7.
const HTTP_DATE: &[FormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
const ISO_MILLIS: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Milliseconds since 1970-01-01T00:00:00Z by the wall clock; 0 for a clock set before that.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    millis.saturating_add_signed(crate::fault::clock_offset())
}

/// `millis` since 1970 as UTC, ISO 8601 with milliseconds and `Z` (`2026-03-22T15:39:28.123Z`).
pub fn iso(millis: u64) -> String {
    format(millis, ISO_MILLIS).unwrap_or_else(|| "9999-12-31T23:59:59.999Z".to_owned())
}

/// `millis` since 1970 as HTTP writes it (`Sun, 22 Mar 2026 15:39:28 GMT`).
fn http(millis: u64) -> String {
    format(millis, HTTP_DATE).unwrap_or_else(|| "Fri, 31 Dec 9999 23:59:59 GMT".to_owned())
}

/// `None` beyond the year 9999.
fn format(millis: u64, description: &[FormatItem<'_>]) -> Option<String> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()?;
    at.format(description).ok()
}

/// The present time as [`iso`] writes it.
pub fn now_iso() -> String {
    iso(unix_millis())
}

/// The present time for a `date` field of HTTP.
pub fn now_http() -> String {
    http(unix_millis())
}

/// Milliseconds since 1970 of a time written by [`iso`] (any RFC 3339 time in UTC is read); `None` if it is none.
pub fn parse_iso(text: &str) -> Option<u64> {
    let at = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}

/// Up to so much time, at random: for whoever would else do the same in step with others.
pub fn jitter(most: Duration) -> Duration {
    let share = u32::try_from(Uuid::new_v4().as_u128() % 1000).unwrap_or(0);
    most * share / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso_has_three_digits_and_z() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(1_774_193_968_123), "2026-03-22T15:39:28.123Z");
    }

    #[test]
    fn http_has_names_for_day_and_month_and_no_year_beyond_9999() {
        assert_eq!(http(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http(1_774_193_968_123), "Sun, 22 Mar 2026 15:39:28 GMT");
        assert_eq!(http(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn iso_and_parse_are_inverse() {
        for millis in [0, 7, 999, 1_000, 1_774_193_968_123] {
            assert_eq!(parse_iso(&iso(millis)), Some(millis));
        }
        assert_eq!(parse_iso("yesterday"), None);
    }
}
