//! Talks git with a remote: one handshake, one advertisement, and the objects of what it advertised.
//!
//! gix speaks the protocol over https by itself; for ssh, and for local repositories, it speaks it over the pipes of a
//! program that is started here, so that it can be ended. Every conversation has a limit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gix::bstr::ByteSlice;
use gix::credentials::helper::Action;
use gix::credentials::protocol::{Context, Outcome};
use gix::protocol::handshake::Ref;
use gix::protocol::transport::Protocol;
use gix::protocol::transport::client::blocking_io::Transport;
use gix::protocol::transport::client::blocking_io::http;
use gix::protocol::transport::client::git::ConnectMode;
use gix::protocol::transport::client::git::blocking_io::Connection as PipeConnection;
use gix::remote::fetch::refmap::Source;
use gix::remote::fetch::{Status, Tags};
use gix::remote::{Connection, Direction, ref_map};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::error::{SourceError, is_disk_full};
use super::mirror::{INCOMING, Refs};
use super::process::{CONNECT_TIMEOUT, Interrupt, Ssh, bounded, local_upload_pack, says_unknown_host};
use super::remote::{Address, Remote, is_loopback};
use super::{DRIFT_PREFIX, HEAD};

/// How long one advertisement may take.
pub(super) const ADVERTISE_LIMIT: Duration = Duration::from_secs(60);
/// How long one fetch may take, the first one of a large repository included.
pub(super) const FETCH_LIMIT: Duration = Duration::from_secs(300);
/// How long an https server may say nothing: longer than it needs to count the objects of a large repository.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// How much of an error is told.
const MAX_WHY: usize = 600;

/// What to ask a remote for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The head of this branch and the drift branches.
    Branch(String),
    /// These objects, of an advertisement that was read otherwise.
    Objects(BTreeSet<String>),
}

/// Whether the objects are wanted too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    RefsOnly,
    WithObjects,
}

/// What a conversation gave.
#[derive(Debug)]
pub(super) struct Answer {
    pub refs: Refs,
    /// Keeps the new pack from being collected until refs hold its objects; to be removed then.
    pub keep: Option<PathBuf>,
}

/// Has one conversation with the remote, in the mirror at `mirror`.
pub(super) fn converse(
    remote: &Remote,
    address: &Address,
    mirror: PathBuf,
    ask: Ask,
    depth: Depth,
) -> Result<Answer, SourceError> {
    let limit = match depth {
        Depth::RefsOnly => ADVERTISE_LIMIT,
        Depth::WithObjects => FETCH_LIMIT,
    };
    let conversation = Conversation { remote: remote.clone(), address: address.clone(), mirror, ask, depth };
    bounded(limit, &remote.shown(), move |interrupt| conversation.run(interrupt))
}

struct Conversation {
    remote: Remote,
    address: Address,
    mirror: PathBuf,
    ask: Ask,
    depth: Depth,
}

impl Conversation {
    fn run(&self, interrupt: &Interrupt) -> Result<Answer, SourceError> {
        let repo = self.open()?;
        match &self.address {
            Address::Http(url) => self.over_http(&repo, url, interrupt),
            Address::Ssh(ssh) => {
                let program = Ssh::of(&repo).map_err(|source| self.unusable(source))?;
                self.over_pipes(&repo, program.upload_pack(ssh), &ssh.path, interrupt)
            }
            Address::Local(path) => self.over_pipes(&repo, local_upload_pack(path), &path.to_string_lossy(), interrupt),
        }
    }

    /// The mirror, with what the person configured for git: credential helpers, proxies, ssh.
    fn open(&self) -> Result<gix::Repository, SourceError> {
        let options = gix::open::Options::default()
            .config_overrides(["gitoxide.credentials.terminalPrompt=false", "protocol.version=2"]);
        gix::open_opts(&self.mirror, options).map_err(|source| self.unusable(Box::new(source)))
    }

    fn unusable(&self, source: Box<gix::Error>) -> SourceError {
        SourceError::Mirror { path: self.mirror.clone(), source }
    }

    fn gix_remote<'repo>(&self, repo: &'repo gix::Repository, url: &str) -> Result<gix::Remote<'repo>, gix::Error> {
        let specs: Vec<String> = match &self.ask {
            Ask::Branch(branch) if branch == HEAD => vec![HEAD.to_owned(), drift_spec()],
            Ask::Branch(branch) => vec![format!("refs/heads/{branch}"), drift_spec()],
            Ask::Objects(ids) => ids.iter().cloned().collect(),
        };
        let specs: Vec<&gix::bstr::BStr> = specs.iter().map(|spec| spec.as_bytes().as_bstr()).collect();
        let remote = repo.remote_at_without_url_rewrite(url)?.with_fetch_tags(Tags::None);
        remote.with_refspecs(specs, Direction::Fetch)
    }

    fn over_http(&self, repo: &gix::Repository, url: &Url, interrupt: &Interrupt) -> Result<Answer, SourceError> {
        super::init_tls();
        let failed = |error: gix::Error| self.failed(error, "");
        let remote = self.gix_remote(repo, url.as_str()).map_err(failed)?;
        let mut connection = remote.connect(Direction::Fetch).map_err(failed)?;
        if let Some(mut options) = repo.transport_options(url.as_str(), None).map_err(failed)? {
            if let Some(options) = options.downcast_mut::<http::Options>() {
                options.backend = Some(Arc::new(Mutex::new(backend(is_loopback(url)))));
                if let Some((user, secret)) = self.remote.login()
                    && url.scheme() == "http"
                {
                    // gix refuses to log in over http by itself; here it is allowed, or stays on this machine. A
                    // redirect is then refused, so it goes nowhere else.
                    options.extra_headers.push(basic(&user, secret));
                }
            }
            connection.set_transport_options(options);
        }
        if url.scheme() == "http" {
            connection.set_credentials(|_| {
                let why = "it wants a login, or another one";
                Err(gix::Error::from_error(std::io::Error::new(std::io::ErrorKind::PermissionDenied, why)))
            });
        } else if let Some((user, secret)) = self.remote.login() {
            connection.set_credentials(login(url.clone(), user, secret.clone()));
        }
        self.talk(repo, connection, interrupt).map_err(failed)
    }

    fn over_pipes(
        &self,
        repo: &gix::Repository,
        command: Command,
        path: &str,
        interrupt: &Interrupt,
    ) -> Result<Answer, SourceError> {
        let pipes = interrupt.spawn(command)?;
        let said = pipes.said;
        let host: Option<(String, Option<u16>)> = None;
        let pipe =
            PipeConnection::new(pipes.stdout, pipes.stdin, Protocol::V2, path, host, ConnectMode::Process, false);
        let result = self.gix_remote(repo, "file:///").and_then(|remote| {
            let mut connection = remote.to_connection_with_transport(pipe);
            connection.set_credentials(|_| Ok(None));
            self.talk(repo, connection, interrupt)
        });
        result.map_err(|error| {
            interrupt.end_child();
            self.failed(error, &said.last_words())
        })
    }

    fn talk<T: Transport>(
        &self,
        repo: &gix::Repository,
        connection: Connection<'_, '_, '_, T>,
        interrupt: &Interrupt,
    ) -> Result<Answer, gix::Error> {
        let options = ref_map::Options::default();
        match self.depth {
            Depth::RefsOnly => {
                let (map, _) = connection.ref_map(gix::progress::Discard, options)?;
                Ok(Answer { refs: self.refs(&map.mappings), keep: None })
            }
            Depth::WithObjects => {
                let prepared = connection.prepare_fetch(gix::progress::Discard, options)?;
                // Packed refs have no files and folders that could be in each other's way.
                let prepared = prepared.with_write_packed_refs_only(true);
                let refs = self.refs(&prepared.ref_map().mappings);
                let missing = |id: &String| gix::ObjectId::from_hex(id.as_bytes()).is_ok_and(|id| !repo.has_object(id));
                let wanted = match &self.ask {
                    Ask::Branch(_) => refs.ids().any(missing),
                    Ask::Objects(ids) => ids.iter().any(missing),
                };
                if !wanted {
                    return Ok(Answer { refs, keep: None });
                }
                let outcome = prepared.receive(gix::progress::Discard, &interrupt.flag)?;
                let keep = match outcome.status {
                    Status::Change { write_pack_bundle, .. } => write_pack_bundle.keep_path,
                    Status::NoPackReceived { .. } => None,
                };
                Ok(Answer { refs, keep })
            }
        }
    }

    /// The advertisement, in our words.
    fn refs(&self, mappings: &[gix::remote::fetch::refmap::Mapping]) -> Refs {
        let mut refs = Refs { head: None, branch: None, drift: BTreeMap::new() };
        let Ask::Branch(branch) = &self.ask else { return refs };
        refs.branch = (branch != HEAD).then(|| branch.clone());
        for mapping in mappings {
            let Source::Ref(reference) = &mapping.remote else { continue };
            let (name, id, target) = match reference {
                Ref::Direct { full_ref_name, object } => (full_ref_name, Some(object), None),
                Ref::Peeled { full_ref_name, object, .. } => (full_ref_name, Some(object), None),
                Ref::Symbolic { full_ref_name, object, target, .. } => (full_ref_name, Some(object), Some(target)),
                Ref::Unborn { full_ref_name, target } => (full_ref_name, None, Some(target)),
            };
            let id = id.map(ToString::to_string);
            let name = name.to_string();
            let short = name.strip_prefix("refs/heads/");
            if let Some(drift) = short.filter(|short| short.starts_with(DRIFT_PREFIX)) {
                refs.drift.extend(id.clone().map(|id| (drift.to_owned(), id)));
            }
            if name == HEAD && branch == HEAD {
                refs.head = id;
                let target = target.map(ToString::to_string);
                refs.branch = target.and_then(|target| target.strip_prefix("refs/heads/").map(str::to_owned));
            } else if short == Some(branch) {
                refs.head = id;
            }
        }
        refs
    }

    /// Tells a full disk here and a refused login there from everything else that can go wrong on the way.
    fn failed(&self, error: gix::Error, said: &str) -> SourceError {
        if is_disk_full(&error) {
            return self.unusable(Box::new(error));
        }
        let remote = self.remote.shown();
        let mut why: Vec<String> = Vec::new();
        let mut login = error.is_permission_denied() || error.is_unauthenticated();
        let mut untrusted = None;
        for cause in error.iter_errors() {
            if let Some(io) = cause.downcast_ref::<std::io::Error>() {
                login |= io.kind() == std::io::ErrorKind::PermissionDenied;
            }
            untrusted = untrusted.or_else(|| distrust(cause));
            let text = cause.to_string();
            if !why.contains(&text) {
                why.push(text);
            }
        }
        login |= said.contains("Permission denied");
        let unknown_host = matches!(self.address, Address::Ssh(_)) && says_unknown_host(said);
        if let Some(why) = untrusted {
            return SourceError::Untrusted { remote, why: why.to_string() };
        }
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let why = if said.is_empty() { why.join(": ") } else { said };
        let why: String = self.remote.redact(&why).chars().take(MAX_WHY).collect();
        if unknown_host {
            return SourceError::UnknownHost { remote, why };
        }
        if login { SourceError::Unauthorized { remote, why } } else { SourceError::Unreachable { remote, why } }
    }
}

/// What is wrong with the other side's certificate, if that is what `cause` is about.
fn distrust<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    match cause.downcast_ref::<rustls::Error>() {
        Some(error @ rustls::Error::InvalidCertificate(_)) => Some(error),
        // An input or output error shows the cause of what is inside it, but not what is inside it.
        Some(_) | None => cause.downcast_ref::<std::io::Error>().and_then(|io| distrust(io.get_ref()?)),
    }
}

/// gix takes a pattern only with a place for what it matches.
fn drift_spec() -> String {
    format!("+refs/heads/{DRIFT_PREFIX}*:{INCOMING}*")
}

/// How the https client is set up. A proxy is never used for this machine itself.
fn backend(loopback: bool) -> http::reqwest::Options {
    http::reqwest::Options {
        configure_client: Some(Box::new(move |client| {
            let client = client.connect_timeout(CONNECT_TIMEOUT).timeout(SILENCE_LIMIT);
            Ok(if loopback { client.no_proxy() } else { client })
        })),
        configure_request: None,
    }
}

fn basic(user: &str, secret: &SecretString) -> String {
    use base64::Engine as _;
    let login = format!("{user}:{}", secret.expose_secret());
    format!("Authorization: Basic {}", base64::engine::general_purpose::STANDARD.encode(login))
}

/// Gives the configured credential to the host it is for, and to no other that a redirect leads to.
fn login(
    url: Url,
    user: String,
    secret: SecretString,
) -> impl FnMut(Action) -> Result<Option<Outcome>, gix::Error> + 'static {
    let host = host_and_port(&url);
    move |action| {
        let Action::Get(mut context) = action else { return Ok(None) };
        context.destructure_url_in_place(false)?;
        let same = context.host == host && context.protocol.as_deref() == Some(url.scheme());
        if !same {
            return Ok(None);
        }
        let identity = gix::sec::identity::Account {
            username: user.clone(),
            password: secret.expose_secret().to_owned(),
            oauth_refresh_token: None,
        };
        Ok(Some(Outcome { identity, next: Context::default().into() }))
    }
}

fn host_and_port(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}
