//! Pushes, whichever way they come in: a checked [`Draft`] for each request, one [`Batch`] of commands, results in the order
//! in which the targets were named.

use std::sync::Arc;

use hashbrown::HashSet;
use smallvec::SmallVec;
use tidegate_control_core::domain::names::EVERYBODY;
use tidegate_control_core::domain::{Content, ErrorCode, Priority, Refusal, StreamKey, StreamKind};
use tidegate_control_core::partition::{Command, Push, Reply, limits};
use tidegate_proto::v1::{PushResult, PushStatus};

use super::Api;
use super::error::{FieldProblem, push_error};
use crate::message::{KEY_BYTES_MAX, check_content, check_line, check_metadata, check_word};
use crate::presence::View;
use crate::runtime::{Answer, SUBMISSION_SLOTS_MAX, slots_of_content};

mod recording;
pub mod rest;

use recording::About;

/// Slots that one request may take, so that it leaves room for those that are handed over with it.
const REQUEST_SLOTS_MAX: usize = SUBMISSION_SLOTS_MAX / 2;

/// A push that is well formed, though each target may still be wrong.
#[derive(Debug)]
pub struct Draft {
    pub targets: Vec<Target>,
    pub message: Template,
}

#[derive(Debug)]
pub enum Target {
    Stream { name: String, key: StreamKey },
    Refused { name: String, refusal: Refusal },
}

/// What every target gets.
#[derive(Debug)]
pub struct Template {
    pub from: Box<str>,
    pub kind: Box<str>,
    pub title: Box<str>,
    pub content: Content,
    pub metadata: Box<str>,
    pub message_id: Option<Box<str>>,
    pub ephemeral: bool,
    pub priority: Priority,
    pub ttl_s: u32,
    pub platforms: SmallVec<[Box<str>; 1]>,
    /// Answer once it is durable, without waiting for its seq.
    pub ack_durable: bool,
}

/// Why there is no draft.
#[derive(Debug)]
pub enum Malformed {
    /// Everything that is wrong with the request.
    Problems(Vec<FieldProblem>),
    /// It is well formed and cannot be done.
    Refused(Refusal),
}

/// Targets as a request names them.
#[derive(Debug, Default)]
pub struct Named {
    pub streams: Vec<String>,
    pub aliases: Vec<String>,
    pub client_ids: Vec<String>,
    pub all: bool,
}

impl Named {
    pub fn count(&self) -> usize {
        self.streams.len() + self.aliases.len() + self.client_ids.len() + usize::from(self.all)
    }

    /// All names, for results when there is no draft.
    pub fn into_names(self) -> Vec<String> {
        let mut names = self.streams;
        names.extend(self.aliases);
        names.extend(self.client_ids);
        names.extend(self.all.then(|| EVERYBODY.to_owned()));
        names
    }

    /// Each name becomes one target, in order; what is wrong with one does not touch the others.
    pub fn into_targets(self) -> Vec<Target> {
        let mut targets = Vec::with_capacity(self.count());
        let mut seen = HashSet::new();
        let several = self.streams.len() > 1;
        for name in self.streams {
            let target = match name.parse::<StreamKey>() {
                Err(_) => refused(name, ErrorCode::BadRequest, "not a stream: u:<uid> or g:<gid>"),
                Ok(key) if key.kind() == StreamKind::Conversation => {
                    refused(name, ErrorCode::BadRequest, "backends push to u: or g:, not to conversations")
                }
                Ok(key) if several && !seen.insert(key.clone()) => {
                    refused(name, ErrorCode::BadRequest, "named twice in this push")
                }
                Ok(key) => Target::Stream { name, key },
            };
            targets.push(target);
        }
        for name in self.aliases {
            targets.push(refused(name, ErrorCode::Unimplemented, "pushing to aliases does not exist yet"));
        }
        for name in self.client_ids {
            targets.push(refused(name, ErrorCode::Unimplemented, "pushing to client ids does not exist yet"));
        }
        if self.all
            && let Ok(key) = EVERYBODY.parse()
        {
            targets.push(Target::Stream { name: EVERYBODY.to_owned(), key });
        }
        targets
    }
}

fn refused(name: String, code: ErrorCode, message: &str) -> Target {
    Target::Refused { name, refusal: Refusal::new(code, message) }
}

impl Template {
    /// Every problem of the fields; their types are right already.
    pub fn problems(&self) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        let mut check = |field: &'static str, result: Result<(), String>| {
            problems.extend(result.err().map(|problem| FieldProblem::new(field, problem)));
        };
        check("message.type", check_word(&self.kind, limits::KIND_BYTES_MAX));
        check("message.title", check_line(&self.title, limits::TITLE_BYTES_MAX));
        check("message.metadata", check_metadata(&self.metadata));
        check("from", check_line(&self.from, limits::FROM_BYTES_MAX));
        if let Some(key) = &self.message_id {
            check("message_id", check_line(key, KEY_BYTES_MAX));
        }
        if self.platforms.len() > limits::PLATFORMS_MAX {
            check("platforms", Err(format!("has more than {}", limits::PLATFORMS_MAX)));
        }
        let bad_platform =
            self.platforms.iter().find_map(|platform| check_word(platform, limits::PLATFORM_BYTES_MAX).err());
        check("platforms", bad_platform.map_or(Ok(()), Err));
        problems
    }

    /// `TOO_LARGE` if the content is beyond what is configured, or too much for so many targets.
    pub fn check_size(&self, targets: usize, content_bytes_max: usize) -> Result<(), Refusal> {
        if targets * slots_of_content(self.content.len()) > REQUEST_SLOTS_MAX {
            return Err(Refusal::new(ErrorCode::TooLarge, "so much content for so many targets: use several requests"));
        }
        if self.content.len() > content_bytes_max {
            let text = format!("a message has at most {content_bytes_max} bytes of content");
            return Err(Refusal::new(ErrorCode::TooLarge, text));
        }
        check_content(&self.kind, &self.content, false)
    }

    fn command(&self, to: StreamKey) -> Command {
        Command::Push(Box::new(Push {
            id: None,
            ack_durable: self.ack_durable,
            to,
            sender: None,
            from: self.from.clone(),
            client_msg_id: Box::default(),
            message_id: self.message_id.clone(),
            kind: self.kind.clone(),
            title: self.title.clone(),
            content: self.content.clone(),
            metadata: self.metadata.clone(),
            ephemeral: self.ephemeral,
            priority: self.priority,
            ttl_s: self.ttl_s,
            platforms: self.platforms.clone(),
        }))
    }

    /// As [`Template::command`] for the last target, without a copy.
    fn into_command(self, to: StreamKey) -> Command {
        Command::Push(Box::new(Push {
            id: None,
            ack_durable: self.ack_durable,
            to,
            sender: None,
            from: self.from,
            client_msg_id: Box::default(),
            message_id: self.message_id,
            kind: self.kind,
            title: self.title,
            content: self.content,
            metadata: self.metadata,
            ephemeral: self.ephemeral,
            priority: self.priority,
            ttl_s: self.ttl_s,
            platforms: self.platforms,
        }))
    }
}

/// Many pushes on their way together.
#[derive(Debug, Default)]
pub struct Batch {
    /// For the partition; taken by the caller.
    pub commands: Vec<Command>,
    slots: Vec<Slot>,
    /// What was pushed is remembered until the answers are there.
    keeps_records: bool,
}

/// What is known of one target's result.
#[derive(Debug)]
struct Slot {
    corr: u64,
    name: String,
    /// `None`: the partition's answer decides.
    refusal: Option<Refusal>,
    about: Option<Arc<About>>,
}

impl Batch {
    pub fn new(api: &Api) -> Batch {
        Batch { keeps_records: api.records.is_some(), ..Batch::default() }
    }

    pub fn add(&mut self, corr: u64, draft: Draft) {
        let last = draft.targets.iter().rposition(|target| matches!(target, Target::Stream { .. }));
        let about = self.keeps_records.then(|| About::of(&draft.message));
        let mut message = Some(draft.message);
        for (at, target) in draft.targets.into_iter().enumerate() {
            let (name, refusal) = match target {
                Target::Refused { name, refusal } => (name, Some(refusal)),
                Target::Stream { name, key } => {
                    let command = match &message {
                        Some(template) if Some(at) != last => Some(template.command(key)),
                        _ => message.take().map(|template| template.into_command(key)),
                    };
                    self.commands.extend(command);
                    (name, None)
                }
            };
            self.slots.push(Slot { corr, name, refusal, about: about.clone() });
        }
    }

    /// A request that is no draft still gets one result for each target that it names, or one without a target.
    pub fn add_refused(&mut self, corr: u64, mut names: Vec<String>, refusal: &Refusal) {
        if names.is_empty() {
            names.push(String::new());
        }
        self.slots.extend(names.into_iter().map(|name| Slot {
            corr,
            name,
            refusal: Some(refusal.clone()),
            about: None,
        }));
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// One result for each target, in order. `answers` are those to `commands`, or why none of them was taken.
    pub fn results(self, answers: Result<Vec<Answer>, Refusal>, api: &Api) -> Vec<PushResult> {
        let (mut answers, failure) = match answers {
            Ok(answers) => (answers.into_iter(), None),
            Err(refusal) => (Vec::new().into_iter(), Some(refusal)),
        };
        let presence = api.presence.view();
        let mut refused = 0;
        let mut results = Vec::with_capacity(self.slots.len());
        for slot in self.slots {
            let answer = match (slot.refusal, &failure) {
                (Some(refusal), _) => Err(refusal),
                (None, Some(failure)) => Err(failure.clone()),
                (None, None) => answers.next().unwrap_or_else(|| Err(crate::runtime::late())),
            };
            refused += u64::from(answer.is_err());
            if let (Some(about), Some(records)) = (slot.about, &api.records) {
                about.tell(&records.feed, &slot.name, &answer, online(&slot.name, &presence));
            }
            results.push(result(slot.corr, slot.name, answer, &presence));
        }
        api.metrics.refused(refused);
        results
    }
}

fn result(corr: u64, to: String, answer: Answer, presence: &View<'_>) -> PushResult {
    match answer {
        Ok(Reply::Pushed { epoch, seq, id, duplicate, online, .. }) => PushResult {
            online: online.or_else(|| self::online(&to, presence)).unwrap_or(0),
            to,
            status: PushStatus::Accepted as i32,
            message_id: id.to_string(),
            epoch: epoch.to_string(),
            seq: seq.map(|seq| seq.0),
            duplicate,
            error: None,
            corr,
        },
        Ok(Reply::Queued { id }) => PushResult {
            to,
            status: PushStatus::Queued as i32,
            message_id: id.map(|id| id.to_string()).unwrap_or_default(),
            corr,
            ..PushResult::default()
        },
        Ok(_) => refused_result(corr, to, &Refusal::new(ErrorCode::Internal, "another reply than that of a push")),
        Err(refusal) => refused_result(corr, to, &refusal),
    }
}

fn refused_result(corr: u64, to: String, refusal: &Refusal) -> PushResult {
    let error = Some(push_error(refusal));
    PushResult { to, status: PushStatus::Error as i32, error, corr, ..PushResult::default() }
}

/// Live connections of a target, where they are known: a user's, or everybody's.
fn online(to: &str, presence: &View<'_>) -> Option<u32> {
    let count = match to.split_once(':') {
        Some(("u", uid)) => presence.connections_of(uid),
        _ if to == EVERYBODY => presence.connections_everywhere(),
        _ => return None,
    };
    Some(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Whether results for this target say how many are online.
fn counts_online(to: &str) -> bool {
    to.starts_with("u:") || to == EVERYBODY
}

#[cfg(test)]
mod tests;
