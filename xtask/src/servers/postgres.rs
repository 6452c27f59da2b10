//! PostgreSQL.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::install::{self, Program, output};
use super::process::Farewell;
use super::state::Home;
use super::{Place, Recipe};

const CONFIG: &str = include_str!("../../../deploy/local/postgresql.conf");

pub struct Postgres {
    bin: Program,
    /// Who it runs as: PostgreSQL refuses to be root.
    user: Option<(u32, u32)>,
}

impl Postgres {
    pub fn install(home: &Home) -> anyhow::Result<Postgres> {
        let bin = match newest_below(PathBuf::from("/usr/lib/postgresql")) {
            Some(path) => Program::installed(path),
            None => {
                let folder = install::debian(home, &["postgresql"])?;
                let path = newest_below(folder.join("usr/lib/postgresql")).context("no postgres in the packages")?;
                install::unpacked(&folder, path)?
            }
        };
        let root = rustix::process::geteuid().is_root();
        let user = match root.then(|| fs::read_to_string("/etc/passwd")) {
            Some(users) => Some(unprivileged(&users?).context("neither postgres nor nobody is in /etc/passwd")?),
            None => None,
        };
        Ok(Postgres { bin, user })
    }

    fn command(&self, name: &str) -> Command {
        let mut command = self.bin.beside(name).command();
        // Its own folder may be one that the other user cannot enter.
        command.current_dir("/");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    pub(super) fn ask(&self, place: &Place, database: &str, question: &str) -> anyhow::Result<String> {
        let mut psql = self.command("psql");
        psql.args(["-XAtq", "-h", "127.0.0.1", "-U", "tidegate", "-d", database, "-c", question]);
        psql.env("PGCONNECT_TIMEOUT", "5").args(["-p", &place.ports[0].to_string()]);
        output(&mut psql)
    }
}

impl Recipe for Postgres {
    fn ports_per_node(&self) -> usize {
        1
    }

    fn farewell(&self) -> Farewell {
        Farewell::Interrupt
    }

    fn prepare(&self, place: &Place) -> anyhow::Result<()> {
        let data = place.node(0);
        fs::create_dir_all(&data)?;
        if let Some((uid, gid)) = self.user {
            std::os::unix::fs::chown(&data, Some(uid), Some(gid))?;
        }
        let data = data.join("data");
        if !data.join("PG_VERSION").exists() {
            let mut initdb = self.command("initdb");
            initdb.args(["--username=tidegate", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "-D"]);
            output(initdb.arg(&data))?;
        }
        fs::write(data.join("postgresql.conf"), CONFIG).context("cannot write postgresql.conf")
    }

    fn command(&self, place: &Place, node: usize) -> anyhow::Result<Command> {
        let mut postgres = self.command("postgres");
        postgres.arg("-D").arg(place.node(node).join("data"));
        postgres.arg("-c").arg(format!("port={}", place.ports[0]));
        postgres.arg("-c").arg(format!("unix_socket_directories={}", place.node(node).display()));
        Ok(postgres)
    }

    fn answers(&self, place: &Place) -> anyhow::Result<()> {
        match self.ask(place, "postgres", "select 6 * 7")?.trim() {
            "42" => Ok(()),
            other => bail!("PostgreSQL answers {other:?}"),
        }
    }

    fn settle(&self, place: &Place) -> anyhow::Result<()> {
        let known = self.ask(place, "postgres", "select count(*) from pg_database where datname = 'tidegate'")?;
        if known.trim() == "0" {
            self.ask(place, "postgres", "create database tidegate")?;
        }
        Ok(())
    }

    fn url(&self, place: &Place) -> String {
        format!("postgres://tidegate@127.0.0.1:{}/tidegate", place.ports[0])
    }
}

/// `<folder>/<version>/bin/postgres` of the highest version.
fn newest_below(folder: PathBuf) -> Option<PathBuf> {
    let versions = fs::read_dir(&folder).ok()?.flatten();
    let versions = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let path = |version: u32| folder.join(version.to_string()).join("bin/postgres");
    versions.filter(|version| path(*version).is_file()).max().map(path)
}

/// uid and gid of `postgres`, else of `nobody`.
fn unprivileged(passwd: &str) -> Option<(u32, u32)> {
    let ids = |name: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres").or_else(|| ids("nobody"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_runs_as_root() {
        let root = "root:x:0:0:root:/root:/bin/bash\n";
        let nobody = "nobody:x:65534:65533:nobody:/nonexistent:/usr/sbin/nologin\n";
        let postgres = "postgres:x:101:104:PostgreSQL:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(unprivileged(&format!("{root}{nobody}{postgres}")), Some((101, 104)));
        assert_eq!(unprivileged(&format!("{root}{nobody}")), Some((65534, 65533)));
        assert_eq!(unprivileged(root), None);
    }

    #[test]
    fn the_newest_version_is_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        for version in ["9", "15", "17", "common"] {
            fs::create_dir_all(folder.path().join(version).join("bin")).expect("a folder");
        }
        for version in ["9", "15"] {
            fs::write(folder.path().join(version).join("bin/postgres"), "").expect("a file");
        }
        let found = newest_below(folder.path().to_owned()).expect("one with a program");
        assert_eq!(found, folder.path().join("15/bin/postgres"));
    }
}
