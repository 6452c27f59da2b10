//! What tasks of ours say, and how they are named: the same task has the same id, whoever makes it, and however often.

use tidegate_bus::records::{GroupFanout, OfflinePush, TaskPayload};
use tidegate_control_core::domain::{Body, Content, Uid};

/// Of a notification; a longer text is cut.
const TEXT_CHARS_MAX: usize = 1_000;

/// `push_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PushKind {
    /// By a backend, to a user.
    Push,
    OneToOne,
    Group,
}

impl PushKind {
    fn as_str(self) -> &'static str {
        match self {
            PushKind::Push => "push",
            PushKind::OneToOne => "one_to_one",
            PushKind::Group => "group",
        }
    }
}

/// With the id of its task. One message wakes a user once.
pub(crate) fn offline_push(uid: &Uid, body: &Body, kind: PushKind) -> (String, TaskPayload) {
    let content = match &body.content {
        Content::Text(text) => text.chars().take(TEXT_CHARS_MAX).collect(),
        Content::Binary(_) => String::new(),
    };
    let push = OfflinePush {
        user_id: uid.to_string(),
        message_id: body.id.to_string(),
        title: if body.title.is_empty() { body.from.to_string() } else { body.title.to_string() },
        content,
        push_type: kind.as_str().to_owned(),
    };
    (format!("{}:{uid}", body.id), TaskPayload::OfflinePush(push))
}

/// A fan-out's parts are named by where each begins.
pub(crate) fn fanout_id(fanout: &GroupFanout) -> String {
    let whole = format!("{}:{}", fanout.message_id, fanout.group_id);
    if fanout.after_user_id.is_empty() { whole } else { format!("{whole}:{}", fanout.after_user_id) }
}
