//! Scalars: what a plain one means (the core schema of YAML 1.2, as `serde_yaml` reads it), and how a value is
//! written so that it means itself again.

use serde_json::{Number, Value};

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Nothing is written: `key:`.
    Empty,
    Plain,
    SingleQuoted,
    DoubleQuoted,
    /// `|` or `>`.
    Block,
}

/// A number that JSON cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfRange;

/// The value of a plain scalar.
pub(super) fn resolve(text: &str) -> Result<Value, OutOfRange> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        ".nan" | ".NaN" | ".NAN" => return Err(OutOfRange),
        _ => {}
    }
    let (negative, digits) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if matches!(digits, ".inf" | ".Inf" | ".INF") {
        return Err(OutOfRange);
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Ok(Value::String(text.to_owned()));
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = digits.strip_prefix(prefix)
            && !digits.is_empty()
            && digits.chars().all(|c| c.is_digit(radix))
        {
            return integer(negative, digits, radix).map(Value::Number);
        }
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let leading_zero = digits.len() > 1 && digits.starts_with('0');
        return if leading_zero { Ok(text.into()) } else { integer(negative, digits, 10).map(Value::Number) };
    }
    match text.parse::<f64>() {
        Ok(number) => Number::from_f64(number).map(Value::Number).ok_or(OutOfRange),
        Err(_) => Ok(Value::String(text.to_owned())),
    }
}

fn integer(negative: bool, digits: &str, radix: u32) -> Result<Number, OutOfRange> {
    let magnitude = u64::from_str_radix(digits, radix).map_err(|_| OutOfRange)?;
    if negative {
        0_i64.checked_sub_unsigned(magnitude).map(Number::from).ok_or(OutOfRange)
    } else {
        Ok(Number::from(magnitude))
    }
}

/// Writes a scalar so that it reads back as `value`, in the style `like` where that can be. `None` for lists and
/// mappings.
pub(super) fn write(value: &Value, like: Style) -> Option<String> {
    match value {
        Value::Null => Some("null".to_owned()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::String(text) => Some(write_text(text, like)),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// Writes a text, which may also be the key of a mapping.
pub(super) fn write_text(text: &str, like: Style) -> String {
    let one_line = !text.chars().any(char::is_control);
    match like {
        Style::DoubleQuoted => double_quoted(text),
        Style::SingleQuoted if one_line => single_quoted(text),
        Style::Empty | Style::Plain | Style::Block if is_plain_everywhere(text) => text.to_owned(),
        Style::Empty | Style::Plain | Style::SingleQuoted | Style::Block => double_quoted(text),
    }
}

/// Whether `text` without quotes is that text for every reader: in flow and in block style, in YAML 1.1 and 1.2.
/// Narrower than it must be, since quotes do no harm.
fn is_plain_everywhere(text: &str) -> bool {
    /// What YAML 1.1 readers take for booleans.
    const AMBIGUOUS: &[&str] = &["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '@' | '+');
    let begins_well = match text.chars().next() {
        Some(first) if first.is_ascii_digit() => {
            text.chars().any(|c| c.is_ascii_alphabetic() && !c.is_ascii_hexdigit())
        }
        Some(first) => first.is_alphabetic() || matches!(first, '_' | '/'),
        None => false,
    };
    let is_text = resolve(text) == Ok(Value::String(text.to_owned()));
    begins_well
        && is_text
        && text.chars().all(|c| word(c) || c == ' ')
        && !text.ends_with(' ')
        && !AMBIGUOUS.contains(&text.to_ascii_lowercase().as_str())
}

fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn double_quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{feff}' | '\u{fffe}' | '\u{ffff}' | '\u{2028}' | '\u{2029}' => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(character)));
            }
            control if control.is_control() => quoted.push_str(&format!("\\x{:02X}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_scalars_mean_what_the_core_schema_says() {
        for (text, value) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("True", json!(true)),
            ("yes", json!("yes")),
            ("0", json!(0)),
            ("-0", json!(0)),
            ("+7", json!(7)),
            ("0x1F", json!(31)),
            ("-0o17", json!(-15)),
            ("007", json!("007")),
            ("1_000", json!("1_000")),
            ("1.5e3", json!(1500.0)),
            (".5", json!(0.5)),
            ("1.2.3", json!("1.2.3")),
            ("64MB", json!("64MB")),
            ("-", json!("-")),
            ("--1", json!("--1")),
            ("18446744073709551615", json!(u64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("2024-01-01", json!("2024-01-01")),
        ] {
            assert_eq!(resolve(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn numbers_that_json_cannot_hold_are_told_apart() {
        for text in
            ["18446744073709551616", "-9223372036854775809", "1e999", ".inf", "-.INF", ".nan", "0xFFFFFFFFFFFFFFFFF"]
        {
            assert_eq!(resolve(text), Err(OutOfRange), "{text}");
        }
    }

    #[test]
    fn what_other_readers_might_take_for_something_else_is_quoted() {
        for text in
            ["on", "No", "", " a", "a ", "a: b", "a #b", "12", "1e3", "0777", "2024-01-01", "*a", "-", "a,b", "1:20"]
        {
            assert_eq!(write_text(text, Style::Plain), format!("\"{text}\""));
        }
        for text in ["readwrite", "64MB", "größe", "a b", "Cache/x", "_x-1"] {
            assert_eq!(write_text(text, Style::Plain), text);
        }
    }

    proptest! {
        #[test]
        fn scalars_resolve_as_serde_yaml_resolves_them(text in "[-+]?(0x|0o|0b|\\.)?[0-9a-fA-F]{0,5}[.eE_]?[0-9]{0,3}|[a-zA-Z.~]{1,5}") {
            // A lone dash is no scalar.
            prop_assume!(text != "-");
            let Ok(ours) = resolve(&text) else { return Ok(()) };
            let theirs: serde_json::Value = serde_yaml::from_str(&format!("k: {text}")).unwrap();
            prop_assert_eq!(json!({ "k": ours }), theirs);
        }

        #[test]
        fn written_texts_read_back_as_themselves(text in any::<String>(), plain in "[ -~]{0,12}") {
            for style in [Style::Plain, Style::SingleQuoted, Style::DoubleQuoted, Style::Block] {
                for text in [&text, &plain] {
                    let yaml = format!("{{k: {}, l: 1}}", write_text(text, style));
                    let read: serde_json::Value = serde_yaml::from_str(&yaml).unwrap();
                    prop_assert_eq!(read, json!({"k": text, "l": 1}));
                }
            }
        }
    }
}
