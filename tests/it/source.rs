//! The room `source` on real repositories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use chrono::DateTime;
use plumb::model::Reason;
use plumb::source::{
    Author, DRIFT_PREFIX, FileEdit, HEAD, MAX_FILE_BYTES, MAX_MANIFESTS, Mirror, Remote, SourceError, Tree, Wanted,
    Watcher, WorkingTree,
};
use tempfile::TempDir;

use crate::harness::git::{GitHttpServer, GitRepo, MergeHow, Request};

const DRIFT: &str = "plumb/drift/staging/database-orders";

/// A repository and its mirror.
struct Pair {
    repo: GitRepo,
    mirror: Mirror,
    folder: TempDir,
}

impl Pair {
    fn new() -> Self {
        let repo = GitRepo::new();
        let folder = TempDir::new().unwrap();
        let mirror = Mirror::open(folder.path(), Remote::new(repo.url())).unwrap();
        Self { repo, mirror, folder }
    }

    fn head(&self) -> Option<String> {
        self.mirror.fetch("main").unwrap().head
    }

    fn tree(&self, path: &str) -> Tree {
        let head = self.head().expect("a commit");
        self.mirror.tree(&head, path, Wanted::Manifests).unwrap()
    }

    fn edit(&self, base: &str, path: &str, text: &str) -> String {
        edit(&self.mirror, base, path, text)
    }

    fn reopened(&self) -> Mirror {
        Mirror::open(self.folder.path(), self.mirror.remote().clone()).unwrap()
    }
}

fn edit(mirror: &Mirror, base: &str, path: &str, text: &str) -> String {
    let edits = [FileEdit { path: path.to_owned(), content: Some(text.into()) }];
    let author = Author { name: "Plumb".to_owned(), email: "plumb@example.com".to_owned() };
    let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
    mirror.commit_edits(base, &edits, "Accept what is live", &author, at).unwrap()
}

fn paths(tree: &Tree) -> Vec<&str> {
    tree.files.keys().map(String::as_str).collect()
}

fn codes(tree: &Tree) -> Vec<(String, String)> {
    tree.findings.iter().map(|finding| (finding.code.to_string(), finding.file.clone())).collect()
}

fn finding(code: &str, file: &str) -> Vec<(String, String)> {
    vec![(code.to_owned(), file.to_owned())]
}

/// The files that differ between two commits, as git finds them in the mirror.
fn changed(mirror: &Mirror, from: &str, to: &str) -> Vec<String> {
    let output =
        Command::new("git").arg("--git-dir").arg(mirror.path()).args(["diff", "--name-only", from, to]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

mod refs {
    use super::*;

    #[test]
    fn an_empty_repository_has_no_head() {
        let pair = Pair::new();
        let refs = pair.mirror.advertise("main").unwrap();
        assert_eq!((refs.head, refs.drift.len()), (None, 0));
        assert_eq!(pair.head(), None);
        let refs = pair.mirror.fetch(HEAD).unwrap();
        assert_eq!((refs.head, refs.branch.as_deref()), (None, Some("main")));
    }

    #[test]
    fn the_first_commit_and_the_next_are_seen() {
        let pair = Pair::new();
        pair.repo.write("a.yaml", "a: 1\n");
        let first = pair.repo.commit("First");
        assert_eq!(pair.mirror.advertise("main").unwrap().head.as_deref(), Some(first.as_str()));
        assert_eq!(pair.head(), Some(first.clone()));
        pair.repo.write("b.yaml", "b: 1\n");
        let second = pair.repo.commit("Second");
        assert_eq!(pair.head(), Some(second.clone()));
        assert_eq!(changed(&pair.mirror, &first, &second), ["b.yaml"]);
        assert_eq!(pair.mirror.resolve("main").unwrap(), second);
        assert_eq!(pair.mirror.resolve(&first[..12]).unwrap(), first);
        assert!(matches!(pair.mirror.resolve("nowhere"), Err(SourceError::NoSuchCommit { .. })));
    }

    #[test]
    fn drift_branches_come_with_the_head_loose_or_packed() {
        let pair = Pair::new();
        let base = pair.repo.commit("First");
        pair.repo.branch(DRIFT);
        let drift = pair.repo.commit("Drift");
        for round in ["loose", "packed", "both"] {
            match round {
                "packed" => drop(pair.repo.remote_git(&["pack-refs", "--all"])),
                "both" => drop(pair.repo.remote_git(&["branch", "plumb/drift/production/x", "main"])),
                _ => {}
            }
            let refs = pair.mirror.advertise("main").unwrap();
            assert_eq!(refs.head.as_deref(), Some(base.as_str()), "{round}");
            assert_eq!(refs.drift.get(DRIFT), Some(&drift), "{round}");
            assert_eq!(refs.drift.len(), if round == "both" { 2 } else { 1 }, "{round}");
            assert!(refs.drift.keys().all(|name| name.starts_with(DRIFT_PREFIX)));
        }
    }

    #[test]
    fn r14_the_objects_of_all_that_was_advertised_are_there() {
        let pair = Pair::new();
        pair.repo.commit("First");
        pair.repo.branch(DRIFT);
        pair.repo.write("a.yaml", "a: 2\n");
        let drift = pair.repo.commit("Drift");
        let refs = pair.mirror.fetch("main").unwrap();
        assert_eq!(refs.drift.get(DRIFT), Some(&drift));
        let tree = pair.mirror.tree(&drift, ".", Wanted::Manifests).unwrap();
        assert_eq!(pair.mirror.blob(&tree.files["a.yaml"].blob).unwrap(), b"a: 2\n");
    }

    #[test]
    fn a_force_push_is_followed_and_the_old_head_stays_readable() {
        let pair = Pair::new();
        let first = pair.repo.commit("First");
        pair.repo.write("a.yaml", "a: 1\n");
        let old = pair.repo.commit("Old");
        assert_eq!(pair.head(), Some(old.clone()));
        pair.repo.reset(&first);
        pair.repo.write("a.yaml", "a: 2\n");
        let new = pair.repo.commit_locally("New");
        pair.repo.push_force();
        assert_eq!(pair.head(), Some(new.clone()));
        assert!(!pair.mirror.contains(&old, &new).unwrap());
        assert_eq!(changed(&pair.mirror, &old, &new), ["a.yaml"]);
    }

    #[test]
    fn a_deleted_branch_has_no_head_and_comes_back() {
        let pair = Pair::new();
        let first = pair.repo.commit("First");
        assert_eq!(pair.head(), Some(first.clone()));
        pair.repo.remote_git(&["update-ref", "-d", "refs/heads/main"]);
        assert_eq!(pair.head(), None);
        assert!(matches!(pair.mirror.resolve("main"), Err(SourceError::NoSuchCommit { .. })));
        pair.repo.git(&["push", "--quiet", "origin", "main"]);
        assert_eq!(pair.head(), Some(first));
    }

    #[test]
    fn a_detached_head_is_a_commit_without_a_branch() {
        let pair = Pair::new();
        let first = pair.repo.commit("First");
        pair.repo.remote_git(&["update-ref", "--no-deref", "HEAD", &first]);
        let refs = pair.mirror.fetch(HEAD).unwrap();
        assert_eq!((refs.head, refs.branch), (Some(first), None));
    }

    #[test]
    fn a_folder_with_a_working_tree_is_a_repository_too() {
        let repo = GitRepo::new();
        repo.write("a.yaml", "a: 1\n");
        let first = repo.commit("First");
        repo.write("b.yaml", "not committed: true\n");
        let folder = TempDir::new().unwrap();
        let mirror = Mirror::open(folder.path(), Remote::new(repo.work().to_str().unwrap())).unwrap();
        let refs = mirror.fetch(HEAD).unwrap();
        assert_eq!((refs.head.as_deref(), refs.branch.as_deref()), (Some(first.as_str()), Some("main")));
        assert_eq!(paths(&mirror.tree(&first, ".", Wanted::Manifests).unwrap()), ["a.yaml"]);
    }

    #[test]
    fn a_branch_below_the_name_of_a_vanished_one_is_no_trouble() {
        let pair = Pair::new();
        pair.repo.commit("First");
        for name in ["plumb/drift/x", "plumb/drift/x/y", "plumb/drift/x"] {
            pair.repo.remote_git(&["branch", name, "main"]);
            let refs = pair.mirror.fetch("main").unwrap();
            assert_eq!(refs.drift.keys().collect::<Vec<_>>(), [name]);
            pair.repo.delete_branch(name);
        }
        assert_eq!(pair.mirror.fetch("main").unwrap().drift.len(), 0);
    }

    #[test]
    fn names_that_are_no_branches_are_refused() {
        let pair = Pair::new();
        for name in ["", "-x", "a..b", "a b", "refs:x", "a^", "x*", "a//b"] {
            assert!(matches!(pair.mirror.advertise(name), Err(SourceError::RefusedBranch { .. })), "{name}");
        }
    }

    #[test]
    fn a_repository_in_the_newer_ref_format_is_read_by_git_itself() {
        let repo = GitRepo::new();
        let first = repo.commit("First");
        let folder = TempDir::new().unwrap();
        let copy = folder.path().join("copy.git");
        let clone = Command::new("git")
            .args(["-c", "core.hooksPath=/dev/null", "clone", "--quiet", "--bare", "--ref-format=reftable"])
            .arg(repo.remote())
            .arg(&copy)
            .output()
            .unwrap();
        if !clone.status.success() {
            eprintln!("skipped: this git knows no other ref format");
            return;
        }
        let mirror = Mirror::open(&folder.path().join("mirrors"), Remote::new(copy.to_str().unwrap())).unwrap();
        assert_eq!(mirror.advertise("main").unwrap().head.as_deref(), Some(first.as_str()));
        assert_eq!(mirror.fetch(HEAD).unwrap().head, Some(first));
    }
}

mod trouble {
    use super::*;

    #[test]
    fn a_mirror_of_a_server_is_made_again_with_the_folder_it_was_in() {
        let repo = GitRepo::new();
        repo.write("a.yaml", "a: 1\n");
        let first = repo.commit("First");
        let server = GitHttpServer::start(repo.remote().parent().unwrap(), None);
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("mirrors");
        let mirror = Mirror::open(&root, Remote::new(server.url("remote.git"))).unwrap();
        for _ in 0..2 {
            fs::remove_dir_all(&root).unwrap();
            assert_eq!(mirror.advertise("main").unwrap().head.as_deref(), Some(first.as_str()));
            fs::remove_dir_all(&root).unwrap();
            assert_eq!(mirror.fetch("main").unwrap().head.as_deref(), Some(first.as_str()));
            assert!(mirror.contains(&first, &first).unwrap(), "with its objects");
        }
    }

    #[test]
    fn a_repository_that_vanishes_is_an_error_and_works_again_when_it_is_back() {
        let pair = Pair::new();
        let first = pair.repo.commit("First");
        assert_eq!(pair.head(), Some(first.clone()));
        pair.repo.vanish();
        let error = pair.mirror.fetch("main").unwrap_err();
        assert!(matches!(error, SourceError::NoRepository { .. }), "{error}");
        assert_eq!(error.reason(), Reason::SourceUnavailable);
        assert!(pair.mirror.advertise("main").is_err());
        assert_eq!(pair.mirror.resolve(&first).unwrap(), first, "what was fetched stays readable");
        pair.repo.come_back();
        assert_eq!(pair.head(), Some(first));
    }

    #[test]
    fn a_half_written_mirror_is_made_again() {
        let pair = Pair::new();
        let first = pair.repo.commit("First");
        assert_eq!(pair.head(), Some(first.clone()));
        for half in ["HEAD", "config", "objects", "refs"] {
            let path = pair.mirror.path().join(half);
            if path.is_dir() {
                fs::remove_dir_all(&path).unwrap()
            } else {
                fs::remove_file(&path).unwrap()
            }
            assert_eq!(pair.reopened().fetch("main").unwrap().head, Some(first.clone()), "without {half}");
        }
    }

    #[test]
    fn a_mirror_that_lost_its_objects_is_made_again_by_the_next_fetch() {
        let pair = Pair::new();
        pair.repo.write("a.yaml", "a: 1\n");
        let first = pair.repo.commit("First");
        assert_eq!(pair.head(), Some(first.clone()));
        let pack = pair.mirror.path().join("objects/pack");
        for file in fs::read_dir(&pack).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        let mirror = pair.reopened();
        assert_eq!(mirror.fetch("main").unwrap().head, Some(first.clone()));
        assert_eq!(paths(&mirror.tree(&first, ".", Wanted::Manifests).unwrap()), ["a.yaml"]);
    }

    #[test]
    fn locks_that_a_killed_process_left_are_no_hindrance() {
        let pair = Pair::new();
        let first = pair.repo.commit("First");
        assert_eq!(pair.head(), Some(first));
        let held = pair.mirror.path().join("refs/plumb/heads");
        let held = fs::read_dir(held).unwrap().next().unwrap().unwrap().path();
        fs::write(held.with_extension("lock"), "").unwrap();
        fs::write(pair.mirror.path().join("packed-refs.lock"), "").unwrap();
        let second = pair.repo.commit("Second");
        let mirror = pair.reopened();
        assert_eq!(mirror.fetch("main").unwrap().head, Some(second.clone()));
        assert_eq!(mirror.resolve("main").unwrap(), second);
    }

    #[test]
    fn helpers_plain_http_and_passwords_are_refused_before_anything_runs() {
        let folder = TempDir::new().unwrap();
        let touched = folder.path().join("touched");
        for url in [
            format!("ext::sh -c touch% {}", touched.display()),
            "http://example.com/acme/x.git".to_owned(),
            "https://ada:hunter2@example.com/acme/x.git".to_owned(),
            format!("--upload-pack=touch {}", touched.display()),
        ] {
            let error = Mirror::open(folder.path(), Remote::new(url)).unwrap_err();
            assert!(matches!(error, SourceError::RefusedUrl { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        assert!(!touched.exists());
    }

    #[test]
    fn a_remote_that_is_not_there_is_unreachable() {
        let folder = TempDir::new().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let remote = Remote::new(format!("http://127.0.0.1:{port}/x.git")).credential(Some("hunter2".into()));
        let mirror = Mirror::open(folder.path(), remote).unwrap();
        let error = mirror.fetch("main").unwrap_err();
        assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
        assert!(!format!("{error} {error:?} {mirror:?}").contains("hunter2"));
    }

    #[test]
    fn mirrors_can_be_used_from_many_threads() {
        let pair = Pair::new();
        pair.repo.write("a.yaml", "a: 1\n");
        let first = pair.repo.commit("First");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mirror = pair.reopened();
                    assert_eq!(mirror.fetch("main").unwrap().head.as_ref(), Some(&first));
                    assert_eq!(pair.mirror.fetch("main").unwrap().head.as_ref(), Some(&first));
                    assert_eq!(pair.mirror.tree(&first, ".", Wanted::Manifests).unwrap().files.len(), 1);
                });
            }
        });
    }

    #[test]
    fn many_fetches_leave_few_packs() {
        let repo = GitRepo::new();
        let root = repo.remote().parent().unwrap().to_owned();
        let server = GitHttpServer::start(&root, None);
        let folder = TempDir::new().unwrap();
        let mirror = Mirror::open(folder.path(), Remote::new(server.url("remote.git"))).unwrap();
        let mut heads = Vec::new();
        for round in 0..28 {
            repo.write("a.yaml", format!("a: {round}\n"));
            heads.push(repo.commit("Round"));
            assert_eq!(mirror.fetch("main").unwrap().head.as_ref(), heads.last());
        }
        let packs = fs::read_dir(mirror.path().join("objects/pack")).unwrap();
        let packs = packs.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "pack"));
        let packs = packs.count();
        assert!(packs < 10, "{packs} packs");
        let last = heads.last().unwrap();
        assert_eq!(changed(&mirror, &heads[0], last), ["a.yaml"]);
        assert_eq!(paths(&mirror.tree(last, ".", Wanted::Manifests).unwrap()), ["a.yaml"]);
    }

    #[test]
    fn little_and_much_arrive_alike() {
        let pair = Pair::new();
        pair.repo.commit("First");
        for (round, files) in [1, 600, 1, 40].into_iter().enumerate() {
            for file in 0..files {
                pair.repo.write(&format!("d{}/f{file}.yaml", file % 7), format!("a: {round}\n"));
            }
            pair.repo.branch(&format!("side{round}"));
            pair.repo.commit("Side");
            pair.repo.checkout("main");
            pair.repo.write("main.yaml", format!("a: {round}\n"));
            pair.repo.commit("Main");
            let head = pair.repo.merge(&format!("side{round}"), MergeHow::MergeCommit);
            assert_eq!(pair.head(), Some(head.clone()));
            let mirror = pair.mirror.path().display().to_string();
            shell(Path::new("/"), &format!("git --git-dir {mirror} fsck --full --strict"));
            let listing = pair.repo.git(&["ls-tree", "-r", "--name-only", &head]);
            assert_eq!(paths(&pair.tree(".")), listing.lines().collect::<Vec<_>>());
        }
    }
}

mod trees {
    use super::*;

    #[test]
    fn manifests_are_found_with_their_blobs_and_sizes() {
        let pair = Pair::new();
        pair.repo.write("top.yaml", "a: 1\n");
        pair.repo.write("teams/checkout/x.yml", "b: 22\n");
        pair.repo.write("teams/checkout/notes.md", "no manifest");
        pair.repo.write("teams/other/y.yaml", "c: 3\n");
        pair.repo.write(".github/workflows/ci.yml", "on: push\n");
        pair.repo.write(".pre-commit-config.yaml", "repos: []\n");
        pair.repo.commit("All");
        assert_eq!(paths(&pair.tree(".")), ["teams/checkout/x.yml", "teams/other/y.yaml", "top.yaml"]);
        for spelling in ["teams/checkout", "./teams/checkout/", "teams//checkout"] {
            let tree = pair.tree(spelling);
            assert_eq!(paths(&tree), ["teams/checkout/x.yml"], "{spelling}");
            assert_eq!(tree.files["teams/checkout/x.yml"].size, 6);
        }
        let tree = pair.tree(".");
        let ids: Vec<&str> = tree.files.values().map(|file| file.blob.as_str()).collect();
        assert_eq!(pair.mirror.blobs(&ids).unwrap(), [b"b: 22\n".to_vec(), b"c: 3\n".to_vec(), b"a: 1\n".to_vec()]);
    }

    #[test]
    fn policies_are_read_with_the_platform_only() {
        let pair = Pair::new();
        pair.repo.write("policies/names.rego", "package plumb.names\n");
        pair.repo.write("elsewhere/x.rego", "package x\n");
        let head = pair.repo.commit("Policies");
        assert_eq!(paths(&pair.tree(".")), Vec::<&str>::new());
        let tree = pair.mirror.tree(&head, ".", Wanted::ManifestsAndPolicies).unwrap();
        assert_eq!(paths(&tree), ["policies/names.rego"]);
    }

    #[test]
    fn a_folder_that_is_not_there_is_said() {
        let pair = Pair::new();
        pair.repo.write("a.yaml", "a: 1\n");
        pair.repo.commit("First");
        for path in ["nowhere", "a.yaml", "../x", "/etc"] {
            let tree = pair.tree(path);
            assert_eq!(codes(&tree), finding("FolderMissing", path));
            assert!(tree.files.is_empty() && tree.refused.contains(path));
        }
    }

    #[test]
    fn plumbignore_works_as_gitignore_does() {
        let pair = Pair::new();
        for path in ["a.yaml", "drafts/b.yaml", "drafts/keep.yaml", "x/drafts/c.yaml", "x/d.tmp.yaml", "x/e.yaml"] {
            pair.repo.write(path, "a: 1\n");
        }
        pair.repo.write(".plumbignore", "# not yet\n/drafts/*\n!/drafts/keep.yaml\n*.tmp.yaml\n");
        pair.repo.commit("Ignore");
        assert_eq!(paths(&pair.tree(".")), ["a.yaml", "drafts/keep.yaml", "x/drafts/c.yaml", "x/e.yaml"]);
        pair.repo.write("x/.plumbignore", "drafts/\n!d.tmp.yaml\n");
        pair.repo.commit("Nested");
        assert_eq!(paths(&pair.tree(".")), ["a.yaml", "drafts/keep.yaml", "x/d.tmp.yaml", "x/e.yaml"]);
        assert_eq!(paths(&pair.tree("x")), ["x/d.tmp.yaml", "x/e.yaml"], "the root's counts below it too");
    }

    #[test]
    fn a_bad_ignore_pattern_is_a_warning_at_its_line() {
        let pair = Pair::new();
        pair.repo.write(".plumbignore", "ok.yaml\na{b\n");
        pair.repo.write("a.yaml", "a: 1\n");
        pair.repo.commit("Ignore");
        let tree = pair.tree(".");
        assert_eq!(codes(&tree), finding("IgnorePatternInvalid", ".plumbignore"));
        let span = tree.findings[0].span.unwrap();
        assert_eq!((span.line, span.column, span.end_column), (2, 1, 4));
        assert!(!tree.findings[0].is_error() && tree.refused.is_empty());
        assert_eq!(paths(&tree), ["a.yaml"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_inside_the_tree_are_followed_to_files_and_all_others_refused() {
        let pair = Pair::new();
        pair.repo.write("real/a.yaml", "a: 1\n");
        pair.repo.write("README.md", "read me");
        pair.repo.link("inside/ok.yaml", "../real/a.yaml");
        pair.repo.link("inside/hop.yaml", "ok.yaml");
        pair.repo.link("inside/README", "../README.md");
        pair.repo.commit("Good links");
        let tree = pair.tree(".");
        assert_eq!(codes(&tree), []);
        assert_eq!(paths(&tree), ["inside/hop.yaml", "inside/ok.yaml", "real/a.yaml"]);
        assert_eq!(tree.files["inside/hop.yaml"], tree.files["real/a.yaml"]);

        let bad = [
            ("absolute.yaml", "/etc/passwd"),
            ("far.yaml", "../../../../etc/passwd"),
            ("folder", "real"),
            ("loop.yaml", "loop.yaml"),
            ("nothing.yaml", "nowhere.yaml"),
            ("out", "../elsewhere"),
            ("through.yaml", "folder/a.yaml"),
        ];
        for (link, target) in bad {
            pair.repo.link(link, target);
        }
        pair.repo.commit("Bad links");
        let tree = pair.tree(".");
        let expected: Vec<_> = bad.iter().flat_map(|(link, _)| finding("SymlinkRefused", link)).collect();
        assert_eq!(codes(&tree), expected);
        assert_eq!(tree.refused.iter().map(String::as_str).collect::<Vec<_>>(), bad.map(|(link, _)| link));
        assert_eq!(tree.files.len(), 3);
        assert_eq!(codes(&pair.tree("inside")).len(), 2, "out of the tenant's folder is out");

        pair.repo.write(".plumbignore", bad.map(|(link, _)| link).join("\n"));
        pair.repo.commit("Ignore them");
        assert_eq!(codes(&pair.tree(".")), []);
    }

    #[test]
    fn a_submodule_is_refused() {
        let pair = Pair::new();
        let other = GitRepo::new();
        let commit = other.commit("Other");
        pair.repo.write("a.yaml", "a: 1\n");
        pair.repo.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},modules/other")]);
        pair.repo.git(&["add", "a.yaml"]);
        pair.repo.git(&["commit", "--quiet", "-m", "Submodule"]);
        pair.repo.git(&["push", "--quiet", "origin", "HEAD"]);
        let tree = pair.tree(".");
        assert_eq!(codes(&tree), finding("SubmoduleRefused", "modules/other"));
        assert_eq!(paths(&tree), ["a.yaml"]);
        assert!(tree.refused.contains("modules/other"));
    }

    #[test]
    fn a_large_file_is_refused_and_the_others_are_read() {
        let pair = Pair::new();
        let most = usize::try_from(MAX_FILE_BYTES).unwrap();
        pair.repo.write("most.yaml", "#".repeat(most));
        pair.repo.write("more.yaml", "#".repeat(most + 1));
        pair.repo.write("more.txt", "#".repeat(most + 1));
        pair.repo.commit("Large");
        let tree = pair.tree(".");
        assert_eq!(paths(&tree), ["most.yaml"]);
        assert_eq!(codes(&tree), finding("FileTooLarge", "more.yaml"));
        assert_eq!(pair.mirror.blob(&tree.files["most.yaml"].blob).unwrap().len(), most);
    }

    #[test]
    fn too_many_manifests_are_a_finding() {
        let pair = Pair::new();
        pair.repo.write("a.yaml", "a: 1\n");
        pair.repo.commit("One");
        let blob = pair.repo.git(&["rev-parse", "HEAD:a.yaml"]);
        let listing: String = (0..=MAX_MANIFESTS).map(|name| format!("100644 blob {blob}\tf{name}.yaml\n")).collect();
        pair.repo.write("../listing", listing);
        let tree = shell(&pair.repo.work(), "git mktree < ../listing");
        let commit = pair.repo.git(&["commit-tree", &tree, "-m", "Many"]);
        pair.repo.git(&["push", "--quiet", "--force", "origin", &format!("{commit}:refs/heads/main")]);
        let tree = pair.tree(".");
        assert_eq!(tree.files.len(), MAX_MANIFESTS);
        assert_eq!(codes(&tree), finding("TooManyManifests", "."));
        assert!(tree.refused.contains("."));
    }

    #[test]
    fn a_folder_in_the_place_of_an_ignore_file_is_unreadable_and_ignores_nothing() {
        let pair = Pair::new();
        pair.repo.write("a.yaml", "a: 1\n");
        pair.repo.write(".plumbignore/note.txt", "a.yaml\n");
        pair.repo.commit("A folder");
        let tree = pair.tree(".");
        assert_eq!(codes(&tree), finding("FileUnreadable", ".plumbignore"));
        assert_eq!(tree.findings[0].help.as_deref(), Some("put a file in its place"));
        assert!(tree.findings[0].is_error() && tree.refused.contains(".plumbignore"));
        assert_eq!(paths(&tree), ["a.yaml"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_no_text_is_refused() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let pair = Pair::new();
        fs::write(pair.repo.work().join(OsStr::from_bytes(b"caf\xe9.yaml")), "a: 1\n").unwrap();
        fs::write(pair.repo.work().join(OsStr::from_bytes(b"caf\xe9.txt")), "text").unwrap();
        pair.repo.write("line\nbreak.yaml", "a: 1\n");
        pair.repo.commit("Names");
        let tree = pair.tree(".");
        let expected = [finding("PathRefused", "caf\\xe9.yaml"), finding("PathRefused", "line\\nbreak.yaml")].concat();
        assert_eq!(codes(&tree), expected);
        assert!(tree.files.is_empty());
    }

    #[test]
    fn a_tree_that_unfolds_without_end_is_given_up() {
        // Each level names the level below ten times: 10^9 entries in ten objects.
        let pair = Pair::new();
        pair.repo.write("a.txt", "a");
        pair.repo.git(&["add", "a.txt"]);
        let mut tree = pair.repo.git(&["write-tree"]);
        for _ in 0..9 {
            let listing: String = (0..10).map(|name| format!("040000 tree {tree}\td{name}\n")).collect();
            pair.repo.write("../listing", listing);
            tree = shell(&pair.repo.work(), "git mktree < ../listing");
        }
        let commit = pair.repo.git(&["commit-tree", &tree, "-m", "Bomb"]);
        pair.repo.git(&["push", "--quiet", "origin", &format!("{commit}:refs/heads/main")]);
        assert_eq!(codes(&pair.tree(".")), finding("TooManyManifests", "."));
    }

    #[test]
    fn a_commit_that_only_edits_is_told_by_its_edits_and_any_other_is_read_whole() {
        let pair = Pair::new();
        let mut before = {
            for (path, text) in
                [("a.yaml", "a: 1\n"), ("team/b.yaml", "b: 1\n"), ("team/.c.yaml", "c: 1\n"), ("README.md", "1\n")]
            {
                pair.repo.write(path, text);
            }
            pair.repo.commit("First")
        };
        let mut edits = |path: &str| {
            let after = pair.repo.commit("Next");
            pair.head();
            let edits = pair.mirror.edits(&before, &after, path, Wanted::Manifests).unwrap();
            before = after;
            edits.map(|edits| {
                let text = |blob: &String| String::from_utf8(pair.mirror.blob(blob).unwrap()).unwrap();
                edits.iter().map(|(path, blob)| (path.clone(), text(blob))).collect::<Vec<_>>()
            })
        };
        let told = |path: &str, text: &str| Some(vec![(path.to_owned(), text.to_owned())]);

        pair.repo.write("a.yaml", "a: 2\n");
        pair.repo.write("README.md", "2\n");
        pair.repo.write("team/.c.yaml", "c: 2\n");
        assert_eq!(edits("."), told("a.yaml", "a: 2\n"));
        pair.repo.write("a.yaml", "a: 3\n");
        pair.repo.write("team/b.yaml", "b: 3\n");
        assert_eq!(edits("./team/"), told("team/b.yaml", "b: 3\n"));

        pair.repo.write("d.yaml", "d: 1\n");
        assert_eq!(edits("."), None, "a file came");
        pair.repo.remove("d.yaml");
        assert_eq!(edits("."), None, "a file went");
        pair.repo.write("a.yaml", "#".repeat(1024 * 1024 + 1));
        assert_eq!(edits("."), None, "a file grew too large");
        pair.repo.remove("a.yaml");
        std::os::unix::fs::symlink("team/b.yaml", pair.repo.work().join("a.yaml")).unwrap();
        assert_eq!(edits("."), None, "a file became a link");
        assert!(!pair.tree(".").plain, "what a link leads to may be edited");
        pair.repo.remove("a.yaml");
        pair.repo.write(".plumbignore", "x\n");
        assert_eq!(edits("."), None, "an ignore file came");
        assert!(!pair.tree(".").plain, "what is ignored may be edited");
        pair.repo.write(".plumbignore", "team/\n");
        assert_eq!(edits("."), None, "what is ignored was edited");
        pair.repo.write(".plumbignore", "team/b.yaml\n");
        assert_eq!(edits("team"), None, "what is ignored above the folder was edited");
    }
}

mod history {
    use super::*;

    #[test]
    fn a_commit_contains_itself_and_its_ancestors_only() {
        let pair = Pair::new();
        let first = pair.repo.commit("First");
        pair.repo.branch("side");
        let side = pair.repo.commit("Side");
        pair.repo.checkout("main");
        let second = pair.repo.commit("Second");
        pair.mirror.fetch("side").unwrap();
        pair.head();
        let contains = |ancestor: &str, head: &str| pair.mirror.contains(ancestor, head).unwrap();
        assert!(contains(&first, &first) && contains(&first, &second) && contains(&first, &side));
        assert!(!contains(&second, &first) && !contains(&side, &second));
        assert!(!contains(&"1".repeat(40), &second), "unknown commits are in nothing");
        let merged = pair.repo.merge("side", MergeHow::MergeCommit);
        pair.head();
        assert!(contains(&side, &merged) && contains(&second, &merged));
        assert_eq!(pair.mirror.root_commit(&merged).unwrap(), first);
    }

    #[test]
    fn commits_come_with_their_trailers_newest_first() {
        let pair = Pair::new();
        let first = pair.repo.commit("First");
        pair.repo.commit("Second\n\nBody: with a colon, but no trailer.\n\nMore text.");
        let third =
            pair.repo.commit("Third\n\nWhy.\n\nPlumb-Approve-Deletes: abc123\nSigned-off-by: Ada <ada@example.com>");
        pair.head();
        let commits = pair.mirror.commits_between(Some(&first), &third).unwrap();
        let subjects: Vec<&str> = commits.iter().filter_map(|commit| commit.message.lines().next()).collect();
        assert_eq!(subjects, ["Third", "Second"]);
        let trailer = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [trailer("Plumb-Approve-Deletes", "abc123"), trailer("Signed-off-by", "Ada <ada@example.com>")];
        assert_eq!(commits[0].trailers, expected);
        assert_eq!(commits[1].trailers, []);
        assert_eq!(commits[0].author, "Ada <ada@example.com>");
        assert!(commits[0].time > commits[1].time);
        let unknown = "1".repeat(40);
        for from in [None, Some(unknown.as_str())] {
            let commits = pair.mirror.commits_between(from, &third).unwrap();
            assert_eq!(commits.iter().map(|commit| commit.id.as_str()).collect::<Vec<_>>(), [third.as_str()]);
        }
    }

    #[test]
    fn a_shallow_repository_is_read_as_far_as_it_goes() {
        let repo = GitRepo::new();
        repo.write("a.yaml", "a: 1\n");
        let first = repo.commit("First");
        let second = repo.commit("Second");
        let third = repo.commit("Third");
        let folder = TempDir::new().unwrap();
        shell(folder.path(), &format!("git clone --quiet --depth 2 file://{} shallow", repo.url()));
        let shallow = folder.path().join("shallow");
        let mirror = Mirror::open(&folder.path().join("mirrors"), Remote::new(shallow.to_str().unwrap())).unwrap();
        assert_eq!(mirror.fetch(HEAD).unwrap().head.as_ref(), Some(&third));
        assert_eq!(paths(&mirror.tree(&third, ".", Wanted::Manifests).unwrap()), ["a.yaml"]);
        assert!(mirror.contains(&second, &third).unwrap());
        assert!(!mirror.contains(&first, &third).unwrap());
        assert_eq!(mirror.commits_between(Some(&second), &third).unwrap().len(), 1);
        assert_eq!(mirror.commits_between(None, &third).unwrap().len(), 1);
        assert_eq!(mirror.root_commit(&third).unwrap(), second);
        shell(&shallow, "git fetch --quiet --unshallow");
        assert_eq!(mirror.fetch(HEAD).unwrap().head.as_ref(), Some(&third));
    }

    #[test]
    fn the_commits_of_a_merged_branch_are_between_too() {
        let pair = Pair::new();
        let first = pair.repo.commit("First");
        pair.repo.branch("side");
        pair.repo.commit("On the side\n\nPlumb-Approve-Deletes: abc");
        pair.repo.checkout("main");
        pair.repo.commit("Second");
        let merged = pair.repo.merge("side", MergeHow::MergeCommit);
        pair.head();
        let commits = pair.mirror.commits_between(Some(&first), &merged).unwrap();
        assert_eq!(commits.len(), 3);
        assert!(commits.iter().any(|commit| commit.trailers.iter().any(|(_, value)| value == "abc")));
    }
}

mod edits {
    use super::*;

    #[test]
    fn one_commit_touches_only_the_one_path() {
        let pair = Pair::new();
        for path in ["a/b/x.yaml", "a/b/y.yaml", "a/z.yaml", "top.yaml"] {
            pair.repo.write(path, "a: 1\n");
        }
        let base = pair.repo.commit("First");
        pair.head();
        let commit = pair.edit(&base, "a/b/x.yaml", "a: 2\n");
        assert_eq!(pair.edit(&base, "a/b/x.yaml", "a: 2\n"), commit, "the same edit gives the same commit");
        assert_eq!(changed(&pair.mirror, &base, &commit), ["a/b/x.yaml"]);
        pair.mirror.push(DRIFT, Some(&commit), None).unwrap();
        assert_eq!(pair.repo.touched(&commit), ["a/b/x.yaml"]);
        assert_eq!(pair.repo.show(&format!("{DRIFT}:a/b/x.yaml")), "a: 2\n");
        assert_eq!(pair.repo.log(DRIFT), ["Accept what is live", "First"]);
        pair.repo.remote_git(&["fsck", "--strict"]);
    }

    #[cfg(unix)]
    #[test]
    fn files_can_be_added_and_removed_and_keep_their_mode() {
        use std::os::unix::fs::PermissionsExt;
        let pair = Pair::new();
        pair.repo.write("run.yaml", "a: 1\n");
        pair.repo.write("gone/only.yaml", "a: 1\n");
        fs::set_permissions(pair.repo.work().join("run.yaml"), fs::Permissions::from_mode(0o755)).unwrap();
        let base = pair.repo.commit("First");
        pair.head();
        let edits = [
            FileEdit { path: "run.yaml".to_owned(), content: Some(b"a: 2\n".to_vec()) },
            FileEdit { path: "gone/only.yaml".to_owned(), content: None },
            FileEdit { path: "new/deep/x.yaml".to_owned(), content: Some(b"x: 1\n".to_vec()) },
        ];
        let author = Author { name: "Pl<umb>\n".to_owned(), email: "plumb@example.com".to_owned() };
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let commit = pair.mirror.commit_edits(&base, &edits, "Edit", &author, at).unwrap();
        pair.mirror.push(DRIFT, Some(&commit), None).unwrap();
        let listing = pair.repo.remote_git(&["ls-tree", "-r", "--format=%(objectmode) %(path)", DRIFT]);
        assert_eq!(listing, "100644 new/deep/x.yaml\n100755 run.yaml");
        assert_eq!(
            pair.repo.remote_git(&["log", "-1", "--format=%an <%ae> %ct", DRIFT]),
            "Plumb <plumb@example.com> 1700000000"
        );
        pair.repo.remote_git(&["fsck", "--strict"]);
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_be_edited_is_said() {
        let pair = Pair::new();
        pair.repo.write("folder/a.yaml", "a: 1\n");
        pair.repo.link("link.yaml", "folder/a.yaml");
        let base = pair.repo.commit("First");
        pair.head();
        let author = Author { name: "Plumb".to_owned(), email: "plumb@example.com".to_owned() };
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        for path in ["folder", "folder/a.yaml/b", "link.yaml", "../x", "/x", "", "a//b", ".git/config", "x/.GIT/hooks"]
        {
            let edits = [FileEdit { path: path.to_owned(), content: Some(b"b: 1\n".to_vec()) }];
            let error = pair.mirror.commit_edits(&base, &edits, "Edit", &author, at).unwrap_err();
            assert!(matches!(error, SourceError::Edit { .. }), "{path}: {error}");
        }
        let same = [FileEdit { path: "folder/a.yaml".to_owned(), content: Some(b"a: 1\n".to_vec()) }];
        let error = pair.mirror.commit_edits(&base, &same, "Edit", &author, at).unwrap_err();
        assert!(matches!(error, SourceError::EmptyEdit { .. }), "{error}");
    }
}

mod pushes {
    use super::*;

    fn ready() -> (Pair, String) {
        let pair = Pair::new();
        pair.repo.write("a.yaml", "a: 1\n");
        let base = pair.repo.commit("First");
        pair.head();
        (pair, base)
    }

    #[test]
    fn a_branch_is_made_moved_and_deleted_from_where_it_is_expected() {
        let (pair, base) = ready();
        let one = pair.edit(&base, "a.yaml", "a: 2\n");
        let two = pair.edit(&base, "a.yaml", "a: 3\n");
        pair.mirror.push(DRIFT, Some(&one), None).unwrap();
        assert_eq!(pair.repo.remote_head(DRIFT), Some(one.clone()));
        pair.mirror.push(DRIFT, Some(&one), None).unwrap();
        pair.mirror.push(DRIFT, Some(&two), Some(&one)).unwrap();
        assert_eq!(pair.repo.remote_head(DRIFT), Some(two.clone()), "not a fast-forward, and wanted");
        pair.mirror.push(DRIFT, None, Some(&two)).unwrap();
        assert_eq!(pair.repo.branches(), ["main"]);
    }

    #[test]
    fn a_branch_that_somebody_else_moved_is_left_alone() {
        let (pair, base) = ready();
        let one = pair.edit(&base, "a.yaml", "a: 2\n");
        let two = pair.edit(&base, "a.yaml", "a: 3\n");
        pair.mirror.push(DRIFT, Some(&one), None).unwrap();
        pair.repo.git(&["fetch", "--quiet", "origin"]);
        pair.repo.git(&["checkout", "--quiet", "-b", DRIFT, &format!("origin/{DRIFT}")]);
        let theirs = pair.repo.commit("A person's commit");
        for (commit, expected) in
            [(Some(two.as_str()), Some(one.as_str())), (Some(two.as_str()), None), (None, Some(one.as_str()))]
        {
            let error = pair.mirror.push(DRIFT, commit, expected).unwrap_err();
            assert!(matches!(error, SourceError::Stale { .. }), "{error}");
        }
        assert_eq!(pair.repo.remote_head(DRIFT), Some(theirs));
        let error = pair.mirror.push("plumb/drift/other", Some(&two), Some(&one)).unwrap_err();
        assert!(matches!(error, SourceError::Stale { .. }), "a branch that is not there is not where it was: {error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_push_that_the_remote_forbids_is_refused_with_its_words() {
        let (pair, base) = ready();
        pair.repo.hook("pre-receive", "#!/bin/sh\necho 'no robots, please' >&2\nexit 1\n");
        let one = pair.edit(&base, "a.yaml", "a: 2\n");
        let error = pair.mirror.push(DRIFT, Some(&one), None).unwrap_err();
        assert!(matches!(error, SourceError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("no robots, please"), "{error}");
        assert_eq!(error.reason(), Reason::ProposalFailed);
        assert_eq!(pair.repo.branches(), ["main"]);
    }

    #[test]
    fn a_branch_that_is_in_the_way_is_named() {
        let (pair, base) = ready();
        pair.repo.git(&["push", "--quiet", "origin", "HEAD:refs/heads/plumb"]);
        let one = pair.edit(&base, "a.yaml", "a: 2\n");
        let error = pair.mirror.push(DRIFT, Some(&one), None).unwrap_err();
        assert!(matches!(error, SourceError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("'refs/heads/plumb' exists"), "{error}");
        pair.repo.git(&["push", "--quiet", "origin", ":refs/heads/plumb"]);
        pair.mirror.push(DRIFT, Some(&one), None).unwrap();
    }

    #[test]
    fn a_push_to_a_remote_that_is_gone_is_unreachable() {
        let (pair, base) = ready();
        let one = pair.edit(&base, "a.yaml", "a: 2\n");
        pair.repo.vanish();
        let error = pair.mirror.push(DRIFT, Some(&one), None).unwrap_err();
        assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn hooks_of_the_mirror_do_not_run() {
        use std::os::unix::fs::PermissionsExt;
        let (pair, base) = ready();
        let hook = pair.mirror.path().join("hooks/pre-push");
        fs::create_dir_all(hook.parent().unwrap()).unwrap();
        fs::write(&hook, "#!/bin/sh\nexit 1\n").unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        let one = pair.edit(&base, "a.yaml", "a: 2\n");
        pair.mirror.push(DRIFT, Some(&one), None).unwrap();
    }

    #[test]
    fn only_hashes_and_branches_are_pushed() {
        let (pair, base) = ready();
        for (branch, commit) in [(HEAD, base.as_str()), ("-x", base.as_str()), ("x", "main"), ("x", "--all")] {
            assert!(pair.mirror.push(branch, Some(commit), None).is_err(), "{branch} {commit}");
        }
        assert!(pair.mirror.push("x", Some(&base), Some("main")).is_err());
        assert_eq!(pair.repo.branches(), ["main"]);
    }

    #[test]
    fn r14_a_merged_and_deleted_branch_is_seen_with_the_head_that_has_it() {
        for how in [MergeHow::FastForward, MergeHow::MergeCommit, MergeHow::Squash] {
            let (pair, base) = ready();
            let one = pair.edit(&base, "a.yaml", "a: 2\n");
            pair.mirror.push(DRIFT, Some(&one), None).unwrap();
            assert_eq!(pair.mirror.fetch("main").unwrap().drift.get(DRIFT), Some(&one));
            let merged = pair.repo.merge(DRIFT, how);
            pair.repo.delete_branch(DRIFT);
            let refs = pair.mirror.fetch("main").unwrap();
            assert_eq!((refs.head, refs.drift.len()), (Some(merged.clone()), 0), "{how:?}");
            assert_eq!(pair.mirror.contains(&one, &merged).unwrap(), how != MergeHow::Squash, "{how:?}");
            assert_eq!(pair.repo.show("main:a.yaml"), "a: 2\n");
        }
    }
}

mod remotes {
    use super::*;

    /// The same story over any transport.
    fn story(repo: &GitRepo, remote: Remote) {
        let folder = TempDir::new().unwrap();
        let mirror = Mirror::open(folder.path(), remote).unwrap();
        assert_eq!(mirror.fetch("main").unwrap().head, None);
        repo.write("a.yaml", "a: 1\n");
        let base = repo.commit("First");
        let refs = mirror.advertise("main").unwrap();
        assert_eq!((refs.head.as_deref(), refs.branch.as_deref()), (Some(base.as_str()), Some("main")));
        assert_eq!(mirror.fetch("main").unwrap().head.as_ref(), Some(&base));
        let refs = mirror.fetch(HEAD).unwrap();
        assert_eq!((refs.head.as_ref(), refs.branch.as_deref()), (Some(&base), Some("main")));
        let drift = edit(&mirror, &base, "a.yaml", "a: 2\n");
        mirror.push(DRIFT, Some(&drift), None).unwrap();
        assert!(matches!(mirror.push(DRIFT, Some(&base), None), Err(SourceError::Stale { .. })));
        let refs = mirror.fetch("main").unwrap();
        assert_eq!(refs.drift.get(DRIFT), Some(&drift));
        let merged = repo.merge(DRIFT, MergeHow::MergeCommit);
        mirror.push(DRIFT, None, Some(&drift)).unwrap();
        let refs = mirror.fetch("main").unwrap();
        assert_eq!((refs.head.as_ref(), refs.drift.len()), (Some(&merged), 0));
        assert_eq!(changed(&mirror, &base, &merged), ["a.yaml"]);
        assert_eq!(mirror.advertise("nowhere").unwrap().head, None);
        assert_eq!(mirror.fetch("nowhere").unwrap().head, None);
    }

    #[test]
    fn a_path_and_a_file_url_are_the_same() {
        let repo = GitRepo::new();
        story(&repo, Remote::new(repo.url()));
        let repo = GitRepo::new();
        story(&repo, Remote::new(format!("file://{}", repo.url())));
    }

    #[test]
    fn http_on_loopback_works_with_and_without_a_credential() {
        for login in [None, Some("x-access-token:hunter2")] {
            let repo = GitRepo::new();
            let root = repo.remote().parent().unwrap().to_owned();
            repo.remote_git(&["config", "http.receivepack", "true"]);
            let server = GitHttpServer::start(&root, login);
            let url = server.url("remote.git");
            story(&repo, Remote::new(&url).credential(login.map(|_| "hunter2".into())));
            if login.is_some() {
                let folder = TempDir::new().unwrap();
                for credential in [None, Some("wrong-secret")] {
                    let remote = Remote::new(&url).credential(credential.map(Into::into));
                    let mirror = Mirror::open(folder.path(), remote).unwrap();
                    let error = mirror.fetch("main").unwrap_err();
                    assert!(matches!(error, SourceError::Unauthorized { .. }), "{error:?}");
                    assert_eq!(error.reason(), Reason::AuthenticationFailed);
                    assert!(!format!("{error} {error:?}").contains("wrong-secret"));
                }
            }
        }
    }

    #[test]
    fn what_has_not_moved_is_asked_for_its_refs_and_for_nothing_else() {
        let repo = GitRepo::new();
        let server = GitHttpServer::start(repo.remote().parent().unwrap(), None);
        let folder = TempDir::new().unwrap();
        let mirror = Mirror::open(folder.path(), Remote::new(server.url("remote.git"))).unwrap();
        repo.write("a.yaml", "a: 1\n");
        repo.commit("First");
        repo.remote_git(&["branch", DRIFT, "main"]);
        const REFS: [Request; 2] = [Request::Handshake, Request::LsRefs];
        const OBJECTS: [Request; 3] = [Request::Handshake, Request::LsRefs, Request::Fetch];
        mirror.advertise("main").unwrap();
        assert_eq!(server.requests(), REFS, "a poll that has never seen anything");
        mirror.fetch("main").unwrap();
        assert_eq!(server.requests(), OBJECTS);
        for _ in 0..2 {
            mirror.advertise("main").unwrap();
            assert_eq!(server.requests(), REFS, "a poll");
            mirror.fetch("main").unwrap();
            assert_eq!(server.requests(), REFS, "a look");
        }
        repo.write("a.yaml", "a: 2\n");
        repo.commit("Second");
        mirror.advertise("main").unwrap();
        assert_eq!(server.requests(), REFS, "a poll sees that it has moved");
        mirror.fetch("main").unwrap();
        assert_eq!(server.requests(), OBJECTS);
    }

    #[test]
    fn another_user_name_stands_in_the_url() {
        let repo = GitRepo::new();
        let root = repo.remote().parent().unwrap().to_owned();
        let server = GitHttpServer::start(&root, Some("ada:hunter2"));
        let url = server.url("remote.git").replace("http://", "http://ada@");
        story(&repo, Remote::new(url).credential(Some("hunter2".into())));
    }

    #[test]
    fn a_wrong_credential_does_not_push() {
        let repo = GitRepo::new();
        let base = repo.commit("First");
        let root = repo.remote().parent().unwrap().to_owned();
        let server = GitHttpServer::start(&root, Some("x-access-token:hunter2"));
        let folder = TempDir::new().unwrap();
        let url = server.url("remote.git");
        let good = Mirror::open(folder.path(), Remote::new(&url).credential(Some("hunter2".into()))).unwrap();
        good.fetch("main").unwrap();
        let bad = Mirror::open(folder.path(), Remote::new(&url).credential(Some("wrong-secret".into()))).unwrap();
        let error = bad.push("x", Some(&base), None).unwrap_err();
        assert!(matches!(error, SourceError::Unauthorized { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("wrong-secret"));
    }

    #[cfg(unix)]
    #[test]
    fn ssh_is_spoken_through_the_persons_own_command() {
        use std::os::unix::fs::PermissionsExt;
        let folder = TempDir::new().unwrap();
        let script = folder.path().join("fake ssh");
        // What comes last is the command line for the other end.
        fs::write(&script, "#!/bin/sh\necho \"$@\" >> \"$0.log\"\nfor last; do :; done\nexec sh -c \"$last\"\n")
            .unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        // Variables belong to a whole process, so the story is told by one of its own.
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "source::remotes::the_story_over_ssh"])
            .env("GIT_SSH_COMMAND", format!("'{}'", script.display()))
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && printed.contains("1 passed"),
            "{printed}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let log = fs::read_to_string(folder.path().join("fake ssh.log")).unwrap();
        assert!(log.lines().next().unwrap().starts_with("git@example.com git-upload-pack '/"), "{log}");
        assert!(log.contains("git-receive-pack"), "{log}");
    }

    #[test]
    #[ignore = "told by ssh_is_spoken_through_the_persons_own_command"]
    fn the_story_over_ssh() {
        let repo = GitRepo::new();
        story(&repo, Remote::new(format!("ssh://git@example.com{}", repo.url())));
        let repo = GitRepo::new();
        story(&repo, Remote::new(format!("git@example.com:{}", repo.url())));
        let folder = TempDir::new().unwrap();
        let mirror = Mirror::open(folder.path(), Remote::new("git@example.com:/nowhere/x.git")).unwrap();
        let error = mirror.fetch("main").unwrap_err();
        assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("/nowhere/x.git"), "{error}");
    }
}

mod working_trees {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_working_tree_is_read_by_the_rules_of_commits() {
        let repo = GitRepo::new();
        repo.write("a.yaml", "a: 1\n");
        repo.write("x/b.yml", "b: 1\n");
        repo.write("x/ignored.yaml", "c: 1\n");
        repo.write(".plumbignore", "ignored.yaml\n");
        repo.write("nested/.git/HEAD", "ref: refs/heads/main\n");
        repo.write("big.yaml", "#".repeat(usize::try_from(MAX_FILE_BYTES).unwrap() + 1));
        repo.link("in.yaml", "x/b.yml");
        repo.link("out.yaml", "../home/x.yaml");
        repo.link("passwd.yaml", "/etc/passwd");
        let read = WorkingTree::new(repo.work()).read(".", Wanted::Manifests).unwrap();
        let paths: Vec<&str> = read.files.keys().map(String::as_str).collect();
        assert_eq!(paths, ["a.yaml", "in.yaml", "x/b.yml"]);
        assert_eq!(read.files["in.yaml"], b"b: 1\n");
        let found: Vec<(&str, &str)> =
            read.findings.iter().map(|finding| (finding.code.0.as_ref(), finding.file.as_str())).collect();
        let expected = [
            ("FileTooLarge", "big.yaml"),
            ("SubmoduleRefused", "nested"),
            ("SymlinkRefused", "out.yaml"),
            ("SymlinkRefused", "passwd.yaml"),
        ];
        assert_eq!(found, expected);
        assert_eq!(read.refused.len(), 4);
        let read = WorkingTree::new(repo.work()).read("x", Wanted::Manifests).unwrap();
        assert_eq!(read.files.keys().collect::<Vec<_>>(), ["x/b.yml"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_that_is_called_like_a_manifest_is_unreadable_and_nobody_waits_for_it() {
        let repo = GitRepo::new();
        repo.write("a.yaml", "a: 1\n");
        shell(&repo.work(), "mkfifo pipe.yaml pipe.txt");
        let read = WorkingTree::new(repo.work()).read(".", Wanted::Manifests).unwrap();
        assert_eq!(read.files.keys().collect::<Vec<_>>(), ["a.yaml"]);
        let [finding] = &read.findings[..] else { panic!("{:?}", read.findings) };
        assert_eq!((finding.code.0.as_ref(), finding.file.as_str()), ("FileUnreadable", "pipe.yaml"));
        assert_eq!(finding.message, "it is no regular file");
        assert!(read.refused.contains("pipe.yaml"));
    }

    #[test]
    fn paths_are_told_from_the_root_of_the_repository_around() {
        let repo = GitRepo::new();
        repo.write("environments/staging/a.yaml", "a: 1\n");
        repo.write("notes.txt", "a: 1\n");
        let at = |path: &str| {
            let (tree, below) = WorkingTree::around(&repo.work().join(path)).unwrap();
            (tree.read(&below, Wanted::Manifests).unwrap().files.into_keys().collect::<Vec<_>>(), below)
        };
        let file = "environments/staging/a.yaml".to_owned();
        assert_eq!(at("."), (vec![file.clone()], ".".to_owned()));
        assert_eq!(at("environments"), (vec![file.clone()], "environments".to_owned()));
        assert_eq!(at(&file), (vec![file.clone()], file));
        let outside = WorkingTree::new(repo.work()).read("../home/x", Wanted::Manifests).unwrap();
        assert_eq!(outside.findings[0].code.0, "FolderMissing");
        assert_eq!(at("notes.txt").0, ["notes.txt"], "a file that is named is read");
        assert!(WorkingTree::around(&repo.work().join("nowhere")).is_err());
    }

    #[test]
    fn a_burst_of_changes_is_one_signal_and_git_and_reading_are_none() {
        let repo = GitRepo::new();
        repo.write("x/a.yaml", "a: 1\n");
        repo.commit("First");
        let mut watcher = Watcher::new(&repo.work(), Duration::from_millis(500)).unwrap();
        // What happens in .git, and reading, comes first; a signal for it would be taken for that of the burst.
        repo.git(&["commit", "--quiet", "--allow-empty", "-m", "Only .git"]);
        WorkingTree::new(repo.work()).read(".", Wanted::Manifests).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let quiet = tokio::time::timeout(Duration::from_millis(1000), watcher.changed()).await;
            assert!(quiet.is_err(), "a signal for .git or for reading");
            for round in 0..20 {
                repo.write("x/a.yaml", format!("a: {round}\n"));
            }
            tokio::time::timeout(Duration::from_secs(30), watcher.changed()).await.unwrap().unwrap();
            let quiet = tokio::time::timeout(Duration::from_millis(1000), watcher.changed()).await;
            assert!(quiet.is_err(), "a second signal for one burst");
            repo.write("new/folder/b.yaml", "b: 1\n");
            tokio::time::timeout(Duration::from_secs(30), watcher.changed()).await.unwrap().unwrap();
        });
        repo.write("x/a.yaml", "a: last\n");
        assert_eq!(watcher.changed_blocking(), Some(()));
    }

    #[test]
    fn a_folder_that_is_not_there_cannot_be_watched() {
        let folder = TempDir::new().unwrap();
        assert!(Watcher::new(&folder.path().join("nowhere"), Duration::from_millis(1)).is_err());
    }
}

fn shell(folder: &Path, line: &str) -> String {
    let output = Command::new("sh").arg("-c").arg(line).current_dir(folder).output().unwrap();
    let (said, printed) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{line}: {said}{printed}");
    printed.trim().to_owned()
}

fn copied(from: &Path, to: PathBuf) {
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copied(&entry.path(), to)
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
#[ignore = "prints how long polling and reading take"]
fn timings() {
    let repo = GitRepo::new();
    repo.write("a.yaml", "a: 1\n");
    repo.commit("First");
    repo.remote_git(&["branch", DRIFT, "main"]);
    let folder = TempDir::new().unwrap();
    let mirrors: Vec<Mirror> = (0..1000)
        .map(|number| {
            let path = folder.path().join(format!("r{number}"));
            copied(&repo.remote(), path.clone());
            Mirror::open(&folder.path().join("mirrors"), Remote::new(path.to_str().unwrap())).unwrap()
        })
        .collect();
    let start = std::time::Instant::now();
    for mirror in &mirrors {
        mirror.advertise("main").unwrap();
    }
    println!("one poll round of 1,000 local repositories: {:?}", start.elapsed());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    println!("resident with them: {}", status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("unknown"));

    let pair = Pair::new();
    for number in 0..10_000 {
        pair.repo.write(&format!("d{}/f{number}.yaml", number % 100), format!("a: {number}\n"));
    }
    let first = pair.repo.commit("Many");
    let start = std::time::Instant::now();
    pair.head();
    println!("first fetch of 10,000 files: {:?}", start.elapsed());
    for round in ["cold", "warm"] {
        let start = std::time::Instant::now();
        let tree = pair.mirror.tree(&first, ".", Wanted::Manifests).unwrap();
        println!("tree of 10,000 files, {round}: {:?}", start.elapsed());
        let ids: Vec<String> = tree.files.into_values().map(|file| file.blob).collect();
        let start = std::time::Instant::now();
        pair.mirror.blobs(&ids).unwrap();
        println!("10,000 blobs, {round}: {:?}", start.elapsed());
    }
    pair.repo.write("d1/f1.yaml", "a: changed\n");
    let second = pair.repo.commit("One");
    let start = std::time::Instant::now();
    pair.head();
    println!("fetch of one commit: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    assert_eq!(changed(&pair.mirror, &first, &second).len(), 1);
    println!("its changes: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    pair.mirror.tree(&second, ".", Wanted::Manifests).unwrap();
    println!("its tree: {:?}", start.elapsed());
}
