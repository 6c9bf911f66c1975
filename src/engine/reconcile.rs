//! The sentence: source, manifest, validate, observe, plan, gate, apply, observe, record, propose.
//!
//! Level-triggered. The one thing a caller says is that a tenant needs a look, and how wide; what is done follows only
//! from git's refs, the inventory and what was observed. The first run, the thousandth, and the one after a crash are
//! the same code.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::model::{
    AppliedDocument, Approval, Ask, Decisions, Depth, DesiredState, Diagnostic, EventKind, ExecutionOutcome, Hold,
    ObjectHex, Observation, Observations, Plan, PlanScope, Proposal, ProposalKind, ProposalStatus, Reason, ResourceKey,
    Saga, Summary, TenantSpec, Unknown, Width,
};
use crate::plan::{self, Terms};
use crate::source::{CommitInfo, Mirror, Refs, SourceError};
use crate::store::Scope;
use crate::store::audit::NewAudit;

use super::apply::Applied;
use super::attempts::{self, Heads};
use super::circuits::Circuits;
use super::decide::{self, Evidence, Removal};
use super::desired::{Loaded, Owner, Reading, Sources, Workspace};
use super::fleet::Access;
use super::holds::{self, Lineage};
use super::last_words::Words;
use super::lease::{Going, Held};
use super::memory::{Memory, Reached};
use super::observe::{Doubts, Look, doubt_absence, targets};
use super::passwords::Seen;
use super::platform::PlatformStatus;
use super::preview::believe_record;
use super::propose::{self, About, Topic, forgotten};
use super::record::{Pass, Written};
use super::replay::{self, Only};
use super::sagas;
use super::timeline::Timeline;
use super::worker::name_of;
use super::{Engine, EngineError, audit, beside, blocking, mirrors, windows};

/// How often a pass is planned anew at once because a target was not what a step expected.
pub(super) const MOST_REPLANS: u32 = 3;

/// What became of a look at one tenant.
#[derive(Debug)]
pub struct Report {
    pub tenant: String,
    pub execution: i64,
    pub outcome: ExecutionOutcome,
    pub plan: Plan,
    pub desired: Arc<DesiredState>,
    /// What steps failed, with the reason.
    pub failed: BTreeMap<ResourceKey, (Reason, String)>,
    /// What was planned and not begun, with why, and when it goes on: a window closed meanwhile, or the look ended early.
    pub put_off: BTreeMap<ResourceKey, Hold>,
    /// How many steps were done, by all plans of the pass where it was planned anew.
    pub done: usize,
    /// Something did not work that may work later without a new commit.
    pub wants_retry: bool,
    /// Its process was told to stop before all was begun, or it made room for others: another look goes on with the rest as
    /// soon as there is a place for it.
    pub was_ended: bool,
    /// How long until something that is held goes on by itself: a step that failed is tried again, a window opens.
    pub next_try: Option<Duration>,
    /// The refs that it was done on.
    pub refs: Refs,
    /// Texts of files with findings.
    pub sources: Sources,
}

/// The tenant a pass is about, as the platform in force describes it.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub in_force: &'a PlatformStatus,
    pub tenant: &'a str,
    pub spec: &'a TenantSpec,
}

impl<'a> Subject<'a> {
    pub(super) fn of(in_force: &'a PlatformStatus, tenant: &'a str) -> Result<Self, EngineError> {
        let platform = &in_force.platform;
        let spec = platform.tenants.get(tenant).ok_or_else(|| EngineError::no_tenant(platform, tenant))?;
        Ok(Self { in_force, tenant, spec })
    }

    pub(super) fn owner(self, previous: &'a BTreeMap<ResourceKey, AppliedDocument>) -> Owner<'a> {
        let Self { in_force, tenant, spec } = self;
        Owner { platform: &in_force.platform, policies: &in_force.policies, name: tenant, tenant: spec, previous }
    }

    /// The proposals that the refs say something new of.
    pub(super) fn read_proposals(
        self,
        known: &BTreeMap<ResourceKey, Proposal>,
        source: &Source,
        reading: &Reading,
        news: &News,
    ) -> Result<Vec<Proposal>, EngineError> {
        let evidence = Evidence {
            platform: &self.in_force.platform.id,
            tenant: self.spec,
            refs: &source.refs,
            url: &self.spec.repository.url,
            mirror: &source.mirror,
            desired: &reading.desired,
            is_other: news.lineage.departure.is_some(),
            is_empty: reading.files == 0,
            vanished_elsewhere: news.vanished_elsewhere,
            at: news.at,
            let_go: &news.let_go,
        };
        beside(|| decide::read_proposals(known, evidence)).map_err(|error| unreadable(self.tenant, error))
    }

    /// How the head follows what was read last (R9).
    fn lineage(self, memory: &Memory, source: &Source) -> Result<Lineage, EngineError> {
        let Source { mirror, head, .. } = source;
        beside(|| holds::lineage(self.spec, memory, head, |before| mirror.contains(before, head)))
            .map_err(|error| unreadable(self.tenant, error))
    }
}

/// A tenant's repository as one advertisement showed it.
pub(super) struct Source {
    pub mirror: Arc<Mirror>,
    pub refs: Refs,
    pub head: ObjectHex,
}

/// What the head says beside its documents.
pub(super) struct News {
    pub lineage: Lineage,
    /// The commits since the last pass. Those of another source or history are not heard: they may have been heard before.
    pub commits: Vec<CommitInfo>,
    let_go: Vec<Removal>,
    /// How many branches of other tenants' proposals vanished from the same repository.
    vanished_elsewhere: usize,
    /// When it was heard.
    at: DateTime<Utc>,
}

/// What a person has to say of a look that they wait for.
#[derive(Default)]
pub(super) struct Order<'a> {
    /// Nothing is done where the plan is not one of those.
    pub only: Option<&'a Only>,
    /// What is written into the audit log of it.
    pub asked: Option<NewAudit>,
}

/// What a pass begins with.
struct Start {
    source: Source,
    loaded: Loaded,
    memory: Memory,
}

/// A plan, and what it stands on.
pub(super) struct Planned {
    pub live: Observations,
    /// Providers that were not asked for strays, or did not answer.
    silent: BTreeSet<String>,
    decisions: Decisions,
    pub plan: Plan,
}

/// One pass, done.
struct Passed {
    plan: Plan,
    desired: Arc<DesiredState>,
    applied: Applied,
    /// How long until something that is held goes on by itself.
    next_try: Option<Duration>,
    /// What it did is to be undone.
    undoes: bool,
    /// Its lease may have ended before all was said of its proposals.
    lost_its_voice: bool,
    refs: Refs,
    commit: ObjectHex,
    sources: Sources,
}

impl Engine {
    /// Looks at one tenant, which must be held, and makes live what git says.
    ///
    /// # Errors
    /// When its repository or the store cannot be used. Most errors come before anything is applied, but not all: a
    /// store that fails when the pass is recorded leaves steps that are done, and the next pass finds them so. What
    /// single resources lack is in the report.
    pub(super) async fn look(
        &self,
        in_force: &PlatformStatus,
        held: &Held,
        ask: Ask,
        order: Order<'_>,
    ) -> Result<Report, EngineError> {
        let Order { only, asked } = order;
        let lease = held.lease();
        let tenant = lease.tenant.as_str();
        let subject = Subject::of(in_force, tenant)?;
        let shared = self.workspace(tenant);
        let mut shared = shared.lock().await;
        // What a pass that panicked or was given up leaves half done is not used again.
        let mut workspace = std::mem::take(&mut *shared);
        workspace.expect_generation(lease.generation);
        let open = Timeline::open(self.store.as_ref(), &self.listener, self.clock.as_ref(), lease, ask.trigger, asked);
        let start = self.start(subject, held, &mut workspace);
        let (timeline, mut started) = tokio::join!(open, start);
        let mut timeline = timeline?;
        if timeline.ended_another() {
            // Records say more by now than they did when they were read.
            workspace.forget();
            started = self.start(subject, held, &mut workspace).await;
        }
        let mut ask = ask;
        let (mut replans, mut earlier) = (0, Vec::new());
        let passed = loop {
            let passed = match started {
                // What undoes the first plan goes with it.
                Ok(start) => {
                    let only = only.filter(|_| replans == 0);
                    self.pass(subject, held, (ask, only), start, &mut workspace, &mut timeline).await
                }
                Err(error) => Err(error),
            };
            match passed {
                Ok(passed)
                    if (passed.undoes || (passed.applied.has_conflict() && only.is_none()))
                        && replans < MOST_REPLANS
                        && held.going() == Going::On =>
                {
                    started = self.start(subject, held, &mut workspace).await;
                    // Nobody has seen what a newer head asks for. Under it nothing is undone either: the next look applies it.
                    let is_same = |start: &Start| start.source.head == passed.commit;
                    if only.is_some() && !started.as_ref().is_ok_and(is_same) {
                        workspace.forget();
                        break Ok(passed);
                    }
                    replans += 1;
                    let Passed { plan, applied, .. } = passed;
                    earlier.extend(plan.steps.into_iter().filter(|step| applied.done.contains(&step.key)));
                    // What changed under the plan may be anything.
                    ask = Ask { width: Width::Deep, ..ask };
                }
                other => break other,
            }
        };
        if passed.is_err() {
            workspace.forget();
        }
        *shared = workspace;
        let execution = timeline.execution();
        let passed = match passed {
            Ok(passed) => passed,
            Err(error @ EngineError::AnotherPlan { .. }) => {
                timeline.note(EventKind::Warning { reason: error.reason(), message: error.to_string() });
                timeline.finish(ExecutionOutcome::Blocked, None, None, Summary::default()).await?;
                return Err(error);
            }
            Err(error) => {
                timeline.note(EventKind::SourceFailed { reason: error.reason(), message: chain(&error) });
                let remembered = self.remember_failure(lease, subject.spec, &error).await;
                let finished = timeline.finish(ExecutionOutcome::Failed, None, None, Summary::default()).await;
                // What failed first is what a person has to know of.
                if let Err(unwritten) = remembered.and(finished.map_err(EngineError::from)) {
                    tracing::warn!(tenant, error = chain(&unwritten), "a failed look could not be written down whole");
                }
                return Err(error);
            }
        };
        let Passed { plan, desired, applied, next_try, undoes: _, lost_its_voice, refs, commit, sources } = passed;
        let outcome = outcome_of(&plan, &desired, &applied);
        let mut summary = plan.summary();
        summary.count(&earlier);
        let finished = timeline.finish(outcome, Some(&commit), Some(&plan.id), summary).await;
        if finished.is_err() {
            // So do they where what was done could not be told.
            shared.forget();
        }
        finished?;
        Ok(Report {
            tenant: tenant.to_owned(),
            execution,
            outcome,
            was_ended: applied.was_cut_short() && matches!(held.going(), Going::Stopping | Going::Yielding),
            wants_retry: applied.was_cut_short()
                || !applied.unread.is_empty()
                || !plan.unknown.is_empty()
                || lost_its_voice,
            next_try,
            done: earlier.len() + applied.done.len(),
            put_off: applied.put_off,
            failed: applied.failed.into_iter().map(|(key, e)| (key, (e.reason(), e.to_string()))).collect(),
            plan,
            desired,
            refs,
            sources,
        })
    }

    /// What a pass begins with: what git says, read beside what the store says.
    async fn start(&self, subject: Subject<'_>, held: &Held, workspace: &mut Workspace) -> Result<Start, EngineError> {
        let kept = workspace.take_kept();
        let read = async {
            let source = held.wait_for(self.read_source(subject, &subject.spec.repository.branch)).await?;
            let _turn = self.turns.take(held.is_awaited()).await;
            let loaded = self.load(subject, &source, workspace).await?;
            Ok((source, loaded))
        };
        let ((source, loaded), memory) = tokio::try_join!(read, self.recall(subject.tenant, kept))?;
        Ok(Start { source, loaded, memory })
    }

    /// Reads the files of the head.
    pub(super) async fn load(
        &self,
        subject: Subject<'_>,
        source: &Source,
        workspace: &mut Workspace,
    ) -> Result<Loaded, EngineError> {
        self.load_commit(subject, &source.mirror, &source.head, workspace).await
    }

    /// Reads the files of a commit.
    pub(super) async fn load_commit(
        &self,
        subject: Subject<'_>,
        mirror: &Arc<Mirror>,
        commit: &ObjectHex,
        workspace: &mut Workspace,
    ) -> Result<Loaded, EngineError> {
        let (mirror, head, validator) = (Arc::clone(mirror), commit.clone(), Arc::clone(&self.validator));
        let platform = subject.in_force.platform.commit.clone();
        let folder = subject.spec.repository.path.clone();
        let mut moved = std::mem::take(workspace);
        let (moved, loaded) = blocking(move || {
            let loaded = moved.load(&validator, platform.as_ref(), &folder, &mirror, &head);
            (moved, loaded)
        })
        .await?;
        *workspace = moved;
        loaded.map_err(|error| unreadable(subject.tenant, error))
    }

    /// One pass through the sentence.
    async fn pass(
        &self,
        subject: Subject<'_>,
        held: &Held,
        (ask, only): (Ask, Option<&Only>),
        start: Start,
        workspace: &mut Workspace,
        timeline: &mut Timeline<'_>,
    ) -> Result<Passed, EngineError> {
        let Subject { in_force, spec, .. } = subject;
        let lease = held.lease();
        let Start { source, loaded, mut memory } = start;
        held.reads(name_of(&source.refs), in_force.platform.commit.as_ref());
        let documents = std::mem::take(&mut memory.documents);
        let owner = subject.owner(&documents);

        // manifest, validate
        let turn = self.turns.take(held.is_awaited()).await;
        let reading = beside(|| workspace.read(owner, loaded));
        drop(turn);
        let desired = Arc::clone(&reading.desired);
        note_reading(timeline, &source, &reading);
        timeline.audit(self.commits_to_audit(lease, &source, &memory).await?);

        // what people decided
        let news = self.news(subject, &source, &memory, &desired).await?;
        let words = Words { subject, owner, source: &source, news: &news, desired: &desired };
        self.hear_last_words(words, &mut memory, timeline).await?;
        self.read_decisions(subject, &source, &reading, &news, &mut memory, timeline).await?;
        let forgotten = forgotten(owner, &source, &memory.proposals);
        let mut decisions = decide::decisions(&memory.proposals);
        decisions.were_there.extend(forgotten.were_there());
        decisions.approvals = approvals(&memory, &news);
        decisions.prune_holds = holds::prune_holds(&memory, reading.files, news.lineage.departure);
        self.complete(&mut decisions, subject, &memory);
        let heads = Heads { tenant: &source.head, platform: in_force.platform.commit.as_ref() };
        let planned_at = self.clock.now();
        decisions.not_now = attempts::not_now(&memory.attempts, heads, planned_at);
        let decided = decisions.clone();
        let desired = sagas::undo(desired, &memory.sagas, heads, &memory.inventory, &mut decisions);
        self.remember_source(lease, spec, &memory, &decisions, &desired).await?;

        // observe, plan, gate
        let scope = scope_of(ask, &reading, &desired, &memory, &decisions);
        let depth = match ask.width {
            Width::Shallow => Depth::Shallow,
            Width::Deep | Width::Changed => Depth::Deep,
        };
        let circuits = Some(&memory.circuits);
        let ground =
            Ground { subject, memory: &memory, access: Access::Write, depth, circuits, is_awaited: held.is_awaited() };
        let mut planned = self.plan(ground, &desired, &scope, reading.touched.as_ref(), decisions).await;
        if planned.plan.holds_losses() && scope != PlanScope::Full {
            // Only a full plan may lose something, and only its id can be approved.
            let decisions = planned.decisions;
            planned = self.plan(ground, &desired, &PlanScope::Full, reading.touched.as_ref(), decisions).await;
        }
        let Planned { live, silent, decisions, mut plan } = planned;
        note_plan(timeline, &plan);
        if let Some(only) = only {
            only.expect(&plan)?;
        }
        if let Some(inputs) = replay::worth_keeping(&plan, subject, heads, decided, &memory, &desired, &live)? {
            timeline.keep(inputs);
        }
        self.remember_coverage(lease, &plan, &decisions).await?;
        timeline.flush().await?;

        // apply, observe
        let platform = &in_force.platform;
        let mut sagas = memory.sagas.clone();
        let known = (&memory.inventory, &live);
        sagas::prepare(self.store.as_ref(), lease, &mut sagas, &plan, &desired, known, heads).await?;
        let mut applied = self.apply(platform, &plan, spec.max_concurrency, held, timeline).await;
        self.remark(platform, &plan.settles, spec.max_concurrency, held).await;
        // Where all of a tenant is suspended, its looks leave servers as they are.
        let is_suspended = spec.environments.iter().all(|environment| spec.suspend.covers(environment));
        if plan.scope == PlanScope::Full && !is_suspended && held.going() == Going::On {
            self.tidy(platform, &spec.providers).await;
        }
        timeline.flush().await?;
        let after = self.read_back(ground, &desired, &applied).await;
        applied.unread = unread(&applied, &desired, &after);
        let seen = Seen { platform, desired: &desired, before: &live, after: &after, statuses: &memory.statuses };
        self.warn_of_unknown_passwords(&seen, &mut plan, timeline).await?;

        // what is to be proposed
        let forge = mirrors::forge_of(spec, Arc::clone(&source.mirror));
        let topic = Topic {
            held,
            owner,
            mirror: &source.mirror,
            forge: forge.as_ref(),
            url: &spec.repository.url,
            refs: &source.refs,
            head: &source.head,
            desired: &desired,
            plan: &plan,
            applied: &applied,
            before: &live,
            after: &after,
            statuses: &memory.statuses,
            forgotten: &forgotten,
            prior: &memory.inventory,
            keeps_all: news.lineage.departure.is_some() || reading.files == 0,
        };
        let offers = self.offers(&topic, &memory.proposals, workspace);
        let expected = offers.troubles.clone();
        let answers = propose::carried_out(&topic, &memory.proposals);

        // record
        let mut attempts = attempts::after(&memory.attempts, &plan, &applied, heads, self.clock.now());
        let begun = sagas::begin_to_undo(&mut sagas, &mut attempts, &desired, heads, self.clock.now());
        if !begun.is_empty() {
            // It is told before it is on record: who finds it there takes it for told.
            sagas::tell(&begun, timeline);
            timeline.flush().await?;
        }
        let over: Vec<&Saga> = sagas::over(&sagas, heads, &plan, &applied, &desired).collect();
        let pass = Pass {
            lease,
            platform,
            branch: &spec.repository.branch,
            desired: &desired,
            prior: &memory.inventory,
            plan: &plan,
            applied: &applied,
            attempts: &attempts,
            attempts_before: &memory.attempts,
            sagas: &sagas,
            sagas_begun: &begun,
            sagas_over: &over,
            troubles: &expected,
            answers: &answers,
            held: &memory.held,
            approvals: &decisions.approvals,
            before: &live,
            after: &after,
            silent: &silent,
            statuses: &memory.statuses,
            identities: &memory.identities,
        };
        let Written { recorded, mut changes } = self.record(&pass).await?;
        timeline.note_recorded();
        for (key, reason) in recorded {
            timeline.note_of(&key, EventKind::Recorded { reason });
        }
        let hold = holds::left_over(&decisions, &plan, &applied, &desired, &memory.inventory);
        // What a file that cannot be read may speak of is not on record as a stray.
        let records_all = plan.scope == PlanScope::Full && silent.is_empty() && desired.unreadable.is_empty();
        let heard_all = !memory.is_new() || records_all;
        let Lineage { left, .. } = &news.lineage;
        let reached = Reached { head: &source.head, left, heard_all, hold, findings: &desired.diagnostics };
        self.remember_pass(lease, spec, &memory, reached).await?;
        memory.proposals.extend(answers.iter().map(|answer| (answer.key.clone(), answer.clone())));

        // propose
        let troubles = self.propose(&topic, &memory.proposals, offers, timeline).await?;
        // Where no other replica has claimed the tenant by then, nobody says it but a look that comes after this one.
        let lost_its_voice = held.going() == Going::Lost;
        let changed: BTreeSet<ResourceKey> = expected
            .keys()
            .chain(troubles.keys())
            .filter(|key| expected.get(*key) != troubles.get(*key))
            .cloned()
            .collect();
        self.restate(&Pass { troubles: &troubles, ..pass }, changed, &mut changes).await?;
        memory.documents = documents;
        let rewritten: Vec<ResourceKey> =
            changes.records.iter().map(|record| &record.key).chain(&changes.forgotten).cloned().collect();
        workspace.keep(memory.into_kept().with(changes), rewritten);
        let sources = sources_of(workspace, &desired);
        let undoes = !begun.is_empty();
        let next_try = match undoes {
            // Where this look is not planned anew once more, the next one begins with it.
            true => Some(Duration::ZERO),
            false => {
                let now = self.clock.now();
                let openings = plan.goes_on_at().into_iter().chain(applied.goes_on_at());
                let openings = openings.map(|at| (at - now).to_std().unwrap_or_default());
                openings.chain(attempts::next_wait(&attempts, planned_at, now)).min()
            }
        };
        let Source { mirror, refs, head: commit } = source;
        mirror.rest();
        Ok(Passed { plan, desired, applied, next_try, undoes, lost_its_voice, refs, commit, sources })
    }

    /// One advertisement, and the objects it names (R14).
    pub(super) async fn read_source(&self, subject: Subject<'_>, branch: &str) -> Result<Source, EngineError> {
        let Subject { in_force, tenant, spec } = subject;
        let mirror = self.mirrors.of_tenant(&in_force.platform, tenant, spec).await?;
        let (reader, wanted) = (Arc::clone(&mirror), branch.to_owned());
        // A large repository may take long, and tells nothing of its host by that.
        let refs = self.ask_host(&mirror, tenant, Duration::MAX, move || reader.fetch(&wanted)).await?;
        let Some(head) = refs.head.clone() else {
            let message = format!(
                "the repository of tenant {tenant} has no branch {branch}; nothing is changed until it is there again"
            );
            return Err(EngineError::BranchGone(message));
        };
        Ok(Source { mirror, refs, head })
    }

    /// Has a conversation with the host of a tenant's repository, beside the async threads; one that takes as long as
    /// `hangs_after` counts as a silence.
    pub(super) async fn ask_host<T: Send + 'static>(
        &self,
        mirror: &Mirror,
        tenant: &str,
        hangs_after: Duration,
        conversation: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let turn = self.hosts.turn(mirror.host()).map_err(|source| unreadable(tenant, source))?;
        let said = blocking(conversation);
        tokio::pin!(said);
        let said = match tokio::time::timeout(hangs_after, &mut said).await {
            Ok(said) => said?,
            Err(_) => {
                turn.hangs();
                said.await?
            }
        };
        turn.ended(&said);
        said.map_err(|source| unreadable(tenant, source))
    }

    /// Brings the proposals to where the refs say they are, and remembers that before anything is done about it.
    async fn read_decisions(
        &self,
        subject: Subject<'_>,
        source: &Source,
        reading: &Reading,
        news: &News,
        memory: &mut Memory,
        timeline: &mut Timeline<'_>,
    ) -> Result<(), EngineError> {
        let read = subject.read_proposals(&memory.proposals, source, reading, news)?;
        if read.is_empty() {
            return Ok(());
        }
        let lease = timeline.lease();
        let mut decided = Vec::new();
        let mut tx = self.store.begin(Scope::Leased(lease.clone())).await?;
        for proposal in read {
            let proposal = Proposal { updated_at: self.clock.now(), ..proposal };
            let (branch, status) = (proposal.branch.clone(), proposal.status);
            let message = proposal.message.clone();
            let before = memory.proposals.get(&proposal.key).map(|known| known.status);
            match status {
                // Nobody was asked, so nobody answered.
                _ if before.is_none() || before == Some(status) => {}
                ProposalStatus::Open => {}
                // What looks like an answer and is none.
                ProposalStatus::Pending if message.is_empty() => {}
                ProposalStatus::Pending => {
                    let reason = if proposal.failed { Reason::ProposalFailed } else { Reason::NoAnswer };
                    timeline.note_of(&proposal.key, EventKind::Warning { reason, message });
                }
                _ => {
                    decided.push(audit::decided(&proposal));
                    timeline.note_of(&proposal.key, EventKind::ProposalDecided { branch, status, message });
                }
            }
            tx.put_proposal(&proposal).await?;
            memory.proposals.insert(proposal.key.clone(), proposal);
        }
        tx.append_audit(&lease.tenant, &decided).await?;
        tx.commit().await?;
        Ok(())
    }

    /// What the head says beside its documents.
    pub(super) async fn news(
        &self,
        subject: Subject<'_>,
        source: &Source,
        memory: &Memory,
        desired: &DesiredState,
    ) -> Result<News, EngineError> {
        let lineage = subject.lineage(memory, source)?;
        let from = memory.state.as_ref().and_then(|state| state.applied.clone().or(state.head.clone()));
        let commits = match lineage.departure {
            None if from.as_ref() != Some(&source.head) => {
                let (mirror, head) = (Arc::clone(&source.mirror), source.head.clone());
                blocking(move || mirror.commits_between(from.as_deref(), &head))
                    .await?
                    .map_err(|source| unreadable(subject.tenant, source))?
            }
            None | Some(_) => Vec::new(),
        };
        let is_removal =
            |about: &About| about.platform == subject.in_force.platform.id && about.kind == ProposalKind::Missing;
        let said_gone: BTreeSet<ResourceKey> =
            commits.iter().filter_map(About::of).filter(is_removal).map(|about| about.key).collect();
        // One that is over says nothing any more, though its branch may still be out and be merged.
        let is_asked = |key: &ResourceKey| {
            let known = memory.proposals.get(key);
            known.is_some_and(|known| known.kind == ProposalKind::Missing && known.status != ProposalStatus::Closed)
        };
        // Few are gone, so these are asked for their documents, and not all for what became of them.
        let gone: BTreeSet<&ResourceKey> = said_gone.iter().chain(memory.gone()).collect();
        let mut let_go = Vec::new();
        for record in gone.into_iter().filter_map(|key| memory.inventory.get(key)) {
            let key = &record.key;
            if !is_asked(key) && decide::is_removed(key, subject.spec, desired) {
                let_go.push(Removal { key: key.clone(), file: record.file.clone(), at: self.clock.now() });
            }
        }
        let vanished_elsewhere = self.vanished_elsewhere(subject, source, memory).await?;
        Ok(News { lineage, commits, let_go, vanished_elsewhere, at: self.clock.now() })
    }

    /// What was decided elsewhere than in proposals and commits.
    pub(super) fn complete(&self, decisions: &mut Decisions, subject: Subject<'_>, memory: &Memory) {
        let Subject { in_force, spec, .. } = subject;
        decisions.drift = spec.drift;
        decisions.held_deletes = decide::held_deletes(&memory.held);
        decisions.closed_windows =
            windows::closed(&in_force.platform.spec.windows, &spec.environments, self.clock.now());
    }

    pub(super) async fn plan(
        &self,
        ground: Ground<'_>,
        desired: &DesiredState,
        scope: &PlanScope,
        touched: Option<&BTreeSet<ResourceKey>>,
        decisions: Decisions,
    ) -> Planned {
        let Ground { subject: Subject { in_force, spec, .. }, memory, access, depth, circuits, is_awaited } = ground;
        let platform = &in_force.platform;
        let prior = &memory.inventory;
        let keys: BTreeSet<&ResourceKey> = match scope {
            PlanScope::Full => desired.resources.keys().chain(prior.live().map(|record| &record.key)).collect(),
            PlanScope::Keys(keys) => keys.iter().collect(),
        };
        // What was touched is looked at deep; so is everything when nobody knows what was touched.
        // A conversation is about all that was seen when it began, so what is talked about is looked at deep too.
        let is_deep = |key: &ResourceKey| {
            depth == Depth::Deep || memory.is_unsettled(key) || touched.is_none_or(|touched| touched.contains(key))
        };
        let (deep, shallow): (Vec<&ResourceKey>, Vec<&ResourceKey>) = keys.into_iter().partition(|key| is_deep(key));
        let (mut live, mut silent, mut in_place) = (Observations::default(), BTreeSet::new(), BTreeMap::new());
        for (depth, keys) in [(Depth::Deep, deep), (Depth::Shallow, shallow)] {
            if !keys.is_empty() {
                let look = Look { platform, access, depth, known: &memory.identities, circuits };
                let seen = self.observe(&look, targets(platform, desired, prior, &mut keys.into_iter())).await;
                live.objects.extend(seen.observations.objects);
                live.identities.extend(seen.observations.identities);
                silent.extend(seen.silent);
                for (provider, names) in seen.in_place {
                    in_place.entry(provider).or_insert_with(BTreeSet::new).extend(names);
                }
            }
        }
        // A new key may be an old object that stands elsewhere: marks are looked for before anything is made anew.
        let made_anew = |key: &ResourceKey| {
            let absent = matches!(live.objects.get(key), Some(Observation::Absent { .. }));
            absent && key.kind.info().data_bearing && prior.get(key).is_none()
        };
        if *scope == PlanScope::Full || live.objects.keys().any(made_anew) {
            let look = Look { platform, access, depth, known: &memory.identities, circuits };
            let providers: BTreeSet<String> =
                spec.providers.iter().cloned().chain(prior.live().map(|record| record.provider.clone())).collect();
            let is_expected = |key: &ResourceKey, provider: &str| {
                desired.resources.get(key).is_some_and(|resource| resource.provider == provider)
                    || prior.records.contains_key(key)
            };
            let asked = providers.difference(&silent);
            let (strays, unasked) = self.strays(&look, &desired.tenant, asked, &in_place, &is_expected).await;
            live.strays = strays;
            silent.extend(unasked);
        }
        doubt_absence(&mut live, &Doubts { platform, tenant: spec, silent: &silent, memory });
        let warnings = match access {
            Access::Read => believe_record(platform, &mut live, prior),
            Access::Write => Vec::new(),
        };
        let terms = Terms { platform, tenant: spec };
        let _turn = self.turns.take(is_awaited).await;
        let mut plan = beside(|| plan::plan(desired, &live, prior, &decisions, terms, scope));
        plan.warnings.extend(warnings);
        Planned { live, silent, decisions, plan }
    }

    async fn read_back(&self, ground: Ground<'_>, desired: &DesiredState, applied: &Applied) -> Observations {
        if applied.done.is_empty() {
            return Observations::default();
        }
        let Ground { subject, memory, access, circuits, .. } = ground;
        let platform = &subject.in_force.platform;
        let look = Look { platform, access, depth: Depth::Deep, known: &memory.identities, circuits };
        let mut keys = applied.done.iter().filter(|key| desired.resources.contains_key(*key));
        self.observe(&look, targets(platform, desired, &memory.inventory, &mut keys)).await.observations
    }
}

/// What a plan of one tenant stands on.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub subject: Subject<'a>,
    pub memory: &'a Memory,
    pub access: Access,
    pub depth: Depth,
    pub circuits: Option<&'a Circuits>,
    /// Whether somebody waits for the plan.
    pub is_awaited: bool,
}

/// Approvals that are remembered, and those in the commits since the last pass.
pub(super) fn approvals(memory: &Memory, news: &News) -> Vec<Approval> {
    // The keys of one that is remembered were found when its plan was still the one that it names.
    let is_remembered = |fresh: &Approval| {
        let same =
            |known: &Approval| (known.kind, &known.plan, &known.commit) == (fresh.kind, &fresh.plan, &fresh.commit);
        memory.approvals.iter().any(|known| same(known) && !known.keys.is_empty())
    };
    let read = decide::approvals(&news.commits, &memory.held);
    memory.approvals.iter().cloned().chain(read.into_iter().filter(|fresh| !is_remembered(fresh))).collect()
}

pub(super) fn unreadable(tenant: &str, source: crate::source::SourceError) -> EngineError {
    EngineError::Source { what: format!("the repository of tenant {tenant}"), source }
}

/// An error and its causes, as one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// How much is planned. Removals, and everything nobody can tell apart, ask for all of it.
fn scope_of(ask: Ask, reading: &Reading, desired: &DesiredState, memory: &Memory, decisions: &Decisions) -> PlanScope {
    let (Width::Changed, Some(touched)) = (ask.width, &reading.touched) else { return PlanScope::Full };
    let removed = touched.iter().any(|key| !desired.resources.contains_key(key) && !desired.rejected.contains_key(key));
    if removed {
        return PlanScope::Full;
    }
    let mut keys = touched.clone();
    keys.extend(reading.dependents.iter().cloned());
    // Conversations, and what did not work last time.
    keys.extend(memory.unsettled().cloned());
    // What is undone may have been done in the last pass, and be ready as it is.
    keys.extend(decisions.rolled_back.keys().cloned());
    // A removal that is held needs the full plan's id.
    if keys.iter().any(|key| !desired.resources.contains_key(key) && !desired.rejected.contains_key(key)) {
        return PlanScope::Full;
    }
    PlanScope::Keys(keys)
}

fn outcome_of(plan: &Plan, desired: &DesiredState, applied: &Applied) -> ExecutionOutcome {
    let asks = plan.drift.iter().any(|drift| {
        let made_again = drift.missing && applied.done.contains(&drift.key);
        !drift.silenced && !made_again && drift.mode == crate::model::DriftMode::Propose
    });
    if !applied.failed.is_empty() {
        ExecutionOutcome::Failed
    } else if asks
        || !applied.put_off.is_empty()
        || !applied.unread.is_empty()
        || !plan.blocked.is_empty()
        || !plan.unknown.is_empty()
        || desired.diagnostics.iter().any(Diagnostic::is_error)
    {
        ExecutionOutcome::Blocked
    } else {
        ExecutionOutcome::InSync
    }
}

/// What was done and could not be read back, with why.
fn unread(applied: &Applied, desired: &DesiredState, after: &Observations) -> BTreeMap<ResourceKey, Unknown> {
    let wanted = applied.done.iter().filter(|key| desired.resources.contains_key(*key));
    let unseen = wanted.filter_map(|key| match after.objects.get(key) {
        Some(Observation::Present(_)) => None,
        Some(Observation::Unknown(unknown)) => Some((key.clone(), unknown.clone())),
        Some(Observation::Absent { .. }) | None => {
            Some((key.clone(), Unknown::new(Reason::NotObserved, "it was not there when it was read back")))
        }
    });
    unseen.collect()
}

/// The texts of the files that findings speak of.
pub(super) fn sources_of(workspace: &Workspace, desired: &DesiredState) -> Sources {
    desired
        .diagnostics
        .iter()
        .flat_map(Diagnostic::files)
        .filter_map(|file| workspace.text(file).map(|text| (file.clone(), text)))
        .collect()
}

fn note_reading(timeline: &mut Timeline<'_>, source: &Source, reading: &Reading) {
    timeline.note(EventKind::SourceRead {
        commit: source.head.clone(),
        files: reading.files,
        changed: reading.changed,
    });
    for finding in reading.desired.diagnostics.iter().filter(|finding| finding.is_error()) {
        timeline.note(EventKind::Invalid {
            code: finding.code.to_string(),
            message: finding.message.clone(),
            file: finding.file.clone(),
            line: finding.span.map(|span| span.line),
        });
    }
}

fn note_plan(timeline: &mut Timeline<'_>, plan: &Plan) {
    timeline.note(EventKind::Planned {
        plan: plan.id.clone(),
        summary: plan.summary(),
        blocked: plan.blocked.len(),
        drifted: plan.drift.len(),
        unknown: plan.unknown.len(),
    });
    for drift in &plan.drift {
        let (reason, message) = (super::status::drift_reason(drift), super::propose::sentence(drift));
        timeline.note_of(&drift.key, EventKind::DriftFound { reason, message });
    }
    for blocked in &plan.blocked {
        timeline.note_of(&blocked.key, EventKind::Blocked { reason: blocked.reason, message: blocked.message.clone() });
    }
    for (key, unknown) in &plan.unknown {
        timeline.note_of(key, EventKind::Unknown { reason: unknown.reason, message: unknown.message.clone() });
    }
    for (key, reason, message) in &plan.warnings {
        timeline.note_of(key, EventKind::Warning { reason: *reason, message: message.clone() });
    }
}
