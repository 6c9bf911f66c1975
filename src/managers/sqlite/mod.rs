//! Databases as SQLite files: one `{object_name}.db` a resource, in one folder; no server.
//!
//! **Manages** the file, its journal mode, page size, `user_version`, and a default for `foreign_keys` (SQLite forgets
//! that one with each connection, so it is kept beside the mark, for applications to read). **Leaves alone** every
//! table, index and row but its own `plumb_mark`, and every other file in the folder.
//!
//! **The mark** (R1) is the one row of the table `plumb_mark` inside the file: a random object id, the mark's text and
//! the `foreign_keys` default. It travels with the file, so a backup put back in its place is the same object. A file
//! without the table is unmarked, and is told from others by its device and inode.
//!
//! What always holds:
//! - A file comes into being whole (R2): it is built under a hidden name, marked, synced, and linked to its own name
//!   only when that is free. It goes by being renamed to a hidden name first. Hidden leftovers of a process that was
//!   killed are removed by the next process that may write.
//! - Nothing is changed but under an OS lock on the name and SQLite's own lock on the file, with the mark, the object
//!   id and the values read again under both (R13).
//! - Looking writes nothing: no file is created beside a database to look at it, save where a transaction that was cut
//!   short can only be seen by finishing or undoing it, as any reader of SQLite would.
//! - What is no database, is locked, or cannot be read is unknown (R5), never absent and never touched.
//!
//! The folder's identity (R11) is a random id in `.plumb-root`, written by the first apply. A folder whose marker is
//! gone, because its disk is not mounted, has no identity.

mod change;
mod error;
mod file;
mod folder;
mod gate;
mod image;
mod peek;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};

use self::file::{Glimpse, Place, Seen};
use self::folder::Folder;
use self::image::Press;
use super::{Cx, Endpoint, Found, ManagerError, Outcome, ResourceManager};
use crate::model::{Depth, Kind, Observation, ProviderIdentity, ProviderType, Reason, Step, Target, Unknown};

/// What is in the folder of the state store. No database of a resource is called so: its name has underscores.
const STATE_FILES: [&str; 2] = ["plumb.db", "plumb.lock"];

/// How long a look waits for a locked file. Less than an apply waits: there will be another look.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// How many files one blocking task looks at. Large enough that handing over tasks costs nothing beside the reads.
const LOOKS_PER_TASK: usize = 512;

/// The manager of one folder of SQLite files.
#[derive(Clone)]
pub struct Sqlite {
    folder: Folder,
    press: Press,
    timeout: Duration,
    max_concurrency: usize,
}

/// The manager for the folder that `endpoint.url` names: `sqlite:DIR`, relative to `endpoint.base_dir`, or
/// `sqlite:///absolute/dir`. Touches nothing yet.
///
/// # Errors
/// When the URL names no folder, or one where Plumb keeps its own state.
pub fn connect(endpoint: Endpoint) -> Result<Sqlite, ManagerError> {
    let Endpoint { name, provider_type: _, url, password: _, base_dir, max_concurrency, timeout } = endpoint;
    let invalid = |why: &str| {
        ManagerError::terminal(
            Reason::Rejected,
            format!("the url of provider {name} {why}; write it like sqlite:databases or sqlite:///srv/databases"),
        )
    };
    let rest = url.strip_prefix("sqlite:").ok_or_else(|| invalid("does not begin with sqlite:"))?;
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() {
        return Err(invalid("names no folder"));
    }
    if path.contains(['?', '\0']) {
        return Err(invalid("may hold no parameters"));
    }
    let path = std::path::absolute(base_dir.join(path))
        .map_err(|error| error::io("find the folder of the databases", &PathBuf::from(path), &error))?;
    if is_of_the_state(&path, &base_dir) {
        return Err(invalid("names a folder where Plumb keeps its own state, and databases need one of their own"));
    }
    Ok(Sqlite {
        folder: Folder::new(path, timeout),
        press: Press::default(),
        timeout,
        max_concurrency: max_concurrency.max(1),
    })
}

/// Whether Plumb keeps its own state in `folder`: looking at that file would take this process's locks off it. The
/// state may be elsewhere than in the data directory, so what stands in the folder counts too.
fn is_of_the_state(folder: &Path, data_dir: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(folder) == real(data_dir) || STATE_FILES.iter().any(|file| folder.join(file).exists())
}

impl Sqlite {
    /// Looks at files without waiting, many to a blocking task.
    async fn glimpse_all(&self, paths: Vec<Option<PathBuf>>) -> Result<Vec<Glimpse>, ManagerError> {
        let chunks: Vec<Vec<Option<PathBuf>>> = paths.chunks(LOOKS_PER_TASK).map(<[_]>::to_vec).collect();
        let glimpses: Vec<Vec<Glimpse>> = stream::iter(chunks)
            .map(|chunk| async move {
                tokio::task::spawn_blocking(move || {
                    chunk
                        .iter()
                        .map(|path| match path {
                            Some(path) => file::glimpse(path),
                            None => Glimpse::Placed(Place::Odd("its name cannot be a file's name")),
                        })
                        .collect()
                })
                .await
                .map_err(|error| error::task(&error))
            })
            .buffered(self.max_concurrency)
            .try_collect()
            .await?;
        Ok(glimpses.into_iter().flatten().collect())
    }

    /// What is at `path`, asking SQLite where a glimpse did not tell.
    async fn settle(&self, path: Option<PathBuf>, glimpse: Glimpse) -> Result<Place, ManagerError> {
        match (glimpse, path) {
            (Glimpse::Placed(place), _) => Ok(place),
            (Glimpse::Failed(error), _) => Err(error),
            (Glimpse::Ask(file), Some(path)) => {
                let patience = self.timeout.min(LOOK_PATIENCE);
                file::read(path, file, patience, self.timeout).await.map(Place::File)
            }
            (Glimpse::Ask(_), None) => Ok(Place::Absent),
        }
    }

    fn observation(&self, target: &Target, place: Result<Place, ManagerError>) -> Observation {
        match place {
            Ok(Place::Absent) => Observation::Absent { lost: false, left: None },
            Ok(Place::File(seen)) => Observation::Present(Box::new(seen.into_live(self.outputs(target)))),
            Ok(Place::Odd(why)) => Observation::Unknown(Unknown::new(
                Reason::Rejected,
                format!("{} is not a database file: {why}", self.folder.display(&target.object_name)),
            )),
            Err(error) => Observation::Unknown(Unknown::from(&error)),
        }
    }
}

#[async_trait]
impl ResourceManager for Sqlite {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Database]
    }

    async fn identity(&self) -> Result<Option<ProviderIdentity>, ManagerError> {
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || folder.identity()).await.map_err(|error| error::task(&error))?
    }

    /// A deep look is a shallow one: all that is managed stands in the header and on the page of the mark. Damage
    /// elsewhere in the file is for the application, and for backups, to find.
    async fn observe(&self, targets: &[Target], _: Depth, _: &Cx<'_>) -> Result<Vec<Observation>, ManagerError> {
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || folder.readable()).await.map_err(|error| error::task(&error))??;
        let paths: Vec<Option<PathBuf>> =
            targets.iter().map(|target| self.folder.file(&target.object_name).ok()).collect();
        let glimpses = self.glimpse_all(paths.clone()).await?;
        let settled = stream::iter(paths.into_iter().zip(glimpses))
            .map(|(path, glimpse)| self.settle(path, glimpse))
            .buffered(self.max_concurrency)
            .collect::<Vec<_>>()
            .await;
        Ok(targets.iter().zip(settled).map(|(target, place)| self.observation(target, place)).collect())
    }

    /// A copy that somebody made under another name bears the mark too; it is theirs, and is not listed.
    async fn discover(&self, in_place: &BTreeSet<String>, cx: &Cx<'_>) -> Result<Vec<Found>, ManagerError> {
        let folder = self.folder.clone();
        let mut names =
            tokio::task::spawn_blocking(move || folder.names()).await.map_err(|error| error::task(&error))??;
        names.retain(|name| !in_place.contains(name));
        let paths: Vec<Option<PathBuf>> = names.iter().map(|name| self.folder.file(name).ok()).collect();
        let glimpses = self.glimpse_all(paths.clone()).await?;
        let settled = stream::iter(paths.into_iter().zip(glimpses))
            .map(|(path, glimpse)| self.settle(path, glimpse))
            .buffered(self.max_concurrency)
            .collect::<Vec<_>>()
            .await;
        let mut found = Vec::new();
        for (object_name, place) in names.into_iter().zip(settled) {
            let Ok(Place::File(Seen { marked: Some(row), .. })) = place else { continue };
            let own_name = row.mark.key.object_name(ProviderType::Sqlite.name_limit());
            if row.mark.platform == *cx.platform && own_name == object_name {
                found.push(Found { object: row.object(), mark: row.mark, object_name });
            }
        }
        Ok(found)
    }

    /// Runs to its end even when the caller stops waiting, so that a lock is never left behind by a half-done step.
    async fn apply(&self, step: &Step, cx: &Cx<'_>) -> Result<Outcome, ManagerError> {
        let (manager, step, platform) = (self.clone(), step.clone(), cx.platform.clone());
        tokio::spawn(async move { change::apply(&manager, &step, &platform).await })
            .await
            .map_err(|error| error::task(&error))?
    }

    async fn tidy(&self) -> Result<(), ManagerError> {
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || folder.sweep()).await.map_err(|error| error::task(&error))?
    }

    fn outputs(&self, target: &Target) -> BTreeMap<String, String> {
        BTreeMap::from([("file".to_owned(), self.folder.display(&target.object_name))])
    }
}
