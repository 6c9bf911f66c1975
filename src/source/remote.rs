//! Where a repository is, and which addresses are used at all.
//!
//! Nothing is contacted or run before [`Remote::address`] has taken the URL apart: remote helpers, URLs that a program
//! would read as an option, and passwords in URLs end here.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::error::SourceError;

/// What is sent as the user name beside a token when the URL names none. GitHub asks for it, GitLab and Gitea take any.
const TOKEN_USER: &str = "x-access-token";

/// Beginnings of tokens that people put where the user name belongs.
const TOKEN_PREFIXES: &[&str] = &["ghp_", "gho_", "ghs_", "ghu_", "github_pat_", "glpat-", "gldt-"];

/// A repository, and how to log in to it.
#[derive(Clone)]
pub struct Remote {
    /// `https://`, `ssh://`, `git@host:path`, `file://` or a local path.
    pub url: String,
    /// A token or password for https. ssh uses the keys of the account that runs Plumb.
    pub credential: Option<SecretString>,
    /// Whether `http://` may be used with other machines too.
    pub allow_plain_http: bool,
}

/// A URL taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// An absolute path on this machine.
    Local(PathBuf),
    Ssh(SshAddress),
    Http(Url),
}

/// What ssh needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SshAddress {
    pub user: Option<String>,
    pub host: String,
    pub port: Option<u16>,
    pub path: String,
}

impl Remote {
    /// A remote without a credential.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), credential: None, allow_plain_http: false }
    }

    /// The same, with a token or password.
    #[must_use]
    pub fn credential(self, credential: Option<SecretString>) -> Self {
        Self { credential, ..self }
    }

    /// Whether the URL is one that is used. Contacts nothing.
    ///
    /// # Errors
    /// [`SourceError::RefusedUrl`] with the way out.
    pub fn check(&self) -> Result<(), SourceError> {
        self.address().map(drop)
    }

    /// The URL as it may be shown: without a password, and without a user name on https.
    pub fn shown(&self) -> String {
        shown(&self.url)
    }

    /// Where it is: the name of a server, with the port where one is given, or the repository itself on this machine.
    pub fn host(&self) -> String {
        match self.address() {
            Ok(Address::Http(url)) => match (url.host_str(), url.port()) {
                (Some(host), Some(port)) => format!("{host}:{port}"),
                (host, _) => host.unwrap_or_default().to_owned(),
            },
            Ok(Address::Ssh(SshAddress { host, port: Some(port), .. })) => format!("{host}:{port}"),
            Ok(Address::Ssh(SshAddress { host, .. })) => host,
            Ok(Address::Local(_)) | Err(_) => self.shown(),
        }
    }

    /// `text` without this remote's credential and without the user part of URLs in it.
    pub(super) fn redact(&self, text: &str) -> String {
        let text = match &self.credential {
            Some(secret) if !secret.expose_secret().is_empty() => text.replace(secret.expose_secret(), "***"),
            Some(_) | None => text.to_owned(),
        };
        redact_urls(&text)
    }

    /// User name and password for https.
    pub(super) fn login(&self) -> Option<(String, &SecretString)> {
        let secret = self.credential.as_ref()?;
        let user = match self.address() {
            Ok(Address::Http(url)) if !url.username().is_empty() => url.username().to_owned(),
            Ok(_) | Err(_) => TOKEN_USER.to_owned(),
        };
        Some((user, secret))
    }

    /// Takes the URL apart.
    pub(super) fn address(&self) -> Result<Address, SourceError> {
        let url = self.url.as_str();
        let refuse = |why: &str, help: &str| {
            Err(SourceError::RefusedUrl { url: self.shown(), why: why.to_owned(), help: help.to_owned() })
        };
        if url.is_empty() {
            return refuse("it is empty", "give an https or ssh URL, or the path of a repository");
        }
        if url.chars().any(char::is_control) {
            return refuse("it holds control characters", "write it on one line, without invisible characters");
        }
        if url.starts_with('-') {
            return refuse("it begins with a dash", "a program could take it for an option; put ./ in front of a path");
        }
        if let Some((helper, _)) = url.split_once("::")
            && is_scheme(helper)
        {
            return refuse(&format!("`{helper}::` runs a program on this machine"), "use https, ssh or a local path");
        }
        if let Some((scheme, rest)) = url.split_once("://")
            && is_scheme(scheme)
        {
            return match scheme.to_ascii_lowercase().as_str() {
                "https" | "http" => self.http_address(),
                "ssh" => self.ssh_address(),
                "file" => self.file_address(rest),
                other => refuse(&format!("`{other}` is not supported"), "use https, ssh or a local path"),
            };
        }
        match scp_like(url) {
            Some((user, host, path)) => self.checked_ssh(user, host, None, path),
            None => self.local(PathBuf::from(url)),
        }
    }

    fn refused<T>(&self, why: &str, help: &str) -> Result<T, SourceError> {
        Err(SourceError::RefusedUrl { url: self.shown(), why: why.to_owned(), help: help.to_owned() })
    }

    fn parsed(&self) -> Result<Url, SourceError> {
        let url = match Url::parse(&self.url) {
            Ok(url) => url,
            Err(error) => return self.refused(&format!("it is no URL ({error})"), "check its spelling"),
        };
        if url.password().is_some() || TOKEN_PREFIXES.iter().any(|prefix| url.username().starts_with(prefix)) {
            return self.refused(
                "it holds a password",
                "take it out of the URL and name it in `credentials`, as a variable or a file",
            );
        }
        Ok(url)
    }

    fn http_address(&self) -> Result<Address, SourceError> {
        let url = self.parsed()?;
        if url.host_str().is_none_or(str::is_empty) {
            return self.refused("it names no host", "write it as https://host/path");
        }
        if url.scheme() == "http" && !self.allow_plain_http && !is_loopback(&url) {
            return self.refused(
                "plain http lets anybody on the way change what is deployed",
                "use https, or allow plain http in the platform's settings",
            );
        }
        Ok(Address::Http(url))
    }

    fn ssh_address(&self) -> Result<Address, SourceError> {
        let url = self.parsed()?;
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        // A path below a home directory is spelled /~user/path, and means ~user/path.
        let path = url.path().strip_prefix('/').filter(|path| path.starts_with('~')).unwrap_or(url.path());
        self.checked_ssh(decoded(url.username()), host, url.port(), decoded(path))
    }

    fn checked_ssh(&self, user: String, host: String, port: Option<u16>, path: String) -> Result<Address, SourceError> {
        let plain = |text: &str, more: &[char]| {
            !text.starts_with('-') && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(&c))
        };
        if host.is_empty() || !plain(&host, &['.', '-', '_', ':', '%']) {
            return self.refused("its host is no plain name", "ssh could take it for an option or a command");
        }
        if !plain(&user, &['.', '-', '_', '+', '@']) {
            return self.refused("its user is no plain name", "ssh could take it for an option or a command");
        }
        if path.is_empty() || path == "/" || path.starts_with('-') || path.chars().any(char::is_control) {
            return self.refused("it names no path of a repository", "write it as ssh://user@host/path");
        }
        let user = (!user.is_empty()).then_some(user);
        Ok(Address::Ssh(SshAddress { user, host, port, path }))
    }

    fn file_address(&self, rest: &str) -> Result<Address, SourceError> {
        let path = rest.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(rest);
        if !path.starts_with('/') {
            return self.refused("it names a host or a relative path", "write it as file:///absolute/path");
        }
        self.local(PathBuf::from(decoded(path)))
    }

    fn local(&self, path: PathBuf) -> Result<Address, SourceError> {
        match std::path::absolute(&path) {
            Ok(path) => Ok(Address::Local(path)),
            Err(error) => self.refused(&format!("it is no path ({error})"), "give an absolute path"),
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, credential, allow_plain_http } = self;
        f.debug_struct("Remote")
            .field("url", &self.shown())
            .field("credential", &credential.is_some())
            .field("allow_plain_http", allow_plain_http)
            .finish()
    }
}

impl Address {
    /// What tells one repository from another, whatever the current directory.
    pub fn identity(&self, url: &str) -> String {
        match self {
            Self::Local(path) => path.to_string_lossy().into_owned(),
            Self::Ssh(_) | Self::Http(_) => url.to_owned(),
        }
    }
}

/// Whether an http URL stays on this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(url::Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// `[user@]host:path`: a colon with no slash before it, as git tells it from a path.
fn scp_like(url: &str) -> Option<(String, String, String)> {
    let (before, path) = match url.find(']') {
        // An address in brackets holds colons of its own.
        Some(end) if url.contains('[') => {
            let path = url[end + 1..].strip_prefix(':')?;
            (&url[..=end], path)
        }
        Some(_) | None => url.split_once(':')?,
    };
    if before.contains('/') {
        return None;
    }
    let (user, host) = before.rsplit_once('@').unwrap_or(("", before));
    Some((user.to_owned(), host.trim_start_matches('[').trim_end_matches(']').to_owned(), path.to_owned()))
}

/// `text` with `%xx` resolved; what is no UTF-8 afterwards stays as it was.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let byte = (*first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok()));
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// A URL without the part that may hold a secret.
fn shown(url: &str) -> String {
    let shown = redact_urls(url);
    shown.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `text` in which every `scheme://user:password@` has lost its user part; a user without a password stays on ssh.
fn redact_urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let end = tail.find(|c: char| c == '/' || c.is_whitespace() || matches!(c, '\'' | '"')).unwrap_or(tail.len());
        let (authority, after) = tail.split_at(end);
        match authority.rsplit_once('@') {
            Some((user, host)) if head.ends_with("ssh://") && !user.contains(':') => {
                out.push_str(user);
                out.push('@');
                out.push_str(host);
            }
            Some((_, host)) => {
                out.push_str("***@");
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        match Remote::new(url).check() {
            Err(error) => error.to_string(),
            Ok(()) => panic!("{url} was accepted"),
        }
    }

    fn ssh(user: &str, host: &str, port: Option<u16>, path: &str) -> Address {
        let user = (!user.is_empty()).then(|| user.to_owned());
        Address::Ssh(SshAddress { user, host: host.to_owned(), port, path: path.to_owned() })
    }

    #[test]
    fn remote_helpers_are_refused() {
        for url in ["ext::sh -c touch% /tmp/owned", "fd::17", "transport::https://example.com/x"] {
            assert!(refusal(url).contains("runs a program"), "{url}");
        }
    }

    #[test]
    fn other_schemes_are_refused() {
        for url in ["git://example.com/x", "ftp://example.com/x", "git+ssh://example.com/x"] {
            assert!(refusal(url).contains("is not supported"), "{url}");
        }
    }

    #[test]
    fn what_a_program_reads_as_an_option_is_refused() {
        for url in [
            "-oProxyCommand=touch x",
            "--upload-pack=touch x",
            "ssh://-oProxyCommand=x/path",
            "ssh://-x@host/path",
            "-oProxyCommand=x:path",
            "git@-oProxyCommand=x:path",
            "git@host:-path",
            "ssh://ho$(x)st/path",
            "us`er@host:path",
        ] {
            refusal(url);
        }
    }

    #[test]
    fn plain_http_is_for_loopback_unless_allowed() {
        assert!(refusal("http://example.com/x.git").contains("plain http"));
        assert!(refusal("http://localhost.example.com/x.git").contains("plain http"));
        for url in ["http://localhost:8080/x", "http://127.0.0.1/x", "http://[::1]:3000/x"] {
            Remote::new(url).check().unwrap();
        }
        Remote { allow_plain_http: true, ..Remote::new("http://example.com/x") }.check().unwrap();
    }

    #[test]
    fn passwords_in_urls_are_refused_and_not_shown() {
        for url in
            ["https://me:hunter2@example.com/x", "https://ghp_hunter2@github.com/x", "ssh://me:hunter2@example.com/x"]
        {
            let message = refusal(url);
            assert!(message.contains("credentials"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
            assert!(!format!("{:?}", Remote::new(url)).contains("hunter2"));
        }
    }

    #[test]
    fn the_forms_of_ssh_are_understood() {
        let address = |url: &str| Remote::new(url).address().unwrap();
        assert_eq!(address("git@github.com:acme/x.git"), ssh("git", "github.com", None, "acme/x.git"));
        assert_eq!(address("github.com:/srv/x.git"), ssh("", "github.com", None, "/srv/x.git"));
        assert_eq!(address("ssh://git@host:2222/srv/x.git"), ssh("git", "host", Some(2222), "/srv/x.git"));
        assert_eq!(address("ssh://host/~me/x.git"), ssh("", "host", None, "~me/x.git"));
        assert_eq!(address("git@[::1]:x.git"), ssh("git", "::1", None, "x.git"));
    }

    #[test]
    fn paths_stay_paths() {
        let address = |url: &str| Remote::new(url).address().unwrap();
        assert_eq!(address("/srv/a:b.git"), Address::Local("/srv/a:b.git".into()));
        assert_eq!(address("file:///srv/with%20space.git"), Address::Local("/srv/with space.git".into()));
        assert_eq!(address("file://localhost/srv/x.git"), Address::Local("/srv/x.git".into()));
        assert_eq!(address("./x:y"), Address::Local(std::env::current_dir().unwrap().join("x:y")));
        assert!(refusal("file://server/share").contains("host"));
    }

    #[test]
    fn what_other_programs_say_is_redacted() {
        let remote = Remote::new("https://example.com/x").credential(Some("hunter2".into()));
        let text = remote.redact("fatal: 'https://me:other@example.com/x/' said hunter2");
        assert_eq!(text, "fatal: 'https://***@example.com/x/' said ***");
    }
}
