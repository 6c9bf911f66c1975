//! The platform repository behind a login: by the token, by git's credential helper, and by neither.

use std::process::Output;

use crate::harness::git::{GitHttpServer, PrivateCa};
use crate::harness::postgres::PostgresServer;
use crate::harness::world::World;

const TOKEN: &str = "platform-token-3c4d";

/// A world whose platform is served over https to whoever has the token.
struct Closed {
    world: World,
    ca: PrivateCa,
    url: String,
}

async fn closed() -> Closed {
    let mut world = World::with_files().await;
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");
    world.stop();
    let login = format!("x-access-token:{TOKEN}");
    let ca = PrivateCa::new();
    let server = GitHttpServer::start_https(world.platform.remote().parent().unwrap(), &ca, Some(&login));
    Closed { world, ca, url: server.url("remote.git") }
}

fn plan(closed: &Closed, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = closed.world.plumb(&["plan"]);
    command.env("PLUMB_PLATFORM", &closed.url).env("SSL_CERT_FILE", closed.ca.certificate());
    let Output { status, stdout, stderr } = command.envs(variables.iter().copied()).output().unwrap();
    (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_opens_the_platform() {
    let closed = closed().await;
    let (code, said) = plan(&closed, &[("PLUMB_PLATFORM_TOKEN", TOKEN)]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("+ create checkout/staging/Database/orders"), "{said}");
    assert!(closed.world.files_with(TOKEN).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_or_with_a_wrong_one_it_is_said_who_refused() {
    let closed = closed().await;
    for variables in [&[][..], &[("PLUMB_PLATFORM_TOKEN", "wrong-token-55")]] {
        let (code, said) = plan(&closed, variables);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("the platform repository") && said.contains("refused the login"), "{said}");
        assert!(!said.contains("wrong-token-55"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gits_credential_helper_is_asked_where_there_is_no_token() {
    let closed = closed().await;
    let home = tempfile::tempdir().unwrap();
    let config = format!(
        "[credential]\n\thelper = \"!f() {{ test \\\"$1\\\" = get && echo username=x-access-token && echo password={TOKEN}; }}; f\"\n"
    );
    std::fs::write(home.path().join(".gitconfig"), config).unwrap();
    let (code, said) = plan(&closed, &[("HOME", home.path().to_str().unwrap())]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("+ create checkout/staging/Database/orders"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_providers_password_comes_from_the_variable_that_it_names() {
    let server = PostgresServer::shared();
    let mut world = World::with_postgres(server).await;
    world.stop();
    let provider = format!(
        "apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: pg}}\nspec:\n  type: postgres\n  url: {}\n  \
         credentials: {{env: PG_MAIN_PASSWORD}}\n  serves: [{{kind: Database}}]\n",
        server.url()
    );
    world.platform.write("providers.yaml", provider);
    world.write_tenant("providers: [pg]");
    world.platform.commit("Take the password from a variable");
    world.write_resource("staging", "Database", "orders", "", "");
    world.tenant.commit("Add orders");
    let apply = |variables: &[(&str, &str)]| {
        let output = world.plumb(&["apply"]).envs(variables.iter().copied()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    let (code, said) = apply(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("CredentialMissing") && said.contains("PG_MAIN_PASSWORD"), "{said}");
    let (code, said) = apply(&[("PG_MAIN_PASSWORD", server.login().1)]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains(server.login().1), "{said}");
}
