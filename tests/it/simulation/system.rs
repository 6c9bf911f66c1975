//! Live systems in memory, and managers of them that keep the contract of `plumb::managers`: marks first, steps checked
//! under a lock, partial work that the next step finishes. Each type fails in its own way: `pg` makes an object in two
//! parts and changes field by field, the others at once. Where a step begins, it is seen whether it may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use plumb::managers::{Cx, Endpoint, Found, ManagerError, Outcome, ResourceManager};
use plumb::model::{
    Action, Depth, Expect, FieldPath, Fields, Kind, Live, Mark, ObjectId, Observation, Ownership, PlatformId,
    ProviderIdentity, ProviderType, Reason, ResourceKey, Step, Target, Unknown,
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::chaos::{Chaos, Life};
use super::faulty::{Fate, never};
use super::memory::MemoryStore;
use super::wish::Wish;

pub const PLATFORM: &str = "sim-platform";

/// How long a step waits for another on the same object.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub id: String,
    pub mark: Option<Mark>,
    pub fields: Fields,
    /// By role, with the rotation it was made for.
    pub passwords: BTreeMap<String, (String, String)>,
    /// How many heads git had had when it was made.
    made_at: usize,
    /// When a manager changed it last.
    touched: Instant,
}

impl Object {
    /// Whether nobody may be about to read back what was set. What a hand changes before that is taken for what the
    /// server made of the value: nothing can tell the two apart.
    pub fn is_at_rest(&self) -> bool {
        self.touched.elapsed() > Duration::from_secs(60) && self.mark.as_ref().is_some_and(|mark| !mark.unfinished)
    }

    /// Whose it is, if it is this platform's.
    pub fn owner(&self) -> Option<&ResourceKey> {
        self.mark.as_ref().filter(|mark| mark.platform.0 == PLATFORM).map(|mark| &mark.key)
    }
}

/// One server.
#[derive(Default)]
pub struct Server {
    pub objects: BTreeMap<String, Object>,
    /// Nobody gets an answer.
    pub down: bool,
    /// Another, empty server answers in its place.
    pub replaced: bool,
}

/// When a server refuses a step for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    AtOnce,
    /// After a part of the work.
    HalfWay,
}

/// When changes may be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    Always,
    /// Not in every second minute.
    DeniedInEvenMinutes,
    /// In the first seconds of each minute alone.
    AllowedEachMinute,
}

impl Windows {
    const OPEN_SECONDS: u32 = 40;

    /// As the Platform says it.
    pub fn spec(self) -> String {
        match self {
            Self::Always => String::new(),
            Self::DeniedInEvenMinutes => {
                "  windows: [{mode: deny, schedule: \"*/2 * * * *\", duration: 60s}]\n".to_owned()
            }
            Self::AllowedEachMinute => {
                format!("  windows: [{{mode: allow, schedule: \"* * * * *\", duration: {}s}}]\n", Self::OPEN_SECONDS)
            }
        }
    }

    fn are_open(self, now: DateTime<Utc>) -> bool {
        match self {
            Self::Always => true,
            Self::DeniedInEvenMinutes => now.minute() % 2 == 1,
            Self::AllowedEachMinute => now.second() < Self::OPEN_SECONDS,
        }
    }
}

/// All servers, what was ever done to them, and what should never have been.
pub struct System {
    state: Mutex<State>,
    chaos: Arc<Chaos>,
    /// What Plumb writes down.
    record: MemoryStore,
    windows: Windows,
    began: DateTime<Utc>,
    since: Instant,
}

/// The state of all servers.
#[derive(Default)]
pub struct State {
    pub servers: BTreeMap<String, Server>,
    /// Every head that git has had.
    pub heads: Vec<Wish>,
    /// Data that somebody took away, and how many heads git had had by then.
    pub lost: BTreeMap<ResourceKey, usize>,
    /// Data that a person said may be made again.
    pub approved: BTreeSet<ResourceKey>,
    /// Orphans that a person said may be deleted: no commit could say so of what was never recorded.
    pub let_go: BTreeSet<ResourceKey>,
    /// How often something was done.
    pub effects: usize,
    /// What broke an invariant, as it happened.
    pub violations: Vec<String>,
    made: usize,
    locks: BTreeMap<(String, String), Life>,
    /// The resources whose steps are refused for good.
    pub refused: BTreeMap<ResourceKey, Refusal>,
    /// The processes that have heard that they are to stop.
    pub stopping: BTreeSet<Life>,
    /// How many steps each process has under way on each server.
    under_way: BTreeMap<(Life, String), usize>,
    /// Every password that a role had for a rotation.
    passwords: BTreeMap<(ResourceKey, String, String), String>,
}

impl State {
    fn server(&mut self, name: &str) -> &mut Server {
        self.servers.entry(name.to_owned()).or_default()
    }

    /// A new name for an object: no two objects ever have the same.
    fn next_id(&mut self) -> String {
        self.made += 1;
        format!("object-{}", self.made)
    }

    /// Makes an object by hand.
    pub fn plant(&mut self, server: &str, name: &str, fields: Fields, mark: Option<Mark>) {
        let object = Object {
            id: self.next_id(),
            mark,
            fields,
            passwords: BTreeMap::new(),
            made_at: 0,
            touched: Instant::now(),
        };
        self.server(server).objects.insert(name.to_owned(), object);
    }

    /// Objects of this platform, by key, with the server and the name of each.
    pub fn owned(&self) -> BTreeMap<ResourceKey, Vec<(&str, &str, &Object)>> {
        let mut owned: BTreeMap<ResourceKey, Vec<(&str, &str, &Object)>> = BTreeMap::new();
        for (server, Server { objects, .. }) in &self.servers {
            for (name, object) in objects {
                if let Some(key) = object.owner() {
                    owned.entry(key.clone()).or_default().push((server, name, object));
                }
            }
        }
        owned
    }

    fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Invariant: nothing is made that no head asked for, and data that is gone is not made again empty.
    fn made_what_was_asked_for(&mut self, key: &ResourceKey) {
        self.effects += 1;
        if !self.heads.iter().any(|head| head.get(key).is_some()) {
            self.violation(format!("{key} was made, and git never wanted it"));
        }
        if let Some(lost_at) = self.lost.get(key).copied().filter(|_| key.kind.info().data_bearing)
            && !self.approved.contains(key)
            && self.heads[lost_at.saturating_sub(1)..].iter().all(|head| head.get(key).is_some())
        {
            self.violation(format!("{key} was lost, and was made again empty"));
        }
        self.lost.remove(key);
        self.approved.remove(key);
    }

    /// Invariant: nothing is deleted that no commit removed, and no change that is undone had made; nor data that neither a
    /// commit nor a person allowed to delete.
    fn deleted_what_was_removed(&mut self, key: &ResourceKey, object: &Object, is_undone: bool) {
        self.effects += 1;
        let since = &self.heads[object.made_at.saturating_sub(1)..];
        if !is_undone && since.iter().all(|head| head.get(key).is_some()) {
            self.violation(format!("{key} was deleted, and no commit removed it"));
        }
        let allowed = |head: &Wish| {
            head.get(key)
                .is_some_and(|document| document.annotations.get("deletion").is_some_and(|how| how == "delete"))
        };
        let let_go = self.let_go.remove(key);
        if key.kind.info().data_bearing && !let_go && !self.heads.iter().any(allowed) {
            self.violation(format!("{key} holds data and was deleted, and nobody allowed that"));
        }
    }

    /// Invariant: a role keeps its password until a commit asks for another.
    fn password_was_set(&mut self, key: &ResourceKey, role: &str, rotation: &str, password: &str) {
        let place = (key.clone(), role.to_owned(), rotation.to_owned());
        match self.passwords.get(&place) {
            Some(before) if before != password => {
                self.violation(format!("role {role} of {key} got a second password for rotation {rotation:?}"));
            }
            Some(_) => {}
            None => {
                self.passwords.insert(place, password.to_owned());
            }
        }
    }

    /// A deleted object takes its passwords with it.
    fn forget_passwords(&mut self, key: &ResourceKey) {
        self.passwords.retain(|(of, ..), _| of != key);
    }
}

impl System {
    pub fn new(chaos: Arc<Chaos>, record: MemoryStore, windows: Windows, began: DateTime<Utc>) -> Self {
        Self { state: Mutex::default(), chaos, record, windows, began, since: Instant::now() }
    }

    /// What must hold where a process begins a step. A mark that is brought up to date is no step, and needs room alone.
    fn may_begin(&self, life: Life, server: &str, step: &Step) {
        self.it_has_room(life, server, step);
        let remarks = step.action == Action::Update && step.changes.is_empty() && step.rotate.is_none();
        if !remarks {
            self.it_is_on_record(step);
            self.its_window_is_open(step);
            self.nobody_has_stopped_it(life, step);
        }
    }

    /// Invariant: what is done is written down before it is.
    fn it_is_on_record(&self, step: &Step) {
        if !self.record.has_begun(&step.key) {
            self.state().violation(format!("a step of {} ran that is not on record", step.key));
        }
    }

    /// Invariant: no step begins while its environment's windows are closed.
    fn its_window_is_open(&self, step: &Step) {
        let now = self.began + TimeDelta::from_std(self.since.elapsed()).expect("a run is short");
        if !self.windows.are_open(now) {
            self.state().violation(format!("a step of {} began at {now}, when no window was open", step.key));
        }
    }

    /// Invariant: a process that has heard that it is to stop begins nothing more.
    fn nobody_has_stopped_it(&self, life: Life, step: &Step) {
        let mut state = self.state();
        if state.stopping.contains(&life) {
            state.violation(format!("a step of {} began in life {life}, which was told to stop", step.key));
        }
    }

    /// Invariant: for each step that a process has under way on a server it has taken a slot, for as long as its lease
    /// lasts. One that lost it when the step was written down already, and claimed the tenant again, has it under the old.
    fn it_has_room(&self, life: Life, server: &str, step: &Step) {
        let under_way = self.state().under_way.get(&(life, server.to_owned())).copied().unwrap_or(0);
        let Some(lease) = self.record.lease_of(&step.key.tenant, &name_of(life)) else { return };
        let slots = self.record.slots_of(&lease, server);
        if under_way > slots {
            let what = format!("{under_way} steps of life {life} are under way on {server}, with {slots} slots");
            self.state().violation(format!("{what}, as one of {} begins", step.key));
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a process of that life reaches the servers.
    pub fn connect(self: &Arc<Self>, life: Life) -> plumb::engine::Connect {
        let system = Arc::clone(self);
        Arc::new(move |endpoint: Endpoint| {
            Ok(Arc::new(Manager {
                system: Arc::clone(&system),
                life,
                server: endpoint.name,
                provider_type: endpoint.provider_type,
            }) as Arc<dyn ResourceManager>)
        })
    }
}

/// How a process of that life calls itself.
pub fn name_of(life: Life) -> String {
    format!("life-{life}")
}

/// What a new object has where nobody says otherwise.
pub fn blank(provider_type: ProviderType, name: &str) -> Fields {
    let mut fields = Fields::new();
    match provider_type {
        ProviderType::Postgres => fields.insert("/spec/connectionLimit", -1),
        ProviderType::Sqlite => {
            fields.insert("/spec/journalMode", "delete");
            fields.insert("/spec/pageSize", 4096);
            fields.insert("/spec/userVersion", 0);
            fields.insert("/spec/foreignKeys", false);
        }
        ProviderType::Redis => fields.insert("/spec/keyPrefix", format!("{name}:")),
    }
    fields
}

struct Manager {
    system: Arc<System>,
    life: Life,
    server: String,
    provider_type: ProviderType,
}

/// The lock on one object; a dead process holds none.
struct Lock<'a> {
    manager: &'a Manager,
    name: String,
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let place = (self.manager.server.clone(), self.name.clone());
        let mut state = self.manager.system.state();
        if state.locks.get(&place) == Some(&self.manager.life) {
            state.locks.remove(&place);
        }
    }
}

/// A step that is under way.
struct UnderWay<'a> {
    manager: &'a Manager,
}

impl<'a> UnderWay<'a> {
    fn of(manager: &'a Manager) -> Self {
        *manager.under_way(&mut manager.system.state()) += 1;
        Self { manager }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        *self.manager.under_way(&mut self.manager.system.state()) -= 1;
    }
}

fn unreachable(server: &str) -> ManagerError {
    ManagerError::retry(Reason::ProviderUnreachable, format!("{server} does not answer"))
}

fn timed_out(server: &str) -> ManagerError {
    ManagerError::retry(Reason::TimedOut, format!("{server} did not answer in time"))
}

impl Manager {
    /// One message to the server and its answer: `work` happens at one instant, if it happens.
    async fn ask<T>(&self, work: impl FnOnce(&mut State) -> Result<T, ManagerError>) -> Result<T, ManagerError> {
        match self.system.chaos.before(self.life).await {
            Fate::Go => {}
            Fate::Fail => return Err(timed_out(&self.server)),
            Fate::Die => return never().await,
        }
        let done = {
            let mut state = self.system.state();
            if state.server(&self.server).down {
                return Err(unreachable(&self.server));
            }
            work(&mut state)
        };
        match self.system.chaos.after(self.life).await {
            Fate::Go => done,
            Fate::Fail => Err(timed_out(&self.server)),
            Fate::Die => never().await,
        }
    }

    async fn lock(&self, name: &str) -> Result<Lock<'_>, ManagerError> {
        let (place, until) = ((self.server.clone(), name.to_owned()), Instant::now() + LOCK_PATIENCE);
        loop {
            let taken = self
                .ask(|state| {
                    let free = state.locks.get(&place).is_none_or(|life| self.system.chaos.is_dead(*life));
                    if free {
                        state.locks.insert(place.clone(), self.life);
                    }
                    Ok(free)
                })
                .await;
            match taken {
                Ok(true) => return Ok(Lock { manager: self, name: name.to_owned() }),
                Ok(false) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(200)).await,
                Ok(false) => return Err(ManagerError::locked("another plumb is at work on it")),
                Err(error) => {
                    // A connection that is lost takes its locks with it.
                    drop(Lock { manager: self, name: name.to_owned() });
                    return Err(error);
                }
            }
        }
    }

    fn under_way<'s>(&self, state: &'s mut State) -> &'s mut usize {
        state.under_way.entry((self.life, self.server.clone())).or_default()
    }

    /// Refuses a step where the server does so now.
    fn expect_no_refusal(&self, step: &Step, now: Refusal) -> Result<(), ManagerError> {
        match self.system.state().refused.get(&step.key) {
            Some(refusal) if *refusal == now => {
                Err(ManagerError::terminal(Reason::Rejected, format!("{} is refused", step.object_name)))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn conflict(&self, step: &Step, what: &str) -> ManagerError {
        ManagerError::conflict(format!("{} is not as planned: {what}", step.object_name))
    }

    /// The object that a step speaks of, checked against what it expects (R13).
    fn expected<'s>(
        &self,
        state: &'s mut State,
        step: &Step,
        platform: &PlatformId,
    ) -> Result<&'s mut Object, ManagerError> {
        let object = state.server(&self.server).objects.get_mut(&step.object_name);
        let object = object.ok_or_else(|| self.conflict(step, "it is gone"))?;
        match (&step.expect, &object.mark) {
            (Expect::Absent, _) => return Err(self.conflict(step, "it is there")),
            (Expect::Marked(_), None) => return Err(self.conflict(step, "it has lost its mark")),
            (Expect::Unmarked(_), Some(_)) => return Err(self.conflict(step, "it has got a mark")),
            (Expect::Marked(_), Some(mark)) if mark.platform != *platform || mark.key != step.key => {
                let message = format!("{} bears the mark of {}", step.object_name, mark.key);
                return Err(ManagerError::Conflict { reason: Reason::OwnedByOther, message });
            }
            (Expect::Marked(id), Some(_)) | (Expect::Unmarked(id), None) if id.0 != object.id => {
                return Err(self.conflict(step, "another has taken its place"));
            }
            (Expect::Marked(_), Some(_)) | (Expect::Unmarked(_), None) => {}
        }
        Ok(object)
    }

    /// The roles that need a password: those of the object's kind among `fields`.
    fn roles(&self, fields: &Fields) -> BTreeSet<String> {
        match self.provider_type {
            ProviderType::Postgres => fields.members("/spec/roles").into_keys().collect(),
            ProviderType::Redis => BTreeSet::from(["user".to_owned()]),
            ProviderType::Sqlite => BTreeSet::new(),
        }
    }

    /// Gives each wanted role a password that has none, or all of them where they are rotated.
    async fn set_passwords(&self, step: &Step, fields: &Fields, cx: &Cx<'_>, all: bool) -> Result<(), ManagerError> {
        // Where nothing asks for another, it is the one that was asked for last.
        let (rotation, called) = (step.rotate.as_deref(), step.rotate.as_deref().unwrap_or("that of before"));
        for role in self.roles(fields) {
            let has_one = |state: &mut State| {
                let object = state.server(&self.server).objects.get(&step.object_name);
                object.is_some_and(|object| object.passwords.contains_key(&role))
            };
            if has_one(&mut self.system.state()) && !all {
                continue;
            }
            let password = cx.secrets.password(&step.key, &role, rotation).await?;
            let password = password.expose_secret().to_owned();
            self.ask(|state| {
                state.password_was_set(&step.key, &role, called, &password);
                let object = state.server(&self.server).objects.get_mut(&step.object_name);
                let object = object.ok_or_else(|| self.conflict(step, "it is gone"))?;
                object.passwords.insert(role.clone(), (called.to_owned(), password));
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    async fn create(&self, step: &Step, cx: &Cx<'_>) -> Result<(), ManagerError> {
        let whole = self.whole(step);
        let unfinished = Mark { unfinished: true, ..step.mark.clone() };
        {
            let mut state = self.system.state();
            if state.server(&self.server).replaced {
                state.violation(format!("{} was made on a server that is another one than before", step.key));
            }
        }
        // The mark comes with the object, and says that it is not whole (R2).
        let begun = self
            .ask(|state| {
                let made_at = state.heads.len();
                match state.server(&self.server).objects.get(&step.object_name) {
                    None => {}
                    Some(object) => {
                        return match &object.mark {
                            None => Err(ManagerError::Conflict {
                                reason: Reason::NotOwned,
                                message: format!("{} exists without a mark", step.object_name),
                            }),
                            Some(mark) if mark.platform != *cx.platform || mark.key != step.key => {
                                let message = format!("{} bears the mark of {}", step.object_name, mark.key);
                                Err(ManagerError::Conflict { reason: Reason::OwnedByOther, message })
                            }
                            Some(mark) if mark.unfinished => Ok(true),
                            Some(mark) if *mark == step.mark && self.is_postgres() => Ok(false),
                            Some(_) => Err(self.conflict(step, "it is there")),
                        };
                    }
                }
                state.made_what_was_asked_for(&step.key);
                let id = state.next_id();
                let fields = blank(self.provider_type, &step.object_name);
                let object = Object {
                    id,
                    mark: Some(unfinished.clone()),
                    fields,
                    passwords: BTreeMap::new(),
                    made_at,
                    touched: Instant::now(),
                };
                state.server(&self.server).objects.insert(step.object_name.clone(), object);
                Ok(true)
            })
            .await?;
        if !begun {
            return Ok(());
        }
        self.expect_no_refusal(step, Refusal::HalfWay)?;
        self.set_passwords(step, &whole, cx, false).await?;
        self.ask(|state| {
            state.effects += 1;
            let object = state.server(&self.server).objects.get_mut(&step.object_name);
            let object = object.ok_or_else(|| self.conflict(step, "it is gone"))?;
            object.fields = whole;
            object.mark = Some(step.mark.clone());
            object.touched = Instant::now();
            Ok(())
        })
        .await
    }

    /// The fields of an object that is as git wants it throughout.
    fn whole(&self, step: &Step) -> Fields {
        let mut fields = step.desired.clone();
        fields.fill(blank(self.provider_type, &step.object_name));
        fields
    }

    fn is_postgres(&self) -> bool {
        self.provider_type == ProviderType::Postgres
    }

    /// Update and adoption.
    async fn change(&self, step: &Step, cx: &Cx<'_>) -> Result<(), ManagerError> {
        self.ask(|state| {
            let is_postgres = self.is_postgres();
            let object = self.expected(state, step, cx.platform)?;
            for change in &step.changes {
                let now = object.fields.get(change.path.as_str());
                let done_before = is_postgres && now == change.to.as_ref();
                if now != change.from.as_ref() && !done_before {
                    return Err(self.conflict(step, &format!("{} has changed", change.path)));
                }
            }
            Ok(())
        })
        .await?;
        if self.is_postgres() {
            for change in &step.changes {
                self.ask(|state| {
                    let object = self.expected(state, step, cx.platform)?;
                    set(&mut object.fields, &change.path, change.to.as_ref());
                    state.effects += 1;
                    Ok(())
                })
                .await?;
            }
        }
        self.expect_no_refusal(step, Refusal::HalfWay)?;
        let mut after = self.system.state().server(&self.server).objects.get(&step.object_name).cloned();
        if let Some(after) = &mut after {
            for change in &step.changes {
                set(&mut after.fields, &change.path, change.to.as_ref());
            }
            let rotated = step.action == Action::Update && step.rotate.is_some();
            self.set_passwords(step, &after.fields, cx, rotated).await?;
        }
        self.ask(|state| {
            state.effects += 1;
            let roles = {
                let object = self.expected(state, step, cx.platform)?;
                for change in &step.changes {
                    set(&mut object.fields, &change.path, change.to.as_ref());
                }
                object.mark = Some(step.mark.clone());
                object.touched = Instant::now();
                self.roles(&object.fields)
            };
            let object = self.system_object(state, step);
            object.passwords.retain(|role, _| roles.contains(role));
            Ok(())
        })
        .await
    }

    fn system_object<'s>(&self, state: &'s mut State, step: &Step) -> &'s mut Object {
        state.server(&self.server).objects.get_mut(&step.object_name).expect("it was just there")
    }

    async fn replace(&self, step: &Step, cx: &Cx<'_>) -> Result<(), ManagerError> {
        let whole = self.whole(step);
        self.ask(|state| {
            let before = self.expected(state, step, cx.platform)?.clone();
            let (id, made_at) = (state.next_id(), before.made_at);
            state.effects += 1;
            let object = Object {
                id,
                mark: Some(step.mark.clone()),
                fields: whole,
                passwords: before.passwords,
                touched: Instant::now(),
                made_at,
            };
            state.server(&self.server).objects.insert(step.object_name.clone(), object);
            Ok(())
        })
        .await
    }

    async fn delete(&self, step: &Step, cx: &Cx<'_>) -> Result<(), ManagerError> {
        self.ask(|state| {
            let object = self.expected(state, step, cx.platform)?.clone();
            let is_undone = self.system.record.was_to_be_unmade(&step.key);
            state.deleted_what_was_removed(&step.key, &object, is_undone);
            state.forget_passwords(&step.key);
            state.server(&self.server).objects.remove(&step.object_name);
            Ok(())
        })
        .await
    }

    fn see(&self, state: &State, target: &Target, depth: Depth) -> Observation {
        let object = state.servers.get(&self.server).and_then(|server| server.objects.get(&target.object_name));
        let Some(object) = object else { return Observation::Absent { lost: false, left: None } };
        let mut fields = object.fields.clone();
        let mut unknown = BTreeMap::new();
        // Roles' access to what is inside is only seen from inside.
        if depth == Depth::Shallow && self.is_postgres() {
            let hidden: Vec<FieldPath> =
                fields.iter().map(|(path, _)| path).filter(|path| path.is_within("/spec/settings")).cloned().collect();
            for path in hidden {
                fields.0.remove(&path);
            }
            let why = Unknown::new(Reason::NotObserved, "a shallow look does not look inside");
            unknown.insert(FieldPath::new("/spec/settings"), why);
        }
        Observation::Present(Box::new(Live {
            object: ObjectId(object.id.clone()),
            ownership: match &object.mark {
                None => Ownership::Unmarked,
                Some(mark) => Ownership::Marked(mark.clone()),
            },
            fields,
            unknown,
            outputs: self.outputs(target),
        }))
    }
}

fn set(fields: &mut Fields, path: &FieldPath, to: Option<&Value>) {
    match to {
        Some(value) => fields.insert(path.clone(), value.clone()),
        None => {
            fields.0.remove(path);
        }
    }
}

#[async_trait]
impl ResourceManager for Manager {
    fn kinds(&self) -> &'static [Kind] {
        match self.provider_type {
            ProviderType::Postgres | ProviderType::Sqlite => &[Kind::Database],
            ProviderType::Redis => &[Kind::Cache],
        }
    }

    async fn identity(&self) -> Result<Option<ProviderIdentity>, ManagerError> {
        self.ask(|state| {
            let who = if state.server(&self.server).replaced { "a stranger" } else { "the server" };
            Ok(Some(ProviderIdentity(format!("{who} {}", self.server))))
        })
        .await
    }

    async fn observe(&self, targets: &[Target], depth: Depth, _: &Cx<'_>) -> Result<Vec<Observation>, ManagerError> {
        let sick = self.system.chaos.sick(targets.len());
        self.ask(|state| {
            if state.server(&self.server).replaced {
                return Ok(vec![Observation::Absent { lost: false, left: None }; targets.len()]);
            }
            let see = |(at, target)| match sick {
                Some(sick) if sick == at => Observation::Unknown(Unknown::new(Reason::TimedOut, "it is locked")),
                _ => self.see(state, target, depth),
            };
            Ok(targets.iter().enumerate().map(see).collect())
        })
        .await
    }

    async fn discover(&self, in_place: &BTreeSet<String>, cx: &Cx<'_>) -> Result<Vec<Found>, ManagerError> {
        self.ask(|state| {
            let server = state.server(&self.server);
            if server.replaced {
                return Ok(Vec::new());
            }
            let marked = server.objects.iter().filter(|(name, _)| !in_place.contains(*name));
            let found = marked.filter_map(|(name, object)| {
                let mark = object.mark.clone().filter(|mark| mark.platform == *cx.platform)?;
                Some(Found { mark, object_name: name.clone(), object: ObjectId(object.id.clone()) })
            });
            Ok(found.collect())
        })
        .await
    }

    async fn apply(&self, step: &Step, cx: &Cx<'_>) -> Result<Outcome, ManagerError> {
        let _under_way = UnderWay::of(self);
        self.system.may_begin(self.life, &self.server, step);
        let _lock = self.lock(&step.object_name).await?;
        self.expect_no_refusal(step, Refusal::AtOnce)?;
        match step.action {
            Action::Create => self.create(step, cx).await,
            Action::Update | Action::Adopt => self.change(step, cx).await,
            Action::Replace => self.replace(step, cx).await,
            Action::Delete => self.delete(step, cx).await,
        }
        .map(|()| Outcome::default())
    }

    fn outputs(&self, target: &Target) -> BTreeMap<String, String> {
        BTreeMap::from([("name".to_owned(), target.object_name.clone())])
    }
}

/// Another value for a field that somebody changes behind git's back.
pub fn another(provider_type: ProviderType, chaos: &Chaos) -> (FieldPath, Value) {
    match provider_type {
        ProviderType::Postgres => ("/spec/connectionLimit".into(), json!(50 + chaos.below(3))),
        ProviderType::Sqlite => ("/spec/userVersion".into(), json!(90 + chaos.below(3))),
        ProviderType::Redis => ("/spec/keyPrefix".into(), json!(format!("wrong-{}:", chaos.below(3)))),
    }
}

/// Whether a value is one of those that hands set: git never says them.
pub fn is_by_hand(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Number(number)) => number.as_i64().is_some_and(|number| number >= 50),
        Some(Value::String(text)) => text.starts_with("wrong-"),
        _ => false,
    }
}
