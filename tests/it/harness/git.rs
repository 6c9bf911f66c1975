//! Real git repositories for tests: a bare remote with the branch `main`, and a working clone of it.
//!
//! Everything happens in a temporary folder, with a home of its own and no configuration of the person who runs the
//! tests; authors and dates are fixed, so the same story always gives the same commits.
//!
//! ```ignore
//! let repo = GitRepo::new();
//! repo.write("environments/staging/orders.yaml", "apiVersion: plumb.dev/v1\n");
//! let first = repo.commit("Add orders");
//! let mirror = Mirror::open(folder, Remote::new(repo.url()))?;
//! // Plumb pushes plumb/drift/staging/database-orders; a person merges it:
//! repo.merge("plumb/drift/staging/database-orders", MergeHow::Squash);
//! ```

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

/// When the first commit is made; each later one a minute after.
const FIRST_COMMIT: i64 = 1_700_000_000;

/// How a person merges a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeHow {
    /// `main` moves to the branch; it must not have moved meanwhile.
    FastForward,
    /// A commit with two parents.
    MergeCommit,
    /// One new commit with the branch's changes; the branch's own commits are not in the history.
    Squash,
}

/// A remote and a working clone of it.
#[derive(Debug)]
pub struct GitRepo {
    folder: TempDir,
    /// How many commits were made.
    commits: AtomicI64,
}

impl GitRepo {
    /// A remote without any commit.
    pub fn new() -> Self {
        let repo = Self { folder: TempDir::new().expect("a temporary folder"), commits: AtomicI64::new(0) };
        fs::create_dir(repo.folder.path().join("home")).expect("a home");
        repo.run_in(repo.folder.path(), &["init", "--quiet", "--bare", "--initial-branch=main", "remote.git"]);
        repo.run_in(repo.folder.path(), &["init", "--quiet", "--initial-branch=main", "work"]);
        repo.git(&["remote", "add", "origin", &repo.url()]);
        repo
    }

    /// Where the remote is: its path.
    pub fn url(&self) -> String {
        self.remote().to_str().expect("a plain path").to_owned()
    }

    /// The folder of the bare remote.
    pub fn remote(&self) -> PathBuf {
        self.folder.path().join("remote.git")
    }

    /// The folder of the working clone.
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// Writes a file of the working clone.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.work().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        fs::write(path, text).expect("the file can be written");
    }

    /// Removes a file of the working clone.
    pub fn remove(&self, path: &str) {
        fs::remove_file(self.work().join(path)).expect("the file can be removed");
    }

    /// Makes a symbolic link in the working clone.
    #[cfg(unix)]
    pub fn link(&self, path: &str, target: &str) {
        let path = self.work().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        std::os::unix::fs::symlink(target, path).expect("the link can be made");
    }

    /// Commits all that changed and pushes the branch; gives the commit.
    pub fn commit(&self, message: &str) -> String {
        let commit = self.commit_locally(message);
        self.git(&["push", "--quiet", "origin", "HEAD"]);
        commit
    }

    /// Commits all that changed, and pushes nothing.
    pub fn commit_locally(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
        self.head()
    }

    /// The commit that the working clone is at.
    pub fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    /// The commit that a branch of the remote is at.
    pub fn remote_head(&self, branch: &str) -> Option<String> {
        let name = format!("refs/heads/{branch}");
        let output = self.command(&self.remote(), &["rev-parse", "--verify", "--quiet", &name]).output();
        let output = output.expect("git runs");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The branches of the remote, sorted.
    pub fn branches(&self) -> Vec<String> {
        let list = self.remote_git(&["for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads/"]);
        list.lines().map(str::to_owned).collect()
    }

    /// Merges a branch of the remote into `main`, as a person would, and pushes; gives the new head. The branch stays.
    pub fn merge(&self, branch: &str, how: MergeHow) -> String {
        self.pull();
        let branch = format!("origin/{branch}");
        match how {
            MergeHow::FastForward => self.git(&["merge", "--quiet", "--ff-only", &branch]),
            MergeHow::MergeCommit => self.git(&["merge", "--quiet", "--no-ff", "-m", "Merge", &branch]),
            MergeHow::Squash => {
                self.git(&["merge", "--quiet", "--squash", &branch]);
                self.git(&["commit", "--quiet", "-m", "Squashed"])
            }
        };
        self.git(&["push", "--quiet", "origin", "main"]);
        self.head()
    }

    /// Brings the working clone to what the remote has on `main`.
    pub fn pull(&self) {
        self.git(&["fetch", "--quiet", "--prune", "origin"]);
        self.git(&["checkout", "--quiet", "main"]);
        self.git(&["merge", "--quiet", "--ff-only", "origin/main"]);
    }

    /// Starts a branch at the working clone's head and checks it out; [`GitRepo::commit`] then pushes to it.
    pub fn branch(&self, name: &str) {
        self.git(&["checkout", "--quiet", "-b", name]);
    }

    /// Checks out what is there already.
    pub fn checkout(&self, rev: &str) {
        self.git(&["checkout", "--quiet", rev]);
    }

    /// Deletes a branch of the remote.
    pub fn delete_branch(&self, branch: &str) {
        self.git(&["push", "--quiet", "origin", &format!(":refs/heads/{branch}")]);
    }

    /// Pushes the branch that is checked out, whatever the remote has.
    pub fn push_force(&self) {
        self.git(&["push", "--quiet", "--force", "origin", "HEAD"]);
    }

    /// Throws away the commits after `rev`, in the working clone only.
    pub fn reset(&self, rev: &str) {
        self.git(&["reset", "--quiet", "--hard", rev]);
    }

    /// A file of the remote, as `rev:path`.
    pub fn show(&self, what: &str) -> String {
        let output = self.command(&self.remote(), &["show", what]).output().expect("git runs");
        assert!(output.status.success(), "git show {what}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// The subjects of the commits of a branch of the remote, newest first.
    pub fn log(&self, branch: &str) -> Vec<String> {
        let log = self.remote_git(&["log", "--format=%s", branch, "--"]);
        log.lines().map(str::to_owned).collect()
    }

    /// The paths that a commit of the remote changed.
    pub fn touched(&self, commit: &str) -> Vec<String> {
        let list = self.remote_git(&["diff-tree", "--no-commit-id", "--name-only", "-r", "--root", commit]);
        list.lines().map(str::to_owned).collect()
    }

    /// Puts a hook into the remote; `pre-receive` can refuse pushes.
    #[cfg(unix)]
    pub fn hook(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.remote().join("hooks").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        fs::write(&path, script).expect("the hook can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the hook can be made executable");
    }

    /// Takes the remote away, as if its disk were unmounted.
    pub fn vanish(&self) {
        fs::rename(self.remote(), self.folder.path().join("away.git")).expect("the remote can be moved");
    }

    /// Puts it back.
    pub fn come_back(&self) {
        fs::rename(self.folder.path().join("away.git"), self.remote()).expect("the remote can be moved");
    }

    /// Runs git in the working clone; gives what it printed, trimmed. A failure ends the test.
    pub fn git(&self, args: &[&str]) -> String {
        self.run_in(&self.work(), args)
    }

    /// Runs git in the bare remote.
    pub fn remote_git(&self, args: &[&str]) -> String {
        self.run_in(&self.remote(), args)
    }

    fn run_in(&self, folder: &Path, args: &[&str]) -> String {
        let output = self.command(folder, args).output().expect("git runs");
        let (said, printed) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "git {}: {said}{printed}", args.join(" "));
        printed.trim().to_owned()
    }

    fn command(&self, folder: &Path, args: &[&str]) -> Command {
        let time = FIRST_COMMIT + 60 * self.commits.load(Ordering::SeqCst);
        if args.iter().any(|arg| matches!(*arg, "commit" | "merge")) {
            self.commits.fetch_add(1, Ordering::SeqCst);
        }
        let mut command = Command::new("git");
        command.current_dir(folder).args(args).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.folder.path().join("home"));
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "Ada").env(format!("GIT_{who}_EMAIL"), "ada@example.com");
            command.env(format!("GIT_{who}_DATE"), format!("{time} +0000"));
        }
        command.env("GIT_ALLOW_PROTOCOL", "file:http");
        command
    }
}

impl Default for GitRepo {
    fn default() -> Self {
        Self::new()
    }
}

/// Serves repositories over http or https on loopback, by git's own `http-backend`. Ends with the test process.
#[derive(Debug)]
pub struct GitHttpServer {
    scheme: &'static str,
    address: SocketAddr,
    requests: Requests,
}

/// What it was asked for, oldest first.
type Requests = Arc<Mutex<Vec<Request>>>;

/// What a client wants of a repository, in the words of git's protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To begin: what the server can do, and in older versions of the protocol its refs.
    Handshake,
    /// The refs.
    LsRefs,
    /// Objects.
    Fetch,
    /// Anything else: its method and its path.
    Other(String),
}

impl Request {
    fn of(method: &str, target: &str, body: &[u8]) -> Self {
        let begins = |command: &[u8]| body.get(4..).is_some_and(|body| body.starts_with(command));
        match method {
            "GET" if target.ends_with("/info/refs?service=git-upload-pack") => Self::Handshake,
            "POST" if target.ends_with("/git-upload-pack") && begins(b"command=ls-refs") => Self::LsRefs,
            "POST" if target.ends_with("/git-upload-pack") => Self::Fetch,
            _ => Self::Other(format!("{method} {target}")),
        }
    }
}

impl GitHttpServer {
    /// Serves the repositories below `root`; with `login`, to whoever sends that `user:password`.
    pub fn start(root: &Path, login: Option<&str>) -> Self {
        Self::listen(root, login, None)
    }

    /// The same over https, with the certificate that `ca` made for 127.0.0.1.
    pub fn start_https(root: &Path, ca: &PrivateCa, login: Option<&str>) -> Self {
        Self::listen(root, login, Some(ca.server_config()))
    }

    fn listen(root: &Path, login: Option<&str>, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let exec_path = Command::new("git").arg("--exec-path").output().expect("git runs").stdout;
        let backend = Path::new(String::from_utf8(exec_path).expect("text").trim()).join("git-http-backend");
        assert!(backend.exists(), "there is no {}; Debian has it in the package git", backend.display());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let requests = Requests::default();
        let site = Site { backend, root: root.to_owned(), login: login.map(basic), requests: Arc::clone(&requests) };
        let site = Arc::new(site);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (site, tls) = (Arc::clone(&site), tls.clone());
                std::thread::spawn(move || {
                    // A client that hangs up is no failure of the test.
                    let _ = match tls {
                        None => site.answer(stream),
                        Some(tls) => site.answer_https(stream, tls),
                    };
                });
            }
        });
        Self { scheme, address, requests }
    }

    /// What was asked for since this was asked last.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    /// The URL of the repository `name` below the root.
    pub fn url(&self, name: &str) -> String {
        format!("{}://{}/{name}", self.scheme, self.address)
    }
}

fn basic(login: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(login))
}

/// What a server serves, and to whom.
struct Site {
    backend: PathBuf,
    root: PathBuf,
    login: Option<String>,
    requests: Requests,
}

impl Site {
    fn answer_https(&self, stream: TcpStream, tls: Arc<rustls::ServerConfig>) -> std::io::Result<()> {
        let connection = rustls::ServerConnection::new(tls).map_err(std::io::Error::other)?;
        let mut stream = rustls::StreamOwned::new(connection, stream);
        self.answer(&mut stream)?;
        stream.conn.send_close_notify();
        stream.flush()
    }

    fn answer(&self, stream: impl Read + Write) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':') {
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let header = |name: &str| headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
        if header("expect") == "100-continue" {
            reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = read_body(&mut reader, header("transfer-encoding"), header("content-length"))?;
        let mut stream = reader.into_inner();
        self.requests.lock().unwrap().push(Request::of(&method, &target, &body));
        if self.login.as_ref().is_some_and(|login| header("authorization") != login) {
            let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\n";
            return stream.write_all(format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n").as_bytes());
        }
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut command = Command::new(&self.backend);
        command.env("GIT_PROJECT_ROOT", &self.root).env("GIT_HTTP_EXPORT_ALL", "1").env("REMOTE_USER", "ada");
        command.env("REQUEST_METHOD", &method).env("PATH_INFO", path).env("QUERY_STRING", query);
        command.env("CONTENT_TYPE", header("content-type")).env("CONTENT_LENGTH", body.len().to_string());
        command.env("HTTP_CONTENT_ENCODING", header("content-encoding"));
        command.env("GIT_PROTOCOL", header("git-protocol")).env("REMOTE_ADDR", "127.0.0.1");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut stdin = child.stdin.take().expect("a pipe");
        let feed = std::thread::spawn(move || stdin.write_all(&body));
        let output = child.wait_with_output()?.stdout;
        // It may have answered without reading all.
        let _ = feed.join();
        let split = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(output.len());
        let head = String::from_utf8_lossy(&output[..split]).into_owned();
        let body = output.get(split + 4..).unwrap_or_default();
        let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
        let rest: String =
            head.lines().filter(|line| !line.starts_with("Status:")).map(|line| format!("{line}\r\n")).collect();
        let head = format!("HTTP/1.1 {status}\r\n{rest}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)
    }
}

fn read_body(reader: &mut impl BufRead, encoding: &str, length: &str) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if encoding != "chunked" {
        reader.take(length.parse().unwrap_or(0)).read_to_end(&mut body)?;
        return Ok(body);
    }
    loop {
        let mut size = String::new();
        reader.read_line(&mut size)?;
        let size = u64::from_str_radix(size.trim(), 16).unwrap_or(0);
        reader.by_ref().take(size).read_to_end(&mut body)?;
        reader.read_line(&mut String::new())?;
        if size == 0 {
            return Ok(body);
        }
    }
}

/// A certificate authority that nobody trusts by itself, and a certificate of it for 127.0.0.1.
#[derive(Debug)]
pub struct PrivateCa {
    folder: TempDir,
}

impl PrivateCa {
    pub fn new() -> Self {
        let ca = Self { folder: tempfile::tempdir().expect("a folder") };
        let subject = ["-subj", "/CN=A private authority", "-keyout", "ca.key", "-out", "ca.pem"];
        ca.openssl(&subject, &["keyUsage=critical,keyCertSign"]);
        let subject =
            ["-subj", "/CN=git", "-keyout", "git.key", "-out", "git.pem", "-CA", "ca.pem", "-CAkey", "ca.key"];
        ca.openssl(&subject, &["subjectAltName=IP:127.0.0.1", "basicConstraints=critical,CA:FALSE"]);
        ca
    }

    /// The certificate of the authority.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn openssl(&self, args: &[&str], extensions: &[&str]) {
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-days", "2", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        command.args(args).args(extensions.iter().flat_map(|extension| ["-addext", extension]));
        let output = command.current_dir(self.folder.path()).output().expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn server_config(&self) -> Arc<rustls::ServerConfig> {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        plumb::source::init_tls();
        let certificate = CertificateDer::from_pem_file(self.folder.path().join("git.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(self.folder.path().join("git.key")).expect("a key");
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        Arc::new(config.with_single_cert(vec![certificate], key).expect("they belong together"))
    }
}
