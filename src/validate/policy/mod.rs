//! Policies: Rego modules below `plumb`, the built-in ones and the platform's own, asked about each resource.
//!
//! A policy sees `input` and nothing else:
//!
//! | field | what |
//! |---|---|
//! | `key` | `tenant/environment/Kind/name` |
//! | `resource` | the document as it stands in git |
//! | `previous` | the document that was in force before, or null |
//! | `tenant` | `{name, environments, providers, owners, quotas}` |
//! | `environment` | the name of the environment |
//! | `provider` | `{name, type}`, or null where that is not known |
//! | `dataBearing` | whether losing the object loses data |
//! | `plan` | what the commit asks for: `{action: create\|update\|none, changes: [field paths]}` |
//!
//! Its rules `deny` and `warn` are sets of `{"msg": text, "path": JSON pointer}`; `path` may be left out. What always
//! holds: whatever goes wrong while a policy is asked denies, it is asked for a bounded time, and the same input gets
//! the same answer. A resource is freed from a built-in policy by naming its key in the platform's own package
//! `plumb.exceptions`: `deletion contains "checkout/production/Database/orders"`.
//!
//! The bounds guard against mistakes. A policy is the platform's own code; they are no prison for hostile ones.

mod builtin;
mod guard;
mod input;
mod test;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use regorus::Engine;
use regorus::utils::limits::ExecutionTimerConfig;
use sha2::{Digest, Sha256};

pub use input::{PolicyInput, TenantInput, tenant_input};
pub use test::{PolicyTest, TestOutcome};

use super::codes;
use crate::model::{Diagnostic, Span};

/// The policies that come with Plumb, and their tests, by the name they are shown under.
const BUILT_IN: &[(&str, &str)] = &[
    ("builtin/connections.rego", include_str!("../../../policies/connections.rego")),
    ("builtin/connections_test.rego", include_str!("../../../policies/connections_test.rego")),
    ("builtin/deletion.rego", include_str!("../../../policies/deletion.rego")),
    ("builtin/deletion_test.rego", include_str!("../../../policies/deletion_test.rego")),
    ("builtin/names.rego", include_str!("../../../policies/names.rego")),
    ("builtin/names_test.rego", include_str!("../../../policies/names_test.rego")),
    ("builtin/owner.rego", include_str!("../../../policies/owner.rego")),
    ("builtin/owner_test.rego", include_str!("../../../policies/owner_test.rego")),
];

/// How long all policies together may think about one resource: a thousand times what they need.
const TIME_A_RESOURCE: Duration = Duration::from_millis(250);

/// How often a rule may run out of time before it is not asked again by evaluators that share timeouts; else one slow
/// rule would take its time again for each of ten thousand resources.
const TIMEOUTS_BEFORE_GIVING_UP: u32 = 3;

/// What a rule's answer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    Deny,
    Warn,
}

/// How far an answer can be trusted to be the same next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// The policy said so.
    Answer,
    /// It failed or ran out of time; it may do better next time.
    Failure,
}

/// What a policy has to say of a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyFinding {
    pub effect: Effect,
    /// The package that says it.
    pub policy: String,
    pub message: String,
    /// The field it speaks of, as a JSON pointer.
    pub path: Option<String>,
    pub basis: Basis,
}

/// A rule that is asked.
#[derive(Clone, Debug)]
struct Question {
    policy: String,
    effect: Effect,
    path: String,
}

/// The policies in force, compiled.
#[derive(Clone, Debug)]
pub struct PolicySet {
    engine: Engine,
    questions: Arc<[Question]>,
    id: Arc<str>,
}

impl PolicySet {
    /// The built-in policies alone; compiled once a process.
    pub fn builtin() -> Self {
        static BUILT_IN_ALONE: LazyLock<PolicySet> = LazyLock::new(|| {
            PolicySet::compile_all(&BTreeMap::new()).expect("the built-in policies compile; a test compiles them")
        });
        BUILT_IN_ALONE.clone()
    }

    /// The built-in policies and the platform's `own`, by path. Tests (`*_test.rego`) are left out.
    ///
    /// # Errors
    /// What is wrong with the platform's own.
    pub fn compile(own: &BTreeMap<String, String>) -> Result<Self, Vec<Diagnostic>> {
        if own.is_empty() { Ok(Self::builtin()) } else { Self::compile_all(own) }
    }

    fn compile_all(own: &BTreeMap<String, String>) -> Result<Self, Vec<Diagnostic>> {
        let sources: Vec<(&str, &str)> = sources(own).filter(|(path, _)| !guard::is_test(path)).collect();
        let mut engine = load(&sources)?;
        let questions: Vec<Question> = guard::rules(engine.get_modules()).iter().filter_map(question).collect();
        prepare(&mut engine, &sources, &questions)?;
        let mut hash = Sha256::new();
        for (path, text) in &sources {
            for part in [path, text] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part.as_bytes());
            }
        }
        Ok(Self { engine, questions: questions.into(), id: hex::encode(hash.finalize()).into() })
    }

    /// What is wrong with the platform's own modules, tests included.
    pub fn check(own: &BTreeMap<String, String>) -> Vec<Diagnostic> {
        if own.is_empty() {
            return Vec::new();
        }
        let all: Vec<(&str, &str)> = sources(own).collect();
        match load(&all) {
            Ok(_) => Self::compile(own).err().unwrap_or_default(),
            Err(diagnostics) => diagnostics,
        }
    }

    /// The same for the same modules.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Asks all policies about one resource. To ask about many, use an [`Evaluator`].
    pub fn evaluate(&self, input: &PolicyInput<'_>) -> Vec<PolicyFinding> {
        self.evaluator(&self.timeouts()).evaluate(input)
    }

    /// Something that asks about many resources, one after the other, and with others that share `timeouts`.
    pub fn evaluator<'a>(&'a self, timeouts: &'a Timeouts) -> Evaluator<'a> {
        Evaluator { set: self, engine: self.engine.clone(), timeouts }
    }

    /// What evaluators of these policies share while they ask about the same resources.
    pub fn timeouts(&self) -> Timeouts {
        Timeouts(self.questions.iter().map(|_| AtomicU32::new(0)).collect())
    }

    /// Runs every rule `test_*` of every `*_test.rego`, built-in and own.
    ///
    /// # Errors
    /// What is wrong with the platform's own modules.
    pub fn test(own: &BTreeMap<String, String>) -> Result<Vec<PolicyTest>, Vec<Diagnostic>> {
        let sources: Vec<(&str, &str)> = sources(own).collect();
        Ok(test::run(load(&sources)?))
    }
}

/// How often each rule ran out of time.
pub struct Timeouts(Vec<AtomicU32>);

/// Asks policies about resources. Each thread has its own; those that share timeouts give up a rule together.
pub struct Evaluator<'a> {
    set: &'a PolicySet,
    engine: Engine,
    timeouts: &'a Timeouts,
}

impl Evaluator<'_> {
    /// Asks all policies about one resource. In order, and each thing said once.
    pub fn evaluate(&mut self, input: &PolicyInput<'_>) -> Vec<PolicyFinding> {
        let set = self.set;
        self.engine.set_input(input.to_rego());
        let started = Instant::now();
        let mut findings = Vec::new();
        for (at, question) in set.questions.iter().enumerate() {
            if self.timeouts.0[at].load(Ordering::Relaxed) >= TIMEOUTS_BEFORE_GIVING_UP {
                findings.push(failure(&question.policy, "ran out of time several times and is not asked again"));
                continue;
            }
            let left = TIME_A_RESOURCE.saturating_sub(started.elapsed());
            match self.ask(question, left) {
                Ok(answer) => read_answer(question, &answer, &mut findings),
                Err(Failed::OutOfTime) => {
                    self.timeouts.0[at].fetch_add(1, Ordering::Relaxed);
                    findings.push(failure(&question.policy, "ran out of time"));
                }
                Err(Failed::Error(error)) => findings.push(failure(&question.policy, &format!("failed: {error}"))),
            }
        }
        findings.sort();
        findings.dedup();
        findings
    }

    fn ask(&mut self, question: &Question, left: Duration) -> Result<regorus::Value, Failed> {
        self.engine.set_execution_timer_config(timer(left));
        // Some built-in functions of the interpreter panic on arguments they do not expect.
        let answer = catch_unwind(AssertUnwindSafe(|| self.engine.eval_rule(question.path.clone())));
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Failed::of(&error)),
            Err(_panic) => {
                self.engine = self.set.engine.clone();
                Err(Failed::Error("it asked for something impossible".to_owned()))
            }
        }
    }
}

/// Why a rule gave no answer.
enum Failed {
    OutOfTime,
    Error(String),
}

impl Failed {
    fn of(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<regorus::LimitError>() {
            Some(regorus::LimitError::TimeLimitExceeded { .. }) => Self::OutOfTime,
            Some(_) | None => Self::Error(place_and_reason(&error.to_string()).2),
        }
    }
}

fn timer(limit: Duration) -> ExecutionTimerConfig {
    /// Steps between two looks at the clock: some tens of microseconds.
    const STEPS: NonZeroU32 = NonZeroU32::new(64).unwrap();
    ExecutionTimerConfig { limit, check_interval: STEPS }
}

fn failure(policy: &str, why: &str) -> PolicyFinding {
    PolicyFinding {
        effect: Effect::Deny,
        policy: policy.to_owned(),
        message: format!("the policy {why}"),
        path: None,
        basis: Basis::Failure,
    }
}

fn question(rule: &guard::RuleName) -> Option<Question> {
    let effect = match rule.name.as_str() {
        "deny" => Effect::Deny,
        "warn" => Effect::Warn,
        _ => return None,
    };
    Some(Question { policy: rule.package.clone(), effect, path: rule.path() })
}

/// Reads the set that a rule yields. What cannot be read denies: it was meant to say something.
fn read_answer(question: &Question, answer: &regorus::Value, findings: &mut Vec<PolicyFinding>) {
    let mut say = |effect: Effect, message: String, path: Option<String>| {
        findings.push(PolicyFinding { effect, policy: question.policy.clone(), message, path, basis: Basis::Answer });
    };
    match answer {
        regorus::Value::Undefined | regorus::Value::Bool(false) | regorus::Value::Null => {}
        regorus::Value::Set(members) => {
            for member in members.iter() {
                match said(member) {
                    Some((message, path)) => say(question.effect, message, path),
                    None => say(Effect::Deny, malformed(question), None),
                }
            }
        }
        regorus::Value::Array(members) if members.is_empty() => {}
        regorus::Value::Bool(true)
        | regorus::Value::Number(_)
        | regorus::Value::String(_)
        | regorus::Value::Array(_)
        | regorus::Value::Object(_) => say(Effect::Deny, malformed(question), None),
    }
}

fn malformed(question: &Question) -> String {
    format!("the rule {} does not yield a set of {{\"msg\", \"path\"}}", question.path)
}

fn said(member: &regorus::Value) -> Option<(String, Option<String>)> {
    match member {
        regorus::Value::String(message) => Some((message.to_string(), None)),
        regorus::Value::Object(fields) => {
            let text = |name: &str| match fields.get(&regorus::Value::from(name)) {
                Some(regorus::Value::String(text)) => Some(text.to_string()),
                Some(_) | None => None,
            };
            Some((text("msg")?, text("path")))
        }
        regorus::Value::Null
        | regorus::Value::Bool(_)
        | regorus::Value::Number(_)
        | regorus::Value::Array(_)
        | regorus::Value::Set(_)
        | regorus::Value::Undefined => None,
    }
}

fn sources(own: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    BUILT_IN.iter().copied().chain(own.iter().map(|(path, text)| (path.as_str(), text.as_str())))
}

/// Parses `sources` and looks for what modules may not do.
fn load(sources: &[(&str, &str)]) -> Result<Engine, Vec<Diagnostic>> {
    let mut engine = Engine::new();
    // What `print` says goes nowhere.
    engine.set_gather_prints(true);
    let mut diagnostics = Vec::new();
    if let Err(error) = builtin::install(&mut engine) {
        diagnostics.push(invalid(sources, "", None, &error.to_string()));
    }
    for (path, text) in sources {
        let parsed = catch_unwind(AssertUnwindSafe(|| engine.add_policy((*path).to_owned(), (*text).to_owned())));
        match parsed {
            Ok(Ok(_package)) => {}
            Ok(Err(error)) => {
                let (_, place, reason) = place_and_reason(&error.to_string());
                diagnostics.push(invalid(sources, path, place, &reason));
            }
            Err(_panic) => diagnostics.push(invalid(sources, path, None, "it cannot be parsed")),
        }
    }
    for objection in guard::objections(engine.get_modules()) {
        let place = Some((objection.line, objection.column));
        diagnostics.push(invalid(sources, &objection.file, place, &objection.message).help(objection.help));
    }
    if diagnostics.is_empty() { Ok(engine) } else { Err(diagnostics) }
}

/// Analyses the modules once, so that clones of the engine need not.
fn prepare(engine: &mut Engine, sources: &[(&str, &str)], questions: &[Question]) -> Result<(), Vec<Diagnostic>> {
    let Some(first) = questions.first() else { return Ok(()) };
    engine.set_execution_timer_config(timer(TIME_A_RESOURCE));
    let analysed = catch_unwind(AssertUnwindSafe(|| engine.compile_with_entrypoint(&first.path.as_str().into())));
    match analysed {
        Ok(Ok(_compiled)) => Ok(()),
        Ok(Err(error)) => {
            let (file, place, reason) = place_and_reason(&error.to_string());
            Err(vec![invalid(sources, &file, place, &reason)])
        }
        Err(_panic) => Err(vec![invalid(sources, "", None, "the policies cannot be analysed")]),
    }
}

fn invalid(sources: &[(&str, &str)], file: &str, place: Option<(u32, u32)>, reason: &str) -> Diagnostic {
    let text = sources.iter().find(|(path, _)| *path == file).map(|(_, text)| *text);
    let span = text.zip(place).map(|(text, (line, column))| span_of(text, line, column));
    Diagnostic::error(codes::INVALID_POLICY, file, format!("this policy cannot be used: {reason}"))
        .at(span)
        .help("policies are Rego v1 in a package below plumb; plumb policy test tries them")
}

/// The rest of the line from `line`, `column` on.
fn span_of(text: &str, line: u32, column: u32) -> Span {
    let line_start: usize = text.split_inclusive('\n').take((line as usize).saturating_sub(1)).map(str::len).sum();
    let rest = text[line_start..].split('\n').next().unwrap_or_default();
    let skipped: usize = rest.chars().take((column as usize).saturating_sub(1)).map(char::len_utf8).sum();
    Span::locate(text, line_start + skipped, line_start + rest.len())
}

/// Takes the interpreter's errors apart: `\n--> file:line:column\n ... error: reason`.
fn place_and_reason(error: &str) -> (String, Option<(u32, u32)>, String) {
    let reason = error.rsplit_once("error: ").map_or(error, |(_, reason)| reason);
    let reason = reason.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let Some(place) = error.split("--> ").nth(1).and_then(|rest| rest.lines().next()) else {
        return (String::new(), None, reason);
    };
    let mut parts = place.rsplitn(3, ':');
    let (column, line) = (parts.next(), parts.next());
    let number = |part: Option<&str>| part.and_then(|part| part.trim().parse().ok());
    (parts.next().unwrap_or_default().to_owned(), number(line).zip(number(column)), reason)
}

#[cfg(test)]
mod tests;
