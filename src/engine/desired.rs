//! From a tree to the desired state, reading and checking only what changed since the last time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::manifest;
use crate::model::{DesiredState, Diagnostic, ObjectHex, Platform, ResourceKey, TenantSpec};
use crate::source::{Mirror, SourceError, Tree, WorkingFiles};
use crate::validate::{self, CheckedFile, PolicySet, TenantCache, TenantContext, Validator};

/// The text of each file that findings speak of, so that they can be shown with excerpts.
pub type Sources = BTreeMap<String, Arc<str>>;

/// What is kept of one tenant's tree between passes.
#[derive(Default)]
pub(super) struct Workspace {
    files: BTreeMap<String, Arc<CheckedFile>>,
    policy_cache: TenantCache,
    /// The revision of the platform whose policies the cache is about, and the state that was read last.
    last: Option<Last>,
}

/// What the last full reading gave.
struct Last {
    platform: Option<ObjectHex>,
    desired: Arc<DesiredState>,
}

/// A tree, read.
pub(super) struct Reading {
    pub desired: Arc<DesiredState>,
    pub files: usize,
    pub changed: usize,
    /// The keys whose documents changed since the last reading; `None` when everything may have.
    pub touched: Option<BTreeSet<ResourceKey>>,
}

/// Whose tree it is.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub platform: &'a Platform,
    pub policies: &'a PolicySet,
    pub name: &'a str,
    pub tenant: &'a TenantSpec,
    /// What git said at the last recorded commit, for policies.
    pub previous: &'a BTreeMap<ResourceKey, Arc<serde_json::Value>>,
}

impl Workspace {
    /// Reads the tree of `commit`.
    pub(super) fn read_commit(
        &mut self,
        validator: &Validator,
        owner: Owner<'_>,
        mirror: &Mirror,
        commit: &ObjectHex,
        tree: Tree,
    ) -> Result<Reading, SourceError> {
        let fresh: BTreeMap<&String, &ObjectHex> = tree
            .files
            .iter()
            .filter(|(path, entry)| self.files.get(*path).is_none_or(|known| known.blob != entry.blob))
            .map(|(path, entry)| (path, &entry.blob))
            .collect();
        let blobs = mirror.blobs(&fresh.values().collect::<Vec<_>>())?;
        let mut changed: BTreeSet<String> =
            self.files.keys().filter(|path| !tree.files.contains_key(*path)).cloned().collect();
        self.files.retain(|path, _| tree.files.contains_key(path));
        let files: Vec<(&String, Vec<u8>)> = fresh.keys().copied().zip(blobs).collect();
        for ((path, blob), mut checked) in fresh.into_iter().zip(validator.check_files(&files)) {
            checked.blob = blob.clone();
            self.files.insert(path.clone(), Arc::new(checked));
            changed.insert(path.clone());
        }
        Ok(self.assemble(owner, Some(commit.clone()), tree.findings, &tree.refused, &changed))
    }

    /// Reads a working tree, in place of what was read before.
    pub(super) fn read_working(&mut self, validator: &Validator, owner: Owner<'_>, working: WorkingFiles) -> Reading {
        self.files.clear();
        let files: Vec<(String, Vec<u8>)> = working.files.into_iter().collect();
        for checked in validator.check_files(&files) {
            self.files.insert(checked.file.clone(), Arc::new(checked));
        }
        self.assemble(owner, None, working.findings, &working.refused, &BTreeSet::new())
    }

    fn assemble(
        &mut self,
        owner: Owner<'_>,
        commit: Option<ObjectHex>,
        findings: Vec<Diagnostic>,
        refused: &BTreeSet<String>,
        changed: &BTreeSet<String>,
    ) -> Reading {
        let mut desired = self.desired_with(owner, commit, None);
        desired.diagnostics.extend(findings);
        desired.unreadable.extend(refused.iter().cloned());
        let desired = Arc::new(desired);
        let touched = self
            .last
            .as_ref()
            .filter(|last| last.platform == owner.platform.commit)
            .map(|last| touched(&last.desired, &desired, changed));
        self.last = Some(Last { platform: owner.platform.commit.clone(), desired: Arc::clone(&desired) });
        Reading { desired, files: self.files.len(), changed: changed.len(), touched }
    }

    /// The desired state with one file replaced (`None` as content removes it): what a proposal would lead to.
    pub(super) fn with_edit(
        &mut self,
        validator: &Validator,
        owner: Owner<'_>,
        path: &str,
        content: Option<&str>,
    ) -> DesiredState {
        let edited = content.map(|text| Arc::new(validator.check_file(&manifest::parse(path, text.as_bytes()))));
        self.desired_with(owner, None, Some((path, edited)))
    }

    fn desired_with(
        &mut self,
        owner: Owner<'_>,
        commit: Option<ObjectHex>,
        edit: Option<(&str, Option<Arc<CheckedFile>>)>,
    ) -> DesiredState {
        let edited_path = edit.as_ref().map(|(path, _)| *path);
        let files: Vec<Arc<CheckedFile>> = self
            .files
            .iter()
            .filter(|(path, _)| Some(path.as_str()) != edited_path)
            .map(|(_, file)| Arc::clone(file))
            .chain(edit.and_then(|(_, file)| file))
            .collect();
        let context = TenantContext {
            platform: Some(owner.platform),
            tenant: owner.name,
            spec: Some(owner.tenant),
            path: &owner.tenant.repository.path,
            commit: commit.as_ref(),
            previous: owner.previous,
            policies: owner.policies,
        };
        validate::assemble_tenant(&context, &files, &mut self.policy_cache)
    }

    /// The text of a file, for excerpts.
    pub(super) fn text(&self, file: &str) -> Option<Arc<str>> {
        self.files.get(file).map(|file| file.text())
    }

    /// Forgets what was read, so that the next reading is whole.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

/// The keys whose documents stand, or stood, in changed files.
fn touched(before: &DesiredState, after: &DesiredState, changed: &BTreeSet<String>) -> BTreeSet<ResourceKey> {
    let in_changed = |desired: &DesiredState| -> Vec<ResourceKey> {
        desired
            .resources
            .values()
            .filter(|resource| changed.contains(&resource.origin.file))
            .map(|resource| resource.key.clone())
            .collect()
    };
    let mut touched: BTreeSet<ResourceKey> = in_changed(before).into_iter().chain(in_changed(after)).collect();
    // A change in one file can accept or reject documents in others (duplicates, references).
    touched.extend(before.rejected.keys().chain(after.rejected.keys()).cloned());
    touched.extend(before.resources.keys().filter(|key| !after.resources.contains_key(*key)).cloned());
    touched.extend(after.resources.keys().filter(|key| !before.resources.contains_key(*key)).cloned());
    touched
}
