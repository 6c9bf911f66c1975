//! What the commits since the last look said of documents that are gone by the last of them (R7).
//!
//! Only one tree is looked at, that of the head. Whoever first says to keep an object and then removes its document, and
//! pushes both at once, has said it all the same.

use std::collections::{BTreeMap, HashMap};

use crate::model::{Annotations, Deletion, DesiredState, EventKind, Inventory, ObjectHex, Reason, Record, ResourceKey};
use crate::source::{CommitInfo, MAX_COMMITS, Mirror, SourceError};
use crate::store::Scope;

use super::desired::{Owner, said_by};
use super::memory::Memory;
use super::reconcile::{News, Source, Subject, unreadable};
use super::timeline::Timeline;
use super::{Engine, EngineError, beside};

/// No more commits that write manifests are read for what they say; of more than these nobody waits for the end.
const MOST_HEARD: usize = 1_000;

/// A head, and the commits that led to it.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    pub subject: Subject<'a>,
    pub owner: Owner<'a>,
    pub source: &'a Source,
    pub news: &'a News,
    pub desired: &'a DesiredState,
}

/// What was said of documents that are gone.
#[derive(Default)]
pub(super) struct LastWords {
    /// The records that say less than that.
    pub safer: Vec<Record>,
    /// There were too many commits to read them all, so that any of them may have said to keep what is gone.
    too_many: bool,
}

/// What commits say of keys. None of the commits of a key lies behind another one of it: what a later one says counts, and
/// branches that did not hear each other both count.
type Said<'a> = BTreeMap<ResourceKey, Vec<(&'a ObjectHex, Annotations)>>;

impl Engine {
    /// Has the records of documents that are gone say what was said of them last, where that keeps their objects safer,
    /// and remembers it: the next look reads these commits no more.
    pub(super) async fn hear_last_words(
        &self,
        words: Words<'_>,
        memory: &mut Memory,
        timeline: &mut Timeline<'_>,
    ) -> Result<(), EngineError> {
        let LastWords { safer, too_many } = self.last_words(words, &memory.inventory)?;
        if safer.is_empty() {
            return Ok(());
        }
        if too_many {
            for record in &safer {
                let message = "so many commits came at once that not all were read for what they said of it; it is protected \
                               from now on, since any of them may have said so";
                let (reason, message) = (Reason::DeletionProtected, message.to_owned());
                timeline.note_of(&record.key, EventKind::Warning { reason, message });
            }
        }
        let mut tx = self.store.begin(Scope::Leased(timeline.lease().clone())).await?;
        tx.put_records(&safer).await?;
        tx.commit().await?;
        memory.know_records(safer);
        Ok(())
    }

    /// What was said of documents that are gone, whatever else is to be known of the head before one of them may be
    /// pruned: these commits are not read again.
    pub(super) fn last_words(&self, words: Words<'_>, prior: &Inventory) -> Result<LastWords, EngineError> {
        let Words { subject, source, news, desired, .. } = words;
        let earlier: Vec<&CommitInfo> = news.commits.iter().filter(|commit| commit.id != source.head).collect();
        if earlier.is_empty() {
            return Ok(LastWords::default());
        }
        let may_go = |record: &&Record| record.annotations.allow_deletion(record.key.kind);
        let gone: BTreeMap<&ResourceKey, &Record> =
            prior.unwanted(desired).filter(may_go).map(|record| (&record.key, record)).collect();
        if gone.is_empty() {
            return Ok(LastWords::default());
        }
        let heard = beside(|| self.hear(words, &earlier, &|key| gone.contains_key(key)))
            .map_err(|error| unreadable(subject.tenant, error))?;
        let safest = |record: &Record| match &heard {
            Some(said) => said
                .get(&record.key)
                .into_iter()
                .flatten()
                .fold(record.annotations.clone(), |safest, (_, annotations)| {
                    safest.kept_safer_by(annotations, record.key.kind)
                }),
            None => Annotations { deletion: Some(Deletion::Protect), ..record.annotations.clone() },
        };
        let safer = gone.into_values().filter_map(|record| {
            let annotations = safest(record);
            let is_safer = annotations != record.annotations;
            is_safer.then(|| Record { annotations, updated_at: self.clock.now(), ..record.clone() })
        });
        Ok(LastWords { safer: safer.collect(), too_many: heard.is_none() })
    }

    /// What these commits say of keys that are gone; `None` where they are too many to know.
    fn hear<'a>(
        &self,
        words: Words<'_>,
        commits: &[&'a CommitInfo],
        is_gone: &dyn Fn(&ResourceKey) -> bool,
    ) -> Result<Option<Said<'a>>, SourceError> {
        let Words { owner, source, news, .. } = words;
        if news.commits.len() >= MAX_COMMITS {
            return Ok(None);
        }
        let (mut said, mut heard) = (Said::new(), 0);
        let mut lineage = Lineage { mirror: &source.mirror, known: HashMap::new() };
        for CommitInfo { id, .. } in commits {
            let by_it = said_by(&self.validator, owner, &source.mirror, id)?;
            heard += usize::from(by_it.is_some());
            if heard > MOST_HEARD {
                return Ok(None);
            }
            for (key, annotations) in by_it.into_iter().flatten().filter(|(key, _)| is_gone(key)) {
                add(said.entry(key).or_default(), id, annotations, &mut lineage)?;
            }
        }
        Ok(Some(said))
    }
}

/// Which commits lie behind which. The same is asked for every key of a commit, and takes a walk.
struct Lineage<'m, 'a> {
    mirror: &'m Mirror,
    known: HashMap<(&'a ObjectHex, &'a ObjectHex), bool>,
}

impl<'a> Lineage<'_, 'a> {
    fn contains(&mut self, ancestor: &'a ObjectHex, head: &'a ObjectHex) -> Result<bool, SourceError> {
        if let Some(known) = self.known.get(&(ancestor, head)) {
            return Ok(*known);
        }
        let contains = self.mirror.contains(ancestor, head)?;
        self.known.insert((ancestor, head), contains);
        Ok(contains)
    }
}

/// Adds what a commit says, unless a later one says something, and in place of what earlier ones say.
fn add<'a>(
    said: &mut Vec<(&'a ObjectHex, Annotations)>,
    commit: &'a ObjectHex,
    annotations: Annotations,
    lineage: &mut Lineage<'_, 'a>,
) -> Result<(), SourceError> {
    for (later, _) in said.iter() {
        if lineage.contains(commit, later)? {
            return Ok(());
        }
    }
    for (earlier, annotations) in std::mem::take(said) {
        if !lineage.contains(earlier, commit)? {
            said.push((earlier, annotations));
        }
    }
    said.push((commit, annotations));
    Ok(())
}
