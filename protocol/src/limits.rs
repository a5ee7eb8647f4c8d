//! Every limit of what is stored or sent, in one place, each checked against the others.
//!
//! A number read from a file or the network is compared with these before anything is allocated.

/// Bytes of the header in front of every record.
pub const RECORD_HEADER_BYTES: usize = 64;
/// The smallest piece a disk writes at once: places of the reservoir never share one.
pub const SECTOR_BYTES: u64 = 512;

/// Tokens in a block, T.
pub const TOKENS_MAX: u32 = 8192;
/// Positions that a model's tables hold, and so tokens of a block that can be learned.
pub const POSITIONS_MAX: usize = 4096;
/// Width of a hidden state, D.
pub const HIDDEN_MAX: u32 = 16_384;

/// Blocks that a reservoir can hold.
pub const RESERVOIR_BLOCKS_MAX: u32 = 65_536;
/// Places a reservoir keeps free for replacements between two checkpoints.
pub const RESERVOIR_ROOM_MAX: u32 = 1024;
/// Places in a reservoir's file: every block committed, every block staged, and the room.
pub const RESERVOIR_PLACES_MAX: u32 = 2 * RESERVOIR_BLOCKS_MAX + RESERVOIR_ROOM_MAX;
/// Bytes of one place of the reservoir.
pub const SLOT_BYTES_MAX: u64 = 512 << 20;
/// Bytes of a reservoir's file.
pub const RESERVOIR_BYTES_MAX: u64 = 1 << 40;
/// Bytes of the manifest for one slot of the reservoir: of its block slot, place, domain, offer
/// number and digest, 64; and its number among those still to serve, 4.
pub const LEDGER_SLOT_BYTES: u64 = 64 + 4;
/// Blocks drawn from a reservoir at once.
pub const DRAW_BLOCKS_MAX: usize = 256;
/// Fresh blocks of one optimiser step: all of them may have to find room in the reservoir.
pub const STEP_BLOCKS_MAX: usize = RESERVOIR_ROOM_MAX as usize;

/// Rank r of an adapter.
pub const RANK_MAX: usize = 1024;

/// Files in an adapter's folder.
pub const FILES_MAX: usize = 16;
/// Bytes of a file's name.
pub const FILE_NAME_BYTES_MAX: usize = 128;
/// Bytes of one file of an adapter.
pub const ADAPTER_FILE_BYTES_MAX: u64 = 1 << 30;
/// Generations that a state folder keeps.
pub const GENERATIONS_MAX: usize = 64;
/// Generations that may be asked for: beside them lie the next one and one that goes.
pub const GENERATIONS_KEPT_MAX: usize = GENERATIONS_MAX - 2;
/// Rejected jobs that a manifest remembers.
pub const REJECTIONS_MAX: usize = 16;
/// Bytes of a verdict or of a reason.
pub const VERDICT_BYTES_MAX: usize = 4096;
/// Bytes of a manifest.
pub const MANIFEST_BYTES_MAX: u64 = 8 << 20;
/// Bytes of a learner record or of a checkpoint; rkyv's offsets end at twice that.
pub const LEARNER_BYTES_MAX: u64 = 1 << 30;

/// Commits, offers and steps of a device's life: none comes so far, and one more is still a number.
pub const COUNT_MAX: u64 = 1 << 62;

/// Bytes of a segment of the inbox, unless one batch alone is larger.
pub const INBOX_SEGMENT_BYTES: u64 = 1 << 20;
/// Bytes of a batch of samples: what is acknowledged at once.
pub const INBOX_BATCH_BYTES_MAX: u64 = 32 << 20;
/// Bytes that may wait in an inbox.
pub const INBOX_BYTES_MAX: u64 = 4 << 30;
/// Samples that may wait in an inbox.
pub const INBOX_SAMPLES_MAX: u64 = 1 << 20;
/// Samples that were set aside and are kept.
pub const INBOX_ASIDE_SAMPLES_MAX: usize = 1024;
/// Bytes of those.
pub const INBOX_ASIDE_BYTES_MAX: u64 = 64 << 20;
/// Damaged segments of an inbox that are kept.
pub const INBOX_DAMAGED_MAX: usize = 64;
/// Hashes of samples that an inbox remembers.
pub const INBOX_HASHES_MAX: usize = 1 << 16;

/// Bytes of a frame on a serial line, its delimiter included.
pub const FRAME_BYTES_MAX: usize = 4096;
/// Bytes of a frame beside its text, before it is stuffed: version 1, session 5, sequence 5, kind 1,
/// place and field or a second length 2, lengths 2, checksum 4.
pub const FRAME_OVERHEAD_BYTES: usize = 20;
/// Bytes of text in one frame.
pub const FRAME_TEXT_BYTES_MAX: usize = 4000;
/// Bytes of a frame before it is stuffed.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = FRAME_TEXT_BYTES_MAX + FRAME_OVERHEAD_BYTES;
/// Bytes of an answer on the line: what a controller that listens must hold.
pub const FRAME_ANSWER_BYTES_MAX: usize = 20;
/// Bytes of text of a sample that comes in parts.
pub const FRAME_SAMPLE_BYTES_MAX: usize = 64 << 10;

/// Bytes of JSON that one byte of text may become, `\u0000`.
const JSON_ESCAPE_BYTES: u64 = 6;

const _: () = assert!(
    2 * TOKENS_MAX as u64 * HIDDEN_MAX as u64 + 8 * TOKENS_MAX as u64 <= SLOT_BYTES_MAX,
    "the longest block with hidden states must fit a slot"
);
const _: () = assert!(POSITIONS_MAX <= TOKENS_MAX as usize, "what a model reads fits a block");
const _: () = assert!(
    RESERVOIR_PLACES_MAX as u64 * SECTOR_BYTES <= RESERVOIR_BYTES_MAX,
    "the reservoir with most blocks must fit its file"
);
const _: () = assert!(
    RESERVOIR_BLOCKS_MAX as u64 * LEDGER_SLOT_BYTES
        + (GENERATIONS_MAX * FILES_MAX * 2 * FILE_NAME_BYTES_MAX) as u64
        + ((GENERATIONS_MAX + REJECTIONS_MAX) * VERDICT_BYTES_MAX) as u64
        <= MANIFEST_BYTES_MAX,
    "a manifest must have room for a full reservoir and every generation"
);
const _: () = assert!(
    RESERVOIR_BLOCKS_MAX as u64 * LEDGER_SLOT_BYTES <= LEARNER_BYTES_MAX / 8,
    "a checkpoint carries the reservoir's ledger beside the learner"
);
const _: () =
    assert!(INBOX_BATCH_BYTES_MAX <= INBOX_BYTES_MAX, "the largest batch must fit an inbox");
const _: () = assert!(
    INBOX_BATCH_BYTES_MAX + VERDICT_BYTES_MAX as u64 <= INBOX_ASIDE_BYTES_MAX,
    "the longest sample must fit among those set aside"
);
const _: () =
    assert!(DRAW_BLOCKS_MAX <= RESERVOIR_BLOCKS_MAX as usize, "a draw fits the reservoir");
const _: () = assert!(
    FRAME_PAYLOAD_BYTES_MAX + 1 + FRAME_PAYLOAD_BYTES_MAX / 254 < FRAME_BYTES_MAX,
    "the longest frame with its stuffing and its delimiter must fit the line's bound"
);
const _: () = assert!(
    1 + 5 + 5 + 1 + 1 + 4 + 2 <= FRAME_ANSWER_BYTES_MAX,
    "an answer carries version, session, sequence, kind, answer, checksum, stuffing and delimiter"
);
const _: () = assert!(FRAME_TEXT_BYTES_MAX < 1 << 14, "a length of text takes two bytes at most");
const _: () =
    assert!(FRAME_TEXT_BYTES_MAX <= FRAME_SAMPLE_BYTES_MAX, "one frame is at most one sample");
const _: () = assert!(
    JSON_ESCAPE_BYTES * FRAME_SAMPLE_BYTES_MAX as u64 + 64 <= INBOX_BATCH_BYTES_MAX,
    "the longest framed sample must fit a batch of the inbox"
);
