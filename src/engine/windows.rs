//! When things happen: cron schedules in UTC, and change windows in time zones of their own.
//!
//! Where clocks are changed, a time that is skipped counts as the moment after the change, and one that comes twice
//! opens a window both times: who closes a night at half past two gets no hour of it open. A window stays open for its
//! duration, whatever clocks do meanwhile.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, NaiveDateTime, Offset, SecondsFormat, TimeZone, Utc};
use chrono_tz::Tz;

use crate::model::{Hold, Reason, Window, WindowMode};
use crate::validate::{schedule, timezone};

/// The first time after `now` at which a five-field cron schedule fires.
///
/// `None` for a schedule that never fires; the validator has refused schedules that cannot be read.
pub fn next_after(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    schedule(text).ok()?.after(&now).next()
}

/// The environments in which nothing may be changed at `now`, each with why and until when.
///
/// A `deny` window closes its environments while it is open; where there are `allow` windows, an environment is closed
/// while none of them is open.
pub fn closed(windows: &[Window], environments: &[String], now: DateTime<Utc>) -> BTreeMap<String, Hold> {
    let calendars: Vec<Calendar<'_>> = windows.iter().filter_map(Calendar::of).collect();
    environments
        .iter()
        .filter_map(|environment| Some((environment.clone(), closed_at(&calendars, environment, now)?)))
        .collect()
}

fn closed_at(calendars: &[Calendar<'_>], environment: &str, now: DateTime<Utc>) -> Option<Hold> {
    let speaking = calendars.iter().filter(|calendar| calendar.speaks_of(environment));
    let (denies, allows): (Vec<_>, Vec<_>) = speaking.partition(|calendar| calendar.window.mode == WindowMode::Deny);
    let is_denied = || denies.iter().any(|calendar| calendar.open_until(now).is_some());
    let (message, until) = match next_opening(&denies, &allows, now) {
        Opening::Now => return None,
        Opening::At(at, zone) if is_denied() => (format!("changes are closed until {}", shown(at, zone)), Some(at)),
        Opening::At(at, zone) => (format!("changes are applied from {} on", shown(at, zone)), Some(at)),
        Opening::NotBefore(at, zone) => (format!("changes are closed until {} at least", shown(at, zone)), Some(at)),
        Opening::Never => {
            let exit = "to go on, change spec.windows of the Platform";
            (format!("changes are closed, and no window for them opens any more; {exit}"), None)
        }
    };
    Some(Hold { reason: Reason::WindowClosed, message, until })
}

/// When changes may be applied, with the time zone of the window that says so.
enum Opening {
    Now,
    At(DateTime<Utc>, Tz),
    /// Until then they may not, and further nobody has looked.
    NotBefore(DateTime<Utc>, Tz),
    Never,
}

/// Goes from the end of what denies to the next opening of what allows, until nothing denies and something allows.
fn next_opening(denies: &[&Calendar<'_>], allows: &[&Calendar<'_>], now: DateTime<Utc>) -> Opening {
    /// How far it goes: a year of windows that open every night only to be denied, in a few milliseconds.
    const MOST_CHANGES: usize = 750;
    let (mut at, mut zone) = (now, Tz::UTC);
    for _ in 0..MOST_CHANGES {
        let denied = denies.iter().filter_map(|calendar| Some((calendar.open_until(at)?, calendar.zone)));
        let next = match denied.max_by_key(|(until, _)| *until) {
            Some(end) => Some(end),
            None if allows.is_empty() || allows.iter().any(|calendar| calendar.open_until(at).is_some()) => {
                return if at == now { Opening::Now } else { Opening::At(at, zone) };
            }
            None => {
                let openings = allows.iter().filter_map(|calendar| Some((calendar.opens_after(at)?, calendar.zone)));
                openings.min_by_key(|(opening, _)| *opening)
            }
        };
        let Some(next) = next else { return Opening::Never };
        (at, zone) = next;
    }
    Opening::NotBefore(at, zone)
}

/// A moment, and what the clocks of the window's people show then.
fn shown(at: DateTime<Utc>, zone: Tz) -> String {
    let instant = at.to_rfc3339_opts(SecondsFormat::Secs, true);
    match zone {
        Tz::UTC => instant,
        zone => format!("{instant} ({} in {zone})", at.with_timezone(&zone).format("%F %R")),
    }
}

/// When a window is open.
struct Calendar<'a> {
    window: &'a Window,
    schedule: cron::Schedule,
    zone: Tz,
    length: Duration,
}

impl<'a> Calendar<'a> {
    /// `None` for what the validator refuses.
    fn of(window: &'a Window) -> Option<Self> {
        let length = Duration::from_std(window.duration.0).ok()?;
        let (schedule, zone) = (schedule(&window.schedule).ok()?, timezone(&window.timezone)?);
        Some(Self { window, schedule, zone, length })
    }

    fn speaks_of(&self, environment: &str) -> bool {
        let named = &self.window.environments;
        named.is_empty() || named.iter().any(|name| name == environment)
    }

    /// When the window that is open at `at` closes; `None` when it is not open.
    fn open_until(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // The openings are as long as each other: the last one closes last.
        let from = self.clock_at(at) + self.doubt(at) + Duration::seconds(1);
        let last = |which: Which| {
            let openings = self.schedule.after(&from).rev().map(|clock| self.moment(clock, which));
            openings.take(MOST_LOOKED_AT).find(|opening| *opening <= at)
        };
        let opening = last(Which::First).max(last(Which::Second))?;
        Some(opening + self.length).filter(|closing| *closing > at)
    }

    /// When it opens next after `at`.
    fn opens_after(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let from = self.clock_at(at) - self.doubt(at);
        let next = |which: Which| {
            let openings = self.schedule.after(&from).map(|clock| self.moment(clock, which));
            openings.take(MOST_LOOKED_AT).find(|opening| *opening > at)
        };
        [next(Which::First), next(Which::Second)].into_iter().flatten().min()
    }

    /// What clocks show at `at`, written as if it were UTC: so schedules know nothing of changed clocks.
    fn clock_at(&self, at: DateTime<Utc>) -> DateTime<Utc> {
        at.with_timezone(&self.zone).naive_local().and_utc()
    }

    /// The moment at which clocks show `clock`.
    fn moment(&self, clock: DateTime<Utc>, which: Which) -> DateTime<Utc> {
        /// More minutes than clocks were ever set forward by: a day, where the date line moved.
        const LONGEST_GAP: i64 = 24 * 60 + 1;
        let moment = |clock: NaiveDateTime| {
            let moments = self.zone.from_local_datetime(&clock);
            match which {
                Which::First => moments.earliest(),
                Which::Second => moments.latest(),
            }
        };
        let clock = clock.naive_utc();
        // Clocks are changed on whole minutes.
        let found = (0..LONGEST_GAP).find_map(|minutes| moment(clock + Duration::minutes(minutes)));
        found.map_or_else(|| clock.and_utc(), |moment| moment.to_utc())
    }

    /// How far what clocks show may lead astray around `at`: not at all, unless they are changed nearby.
    fn doubt(&self, at: DateTime<Utc>) -> Duration {
        /// Longer than clocks are set back by anywhere.
        const LONGEST_CHANGE: Duration = Duration::hours(3);
        let offset = |at: DateTime<Utc>| self.zone.offset_from_utc_datetime(&at.naive_utc()).fix();
        if offset(at - LONGEST_CHANGE) == offset(at + LONGEST_CHANGE) { Duration::zero() } else { LONGEST_CHANGE }
    }
}

/// More openings than lie within twice the doubt of a moment.
const MOST_LOOKED_AT: usize = 1000;

/// Which of two moments at which clocks show the same.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    First,
    Second,
}

#[cfg(test)]
mod tests {
    use std::time::Duration as StdDuration;

    use super::*;

    fn window(mode: WindowMode, schedule: &str, hours: u64, environments: &[&str]) -> Window {
        window_in("UTC", mode, schedule, hours, environments)
    }

    fn window_in(timezone: &str, mode: WindowMode, schedule: &str, hours: u64, environments: &[&str]) -> Window {
        let environments = environments.iter().map(|e| (*e).to_owned()).collect();
        let duration = serde_json::from_value(format!("{}s", StdDuration::from_secs(hours * 3600).as_secs()).into());
        let (schedule, timezone) = (schedule.to_owned(), timezone.to_owned());
        Window { mode, schedule, duration: duration.unwrap(), timezone, environments }
    }

    fn at(time: &str) -> DateTime<Utc> {
        format!("{time}:00Z").parse().unwrap()
    }

    fn said(windows: &[Window], now: &str) -> Option<(String, Option<DateTime<Utc>>)> {
        let closed = closed(windows, &["staging".to_owned()], at(now)).remove("staging")?;
        Some((closed.message, closed.until))
    }

    fn opens(windows: &[Window], now: &str) -> Option<DateTime<Utc>> {
        said(windows, now).expect("it is closed").1
    }

    #[test]
    fn an_hour_is_that_of_the_windows_clocks() {
        let windows = [window_in("Europe/Berlin", WindowMode::Allow, "0 8 * * *", 2, &[])];
        assert_eq!(
            said(&windows, "2026-01-10T06:59"),
            Some((
                "changes are applied from 2026-01-10T07:00:00Z (2026-01-10 08:00 in Europe/Berlin) on".to_owned(),
                Some(at("2026-01-10T07:00"))
            ))
        );
        assert_eq!(said(&windows, "2026-01-10T07:00"), None);
        assert_eq!(said(&windows, "2026-01-10T08:59"), None);
        // In summer it is six by UTC.
        assert_eq!(opens(&windows, "2026-07-10T05:59"), Some(at("2026-07-10T06:00")));
        assert_eq!(opens(&windows, "2026-07-10T08:00"), Some(at("2026-07-11T06:00")));
    }

    /// On 2026-03-29 clocks in Berlin go from 02:00 to 03:00, which is 01:00 UTC.
    #[test]
    fn a_time_that_clocks_skip_is_the_moment_after_the_change() {
        let windows = [window_in("Europe/Berlin", WindowMode::Allow, "30 2 * * *", 1, &[])];
        assert_eq!(opens(&windows, "2026-03-28T02:30"), Some(at("2026-03-29T01:00")));
        assert_eq!(opens(&windows, "2026-03-29T00:59"), Some(at("2026-03-29T01:00")));
        assert_eq!(said(&windows, "2026-03-29T01:00"), None);
        assert_eq!(said(&windows, "2026-03-29T01:59"), None);
        assert_eq!(opens(&windows, "2026-03-29T02:00"), Some(at("2026-03-30T00:30")));
    }

    /// On 2026-10-25 clocks in Berlin go from 03:00 to 02:00, which is 01:00 UTC.
    #[test]
    fn a_time_that_comes_twice_opens_the_window_both_times() {
        let windows = [window_in("Europe/Berlin", WindowMode::Deny, "15 2 * * *", 1, &[])];
        assert_eq!(said(&windows, "2026-10-25T00:14"), None);
        assert_eq!(opens(&windows, "2026-10-25T00:15"), Some(at("2026-10-25T02:15")), "both, one after the other");
        assert_eq!(opens(&windows, "2026-10-25T01:20"), Some(at("2026-10-25T02:15")));
        assert_eq!(said(&windows, "2026-10-25T02:15"), None);
        let hourly = [window_in("Europe/Berlin", WindowMode::Allow, "0 * * * *", 1, &[])];
        for now in ["2026-10-24T23:30", "2026-10-25T00:30", "2026-10-25T01:30", "2026-10-25T02:30"] {
            assert_eq!(said(&hourly, now), None, "every hour is open, at {now} too");
        }
    }

    #[test]
    fn a_window_that_is_open_while_clocks_change_stays_open_for_its_duration() {
        let windows = [window_in("Europe/Berlin", WindowMode::Allow, "0 22 * * *", 8, &[])];
        // From 21:00 UTC in winter; eight hours later clocks show 07:00.
        assert_eq!(said(&windows, "2026-03-29T04:59"), None);
        assert_eq!(opens(&windows, "2026-03-29T05:00"), Some(at("2026-03-29T20:00")));
    }

    #[test]
    fn a_window_opens_once_nothing_denies_it_any_more() {
        let windows = [
            window(WindowMode::Allow, "0 8 * * *", 2, &[]),
            window_in("Europe/Berlin", WindowMode::Deny, "0 0 10 1 *", 24, &[]),
        ];
        // All of the tenth of January in Berlin, the eight o'clock of that day with it.
        assert_eq!(opens(&windows, "2026-01-10T07:00"), Some(at("2026-01-11T08:00")));
    }

    #[test]
    fn the_search_for_an_opening_ends() {
        let always = [window(WindowMode::Deny, "* * * * *", 1, &[])];
        let (message, until) = said(&always, "2026-01-10T07:00").unwrap();
        assert!(until > Some(at("2026-02-01T00:00")), "{until:?}");
        assert!(message.ends_with("at least"), "{message}");
        let never = [window(WindowMode::Allow, "0 0 30 2 *", 1, &[])];
        let (message, until) = said(&never, "2026-01-10T07:00").unwrap();
        assert_eq!(until, None);
        assert!(message.ends_with("to go on, change spec.windows of the Platform"), "{message}");
    }

    #[test]
    fn where_clocks_are_never_changed_nothing_is_in_doubt() {
        let windows = [window_in("Asia/Kolkata", WindowMode::Allow, "30 5 * * *", 1, &[])];
        assert_eq!(opens(&windows, "2026-03-28T23:59"), Some(at("2026-03-29T00:00")));
        assert_eq!(said(&windows, "2026-03-29T00:00"), None);
    }

    fn closed_in(windows: &[Window], hour: u32) -> Vec<String> {
        // 2026-03-04 is a Wednesday.
        let now = Utc.with_ymd_and_hms(2026, 3, 4, hour, 30, 0).unwrap();
        closed(windows, &["staging".to_owned(), "production".to_owned()], now).into_keys().collect()
    }

    #[test]
    fn without_windows_nothing_is_closed() {
        assert!(closed_in(&[], 3).is_empty());
    }

    #[test]
    fn an_allow_window_closes_the_rest_of_the_day() {
        let windows = [window(WindowMode::Allow, "0 9 * * 1-5", 8, &["production"])];
        assert_eq!(closed_in(&windows, 8), ["production"]);
        assert!(closed_in(&windows, 9).is_empty());
        assert!(closed_in(&windows, 16).is_empty());
        assert_eq!(closed_in(&windows, 17), ["production"]);
    }

    #[test]
    fn a_deny_window_wins_over_an_allow_window() {
        let windows =
            [window(WindowMode::Allow, "0 0 * * *", 24, &[]), window(WindowMode::Deny, "0 12 * * 3", 2, &["staging"])];
        assert_eq!(closed_in(&windows, 12), ["staging"]);
        assert!(closed_in(&windows, 15).is_empty());
    }
}
