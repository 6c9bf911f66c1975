//! What is said of the platform's documents.

use std::collections::BTreeMap;

use plumb::model::{PlatformId, PlatformSpec, Severity};
use plumb::validate::assemble_platform;

use super::{PLATFORM, assert_told, check, platform, platform_of, told};

fn with(documents: &str) -> Vec<String> {
    let (platform, diagnostics) = platform_of(&format!("{PLATFORM}---\n{documents}"));
    assert_eq!(platform.is_none(), diagnostics.iter().any(|finding| finding.is_error()), "{diagnostics:?}");
    told(&diagnostics).into_iter().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

fn tenant(name: &str, repository: &str, rest: &str) -> String {
    format!(
        "apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec: {{repository: {{{repository}}}, environments: [staging], providers: [pg-main]{rest}}}\n"
    )
}

fn provider(name: &str, spec: &str) -> String {
    format!("apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

#[test]
fn a_platform_is_what_its_documents_say() {
    let platform = platform();
    assert_eq!(platform.id, PlatformId("acme-platform".to_owned()));
    assert_eq!(platform.providers.len(), 4);
    assert_eq!(platform.tenants["shop"].environments, ["staging", "production"]);
}

#[test]
fn an_empty_platform_is_one() {
    let (platform, diagnostics) =
        assemble_platform(&[], &BTreeMap::new(), Some("abc".to_owned()), PlatformId("abc".to_owned()));
    assert_told(&diagnostics, &[]);
    let platform = platform.unwrap();
    assert_eq!((platform.id.0.as_str(), platform.commit.as_deref()), ("abc", Some("abc")));
    assert_eq!(platform.spec, PlatformSpec::default());
}

#[test]
fn there_is_one_platform_document() {
    assert_eq!(
        with("apiVersion: plumb.dev/v1\nkind: Platform\nmetadata: {name: again}\nspec: {}\n"),
        [
            "DuplicateName: there is more than one Platform document | keep one of them (the other one is here platform.yaml:3:7)"
        ]
    );
}

#[test]
fn names_are_unique() {
    let lines = with(&provider("files", "type: sqlite, url: \"sqlite:x\""));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("DuplicateName: there are two Provider documents called \"files\""), "{lines:?}");
    let lines = with(&tenant("shop", "url: /srv/other", ""));
    assert!(lines[0].starts_with("DuplicateName: there are two Tenant documents called \"shop\""), "{lines:?}");
}

#[test]
fn providers_of_tenants_exist() {
    let text = tenant("other", "url: /srv/other", "").replace("pg-main", "pg-mian");
    assert_eq!(
        with(&text),
        [
            "ProviderMissing: the tenant other may use the Provider \"pg-mian\", which does not exist | did you mean \"pg-main\"?"
        ]
    );
}

#[test]
fn a_password_in_an_address_is_refused_and_not_repeated() {
    let lines = with(&provider("leaky", "type: postgres, url: \"postgres://plumb:hunter2@db/postgres\""));
    assert_eq!(
        lines,
        [
            "PasswordInUrl: url carries a password | take it out, change it, since git remembers it, and name it in credentials: {env: NAME} or {file: PATH}"
        ]
    );
}

#[test]
fn an_address_fits_its_type() {
    assert_eq!(
        with(&provider("odd", "type: redis, url: \"postgres://plumb@db/postgres\"")),
        ["InvalidUrl: url does not fit the type redis | a redis url looks like redis://default@cache.example.com:6379"]
    );
}

#[test]
fn a_provider_serves_what_it_can() {
    assert_eq!(
        with(&provider("odd", "type: sqlite, url: \"sqlite:x\", serves: [{kind: Cache}]")),
        [
            "UnsupportedByProvider: the Provider \"odd\" is of type sqlite, which serves no Cache | sqlite serves Database"
        ]
    );
}

#[test]
fn a_login_for_reading_needs_its_credential_and_a_place() {
    let login = "readLogin: reader";
    assert_eq!(
        with(&provider("odd", &format!("type: postgres, url: \"postgres://plumb@db/postgres\", {login}"))),
        [
            "MissingField: spec needs the field \"readCredentials\" | readCredentials: What planning for a pull request may use instead of `credentials`."
        ]
    );
    let reading = format!("{login}, readCredentials: {{env: READER}}");
    assert_eq!(
        with(&provider("odd", &format!("type: sqlite, url: \"sqlite:x\", {reading}"))),
        ["InvalidUrl: url has no place for another login | write url as scheme://login@host, or leave readLogin out"]
    );
}

#[test]
fn schedules_are_cron() {
    let text = PLATFORM.replace(
        "spec: {id: acme-platform}",
        "spec:\n  drift: {schedule: \"often\"}\n  windows: [{mode: allow, schedule: \"0 22 * * 9\", duration: 8h}]",
    );
    let (platform, diagnostics) = platform_of(&text);
    assert!(platform.is_none());
    let help = "write a cron expression: \"*/10 * * * *\" is every ten minutes, \"0 22 * * 1-5\" is weekdays at 22:00";
    assert_told(
        &diagnostics,
        &[
            &format!(
                "platform.yaml:6:21 InvalidSchedule: a schedule has five fields (minute, hour, day of month, month, day of week), not 1 | {help}"
            ),
            &format!(
                "platform.yaml:7:37 InvalidSchedule: \"9\" is no day of the week; days are 0 (Sunday) to 6, or SUN to SAT | {help}"
            ),
        ],
    );
}

#[test]
fn time_zones_have_the_names_that_the_world_knows_them_by() {
    let zone = |name: &str| {
        let window = format!("{{mode: deny, schedule: \"0 22 * * 5\", duration: 8h, timezone: {name}}}");
        let text = PLATFORM.replace("spec: {id: acme-platform}", &format!("spec: {{windows: [{window}]}}"));
        told(&platform_of(&text).1)
    };
    for name in ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"] {
        assert_eq!(zone(name), Vec::<String>::new());
    }
    for (name, help) in [
        ("Europe/Berln", "did you mean \"Europe/Berlin\"?"),
        ("europe/berlin", "did you mean \"Europe/Berlin\"?"),
        ("Berlin", "did you mean \"Europe/Berlin\"?"),
        ("XYZ123", "write an IANA name such as Europe/Berlin, or leave it out for UTC"),
    ] {
        let wanted = format!("UnknownTimezone: there is no time zone \"{name}\" | {help}");
        let lines = zone(name);
        assert_eq!((lines.len(), lines[0].split_once(' ').unwrap().1), (1, wanted.as_str()));
    }
}

#[test]
fn what_is_suspended_is_there() {
    let suspended = |what: &str| with(&tenant("other", "url: /srv/other", &format!(", suspend: {what}")));
    for fine in ["true", "false", "[staging]", "true, suspendReason: \"INC-42\""] {
        assert_eq!(suspended(fine), Vec::<String>::new(), "{fine}");
    }
    assert_eq!(
        suspended("[stagin]"),
        ["UnknownEnvironment: the tenant other has no environment \"stagin\" to suspend | did you mean \"staging\"?"]
    );
    let lines = suspended("production");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("suspend"), "{lines:?}");
}

#[test]
fn a_window_is_of_environments_that_there_are() {
    let windows = |environments: &str| {
        let window = format!("{{mode: deny, schedule: \"0 22 * * 5\", duration: 8h, environments: {environments}}}");
        let text = PLATFORM.replace("spec: {id: acme-platform}", &format!("spec: {{windows: [{window}]}}"));
        platform_of(&format!("{text}---\n{}", tenant("other", "url: /srv/other", "")))
    };
    assert_eq!(told(&windows("[staging]").1), Vec::<String>::new());
    let (platform, findings) = windows("[staging, stagin]");
    assert!(
        platform.is_some_and(|platform| platform.spec.windows.len() == 1),
        "the one that is in force stays in force"
    );
    let wrong = told(&findings);
    assert_eq!((wrong.len(), findings[0].severity), (1, Severity::Warning), "{wrong:?}");
    let said =
        "UnknownEnvironment: no tenant has an environment \"stagin\" for this window | did you mean \"staging\"?";
    assert!(wrong[0].ends_with(said), "{wrong:?}");
}

#[test]
fn a_schedule_that_never_comes_is_warned_of_and_what_is_in_force_stays_so() {
    let spec =
        "spec: {drift: {schedule: \"0 0 30 2 *\"}, windows: [{mode: deny, schedule: \"0 0 31 4 *\", duration: 1h}]}";
    let (platform, findings) = platform_of(&PLATFORM.replace("spec: {id: acme-platform}", spec));
    assert!(platform.is_some());
    assert!(findings.iter().all(|finding| finding.severity == Severity::Warning), "{findings:?}");
    let wrong = told(&findings);
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    for (wrong, schedule) in wrong.iter().zip(["0 0 30 2 *", "0 0 31 4 *"]) {
        assert!(wrong.contains(&format!("InvalidSchedule: the schedule \"{schedule}\" never comes")), "{wrong}");
    }
}

#[test]
fn a_tenants_repository_is_no_program() {
    assert_eq!(
        with(&tenant("evil", "url: \"ext::sh -c evil\"", "")),
        [
            "InvalidUrl: repository.url names a remote helper, which would run a program | write an https or ssh address, or a path"
        ]
    );
}

#[test]
fn plain_http_needs_the_platforms_leave() {
    let text = tenant("plain", "url: \"http://git.example.com/x\"", "");
    assert_eq!(
        with(&text),
        [
            "InvalidUrl: repository.url is not encrypted | use https, or set spec.allowPlainHttp in the Platform document"
        ]
    );
    let allowed = PLATFORM.replace("{id: acme-platform}", "{allowPlainHttp: true}");
    assert_told(&platform_of(&format!("{allowed}---\n{text}")).1, &[]);
}

#[test]
fn two_tenants_do_not_read_the_same_documents() {
    let same = tenant("other", "url: \"https://git.example.com/acme/shop\"", "");
    let lines = with(&same);
    assert!(
        lines[0].starts_with("OverlappingTenants: the tenants other and shop read the same documents | "),
        "{lines:?}"
    );
    let inside = tenant("other", "url: \"https://git.example.com/acme/shop.git\", path: teams/other", "");
    assert!(with(&inside)[0].contains("read the same documents"));
    let branch = tenant("other", "url: \"https://git.example.com/acme/shop.git\", branch: next", "");
    assert!(with(&branch)[0].contains("would propose drift on the same branches"));
    let apart = format!(
        "{}---\n{}",
        tenant("one", "url: /srv/mono, path: teams/one", ""),
        tenant("two", "url: /srv/mono, path: teams/one-two", "")
    );
    assert_eq!(with(&apart), Vec::<String>::new());
}

#[test]
fn tenants_whose_names_begin_alike_are_warned_of() {
    let text = "apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {name: shop-staging}\nspec: {repository: {url: /srv/x}, environments: [eu], providers: [pg-main]}\n---\napiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {name: shop-x}\nspec: {repository: {url: /srv/y}, environments: [staging], providers: [pg-main]}\n";
    assert_eq!(with(text), Vec::<String>::new());
    let lines = with(
        &text.replace("shop-staging", "shop-x-staging").replace("[staging], providers", "[staging-eu], providers"),
    );
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("warning NameCollision: names of shop-x-staging in eu and of shop-x in staging-eu both begin with shop_x_staging_eu_ on pg-main"),
        "{lines:?}"
    );
}

#[test]
fn resources_do_not_belong_here() {
    assert_eq!(
        with("apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {name: a}\nspec: {}\n"),
        [
            "WrongRepository: a Database belongs in a tenant's repository, not in the platform's | move it there, or name the file in .plumbignore"
        ]
    );
}

#[test]
fn policies_parse() {
    let rego = BTreeMap::from([("policies/own.rego".to_owned(), "package plumb.own\n\ndeny contains {".to_owned())]);
    let (platform, diagnostics) =
        assemble_platform(&[check("platform.yaml", PLATFORM)], &rego, None, PlatformId("x".to_owned()));
    assert!(platform.is_none());
    let lines = told(&diagnostics);
    assert!(
        lines[0].starts_with("policies/own.rego:3:")
            && lines[0].contains("InvalidPolicy: this policy cannot be used: "),
        "{lines:?}"
    );

    let rego =
        BTreeMap::from([("policies/own.rego".to_owned(), "package plumb.own\nwarn contains \"x\"\n".to_owned())]);
    let (platform, diagnostics) =
        assemble_platform(&[check("platform.yaml", PLATFORM)], &rego, None, PlatformId("x".to_owned()));
    assert_told(&diagnostics, &[]);
    assert_eq!(platform.unwrap().policies, rego);
}
