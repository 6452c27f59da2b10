//! Where the programs come from: what is installed already, else Debian packages unpacked aside (so that nothing of them is
//! started or configured), and jars of Maven Central by their pinned checksums.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};

use super::state::Home;
use crate::command;

/// Where jars are fetched from, unless `TIDEGATE_MAVEN_URL` names a mirror. Whatever it is, the checksums decide.
const MAVEN: &str = "https://repo1.maven.org/maven2";
/// For one download, in seconds.
const DOWNLOAD_TIMEOUT_S: &str = "300";

/// A jar's checksum and its path in a Maven repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin<'a> {
    pub sha256: &'a str,
    pub path: &'a str,
}

/// Lines of `sha256sum`.
pub fn pins(text: &str) -> anyhow::Result<Vec<Pin<'_>>> {
    let pin = |line| {
        let (sha256, path): (&str, &str) = str::split_once(line, "  ").context("no checksum")?;
        let hexadecimal = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
        let relative = path.ends_with(".jar") && !path.starts_with('/') && !path.split('/').any(|part| part == "..");
        if !hexadecimal || !relative {
            bail!("not the pin of a jar: {line}");
        }
        Ok(Pin { sha256, path })
    };
    text.lines().map(pin).collect()
}

/// A folder with exactly the jars of `pins`, each with its checksum.
pub fn jars(name: &str, pins: &[Pin<'_>]) -> anyhow::Result<PathBuf> {
    let folder = command::cache("servers")?.join(name);
    fs::create_dir_all(&folder)?;
    let missing: Vec<Pin<'_>> = pins.iter().filter(|pin| !is_whole(&folder, pin)).copied().collect();
    if !missing.is_empty() {
        eprintln!("xtask: fetching {} jars of {name}", missing.len());
        fetch(&folder, &missing)?;
    }
    if let Some(bad) = missing.iter().find(|pin| !is_whole(&folder, pin)) {
        bail!("{} is not what was pinned: its sha256 differs from {}", bad.path, bad.sha256);
    }
    Ok(folder)
}

fn jar(folder: &Path, pin: &Pin<'_>) -> PathBuf {
    folder.join(pin.path.rsplit('/').next().unwrap_or(pin.path))
}

fn is_whole(folder: &Path, pin: &Pin<'_>) -> bool {
    fs::read(jar(folder, pin)).is_ok_and(|bytes| hexadecimal(&Sha256::digest(bytes)) == pin.sha256)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fetch(folder: &Path, pins: &[Pin<'_>]) -> anyhow::Result<()> {
    let base = std::env::var("TIDEGATE_MAVEN_URL").unwrap_or_else(|_| MAVEN.to_owned());
    let list: String = pins
        .iter()
        .map(|pin| {
            format!("url = {}/{}\noutput = {}\n", base.trim_end_matches('/'), pin.path, jar(folder, pin).display())
        })
        .collect();
    let config = folder.join("fetch.curl");
    fs::write(&config, list)?;
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--no-progress-meter", "--location", "--retry", "3", "--connect-timeout", "20"]);
    curl.args(["--max-time", DOWNLOAD_TIMEOUT_S, "--parallel", "--parallel-max", "6", "--config"]).arg(&config);
    let status = curl.stdin(Stdio::null()).status().context("cannot run curl, which fetches the jars")?;
    if !status.success() {
        bail!("jars could not be fetched from {base} ({status}); TIDEGATE_MAVEN_URL names another repository");
    }
    fs::remove_file(&config).context("cannot remove the list of downloads")
}

/// A program, and what it needs in its environment.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    libraries: Option<OsString>,
}

impl Program {
    pub fn installed(path: PathBuf) -> Program {
        Program { path, libraries: None }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// Another program of the same folder.
    pub fn beside(&self, name: &str) -> Program {
        Program { path: self.path.with_file_name(name), libraries: self.libraries.clone() }
    }
}

/// A program of the `PATH`.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A program by its name, installed or out of Debian packages.
pub fn program(home: &Home, name: &str, packages: &[&str]) -> anyhow::Result<Program> {
    if let Some(path) = in_path(name) {
        return Ok(Program::installed(path));
    }
    let folder = debian(home, packages)?;
    let path = ["usr/bin", "usr/sbin"].map(|bin| folder.join(bin).join(name)).into_iter().find(|path| path.is_file());
    unpacked(&folder, path.with_context(|| format!("{packages:?} hold no {name}"))?)
}

/// A program of `folder`, where packages were unpacked.
pub fn unpacked(folder: &Path, path: PathBuf) -> anyhow::Result<Program> {
    let mut libraries = Vec::new();
    for base in ["usr/lib", "lib"].map(|base| folder.join(base)) {
        let Ok(entries) = fs::read_dir(base) else { continue };
        let entries = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with("-linux-gnu"));
        libraries.extend(entries.map(|entry| entry.path()));
    }
    Ok(Program { path, libraries: Some(std::env::join_paths(libraries)?) })
}

/// Unpacks packages, with those that they need and that are not installed. apt checks their signatures.
pub fn debian(home: &Home, packages: &[&str]) -> anyhow::Result<PathBuf> {
    let folder = home.path().join("debian");
    let done = folder.join(format!(".{}", packages.join("+")));
    if done.exists() {
        return Ok(folder);
    }
    let Some(apt) = in_path("apt-get") else {
        bail!("{packages:?} are not installed, and there is no apt-get to fetch them");
    };
    let archives = command::cache("servers")?.join("debian").join(packages.join("+"));
    fs::create_dir_all(archives.join("partial"))?;
    eprintln!("xtask: fetching Debian packages {}", packages.join(" "));
    let mut install = vec!["--download-only", "install"];
    install.extend(packages);
    if apt_get(&apt, &archives, &install).is_err() {
        // The package lists may be older than the packages that the mirror still holds.
        apt_get(&apt, &archives, &["update"])?;
        apt_get(&apt, &archives, &install)?;
    }
    let mut found = 0;
    for entry in fs::read_dir(&archives)? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            let status = Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&folder).status()?;
            if !status.success() {
                bail!("{} could not be unpacked: {status}", package.display());
            }
            found += 1;
        }
    }
    if found == 0 {
        bail!("apt has nothing to fetch of {packages:?}, yet their programs are not in the PATH");
    }
    fs::write(done, "")?;
    Ok(folder)
}

fn apt_get(apt: &Path, archives: &Path, args: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(apt);
    command.args(["--quiet=2", "--yes", "--no-install-recommends", "--option", "Debug::NoLocking=1"]);
    command.arg("--option").arg(format!("Dir::Cache::archives={}", archives.display()));
    command.args(["--option", &format!("Acquire::http::Timeout={DOWNLOAD_TIMEOUT_S}")]);
    output(command.args(args)).map(drop)
}

/// Runs a short-lived program; its failure tells what it said.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let mut errors = child.stderr.take().context("its standard error")?;
    let errors = std::thread::spawn(move || {
        let mut said = String::new();
        errors.read_to_string(&mut said).map(|_| said)
    });
    let output = child.wait_with_output()?;
    let errors = errors.join().unwrap_or_else(|_| Ok(String::new()))?;
    if !output.status.success() {
        bail!("{} failed ({}): {}", command.get_program().display(), output.status, errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_checksums_of_jars() {
        for text in [include_str!("kafka.sha256"), include_str!("opensearch.sha256")] {
            let pins = pins(text).expect("pins");
            assert!(pins.len() > 40);
            let mut names: Vec<PathBuf> = pins.iter().map(|pin| jar(Path::new(""), pin)).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), pins.len(), "two jars of one name would overwrite each other");
        }
        let sum = "a".repeat(64);
        assert_eq!(pins(&format!("{sum}  a/b.jar")).expect("a pin"), [Pin { sha256: &sum, path: "a/b.jar" }]);
        for bad in ["", "a/b.jar", "abc  a/b.jar"] {
            assert!(pins(&format!("{bad}\n")).is_err(), "{bad:?}");
        }
        for bad in ["/a/b.jar", "a/../../b.jar", "a/b.zip"] {
            assert!(pins(&format!("{sum}  {bad}")).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_jar_with_other_bytes_is_fetched_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let sha256 = hexadecimal(&Sha256::digest(b"bytes"));
        let pin = Pin { sha256: &sha256, path: "org/a.jar" };
        assert!(!is_whole(folder.path(), &pin));
        fs::write(folder.path().join("a.jar"), b"other").expect("write");
        assert!(!is_whole(folder.path(), &pin));
        fs::write(folder.path().join("a.jar"), b"bytes").expect("write");
        assert!(is_whole(folder.path(), &pin));
    }

    #[test]
    fn a_failure_tells_what_was_said() {
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).expect_err("it failed");
        assert!(error.to_string().contains("why"), "{error}");
        assert_eq!(output(Command::new("sh").args(["-c", "echo yes"])).expect("output"), "yes\n");
    }
}
