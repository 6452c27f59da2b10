//! `tidegate topics`, `dead-letter`, `offsets`, `drain`: what an operator does to a cluster.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use tidegate_control::Config;
use tidegate_control::operations::{self, Letter, Placed, To};

use crate::config;
use crate::node::runtime;

/// The configuration of one of the cluster's control nodes.
#[derive(Args)]
pub struct OfCluster {
    #[arg(long)]
    config: PathBuf,
}

#[derive(Subcommand)]
pub enum Topics {
    /// Gives a topic more partitions; the upstream topic grows while messages flow.
    Grow {
        topic: String,
        partitions: u32,
        #[command(flatten)]
        of: OfCluster,
    },
}

#[derive(Subcommand)]
pub enum DeadLetter {
    /// Records that were given up, newest first: PARTITION/OFFSET, when, from where, why.
    List {
        /// Only of records that came from this topic.
        #[arg(long)]
        topic: Option<String>,
        /// Only with this in their reason.
        #[arg(long)]
        reason: Option<String>,
        #[arg(long, default_value_t = 100)]
        newest: usize,
        #[command(flatten)]
        of: OfCluster,
    },
    /// Puts records into their topics again; each is a new message that keeps its `message_id`.
    Replay {
        /// PARTITION/OFFSET, as `list` shows it.
        #[arg(required = true)]
        letters: Vec<String>,
        #[command(flatten)]
        of: OfCluster,
    },
}

#[derive(Subcommand)]
pub enum Offsets {
    /// Moves the place from which a group reads a topic. Refused while the group has members, unless forced.
    Reset {
        group: String,
        topic: String,
        /// `earliest`, `latest`, an offset, or a time as `@MILLISECONDS` since 1970.
        #[arg(long)]
        to: String,
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        of: OfCluster,
    },
}

fn load(of: &OfCluster) -> anyhow::Result<Config> {
    config::section(&config::load(&of.config)?, "control")
}

pub fn topics(verb: &Topics) -> anyhow::Result<()> {
    let Topics::Grow { topic, partitions, of } = verb;
    let config = load(of)?;
    runtime()?.block_on(operations::grow_topic(&config, topic, *partitions))?;
    println!("{topic} has {partitions} partitions");
    Ok(())
}

pub fn dead_letters(verb: &DeadLetter) -> anyhow::Result<()> {
    match verb {
        DeadLetter::List { topic, reason, newest, of } => {
            let config = load(of)?;
            let listing = operations::list_dead_letters(&config, topic.clone(), reason.clone(), *newest);
            let letters = runtime()?.block_on(listing)?;
            letters.iter().for_each(|letter| println!("{}", line(letter)));
            eprintln!("{} dead letters", letters.len());
            Ok(())
        }
        DeadLetter::Replay { letters, of } => {
            let places = letters.iter().map(|text| place(text)).collect::<anyhow::Result<Vec<Placed>>>()?;
            let config = load(of)?;
            let replayed = runtime()?.block_on(operations::replay_dead_letters(&config, &places))?;
            let mut failed = 0;
            for one in &replayed {
                let Placed { partition, offset } = one.letter;
                match &one.outcome {
                    Ok(now) => println!("{partition}/{offset} replayed as {}/{}", now.partition, now.offset),
                    Err(error) => {
                        failed += 1;
                        eprintln!("{partition}/{offset}: {error}");
                    }
                }
            }
            if failed > 0 { bail!("{failed} of {} were not replayed", replayed.len()) } else { Ok(()) }
        }
    }
}

/// What a record says of itself may hold anything: control characters are shown as escapes.
fn line(letter: &Letter) -> String {
    let (place, of) = (letter.place, &letter.letter);
    let key = of.key.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    format!(
        "{}/{}\t{}\t{}/{}/{}\t{}\t{}\t{}",
        place.partition,
        place.offset,
        of.failed_at,
        of.topic,
        of.partition,
        of.offset,
        of.class.as_str(),
        key.escape_debug(),
        of.reason.escape_debug()
    )
}

fn place(text: &str) -> anyhow::Result<Placed> {
    let parsed = text.split_once('/').and_then(|(partition, offset)| {
        Some(Placed { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
    });
    parsed.with_context(|| format!("`{text}` is not PARTITION/OFFSET"))
}

pub fn offsets(verb: &Offsets) -> anyhow::Result<()> {
    let Offsets::Reset { group, topic, to, force, of } = verb;
    let to = match to.as_str() {
        "earliest" => To::Earliest,
        "latest" => To::Latest,
        text => match text.strip_prefix('@') {
            Some(time) => To::Time(time.parse().context("not milliseconds since 1970")?),
            None => To::Offset(text.parse().context("`earliest`, `latest`, an offset, or `@MILLISECONDS`")?),
        },
    };
    let config = load(of)?;
    let resets = runtime()?.block_on(operations::reset_offsets(&config, group, topic, to, *force))?;
    for reset in resets {
        let before = reset.before.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
        println!("{topic}/{}\t{before} -> {}", reset.partition, reset.after);
    }
    Ok(())
}

/// `tidegate drain ADDR`: as SIGTERM does to the process that listens there, on this very machine.
pub fn drain(address: SocketAddr) -> anyhow::Result<()> {
    let pid = listener(address).with_context(|| format!("no process of this machine listens on {address}"))?;
    let sent = std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status()?;
    if !sent.success() {
        bail!("process {pid} cannot be told");
    }
    println!("process {pid} drains");
    Ok(())
}

/// Who holds the listening socket, by way of /proc: the socket's inode, then whose descriptor it is.
fn listener(address: SocketAddr) -> Option<u32> {
    let table = std::fs::read_to_string(if address.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" }).ok()?;
    let port = format!(":{:04X}", address.port());
    let inode = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&port) && *fields.get(3)? == "0A";
        listens.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
    })?;
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        holds(&entry.path(), &socket).then_some(pid)
    })
}

fn holds(process: &Path, socket: &Path) -> bool {
    let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else { return false };
    descriptors.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_behind_a_port_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("an address");
        assert_eq!(listener(address), Some(std::process::id()));
        drop(socket);
        assert_eq!(listener(address), None);
    }

    #[test]
    fn a_letter_is_named_by_its_place() {
        assert_eq!(place("2/17").expect("a place"), Placed { partition: 2, offset: 17 });
        assert!(place("17").is_err() && place("a/b").is_err());
    }
}
