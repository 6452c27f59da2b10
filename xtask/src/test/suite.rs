//! The test executables of the workspace, as cargo built them: run without it, so that one build serves every way of running.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::command;

/// What a run has in its environment beside what is there.
pub type Env<'a> = &'a [(&'a str, &'a str)];

/// One test executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    /// The folder of its package in the workspace, such as `gateway/core`; the root's is empty.
    pub package: String,
    /// Of a file in `tests/`, or of the library or binary whose unit tests it holds.
    pub target: String,
    pub kind: Kind,
    pub path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Unit,
    Behaviour,
}

/// The part of cargo's messages that is of use here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    manifest_path: PathBuf,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds all tests of the workspace, and the programs that they run.
pub fn build(cargo: &str) -> anyhow::Result<Vec<Executable>> {
    let args = ["test", "--workspace", "--locked", "--no-run", "--message-format", "json-render-diagnostics"];
    eprintln!("xtask: {cargo} {}", args.join(" "));
    let mut command = Command::new(cargo);
    command.args(args).current_dir(command::root()).stdin(Stdio::null()).stderr(Stdio::inherit());
    let built = command.output().with_context(|| format!("cannot run {cargo}"))?;
    if !built.status.success() {
        bail!("the tests could not be built: {}", built.status);
    }
    let mut found = executables(&String::from_utf8(built.stdout)?, &command::root())?;
    found.sort_by(|a, b| (&a.package, a.kind, &a.target).cmp(&(&b.package, b.kind, &b.target)));
    if found.is_empty() {
        bail!("cargo built no tests");
    }
    Ok(found)
}

fn executables(messages: &str, root: &Path) -> anyhow::Result<Vec<Executable>> {
    let mut found = Vec::new();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).with_context(|| format!("cargo said {line}"))?;
        let Message { reason, executable: Some(path), manifest_path, target: Some(target), profile: Some(profile) } =
            message
        else {
            continue;
        };
        if reason != "compiler-artifact" || !profile.test {
            continue;
        }
        let folder = manifest_path.parent().and_then(|folder| folder.strip_prefix(root).ok());
        let package = folder.with_context(|| format!("{} is not ours", manifest_path.display()))?;
        let kind = if target.kind.iter().any(|kind| kind == "test") { Kind::Behaviour } else { Kind::Unit };
        found.push(Executable { package: package.to_string_lossy().into(), target: target.name, kind, path });
    }
    Ok(found)
}

impl Executable {
    pub fn name(&self) -> String {
        match self.kind {
            Kind::Behaviour => format!("{}/tests/{}", self.package, self.target),
            Kind::Unit => format!("{}: {}", self.package, self.target),
        }
    }

    /// With what cargo sets for a test that it runs, as far as ours look at it.
    pub fn command(&self) -> Command {
        let folder = command::root().join(&self.package);
        let mut command = Command::new(&self.path);
        command.env("CARGO_MANIFEST_DIR", &folder).current_dir(folder).stdin(Stdio::null());
        command
    }
}

/// Those of these names. Error: a name that nobody has, since tests that are not there would pass.
pub fn named<'a>(all: &'a [Executable], names: &[&str]) -> anyhow::Result<Vec<&'a Executable>> {
    let behaviour = |one: &&Executable| one.kind == Kind::Behaviour;
    let known: BTreeSet<&str> = all.iter().filter(behaviour).map(|one| &*one.target).collect();
    let missing: Vec<&&str> = names.iter().filter(|name| !known.contains(**name)).collect();
    if !missing.is_empty() {
        bail!("no such tests: {missing:?}");
    }
    Ok(all.iter().filter(behaviour).filter(|one| names.contains(&&*one.target)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = r#"{"reason":"compiler-artifact","package_id":"registry+x#serde@1.0.0","manifest_path":"/c/serde/Cargo.toml","target":{"kind":["lib"],"name":"serde"},"profile":{"test":false},"executable":null}
{"reason":"build-script-executed","package_id":"x"}
{"reason":"compiler-artifact","manifest_path":"/w/cli/Cargo.toml","target":{"kind":["bin"],"name":"tidegate"},"profile":{"test":false},"executable":"/t/tidegate"}
{"reason":"compiler-artifact","manifest_path":"/w/gateway/core/Cargo.toml","target":{"kind":["lib"],"name":"tidegate_gateway_core"},"profile":{"test":true},"executable":"/t/core-1"}
{"reason":"compiler-artifact","manifest_path":"/w/gateway/Cargo.toml","target":{"kind":["test"],"name":"echo"},"profile":{"test":true},"executable":"/t/echo-1"}
{"reason":"build-finished","success":true}"#;

    fn all() -> Vec<Executable> {
        executables(MESSAGES, Path::new("/w")).expect("messages")
    }

    #[test]
    fn only_what_holds_tests_is_run() {
        let names: Vec<String> = all().iter().map(Executable::name).collect();
        assert_eq!(names, ["gateway/core: tidegate_gateway_core", "gateway/tests/echo"]);
        assert_eq!(all()[1].path, Path::new("/t/echo-1"));
    }

    #[test]
    fn a_test_that_is_not_there_is_no_success() {
        let all = all();
        assert_eq!(named(&all, &["echo"]).expect("it is there"), [&all[1]]);
        assert!(named(&all, &["echo", "renamed"]).is_err());
        assert!(named(&all, &["tidegate_gateway_core"]).is_err(), "unit tests have no way of their own");
    }
}
