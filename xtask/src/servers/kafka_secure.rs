//! What makes a Kafka a secure one: a certificate, users with passwords, and an authorizer that denies what is not allowed.
//!
//! The broker itself speaks over a plain listener on loopback, as a super user; no client is told of it.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use super::Place;

/// `admin` may do everything; the others what `deploy/kafka/acls.sh` allows them. `nobody` is allowed nothing.
pub const USERS: &[&str] = &["admin", "operator", "api", "logic", "task", "gateway-one", "gateway-two", "nobody"];
const MECHANISMS: [&str; 2] = ["SCRAM-SHA-256", "SCRAM-SHA-512"];
const SCHEME: &str = "sasl_ssl://";

/// The folder with all that a client needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// `host:port`; empty before the server has one.
    pub brokers: String,
    pub folder: PathBuf,
}

impl Access {
    pub(super) fn of(place: &Place) -> Access {
        Access { brokers: String::new(), folder: place.data.join("access") }
    }

    /// From `sasl_ssl://HOST:PORT/FOLDER`.
    pub fn parse(url: &str) -> anyhow::Result<Access> {
        let parts = url.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/'));
        let Some((brokers, folder)) = parts else { bail!("{url} is not {SCHEME}HOST:PORT/FOLDER") };
        Ok(Access { brokers: brokers.to_owned(), folder: Path::new("/").join(folder) })
    }

    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    pub fn password_file(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{user}.password"))
    }

    /// Kafka's `kafka-acls.sh`.
    pub fn acls_command(&self) -> PathBuf {
        self.folder.join("kafka-acls")
    }

    /// For Kafka's own tools, as `admin`.
    pub fn admin_config(&self) -> PathBuf {
        self.folder.join("admin.properties")
    }

    fn broker_certificate(&self) -> PathBuf {
        self.folder.join("broker.pem")
    }

    fn password(&self, user: &str) -> anyhow::Result<String> {
        let file = self.password_file(user);
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }
}

/// Makes what is missing; users keep their passwords as long as the data is kept, because Kafka does.
pub(super) fn prepare(access: &Access, tool: &Command, port: u16) -> anyhow::Result<()> {
    fs::create_dir_all(&access.folder)?;
    for user in USERS {
        if !access.password_file(user).exists() {
            write_private(&access.password_file(user), &random()?, 0o600)?;
        }
    }
    if !access.broker_certificate().exists() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        fs::write(access.ca_file(), made.cert.pem())?;
        write_private(&access.broker_certificate(), &(made.signing_key.serialize_pem() + &made.cert.pem()), 0o600)?;
    }
    let admin = format!(
        "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
         sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" password=\"{}\";\n",
        access.ca_file().display(),
        access.password("admin")?
    );
    write_private(&access.admin_config(), &admin, 0o600)?;
    let words = std::iter::once(tool.get_program()).chain(tool.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let script = format!("#!/bin/sh\nexec {} org.apache.kafka.tools.AclCommand \"$@\"\n", words.join(" "));
    write_private(&access.acls_command(), &script, 0o700)?;
    fs::write(access.folder.join("brokers"), format!("127.0.0.1:{port}\n"))?;
    Ok(())
}

/// Added to a broker's properties; of two lines for one key the later one counts.
pub(super) fn properties(access: &Access, client: u16, controller: u16, secure: u16) -> anyhow::Result<String> {
    let mut users = String::new();
    for user in USERS {
        users += &format!(" user_{user}=\"{}\"", access.password(user)?);
    }
    let listeners =
        format!("PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller},SASL_SSL://127.0.0.1:{secure}");
    let mut text = String::new();
    for (key, value) in [
        ("listeners", listeners),
        ("advertised.listeners", format!("PLAINTEXT://127.0.0.1:{client},SASL_SSL://127.0.0.1:{secure}")),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL".to_owned()),
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned()),
        ("super.users", "User:ANONYMOUS;User:admin".to_owned()),
        ("allow.everyone.if.no.acl.found", "false".to_owned()),
        ("sasl.enabled.mechanisms", format!("PLAIN,{}", MECHANISMS.join(","))),
        ("ssl.keystore.type", "PEM".to_owned()),
        ("ssl.keystore.location", access.broker_certificate().display().to_string()),
        (
            "listener.name.sasl_ssl.plain.sasl.jaas.config",
            format!("org.apache.kafka.common.security.plain.PlainLoginModule required{users};"),
        ),
    ] {
        text += &format!("{key}={value}\n");
    }
    for mechanism in MECHANISMS {
        let mechanism = mechanism.to_lowercase();
        text += &format!(
            "listener.name.sasl_ssl.{mechanism}.sasl.jaas.config=\
             org.apache.kafka.common.security.scram.ScramLoginModule required;\n"
        );
    }
    Ok(text)
}

/// Arguments for the formatting of a broker's storage, which is where SCRAM's users begin.
pub(super) fn scram(access: &Access) -> anyhow::Result<Vec<String>> {
    let mut arguments = Vec::new();
    for user in USERS {
        let password = access.password(user)?;
        for mechanism in MECHANISMS {
            arguments.extend(["--add-scram".to_owned(), format!("{mechanism}=[name={user},password={password}]")]);
        }
    }
    Ok(arguments)
}

pub(super) fn url(access: &Access, port: u16) -> String {
    format!("{SCHEME}127.0.0.1:{port}{}", access.folder.display())
}

fn random() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn write_private(file: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    fs::write(file, text)?;
    fs::set_permissions(file, fs::Permissions::from_mode(mode))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_the_port_and_the_folder() {
        let access = Access { brokers: String::new(), folder: "/a/b/access".into() };
        let parsed = Access::parse(&url(&access, 9093)).expect("a URL");
        assert_eq!((&*parsed.brokers, &*parsed.folder), ("127.0.0.1:9093", Path::new("/a/b/access")));
        assert!(Access::parse("127.0.0.1:9093").is_err());
    }
}
