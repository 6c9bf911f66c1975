//! Quoting: the one place where text becomes SQL. Nothing that a tenant wrote reaches a statement by another way.
//!
//! What always holds: what goes in as one identifier or literal comes out as one, whatever `standard_conforming_strings`
//! says. A NUL cannot be quoted at all; [`super::connection::Session`] sends no statement that has one.

use crate::managers::ManagerError;
use crate::model::{Reason, refuse_setting};

/// `"name"`, as one identifier.
pub(super) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `"a", "b"`.
pub(super) fn idents<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    names.into_iter().map(|name| ident(name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `'text'`, as one string.
pub(super) fn literal(text: &str) -> String {
    let quotes_doubled = text.replace('\'', "''");
    if text.contains('\\') {
        // The E form means the same on every server; a plain one depends on standard_conforming_strings.
        format!(" E'{}'", quotes_doubled.replace('\\', "\\\\"))
    } else {
        format!("'{quotes_doubled}'")
    }
}

/// Settings whose value is a list of names, each quoted by itself: given as one string, `app, public` would be one
/// schema of that name. The same list that `pg_dump` carries.
const LISTS_OF_NAMES: &[&str] = &[
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// The name of a setting, quoted part by part.
///
/// # Errors
/// When it is no name that a setting can have, or one that says who a session is.
pub(super) fn setting_name(name: &str) -> Result<String, ManagerError> {
    if let Some(why) = refuse_setting(name) {
        return Err(rejected(why));
    }
    Ok(name.split('.').map(ident).collect::<Vec<_>>().join("."))
}

/// The value of a setting as `SET` takes it: one literal, or one for each name of a list.
///
/// # Errors
/// When a list has a quote that does not end.
pub(super) fn setting_value(name: &str, value: &str) -> Result<String, ManagerError> {
    let name = name.to_ascii_lowercase();
    if !LISTS_OF_NAMES.contains(&name.as_str()) {
        return Ok(literal(value));
    }
    let folds_case = matches!(name.as_str(), "search_path" | "temp_tablespaces");
    let members = split_names(value, folds_case)
        .ok_or_else(|| rejected(format!("the value of {name} is not a list of names separated by commas")))?;
    if members.is_empty() {
        return Ok(literal(""));
    }
    Ok(members.iter().map(|member| literal(member)).collect::<Vec<_>>().join(", "))
}

/// Splits `a, "B c"` as the server does; names without quotes are folded to lower case where it folds them. `None`
/// when a quote does not end, or a name is missing.
fn split_names(list: &str, folds_case: bool) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = list.trim();
    if rest.is_empty() {
        return Some(names);
    }
    loop {
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_name(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let name = rest[..end].trim_end();
                if name.is_empty() || name.contains('"') {
                    return None;
                }
                (if folds_case { name.to_lowercase() } else { name.to_owned() }, &rest[end..])
            }
        };
        names.push(name);
        let after = after.trim_start();
        if after.is_empty() {
            return Some(names);
        }
        rest = after.strip_prefix(',')?.trim_start();
    }
}

/// The name up to the closing quote, and what follows it.
fn quoted_name(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

fn rejected(message: String) -> ManagerError {
    ManagerError::terminal(Reason::Rejected, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_stays_one_identifier() {
        assert_eq!(ident("orders"), "\"orders\"");
        assert_eq!(ident("x\"; DROP DATABASE y; --"), "\"x\"\"; DROP DATABASE y; --\"");
        assert_eq!(ident("Größe 💾"), "\"Größe 💾\"");
        assert_eq!(idents(["a", "b\""]), "\"a\", \"b\"\"\"");
    }

    #[test]
    fn a_literal_stays_one_literal_with_backslashes_too() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("\\'; DROP"), " E'\\\\''; DROP'");
    }

    #[test]
    fn setting_names_are_plain_and_never_say_who_a_session_is() {
        assert_eq!(setting_name("work_mem").unwrap(), "\"work_mem\"");
        assert_eq!(setting_name("app.tenant").unwrap(), "\"app\".\"tenant\"");
        for name in ["", "a b", "a;b", "a\"b", ".a", "a.", "1a", "role", "ROLE", "session_authorization", "größe"] {
            assert!(setting_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_list_of_names_is_set_name_by_name() {
        assert_eq!(setting_value("search_path", "App, public").unwrap(), "'app', 'public'");
        assert_eq!(setting_value("Search_Path", "\"$user\", \"A \"\"b\"\", c\"").unwrap(), "'$user', 'A \"b\", c'");
        assert_eq!(setting_value("search_path", " ").unwrap(), "''");
        assert_eq!(setting_value("session_preload_libraries", "Lib").unwrap(), "'Lib'");
        assert_eq!(setting_value("work_mem", "4MB, 5").unwrap(), "'4MB, 5'");
        for value in ["\"a", "a,,b", "a,", "a\"b", "\"a\"b"] {
            assert!(setting_value("search_path", value).is_err(), "{value}");
        }
    }
}
