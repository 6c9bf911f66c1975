//! Everything in `examples/` is right, as people would check it.

use std::path::{Path, PathBuf};

use crate::harness::desk::Desk;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn folders(below: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn files(below: &Path) -> usize {
    std::fs::read_dir(below)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { files(&path) } else { 1 })
        .sum()
}

#[test]
fn every_file_validates_its_platform_against_its_tenants() {
    let examples = folders(&root());
    assert!(examples.len() >= 2, "{examples:?}");
    let desk = Desk::empty();
    for example in &examples {
        let parts: Vec<String> = folders(example).iter().map(|part| part.display().to_string()).collect();
        assert!(parts.iter().any(|part| part.ends_with("/platform")), "{} has no platform", example.display());
        let args: Vec<&str> = std::iter::once("validate").chain(parts.iter().map(String::as_str)).collect();
        let said = desk.plumb_with(&args, &[]);
        assert_eq!(said.code, 0, "{said:?}");
        // Not one finding, warnings included, and not one file passed over.
        assert_eq!(said.stdout, "");
        let all = format!("{} files, nothing to complain about\n", files(example));
        assert_eq!(said.stderr, all, "{}", example.display());
    }
}

#[test]
fn every_policy_passes_its_tests() {
    let desk = Desk::empty();
    let platforms: Vec<PathBuf> = folders(&root()).into_iter().map(|example| example.join("platform")).collect();
    let mut own = 0;
    for platform in &platforms {
        let said = desk.plumb_with(&["policy", "test", &platform.display().to_string()], &[]);
        assert_eq!(said.code, 0, "{said:?}");
        own += said.stdout.lines().filter(|line| line.starts_with("pass plumb.acme.")).count();
    }
    assert!(own > 0, "the examples show no policy of a platform's own");
}

#[test]
fn what_the_examples_forbid_is_refused() {
    let desk = Desk::empty();
    let folder = desk.folder().join("ten");
    for part in ["platform", "checkout"] {
        copy(&root().join("ten-minutes").join(part), &folder.join(part));
    }
    let file = folder.join("checkout/environments/staging/orders.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[pgcrypto]", "[plpython3u]")).unwrap();
    let said = desk.plumb_with(&["validate", "ten/platform", "ten/checkout"], &[]);
    assert_eq!(said.code, 1);
    assert!(said.stdout.contains("the extension plpython3u is not offered here"), "{said:?}");
}

#[test]
fn init_makes_what_the_starter_shows() {
    let desk = Desk::empty();
    assert_eq!(desk.plumb_with(&["init", "made"], &[]).code, 0);
    let platform = desk.folder().join("made/platform").display().to_string();
    let said = desk.plumb_with(&["plan", "--platform", &platform], &[]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.ends_with("2 to create\n"), "{said:?}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}
