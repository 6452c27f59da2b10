//! The house's own rules: which crate may know which, how long a file may be, where `unsafe` may stand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Arrows between our crates, as ARCHITECTURE.md draws them. `dev-dependencies` may point further, since tests of a crate
/// may use any peer.
const ARROWS: &[(&str, &[&str])] = &[
    ("tidegate", &["tidegate-auth", "tidegate-control", "tidegate-gateway", "tidegate-proto"]),
    ("tidegate-auth", &[]),
    ("tidegate-bus", &["tidegate-proto"]),
    (
        "tidegate-control",
        &[
            "tidegate-auth",
            "tidegate-bus",
            "tidegate-control-core",
            "tidegate-proto",
            "tidegate-registry",
            "tidegate-ring",
        ],
    ),
    ("tidegate-control-core", &[]),
    (
        "tidegate-gateway",
        &[
            "tidegate-auth",
            "tidegate-gateway-core",
            "tidegate-gateway-epoll",
            "tidegate-gateway-ring",
            "tidegate-gateway-threads",
            "tidegate-gateway-tls",
            "tidegate-proto",
            "tidegate-registry",
            "tidegate-ring",
        ],
    ),
    ("tidegate-gateway-contract", &["tidegate-gateway-core"]),
    ("tidegate-gateway-core", &["tidegate-proto", "tidegate-ring"]),
    ("tidegate-gateway-epoll", &["tidegate-gateway-core", "tidegate-gateway-threads"]),
    ("tidegate-gateway-ring", &["tidegate-gateway-core", "tidegate-gateway-threads"]),
    ("tidegate-gateway-threads", &[]),
    ("tidegate-gateway-tls", &["tidegate-gateway-core"]),
    ("tidegate-load", &["tidegate-proto"]),
    ("tidegate-proto", &[]),
    ("tidegate-registry", &[]),
    ("tidegate-ring", &[]),
    ("tidegate-sim", &["tidegate-control-core", "tidegate-gateway-core", "tidegate-gateway-tls", "tidegate-proto"]),
    ("xtask", &["tidegate-load"]),
];

/// Crates that may hold `unsafe`.
const UNSAFE: &[&str] = &["tidegate-gateway-ring"];
/// Modules that may hold `unsafe` in a crate that otherwise denies it.
const UNSAFE_MODULES: &[(&str, &[&str])] = &[("tidegate-load", &["floor", "net"])];
const LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn manifests() -> Vec<(PathBuf, toml::Table)> {
    let read = |path: &Path| fs::read_to_string(path).expect("manifest").parse::<toml::Table>().expect("TOML");
    let workspace = read(&root().join("Cargo.toml"));
    let members = workspace["workspace"]["members"].as_array().expect("members");
    members
        .iter()
        .map(|member| {
            let folder = root().join(member.as_str().expect("a path"));
            let manifest = read(&folder.join("Cargo.toml"));
            (folder, manifest)
        })
        .collect()
}

fn name(manifest: &toml::Table) -> String {
    manifest["package"]["name"].as_str().expect("name").to_owned()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        let skipped =
            ["target", ".git", "node_modules"].iter().any(|name| path.file_name().is_some_and(|f| f == *name));
        if path.is_dir() && !skipped {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs" || e == "py" || e == "js" || e == "ts") {
            found.push(path);
        }
    }
}

#[test]
fn crates_know_only_whom_they_may() {
    let manifests = manifests();
    let ours: BTreeSet<String> = manifests.iter().map(|(_, manifest)| name(manifest)).collect();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for (_, manifest) in &manifests {
        let name = name(manifest);
        let allowed = allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} has no row in ARROWS"));
        for section in ["dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            for dependency in table.keys().filter(|d| ours.contains(*d)) {
                assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
            }
        }
    }
}

#[test]
fn no_file_is_too_long_to_hold_in_the_head() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    assert!(files.len() > 20);
    for file in files {
        let lines = fs::read_to_string(&file).expect("source").lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", file.display());
    }
}

/// The test command runs the executables that cargo built, and documentation makes none.
#[test]
fn documentation_holds_no_code_that_would_have_to_be_run() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    for file in files.iter().filter(|file| file.extension().is_some_and(|kind| kind == "rs")) {
        let text = fs::read_to_string(file).expect("source");
        let comments = text.lines().map(str::trim_start);
        let comments = comments.filter_map(|line| line.strip_prefix("//!").or(line.strip_prefix("///")));
        let fences = comments.filter_map(|line| line.trim_start().strip_prefix("```"));
        for kind in fences.step_by(2) {
            assert!(["text", "json", "toml", "sh"].contains(&kind), "{}: ```{kind} would be a test", file.display());
        }
    }
}

#[test]
fn unsafe_code_stands_only_in_the_drivers() {
    for (folder, manifest) in manifests() {
        let name = name(&manifest);
        if UNSAFE.contains(&name.as_str()) {
            continue;
        }
        let modules = UNSAFE_MODULES.iter().find(|(crate_name, _)| *crate_name == name).map_or(&[][..], |row| row.1);
        let roots = ["src/lib.rs", "src/main.rs"].map(|file| folder.join(file));
        for root in roots.iter().filter(|root| root.exists()) {
            let text = fs::read_to_string(root).expect("source");
            if modules.is_empty() || root.ends_with("main.rs") {
                assert!(text.contains("#![forbid(unsafe_code)]"), "{} does not forbid unsafe code", root.display());
                continue;
            }
            assert!(text.contains("#![deny(unsafe_code)]"), "{} does not deny unsafe code", root.display());
            let mut lines = text.lines();
            let mut allowed = Vec::new();
            while lines.any(|line| line.contains("allow(unsafe_code)")) {
                allowed.push(lines.next().expect("a module").to_owned());
            }
            let wanted: Vec<String> = modules.iter().map(|module| format!("pub mod {module};")).collect();
            assert_eq!(allowed, wanted, "{}", root.display());
        }
        let mut files = Vec::new();
        sources(&folder.join("src"), &mut files);
        for file in files.iter().filter(|file| !roots.contains(file)) {
            let text = fs::read_to_string(file).expect("source");
            assert!(!text.contains("allow(unsafe_code)"), "{} allows unsafe code", file.display());
        }
    }
}

#[test]
fn the_cores_read_no_clock_and_draw_no_randomness() {
    let forbidden = [
        "Instant::now",
        "SystemTime",
        "UNIX_EPOCH",
        "RandomState",
        "DefaultHashBuilder",
        "DefaultHasher",
        "thread::",
        "getrandom",
        "rand::",
        "std::net",
        "std::fs",
        "std::process",
        "std::env",
        "std::os",
        "tokio",
    ];
    for core in ["gateway/core/src", "control/core/src", "ring/src"] {
        let mut files = Vec::new();
        sources(&root().join(core), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).expect("source");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                let hit = forbidden.iter().find(|word| names(line, word));
                assert!(hit.is_none(), "{}: {}", file.display(), line.trim());
            }
        }
    }
}

/// Whether the word stands there, and not as the end of a longer one.
fn names(line: &str, word: &str) -> bool {
    let begins = |at: usize| !line[..at].ends_with(|before: char| before.is_ascii_alphanumeric());
    line.match_indices(word).any(|(at, _)| begins(at))
}

/// A table with a seed of its own gives another order in every process. Those of the standard library have no other; those of
/// `hashbrown` must be made with a hasher that was handed in. Tests may use them.
#[test]
fn the_cores_have_no_table_with_a_seed_of_its_own() {
    let unseeded = ["collections::Hash", "HashMap::new(", "HashSet::new(", "HashMap::default(", "HashSet::default("];
    for core in ["gateway/core/src", "control/core/src", "ring/src"] {
        let mut files = Vec::new();
        sources(&root().join(core), &mut files);
        files.retain(|file| !file.to_string_lossy().contains("tests"));
        for file in files {
            let text = fs::read_to_string(&file).expect("source");
            let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            for line in shipped.lines() {
                let hit = unseeded.iter().find(|word| line.contains(**word));
                assert!(hit.is_none(), "{}: {}", file.display(), line.trim());
            }
        }
    }
}
