//! Managers that tell how long each look took, so that a row can say what is Plumb's time and what is the live system's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use plumb::engine::Connect;
use plumb::managers::{self, Cx, Found, ManagerError, Outcome, ResourceManager};
use plumb::model::{Depth, Kind, Observation, ProviderIdentity, Step, Target};

/// How long each look took, in order.
pub type Looks = Arc<Mutex<Vec<Duration>>>;

/// The managers of the product, whose looks are written down in `looks`.
pub fn observed(looks: &Looks) -> Connect {
    let looks = Arc::clone(looks);
    Arc::new(move |endpoint| {
        let inner = managers::connect(endpoint)?;
        Ok(Arc::new(Observed { inner, looks: Arc::clone(&looks) }))
    })
}

struct Observed {
    inner: Arc<dyn ResourceManager>,
    looks: Looks,
}

#[async_trait]
impl ResourceManager for Observed {
    fn kinds(&self) -> &'static [Kind] {
        self.inner.kinds()
    }

    async fn identity(&self) -> Result<Option<ProviderIdentity>, ManagerError> {
        self.inner.identity().await
    }

    async fn observe(&self, targets: &[Target], depth: Depth, cx: &Cx<'_>) -> Result<Vec<Observation>, ManagerError> {
        let start = Instant::now();
        let seen = self.inner.observe(targets, depth, cx).await;
        self.looks.lock().expect("nobody panics").push(start.elapsed());
        seen
    }

    async fn discover(&self, in_place: &BTreeSet<String>, cx: &Cx<'_>) -> Result<Vec<Found>, ManagerError> {
        self.inner.discover(in_place, cx).await
    }

    async fn apply(&self, step: &Step, cx: &Cx<'_>) -> Result<Outcome, ManagerError> {
        self.inner.apply(step, cx).await
    }

    async fn tidy(&self) -> Result<(), ManagerError> {
        self.inner.tidy().await
    }

    fn outputs(&self, target: &Target) -> BTreeMap<String, String> {
        self.inner.outputs(target)
    }
}
