//! When things happen: cron schedules and change windows, always in UTC.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};

use crate::model::{Window, WindowMode};
use crate::validate::schedule;

/// The first time after `now` at which a five-field cron schedule fires.
///
/// `None` for a schedule that never fires; the validator has refused schedules that cannot be read.
pub fn next_after(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    schedule(text).ok()?.after(&now).next()
}

/// The environments in which nothing may be changed at `now`, each with the reason.
///
/// A `deny` window closes its environments while it is open; where there are `allow` windows, an environment is closed
/// while none of them is open.
pub fn closed(windows: &[Window], environments: &[String], now: DateTime<Utc>) -> BTreeMap<String, String> {
    environments
        .iter()
        .filter_map(|environment| closed_reason(windows, environment, now).map(|reason| (environment.clone(), reason)))
        .collect()
}

fn closed_reason(windows: &[Window], environment: &str, now: DateTime<Utc>) -> Option<String> {
    let of = |mode: WindowMode| {
        windows.iter().filter(move |window| {
            window.mode == mode
                && (window.environments.is_empty() || window.environments.iter().any(|e| e == environment))
        })
    };
    if let Some(until) = of(WindowMode::Deny).filter_map(|window| open_until(window, now)).max() {
        return Some(format!("changes are closed until {} UTC", until.format("%F %R")));
    }
    let mut allows = of(WindowMode::Allow).peekable();
    allows.peek()?;
    let allows: Vec<&Window> = allows.collect();
    if allows.iter().any(|window| open_until(window, now).is_some()) {
        return None;
    }
    let next = allows.iter().filter_map(|window| next_after(&window.schedule, now)).min();
    Some(match next {
        Some(next) => format!("changes are applied from {} UTC on", next.format("%F %R")),
        None => "no window for changes opens any more".to_owned(),
    })
}

/// When the window that is open at `now` closes; `None` when it is not open.
fn open_until(window: &Window, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let duration = Duration::from_std(window.duration.0).ok()?;
    // The last opening that could still be open is the last one after `now - duration`.
    schedule(&window.schedule)
        .ok()?
        .after(&(now - duration - Duration::seconds(1)))
        .take_while(|opening| *opening <= now)
        .map(|opening| opening + duration)
        .filter(|closing| *closing > now)
        .last()
}

#[cfg(test)]
mod tests {
    use std::time::Duration as StdDuration;

    use chrono::TimeZone;

    use super::*;

    fn window(mode: WindowMode, schedule: &str, hours: u64, environments: &[&str]) -> Window {
        let environments = environments.iter().map(|e| (*e).to_owned()).collect();
        let duration = serde_json::from_value(format!("{}s", StdDuration::from_secs(hours * 3600).as_secs()).into());
        Window { mode, schedule: schedule.to_owned(), duration: duration.unwrap(), environments }
    }

    fn closed_at(windows: &[Window], hour: u32) -> Vec<String> {
        // 2026-03-04 is a Wednesday.
        let now = Utc.with_ymd_and_hms(2026, 3, 4, hour, 30, 0).unwrap();
        closed(windows, &["staging".to_owned(), "production".to_owned()], now).into_keys().collect()
    }

    #[test]
    fn without_windows_nothing_is_closed() {
        assert!(closed_at(&[], 3).is_empty());
    }

    #[test]
    fn an_allow_window_closes_the_rest_of_the_day() {
        let windows = [window(WindowMode::Allow, "0 9 * * 1-5", 8, &["production"])];
        assert_eq!(closed_at(&windows, 8), ["production"]);
        assert!(closed_at(&windows, 9).is_empty());
        assert!(closed_at(&windows, 16).is_empty());
        assert_eq!(closed_at(&windows, 17), ["production"]);
    }

    #[test]
    fn a_deny_window_wins_over_an_allow_window() {
        let windows =
            [window(WindowMode::Allow, "0 0 * * *", 24, &[]), window(WindowMode::Deny, "0 12 * * 3", 2, &["staging"])];
        assert_eq!(closed_at(&windows, 12), ["staging"]);
        assert!(closed_at(&windows, 15).is_empty());
    }
}
