//! Repositories over ssh, on a real server: read, followed and pushed to with the person's own key; and nobody is asked
//! anything where a key or a host is not the right one.

use std::path::Path;
use std::process::{Command, Output};

use plumb::model::Reason;
use plumb::source::{Mirror, Remote, SourceError};
use tempfile::TempDir;

use crate::harness::desk::Desk;
use crate::harness::git::{GitRepo, MergeHow};
use crate::harness::ssh::{Person, SshServer};
use crate::harness::world::World;

const BRANCH: &str = "plumb/drift/staging/database-orders";
const VERSION: &str = "PRAGMA user_version";

/// How a person says which key is hers: a variable, or a line of git's configuration.
const WAYS: [&str; 2] = ["GIT_SSH_COMMAND", "core.sshCommand"];

/// `plumb apply` of a platform that is read over ssh too, by the invited person.
fn apply(world: &World, server: &SshServer, way: &str) -> Output {
    let mut command = world.plumb(&["apply"]);
    command.env("PLUMB_PLATFORM", server.url(&world.platform.remote()));
    match way {
        "GIT_SSH_COMMAND" => command.env(way, server.command_of(Person::Invited)),
        _ => command.env("GIT_CONFIG_GLOBAL", server.config_of(Person::Invited)),
    };
    command.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_over_ssh_is_read_followed_and_pushed_to_with_the_persons_own_key() {
    let server = SshServer::start();
    for way in WAYS {
        let mut world = World::with_files().await;
        world.stop();
        let url = server.url(&world.tenant.remote());
        world.write_tenant_spec(&format!(
            "repository: {{url: \"{url}\"}}\nenvironments: [staging, production]\nproviders: [files]"
        ));
        world.platform.commit("Read over ssh");
        let in_sync = |what: &str| {
            let applied = apply(&world, &server, way);
            assert!(applied.status.success(), "{what} by {way}: {}", String::from_utf8_lossy(&applied.stderr));
        };
        for version in [7, 8] {
            world.write_database("staging", "orders", &format!("userVersion: {version}"));
            world.tenant.commit(&format!("Want {version}"));
            in_sync("a commit");
            assert_eq!(world.number("staging", "orders", VERSION).await, version);
        }

        world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
        let drifted = apply(&world, &server, way);
        assert_eq!(drifted.status.code(), Some(1), "{}", String::from_utf8_lossy(&drifted.stderr));
        assert!(world.tenant.show(&format!("{BRANCH}:environments/staging/orders.yaml")).contains("userVersion: 42"));
        world.tenant.merge(BRANCH, MergeHow::FastForward);
        in_sync("a merge");
        assert_eq!(world.tenant.branches(), ["main"], "a branch that is decided is deleted over ssh too");
    }
}

#[test]
fn nobody_is_asked_at_the_terminal_and_the_error_says_what_to_do() {
    let (server, desk) = (SshServer::start(), Desk::with_starter());
    let platform = server.url(&desk.platform.remote());
    for (person, told) in [
        (Person::Stranger, "check the `credentials` of the repository, or its ssh key"),
        (Person::Locked, "check the `credentials` of the repository, or its ssh key"),
        (Person::Newcomer, "add it to known_hosts"),
        (Person::Deceived, "add it to known_hosts"),
    ] {
        let ssh = server.command_of(person);
        let said = desk
            .on_a_terminal(&["plan"], &[("PLUMB_PLATFORM", &platform), ("GIT_SSH_COMMAND", &ssh), ("NO_COLOR", "1")]);
        // What asks shows its question before it waits.
        assert!(said.stdout.starts_with("error: the platform repository could not be read: "), "{person:?}: {said:?}");
        assert!(said.stdout.contains(&platform) && said.stdout.contains(told), "{person:?}: {said:?}");
        assert_eq!(said.code, 1, "{person:?}: {said:?}");
    }
}

#[test]
fn a_key_or_a_host_that_is_not_the_right_one_is_told_apart_for_reading_and_for_pushing() {
    let (server, repo) = (SshServer::start(), GitRepo::new());
    repo.commit("First");
    for (person, reason) in [
        (Person::Stranger, Reason::AuthenticationFailed),
        (Person::Newcomer, Reason::SourceUnavailable),
        (Person::Deceived, Reason::SourceUnavailable),
    ] {
        let folder = TempDir::new().unwrap();
        let mirror = Mirror::open(folder.path(), Remote::new(server.url(&repo.remote()))).unwrap();
        use_in(mirror.path(), &server.command_of(person));
        for error in [mirror.fetch("main").unwrap_err(), mirror.push("plumb/drift/x", None, None).unwrap_err()] {
            let is_about_the_host = matches!(error, SourceError::UnknownHost { .. });
            let is_about_the_key = matches!(error, SourceError::Unauthorized { .. });
            let (host, key) = (reason == Reason::SourceUnavailable, reason == Reason::AuthenticationFailed);
            assert_eq!((is_about_the_host, is_about_the_key), (host, key), "{person:?}: {error:?}");
            assert_eq!(error.reason(), reason, "{person:?}: {error:?}");
            assert!(!error.may_pass(), "asking again changes nothing: {error}");
        }
    }
}

/// Has git use this ssh in one repository only.
fn use_in(repository: &Path, ssh: &str) {
    let set = Command::new("git").arg("--git-dir").arg(repository).args(["config", "core.sshCommand", ssh]).status();
    assert!(set.unwrap().success());
}
