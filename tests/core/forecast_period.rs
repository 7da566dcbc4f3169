//! The rules for the end of a forecast.

use chrono::{DateTime, Utc};
use patron_blocks::services::forecast::ForecastPeriod;

fn now() -> DateTime<Utc> {
    "2026-09-15T12:00:00.000Z".parse().unwrap()
}

#[test]
fn end_is_an_instant_of_the_next_400_days() {
    for good in [
        "2026-09-15T12:00:00.001Z",
        "2026-09-18T22:00:00+02:00",
        "2026-09-18T22:00:00 02:00",
        "2026-09-18t22:00:00z",
        "2027-10-20T12:00:00Z",
    ] {
        assert!(ForecastPeriod::parse(now(), good).is_ok(), "{good}");
    }
    for (bad, rule) in [
        ("", "instant"),
        ("2026-09-18", "instant"),
        ("2026-09-18T22:00:00", "instant"),
        ("tomorrow", "instant"),
        ("2026-09-31T22:00:00Z", "instant"),
        ("2026-09-15T12:00:00Z", "future"),
        ("2026-09-15T12:00:00.0009Z", "future"),
        ("2026-09-15T13:59:59+02:00", "future"),
        ("2027-10-20T12:00:00.001Z", "400 days"),
        ("9999-12-31T23:59:59Z", "400 days"),
    ] {
        let refused = ForecastPeriod::parse(now(), bad).unwrap_err();
        assert!(refused.contains(rule), "{bad}: {refused}");
    }
}
