//! The same of `plumb serve`: a process that leads, polls, forgets, probes, claims, keeps its leases alive and is told to
//! stop is killed before or after each call, and each write, of all of that.
//!
//! What happens at the same time comes in no order of its own. So a point is a number here, and the process writes down
//! what it was killed at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use plumb::engine::PreviewSource;
use plumb::engine::schedule::Schedule;
use plumb::model::{Circuit, Clock, EventKind, Execution, ExecutionOutcome, Reason, Summary, SystemClock, Trigger};
use plumb::store::audit::{AuditAction, AuditEntry, AuditFilter, AuditHead, NewAudit, PLATFORM_CHAIN};
use plumb::store::{HistoryFilter, Mode, NewEvent, Scope, Store};
use tokio::sync::oneshot;

use super::acts::{Act, FILES};
use super::{
    Ended, Killer, TENANT, Told, UNTIL, WORLD, Work, World, copy, engine_of, open_store, recover, run_here,
    what_is_broken, with_store,
};

/// Three signs of life in that time, so that a step that waits for one does not wait long.
const LEASE: Duration = Duration::from_millis(600);
/// Long enough for a loaded machine; what is waited for comes within a second or two.
const PATIENCE: Duration = Duration::from_secs(60);
/// Processes mostly wait here: for signs of life, and for the time that something is due.
const AT_ONCE: usize = 4;
/// Every so many points are visited, where nobody says otherwise: all of them take minutes.
const EVERY: usize = 11;
const EVERY_VARIABLE: &str = "PLUMB_CRASH_EVERY";

/// What is visited here.
const ACTS: [Act; 5] = [Act::Create, Act::Change, Act::Ask, Act::Refuse, Act::Undo];

/// A provider that no tenant uses: only the schedule asks whether it is back.
const SPARE: &str = "---\napiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {name: spare}\nspec: {type: sqlite, url: \
                         \"sqlite:spare\"}\n";

/// Who asks each process for a look.
const PERSON: &str = "ada";

/// A tenant that is not in the platform any more; all that is known of it is older than it is kept.
const FORMER: &str = "former";
const OLD: usize = 3;
/// What of that is forgotten, by what the audit log calls it, and how much: the newest execution of a tenant is kept for ever.
const FORGOTTEN: [(&str, usize); 2] = [("audit log", OLD), ("executions", OLD - 1)];

fn long_ago() -> DateTime<Utc> {
    SystemClock.now() - TimeDelta::days(2_000)
}

/// The process that is killed: it serves until its tenant rests, and is told to stop.
#[tokio::test]
#[ignore = "started by the tests beside it"]
async fn child() {
    let Some(world) = std::env::var_os(WORLD).map(PathBuf::from) else { return };
    let until: ExecutionOutcome = serde_json::from_str(&std::env::var(UNTIL).unwrap()).unwrap();
    let tenant = std::fs::read_to_string(world.join("tenant")).unwrap();
    let killer = Killer::of(&world);
    killer.have_a_step_wait();
    let (engine, store) = engine_of(&world, &killer, LEASE).await;
    let engine = Arc::new(engine);
    let before = Known::of(&*store, &tenant).await;
    let (schedule, looks, _ready) = Schedule::new(Arc::clone(&engine));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(schedule.run(async {
        // A dropped sender ends it too.
        let _ = stopped.await;
    }));
    let mut passed = killer.number();
    let rest = async {
        while !looks.ask(Some(&tenant), PERSON) {
            passed.changed().await.unwrap();
        }
        loop {
            let number = *passed.borrow_and_update();
            let known = Known::of(&*store, &tenant).await;
            // What it saw is so only if nothing happened meanwhile.
            if known.rests_since(&before, until) && !killer.is_under_way() && *passed.borrow() == number {
                break;
            }
            passed.changed().await.unwrap();
        }
    };
    let rests = tokio::time::timeout(PATIENCE, rest).await.is_ok();
    stop.send(()).unwrap();
    serving.await.unwrap();
    let points = killer.fall_silent();
    let known = Known::of(&*store, &tenant).await;
    let in_force = engine.platform().await.unwrap();
    let left = engine.preview(&in_force, &tenant, &PreviewSource::Head).await.unwrap().plan;
    let told = Told {
        outcome: known.newest().map_or(ExecutionOutcome::Running, |newest| newest.outcome),
        rests: rests && known.is_idle && left.steps.is_empty() && left.settles.is_empty(),
        failed: known.executions.iter().map(|execution| format!("{execution:?}")).collect(),
        plan: left.id.0.clone(),
        points,
    };
    std::fs::write(world.join("told"), serde_json::to_vec(&told).unwrap()).unwrap();
}

/// What is known of a tenant that is served.
struct Known {
    is_idle: bool,
    /// The newest first.
    executions: Vec<Execution>,
    /// How many looks the person has asked for.
    wishes: usize,
    /// What of the platform is to be done still: something old to be forgotten, a provider to be asked.
    is_done: bool,
}

impl Known {
    async fn of(store: &dyn Store, tenant: &str) -> Self {
        let place = store.place(tenant).await.unwrap();
        let all = HistoryFilter { limit: u32::MAX, ..HistoryFilter::default() };
        let mut tx = store.read(Scope::Tenant(tenant.to_owned())).await.unwrap();
        let executions = tx.executions(&all).await.unwrap();
        let mut tx = store.read(Scope::Platform).await.unwrap();
        let rows = tx.audit(&AuditFilter { limit: u32::MAX, ..AuditFilter::default() }).await.unwrap();
        let forgotten = rows.iter().filter(|row| row.action == AuditAction::Pruned).count();
        Self {
            is_idle: place.is_some_and(|place| place.is_idle()),
            executions,
            wishes: wishes(&rows),
            is_done: forgotten >= FORGOTTEN.len() && tx.circuits().await.unwrap().is_empty(),
        }
    }

    fn newest(&self) -> Option<&Execution> {
        self.executions.first()
    }

    /// Whether all is done since `before`, and nothing is under way.
    fn rests_since(&self, before: &Self, until: ExecutionOutcome) -> bool {
        let is_new = |newest: &Execution| before.newest().is_none_or(|before| before.id < newest.id);
        let has_looked = self.newest().is_some_and(|newest| is_new(newest) && newest.outcome == until);
        self.is_idle && self.is_done && has_looked && self.wishes > before.wishes
    }
}

fn wishes(rows: &[AuditEntry]) -> usize {
    rows.iter().filter(|row| row.action == AuditAction::Request && row.actor == PERSON).count()
}

/// What the schedule finds to do beside the looks: something old of a former tenant, and providers that were silent.
pub async fn leave_work(world: &World, silent: &[&str]) {
    with_store(&world.folder, Mode::Reconcile, async |store| {
        let mut tx = store.begin(Scope::Tenant(FORMER.to_owned())).await.unwrap();
        let at = long_ago();
        for _ in 0..OLD {
            let id = tx.start_execution(FORMER, Trigger::Poll, None, at).await.unwrap();
            let kind = EventKind::Warning { reason: Reason::Internal, message: "something old".to_owned() };
            tx.append_events(id, FORMER, &[NewEvent { key: None, at, kind }]).await.unwrap();
            tx.finish_execution(id, ExecutionOutcome::InSync, None, None, Summary::default(), at).await.unwrap();
            let (actor, details) = (PERSON.to_owned(), BTreeMap::new());
            let row = NewAudit { at, actor, action: AuditAction::Commit, key: None, details };
            tx.append_audit(FORMER, &[row]).await.unwrap();
        }
        tx.commit().await.unwrap();
        let mut tx = store.begin(Scope::Platform).await.unwrap();
        for provider in silent {
            let (reason, message) = (Reason::ProviderUnreachable, "nobody was there".to_owned());
            let (provider, retry_at) = ((*provider).to_owned(), Some(at));
            let circuit = Circuit { provider, failures: 3, reason, message, since: at, asked_at: at, retry_at };
            tx.put_circuit(&circuit).await.unwrap();
        }
        tx.commit().await.unwrap();
    })
    .await;
}

/// Forgets that the dead had the turn to ask a provider, which runs out by itself after seconds.
async fn give_turns_back(world: &World) {
    with_store(&world.folder, Mode::Append, async |store| {
        let mut tx = store.begin(Scope::Platform).await.unwrap();
        for circuit in tx.circuits().await.unwrap().into_values() {
            tx.put_circuit(&Circuit { retry_at: Some(long_ago()), ..circuit }).await.unwrap();
        }
        tx.commit().await.unwrap();
    })
    .await;
}

/// What does not hold where `processes` have served in turn, and the last has ended.
pub async fn is_at_peace(world: &World, processes: usize) -> Vec<String> {
    let store = open_store(&world.folder, Mode::ReadOnly).await;
    let mut broken = Vec::new();
    for place in store.places().await.unwrap() {
        if !place.is_idle() || place.lease_until.is_some() {
            broken.push(format!("it does not stand idle: {place:?}"));
        }
    }
    let mut tx = store.read(Scope::Platform).await.unwrap();
    let rows = tx.audit(&AuditFilter { limit: u32::MAX, ..AuditFilter::default() }).await.unwrap();
    let pruned = rows.iter().filter(|row| row.action == AuditAction::Pruned);
    let mut forgotten: Vec<(&str, u64)> =
        pruned.map(|row| (row.details["what"].as_str().unwrap(), row.details["rows"].as_u64().unwrap())).collect();
    forgotten.sort_unstable();
    // That the chain of these began is as old, and goes with them where the chain of the platform begins with it.
    let heads = tx.audit_heads().await.unwrap();
    let told_of = heads.iter().filter(|head| head.tenant == PLATFORM_CHAIN).map(AuditHead::cut).sum::<i64>();
    let [(log, old), (executions, ended)] = FORGOTTEN.map(|(what, rows)| (what, u64::try_from(rows).unwrap()));
    let wanted = [(log, old + u64::try_from(told_of).unwrap()), (executions, ended)];
    if forgotten != wanted || told_of > 1 {
        broken.push(format!("this was forgotten: {forgotten:?}, and not {wanted:?}"));
    }
    let wishes = wishes(&rows);
    if !(1..=processes).contains(&wishes) {
        broken.push(format!("{processes} looks were asked for, and {wishes} are on record"));
    }
    broken
}

/// What was told of a tenant, line by line, for whoever has to find out what went wrong.
async fn what_was_told(world: &World) -> Vec<String> {
    let store = open_store(&world.folder, Mode::ReadOnly).await;
    let mut tx = store.read(Scope::Tenant(TENANT.to_owned())).await.unwrap();
    let all = HistoryFilter { limit: u32::MAX, ..HistoryFilter::default() };
    let looks = tx.executions(&all).await.unwrap();
    let looks = looks.iter().map(|look| format!("look {}: {:?}, {:?}", look.id, look.trigger, look.outcome));
    let events = tx.events(&all).await.unwrap();
    let events = events.iter().rev().map(|event| format!("in {}: {:?}: {:?}", event.execution, event.key, event.kind));
    looks.chain(events).collect()
}

/// What was visited of an act.
#[derive(Default)]
struct Visited {
    /// How often a process was killed, by what it was at.
    killed: BTreeMap<String, usize>,
    /// How often one came to rest before it came by its point.
    lived: usize,
}

/// Visits every point of `act` whose number is `share` modulo `shares`.
fn visit(act: Act, folder: &Path, share: usize, shares: usize, broken: &Mutex<Vec<String>>) -> Visited {
    let (place, base) = (folder.join("world"), folder.join("base"));
    let mut world = World::make(&place, TENANT, &format!("{FILES}{SPARE}"), "[files]");
    act.prepare(&mut world);
    let silent: &[&str] = if act == Act::Create { &["files", "spare"] } else { &[] };
    run_here(leave_work(&world, silent));
    copy(&place, &base);
    let work = Work::Serve { until: act.outcome() };
    let whole = world.work(work);
    assert!(whole.rests, "{whole:?}");
    let effects = world.effects();
    let mut visited = Visited::default();
    let every = std::env::var(EVERY_VARIABLE).map_or(EVERY, |every| every.parse().unwrap());
    for point in (0..whole.points.len()).step_by(every).filter(|point| point / every % shares == share) {
        copy(&base, &place);
        let (at, mut wrong) = match world.start(work, Some(point)) {
            Ended::Killed { at } => {
                *visited.killed.entry(at.clone()).or_default() += 1;
                run_here(give_turns_back(&world));
                (at, recover(&world, work, act.outcome()))
            }
            Ended::Lived(told) => {
                visited.lived += 1;
                let wrong = if told.rests { Vec::new() } else { vec![format!("it does not rest: {told:?}")] };
                ("not killed".to_owned(), wrong)
            }
        };
        wrong.extend(what_is_broken(act, &world, effects.clone()));
        wrong.extend(run_here(is_at_peace(&world, 2)));
        if !wrong.is_empty() {
            wrong.extend(run_here(what_was_told(&world)));
            let told = format!("{act:?}, point {point} ({at}):\n    {}", wrong.join("\n    "));
            println!("{told}");
            broken.lock().unwrap().push(told);
        }
    }
    visited
}

#[test]
fn a_serving_process_that_is_killed_at_any_point_leaves_what_the_next_one_brings_to_rest() {
    let started = Instant::now();
    let broken = Mutex::new(Vec::new());
    for act in ACTS {
        let shares: Vec<Visited> = std::thread::scope(|scope| {
            let broken = &broken;
            let workers: Vec<_> = (0..AT_ONCE)
                .map(|share| {
                    scope.spawn(move || {
                        let folder = crate::simulation::folder();
                        visit(act, folder.path(), share, AT_ONCE, broken)
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        let lived: usize = shares.iter().map(|visited| visited.lived).sum();
        let mut killed: BTreeMap<String, usize> = BTreeMap::new();
        for (at, times) in shares.into_iter().flat_map(|visited| visited.killed) {
            *killed.entry(at).or_default() += times;
        }
        let deaths: usize = killed.values().sum();
        println!(
            "{act:?}: killed {deaths} times at {} places, not killed {lived} times, {:?} since the start: {killed:?}",
            killed.len(),
            started.elapsed()
        );
        assert!(deaths > 3 * lived, "{deaths} deaths, {lived} lives");
    }
    let broken = broken.into_inner().unwrap();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
