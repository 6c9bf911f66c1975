//! The git program, for the commands that make repositories.

use std::path::Path;

use anyhow::{Context, bail};

use crate::source::git_program;

/// Runs git in `folder` and gives what it printed.
pub fn git(folder: &Path, args: &[&str]) -> anyhow::Result<String> {
    let output = git_program()
        .arg("-C")
        .arg(folder)
        .args(args)
        .output()
        .context("git could not be started; it has to be installed")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("git {} failed in {}: {}", args.first().unwrap_or(&""), folder.display(), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// Commits all there is. People who have told git who they are commit as themselves.
pub fn commit_all(folder: &Path, message: &str) -> anyhow::Result<String> {
    git(folder, &["add", "--all"])?;
    let known = git(folder, &["config", "user.email"]).is_ok();
    let mut args = if known { vec![] } else { vec!["-c", "user.name=Plumb", "-c", "user.email=plumb@plumb.invalid"] };
    args.extend(["-c", "commit.gpgsign=false", "commit", "--quiet", "--message", message]);
    git(folder, &args)?;
    git(folder, &["rev-parse", "HEAD"])
}
