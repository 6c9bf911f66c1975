//! What is under way when the process is killed, and what has to come of it.

use std::collections::BTreeMap;

use gix::objs::Write as _;
use plumb::model::{ApprovalKind, ExecutionOutcome, Kind, SystemClock};
use plumb::store::Mode;

use super::whole::Rest;
use super::{TENANT, World, key, run_here, run_sql, with_store};

pub const FILES: &str = "apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {name: files}\nspec: {type: sqlite, url: \
                         \"sqlite:databases\", serves: [{kind: Database}]}\n";
pub const DELETE: &str = "plumb.dev/deletion: delete";
pub const TOGETHER: &str = "plumb.dev/deletion: delete, plumb.dev/on-failure: rollback";

/// One act of the scenario: what was committed or done before the look that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Three databases are made, one after another.
    Create,
    /// The same of a repository with something so large in it that git brings all of it as one pack.
    Clone,
    /// One is changed, one made anew since its page size changes, one removed.
    Change,
    /// Two are changed, and while nobody looks other commits take one of the changes back and want more of the other.
    Overtake,
    /// One is changed, where so much has come to the mirror that git makes one pack of it.
    Pack,
    /// All are removed, which is held.
    Hold,
    /// All are removed, and that is approved.
    Remove,
    /// Two are changed, and the second fails for good.
    Fail,
    /// After that something else is committed, which works.
    Recover,
    /// One was changed by hand: people are asked.
    Ask,
    /// They said yes.
    Accept,
    /// They said no.
    Refuse,
    /// Three are changed together, the third fails for good, and the first two are undone.
    Undo,
    /// After that something else is committed, which works.
    Mend,
    /// After that somebody has it tried again, and it works.
    Retry,
}

pub const ACTS: [Act; 15] = [
    Act::Create,
    Act::Clone,
    Act::Change,
    Act::Overtake,
    Act::Pack,
    Act::Hold,
    Act::Remove,
    Act::Fail,
    Act::Recover,
    Act::Ask,
    Act::Accept,
    Act::Refuse,
    Act::Undo,
    Act::Mend,
    Act::Retry,
];
const BRANCH: &str = "plumb/drift/staging/database-a";

/// How large a file is that is not copied from a repository on this machine as others are.
const LARGE: usize = 4 * 1024 * 1024 + 1;

impl Act {
    /// The world as it is before the look.
    pub fn prepare(self, world: &mut World) {
        match self {
            Act::Create => {
                world.write(Kind::Database, "a", DELETE, "userVersion: 1");
                world.write(Kind::Database, "b", DELETE, "userVersion: 1, dependsOn: [Database/a]");
                world.write(Kind::Database, "c", DELETE, "userVersion: 1, journalMode: wal");
                world.commit("Add them");
            }
            Act::Clone => {
                world.files.insert("drawing.svg".to_owned(), "x".repeat(LARGE));
                Act::Create.prepare(world);
            }
            Act::Change => {
                Act::Create.come_to_rest(world);
                world.write(Kind::Database, "a", DELETE, "userVersion: 2");
                world.write(Kind::Database, "b", DELETE, "userVersion: 1, pageSize: 8192");
                world.remove("c");
                world.commit("Change them");
            }
            Act::Pack => {
                Act::Create.come_to_rest(world);
                fill_mirrors(world);
                world.write(Kind::Database, "a", DELETE, "userVersion: 2");
                world.commit("Change one");
            }
            Act::Hold => {
                Act::Create.come_to_rest(world);
                remove_all(world);
                world.commit("Remove them");
            }
            Act::Overtake => {
                Act::Create.come_to_rest(world);
                change_two(world);
            }
            Act::Fail => {
                Act::Create.come_to_rest(world);
                change_two(world);
                world.refuse(&["c"]);
            }
            Act::Recover => {
                Act::Fail.come_to_rest(world);
                world.refuse(&[]);
                world.write(Kind::Database, "c", DELETE, "userVersion: 3, journalMode: wal");
                world.commit("Want what works");
            }
            Act::Remove => {
                Act::Create.come_to_rest(world);
                remove_all(world);
                world.write(Kind::Database, "d", DELETE, "userVersion: 9");
                world.commit("Another");
                world.look();
                world.remove("d");
                world.commit("Remove them");
                let told = world.look();
                assert_eq!(told.outcome, ExecutionOutcome::Blocked, "{told:?}");
                world.commit(&format!("Go on\n\n{}: {}", ApprovalKind::Deletes.trailer(), told.plan));
            }
            Act::Ask => {
                Act::Create.come_to_rest(world);
                run_sql(&world.databases().join("crash_staging_a.db"), "PRAGMA user_version = 7");
            }
            Act::Accept => {
                Act::Ask.prepare(world);
                world.look();
                let tip = world.tenant.tip(BRANCH).expect("people are asked");
                world.tenant.set_tip("main", Some(&tip));
            }
            Act::Refuse => {
                Act::Ask.prepare(world);
                world.look();
                world.tenant.set_tip(BRANCH, None);
            }
            Act::Undo => {
                want_together(world, 1);
                let told = world.look();
                assert_eq!(told.outcome, ExecutionOutcome::InSync, "{told:?}");
                want_together(world, 2);
                world.refuse(&["c"]);
            }
            Act::Mend => {
                Act::Undo.come_to_rest(world);
                world.refuse(&[]);
                want_together(world, 3);
            }
            Act::Retry => {
                Act::Undo.come_to_rest(world);
                world.refuse(&[]);
                let failed = key("c");
                let retried = run_here(with_store(&world.folder, Mode::Append, async |store| {
                    plumb::engine::retry(store, &SystemClock, TENANT, plumb::engine::Which::Resource(&failed), "ada")
                        .await
                        .unwrap()
                }));
                assert_eq!(retried.keys, [failed]);
            }
        }
    }

    /// What comes between the death and the next look.
    pub fn overtake(self, world: &mut World) {
        if self == Act::Overtake {
            world.write(Kind::Database, "a", DELETE, "userVersion: 1");
            world.write(Kind::Database, "c", DELETE, "userVersion: 3, journalMode: wal");
            world.commit("Take one back, want more of the other");
        }
    }

    fn come_to_rest(self, world: &mut World) {
        self.prepare(world);
        let told = world.look();
        assert_eq!(told.outcome, self.outcome(), "{told:?}");
    }

    /// Whether a point of it is visited: what another act comes by as well is not.
    pub fn visits(self, point: &str) -> bool {
        let is_own = || [" git.download", " git.hold", " git.pack"].iter().any(|call| point.contains(call));
        !matches!(self, Act::Clone | Act::Pack) || is_own()
    }

    /// The databases that are there in the end, with their version.
    pub fn wanted(self) -> BTreeMap<&'static str, i64> {
        match self {
            Act::Create | Act::Clone => [("a", 1), ("b", 1), ("c", 1)].into(),
            Act::Change => [("a", 2), ("b", 1)].into(),
            Act::Pack => [("a", 2), ("b", 1), ("c", 1)].into(),
            Act::Remove => [].into(),
            Act::Hold => Act::Create.wanted(),
            Act::Fail => [("a", 2), ("b", 1), ("c", 1)].into(),
            Act::Recover => [("a", 2), ("b", 1), ("c", 3)].into(),
            Act::Overtake => [("a", 1), ("b", 1), ("c", 3)].into(),
            Act::Ask | Act::Accept => [("a", 7), ("b", 1), ("c", 1)].into(),
            Act::Refuse | Act::Undo => [("a", 1), ("b", 1), ("c", 1)].into(),
            Act::Mend => [("a", 3), ("b", 3), ("c", 3)].into(),
            Act::Retry => [("a", 2), ("b", 2), ("c", 2)].into(),
        }
    }

    pub fn outcome(self) -> ExecutionOutcome {
        match self.rest() {
            Rest::Asked | Rest::Held | Rest::Undone { .. } => ExecutionOutcome::Blocked,
            Rest::Failed { .. } => ExecutionOutcome::Failed,
            Rest::Ready => ExecutionOutcome::InSync,
        }
    }

    pub fn rest(self) -> Rest {
        match self {
            Act::Ask => Rest::Asked,
            Act::Hold => Rest::Held,
            Act::Fail => Rest::Failed { failed: key("c") },
            Act::Undo => Rest::Undone { failed: key("c") },
            Act::Create
            | Act::Clone
            | Act::Change
            | Act::Overtake
            | Act::Pack
            | Act::Remove
            | Act::Recover
            | Act::Accept
            | Act::Refuse
            | Act::Mend
            | Act::Retry => Rest::Ready,
        }
    }

    /// The branches that are there in the end, beside `main`.
    pub fn branches(self) -> Vec<String> {
        match self.rest() {
            Rest::Asked => vec![BRANCH.to_owned()],
            Rest::Ready | Rest::Held | Rest::Failed { .. } | Rest::Undone { .. } => Vec::new(),
        }
    }
}

/// Leaves so many loose objects in the mirrors that the next fetch has them packed: they are counted in one folder, as git
/// counts them.
fn fill_mirrors(world: &World) {
    const COUNTED: u8 = 0x17;
    const MANY: usize = 28;
    let blob = gix::objs::Kind::Blob;
    let is_counted = |text: &String| {
        let id = gix::objs::compute_hash(gix::hash::Kind::Sha1, blob, text.as_bytes()).unwrap();
        id.first_byte() == COUNTED
    };
    let texts: Vec<String> = (0..).map(|number: u32| number.to_string()).filter(is_counted).take(MANY).collect();
    for entry in std::fs::read_dir(world.folder.join("data/mirrors")).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            let options = gix::open::Options::isolated().with(gix::sec::Trust::Full);
            let mirror = gix::open_opts(entry.path(), options).unwrap();
            for text in &texts {
                mirror.objects.write_buf(blob, text.as_bytes()).unwrap();
            }
        }
    }
}

fn change_two(world: &mut World) {
    world.write(Kind::Database, "a", DELETE, "userVersion: 2");
    world.write(Kind::Database, "c", DELETE, "userVersion: 2, journalMode: wal");
    world.commit("Change two");
}

/// Removes what [`Act::Create`] makes; the caller commits.
fn remove_all(world: &mut World) {
    for name in ["a", "b", "c"] {
        world.remove(name);
    }
}

/// Three databases in a row that go together.
fn want_together(world: &mut World, version: u32) {
    world.write(Kind::Database, "a", TOGETHER, &format!("userVersion: {version}"));
    world.write(Kind::Database, "b", TOGETHER, &format!("userVersion: {version}, dependsOn: [Database/a]"));
    world.write(Kind::Database, "c", TOGETHER, &format!("userVersion: {version}, dependsOn: [Database/b]"));
    world.commit(&format!("Want version {version}"));
}
