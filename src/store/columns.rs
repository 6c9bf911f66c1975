//! How values stand in columns, the same in every database: JSON documents, words, keys and times. A time has always
//! the same width, so that the order of texts is the order of times.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;

use super::StoreError;
use crate::model::{ResourceKey, Trigger};

/// A value as a JSON document.
pub(super) fn document<T: Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Encode { what, source })
}

/// Reads [`document`] back.
pub(super) fn read_document<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| StoreError::Decode { what, source })
}

/// A variant of an enum without fields, as its name.
pub(super) fn word<T: Serialize>(what: &'static str, variant: T) -> Result<String, StoreError> {
    match serde_json::to_value(variant).map_err(|source| StoreError::Encode { what, source })? {
        Value::String(word) => Ok(word),
        other => Ok(other.to_string()),
    }
}

/// Reads [`word`] back.
pub(super) fn read_word<T: DeserializeOwned>(what: &'static str, word: &str) -> Result<T, StoreError> {
    serde_json::from_value(Value::String(word.to_owned())).map_err(|source| StoreError::Decode { what, source })
}

/// Reads why a look is asked for, or was begun. What only a newer version knows is a look like any other: replicas of two
/// versions share a queue while one replaces the other.
pub(super) fn read_trigger(word: &str) -> Trigger {
    read_word("a trigger", word).unwrap_or(Trigger::Poll)
}

/// A time with nine decimals, in UTC: nothing is lost, and all are of one width.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// Reads [`time`] back.
pub(super) fn read_time(what: &'static str, text: &str) -> Result<DateTime<Utc>, StoreError> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|error| unreadable(what, error))?;
    Ok(time.with_timezone(&Utc))
}

/// Reads a key that was written with `to_string`.
pub(super) fn read_key(what: &'static str, text: &str) -> Result<ResourceKey, StoreError> {
    text.parse().map_err(|error| unreadable(what, error))
}

fn unreadable(what: &'static str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Decode { what, source: serde_json::Error::custom(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ExecutionOutcome;

    #[test]
    fn times_sort_as_texts_and_lose_nothing() {
        let early = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let late = DateTime::from_timestamp(1_700_000_000, 1).unwrap();
        assert_eq!(time(early), "2023-11-14T22:13:20.000000000Z");
        assert!(time(early) < time(late));
        assert_eq!(read_time("events", &time(late)).unwrap(), late);
    }

    #[test]
    fn words_are_the_names_of_variants() {
        assert_eq!(word("executions", Trigger::DriftScan).unwrap(), "driftscan");
        assert_eq!(read_word::<ExecutionOutcome>("executions", "InSync").unwrap(), ExecutionOutcome::InSync);
        assert!(matches!(
            read_word::<ExecutionOutcome>("executions", "Nope"),
            Err(StoreError::Decode { what: "executions", .. })
        ));
        assert_eq!((read_trigger("driftscan"), read_trigger("weather")), (Trigger::DriftScan, Trigger::Poll));
    }

    #[test]
    fn texts_that_are_no_values_are_errors() {
        assert!(matches!(read_time("events", "yesterday"), Err(StoreError::Decode { .. })));
        assert!(matches!(read_key("events", "a/b"), Err(StoreError::Decode { .. })));
        assert!(matches!(read_document::<Vec<u8>>("events", "[1,"), Err(StoreError::Decode { .. })));
    }
}
