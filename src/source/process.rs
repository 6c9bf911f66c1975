//! The programs that `source` starts: git and ssh, with an environment that holds no surprises, and an end.
//!
//! What the person set up for git keeps working (ssh configuration, credential helpers, proxies); what would point
//! git at another repository, make it ask at a terminal, or run hooks does not.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::SourceError;
use super::remote::SshAddress;

/// How long a connection may take to come up.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How much of what a program says on stderr is kept: its end, where the reason stands.
const STDERR_KEPT: usize = 4096;
/// How long the last words of an ended program are waited for; a helper of it may keep the pipe open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// More than git says on stdout when it is asked to be brief.
const MAX_STDOUT: u64 = 1024 * 1024;
/// How often a program that has closed its output is looked at until it has ended; it is about to.
const END_POLL: Duration = Duration::from_millis(5);

/// What points git at another repository than the one it is told, or makes it print what it sends.
const VARIABLES_REMOVED: &[&str] = &[
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_PROTOCOL",
    "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_TRACE",
    "GIT_TRACE2",
    "GIT_TRACE2_EVENT",
    "GIT_TRACE2_PERF",
    "GIT_TRACE_CURL",
    "GIT_TRACE_PACKET",
    "GIT_CURL_VERBOSE",
    "GIT_WORK_TREE",
];

/// The git program, which works where it is told to, whatever its caller's caller (a hook, say) was at work on.
pub fn git_program() -> Command {
    let mut command = Command::new("git");
    for name in VARIABLES_REMOVED {
        command.env_remove(name);
    }
    command.env("GIT_TERMINAL_PROMPT", "0");
    command
}

/// The same for conversations. `protocols` are those that it may use, in the form of `GIT_ALLOW_PROTOCOL`.
pub(super) fn git(protocols: &str) -> Command {
    let mut command = git_program();
    command.env("GCM_INTERACTIVE", "never").env("LC_ALL", "C");
    command.env("GIT_ALLOW_PROTOCOL", protocols);
    command.args(["-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "maintenance.auto=false"]);
    command.args(["-c", "protocol.ext.allow=never", "-c", "color.ui=false", "-c", "core.fsmonitor=false"]);
    command
}

/// The ssh program, as the person's git is set up to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ssh {
    /// `ssh` itself.
    Plain,
    /// `core.sshCommand` or `GIT_SSH_COMMAND`: a line for the shell.
    Line(OsString),
    /// `GIT_SSH`: a program.
    Program(OsString),
}

/// Options that keep ssh from asking and from waiting forever, whoever says how it is called; other programs than
/// OpenSSH's do not know them.
const SSH_OPTIONS: &[&str] =
    &["-oBatchMode=yes", "-oConnectTimeout=15", "-oServerAliveInterval=15", "-oServerAliveCountMax=4"];

/// What ssh says of a host that is not known, or by another key.
const UNKNOWN_HOST: &str = "Host key verification failed";

/// Whether ssh says that it does not know the host, and not a server that wants it to be thought.
pub(super) fn says_unknown_host(said: &str) -> bool {
    said.lines().any(|line| !line.starts_with("remote:") && line.contains(UNKNOWN_HOST))
}

impl Ssh {
    /// As configured for `repo`.
    pub fn of(repo: &gix::Repository) -> Result<Self, Box<gix::Error>> {
        let options = repo.ssh_connect_options().map_err(Box::new)?;
        Ok(match options.command {
            None => Self::Plain,
            Some(program) if options.disallow_shell => Self::Program(program),
            Some(line) => Self::Line(line),
        })
    }

    /// What `GIT_SSH_COMMAND` has to be so that git does the same; `None` leaves it to git.
    pub fn for_git(&self) -> Option<String> {
        if !self.is_openssh() {
            return None;
        }
        let line = match self {
            Self::Plain => "ssh".to_owned(),
            Self::Line(line) => line.to_str()?.to_owned(),
            Self::Program(program) => quoted(program.to_str()?),
        };
        Some(format!("{line} {}", SSH_OPTIONS.join(" ")))
    }

    /// Runs `git-upload-pack` at the other end.
    pub fn upload_pack(&self, address: &SshAddress) -> Command {
        let SshAddress { user, host, port, path } = address;
        let mut command = match self {
            Self::Plain => Command::new("ssh"),
            Self::Program(program) => Command::new(program),
            Self::Line(line) => {
                let mut script = line.clone();
                script.push(" \"$@\"");
                let mut command = Command::new("sh");
                command.arg("-c").arg(script).arg(line);
                command
            }
        };
        if self.is_openssh() {
            // Of an option that is given twice ssh takes the first: what the person says stands.
            command.args(SSH_OPTIONS).args(["-o", "SendEnv=GIT_PROTOCOL"]);
        }
        if let Some(port) = port {
            command.arg("-p").arg(port.to_string());
        }
        let host = user.as_ref().map_or_else(|| host.clone(), |user| format!("{user}@{host}"));
        command.arg(host).arg(format!("git-upload-pack {}", quoted(path)));
        command.env("GIT_PROTOCOL", "version=2").env("LC_ALL", "C").env("SSH_ASKPASS_REQUIRE", "never");
        command
    }

    fn is_openssh(&self) -> bool {
        let program = match self {
            Self::Plain => return true,
            Self::Program(program) => program.to_string_lossy().into_owned(),
            Self::Line(line) => {
                let line = line.to_string_lossy();
                let is_program = |word: &&str| !word.contains('=') && *word != "exec";
                let program = line.split_whitespace().find(is_program).unwrap_or_default();
                program.trim_matches(['"', '\'']).to_owned()
            }
        };
        Path::new(&program).file_name() == Some(OsStr::new("ssh"))
    }
}

/// `path` for the shell at the other end, as git quotes it; a home directory is left for it to find.
fn quoted(path: &str) -> String {
    let (home, rest) = match path.strip_prefix('~').and_then(|after| after.find('/')) {
        Some(slash) if path[1..=slash].chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) => {
            path.split_at(slash + 2)
        }
        Some(_) | None => ("", path),
    };
    format!("{home}'{}'", rest.replace('\'', "'\\''").replace('!', "'\\!'"))
}

/// Serves a local repository, for what the library cannot read itself.
pub(super) fn local_upload_pack(path: &Path) -> Command {
    let mut command = git("file");
    command.arg("upload-pack").arg(path).env("GIT_PROTOCOL", "version=2");
    command
}

/// A way to end work in another thread: it sees the flag, and its program is killed.
#[derive(Clone, Debug, Default)]
pub(super) struct Interrupt {
    pub flag: Arc<AtomicBool>,
    child: Arc<Mutex<Option<Child>>>,
}

impl Interrupt {
    /// Ends the work.
    pub fn stop(&self) {
        self.flag.store(true, Ordering::SeqCst);
        self.end_child();
    }

    /// Kills the program if it still runs, and waits for its end.
    pub fn end_child(&self) {
        if let Some(mut child) = self.child().take() {
            // It may have ended by itself; either way it is waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits for the end of the program; whether it ended well.
    fn wait(&self) -> bool {
        loop {
            // Taken out while it is waited for, it could not be killed; so it is only looked at.
            match self.child().as_mut().map(Child::try_wait) {
                Some(Ok(None)) => std::thread::sleep(END_POLL),
                Some(Ok(Some(status))) => return status.success(),
                Some(Err(_)) | None => return false,
            }
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a program to speak git with.
    pub fn spawn(&self, mut command: Command) -> Result<Pipes, SourceError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let missing = |source| SourceError::Program { program: program.clone(), source };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(missing)?;
        let pipes = child.stdin.take().zip(child.stdout.take()).zip(child.stderr.take());
        let Some(((stdin, stdout), stderr)) = pipes else {
            return Err(missing(std::io::Error::other("it has no pipes")));
        };
        *self.child() = Some(child);
        if self.flag.load(Ordering::SeqCst) {
            self.end_child();
        }
        Ok(Pipes { stdin, stdout, said: Said::listen(stderr) })
    }
}

/// The ends of a program's pipes.
pub(super) struct Pipes {
    pub stdin: ChildStdin,
    pub stdout: ChildStdout,
    pub said: Said,
}

/// What a program says on stderr.
pub(super) struct Said {
    kept: Receiver<String>,
}

impl Said {
    /// Reads it in a thread, so that the program never waits.
    pub fn listen(mut stderr: ChildStderr) -> Self {
        let (send, kept) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                text.extend_from_slice(&buffer[..count]);
                let over = text.len().saturating_sub(STDERR_KEPT);
                text.drain(..over);
            }
            // Nobody listens when all went well.
            let _ = send.send(String::from_utf8_lossy(&text).into_owned());
        });
        Self { kept }
    }

    /// All of it, once the program has ended.
    pub fn last_words(&self) -> String {
        self.kept.recv_timeout(LAST_WORDS).unwrap_or_default()
    }
}

/// Runs `work` in a thread of its own and waits for it no longer than `limit`. Late, it is told to stop, and what it
/// still gives is dropped.
pub(super) fn bounded<T: Send + 'static>(
    limit: Duration,
    remote: &str,
    work: impl FnOnce(&Interrupt) -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    let interrupt = Interrupt::default();
    let (send, receive) = mpsc::sync_channel(1);
    let inner = interrupt.clone();
    std::thread::spawn(move || {
        let result = work(&inner);
        inner.end_child();
        // Nobody waits any more when it is late.
        let _ = send.send(result);
    });
    match receive.recv_timeout(limit) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            interrupt.stop();
            Err(SourceError::TimedOut { remote: remote.to_owned(), seconds: limit.as_secs() })
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            interrupt.stop();
            Err(SourceError::Unreachable { remote: remote.to_owned(), why: "the conversation broke off".to_owned() })
        }
    }
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub success: bool,
    pub stdout: String,
    /// Its end, on one line.
    pub stderr: String,
}

/// Environment variables by name.
pub(super) type Variables = Vec<(&'static str, String)>;

/// Runs a program to its end, no longer than `limit`.
pub(super) fn run(
    mut command: Command,
    variables: Variables,
    limit: Duration,
    remote: &str,
) -> Result<End, SourceError> {
    command.envs(variables);
    bounded(limit, remote, move |interrupt| {
        let mut pipes = interrupt.spawn(command)?;
        drop(pipes.stdin);
        let mut stdout = Vec::new();
        // A program that is killed, or closes its end early, shows in how it ended.
        let _ = pipes.stdout.by_ref().take(MAX_STDOUT).read_to_end(&mut stdout);
        let success = interrupt.wait();
        let stderr = pipes.said.last_words().split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(End { success, stdout: String::from_utf8_lossy(&stdout).into_owned(), stderr })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_the_other_shell() {
        assert_eq!(quoted("acme/x.git"), "'acme/x.git'");
        assert_eq!(quoted("/a'b; rm -rf /"), "'/a'\\''b; rm -rf /'");
        assert_eq!(quoted("~me/x.git"), "~me/'x.git'");
        assert_eq!(quoted("~/x.git"), "~/'x.git'");
        assert_eq!(quoted("~$(x)/x.git"), "'~$(x)/x.git'");
    }

    #[test]
    fn an_ssh_of_the_persons_own_is_told_never_to_ask_where_it_knows_how() {
        let told = |ssh: Ssh| ssh.for_git().map(|line| line.replace(&SSH_OPTIONS.join(" "), "[OPTIONS]"));
        assert_eq!(told(Ssh::Plain).as_deref(), Some("ssh [OPTIONS]"));
        assert_eq!(told(Ssh::Line("ssh -i key".into())).as_deref(), Some("ssh -i key [OPTIONS]"));
        assert_eq!(told(Ssh::Program("/my ssh/ssh".into())).as_deref(), Some("'/my ssh/ssh' [OPTIONS]"));
        assert_eq!(told(Ssh::Line("plink -batch".into())), None);
        assert_eq!(told(Ssh::Program("/usr/bin/plink".into())), None);
    }

    #[test]
    fn work_that_is_late_is_stopped_and_its_program_killed() {
        let (ended, end) = mpsc::channel();
        let result: Result<(), SourceError> = bounded(Duration::from_millis(50), "there", move |interrupt| {
            let mut command = Command::new("sleep");
            command.arg("600");
            let mut pipes = interrupt.spawn(command)?;
            // Ends when the program does.
            let _ = pipes.stdout.read(&mut [0]);
            let _ = ended.send(interrupt.flag.load(Ordering::SeqCst));
            Ok(())
        });
        assert!(matches!(result, Err(SourceError::TimedOut { .. })), "{result:?}");
        assert!(end.recv_timeout(Duration::from_secs(60)).unwrap());
    }
}
