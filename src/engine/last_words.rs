//! What the commits since the last look said of documents that are gone by the last of them (R7).
//!
//! Only one tree is looked at, that of the head. Whoever first says to keep an object and then removes its document, and
//! pushes both at once, has said it all the same.

use std::collections::BTreeMap;

use crate::model::{Deletion, DesiredState, Inventory, Record, ResourceKey};
use crate::store::Scope;

use super::decide::is_removed;
use super::desired::{Owner, Workspace};
use super::memory::Memory;
use super::reconcile::{News, Source, Subject};
use super::timeline::Timeline;
use super::{Engine, EngineError, beside};

/// A head, and the commits that led to it.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    pub subject: Subject<'a>,
    pub owner: Owner<'a>,
    pub source: &'a Source,
    pub news: &'a News,
    pub desired: &'a DesiredState,
}

impl Engine {
    /// Has the records of documents that are gone say what was said of them last, where that keeps their objects safer,
    /// and remembers it: the next look reads these commits no more.
    pub(super) async fn hear_last_words(
        &self,
        words: Words<'_>,
        memory: &mut Memory,
        timeline: &Timeline<'_>,
    ) -> Result<(), EngineError> {
        let safer = self.last_words(words, &memory.inventory).await?;
        if safer.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.begin(Scope::Leased(timeline.lease().clone())).await?;
        tx.put_records(&safer).await?;
        tx.commit().await?;
        memory.know_records(safer);
        Ok(())
    }

    /// The records that say less than was said. What may be deleted is removed seldom, and mostly by one commit, so that
    /// whole trees can be read for it.
    pub(super) async fn last_words(&self, words: Words<'_>, prior: &Inventory) -> Result<Vec<Record>, EngineError> {
        let Words { subject, owner, source, news, desired } = words;
        let earlier: Vec<_> = news.commits.iter().filter(|commit| commit.id != source.head).collect();
        if earlier.is_empty() {
            return Ok(Vec::new());
        }
        let may_go = |record: &&Record| {
            let Record { key, annotations, .. } = record;
            annotations.deletion_of(key.kind) == Deletion::Delete && is_removed(key, subject.spec, desired)
        };
        let gone = prior.unwanted(desired).filter(may_go);
        let mut gone: BTreeMap<&ResourceKey, &Record> = gone.map(|record| (&record.key, record)).collect();
        let (mut safer, mut workspace) = (Vec::new(), Workspace::default());
        // The newest first: what counts is how a document stood when it went.
        for commit in earlier {
            if gone.is_empty() {
                break;
            }
            let loaded = self.load_commit(subject, &source.mirror, &commit.id, &mut workspace).await?;
            let said = beside(|| workspace.read(owner, loaded)).desired;
            gone.retain(|key, record| {
                let Some(newer) = said.said_of(key) else { return true };
                let annotations = record.annotations.kept_safer_by(newer, key.kind);
                if annotations != record.annotations {
                    safer.push(Record { annotations, updated_at: self.clock.now(), ..(*record).clone() });
                }
                false
            });
        }
        Ok(safer)
    }
}
