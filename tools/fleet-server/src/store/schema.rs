//! Every table of the book, as text that SQLite and Postgres read alike.
//!
//! - Names are bytes, times milliseconds since 1970, states small numbers that the modules name which
//!   decide about them. The global adapter that is none is 32 zeros.
//! - Invariant: one open round a cohort, one contribution a device and artifact, one key a device; the
//!   book itself sees to it.

/// The version of these tables. Raise it with every change, and say in CHANGELOG.md how to go on.
pub const VERSION: u64 = 1;

/// What makes an empty book.
pub const TABLES: &[&str] = &[
    "create table meta(version bigint not null, fleet bytea not null, name text not null, created bigint not null)",
    "create table trust(epoch bigint primary key, statement bytea not null, signatures bytea not null)",
    "create table token(hash bytea primary key, label text not null, uses bigint not null, auto bigint not null,
     lab bigint not null, expires bigint not null)",
    "create table cohort(id bytea primary key, base bytea not null, first_layer bigint not null,
     targets bigint not null, label text not null, sequence bigint not null, shape bytea, policy text not null)",
    "create table device(id bytea primary key, key bytea not null unique, cohort bytea, state bigint not null,
     name text not null, agent text not null, label text, lab bigint not null, base bytea not null,
     first_layer bigint not null, targets bigint not null, rank bigint not null, enrolled bigint not null,
     seen bigint not null, counter bigint not null, told bigint not null, sequence bigint not null,
     artifact bytea not null, trial bigint not null, generation bigint not null, offered bigint not null,
     offers bigint not null, offered_first bigint not null, offered_last bigint not null)",
    "create index device_cohort on device(cohort, seen)",
    "create index device_offered on device(cohort, offered, offered_first)",
    "create index device_state on device(state)",
    "create table round(id bigint primary key, cohort bytea not null, artifact bytea not null,
     previous bytea not null, state bigint not null, quota bigint not null, invited bigint not null,
     stored bigint not null, opened bigint not null, deadline bigint not null, seed bytea not null, result bytea,
     bytes bigint, report text)",
    "create unique index round_open on round(cohort) where state = 1",
    "create index round_state on round(state)",
    "create table upload(round bigint not null, device bytea not null, artifact bytea not null,
     state bigint not null, hash bytea, bytes bigint, tokens bigint, rank bigint, norm double precision,
     shape bytea, why text, at bigint not null, primary key(round, device))",
    "create unique index upload_once on upload(device, artifact) where state in (2, 3)",
    "create index upload_at on upload(at) where bytes is not null",
    "create index upload_hash on upload(hash)",
    "create table task(kind bigint not null, subject bigint not null, state bigint not null,
     fence bigint not null, lease bigint not null, tries bigint not null, why text, primary key(kind, subject))",
    "create table release(cohort bytea not null, sequence bigint not null, role bigint not null,
     artifact bytea not null, bytes bigint not null, statement bytea not null, signatures bytea not null,
     state bigint not null, stage bigint not null, since bigint not null, expires bigint not null, round bigint,
     reason text, primary key(cohort, sequence))",
    "create table install(cohort bytea not null, sequence bigint not null, device bytea not null,
     outcome bigint not null, reason text not null, before double precision, after double precision,
     at bigint not null, primary key(cohort, sequence, device))",
    "create table tally(cohort bytea not null, sequence bigint not null, stage bigint not null,
     outcome bigint not null, shard bigint not null, n bigint not null,
     primary key(cohort, sequence, stage, outcome, shard))",
    "create table audit(id bigint primary key, at bigint not null, who text not null, what text not null,
     detail text not null)",
];
