//! Repositories over https with a certificate of a private authority: used when it is trusted, refused when it is not.

use std::path::Path;
use std::process::Output;

use plumb::model::Reason;
use plumb::source::{Mirror, Remote, SourceError};
use tempfile::TempDir;

use crate::harness::git::{GitHttpServer, GitRepo, PrivateCa};
use crate::harness::world::World;

const BRANCH: &str = "plumb/drift/staging/database-orders";

/// Serves the repository over https.
fn serve(repo: &GitRepo, ca: &PrivateCa) -> GitHttpServer {
    repo.remote_git(&["config", "http.receivepack", "true"]);
    GitHttpServer::start_https(repo.remote().parent().unwrap(), ca, None)
}

/// `plumb apply`, trusting the machine's own authorities or only the one in `trusted`.
fn apply(world: &World, trusted: Option<&Path>) -> Output {
    let mut command = world.plumb(&["apply"]);
    command.envs(trusted.map(|file| ("SSL_CERT_FILE", file)));
    command.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_that_is_trusted_is_read_from_and_pushed_to() {
    let mut world = World::with_files().await;
    world.stop();
    let ca = PrivateCa::new();
    let server = serve(&world.tenant, &ca);
    let url = server.url("remote.git");
    world.write_tenant_spec(&format!(
        "repository: {{url: \"{url}\"}}\nenvironments: [staging, production]\nproviders: [files]"
    ));
    world.platform.commit("Read over https");
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");

    let refused = apply(&world, None);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("the certificate of {url} is not trusted: ")), "{said}");
    assert!(said.contains("SSL_CERT_FILE"), "the way out: {said}");
    assert!(!world.file("staging", "orders").exists());

    let trusted = apply(&world, Some(&ca.certificate()));
    assert!(trusted.status.success(), "{}", String::from_utf8_lossy(&trusted.stderr));
    assert_eq!(world.number("staging", "orders", "PRAGMA user_version").await, 7);

    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    let drifted = apply(&world, Some(&ca.certificate()));
    assert!(world.tenant.branches().contains(&BRANCH.to_owned()), "{}", String::from_utf8_lossy(&drifted.stderr));
}

#[test]
fn a_certificate_of_nobody_that_is_trusted_is_refused_for_reading_and_for_pushing() {
    let (repo, ca) = (GitRepo::new(), PrivateCa::new());
    repo.commit("First");
    let server = serve(&repo, &ca);
    let folder = TempDir::new().unwrap();
    let mirror = Mirror::open(folder.path(), Remote::new(server.url("remote.git"))).unwrap();
    for error in [mirror.fetch("main").unwrap_err(), mirror.push("plumb/drift/x", None, None).unwrap_err()] {
        assert!(matches!(error, SourceError::Untrusted { .. }), "{error:?}");
        assert_eq!(error.reason(), Reason::SourceUnavailable);
        assert!(!error.may_pass(), "asking again changes nothing: {error}");
    }
}
