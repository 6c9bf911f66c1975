//! Real managers that fail when the test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use plumb::engine::Connect;
use plumb::managers::{self, Cx, Found, ManagerError, Outcome, ResourceManager};
use plumb::model::{Depth, Kind, Observation, ProviderIdentity, Step, Target};
use tokio::sync::Barrier;

/// What fails, and what was asked for.
#[derive(Default)]
pub struct Faults {
    /// What the steps of a resource, by its name, fail with.
    steps: Mutex<BTreeMap<String, ManagerError>>,
    /// What every question fails with.
    silence: Mutex<Option<ManagerError>>,
    /// Who every manager says that its system is, where it is not the usual.
    identity: Mutex<Option<ProviderIdentity>>,
    /// How long each step takes beside its work.
    slowness: Mutex<Duration>,
    asked: Mutex<usize>,
    /// Where those meet who ask who a system is, before they hear anything.
    meeting: Mutex<Option<Arc<Barrier>>>,
    tried: Mutex<Vec<String>>,
}

impl Faults {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// From now on the steps of `name` fail.
    pub fn fail(&self, name: &str, error: ManagerError) {
        self.steps.lock().unwrap().insert(name.to_owned(), error);
    }

    /// From now on they do not.
    pub fn mend(&self, name: &str) {
        self.steps.lock().unwrap().remove(name);
    }

    /// From now on nobody answers, or everybody does.
    pub fn silence(&self, error: Option<ManagerError>) {
        *self.silence.lock().unwrap() = error;
    }

    /// From now on every system is another one.
    pub fn become_another(&self, identity: &str) {
        *self.identity.lock().unwrap() = Some(ProviderIdentity(identity.to_owned()));
    }

    /// From now on each step takes so much longer.
    pub fn slow_down(&self, by: Duration) {
        *self.slowness.lock().unwrap() = by;
    }

    /// How often a manager was asked who it is since the last call.
    pub fn asked(&self) -> usize {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// From now on so many ask at one moment, or each when it likes; gives where they meet.
    pub fn gather(&self, number: Option<usize>) -> Option<Arc<Barrier>> {
        let meeting = number.map(|number| Arc::new(Barrier::new(number)));
        self.meeting.lock().unwrap().clone_from(&meeting);
        meeting
    }

    /// The names of the resources whose steps were tried since the last call.
    pub fn tried(&self) -> Vec<String> {
        std::mem::take(&mut self.tried.lock().unwrap())
    }

    /// What connects to real managers through these faults.
    pub fn connect(self: &Arc<Self>) -> Connect {
        let faults = Arc::clone(self);
        Arc::new(move |endpoint| {
            let inner = managers::connect(endpoint)?;
            Ok(Arc::new(Faulty { inner, faults: Arc::clone(&faults) }))
        })
    }

    fn answer(&self) -> Result<(), ManagerError> {
        self.silence.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

struct Faulty {
    inner: Arc<dyn ResourceManager>,
    faults: Arc<Faults>,
}

#[async_trait]
impl ResourceManager for Faulty {
    fn kinds(&self) -> &'static [Kind] {
        self.inner.kinds()
    }

    async fn identity(&self) -> Result<Option<ProviderIdentity>, ManagerError> {
        *self.faults.asked.lock().unwrap() += 1;
        let meeting = self.faults.meeting.lock().unwrap().clone();
        if let Some(meeting) = meeting {
            meeting.wait().await;
        }
        self.faults.answer()?;
        let another = self.faults.identity.lock().unwrap().clone();
        match another {
            Some(identity) => Ok(Some(identity)),
            None => self.inner.identity().await,
        }
    }

    async fn observe(&self, targets: &[Target], depth: Depth, cx: &Cx<'_>) -> Result<Vec<Observation>, ManagerError> {
        self.faults.answer()?;
        self.inner.observe(targets, depth, cx).await
    }

    async fn discover(&self, in_place: &BTreeSet<String>, cx: &Cx<'_>) -> Result<Vec<Found>, ManagerError> {
        self.faults.answer()?;
        self.inner.discover(in_place, cx).await
    }

    async fn apply(&self, step: &Step, cx: &Cx<'_>) -> Result<Outcome, ManagerError> {
        self.faults.answer()?;
        self.faults.tried.lock().unwrap().push(step.key.name.clone());
        let slowness = *self.faults.slowness.lock().unwrap();
        if !slowness.is_zero() {
            tokio::time::sleep(slowness).await;
        }
        let failure = self.faults.steps.lock().unwrap().get(&step.key.name).cloned();
        match failure {
            Some(error) => Err(error),
            None => self.inner.apply(step, cx).await,
        }
    }

    async fn tidy(&self) -> Result<(), ManagerError> {
        self.inner.tidy().await
    }

    fn outputs(&self, target: &Target) -> BTreeMap<String, String> {
        self.inner.outputs(target)
    }
}
