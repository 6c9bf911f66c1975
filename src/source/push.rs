//! Pushes one branch with the git program, from where it is expected to be, or not at all.
//!
//! A credential goes to git through its environment and a helper that is bound to the remote's host: it is on no
//! command line, in no file, and goes nowhere else.

use std::process::Command;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::error::SourceError;
use super::mirror::{Mirror, check_branch_to_push};
use super::process::{End, Ssh, Variables, git, run, says_unknown_host};
use super::remote::{Address, Remote};

/// How long one push may take; it sends one small commit.
const PUSH_LIMIT: Duration = Duration::from_secs(120);
/// Carries the user name to the credential helper.
const USER_VARIABLE: &str = "PLUMB_GIT_USER";
/// Carries the credential to the credential helper.
const SECRET_VARIABLE: &str = "PLUMB_GIT_SECRET";
/// What names the authorities that are trusted: a file and folders of them, each beside the variable that git knows for
/// it.
const TRUST: [(&str, &str); 2] = [("SSL_CERT_FILE", "GIT_SSL_CAINFO"), ("SSL_CERT_DIR", "GIT_SSL_CAPATH")];
/// How much of what the remote said is told.
const MAX_WHY: usize = 600;

/// Answers git's question for a login from the variables above.
const HELPER: &str =
    r#"!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$PLUMB_GIT_USER" "$PLUMB_GIT_SECRET"; }; f"#;

impl Mirror {
    /// Moves `branch` of the remote to `commit` of the mirror (`None` deletes it), if it is at `expected` now (`None`:
    /// if there is no such branch). A branch that is at `commit` already is a success.
    ///
    /// # Errors
    /// [`SourceError::Stale`] when the branch is elsewhere, [`SourceError::Refused`] when the remote's rules forbid
    /// it, [`SourceError::Unauthorized`], [`SourceError::Unreachable`] or [`SourceError::TimedOut`] when it was not
    /// even asked.
    pub fn push(&self, branch: &str, commit: Option<&str>, expected: Option<&str>) -> Result<(), SourceError> {
        check_branch_to_push(branch)?;
        let hash = |rev: &str| self.resolve_hash(rev);
        let commit = commit.map(hash).transpose()?.unwrap_or_default();
        // The expected commit need not be in the mirror, but has to be a hash.
        let expected = expected.map(|rev| self.spelled_hash(rev)).transpose()?.unwrap_or_default();
        let (command, variables) = self.push_command(branch, &commit, &expected)?;
        let _call = tracing::debug_span!("git.push", remote = %self.remote.shown(), branch, commit, expected).entered();
        let end = run(command, variables, PUSH_LIMIT, &self.remote.shown())?;
        self.judge(branch, &end)
    }

    fn push_command(&self, branch: &str, commit: &str, expected: &str) -> Result<(Command, Variables), SourceError> {
        let mut command = git(protocols(&self.remote));
        let mut variables = Vec::new();
        if let Some((user, secret)) = self.remote.login()
            && let Address::Http(url) = &self.address
        {
            let host = url[..url::Position::AfterPort].rsplit_once('@').map_or_else(
                || url[..url::Position::AfterPort].to_owned(),
                |(_, host)| format!("{}://{host}", url.scheme()),
            );
            // The empty one forgets the helpers of the person's configuration.
            command.args(["-c", "credential.helper="]).arg("-c").arg(format!("credential.{host}.helper={HELPER}"));
            command.env("GIT_ASKPASS", "").env("SSH_ASKPASS", "");
            variables.push((USER_VARIABLE, user));
            variables.push((SECRET_VARIABLE, secret.expose_secret().to_owned()));
        }
        for (ours, of_git) in TRUST {
            let place = std::env::var_os(ours).filter(|place| !place.is_empty());
            // What can be read can be pushed to.
            if let Some(place) = place.filter(|_| std::env::var_os(of_git).is_none()) {
                command.env(of_git, place);
            }
        }
        let target = match &self.address {
            Address::Local(path) => path.as_os_str().to_owned(),
            Address::Http(_) => self.remote.url.clone().into(),
            Address::Ssh(_) => {
                let options = gix::open_opts(&self.path, gix::open::Options::default());
                let repo = options.map_err(|source| self.unusable(source))?;
                let ssh = Ssh::of(&repo).map_err(|source| SourceError::Mirror { path: self.path.clone(), source })?;
                variables.extend(ssh.for_git().map(|line| ("GIT_SSH_COMMAND", line)));
                self.remote.url.clone().into()
            }
        };
        command.args(["-c", "push.gpgSign=false", "-c", "push.followTags=false", "-c", "push.recurseSubmodules=no"]);
        command.args(["-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60"]);
        command.arg("--git-dir").arg(&self.path);
        command.args(["push", "--porcelain", "--no-verify", "--no-progress"]);
        command.arg(format!("--force-with-lease=refs/heads/{branch}:{expected}"));
        command.arg("--").arg(target).arg(format!("{commit}:refs/heads/{branch}"));
        Ok((command, variables))
    }

    /// Reads the outcome from the line that git prints for the ref, and else from what it says.
    fn judge(&self, branch: &str, end: &End) -> Result<(), SourceError> {
        if end.success {
            return Ok(());
        }
        let (remote, branch) = (self.remote.shown(), branch.to_owned());
        let why: String = self.remote.redact(&end.stderr).chars().take(MAX_WHY).collect();
        let rejected = end.stdout.lines().find_map(|line| line.strip_prefix("!\t")).map(|line| {
            let summary = line.split('\t').nth(1).unwrap_or(line);
            self.remote.redact(summary)
        });
        if let Some(summary) = rejected {
            const MOVED: &[&str] = &[
                "stale info",
                "failed to lock",
                "cannot lock ref",
                "failed to update ref",
                "fetch first",
                "already exists",
            ];
            // A branch `plumb` leaves no room for `plumb/drift/...`.
            const IN_THE_WAY: &str = "exists; cannot create";
            let is_in_the_way = end.stderr.contains(IN_THE_WAY);
            if !is_in_the_way && MOVED.iter().any(|word| summary.contains(word)) {
                return Err(SourceError::Stale { remote, branch });
            }
            let why = if why.is_empty() { summary } else { format!("{summary}: {why}") };
            return Err(SourceError::Refused { remote, branch, why });
        }
        const LOGIN: &[&str] = &[
            "Authentication failed",
            "could not read Username",
            "could not read Password",
            "Permission denied",
            "returned error: 401",
            "returned error: 403",
        ];
        if matches!(self.address, Address::Ssh(_)) && says_unknown_host(&end.stderr) {
            return Err(SourceError::UnknownHost { remote, why });
        }
        if LOGIN.iter().any(|word| end.stderr.contains(word)) {
            return Err(SourceError::Unauthorized { remote, why });
        }
        // As curl says it, built with GnuTLS or with OpenSSL.
        const TRUST: &[&str] = &["server certificate verification failed", "SSL certificate problem"];
        if TRUST.iter().any(|word| end.stderr.contains(word)) {
            return Err(SourceError::Untrusted { remote, why });
        }
        Err(SourceError::Unreachable { remote, why })
    }

    fn resolve_hash(&self, rev: &str) -> Result<String, SourceError> {
        self.spelled_hash(rev)?;
        self.resolve(rev)
    }

    fn spelled_hash(&self, rev: &str) -> Result<String, SourceError> {
        match gix::ObjectId::from_hex(rev.as_bytes()) {
            Ok(id) => Ok(id.to_string()),
            Err(_) => Err(SourceError::NoSuchCommit { remote: self.remote.shown(), rev: rev.to_owned() }),
        }
    }

    fn unusable(&self, source: gix::Error) -> SourceError {
        SourceError::Mirror { path: self.path.clone(), source: Box::new(source) }
    }
}

/// What git may speak: what the URL may be, even where the person's configuration rewrites it.
fn protocols(remote: &Remote) -> &'static str {
    if remote.url.starts_with("http://") { "https:ssh:file:http" } else { "https:ssh:file" }
}
