//! An ssh server of a test's own, and people who come to it: on a free port of this machine, with host keys, settings and
//! everybody's keys in a temporary folder, gone with the test. Nothing of the person who runs the tests is read.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::server::once_ready;

/// Where Debian has it; sshd wants to be called by its whole path.
const SSHD: &str = "/usr/sbin/sshd";
/// Compiled into sshd, which does not start as root without it.
const EMPTY_FOLDER: &str = "/run/sshd";
/// How many ports are tried: another program may take one between its choice and its use.
const PORTS: usize = 5;
const PASSPHRASE: &str = "hunter2-hunter2";

/// Who comes, and what they know of the server.
#[derive(Clone, Copy, Debug)]
pub enum Person {
    /// Her key may log in, and she knows the server.
    Invited,
    /// Her key may not log in.
    Stranger,
    /// Her key may log in, and cannot be used before somebody types what it is locked with.
    Locked,
    /// She may log in, and has never been there.
    Newcomer,
    /// She may log in, and knows another server at that address.
    Deceived,
}

/// A running server that lets the user in who runs the tests.
pub struct SshServer {
    port: u16,
    folder: TempDir,
    child: Child,
}

impl SshServer {
    /// Starts a server and waits until it takes connections.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, passphrase) in
            [("host", ""), ("another-host", ""), ("invited", ""), ("locked", PASSPHRASE), ("stranger", "")]
        {
            make_key(&folder.path().join(name), passphrase);
        }
        let public = |name: &str| std::fs::read_to_string(folder.path().join(format!("{name}.pub"))).unwrap();
        std::fs::write(folder.path().join("authorized_keys"), public("invited") + &public("locked")).unwrap();
        if user() == "root" {
            std::fs::create_dir_all(EMPTY_FOLDER).unwrap();
        }
        for _ in 0..PORTS {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(child) = launch(folder.path(), port) {
                let known = |name: &str| format!("[127.0.0.1]:{port} {}", public(name));
                std::fs::write(folder.path().join("known_hosts"), known("host")).unwrap();
                std::fs::write(folder.path().join("other_hosts"), known("another-host")).unwrap();
                return Self { port, folder, child };
            }
        }
        panic!("{SSHD} does not start; is openssh-server installed?");
    }

    /// The address of a repository at this path.
    pub fn url(&self, path: &Path) -> String {
        format!("ssh://{}@127.0.0.1:{}{}", user(), self.port, path.display())
    }

    /// What `person` tells git to use for ssh: as `GIT_SSH_COMMAND`, or as `core.sshCommand`.
    pub fn command_of(&self, person: Person) -> String {
        let (key, hosts) = match person {
            Person::Invited => ("invited", "known_hosts"),
            Person::Stranger => ("stranger", "known_hosts"),
            Person::Locked => ("locked", "known_hosts"),
            Person::Newcomer => ("invited", "no_hosts"),
            Person::Deceived => ("invited", "other_hosts"),
        };
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        format!(
            "ssh -F none -i {} -o IdentitiesOnly=yes -o UserKnownHostsFile={} -o GlobalKnownHostsFile=/dev/null",
            path(key),
            path(hosts)
        )
    }

    /// A file that has git use ssh as `person` does, for `GIT_CONFIG_GLOBAL`.
    pub fn config_of(&self, person: Person) -> PathBuf {
        let path = self.folder.path().join("gitconfig");
        std::fs::write(&path, format!("[core]\n\tsshCommand = {}\n", self.command_of(person))).unwrap();
        path
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        // It may be dead already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who runs the tests.
fn user() -> String {
    let output = Command::new("id").arg("-un").output().expect("id runs");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn make_key(path: &Path, passphrase: &str) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-C", "", "-N", passphrase, "-f"]).arg(path);
    let output = command.output().expect("ssh-keygen is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Starts a server that dies with this test, however that ends; `None` when it could not have the port.
fn launch(folder: &Path, port: u16) -> Option<Child> {
    let here = folder.display();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {here}/host\nPidFile {here}/sshd.pid\n\
         AuthorizedKeysFile {here}/authorized_keys\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nAcceptEnv GIT_PROTOCOL\n"
    );
    std::fs::write(folder.join("sshd_config"), config).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", SSHD, "-D", "-e", "-f"]).arg(folder.join("sshd_config"));
    let mut child =
        command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("setpriv and sshd are installed");
    let log = child.stderr.take().unwrap();
    once_ready("sshd", child, log, |line| line.starts_with("Server listening on 127.0.0.1"))
}
