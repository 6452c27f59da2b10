//! Frames of the hub: batches once per class that is present, and single frames for one connection.

use bytes::Bytes;
use smallvec::SmallVec;
use tidegate_proto::v1;

use super::compress::Compressor;
use super::config::DeflateStats;
use super::stream::Classes;
use crate::client;
use crate::ids::{Epoch, SeqRange};
use crate::link::Message;
use crate::messages::{ClassMask, ConnClass, Encoding, FrameSet, PlatformId};
use crate::ws::{self, OpCode};

/// What a batch frame says beside its messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchHead<'a> {
    pub stream: &'a str,
    pub epoch: &'a Epoch,
    /// `None`: ephemeral.
    pub range: Option<SeqRange>,
}

pub(super) struct Encoder {
    compressor: Compressor,
    /// Every platform seen on this node, for streams whose classes hold a platform that has no bit of its own.
    platforms: [u64; 4],
    pub frames: u64,
}

/// One payload and the platforms that get it; no platforms: everybody else.
struct Variant {
    platforms: SmallVec<[PlatformId; 4]>,
    visible: SmallVec<[u16; 8]>,
}

impl Encoder {
    pub fn new(compressor: Compressor) -> Encoder {
        Encoder { compressor, platforms: [0; 4], frames: 0 }
    }

    pub fn deflate_stats(&self) -> DeflateStats {
        self.compressor.stats()
    }

    pub fn note_platform(&mut self, platform: PlatformId) {
        self.platforms[usize::from(platform.0) / 64] |= 1 << (platform.0 % 64);
    }

    /// A batch for every class of `classes`. A class that sees none of the messages still gets a frame with the range, so
    /// that its cursor moves; without a range it gets the empty variant.
    pub fn batch(&mut self, classes: Classes, head: BatchHead<'_>, messages: &[Message]) -> FrameSet {
        let variants = self.variants(classes, messages);
        let mut frames = FrameSet::default();
        for encoding in [Encoding::Json, Encoding::Proto] {
            let (plain, deflate) = (classes.has(encoding, false), classes.has(encoding, true));
            if !plain && !deflate {
                continue;
            }
            for variant in &variants {
                if variant.visible.is_empty() && head.range.is_none() {
                    push(&mut frames, encoding, false, &variant.platforms, &Bytes::new());
                    continue;
                }
                let visible = variant.visible.iter().map(|at| &*messages[usize::from(*at)].body);
                let payload = client::encode_batch(encoding, head.stream, head.epoch, head.range, visible);
                self.push_frames(&mut frames, encoding, (plain, deflate), &variant.platforms, &payload);
            }
        }
        frames
    }

    /// The same frame for every class of `classes`.
    pub fn shared(&mut self, classes: Classes, frame: &v1::ServerFrame) -> FrameSet {
        let mut frames = FrameSet::default();
        for encoding in [Encoding::Json, Encoding::Proto] {
            let wanted = (classes.has(encoding, false), classes.has(encoding, true));
            if wanted.0 || wanted.1 {
                let payload = client::encode(encoding, frame);
                self.push_frames(&mut frames, encoding, wanted, &[], &payload);
            }
        }
        frames
    }

    /// A frame for one connection.
    pub fn single(&mut self, class: ConnClass, frame: &v1::ServerFrame) -> Bytes {
        let payload = client::encode(class.encoding, frame);
        self.finish(class, &payload)
    }

    /// A batch for one connection; the messages are those that its platform sees.
    pub fn recovery<'a>(
        &mut self,
        class: ConnClass,
        head: BatchHead<'_>,
        messages: impl Iterator<Item = &'a v1::Message>,
    ) -> Bytes {
        let payload = client::encode_batch(class.encoding, head.stream, head.epoch, head.range, messages);
        self.finish(class, &payload)
    }

    fn finish(&mut self, class: ConnClass, payload: &[u8]) -> Bytes {
        let compressed = if class.deflate { self.compressor.frame(op_code(class.encoding), payload) } else { None };
        compressed.unwrap_or_else(|| ws::frame(op_code(class.encoding), payload))
    }

    fn push_frames(
        &mut self,
        frames: &mut FrameSet,
        encoding: Encoding,
        (plain, deflate): (bool, bool),
        platforms: &[PlatformId],
        payload: &[u8],
    ) {
        self.frames += 1;
        let compressed = if deflate { self.compressor.frame(op_code(encoding), payload) } else { None };
        if plain || compressed.is_none() {
            push(frames, encoding, false, platforms, &ws::frame(op_code(encoding), payload));
        }
        if let Some(compressed) = compressed {
            push(frames, encoding, true, platforms, &compressed);
        }
    }

    /// Platforms that see the same messages share a payload. The general variant holds only what everybody sees, so that
    /// a platform nobody thought of cannot be shown what is not meant for it.
    fn variants(&self, classes: Classes, messages: &[Message]) -> SmallVec<[Variant; 2]> {
        let seen_by = |platform: Option<PlatformId>| -> SmallVec<[u16; 8]> {
            let seen = messages.iter().enumerate().filter(|(_, message)| sees(platform, message));
            seen.map(|(at, _)| at as u16).collect()
        };
        let mut variants: SmallVec<[Variant; 2]> = SmallVec::new();
        variants.push(Variant { platforms: SmallVec::new(), visible: seen_by(None) });
        if variants[0].visible.len() == messages.len() {
            return variants;
        }
        for platform in (0..=u8::MAX).map(PlatformId).filter(|p| self.is_present(classes, *p)) {
            let visible = seen_by(Some(platform));
            if visible == variants[0].visible {
                continue;
            }
            match variants[1..].iter_mut().find(|variant| variant.visible == visible) {
                Some(variant) => variant.platforms.push(platform),
                None => variants.push(Variant { platforms: SmallVec::from_slice(&[platform]), visible }),
            }
        }
        variants
    }

    fn is_present(&self, classes: Classes, platform: PlatformId) -> bool {
        let known = self.platforms[usize::from(platform.0) / 64] & (1 << (platform.0 % 64)) != 0;
        known && classes.has_platform(platform)
    }
}

/// Whether a connection of this platform sees the message.
pub(super) fn sees(platform: Option<PlatformId>, message: &Message) -> bool {
    message.platforms.is_empty() || platform.is_some_and(|platform| message.platforms.contains(&platform))
}

/// A frame that nobody asked for.
pub(super) fn notice(body: v1::server_frame::Body) -> v1::ServerFrame {
    v1::ServerFrame { id: 0, body: Some(body) }
}

fn op_code(encoding: Encoding) -> OpCode {
    match encoding {
        Encoding::Json => OpCode::Text,
        Encoding::Proto => OpCode::Binary,
    }
}

fn push(frames: &mut FrameSet, encoding: Encoding, deflate: bool, platforms: &[PlatformId], frame: &Bytes) {
    if platforms.is_empty() {
        frames.push(ClassMask { encoding, deflate, platform: None }, frame.clone());
    }
    for platform in platforms {
        frames.push(ClassMask { encoding, deflate, platform: Some(*platform) }, frame.clone());
    }
}
