//! What one command may carry. Who goes beyond is told which field, and nothing has changed.

use super::api::Push;
use crate::domain::{ErrorCode, Refusal};

pub const CONTENT_BYTES_MAX: usize = 64 * 1024;
pub const METADATA_BYTES_MAX: usize = 16 * 1024;
pub const TITLE_BYTES_MAX: usize = 1024;
pub const KIND_BYTES_MAX: usize = 64;
pub const FROM_BYTES_MAX: usize = 128;
pub const CLIENT_MSG_ID_BYTES_MAX: usize = 128;
pub const MESSAGE_ID_BYTES_MAX: usize = 128;
pub const PLATFORMS_MAX: usize = 8;
pub const PLATFORM_BYTES_MAX: usize = 32;
pub const DEVICE_BYTES_MAX: usize = 128;
pub const GROUP_NAME_BYTES_MAX: usize = 256;

/// Members that a group may be created with; more are added one by one.
pub const GROUP_MEMBERS_MAX: usize = 1_000;
/// Streams that one connection may name when it opens; each one beyond is refused.
pub const OPEN_STREAMS_MAX: usize = 1_000;
/// Member groups that are joined by themselves.
pub const AUTO_JOIN_MAX: usize = 500;
/// Messages and bytes that a newcomer is sent; who missed more pulls.
pub const OPEN_PAGE_MESSAGES_MAX: usize = 100;
pub const OPEN_PAGE_BYTES_MAX: usize = 64 * 1024;
/// Of one pull; a higher limit is lowered.
pub const PULL_MESSAGES_MAX: usize = 1_000;
pub const PULL_BYTES_MAX: usize = 64 * 1024;
/// Streams in one question about heads.
pub const HEADS_MAX: usize = 1_000;

pub(super) fn check_push(push: &Push) -> Result<(), Refusal> {
    at_most("content", push.content.len(), CONTENT_BYTES_MAX)?;
    at_most("metadata", push.metadata.len(), METADATA_BYTES_MAX)?;
    at_most("title", push.title.len(), TITLE_BYTES_MAX)?;
    at_most("type", push.kind.len(), KIND_BYTES_MAX)?;
    at_most("from", push.from.len(), FROM_BYTES_MAX)?;
    at_most("client_msg_id", push.client_msg_id.len(), CLIENT_MSG_ID_BYTES_MAX)?;
    at_most("message_id", push.message_id.as_deref().unwrap_or("").len(), MESSAGE_ID_BYTES_MAX)?;
    if push.platforms.len() > PLATFORMS_MAX {
        let message = format!("platforms: at most {PLATFORMS_MAX}");
        return Err(Refusal::new(ErrorCode::BadRequest, message));
    }
    push.platforms.iter().try_for_each(|platform| at_most("platforms", platform.len(), PLATFORM_BYTES_MAX))
}

pub(super) fn at_most(field: &'static str, len: usize, max: usize) -> Result<(), Refusal> {
    if len <= max {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::TooLarge, format!("{field}: {len} bytes, at most {max}")))
}
