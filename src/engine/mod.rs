//! The reconciler: `reconcile.rs` reads as the sentence of the design, the other files are its words.
//!
//! What always holds: a tenant is reconciled once at a time; what is done follows only from git's refs, the inventory
//! and what was observed; nothing is applied that was not planned, and nothing is planned on what was not seen.

mod accidents;
mod apply;
mod attempts;
mod audit;
mod check;
mod circuits;
mod credentials;
mod decide;
mod desired;
mod fleet;
mod holds;
mod hosts;
mod last_words;
mod lease;
mod memory;
mod mirrors;
mod observe;
mod passwords;
mod platform;
mod preview;
mod propose;
mod reconcile;
mod record;
mod replay;
mod room;
mod sagas;
pub mod schedule;
mod seat;
mod slots;
mod status;
mod timeline;
mod turns;
pub mod vault;
pub mod view;
pub mod windows;
mod worker;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::SecretString;

use crate::managers;
use crate::model::{Clock, Event, ObjectHex, Platform, Reason, Replica};
use crate::source::SourceError;
use crate::store::{Store, StoreError};
use crate::validate::Validator;

use desired::Workspace;
use fleet::Fleet;
use hosts::Hosts;
use mirrors::Mirrors;
use turns::Turns;

pub use crate::model::{Ask, Width};
pub use attempts::{Retried, Which, can_retry, retry};
pub use audit::request_looks;
pub use check::{Check, CheckResult, clocks_differ};
pub use desired::Sources;
pub use fleet::Connect;
pub use lease::LEASE;
pub use passwords::{NoPasswords, Passwords};
pub use platform::PlatformStatus;
pub use preview::{Preview, PreviewSource};
pub use reconcile::Report;
pub use replay::{Reapplied, Replayed};

/// What the engine is told when it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The platform repository: a URL or a folder, whose HEAD counts.
    pub platform: String,
    /// Its branch; `None` is `main`, or HEAD for a folder.
    pub platform_branch: Option<String>,
    /// The password for the platform repository.
    pub platform_token: Option<SecretString>,
    /// Where mirrors and embedded providers live.
    pub data_dir: PathBuf,
    /// Who this process is among those that share a store.
    pub replica: Replica,
    /// Who started it, for the audit log.
    pub person: String,
    /// How long this process keeps a tenant without a sign of life, before another may take it.
    pub lease: Duration,
}

/// Why a tenant, or the platform, could not be reconciled at all.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The platform repository has never had a valid revision.
    #[error("the platform repository does not validate, and no earlier revision is known")]
    NoPlatform { findings: Vec<crate::model::Diagnostic>, sources: desired::Sources },
    /// No such tenant.
    #[error("there is no tenant {tenant:?}; {known}")]
    NoTenant {
        tenant: String,
        /// What the platform has instead.
        known: String,
    },
    /// A repository could not be read.
    #[error("{what} could not be read: {source}")]
    Source { what: String, source: SourceError },
    /// A credential is not there.
    #[error("{what}: {source}")]
    Credential { what: String, source: credentials::CredentialError },
    /// A branch that was there is gone.
    #[error("{0}")]
    BranchGone(String),
    /// The state store.
    #[error("the state store failed")]
    Store(#[from] StoreError),
    /// There is something else to do than what somebody wanted done.
    #[error("nothing is applied: what there is to do for tenant {tenant} is plan {plan}, and not {wanted}")]
    AnotherPlan { tenant: String, plan: crate::model::PlanId, wanted: String },
    /// The process was told to stop.
    #[error("it was told to stop while it waited for the host of a repository")]
    Stopped,
    /// A thread of the engine ended early.
    #[error("an engine task was cut short")]
    Task,
}

impl EngineError {
    /// There is no such tenant in `platform`; says which there are.
    pub(crate) fn no_tenant(platform: &Platform, tenant: &str) -> Self {
        let names: Vec<&str> = platform.tenants.keys().map(String::as_str).collect();
        let known = match names[..] {
            [] => "the platform has no Tenant document yet".to_owned(),
            _ => format!("the platform has {}", names.join(", ")),
        };
        Self::NoTenant { tenant: tenant.to_owned(), known }
    }

    /// The reason, for conditions and events.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoPlatform { .. } => Reason::InvalidManifest,
            Self::NoTenant { .. } => Reason::TenantRemoved,
            Self::Source { .. } | Self::BranchGone(_) => Reason::SourceUnavailable,
            Self::Credential { .. } => Reason::CredentialMissing,
            Self::AnotherPlan { .. } => Reason::Conflict,
            Self::Store(_) | Self::Stopped | Self::Task => Reason::Internal,
        }
    }
}

/// Hears every event as it happens: progress on the command line, streams.
pub type Listener = Arc<dyn Fn(&Event) + Send + Sync>;

/// The reconciler of one platform.
pub struct Engine {
    settings: Settings,
    store: Arc<dyn Store>,
    passwords: Arc<dyn Passwords>,
    clock: Arc<dyn Clock>,
    validator: Arc<Validator>,
    fleet: Fleet,
    mirrors: Mirrors,
    hosts: Hosts,
    turns: Turns,
    listener: Listener,
    /// The platform as it was read last, by the head that was read.
    platform: Mutex<Option<(ObjectHex, PlatformStatus)>>,
    /// Whoever has to read the platform in force anew holds this, so that the others find it read.
    reads_in_force: tokio::sync::Mutex<()>,
    /// How many tenants are looked at at once, and how long one does steps while others wait for its place.
    places: usize,
    slice: Duration,
    /// The lock on a tenant's workspace is what keeps it from being reconciled twice at once.
    workspaces: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Workspace>>>>,
}

impl Engine {
    /// An engine over `store`. Nothing is connected yet.
    pub fn new(
        settings: Settings,
        store: Arc<dyn Store>,
        passwords: Arc<dyn Passwords>,
        clock: Arc<dyn Clock>,
        listener: Listener,
    ) -> Self {
        let fleet = Fleet::new(settings.data_dir.clone(), Arc::new(managers::connect));
        let mirrors = Mirrors::new(settings.data_dir.join("mirrors"));
        Self {
            settings,
            store,
            passwords,
            clock,
            validator: Arc::new(Validator::new()),
            fleet,
            mirrors,
            hosts: Hosts::default(),
            turns: Turns::default(),
            listener,
            platform: Mutex::default(),
            reads_in_force: tokio::sync::Mutex::default(),
            places: worker::TENANTS_AT_ONCE,
            slice: seat::SLICE,
            workspaces: Mutex::default(),
        }
    }

    /// The same engine with managers of the caller's making, which must be called before anything is connected.
    #[must_use]
    pub fn with_managers(mut self, connect: Connect) -> Self {
        self.fleet = Fleet::new(self.settings.data_dir.clone(), connect);
        self
    }

    /// The same engine, which looks at so many tenants at once, and at each for so long while others wait.
    #[must_use]
    pub fn with_places(mut self, places: usize, slice: Duration) -> Self {
        (self.places, self.slice) = (places, slice);
        self
    }

    /// The store, for those who read.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Lets go of what is kept in this process of tenants that are not there any more.
    fn forget_all_but(&self, tenants: impl Fn(&str) -> bool) {
        let mut workspaces = self.workspaces.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        workspaces.retain(|tenant, workspace| tenants(tenant) || Arc::strong_count(workspace) > 1);
    }

    fn workspace(&self, tenant: &str) -> Arc<tokio::sync::Mutex<Workspace>> {
        let mut workspaces = self.workspaces.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(workspaces.entry(tenant.to_owned()).or_default())
    }
}

/// Does long work without waiting: where there are several threads, the others take over what waits on this one.
fn beside<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Runs blocking work (git, files) beside the async threads. Where there is one thread it runs there, so that what
/// happens on it happens in one order.
async fn blocking<T, F>(work: F) -> Result<T, EngineError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::CurrentThread => Ok(work()),
        _ => tokio::task::spawn_blocking(work).await.map_err(|_| EngineError::Task),
    }
}
