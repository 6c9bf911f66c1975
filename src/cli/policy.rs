//! `plumb policy test`: runs the tests of policies, the built-in ones and the platform's own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use crate::source::{Wanted, WorkingTree};
use crate::validate::{PolicySet, TestOutcome};

use super::args::Common;
use super::output::{self, Paint, count, readable};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Run every test_* rule in *_test.rego: of the built-in policies, and of the platform repositories given.
    Test {
        /// Platform repositories whose policies/*.rego are tested too
        paths: Vec<PathBuf>,
    },
}

/// Tests. Exits with 0 when all passed.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    let PolicyCommand::Test { paths } = args.command;
    let mut own = BTreeMap::new();
    for path in &paths {
        let files = WorkingTree::new(path).read(".", Wanted::ManifestsAndPolicies)?;
        own.extend(
            files
                .files
                .into_iter()
                .filter(|(path, _)| path.ends_with(".rego"))
                .map(|(path, bytes)| (path, String::from_utf8_lossy(&bytes).into_owned())),
        );
    }
    let tests = match PolicySet::test(&own) {
        Ok(tests) => tests,
        Err(findings) => {
            super::validate::print_findings(
                &findings,
                &own.into_iter().map(|(path, text)| (path, text.into())).collect(),
                common,
            );
            return Ok(1);
        }
    };
    let failed = tests.iter().filter(|test| test.outcome != TestOutcome::Passed).count();
    let results: Vec<_> = tests
        .iter()
        .map(|test| json!({"package": test.package, "name": test.name, "passed": test.outcome == TestOutcome::Passed, "message": test.message}))
        .collect();
    output::print_as(common, &results, || {
        let paint = Paint::stdout(common);
        let mut text = String::new();
        for test in &tests {
            let sign = if test.outcome == TestOutcome::Passed { paint.green("pass") } else { paint.red("FAIL") };
            text.push_str(&format!("{sign} {}.{}\n", test.package, test.name));
            if test.outcome != TestOutcome::Passed {
                text.push_str(&format!("     {}\n", readable(&test.message)));
            }
        }
        text.push_str(&format!("{}, {failed} failed\n", count(tests.len(), "test")));
        text
    })?;
    Ok(u8::from(failed > 0))
}
