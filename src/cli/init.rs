//! `plumb init`: a platform repository and a first tenant's to start from, the ones in `examples/starter`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::args::Common;
use super::git::{commit_all, git};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder to make; must not be there yet, or be empty
    dir: PathBuf,
}

/// The files of the starter, by repository and path.
const STARTER: &[(&str, &str, &str)] = &[
    ("platform", "platform.yaml", include_str!("../../examples/starter/platform/platform.yaml")),
    ("platform", "providers.yaml", include_str!("../../examples/starter/platform/providers.yaml")),
    ("platform", "tenants.yaml", include_str!("../../examples/starter/platform/tenants.yaml")),
    (
        "checkout",
        "environments/staging/orders.yaml",
        include_str!("../../examples/starter/checkout/environments/staging/orders.yaml"),
    ),
    (
        "checkout",
        "environments/production/orders.yaml",
        include_str!("../../examples/starter/checkout/environments/production/orders.yaml"),
    ),
];

/// Where the starter says the tenant's repository is; replaced by where it is made.
const STARTER_URL: &str = "file:///srv/git/checkout.git";

/// Makes the two repositories and says what to do next.
pub fn run(args: &Args, common: &Common) -> anyhow::Result<u8> {
    let places = make(&args.dir)?;
    if !common.quiet {
        let shown = args.dir.display();
        eprintln!(
            "made two repositories:\n  \
             {shown}/platform   who the tenants are, where things live\n  \
             {shown}/checkout   what the team checkout wants\n\n\
             next:\n  \
             plumb plan  --platform {shown}/platform    what would change\n  \
             plumb apply --platform {shown}/platform    make it so\n  \
             plumb serve --platform {shown}/platform    keep it so\n\n\
             then change a file in {shown}/checkout, commit, and look again"
        );
    }
    drop(places);
    Ok(0)
}

/// The repositories that were made.
pub struct Places {
    pub platform: PathBuf,
    pub tenant: PathBuf,
}

/// Makes the starter below `dir`.
pub fn make(dir: &Path) -> anyhow::Result<Places> {
    let taken = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if taken || dir.is_file() {
        bail!("{} is there already and not empty; choose another folder", dir.display());
    }
    fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let dir = fs::canonicalize(dir)?;
    let places = Places { platform: dir.join("platform"), tenant: dir.join("checkout") };
    for (repository, path, text) in STARTER {
        let file = dir.join(repository).join(path);
        fs::create_dir_all(file.parent().unwrap_or(&dir))?;
        // The path goes through YAML's double quotes.
        let url = serde_json::to_string(&places.tenant.display().to_string())?;
        let text = text.replace(&format!("\"{STARTER_URL}\""), &url);
        fs::write(&file, text).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    for repository in [&places.platform, &places.tenant] {
        git(repository, &["init", "--quiet", "--initial-branch=main"])?;
        commit_all(repository, "Start with Plumb")?;
    }
    Ok(places)
}
