//! Open conversations about drift, and how a person answers them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::facts::{Facts, scope_of};
use super::tenant::HeldPlanView;
use super::{age_seconds, public_url};
use crate::model::{Clock, LeftOut, ObjectHex, Proposal, ProposalKind, ProposalStatus, ProposedField, ResourceKey};
use crate::store::{Store, StoreError};

/// The branch of a repository whose tenant is no longer known.
const FALLBACK_BRANCH: &str = "main";

/// A proposal and how to decide it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProposalView {
    pub key: ResourceKey,
    pub kind: ProposalKind,
    pub status: ProposalStatus,
    /// Whether it still waits for a person.
    pub undecided: bool,
    pub branch: String,
    /// The branch that it is to be merged into.
    pub target: String,
    /// The remote, without user or password.
    pub url: String,
    pub base: ObjectHex,
    pub pushed: Option<ObjectHex>,
    pub fields: Vec<ProposedField>,
    /// What differs beside them, and stays as it is.
    pub left_out: Vec<LeftOut>,
    pub message: String,
    pub diff: String,
    pub opened_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// Since it was opened.
    pub age_seconds: u64,
    /// In a clone of the repository; empty while there is no branch or nothing to decide.
    pub accept: Commands,
    pub decline: Commands,
    /// Plans that an approval would let pass (R8).
    pub approvals: Vec<HeldPlanView>,
}

/// What an answer means, and the commands that give it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commands {
    pub meaning: String,
    pub lines: Vec<String>,
}

/// The newest proposal of each key, undecided ones first, then by key.
///
/// # Errors
/// When the store does not answer.
pub async fn proposals(
    store: &dyn Store,
    tenant: Option<&str>,
    clock: &dyn Clock,
) -> Result<Vec<ProposalView>, StoreError> {
    let facts = Facts::load(store, scope_of(tenant)).await?;
    let now = clock.now();
    let mut views: Vec<ProposalView> = facts.proposals.values().map(|proposal| view(&facts, proposal, now)).collect();
    views.sort_by_key(|view| !view.undecided);
    Ok(views)
}

pub(super) fn view(facts: &Facts, proposal: &Proposal, now: DateTime<Utc>) -> ProposalView {
    let Proposal {
        key,
        kind,
        branch,
        url,
        base,
        pushed,
        pushing: _,
        blob: _,
        file: _,
        fields,
        left_out,
        silenced: _,
        status,
        elsewhere: _,
        vanished_at: _,
        failed: _,
        message,
        diff,
        opened_at,
        updated_at,
    } = proposal;
    let target = facts.tenants.get(&key.tenant).map_or(FALLBACK_BRANCH, |tenant| tenant.branch.as_str());
    let decidable = status.is_undecided() && pushed.is_some();
    let (accept, decline) = if decidable {
        (
            Commands {
                meaning: match kind {
                    ProposalKind::Drift => "Merge the branch: git takes over the live value.".to_owned(),
                    ProposalKind::Missing => {
                        "Merge the branch: the document goes, and Plumb forgets the object that is gone.".to_owned()
                    }
                },
                lines: vec![
                    "git fetch origin".to_owned(),
                    format!("git switch {}", quoted(target)),
                    "git pull --ff-only".to_owned(),
                    format!("git merge {}", quoted(&format!("origin/{branch}"))),
                    format!("git push origin {}", quoted(target)),
                ],
            },
            Commands {
                meaning: match kind {
                    ProposalKind::Drift => {
                        "Delete the branch: git's value goes back to the live system (or, where the tenant says \
                         onClose: ignore, the difference is left alone)."
                            .to_owned()
                    }
                    ProposalKind::Missing => {
                        "Delete the branch: the document stays. The object is made again, empty, only by approval."
                            .to_owned()
                    }
                },
                lines: vec![format!("git push origin --delete {}", quoted(branch))],
            },
        )
    } else {
        (Commands::default(), Commands::default())
    };
    ProposalView {
        key: key.clone(),
        kind: *kind,
        status: *status,
        undecided: status.is_undecided(),
        branch: branch.clone(),
        target: target.to_owned(),
        url: public_url(url),
        base: base.clone(),
        pushed: pushed.clone(),
        fields: fields.clone(),
        left_out: left_out.clone(),
        message: message.clone(),
        diff: diff.clone(),
        opened_at: *opened_at,
        updated_at: *updated_at,
        age_seconds: age_seconds(now, *opened_at),
        accept,
        decline,
        approvals: facts.held_for(key).map(HeldPlanView::new).collect(),
    }
}

/// `word` as one word of a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_name_cannot_become_a_command() {
        assert_eq!(quoted("plumb/drift/staging/database-orders"), "plumb/drift/staging/database-orders");
        assert_eq!(quoted("a;rm -rf $HOME"), "'a;rm -rf $HOME'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
