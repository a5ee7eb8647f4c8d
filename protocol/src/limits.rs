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
/// Installs of a global adapter that a manifest remembers: as many as one check-in reports.
pub const INSTALLS_MAX: usize = FLEET_REPORTS_MAX;
/// Starts that a generation on trial gets before the one it grew from returns.
pub const TRIES_MAX: u32 = 3;
/// Starts of an install that may end before it does; then it is given up.
pub const INSTALL_STARTS_MAX: u32 = 3;
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

/// Bytes of a message between a device and the fleet server.
pub const FLEET_BODY_BYTES_MAX: usize = 64 << 10;
/// The largest number in such a message: from there on, some readers of JSON round.
pub const FLEET_INTEGER_MAX: u64 = (1 << 53) - 1;
/// Bytes of a device's name, of what its program calls itself, and of a cohort's label.
pub const FLEET_NAME_BYTES_MAX: usize = 64;
/// Bytes of a token that lets a device enrol.
pub const FLEET_TOKEN_BYTES_MAX: usize = 128;
/// Reports of installs in one check-in.
pub const FLEET_REPORTS_MAX: usize = 16;
/// Bytes of the reason in a report.
pub const FLEET_REASON_BYTES_MAX: usize = 256;
/// Bytes of the sentence in an error.
pub const FLEET_MESSAGE_BYTES_MAX: usize = 1024;
/// Bytes of a request's method.
pub const FLEET_METHOD_BYTES_MAX: usize = 16;
/// Bytes of a request's path and query, and of the address of an artifact.
pub const FLEET_PATH_BYTES_MAX: usize = 2048;
/// Milliseconds that a request's time may be off the server's.
pub const FLEET_CLOCK_MS_MAX: u64 = 300_000;
/// Seconds between two check-ins, at least.
pub const FLEET_CHECK_IN_S_MIN: u64 = 60;
/// Seconds between two check-ins, at most; a server asks for no longer pause either.
pub const FLEET_CHECK_IN_S_MAX: u64 = 24 * 3600;
/// Seconds that a device waits after a call that failed, at least.
pub const FLEET_BACKOFF_S_MIN: u64 = 30;
/// Seconds that a device waits after a call that failed, at most.
pub const FLEET_BACKOFF_S_MAX: u64 = 6 * 3600;
/// Root keys, or release keys, of a trust statement.
pub const FLEET_KEYS_MAX: usize = 16;
/// Signatures beside a statement: of all old and all new root keys.
pub const FLEET_SIGNATURES_MAX: usize = 2 * FLEET_KEYS_MAX;
/// Trust statements in one answer; who lacks more asks again.
pub const FLEET_TRUST_MAX: usize = 8;
/// Cohorts of a fleet, and so rounds that are open.
pub const FLEET_COHORTS_MAX: usize = 1024;
/// Uploads of a round.
pub const FLEET_UPLOADS_MAX: u64 = 20_000;
/// Bytes of an adapter on its way.
pub const FLEET_ADAPTER_BYTES_MAX: u64 = 64 << 20;
/// Bytes of the header of its file.
pub const FLEET_HEADER_BYTES_MAX: u64 = 1 << 20;
/// Rank R of a global adapter, and of an update.
pub const FLEET_RANK_MAX: u32 = 128;
/// Layers that an adapter of a fleet adapts.
pub const FLEET_LAYERS_MAX: u16 = 256;
/// Tensors of its file: A and B of seven linear layers each.
pub const FLEET_TENSORS_MAX: usize = 2 * 7 * FLEET_LAYERS_MAX as usize;

/// Bytes of a tensor's entry in the header of an adapter's file, at most: its name, type, shape and place.
const FLEET_ENTRY_BYTES: u64 = 80 + 14 + 2 * 12 + 2 * 10 + 40;
/// Bytes of a trust statement with every key there can be, and of its signatures.
pub(crate) const FLEET_TRUST_BYTES_MAX: usize =
    88 + 32 * 2 * FLEET_KEYS_MAX + 1 + (8 + 64) * FLEET_SIGNATURES_MAX;
/// Bytes of the other fields of a report or of an element of an answer.
const FLEET_FIELDS_BYTES: usize = 256;

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
const _: () = assert!(
    FLEET_REPORTS_MAX * (JSON_ESCAPE_BYTES as usize * FLEET_REASON_BYTES_MAX + FLEET_FIELDS_BYTES)
        + JSON_ESCAPE_BYTES as usize * 2 * FLEET_NAME_BYTES_MAX
        + 4 * FLEET_FIELDS_BYTES
        <= FLEET_BODY_BYTES_MAX,
    "a check-in with every report must fit a message"
);
const _: () = assert!(
    FLEET_TRUST_MAX * (2 * FLEET_TRUST_BYTES_MAX + FLEET_FIELDS_BYTES) <= FLEET_BODY_BYTES_MAX,
    "an answer with trust statements, in hexadecimal digits, must fit a message"
);
const _: () =
    assert!(FLEET_KEYS_MAX < 1 << 8 && FLEET_SIGNATURES_MAX < 1 << 8, "counted in a byte");
const _: () = assert!(
    FLEET_METHOD_BYTES_MAX < 1 << 16 && FLEET_PATH_BYTES_MAX < 1 << 16,
    "their lengths are signed in two bytes"
);
const _: () = assert!(FLEET_NAME_BYTES_MAX < 1 << 8, "a label's length is hashed in a byte");
const _: () = assert!(
    FLEET_CLOCK_MS_MAX < FLEET_INTEGER_MAX && FLEET_CHECK_IN_S_MAX * 1000 < FLEET_INTEGER_MAX,
    "times and pauses are numbers of a message"
);
const _: () = assert!(
    FLEET_BACKOFF_S_MIN < FLEET_CHECK_IN_S_MIN && FLEET_CHECK_IN_S_MIN < FLEET_CHECK_IN_S_MAX,
    "who failed asks again before the next check-in of one who did not"
);
const _: () = assert!(
    FLEET_BACKOFF_S_MIN < FLEET_BACKOFF_S_MAX && FLEET_BACKOFF_S_MAX <= FLEET_CHECK_IN_S_MAX,
    "a device that fails is heard of as often as one that checks in rarely"
);
const _: () = assert!(
    FLEET_TENSORS_MAX as u64 * FLEET_ENTRY_BYTES + 4096 <= FLEET_HEADER_BYTES_MAX,
    "an adapter of most layers must fit its header"
);
const _: () = assert!(
    FLEET_HEADER_BYTES_MAX < FLEET_ADAPTER_BYTES_MAX
        && FLEET_ADAPTER_BYTES_MAX <= ADAPTER_FILE_BYTES_MAX
        && FLEET_RANK_MAX as usize <= RANK_MAX,
    "what comes from the fleet must fit a device"
);
