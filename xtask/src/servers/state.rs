//! What runs where: a JSON file that `up` writes, and that `down`, `status` and tests read.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::process::Process;

/// Longer than any `up` takes, downloads included.
const LOCK_TIMEOUT: Duration = Duration::from_secs(900);

/// The folder of everything that runs. Not below the user's home, which other users cannot look into: PostgreSQL refuses to
/// be root, so it runs as somebody else.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Which boot of the machine the processes belong to.
    pub boot: String,
    pub servers: BTreeMap<String, Running>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// What a client is given, see docs/local-servers.md.
    pub url: String,
    /// Kept over restarts.
    pub ports: Vec<u16>,
    /// Empty: stopped.
    pub processes: Vec<Process>,
    pub data: PathBuf,
}

impl Running {
    pub fn is_up(&self) -> bool {
        !self.processes.is_empty() && self.processes.iter().all(Process::is_alive)
    }
}

impl Home {
    /// `TIDEGATE_SERVERS_HOME`, otherwise a folder of this user's in `/var/tmp`.
    pub fn find() -> anyhow::Result<Home> {
        let uid = rustix::process::geteuid().as_raw();
        let default = || PathBuf::from(format!("/var/tmp/tidegate-servers-{uid}"));
        Home::at(std::env::var_os("TIDEGATE_SERVERS_HOME").map_or_else(default, PathBuf::from))
    }

    /// Anybody may make a folder in `/var/tmp`, so one that is not ours is refused.
    pub fn at(path: PathBuf) -> anyhow::Result<Home> {
        use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
        match fs::DirBuilder::new().mode(0o711).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot make {}", path.display()));
            }
            _ => {}
        }
        let found = fs::symlink_metadata(&path)?;
        if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
            bail!("{} is not a folder of ours: remove it, or set TIDEGATE_SERVERS_HOME", path.display());
        }
        Ok(Home(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn state_file(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// Held while servers are started or stopped: several test processes may want the same one at once.
    pub fn lock(&self) -> anyhow::Result<File> {
        let path = self.0.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error.into()),
                Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                    bail!("another process holds {} for {LOCK_TIMEOUT:?}", path.display())
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// The state, without processes of before the last boot.
    pub fn load(&self) -> anyhow::Result<State> {
        let path = self.state_file();
        let mut state = match fs::read_to_string(&path) {
            Ok(text) => parse(&text).with_context(|| format!("{} is damaged: remove it", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("which boot is this?")?;
        forget_older_boots(&mut state, boot.trim());
        Ok(state)
    }

    /// A reader sees the old file or the new one.
    pub fn save(&self, state: &State) -> anyhow::Result<()> {
        let fresh = self.0.join("state.json.new");
        fs::write(&fresh, serde_json::to_string_pretty(state)? + "\n")?;
        fs::rename(&fresh, self.state_file()).context("cannot replace the state file")
    }
}

fn parse(text: &str) -> serde_json::Result<State> {
    serde_json::from_str(text)
}

fn forget_older_boots(state: &mut State, boot: &str) {
    if state.boot != boot {
        state.boot = boot.to_owned();
        state.servers.values_mut().for_each(|server| server.processes.clear());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(pid: u32) -> Running {
        Running {
            url: "redis://127.0.0.1:20001".into(),
            ports: vec![20001],
            processes: vec![Process { pid, started: 77 }],
            data: "/var/tmp/somewhere".into(),
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::at(folder.path().join("home")).expect("home");
        let mut state = home.load().expect("an empty state");
        assert!(state.servers.is_empty());
        state.servers.insert("redis".into(), running(1));
        home.save(&state).expect("save");
        assert_eq!(home.load().expect("load"), state);
        assert!(!state.servers["redis"].is_up(), "process 1 did not start at tick 77");
    }

    #[test]
    fn processes_of_an_older_boot_are_forgotten_and_their_ports_kept() {
        let mut state = State { boot: "then".into(), servers: BTreeMap::from([("redis".into(), running(1))]) };
        forget_older_boots(&mut state, "now");
        assert_eq!(state.servers["redis"].ports, [20001]);
        assert!(state.servers["redis"].processes.is_empty() && !state.servers["redis"].is_up());
    }

    #[test]
    fn a_folder_that_is_a_link_or_a_damaged_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).expect("a link");
        assert!(Home::at(link).is_err());
        let home = Home::at(folder.path().join("home")).expect("home");
        fs::write(home.state_file(), "{\"boot\":").expect("write");
        assert!(home.load().is_err());
    }

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::at(folder.path().join("home")).expect("home");
        let held = home.lock().expect("lock");
        let other = File::options().write(true).open(home.path().join("lock")).expect("open");
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        other.try_lock().expect("free again");
    }
}
