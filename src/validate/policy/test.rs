//! Runs the tests of policies.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use regorus::{Engine, Value};

use super::{Failed, guard, timer};

/// How long one test may take; tests try more than one resource.
const TIME_A_TEST: Duration = Duration::from_secs(5);

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestOutcome {
    Passed,
    /// The rule is not true.
    Failed,
    /// The rule could not be evaluated.
    Error,
}

/// One rule `test_*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTest {
    /// The rule's name.
    pub name: String,
    pub package: String,
    pub file: String,
    pub outcome: TestOutcome,
    /// Why it did not pass; empty when it did.
    pub message: String,
}

pub(super) fn run(mut engine: Engine) -> Vec<PolicyTest> {
    let rules = guard::rules(engine.get_modules());
    let tests = rules.into_iter().filter(|rule| guard::is_test(&rule.file) && rule.name.starts_with("test_"));
    tests
        .map(|rule| {
            let mut engine = engine.clone();
            engine.set_execution_timer_config(timer(TIME_A_TEST));
            engine.set_input(Value::new_object());
            let (outcome, message) = match catch_unwind(AssertUnwindSafe(|| engine.eval_rule(rule.path()))) {
                Ok(Ok(Value::Bool(true))) => (TestOutcome::Passed, String::new()),
                Ok(Ok(Value::Undefined)) => (TestOutcome::Failed, "its conditions do not all hold".to_owned()),
                Ok(Ok(other)) => (TestOutcome::Failed, format!("it yields {other}, not true")),
                Ok(Err(error)) => (TestOutcome::Error, reason(&error)),
                Err(_panic) => (TestOutcome::Error, "it asks for something impossible".to_owned()),
            };
            PolicyTest { name: rule.name, package: rule.package, file: rule.file, outcome, message }
        })
        .collect()
}

fn reason(error: &anyhow::Error) -> String {
    match Failed::of(error) {
        Failed::OutOfTime => "it ran out of time".to_owned(),
        Failed::Error(reason) => reason,
    }
}
