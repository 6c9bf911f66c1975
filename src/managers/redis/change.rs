//! The five steps, each one `ACL SETUSER` or `ACL DELUSER` under the lock on the user's name.

use std::collections::BTreeSet;

use redis::{Cmd, cmd};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use super::catalog::Catalog;
use super::rules;
use super::server::{LOCKS, Locked, Persistence, Server, is_reserved, random_id};
use super::user::{
    Applied, CATEGORIES, CATEGORY_LIST, DEFAULT_CATEGORIES, KEY_PREFIX, Marking, Proof, User, UserMark, categories_in,
    default_prefix,
};
use crate::managers::{Cx, ManagerError, Outcome};
use crate::model::{Action, Expect, Reason, Step};

/// The one role of a Cache, in [`crate::managers::Secrets`].
const ROLE: &str = "user";

/// As the schema has it.
const LONGEST_PREFIX: usize = 200;

/// Does `step`.
pub(super) async fn apply(server: &Server, step: &Step, cx: &Cx<'_>) -> Result<Outcome, ManagerError> {
    check_name(server, &step.object_name)?;
    let persistence = server.persistence().await?;
    server.establish(persistence).await?;
    let catalog = server.catalog().await?;
    let mut locked = server.lock(&step.object_name).await?;
    let job = Job { step, cx, persistence, catalog: &catalog };
    let done = job.run(&mut locked).await;
    locked.release().await;
    done
}

fn check_name(server: &Server, name: &str) -> Result<(), ManagerError> {
    if is_reserved(name, server.login()) {
        return Err(ManagerError::terminal(
            Reason::Rejected,
            format!("the redis user {name} is not one that plumb may manage"),
        ));
    }
    if is_one_word(name) {
        Ok(())
    } else {
        Err(ManagerError::terminal(Reason::Rejected, format!("{name:?} cannot be the name of a redis user")))
    }
}

/// Redis takes rules apart at spaces, and keeps no others apart from them.
fn is_one_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|character| character.is_ascii_graphic())
}

struct Job<'a> {
    step: &'a Step,
    cx: &'a Cx<'a>,
    persistence: Persistence,
    catalog: &'a Catalog,
}

/// What becomes of the passwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passwords {
    Keep,
    Set,
}

impl Job<'_> {
    async fn run(&self, locked: &mut Locked<'_>) -> Result<Outcome, ManagerError> {
        locked.watch().await?;
        let live = locked.user(&self.step.object_name).await?;
        self.check(live.as_ref())?;
        let mut outcome = Outcome::default();
        match (self.step.action, live) {
            (Action::Create, _) => {
                let rules = self.whole(self.desired_prefix()?, &self.desired_categories()?, random_id()?)?;
                self.set(locked, &["reset"], rules, Passwords::Set).await?;
            }
            (Action::Replace, Some(_)) => {
                let rules = self.whole(self.desired_prefix()?, &self.desired_categories()?, random_id()?)?;
                self.set(locked, &["reset"], rules, Passwords::Set).await?;
            }
            (Action::Adopt, Some(live)) => {
                let prefix = self.adopted_prefix(&live)?;
                let rules = self.whole(prefix, &self.desired_categories()?, random_id()?)?;
                self.note_taken(&live, &mut outcome);
                self.set(locked, &[], rules, self.passwords(&live)).await?;
            }
            (Action::Update, Some(live)) => {
                let (rules, passwords) = self.update(&live, &mut outcome)?;
                self.set(locked, &[], rules, passwords).await?;
            }
            (Action::Delete, Some(_)) => {
                let mut change = cmd("ACL");
                change.arg("DELUSER").arg(&self.step.object_name);
                locked.commit("delete a user", change, self.persistence).await?;
            }
            (Action::Update | Action::Replace | Action::Delete | Action::Adopt, None) => {
                return Err(self.unexpected("the user is gone"));
            }
        }
        Ok(outcome)
    }

    /// Only a change of the prefix puts back what was added by hand: it is where that shows, and what is held stays.
    fn update(&self, live: &User, outcome: &mut Outcome) -> Result<(Vec<String>, Passwords), ManagerError> {
        let id =
            live.mark().map(|mark| mark.id.clone()).ok_or_else(|| self.unexpected("the user has lost its mark"))?;
        let categories = self.updated_categories(live)?;
        let rotation = self.step.rotate.as_ref().map_or(Passwords::Keep, |_| Passwords::Set);
        match self.step.changes.iter().find(|change| change.path.as_str() == KEY_PREFIX) {
            Some(change) => {
                let prefix = match &change.to {
                    None => default_prefix(&self.step.object_name),
                    Some(value) => value.as_str().ok_or_else(|| self.unsupported(KEY_PREFIX))?.to_owned(),
                };
                self.note_taken(live, outcome);
                Ok((self.whole(prefix, &categories, id)?, self.passwords(live)))
            }
            None => Ok((rules::around(live, &categories, &self.mark(id), self.catalog), rotation)),
        }
    }

    /// A user that anybody can be, or nobody, gets its password; any other keeps what it has, unless it is rotated.
    fn passwords(&self, live: &User) -> Passwords {
        match (&self.step.rotate, live.proof) {
            (Some(_), _) | (None, Proof::Nopass | Proof::Passwords(0)) => Passwords::Set,
            (None, Proof::Passwords(_)) => Passwords::Keep,
        }
    }

    fn note_taken(&self, live: &User, outcome: &mut Outcome) {
        let deviations = live.deviations(self.catalog);
        if !deviations.is_empty() {
            outcome.notes.push(format!(
                "The user {} was {}, and is as its document says now.",
                self.step.object_name,
                deviations.join(" ")
            ));
        }
    }

    fn whole(&self, prefix: String, categories: &BTreeSet<String>, id: String) -> Result<Vec<String>, ManagerError> {
        self.check_prefix(&prefix)?;
        Ok(rules::whole(&prefix, categories, &self.mark(id), self.catalog))
    }

    async fn set(
        &self,
        locked: &mut Locked<'_>,
        first: &[&str],
        rules: Vec<String>,
        passwords: Passwords,
    ) -> Result<(), ManagerError> {
        let mut change: Cmd = cmd("ACL");
        change.arg("SETUSER").arg(&self.step.object_name).arg(first).arg(rules);
        if passwords == Passwords::Set {
            let password = self.cx.secrets.password(&self.step.key, ROLE, self.step.rotate.as_deref()).await?;
            let hash = hex::encode(Sha256::digest(password.expose_secret().as_bytes()));
            change.arg("resetpass").arg(format!("#{hash}"));
        }
        locked.commit("set a user", change, self.persistence).await
    }

    fn mark(&self, id: String) -> UserMark {
        UserMark { id, mark: self.step.mark.clone() }
    }

    fn desired_prefix(&self) -> Result<String, ManagerError> {
        match self.step.desired.get(KEY_PREFIX) {
            None => Ok(default_prefix(&self.step.object_name)),
            Some(value) => Ok(value.as_str().ok_or_else(|| self.unsupported(KEY_PREFIX))?.to_owned()),
        }
    }

    /// A prefix that git does not set is the computed one; taking a user's other keys away unasked would break it.
    fn adopted_prefix(&self, live: &User) -> Result<String, ManagerError> {
        let prefix = self.desired_prefix()?;
        if self.step.desired.get(KEY_PREFIX).is_some() || live.prefix().as_deref() == Some(prefix.as_str()) {
            return Ok(prefix);
        }
        Err(ManagerError::terminal(
            Reason::Rejected,
            format!(
                "the user {} has other keys ({}) than {prefix}*; set keyPrefix to say which it is to have",
                self.step.object_name,
                live.keys.join(" ")
            ),
        ))
    }

    fn desired_categories(&self) -> Result<BTreeSet<String>, ManagerError> {
        self.checked(categories_in(self.step.desired.iter().map(|(path, _)| path)))
    }

    /// What was given and is still there, with the changes. What was added by hand goes, and the defaults go when git
    /// begins to name categories.
    fn updated_categories(&self, live: &User) -> Result<BTreeSet<String>, ManagerError> {
        let mut categories = match live.applied_categories() {
            Applied::Named(named) => named.intersection(&live.explained_categories(self.catalog)).cloned().collect(),
            Applied::Default | Applied::Unrecorded => BTreeSet::new(),
        };
        for change in self.step.changes.iter().filter(|change| change.path.is_within(CATEGORY_LIST)) {
            for category in categories_in(std::iter::once(&change.path)) {
                match change.to {
                    Some(_) => categories.insert(category),
                    None => categories.remove(&category),
                };
            }
        }
        let named_by_git = self.step.desired.iter().any(|(path, _)| path.is_within(CATEGORY_LIST));
        if named_by_git && categories.is_empty() { Ok(categories) } else { self.checked(categories) }
    }

    fn checked(&self, categories: BTreeSet<String>) -> Result<BTreeSet<String>, ManagerError> {
        if categories.iter().any(|category| !CATEGORIES.contains(&category.as_str())) {
            return Err(self.unsupported(CATEGORY_LIST));
        }
        if categories.is_empty() {
            return Ok(DEFAULT_CATEGORIES.iter().map(|&category| category.to_owned()).collect());
        }
        Ok(categories)
    }

    fn check_prefix(&self, prefix: &str) -> Result<(), ManagerError> {
        let reaches_locks = LOCKS.starts_with(prefix) || prefix.starts_with(LOCKS);
        if is_one_word(prefix) && prefix.len() <= LONGEST_PREFIX && !reaches_locks {
            Ok(())
        } else {
            Err(self.unsupported(KEY_PREFIX))
        }
    }

    /// Whether this is the user the step was planned on (R1, R13).
    fn check(&self, live: Option<&User>) -> Result<(), ManagerError> {
        match (&self.step.expect, live) {
            (Expect::Absent, None) if self.step.action == Action::Create => return Ok(()),
            (Expect::Absent, Some(_)) => return Err(self.unexpected("the user is there already")),
            (Expect::Absent | Expect::Marked(_) | Expect::Unmarked(_), None) => {
                return Err(self.unexpected("the user is gone"));
            }
            (Expect::Marked(object), Some(live)) => {
                let Marking::Marked(UserMark { mark, .. }) = &live.marking else {
                    return Err(self.unexpected("the user has lost its mark"));
                };
                if mark.platform != *self.cx.platform || mark.key != self.step.key {
                    return Err(ManagerError::Conflict {
                        reason: Reason::OwnedByOther,
                        message: format!(
                            "the user {} bears the mark of {} of platform {}",
                            live.name, mark.key, mark.platform
                        ),
                    });
                }
                if live.object() != *object {
                    return Err(self.unexpected("another user has taken its place"));
                }
            }
            (Expect::Unmarked(object), Some(live)) => {
                if live.marking != Marking::None || live.object() != *object {
                    return Err(self.unexpected("the user has got a mark"));
                }
            }
        }
        if self.step.action == Action::Create {
            return Err(self.unexpected("a creation expects no user"));
        }
        let fields = live.map(|live| live.fields(self.catalog)).unwrap_or_default();
        match self.step.changes.iter().find(|change| fields.get(change.path.as_str()) != change.from.as_ref()) {
            None => Ok(()),
            Some(change) => Err(self.unexpected(&format!("{} has changed", change.path))),
        }
    }

    fn unexpected(&self, what: &str) -> ManagerError {
        ManagerError::conflict(format!("the redis user {} is not as planned: {what}", self.step.object_name))
    }

    fn unsupported(&self, path: &str) -> ManagerError {
        ManagerError::terminal(
            Reason::UnsupportedByProvider,
            format!(
                "redis cannot give the user {} this {path}: a prefix is up to {LONGEST_PREFIX} printable ASCII \
                 characters without spaces, outside {LOCKS}, and categories are those of the schema",
                self.step.object_name
            ),
        )
    }
}
