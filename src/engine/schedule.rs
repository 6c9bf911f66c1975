//! When tenants need a look: polls, drift scans and requests all do the same thing, they ask the queue for one.
//!
//! What always holds: asking twice is asking once, so it does no harm that two replicas ask; one of them, the leader, asks
//! the repositories for their heads and lets the clock start scans; a new commit is due at once, whatever its tenant waits
//! for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::model::{Ask, Place, Request, Trigger, Width};
use crate::source::{Refs, SourceError};
use crate::store::audit::PLATFORM_CHAIN;
use crate::store::{Lead, Scope, Tx};

use super::hosts::HANGS_AFTER;
use super::lease::news_of_platform;
use super::platform::PlatformStatus;
use super::reconcile::chain;
use super::room::Room;
use super::worker::{Worker, name_of};
use super::{Engine, EngineError, audit, windows};

/// How many repositories are asked for their refs at once.
const POLLS_AT_ONCE: usize = 8;

/// Every so many drift scans one looks inside each object, where nothing else did since.
const DEEP_EVERY: u32 = 6;

/// How soon the platform is read again while none is in force.
const PLATFORM_AGAIN: Duration = Duration::from_secs(5);

/// How long a start lets what is new go first: the first poll tells which tenants have commits that nobody has looked at,
/// and in a large fleet they would stand behind all that is as it was.
const BEHIND_NEWS: Duration = Duration::from_secs(2);

/// How often one that does not lead tries to.
const LEAD_EVERY: Duration = Duration::from_secs(5);

/// How long the database has to say who leads: the schedule does nothing else meanwhile.
const LEAD_PATIENCE: Duration = Duration::from_secs(5);

/// The longest sleep between two looks at what is due: often enough for schedules that follow the clock on the wall.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// By how much a clock goes back that was set, and is not just kept right.
const SET_BACK: TimeDelta = TimeDelta::seconds(10);

/// How often it is looked whether every tenant was looked at, before they were.
const READY_EVERY: Duration = Duration::from_millis(500);

/// How often it is looked whether a provider that nobody asks is to be asked again.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How often old executions are forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// How soon the queue is asked again for what it did not take.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A look that somebody asks for: at one tenant, or at all.
struct Wish {
    tenant: Option<String>,
    by: String,
    /// Whether it is on record who asked. Nobody looks before.
    is_audited: bool,
}

/// Asks for looks from outside.
#[derive(Clone)]
pub struct Looks {
    requests: mpsc::UnboundedSender<Wish>,
    tenants: watch::Receiver<BTreeSet<String>>,
}

impl Looks {
    /// Asks for a look at one tenant, or at all, on behalf of `by`; says whether there is such a tenant.
    pub fn ask(&self, tenant: Option<&str>, by: &str) -> bool {
        if tenant.is_some_and(|tenant| !self.tenants.borrow().contains(tenant)) {
            return false;
        }
        self.requests.send(Wish { tenant: tenant.map(str::to_owned), by: by.to_owned(), is_audited: false }).is_ok()
    }
}

/// The schedule of one engine, and its worker.
pub struct Schedule {
    engine: Arc<Engine>,
    requests: mpsc::UnboundedReceiver<Wish>,
    /// Those that the store has not taken yet: whoever asked was told that there will be a look.
    wishes: VecDeque<Wish>,
    /// When the queue is asked again for wishes, and for scans, that it did not take.
    wishes_at: Instant,
    scans_at: Instant,
    tenants: watch::Sender<BTreeSet<String>>,
    ready: watch::Sender<bool>,
    /// While this process leads.
    lead: Option<Box<dyn Lead>>,
    polled: BTreeMap<String, Polled>,
    room: Room,
    in_force: Option<PlatformStatus>,
    /// Why every tenant is to be looked at, until the queue was asked for it.
    to_place: Option<Trigger>,
    reads_platform: bool,
    probes: bool,
    /// Forgets what is old, beside the rest. Ends with the lead: whoever leads next goes on, and two that do it at once
    /// forget nothing twice.
    pruning: Option<AbortOnDropHandle<()>>,
    /// What the clock on the wall said last.
    clock_at: DateTime<Utc>,
    /// What kept the platform from being read last time, so that it is logged once.
    platform_error: Option<String>,
}

/// What the leader knows of one tenant.
struct Polled {
    /// The name of the refs that the last poll saw.
    refs: Option<String>,
    busy: bool,
    poll_at: Instant,
    drift_at: Option<DateTime<Utc>>,
}

/// What a task of the schedule brings back.
enum Done {
    /// The platform, and whether reading it put another revision in force.
    Platform(Box<Result<(PlatformStatus, bool), EngineError>>),
    Polled(String, Result<Refs, EngineError>),
    Probed,
}

impl Schedule {
    /// A schedule, the handle that asks for looks, and the flag that is set once every tenant was looked at.
    pub fn new(engine: Arc<Engine>) -> (Self, Looks, watch::Receiver<bool>) {
        let (requests_in, requests) = mpsc::unbounded_channel();
        let (tenants, tenants_out) = watch::channel(BTreeSet::new());
        let (ready, ready_out) = watch::channel(false);
        let clock_at = engine.clock.now();
        let schedule = Self {
            engine,
            requests,
            wishes: VecDeque::new(),
            wishes_at: Instant::now(),
            scans_at: Instant::now(),
            tenants,
            ready,
            lead: None,
            polled: BTreeMap::new(),
            room: Room::of(POLLS_AT_ONCE),
            in_force: None,
            to_place: None,
            reads_platform: false,
            probes: false,
            pruning: None,
            clock_at,
            platform_error: None,
        };
        (schedule, Looks { requests: requests_in, tenants: tenants_out }, ready_out)
    }

    /// Runs until `shutdown` is done; the looks that are under way begin no more steps then, and end.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let (stop, stopped) = watch::channel(false);
        let mut working = tokio::spawn(Worker::new(Arc::clone(&self.engine)).run(stopped));
        let mut tasks = JoinSet::new();
        let _ = tokio::time::timeout(LEAD_PATIENCE, self.engine.check_clock()).await;
        let (mut platform_at, mut lead_at, mut prune_at) = (Instant::now(), Instant::now(), Instant::now());
        let mut probe_at = Instant::now();
        tokio::pin!(shutdown);
        loop {
            let now = Instant::now();
            if now >= lead_at {
                self.try_to_lead().await;
                self.place_tenants().await;
                lead_at = now + LEAD_EVERY;
            }
            if now >= platform_at && !self.reads_platform {
                self.read_platform(&mut tasks);
                platform_at = now + self.poll_interval();
            }
            // How long things are kept is known once there is a platform.
            let is_pruning = self.pruning.as_ref().is_some_and(|pruning| !pruning.is_finished());
            if now >= prune_at && self.lead.is_some() && self.in_force.is_some() && !is_pruning {
                self.prune();
                prune_at = now + PRUNE_EVERY;
            }
            if now >= probe_at && self.lead.is_some() && !self.probes {
                self.probe(&mut tasks);
                probe_at = now + PROBE_EVERY;
            }
            if now >= self.wishes_at {
                self.ask_for_wishes().await;
            }
            self.start_due(&mut tasks).await;
            self.tell_ready().await;
            let platform_due = if self.reads_platform { now + LONGEST_SLEEP } else { platform_at };
            let probe_due = if self.lead.is_some() && !self.probes { probe_at } else { lead_at };
            let wish_due = if self.wishes.is_empty() { lead_at } else { self.wishes_at };
            let wake = self.next_wake().min(platform_due).min(lead_at).min(probe_due).min(wish_due);
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                ended = &mut working => {
                    // A process that looks at nothing must not go on as if it did.
                    tracing::error!(error = ?ended.err(), "the worker ended early");
                    return;
                }
                Some(wish) = self.requests.recv() => {
                    self.wishes.push_back(wish);
                    if Instant::now() >= self.wishes_at {
                        self.ask_for_wishes().await;
                    }
                    platform_at = Instant::now();
                }
                Some(done) = tasks.join_next() => match done {
                    Ok(Done::Platform(read)) => self.take_platform(*read).await,
                    Ok(Done::Polled(tenant, refs)) => self.take_refs(tenant, refs).await,
                    Ok(Done::Probed) => self.probes = false,
                    Err(error) => {
                        tracing::error!(%error, "a poll ended early");
                        self.expect_no_answer();
                    }
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.room.close();
        while let Ok(wish) = self.requests.try_recv() {
            self.wishes.push_back(wish);
        }
        // Whoever leads next looks at what was asked for last.
        let asking = async {
            for _ in 0..self.wishes.len() {
                self.ask_for_wishes().await;
            }
        };
        let _ = tokio::time::timeout(LEAD_PATIENCE, asking).await;
        // Others may lead while the last looks end here.
        self.lead = None;
        if let Some(pruning) = self.pruning.take() {
            pruning.abort();
            // What it had not committed is undone by then.
            let _ = pruning.await;
        }
        // The worker may have ended by itself, if it panicked.
        let _ = stop.send(true);
        if let Err(error) = working.await {
            tracing::error!(%error, "the worker ended early");
        }
        // Nobody waits for what they would say.
        tasks.shutdown().await;
    }

    /// After a task that panicked, nothing waits for its answer for ever. Nobody knows which it was, and what is asked for
    /// once too often does no harm.
    fn expect_no_answer(&mut self) {
        (self.reads_platform, self.probes) = (false, false);
        for polled in self.polled.values_mut() {
            polled.busy = false;
        }
    }

    /// Whether this process leads; notices when that is over.
    async fn leads(&mut self) -> bool {
        let Some(lead) = &mut self.lead else { return false };
        let asked = tokio::time::timeout(LEAD_PATIENCE, lead.still_leads());
        if asked.await.unwrap_or(false) {
            return true;
        }
        tracing::warn!("this replica does not lead any more: its connection was lost");
        (self.lead, self.pruning) = (None, None);
        self.polled.clear();
        false
    }

    /// Becomes the leader where nobody is.
    async fn try_to_lead(&mut self) {
        if self.leads().await {
            return;
        }
        let asked = tokio::time::timeout(LEAD_PATIENCE, self.engine.store.lead());
        match asked.await.unwrap_or(Ok(None)) {
            Ok(Some(lead)) => {
                tracing::info!(replica = %self.engine.settings.replica, "this replica leads: it polls and scans");
                self.lead = Some(lead);
                self.polled.clear();
                self.has_to_place(Trigger::Start);
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(error = %chain(&error), "the leader cannot be asked for"),
        }
    }

    /// Reads the platform: the leader its repository, the others what is in force.
    fn read_platform(&mut self, tasks: &mut JoinSet<Done>) {
        self.reads_platform = true;
        let (engine, leads) = (Arc::clone(&self.engine), self.lead.is_some());
        tasks.spawn(async move {
            let read = match leads {
                true => engine.read_platform().await,
                false => engine.in_force().await.map(|status| (status, false)),
            };
            Done::Platform(Box::new(read))
        });
    }

    fn poll_interval(&self) -> Duration {
        self.in_force.as_ref().map_or(PLATFORM_AGAIN, |status| status.platform.spec.poll_interval.0)
    }

    async fn take_platform(&mut self, read: Result<(PlatformStatus, bool), EngineError>) {
        self.reads_platform = false;
        match read {
            Ok((status, is_another)) => {
                if let Some(rejected) = &status.rejected
                    && self.platform_error.as_deref() != Some(rejected)
                {
                    tracing::warn!(commit = %rejected, findings = status.findings.len(),
                        "the platform's head does not validate; the last good revision stays in force");
                }
                self.platform_error = status.rejected.clone();
                let before = self.in_force.as_ref().map(|before| before.platform.commit.clone());
                self.tenants.send_replace(status.platform.tenants.keys().cloned().collect());
                self.engine.forget_all_but(|tenant| status.platform.tenants.contains_key(tenant));
                // Somebody may have looked under another revision that was in force in between.
                let is_news = is_another || before.as_ref().is_some_and(|before| *before != status.platform.commit);
                self.in_force = Some(status);
                if self.lead.is_some() && (is_news || before.is_none()) {
                    self.has_to_place(if is_news { Trigger::Commit } else { Trigger::Start });
                    self.place_tenants().await;
                }
            }
            Err(error) => {
                let message = chain(&error);
                if self.platform_error.as_ref() != Some(&message) {
                    tracing::error!(error = %message, "the platform repository cannot be used");
                }
                self.platform_error = Some(message);
            }
        }
    }

    /// Says that every tenant is to be looked at; a new revision of the platform says more than a start.
    fn has_to_place(&mut self, trigger: Trigger) {
        if self.to_place != Some(Trigger::Commit) {
            self.to_place = Some(trigger);
        }
    }

    /// Gives every tenant a place, and asks for a look at each, where that is to be done: at the start, and under a new
    /// revision of the platform. What the queue does not take is asked for again.
    async fn place_tenants(&mut self) {
        let (Some(trigger), Some(in_force)) = (self.to_place, self.in_force.clone()) else { return };
        // One that was paused for long may not lead any more, and know less than who does.
        if !self.leads().await {
            return;
        }
        let platform = &in_force.platform;
        let now = Instant::now();
        self.polled.retain(|tenant, _| platform.tenants.contains_key(tenant));
        for tenant in platform.tenants.keys() {
            self.polled.entry(tenant.clone()).or_insert_with(|| Polled {
                refs: None,
                busy: false,
                poll_at: now,
                drift_at: None,
            });
        }
        let width = match trigger {
            // Everything, also by a process that has looked at a tenant before: while nobody led, nobody scanned.
            Trigger::Start => Width::Shallow,
            _ => Width::Deep,
        };
        let news = match (trigger, &platform.commit) {
            (Trigger::Commit, Some(commit)) => Some(news_of_platform(commit)),
            _ => None,
        };
        let waits: BTreeSet<String> = match trigger {
            Trigger::Start => self.looked_at().await,
            _ => BTreeSet::new(),
        };
        let request = |tenant: &String| {
            let delay = if waits.contains(tenant) { BEHIND_NEWS } else { Duration::ZERO };
            Request { news: news.clone(), delay, ..Request::at_once(tenant, Ask { trigger, width }) }
        };
        let requests: Vec<Request> = platform.tenants.keys().map(request).collect();
        let names: Vec<&str> = platform.tenants.keys().map(String::as_str).collect();
        if self.request(&requests).await {
            self.to_place = None;
        }
        if let Err(error) = self.engine.store.keep_only(&names).await {
            tracing::warn!(error = %chain(&error), "tenants that are gone could not be forgotten");
        }
    }

    /// Asks the queue; says whether that worked. What a poll cannot ask for now a later one does.
    async fn request(&self, requests: &[Request]) -> bool {
        let asked = self.engine.store.request(requests).await;
        if let Err(error) = &asked {
            tracing::warn!(error = %chain(error), "the queue could not be asked for a look");
        }
        asked.is_ok()
    }

    /// Asks for the looks that somebody wishes for, once it is on record who does. What the store does not take is tried
    /// again, behind the others: the damage may be one tenant's alone. Nobody waits for a second one that is not taken.
    async fn ask_for_wishes(&mut self) {
        while let Some(mut wish) = self.wishes.pop_front() {
            if !self.ask_for(&mut wish).await {
                self.wishes.push_back(wish);
                self.wishes_at = Instant::now() + ASK_AGAIN;
                return;
            }
        }
    }

    /// Asks for a look that somebody wishes for; says whether that worked.
    async fn ask_for(&self, wish: &mut Wish) -> bool {
        let Wish { tenant, by, is_audited } = wish;
        if !*is_audited {
            match self.engine.audit_request(by, tenant.as_deref()).await {
                Ok(()) => *is_audited = true,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), by, "who asked for a look could not be written to the audit log");
                    return false;
                }
            }
        }
        let ask = Ask { trigger: Trigger::Request, width: Width::Deep };
        let requests: Vec<Request> = match tenant {
            Some(tenant) => vec![Request::at_once(tenant, ask)],
            None => self.tenants.borrow().iter().map(|tenant| Request::at_once(tenant, ask)).collect(),
        };
        self.request(&requests).await
    }

    async fn tell_ready(&self) {
        let Some(in_force) = self.in_force.as_ref().filter(|_| !*self.ready.borrow()) else { return };
        let looked_at = self.looked_at().await;
        if in_force.platform.tenants.keys().all(|tenant| looked_at.contains(tenant)) {
            self.ready.send_replace(true);
        }
    }

    /// The tenants that were looked at at some time; none where the queue cannot be asked.
    async fn looked_at(&self) -> BTreeSet<String> {
        let places = self.engine.store.places().await.unwrap_or_default();
        places.into_iter().filter(|place| place.looked_at.is_some()).map(|place| place.tenant).collect()
    }

    /// Starts the polls, and asks for the scans, that are due.
    async fn start_due(&mut self, tasks: &mut JoinSet<Done>) {
        let Some(in_force) = self.in_force.clone().filter(|_| self.lead.is_some()) else { return };
        let (now, clock_now) = (Instant::now(), self.engine.clock.now());
        let drift = &in_force.platform.spec.drift;
        // A clock that was set back would have the next scan wait until its time comes a second time.
        let before = std::mem::replace(&mut self.clock_at, clock_now);
        if before - clock_now > SET_BACK {
            self.polled.values_mut().for_each(|polled| polled.drift_at = None);
        }
        let mut due = Vec::new();
        for (tenant, polled) in &mut self.polled {
            let jitter = share_of(tenant, drift.jitter.0);
            let drift_at = *polled.drift_at.get_or_insert_with(|| next_scan(&drift.schedule, clock_now, jitter));
            if clock_now >= drift_at && now >= self.scans_at {
                due.push(tenant.clone());
            }
            if now >= polled.poll_at && !polled.busy {
                polled.busy = true;
                polled.poll_at = now + jittered(tenant, in_force.platform.spec.poll_interval.0);
                let engine = Arc::clone(&self.engine);
                let (room, tenant, in_force) = (self.room.clone(), tenant.clone(), in_force.clone());
                tasks.spawn(async move {
                    let refs = match room.enter().await {
                        Some(place) => place.leave_for(engine.advertised(&in_force, &tenant)).await,
                        // That is the end of the schedule, to which nobody answers.
                        None => Err(EngineError::Task),
                    };
                    Done::Polled(tenant, refs)
                });
            }
        }
        if !due.is_empty() && !self.ask_for_scans(&due, &drift.schedule, clock_now).await {
            // They stay due.
            self.scans_at = now + ASK_AGAIN;
            return;
        }
        for tenant in due {
            if let Some(polled) = self.polled.get_mut(&tenant) {
                let jitter = share_of(&tenant, drift.jitter.0);
                polled.drift_at = Some(next_scan(&drift.schedule, clock_now, jitter));
            }
        }
    }

    /// Asks for scans of these tenants; says whether that worked. How wide they are does not hang on who leads, or since when.
    async fn ask_for_scans(&self, tenants: &[String], schedule: &str, now: DateTime<Utc>) -> bool {
        let mut scans = Vec::with_capacity(tenants.len());
        // One by one: jitter has few due at a time.
        for tenant in tenants {
            let last = match self.engine.store.place(tenant).await {
                Ok(place) => place.and_then(|place| place.deep_at),
                Err(error) => {
                    tracing::warn!(tenant, error = %chain(&error), "the queue cannot be asked");
                    return false;
                }
            };
            let width = if is_deep_due(schedule, last, now) { Width::Deep } else { Width::Shallow };
            scans.push(Request::at_once(tenant, Ask { trigger: Trigger::DriftScan, width }));
        }
        self.request(&scans).await
    }

    /// Asks for a look where the refs are others than those that were looked at.
    async fn take_refs(&mut self, tenant: String, refs: Result<Refs, EngineError>) {
        let Some(polled) = self.polled.get_mut(&tenant) else { return };
        polled.busy = false;
        let place = match self.engine.store.place(&tenant).await {
            Ok(place) => place,
            Err(error) => {
                tracing::warn!(tenant, error = %chain(&error), "the queue cannot be asked");
                return;
            }
        };
        let asks = match refs {
            // It would not be asked by a look either.
            Err(EngineError::Source { source: SourceError::Silent { .. }, .. }) => None,
            // The look says what is wrong, and is tried again with growing patience.
            Err(_) => place.is_none_or(|place| place.is_idle()).then_some((Trigger::Poll, None)),
            Ok(refs) => {
                let name = name_of(&refs);
                let before = polled.refs.replace(name.clone());
                is_news(place.as_ref(), before.as_deref(), &name).then_some((Trigger::Commit, Some(name)))
            }
        };
        if let Some((trigger, news)) = asks {
            let request = Request { news, ..Request::at_once(&tenant, Ask { trigger, width: Width::Changed }) };
            self.request(&[request]).await;
        }
    }

    /// When something is due next.
    fn next_wake(&self) -> Instant {
        let (now, clock_now) = (Instant::now(), self.engine.clock.now());
        let latest = if *self.ready.borrow() { LONGEST_SLEEP } else { READY_EVERY };
        self.polled
            .values()
            .flat_map(|polled| {
                let drift = polled.drift_at.map(|at| now + (at - clock_now).to_std().unwrap_or_default());
                let drift = drift.map(|at| at.max(self.scans_at));
                [Some(polled.poll_at).filter(|_| !polled.busy), drift]
            })
            .flatten()
            .fold(now + latest, Instant::min)
    }

    /// Asks providers that nobody asks now whether they are back, where it is time.
    fn probe(&mut self, tasks: &mut JoinSet<Done>) {
        let Some(in_force) = self.in_force.clone() else { return };
        self.probes = true;
        let engine = Arc::clone(&self.engine);
        tasks.spawn(async move {
            if let Err(error) = engine.probe(&in_force.platform).await {
                tracing::debug!(error = %chain(&error), "the circuits cannot be read");
            }
            Done::Probed
        });
    }

    /// Begins to forget what is older than it is kept. Of the history of years that is much: beside the loop, which goes
    /// on to poll, to lead and to hear that it is to stop.
    fn prune(&mut self) {
        let engine = Arc::clone(&self.engine);
        let pruning = tokio::spawn(async move {
            // As often as that, clocks are compared again.
            engine.check_clock().await;
            engine.prune().await;
        });
        self.pruning = Some(AbortOnDropHandle::new(pruning));
    }
}

/// Whether refs of this name want a look that nobody has asked for: they are not those that the last look saw, nor those
/// that asked for one last. Where none has since, the look that is under way or due reads what a first poll sees; the look
/// of a start comes later, and is to come at once then.
fn is_news(place: Option<&Place>, before: Option<&str>, name: &str) -> bool {
    let Some(place) = place else { return true };
    if [&place.seen, &place.news].into_iter().flatten().any(|known| known == name) {
        return false;
    }
    let is_start = place.asked.is_some_and(|ask| ask.trigger == Trigger::Start);
    let comes_later = is_start && place.holder.is_none() && place.seen.is_some();
    let is_read_anyway = place.news == place.seen && place.has_look_coming() && !comes_later;
    !is_read_anyway || before.is_some_and(|before| before != name)
}

fn next_scan(schedule: &str, now: DateTime<Utc>, jitter: Duration) -> DateTime<Utc> {
    let next = windows::next_after(schedule, now).unwrap_or(DateTime::<Utc>::MAX_UTC);
    next.checked_add_signed(chrono::Duration::from_std(jitter).unwrap_or_default()).unwrap_or(next)
}

/// Whether the scan at `now` looks inside each object: as many as [`DEEP_EVERY`] were to come since the last look that did.
fn is_deep_due(schedule: &str, last: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    // One that was later was by a clock that has been set back since.
    let Some(last) = last.filter(|last| *last <= now) else { return true };
    let due = (0..DEEP_EVERY).try_fold(last, |at, _| windows::next_after(schedule, at));
    due.is_some_and(|due| due <= now)
}

/// A tenant's own part of `whole`, the same each time: spreads tenants without chance.
pub(super) fn share_of(tenant: &str, whole: Duration) -> Duration {
    let digest = Sha256::digest(tenant.as_bytes());
    whole.mul_f64(f64::from(u16::from_be_bytes([digest[0], digest[1]])) / f64::from(u16::MAX))
}

/// The poll interval, give or take a tenth.
fn jittered(tenant: &str, interval: Duration) -> Duration {
    interval.mul_f64(0.9) + share_of(tenant, interval.mul_f64(0.2))
}

impl Engine {
    /// The refs of a tenant's repository now; fetches nothing.
    pub(super) async fn advertised(&self, in_force: &PlatformStatus, tenant: &str) -> Result<Refs, EngineError> {
        let spec =
            in_force.platform.tenants.get(tenant).ok_or_else(|| EngineError::no_tenant(&in_force.platform, tenant))?;
        let mirror = self.mirrors.of_tenant(&in_force.platform, tenant, spec).await?;
        let branch = spec.repository.branch.clone();
        let reader = Arc::clone(&mirror);
        self.ask_host(&mirror, tenant, HANGS_AFTER, move || reader.advertise(&branch)).await
    }

    /// Writes down who asked for a look: in the tenant's chain, or the platform's.
    async fn audit_request(&self, by: &str, tenant: Option<&str>) -> Result<(), EngineError> {
        let (chain, scope) = match tenant {
            Some(tenant) => (tenant, Scope::Tenant(tenant.to_owned())),
            None => (PLATFORM_CHAIN, Scope::Platform),
        };
        let mut tx = self.store.begin(scope).await?;
        tx.append_audit(chain, &[audit::asked(by, tenant, self.clock.now())]).await?;
        Ok(tx.commit().await?)
    }

    /// Forgets what is older than the platform keeps it.
    async fn prune(&self) {
        if let Err(error) = self.forget(Kept::Executions).await {
            tracing::warn!(error = %chain(&error), "old executions could not be forgotten");
        }
        if let Err(error) = self.make_months().await {
            tracing::warn!(error = %chain(&error), "the coming months could not be made; their rows go to the default partition");
        }
        if let Err(error) = self.forget(Kept::AuditLog).await {
            tracing::warn!(error = %chain(&error), "old rows of the audit log could not be cut off");
        }
    }

    /// Forgets what is older than it is kept, a part at a time: everybody who writes waits for each, and has as long as
    /// that took until the next. How long it is kept is asked for each part: what a commit has kept for longer is not
    /// forgotten by what began before it.
    async fn forget(&self, what: Kept) -> Result<(), EngineError> {
        loop {
            let began = Instant::now();
            let in_force = self.in_force().await?;
            let kept = match what {
                Kept::Executions => in_force.platform.spec.retention.0,
                Kept::AuditLog => in_force.platform.spec.audit_retention.0,
            };
            let kept = chrono::Duration::from_std(kept).unwrap_or(chrono::Duration::MAX);
            let Some(before) = self.clock.now().checked_sub_signed(kept) else { return Ok(()) };
            let mut tx = self.store.begin(Scope::Platform).await?;
            let rows = match what {
                Kept::Executions => tx.prune_history(before).await?,
                Kept::AuditLog => tx.prune_audit(before).await?,
            };
            self.audit_pruned(tx.as_mut(), what, rows, before).await?;
            tx.commit().await?;
            if rows == 0 {
                return Ok(());
            }
            tokio::time::sleep(began.elapsed()).await;
        }
    }

    /// Writes down what was forgotten, with it.
    async fn audit_pruned(
        &self,
        tx: &mut dyn Tx,
        what: Kept,
        rows: u64,
        before: DateTime<Utc>,
    ) -> Result<(), EngineError> {
        if rows > 0 {
            let heads = match what {
                Kept::Executions => None,
                Kept::AuditLog => Some(tx.audit_heads().await?),
            };
            let row = audit::pruned(what.name(), rows, before, heads.as_deref(), self.clock.now());
            tx.append_audit(PLATFORM_CHAIN, &[row]).await?;
        }
        Ok(())
    }

    /// Makes room for the months to come.
    async fn make_months(&self) -> Result<(), EngineError> {
        let mut tx = self.store.begin(Scope::Platform).await?;
        tx.make_months(self.clock.now()).await?;
        Ok(tx.commit().await?)
    }
}

/// What is kept for a while.
#[derive(Clone, Copy)]
enum Kept {
    Executions,
    AuditLog,
}

impl Kept {
    fn name(self) -> &'static str {
        match self {
            Self::Executions => "executions",
            Self::AuditLog => "audit log",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Replica;

    #[test]
    fn refs_are_news_once() {
        let name = |name: &str| Some(name.to_owned());
        let place = |seen: Option<&str>, news: Option<&str>| Place {
            seen: seen.and_then(name),
            news: news.and_then(name),
            ..Place::of_tenant("checkout")
        };
        let held = |place: Place| Place { holder: Some(Replica("a".to_owned())), ..place };
        let failing = |place: Place| Place {
            asked: Some(Ask { trigger: Trigger::Retry, width: Width::Changed }),
            failures: 3,
            ..place
        };
        let starting =
            |place: Place| Place { asked: Some(Ask { trigger: Trigger::Start, width: Width::Changed }), ..place };
        assert!(
            is_news(Some(&starting(place(Some("one"), Some("one")))), None, "two"),
            "it need not wait for its turn"
        );
        assert!(!is_news(Some(&starting(place(None, None))), None, "one"), "the first look reads it");
        assert!(is_news(None, None, "one"));
        assert!(!is_news(Some(&place(Some("one"), Some("one"))), Some("one"), "one"), "looked at");
        assert!(is_news(Some(&place(Some("one"), Some("one"))), Some("one"), "two"));
        assert!(!is_news(Some(&place(Some("one"), Some("two"))), Some("two"), "two"), "asked for");
        assert!(!is_news(Some(&failing(place(Some("one"), Some("two")))), Some("two"), "two"), "its patience grows");
        assert!(is_news(Some(&failing(place(None, None))), None, "one"), "nobody has asked for it");
        assert!(!is_news(Some(&held(place(Some("one"), Some("one")))), None, "two"), "the look reads it");
        assert!(
            is_news(Some(&held(place(Some("one"), Some("one")))), Some("one"), "two"),
            "it may have read the first"
        );
        assert!(is_news(Some(&held(place(Some("one"), Some("two")))), Some("two"), "three"));
    }

    #[test]
    fn every_sixth_scan_is_deep_however_often_who_leads_changes() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        for (schedule, last, fifth, sixth) in [
            ("*/10 * * * *", "2026-11-28T10:00:40Z", "2026-11-28T10:50:30Z", "2026-11-28T11:00:30Z"),
            ("0 0 * * *", "2026-11-28T00:05:00Z", "2026-12-03T23:59:59Z", "2026-12-04T00:00:00Z"),
            ("*/30 8-9 * * 1-5", "2026-11-27T09:01:00Z", "2026-11-30T09:29:59Z", "2026-12-01T08:00:00Z"),
        ] {
            assert!(!is_deep_due(schedule, Some(at(last)), at(fifth)), "{schedule}");
            assert!(is_deep_due(schedule, Some(at(last)), at(sixth)), "{schedule}");
            assert!(is_deep_due(schedule, None, at(fifth)), "nobody has looked inside yet");
            assert!(is_deep_due(schedule, Some(at(sixth)), at(fifth)), "the clock was set back");
        }
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        let intervals = ["a", "checkout", "payments"].map(|tenant| jittered(tenant, Duration::from_secs(100)));
        for interval in intervals {
            assert!(interval >= Duration::from_secs(90) && interval <= Duration::from_secs(110));
        }
        assert!(intervals[0] != intervals[1] && intervals[1] != intervals[2], "{intervals:?}: not all at once");
    }
}
