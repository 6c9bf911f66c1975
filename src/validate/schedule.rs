//! Cron expressions as people know them from Unix: five fields, days of the week from 0 (Sunday) to 7 (Sunday again).

use std::str::FromStr;

use super::suggest::suggest;

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields.
    #[error("a schedule has five fields (minute, hour, day of month, month, day of week), not {0}")]
    Fields(usize),
    /// A field that cannot be read.
    #[error("{0:?} is no schedule")]
    Expression(String),
    /// A day of the week that does not exist.
    #[error("{0:?} is no day of the week; days are 0 (Sunday) to 6, or SUN to SAT")]
    Weekday(String),
    /// Unix takes either of the two days, other programs only both at once; nobody is to wonder which.
    #[error("a schedule sets the day of the month or the day of the week, not both")]
    BothDays,
}

/// Reads a schedule of five fields.
///
/// # Errors
/// When it is none.
pub fn schedule(text: &str) -> Result<cron::Schedule, ScheduleError> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields[..] else {
        return Err(ScheduleError::Fields(fields.len()));
    };
    let weekday = weekdays(weekday)?;
    if weekday != "*" && !matches!(day, "*" | "?") {
        return Err(ScheduleError::BothDays);
    }
    cron::Schedule::from_str(&format!("0 {minute} {hour} {day} {month} {weekday}"))
        .map_err(|_| ScheduleError::Expression(text.to_owned()))
}

/// Whether there is a time of a schedule at all: there is no 31st of April.
pub(super) fn ever_comes(schedule: &cron::Schedule) -> bool {
    // Years do not matter: whatever there is comes within eight of them, a 29th of February too.
    schedule.after(&chrono::DateTime::UNIX_EPOCH).next().is_some()
}

/// The time zone of that IANA name, spelled exactly so.
pub fn timezone(name: &str) -> Option<chrono_tz::Tz> {
    name.parse().ok()
}

/// What to write instead of a name that no time zone has: the closest one, also of those whose city it is.
pub(super) fn timezone_help(name: &str) -> String {
    let names = || chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
    let city = |zone: &str| zone.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(name));
    match names().find(|zone| city(zone)).or_else(|| suggest(name, names())) {
        Some(zone) => format!("did you mean {zone:?}?"),
        None => "write an IANA name such as Europe/Berlin, or leave it out for UTC".to_owned(),
    }
}

/// The same days as `cron` counts them: 1 is Sunday. Written out one by one, since a range over the week's end has no
/// counterpart there.
fn weekdays(field: &str) -> Result<String, ScheduleError> {
    if field == "*" || field == "?" {
        return Ok("*".to_owned());
    }
    let mut days = [false; 7];
    for part in field.split(',') {
        let wrong = || ScheduleError::Weekday(part.to_owned());
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<usize>().ok().filter(|step| *step > 0).ok_or_else(wrong)?),
            None => (part, 1),
        };
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (weekday(first).ok_or_else(wrong)?, weekday(last).ok_or_else(wrong)?),
            None if range == "*" => (0, 6),
            None => {
                let day = weekday(range).ok_or_else(wrong)?;
                // `2/3` counts on to the end of the week.
                (day, if part.contains('/') { 6.max(day) } else { day })
            }
        };
        if first > last {
            return Err(wrong());
        }
        for day in (first..=last).step_by(step) {
            days[day % 7] = true;
        }
    }
    let days: Vec<String> = (0..7).filter(|day| days[*day]).map(|day| (day + 1).to_string()).collect();
    Ok(days.join(","))
}

/// The number of a day, 0 to 7, from its number or its English name.
fn weekday(text: &str) -> Option<usize> {
    const NAMES: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    if let Ok(number) = text.parse::<usize>() {
        return (number <= 7).then_some(number);
    }
    let text = text.to_ascii_lowercase();
    NAMES.iter().position(|name| *name == text)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Datelike, Utc, Weekday};

    use super::*;

    fn days(text: &str) -> Vec<Weekday> {
        let start: DateTime<Utc> = "2024-01-07T00:00:00Z".parse().unwrap(); // a Sunday
        let end: DateTime<Utc> = "2024-01-14T00:00:00Z".parse().unwrap();
        schedule(text)
            .unwrap()
            .after(&(start - chrono::Duration::seconds(1)))
            .take_while(|time| *time < end)
            .map(|time| time.weekday())
            .collect()
    }

    #[test]
    fn days_of_the_week_are_counted_as_unix_counts_them() {
        assert_eq!(days("0 12 * * 0"), [Weekday::Sun]);
        assert_eq!(days("0 12 * * 7"), [Weekday::Sun]);
        assert_eq!(days("0 12 * * 1-5"), [Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri]);
        assert_eq!(days("0 12 * * 5-7"), [Weekday::Sun, Weekday::Fri, Weekday::Sat]);
        assert_eq!(days("0 12 * * sat,MON"), [Weekday::Mon, Weekday::Sat]);
        assert_eq!(days("0 12 * * */3"), [Weekday::Sun, Weekday::Wed, Weekday::Sat]);
        assert_eq!(days("0 12 * * *").len(), 7);
    }

    #[test]
    fn steps_of_minutes_work() {
        let start: DateTime<Utc> = "2024-01-07T00:00:00Z".parse().unwrap();
        let next = schedule("*/10 * * * *").unwrap().after(&start).next().unwrap();
        assert_eq!(next.to_rfc3339(), "2024-01-07T00:10:00+00:00");
    }

    #[test]
    fn days_that_no_month_has_never_come() {
        let comes = |text: &str| ever_comes(&schedule(text).unwrap());
        assert!(!comes("0 0 31 4 *") && !comes("0 0 30 2 *") && !comes("0 0 31 2,4,6,9,11 *"));
        assert!(comes("0 0 29 2 *") && comes("0 0 31 4,5 *") && comes("* * * * *"));
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_reason() {
        assert_eq!(schedule("* * * *").unwrap_err(), ScheduleError::Fields(4));
        assert_eq!(schedule("0 0 * * * *").unwrap_err(), ScheduleError::Fields(6));
        assert_eq!(schedule("* * * * 8").unwrap_err(), ScheduleError::Weekday("8".to_owned()));
        assert_eq!(schedule("* * * * fri-mon").unwrap_err(), ScheduleError::Weekday("fri-mon".to_owned()));
        assert_eq!(schedule("0 0 1 * 1").unwrap_err(), ScheduleError::BothDays);
        assert!(matches!(schedule("61 * * * *").unwrap_err(), ScheduleError::Expression(_)));
        assert!(matches!(schedule("x * * * *").unwrap_err(), ScheduleError::Expression(_)));
    }
}
