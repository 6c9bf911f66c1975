//! The budgets of the design, measured: each row beside its yardstick, in the same run, as a ratio.
//!
//! `make bench` runs all; `make bench ARGS=validate` those whose name contains a word. The yardsticks are programs:
//! `git`, `psql`, and `terraform` where it is installed. Nothing here is asserted; a loaded machine shows in both
//! columns.

mod fleet;
mod observed;
mod postgres;
mod rig;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use observed::{Looks, observed};
use plumb::model::EventKind;
use rig::{Ground, Rig, Run, measured};
use serde_json::Value;

/// One line of the table.
pub struct Row {
    what: String,
    ours: String,
    yardstick: String,
    ratio: String,
    budget: &'static str,
}

/// A name to ask for, and what it measures.
type Bench = (&'static str, fn(&Ground) -> Vec<Row>);

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    let benches: &[Bench] = &[
        ("validate", validate),
        ("embedded", embedded),
        ("commit", one_file_commit),
        ("postgres", postgres::two_hundred_databases),
        ("queue", fleet::queue),
        ("events", fleet::events),
        ("replicas", fleet::replicas),
        ("large", fleet::large),
        ("failing", fleet::failing),
        ("idle", fleet::idle),
    ];
    let ground = Ground::new();
    let mut rows = Vec::new();
    for (name, bench) in benches.iter().filter(|(name, _)| is_wanted(name)) {
        eprintln!("measuring {name} ...");
        rows.extend(bench(&ground));
    }
    println!("\nOn {}:\n\n{}", machine(), table(&rows));
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let kib: u64 = text.lines().next()?.split_whitespace().nth(1)?.parse().ok()?;
        Some(format!(", {} GiB", kib / 1024 / 1024))
    });
    format!("{cores} cores{}", memory.unwrap_or_default())
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from("| work | plumb | yardstick | ratio | budget |\n|---|---|---|---|---|\n");
    for Row { what, ours, yardstick, ratio, budget } in rows {
        let _ = writeln!(text, "| {what} | {ours} | {yardstick} | {ratio} | {budget} |");
    }
    text
}

pub fn shown(time: Duration) -> String {
    if time < Duration::from_millis(100) {
        format!("{:.1} ms", time.as_secs_f64() * 1000.0)
    } else if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

pub fn ratio(ours: Duration, theirs: Duration) -> String {
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    let digits = if ratio < 0.1 { 3 } else { 2 };
    format!("{ratio:.digits$}x")
}

/// `plumb validate` over 10,000 documents, from a cold start.
fn validate(ground: &Ground) -> Vec<Row> {
    let rig = Rig::new(ground);
    rig.write_platform();
    rig.write_databases(10_000);
    rig.write_policies();
    let run = measured(rig.plumb(&["validate", "platform", "tenant", "-t", "bench", "-q"]));
    vec![Row {
        what: "validate 10,000 documents (parse, schema, 10 policies), cold".into(),
        ours: format!("{}, {} MiB", shown(run.time), run.peak_mib),
        yardstick: "-".into(),
        ratio: "-".into(),
        budget: "under 2 s",
    }]
}

/// Plans over 10,000 embedded resources, and an apply of 1,000, beside terraform where there is one.
fn embedded(ground: &Ground) -> Vec<Row> {
    let mut rows = Vec::new();
    let thousand = Rig::new(ground);
    thousand.write_platform();
    thousand.write_databases(1_000);
    thousand.commit();
    let apply = measured(thousand.plumb(&["apply", "-q"]));
    let terraform_apply =
        Terraform::new(ground, 1_000).map(|terraform| measured(terraform.run(&["apply", "-auto-approve"])));
    rows.push(beside("apply 1,000 embedded resources", &apply, terraform_apply, "10x faster (29 s)"));

    let rig = Rig::new(ground);
    rig.write_platform();
    rig.write_databases(10_000);
    rig.commit();
    measured(rig.plumb(&["apply", "-q"]));
    let terraform = Terraform::applied(ground, 10_000);
    // In turns: what else the machine does meanwhile is in both.
    let (ours, theirs): (Vec<Run>, Vec<Option<Run>>) = (0..3)
        .map(|_| {
            let theirs = terraform.as_ref().map(|terraform| measured(terraform.run(&["plan"])));
            (measured(rig.plumb(&["plan", "-q"])), theirs)
        })
        .unzip();
    rows.push(beside(
        "no-op plan over 10,000 embedded resources",
        &rig::median(ours),
        theirs.into_iter().collect::<Option<Vec<Run>>>().map(rig::median),
        "20x faster (21 s), a fifth of the memory (831 MiB)",
    ));

    rig.change_one();
    let theirs = terraform.map(|terraform| {
        terraform.change_one();
        measured(terraform.run(&["plan"]))
    });
    rows.push(beside(
        "plan over 10,000 embedded resources, one changed",
        &measured(rig.plumb(&["plan", "-q"])),
        theirs,
        "-",
    ));
    rows
}

fn beside(what: &str, ours: &Run, theirs: Option<Run>, budget: &'static str) -> Row {
    Row {
        what: what.into(),
        ours: format!("{}, {} MiB", shown(ours.time), ours.peak_mib),
        yardstick: theirs.as_ref().map_or_else(
            || "no terraform here".into(),
            |run| format!("terraform {}, {} MiB", shown(run.time), run.peak_mib),
        ),
        ratio: theirs.map_or_else(|| "-".into(), |run| ratio(ours.time, run.time)),
        budget,
    }
}

/// Terraform over many `terraform_data`, each in a block of its own as each of our databases is in a file of its own.
struct Terraform {
    folder: PathBuf,
}

impl Terraform {
    /// With nothing applied; `None` where there is no terraform.
    fn new(ground: &Ground, count: usize) -> Option<Self> {
        Command::new("terraform").arg("version").output().ok().filter(|output| output.status.success())?;
        let terraform = Self { folder: ground.folder() };
        terraform.declare(count);
        measured(terraform.run(&["init"]));
        Some(terraform)
    }

    /// With all of them in its state. Applying ten thousand takes it longer than all else here: its state is spelled
    /// from that of one.
    fn applied(ground: &Ground, count: usize) -> Option<Self> {
        let terraform = Self::new(ground, 1)?;
        measured(terraform.run(&["apply", "-auto-approve"]));
        let state = terraform.folder.join("terraform.tfstate");
        let text = std::fs::read_to_string(&state).expect("terraform wrote its state");
        std::fs::write(&state, multiplied(&text, count)).expect("the folder can be written");
        terraform.declare(count);
        Some(terraform)
    }

    fn declare(&self, count: usize) {
        let block = |number| format!("resource \"terraform_data\" \"r{number}\" {{\n  input = {number}\n}}\n");
        let text: String = (0..count).map(block).collect();
        std::fs::write(self.folder.join("main.tf"), text).expect("the folder can be written");
    }

    fn change_one(&self) {
        let file = self.folder.join("main.tf");
        let text = std::fs::read_to_string(&file).expect("it was declared");
        std::fs::write(file, text.replacen("input = 0\n", "input = 1000000\n", 1)).expect("the folder can be written");
    }

    fn run(&self, args: &[&str]) -> Command {
        let mut command = Command::new("terraform");
        command.current_dir(&self.folder).args(args).arg("-input=false");
        command
    }
}

/// A state of one `terraform_data` as one of `count`.
fn multiplied(state: &str, count: usize) -> String {
    let mut state: Value = serde_json::from_str(state).expect("a state is JSON");
    let first = state["resources"][0].clone();
    let each = |number: usize| {
        let mut resource = first.clone();
        resource["name"] = format!("r{number}").into();
        let attributes = &mut resource["instances"][0]["attributes"];
        attributes["id"] = format!("00000000-0000-0000-0000-{number:012}").into();
        for value in ["input", "output"] {
            attributes[value]["value"] = number.into();
        }
        resource
    };
    state["resources"] = (0..count).map(each).collect();
    state.to_string()
}

/// How often a commit is made and planned, and asked of git: each takes milliseconds, and some are disturbed.
const COMMITS: usize = 25;

/// A commit that changes one file of 10,000, from the commit to the plan, and to what it asks for being done and
/// recorded, in an engine that has seen the commit before it; beside git's own answer to which files changed.
fn one_file_commit(ground: &Ground) -> Vec<Row> {
    let rig = Rig::new(ground);
    rig.write_platform();
    rig.write_databases(10_000);
    rig.commit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        // When the commit was read, and when it was planned.
        let passed: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let listener = Arc::clone(&passed);
        let engine = rig
            .engine(move |event| {
                if let EventKind::SourceRead { .. } | EventKind::Planned { .. } = event.kind {
                    listener.lock().expect("nobody panics").push(Instant::now());
                }
            })
            .await;
        let looks = Looks::default();
        let engine = engine.with_managers(observed(&looks));
        let in_force = engine.platform().await.expect("the platform is valid");
        let look = |width| {
            let ask = plumb::engine::Ask { trigger: plumb::model::Trigger::CommandLine, width };
            engine.reconcile(&in_force, "bench", ask)
        };
        look(plumb::engine::Width::Deep).await.expect("the first look");
        let (mut to_reading, mut observing, mut planning, mut to_end) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut diffs = Vec::new();
        for _ in 0..COMMITS {
            let after = rig.change_one();
            let parent = rig.git(&["rev-parse", "HEAD~1"]);
            // In turns, so that what slows the machine for a while slows both.
            let start = Instant::now();
            rig.git(&["diff", "--name-only", &parent, &after]);
            diffs.push(start.elapsed());
            passed.lock().expect("nobody panics").clear();
            looks.lock().expect("nobody panics").clear();
            let start = Instant::now();
            let report = look(plumb::engine::Width::Changed).await.expect("a look");
            to_end.push(start.elapsed());
            assert_eq!(report.done, 1, "the one change is applied");
            let (passed, looks) = (passed.lock().expect("nobody panics"), looks.lock().expect("nobody panics"));
            to_reading.push(passed[0] - start);
            // The second look is the reading back.
            observing.push(looks[0]);
            planning.push(passed[1] - start - looks[0]);
        }
        let (theirs, observing) = (median(diffs), median(observing));
        let row = |what: String, ours, budget| Row {
            what: format!("one-file commit in 10,000 files, engine warm: {what}"),
            ours: shown(ours),
            yardstick: format!("git diff --name-only {}", shown(theirs)),
            ratio: ratio(ours, theirs),
            budget,
        };
        let planned = format!("planned too; observing the one took another {}", shown(observing));
        vec![
            row("fetched, parsed, validated, judged by policies".to_owned(), median(to_reading), "-"),
            row(planned, median(planning), "under 3x, beside the observation"),
            row("observed, applied and recorded".to_owned(), median(to_end), "-"),
        ]
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
