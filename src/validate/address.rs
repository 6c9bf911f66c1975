//! Addresses of Providers and repositories. No message repeats an address: it may hold a secret.

use url::{Host, Url};

use super::codes;
use crate::model::{Code, ProviderType, Repository};

/// What is wrong with an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub code: Code,
    /// Where, below the document.
    pub pointer: &'static str,
    pub message: String,
    pub help: String,
}

impl Problem {
    fn new(code: Code, pointer: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { code, pointer, message: message.into(), help: help.into() }
    }
}

/// Whether repositories may be fetched unencrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlainHttp {
    Allowed,
    LoopbackOnly,
}

const CREDENTIALS_HELP: &str =
    "take it out, change it, since git remembers it, and name it in credentials: {env: NAME} or {file: PATH}";

/// Whether `url` fits a Provider of that type.
pub(super) fn check_provider(provider_type: ProviderType, url: &str) -> Result<(), Problem> {
    let pointer = "/spec/url";
    if has_password(url) {
        return Err(Problem::new(codes::PASSWORD_IN_URL, pointer, "url carries a password", CREDENTIALS_HELP));
    }
    let example = match provider_type {
        ProviderType::Postgres => "postgres://plumb@db.example.com:5432/postgres",
        ProviderType::Redis => "redis://default@cache.example.com:6379",
        ProviderType::Sqlite => "sqlite:///srv/databases",
    };
    let wrong = |what: &str| {
        let message = format!("url {what}");
        Err(Problem::new(codes::INVALID_URL, pointer, message, format!("a {provider_type} url looks like {example}")))
    };
    let Some((scheme, rest)) = url.split_once(':') else { return wrong("is no address") };
    match provider_type {
        // Sockets are written in ways that general parsers refuse; the driver reads them.
        ProviderType::Sqlite => match (scheme, rest.trim_start_matches('/')) {
            ("sqlite", "") => wrong("names no folder"),
            ("sqlite", _) => Ok(()),
            _ => wrong("does not fit the type sqlite"),
        },
        ProviderType::Postgres => match scheme {
            "postgres" | "postgresql" => match Url::parse(url) {
                Ok(parsed) if parsed.username().is_empty() && !rest.contains("user=") => wrong("names no login"),
                Ok(_) => Ok(()),
                Err(_) => wrong("cannot be read"),
            },
            _ => wrong("does not fit the type postgres"),
        },
        ProviderType::Redis => match scheme {
            "redis" | "rediss" => match Url::parse(url) {
                Ok(parsed) if parsed.host_str().is_none_or(str::is_empty) => wrong("names no host"),
                Ok(_) => Ok(()),
                Err(_) => wrong("cannot be read"),
            },
            "redis+unix" | "unix" => Ok(()),
            _ => wrong("does not fit the type redis"),
        },
    }
}

/// Whether `url` has a place for another login than its own: in front of a host.
pub(super) fn check_read_login(url: &str) -> Result<(), Problem> {
    let in_front = Url::parse(url).ok().filter(|parsed| !parsed.query_pairs().any(|(name, _)| name == "user"));
    match in_front.map(|mut parsed| parsed.set_username("login")) {
        Some(Ok(())) => Ok(()),
        Some(Err(())) | None => Err(Problem::new(
            codes::INVALID_URL,
            "/spec/readLogin",
            "url has no place for another login",
            "write url as scheme://login@host, or leave readLogin out",
        )),
    }
}

/// All that is wrong with where a tenant's repository is said to be.
pub(super) fn check_repository(repository: &Repository, plain_http: PlainHttp) -> Vec<Problem> {
    let mut problems: Vec<Problem> = check_remote(&repository.url, plain_http).err().into_iter().collect();
    let path = &repository.path;
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        problems.push(Problem::new(
            codes::INVALID_VALUE,
            "/spec/repository/path",
            "repository.path must stay inside the repository",
            "write a folder such as teams/checkout, or . for the whole repository",
        ));
    }
    let branch = &repository.branch;
    let bad = |c: char| c.is_whitespace() || c.is_control() || "~^:?*[\\".contains(c);
    if branch.is_empty() || branch.starts_with(['-', '/']) || branch.contains("..") || branch.contains(bad) {
        problems.push(Problem::new(
            codes::INVALID_VALUE,
            "/spec/repository/branch",
            "repository.branch is no name of a branch",
            "write the short name, such as main",
        ));
    }
    problems
}

fn check_remote(url: &str, plain_http: PlainHttp) -> Result<(), Problem> {
    let pointer = "/spec/repository/url";
    let wrong = |message: &str, help: &str| Err(Problem::new(codes::INVALID_URL, pointer, message, help));
    let before_slash = url.split('/').next().unwrap_or_default();
    if before_slash.contains("::") && !before_slash.contains('[') {
        return wrong(
            "repository.url names a remote helper, which would run a program",
            "write an https or ssh address, or a path",
        );
    }
    if url.starts_with('-') {
        return wrong("repository.url cannot begin with a dash", "write an https or ssh address, or a path");
    }
    if has_password(url) || has_token(url) {
        return Err(Problem::new(
            codes::PASSWORD_IN_URL,
            pointer,
            "repository.url carries a password",
            CREDENTIALS_HELP,
        ));
    }
    // Without a scheme it is a path, or user@host:path.
    let Some((scheme, _)) = url.split_once("://") else { return Ok(()) };
    match scheme {
        "https" | "ssh" | "file" => match Url::parse(url) {
            Ok(_) => Ok(()),
            Err(_) => wrong("repository.url cannot be read", "write an https or ssh address, or a path"),
        },
        "http" => match (plain_http, Url::parse(url)) {
            (_, Err(_)) => wrong("repository.url cannot be read", "write an https or ssh address, or a path"),
            (PlainHttp::Allowed, Ok(_)) => Ok(()),
            (PlainHttp::LoopbackOnly, Ok(parsed)) if is_loopback(&parsed) => Ok(()),
            (PlainHttp::LoopbackOnly, Ok(_)) => wrong(
                "repository.url is not encrypted",
                "use https, or set spec.allowPlainHttp in the Platform document",
            ),
        },
        _ => wrong("repository.url is of a kind that is not supported", "write an https or ssh address, or a path"),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether `url` carries a password, even where the rest of it cannot be read.
fn has_password(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let (authority, query) = match rest.split_once('?') {
        Some((before, query)) => (before, query),
        None => (rest, ""),
    };
    let authority = match authority.rsplit_once('@') {
        // A password may hold a slash where somebody forgot to escape it.
        Some((user, _)) => user,
        None => "",
    };
    let in_authority = authority.split_once(':').is_some_and(|(_, password)| !password.is_empty());
    let in_query = query.split('&').any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = name.to_ascii_lowercase();
        !value.is_empty()
            && (name == "pass" || name == "token" || (name.contains("password") && !name.contains("file")))
    });
    in_authority || in_query
}

/// Whether the user of `url` is a forge's token.
fn has_token(url: &str) -> bool {
    const TOKENS: &[&str] = &["ghp_", "gho_", "ghs_", "github_pat_", "glpat-"];
    url.split_once("://").is_some_and(|(_, rest)| TOKENS.iter().any(|token| rest.starts_with(token)))
}

/// The remote less what makes no difference.
pub(super) fn normal_remote(url: &str) -> String {
    let url = url.trim_end_matches('/');
    url.strip_suffix(".git").unwrap_or(url).to_lowercase()
}

/// The folder less what makes no difference; empty for the whole repository.
pub(super) fn normal_path(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(provider_type: ProviderType, url: &str) -> String {
        check_provider(provider_type, url).map_or_else(|problem| problem.message, |()| "fine".to_owned())
    }

    fn remote(url: &str) -> String {
        check_remote(url, PlainHttp::LoopbackOnly).map_or_else(|problem| problem.message, |()| "fine".to_owned())
    }

    #[test]
    fn a_providers_address_fits_its_type() {
        use ProviderType::{Postgres, Redis, Sqlite};
        assert_eq!(provider(Postgres, "postgres://plumb@127.0.0.1:5432/postgres"), "fine");
        assert_eq!(provider(Postgres, "postgres://plumb@%2Frun%2Fpostgresql/postgres"), "fine");
        assert_eq!(provider(Postgres, "postgres:///postgres?host=/run/postgresql&user=plumb"), "fine");
        assert_eq!(provider(Postgres, "postgres://127.0.0.1/postgres"), "url names no login");
        assert_eq!(provider(Postgres, "redis://default@127.0.0.1"), "url does not fit the type postgres");
        assert_eq!(provider(Postgres, "127.0.0.1"), "url is no address");
        assert_eq!(provider(Postgres, "postgres://plumb@host:port/db"), "url cannot be read");
        assert_eq!(provider(Redis, "redis://default@127.0.0.1:6379"), "fine");
        assert_eq!(provider(Redis, "rediss://cache"), "fine");
        assert_eq!(provider(Redis, "redis://"), "url names no host");
        assert_eq!(provider(Sqlite, "sqlite:///srv/databases"), "fine");
        assert_eq!(provider(Sqlite, "sqlite:databases"), "fine");
        assert_eq!(provider(Sqlite, "sqlite://"), "url names no folder");
        assert_eq!(provider(Sqlite, "/srv/databases"), "url is no address");
    }

    #[test]
    fn a_password_is_found_wherever_it_hides_and_never_repeated() {
        for url in [
            "postgres://plumb:hunter2@127.0.0.1/postgres",
            "postgres://plumb:hun/ter2@127.0.0.1/postgres",
            "postgres://plumb@127.0.0.1/postgres?password=hunter2",
            "postgres://plumb@127.0.0.1/postgres?sslmode=require&PASSWORD=hunter2",
        ] {
            let problem = check_provider(ProviderType::Postgres, url).unwrap_err();
            assert_eq!(problem.code, codes::PASSWORD_IN_URL, "{url}");
            assert!(!format!("{problem:?}").contains("hun"), "{url}");
        }
        assert_eq!(provider(ProviderType::Redis, "redis://:hunter2@127.0.0.1"), "url carries a password");
        assert_eq!(
            provider(ProviderType::Postgres, "postgres://plumb@h/db?passfile=/run/x&sslpassword_file=/y"),
            "fine"
        );
    }

    #[test]
    fn a_repositorys_address_runs_no_program_and_leaks_nothing() {
        for fine in [
            "https://github.com/acme/checkout.git",
            "https://git@github.com/acme/checkout.git",
            "ssh://git@github.com:22/acme/checkout.git",
            "git@github.com:acme/checkout.git",
            "/srv/git/checkout.git",
            "../checkout",
            "http://127.0.0.1:3000/checkout.git",
            "http://localhost/checkout.git",
            "http://[::1]:3000/checkout.git",
        ] {
            assert_eq!(remote(fine), "fine", "{fine}");
        }
        for helper in ["ext::sh -c evil", "ext::sh", "fd::17/foo", "transport::https://x/y"] {
            assert!(remote(helper).contains("remote helper"), "{helper}");
        }
        assert_eq!(remote("--upload-pack=evil"), "repository.url cannot begin with a dash");
        assert_eq!(remote("http://git.example.com/x"), "repository.url is not encrypted");
        assert_eq!(remote("git://git.example.com/x"), "repository.url is of a kind that is not supported");
        assert_eq!(remote("https://user:hunter2@github.com/x"), "repository.url carries a password");
        assert_eq!(remote("https://ghp_abc@github.com/x"), "repository.url carries a password");
        assert_eq!(check_remote("http://git.example.com/x", PlainHttp::Allowed), Ok(()));
    }

    #[test]
    fn a_path_stays_inside() {
        let at = |path: &str, branch: &str| {
            let repository = Repository {
                url: "/srv/x".to_owned(),
                branch: branch.to_owned(),
                path: path.to_owned(),
                credentials: None,
            };
            check_repository(&repository, PlainHttp::LoopbackOnly).len()
        };
        assert_eq!(at(".", "main"), 0);
        assert_eq!(at("teams/checkout", "feature/x"), 0);
        assert_eq!(at("../other", "main"), 1);
        assert_eq!(at("/etc", "main"), 1);
        assert_eq!(at(".", "--force"), 1);
        assert_eq!(at(".", "a b"), 1);
        assert_eq!(at(".", ""), 1);
    }

    #[test]
    fn what_makes_no_difference_is_left_out() {
        assert_eq!(normal_remote("https://GitHub.com/acme/x.git/"), normal_remote("https://github.com/acme/x"));
        assert_eq!(normal_path("./teams//checkout/"), "teams/checkout");
        assert_eq!(normal_path("."), "");
    }
}
