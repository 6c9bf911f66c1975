//! A clock that the test moves.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, TimeDelta, Utc};
use plumb::model::Clock;

/// Stands still until it is set.
pub struct SetClock(Mutex<DateTime<Utc>>);

impl SetClock {
    pub fn at(time: &str) -> Arc<Self> {
        Arc::new(Self(Mutex::new(moment(time))))
    }

    pub fn set(&self, time: &str) {
        *self.0.lock().unwrap() = moment(time);
    }

    pub fn forward(&self, by: TimeDelta) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for SetClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

pub fn moment(time: &str) -> DateTime<Utc> {
    time.parse().unwrap()
}
