//! The three-way comparison of one object, field by field (R3, R4).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::model::{
    Change, DriftMode, DriftedField, FieldHash, FieldPath, Fields, KindInfo, Live, Mark, ProposedField, Reason, Record,
    Resource, Unknown,
};

/// What one comparison found.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// What a step has to change.
    pub changes: Vec<Change>,
    /// Those of them that only an answer to a question asks for: no commit did since.
    pub answered: BTreeSet<FieldPath>,
    /// What differs and waits for a person, or is only recorded.
    pub drifted: Vec<DriftedField>,
    /// What differs, and a person said to leave alone.
    pub silenced: Vec<DriftedField>,
    /// What is being put back because the resource says `revert`.
    pub reverted: Vec<DriftedField>,
    /// Fields that could not be seen, or belong to somebody else.
    pub unseen: BTreeMap<FieldPath, Unknown>,
    /// Fields that keep their base.
    pub held: BTreeSet<FieldPath>,
}

impl Comparison {
    /// Fields that wait for a person, or for a look.
    pub(super) fn undecided(&self) -> BTreeSet<&FieldPath> {
        self.drifted.iter().map(|field| &field.path).chain(self.unseen.keys()).collect()
    }
}

/// What people have said about the fields of this object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdicts<'a> {
    pub mode: DriftMode,
    pub open: &'a [ProposedField],
    pub lifted: &'a [ProposedField],
    pub ignored: &'a [ProposedField],
    /// What is undone of fields that nobody managed before.
    pub unmanaged_before: &'a [Change],
}

impl<'a> Verdicts<'a> {
    /// What a field that git does not set goes back to, where it is undone.
    fn before(self, path: &FieldPath) -> Option<&'a Value> {
        self.unmanaged_before.iter().find(|change| change.path == *path)?.from.as_ref()
    }

    /// Whether a person was asked about a member that was gone, and git removes it since while it is there again: merged,
    /// that the question is answered says nothing of what came back, until it is asked about that.
    fn ask_whether_to_remove(self, field: &DriftedField) -> bool {
        let is_asked = |said: &ProposedField| said.path == field.path && said.base == field.base;
        let is_removal = field.git.is_none() && field.live.is_some();
        is_removal
            && [self.open, self.lifted, self.ignored].into_iter().flatten().any(|said| {
                is_asked(said) && (is_only_accepted(said, field) || (said.git == field.git && said.live == field.live))
            })
    }

    /// Fields that are to go back, and are just as a step left them of which nothing was recorded: it was half done.
    fn half_done(self, live: &Live) -> impl Iterator<Item = &'a FieldPath> {
        let stands = move |change: &&Change| live.fields.0.get(&change.path) == change.to.as_ref();
        self.unmanaged_before.iter().filter(stands).map(|change| &change.path)
    }
}

/// What is known of a field from before.
#[derive(Clone, Copy)]
enum Base<'a> {
    /// The inventory has it.
    Known { applied: Option<&'a Value>, readback: Option<&'a Value> },
    /// Only the mark has it.
    Hashed(&'a FieldHash),
    /// Nobody has it.
    Lost,
}

impl<'a> Base<'a> {
    /// The value, where more than a hash is known.
    fn value(self) -> Option<&'a Value> {
        match self {
            Base::Known { readback, .. } => readback,
            Base::Hashed(_) | Base::Lost => None,
        }
    }
}

/// Where a field stands.
enum Standing {
    /// Live is what git wants, or what the server made of it.
    Settled,
    /// Only live changed, and the resource says not to look.
    DriftIgnored,
    /// Only git changed.
    GitChanged,
    /// Only live changed.
    LiveChanged,
    /// Both changed, and differ.
    BothChanged,
    /// They differ, and nobody knows who changed.
    NoBase,
}

/// Compares what git wants with what is live, on the base of the record or, when that is lost, of the mark.
pub(super) fn compare(
    resource: &Resource,
    live: &Live,
    record: Option<&Record>,
    mark: &Mark,
    verdicts: Verdicts<'_>,
) -> Comparison {
    let info = resource.key.kind.info();
    let mut comparison = Comparison::default();
    let half_done: BTreeSet<&FieldPath> = verdicts.half_done(live).collect();
    let mut paths = paths_in_question(resource, record, mark);
    paths.extend(half_done.iter().copied().cloned());
    for path in paths {
        let git = resource.fields.0.get(&path);
        let base = base_of(&path, record, mark);
        if let Some(unknown) = live.unknown_at(&path) {
            if git.is_none() && matches!(unknown.reason, Reason::NotOwned | Reason::OwnedByOther) {
                // Neither Plumb's nor git's concern: it is let go of, and stays where it is.
                continue;
            }
            comparison.held.insert(path.clone());
            // A field that was left out of a shallow look is nobody's concern, unless git wants it changed.
            if unknown.reason != Reason::NotObserved || !settled_in_git(git, &base) {
                comparison.unseen.insert(path, unknown.clone());
            }
            continue;
        }
        let target = git.cloned().or_else(|| verdicts.before(&path).cloned()).or_else(|| info.default_of(&path));
        let now = live.fields.0.get(&path);
        let is_half_done = git.is_none() && target.as_ref() != now && half_done.contains(&path);
        let standing = match is_half_done {
            true => Standing::GitChanged,
            false => standing_of(git, target.as_ref(), now, &base, resource.annotations.ignores(&path)),
        };
        let change = || Change { path: path.clone(), from: now.cloned(), to: target.clone() };
        let drifted = |conflict| DriftedField {
            path: path.clone(),
            base: base.value().cloned(),
            git: git.cloned(),
            live: now.cloned(),
            conflict,
        };
        let conflict = match standing {
            Standing::Settled => continue,
            Standing::DriftIgnored => {
                comparison.held.insert(path);
                continue;
            }
            Standing::GitChanged if is_half_done || !verdicts.ask_whether_to_remove(&drifted(true)) => {
                comparison.changes.push(change());
                continue;
            }
            // What was accepted as gone is there again: nobody has said that it is to go.
            Standing::GitChanged => true,
            Standing::LiveChanged => false,
            Standing::BothChanged | Standing::NoBase => true,
        };
        match verdict_on(&drifted(conflict), &standing, verdicts) {
            Verdict::Apply => comparison.changes.push(change()),
            Verdict::Answer => {
                comparison.changes.push(change());
                comparison.answered.insert(path);
            }
            Verdict::Revert => {
                comparison.reverted.push(drifted(conflict));
                comparison.changes.push(change());
            }
            Verdict::Silence => {
                comparison.silenced.push(drifted(conflict));
                comparison.held.insert(path);
            }
            Verdict::Hold => {
                comparison.drifted.push(drifted(conflict));
                comparison.held.insert(path);
            }
        }
    }
    comparison
}

/// What git sets, and what it set before.
fn paths_in_question(resource: &Resource, record: Option<&Record>, mark: &Mark) -> BTreeSet<FieldPath> {
    let mut paths: BTreeSet<FieldPath> = resource.fields.0.keys().cloned().collect();
    match record {
        Some(record) => {
            paths.extend(record.applied.0.keys().cloned());
            paths.extend(record.unsettled.keys().cloned());
        }
        None => paths.extend(mark.hashes.keys().filter(|path| path.is_within("/spec")).cloned()),
    }
    paths
}

fn base_of<'a>(path: &FieldPath, record: Option<&'a Record>, mark: &'a Mark) -> Base<'a> {
    let hashed = |hash: Option<&'a FieldHash>| hash.map_or(Base::Lost, Base::Hashed);
    match record {
        Some(record) => match record.unsettled.get(path) {
            Some(hash) => hashed(hash.as_ref()),
            None => Base::Known { applied: record.applied.0.get(path), readback: record.readback.0.get(path) },
        },
        None => hashed(mark.hashes.get(path)),
    }
}

/// Whether git says of a field what it said when it was applied last.
pub(super) fn is_settled_in_git(path: &FieldPath, resource: &Resource, record: Option<&Record>, mark: &Mark) -> bool {
    settled_in_git(resource.fields.0.get(path), &base_of(path, record, mark))
}

fn settled_in_git(git: Option<&Value>, base: &Base<'_>) -> bool {
    match base {
        Base::Known { applied, .. } => git == *applied,
        Base::Hashed(hash) => git.is_some_and(|value| FieldHash::of(value) == **hash),
        Base::Lost => false,
    }
}

fn standing_of(
    git: Option<&Value>,
    target: Option<&Value>,
    live: Option<&Value>,
    base: &Base<'_>,
    drift_ignored: bool,
) -> Standing {
    if target == live {
        return Standing::Settled;
    }
    let git_changed = !settled_in_git(git, base);
    let live_changed = match base {
        // A field git sets for the first time has no live value to be true to: it was not managed.
        Base::Known { applied: None, .. } => false,
        Base::Known { readback, .. } => live != *readback,
        Base::Hashed(hash) => live.is_none_or(|value| FieldHash::of(value) != **hash),
        // A member that is not there and was never there cannot be overwritten.
        Base::Lost if live.is_none() => false,
        Base::Lost => return Standing::NoBase,
    };
    match (git_changed, live_changed) {
        (false, false) => Standing::Settled,
        (false, true) if drift_ignored => Standing::DriftIgnored,
        (true, true) if drift_ignored => Standing::GitChanged,
        (true, false) => Standing::GitChanged,
        (false, true) => Standing::LiveChanged,
        (true, true) => Standing::BothChanged,
    }
}

/// Whether git says by now just what was offered, and something else is live since: merging accepts the value that was
/// shown, which is no word about one that nobody was shown.
fn is_only_accepted(said: &ProposedField, field: &DriftedField) -> bool {
    said.git != field.git && said.live == field.git && said.live != field.live
}

enum Verdict {
    Apply,
    /// The same, since a person who was asked wants what git says.
    Answer,
    Revert,
    Silence,
    Hold,
}

/// What people, or the resource, say of a field that differs.
///
/// What a person said holds for the base they said it on: once the field was applied anew, an old word says nothing.
fn verdict_on(field: &DriftedField, standing: &Standing, verdicts: Verdicts<'_>) -> Verdict {
    let said = |fields: &[ProposedField], meets: &dyn Fn(&ProposedField) -> bool| {
        fields.iter().any(|said| said.path == field.path && meets(said))
    };
    let live_stayed = |said: &ProposedField| said.live == field.live;
    let git_moved = |said: &ProposedField| said.git != field.git && said.base == field.base;
    // Git set the field after the proposal opened: git decides, unless it only took what is not live any more.
    let git_decides = |said: &ProposedField| git_moved(said) && !is_only_accepted(said, field);
    if said(verdicts.open, &git_decides) || said(verdicts.lifted, &git_decides) {
        return Verdict::Apply;
    }
    // The person decided on the value that is live still.
    if said(verdicts.lifted, &|said| live_stayed(said) && said.base == field.base) {
        return Verdict::Answer;
    }
    if said(verdicts.ignored, &|said| live_stayed(said) && git_moved(said)) {
        return Verdict::Apply;
    }
    if said(verdicts.ignored, &|said| live_stayed(said) && said.git == field.git) {
        return Verdict::Silence;
    }
    match (verdicts.mode, standing) {
        // Without a base nothing is ever applied unasked (R4).
        (DriftMode::Revert, Standing::LiveChanged | Standing::BothChanged) => Verdict::Revert,
        (DriftMode::Revert | DriftMode::Propose | DriftMode::Observe, _) => Verdict::Hold,
    }
}

/// The changes that make a new object, or an adopted one, what git wants. Fields in `unseen` are left alone (R5).
pub(super) fn all_changes(wanted: &Fields, live: Option<&Live>, unseen: &BTreeMap<FieldPath, Unknown>) -> Vec<Change> {
    wanted
        .iter()
        .filter(|(path, _)| !unseen.contains_key(*path))
        .map(|(path, to)| Change {
            path: path.clone(),
            from: live.and_then(|live| live.fields.0.get(path)).cloned(),
            to: Some(to.clone()),
        })
        .filter(|change| change.from != change.to)
        .collect()
}

/// Fields that git sets and nobody can see, or that belong to somebody else.
pub(super) fn unseen(wanted: &Fields, live: &Live) -> BTreeMap<FieldPath, Unknown> {
    wanted.iter().filter_map(|(path, _)| live.unknown_at(path).map(|unknown| (path.clone(), unknown.clone()))).collect()
}

/// What the changes lose, one sentence each (R6).
pub(super) fn losses(info: &KindInfo, changes: &[Change]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    changes
        .iter()
        .filter(|change| change.to.is_none() && change.from.is_some() && info.is_destructive(&change.path))
        .filter_map(|change| {
            let segments = change.path.segments();
            let (list, member) = (segments.get(1)?.clone(), segments.get(2)?.clone());
            seen.insert((list.clone(), member.clone())).then(|| format!("drops {} {member}", singular(&list)))
        })
        .collect()
}

fn singular(list: &str) -> &str {
    list.strip_suffix('s').unwrap_or(list)
}
