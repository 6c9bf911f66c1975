//! What policies may call. They see their input and nothing else: no network, no clock, no chance; so that the same
//! commit gets the same answer everywhere, and an answer may be kept. And what they may make in memory is bounded.

use anyhow::{Result, anyhow, bail};
use regorus::unstable::{BUILTINS, Expr, ExprRef, Parser, Rule, RuleHead, Span};
use regorus::{Engine, Source, Value};

/// How much one call may take in or make, in characters and members: far more than a document has.
const WEIGHT: usize = 4 * 1024 * 1024;

/// The longest list of numbers.
const LONGEST_RANGE: i64 = 10_000;

/// The widest column that `sprintf` may fill.
const WIDEST_COLUMN: u64 = 1000;

/// Functions whose work is at most proportional to what they are given.
const PLAIN: &[&str] = &[
    "abs",
    "array.reverse",
    "array.slice",
    "base64.decode",
    "base64.encode",
    "base64.is_valid",
    "bits.and",
    "bits.negate",
    "bits.or",
    "bits.rsh",
    "bits.xor",
    "ceil",
    "contains",
    "count",
    "endswith",
    "floor",
    "format_int",
    "glob.match",
    "glob.quote_meta",
    "hex.decode",
    "hex.encode",
    "indexof",
    "indexof_n",
    "intersection",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "json.filter",
    "json.is_valid",
    "json.remove",
    "json.unmarshal",
    "lower",
    "max",
    "min",
    "object.filter",
    "object.get",
    "object.keys",
    "object.remove",
    "object.subset",
    "product",
    "regex.find_all_string_submatch_n",
    "regex.find_n",
    "regex.is_valid",
    "regex.match",
    "regex.split",
    "regex.template_match",
    "round",
    "semver.compare",
    "semver.is_valid",
    "sort",
    "split",
    "startswith",
    "strings.any_prefix_match",
    "strings.any_suffix_match",
    "strings.count",
    "strings.reverse",
    "substring",
    "sum",
    "time.add_date",
    "time.clock",
    "time.date",
    "time.diff",
    "time.format",
    "time.parse_duration_ns",
    "time.parse_ns",
    "time.parse_rfc3339_ns",
    "time.weekday",
    "to_number",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "type_name",
    "union",
    "units.parse",
    "units.parse_bytes",
    "upper",
    "walk",
];

/// Functions that can make much of little; they run behind a scale.
const WEIGHED: &[&str] = &[
    "array.concat",
    "concat",
    "json.marshal",
    "numbers.range",
    "numbers.range_step",
    "object.union",
    "object.union_n",
    "regex.replace",
    "replace",
    "sprintf",
    "strings.replace_n",
];

/// The names of all functions there are.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PLAIN.iter().chain(WEIGHED).copied()
}

/// Puts the scales into `engine`: functions added to it come before the ones built in.
///
/// # Errors
/// When a function is added twice.
pub(super) fn install(engine: &mut Engine) -> Result<()> {
    for name in WEIGHED {
        let Some((function, arity)) = BUILTINS.get(name).copied() else {
            bail!("there is no function {name}");
        };
        let (span, parameters) = call_site(arity)?;
        engine.add_extension(
            (*name).to_owned(),
            arity,
            Box::new(move |arguments: Vec<Value>| {
                weigh_call(name, &arguments)?;
                function(&span, &parameters, &arguments, true)
            }),
        )?;
    }
    Ok(())
}

/// A place in a text that a function can name in its errors, with as many parameters as it takes.
fn call_site(arity: u8) -> Result<(Span, Vec<ExprRef>)> {
    let parameters = (0..arity).map(|at| format!("p{at}")).collect::<Vec<_>>().join(", ");
    let source = Source::from_contents("call".to_owned(), format!("package call\nmade := f({parameters})\n"))?;
    let module = Parser::new(&source)?.parse()?;
    let rule = module.policy.first().ok_or_else(|| anyhow!("a call has a rule"))?;
    if let Rule::Spec { head: RuleHead::Compr { assign: Some(assign), .. }, .. } = rule.as_ref()
        && let Expr::Call { span, params, .. } = assign.value.as_ref()
    {
        return Ok((span.clone(), params.clone()));
    }
    bail!("a call is a call")
}

fn weigh_call(name: &str, arguments: &[Value]) -> Result<()> {
    let mut left = WEIGHT;
    for argument in arguments {
        left = weigh(argument, left).ok_or_else(|| anyhow!("{name} is given more than a policy may work on"))?;
    }
    match name {
        "numbers.range" | "numbers.range_step" => {
            let (first, last) = (integer(arguments.first())?, integer(arguments.get(1))?);
            if first.abs_diff(last) >= LONGEST_RANGE.unsigned_abs() {
                bail!("{name} makes more than {LONGEST_RANGE} numbers");
            }
        }
        "replace" | "regex.replace" | "strings.replace_n" => {
            let lengths = arguments.iter().map(|argument| 1 + WEIGHT - weigh(argument, WEIGHT).unwrap_or(0));
            if lengths.fold(1_usize, usize::saturating_mul) > WEIGHT {
                bail!("{name} makes more than a policy may work on");
            }
        }
        "sprintf" => {
            let format = arguments.first().and_then(|format| format.as_string().ok());
            if format.is_some_and(|format| widest(format) > WIDEST_COLUMN) {
                bail!("{name} is asked for a column wider than {WIDEST_COLUMN}");
            }
        }
        _ => {}
    }
    Ok(())
}

fn integer(value: Option<&Value>) -> Result<i64> {
    value.ok_or_else(|| anyhow!("a number is missing"))?.as_i64()
}

/// The largest number in `format`.
fn widest(format: &str) -> u64 {
    format
        .split(|c: char| !c.is_numeric())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse().unwrap_or(u64::MAX))
        .max()
        .unwrap_or(0)
}

/// What is left of `left` when `value` is taken off; `None` when it is more. Stops early, since a value may hold
/// itself many times over.
fn weigh(value: &Value, left: usize) -> Option<usize> {
    let left = left.checked_sub(1)?;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Undefined => Some(left),
        Value::String(text) => left.checked_sub(text.len()),
        Value::Array(items) => items.iter().try_fold(left, |left, item| weigh(item, left)),
        Value::Set(items) => items.iter().try_fold(left, |left, item| weigh(item, left)),
        Value::Object(fields) => fields.iter().try_fold(left, |left, (key, value)| weigh(value, weigh(key, left)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_exists() {
        for name in names().filter(|name| *name != "walk") {
            assert!(BUILTINS.contains_key(name), "{name}");
        }
    }

    #[test]
    fn nothing_reaches_out() {
        for name in ["http.send", "time.now_ns", "rand.intn", "opa.runtime", "net.lookup_ip_addr", "print", "trace"] {
            assert!(!names().any(|known| known == name), "{name}");
        }
    }
}
