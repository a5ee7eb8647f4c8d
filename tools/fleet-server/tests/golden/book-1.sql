-- A book of version 1: `fleet-server init`, two links, two new epochs; then `.dump` of sqlite3.
CREATE TABLE audit(id bigint primary key, at bigint not null, who text not null, what text not null,
     detail text not null);
INSERT INTO "audit" VALUES(1,1795734855264,'operator','enroll-link','label "pumps", 3 uses');
INSERT INTO "audit" VALUES(2,1795734855281,'operator','enroll-link','label "valves", 3 uses');
INSERT INTO "audit" VALUES(3,1795734855312,'operator','trust rotate','epoch 2: the same keys');
INSERT INTO "audit" VALUES(4,1795734855334,'operator','trust rotate','epoch 3: the same keys');
CREATE TABLE cohort(id bytea primary key, base bytea not null, first_layer bigint not null,
     targets bigint not null, label text not null, sequence bigint not null, shape bytea, policy text not null);
CREATE TABLE device(id bytea primary key, key bytea not null unique, cohort bytea, state bigint not null,
     name text not null, agent text not null, label text, lab bigint not null, base bytea not null,
     first_layer bigint not null, targets bigint not null, rank bigint not null, enrolled bigint not null,
     seen bigint not null, counter bigint not null, told bigint not null, sequence bigint not null,
     artifact bytea not null, trial bigint not null, generation bigint not null, offered bigint not null,
     offers bigint not null, offered_first bigint not null, offered_last bigint not null);
CREATE TABLE install(cohort bytea not null, sequence bigint not null, device bytea not null,
     outcome bigint not null, reason text not null, before double precision, after double precision,
     at bigint not null, primary key(cohort, sequence, device));
CREATE TABLE meta(version bigint not null, fleet bytea not null, name text not null, created bigint not null);
INSERT INTO "meta" VALUES(1,X'4034998F68D654C2D1F590CA2939AFF4','valves',1795734855114);
CREATE TABLE release(cohort bytea not null, sequence bigint not null, role bigint not null,
     artifact bytea not null, bytes bigint not null, statement bytea not null, signatures bytea not null,
     state bigint not null, stage bigint not null, since bigint not null, expires bigint not null, round bigint,
     reason text, primary key(cohort, sequence));
CREATE TABLE round(id bigint primary key, cohort bytea not null, artifact bytea not null,
     previous bytea not null, state bigint not null, quota bigint not null, invited bigint not null,
     stored bigint not null, opened bigint not null, deadline bigint not null, seed bytea not null, result bytea,
     bytes bigint, report text);
CREATE TABLE tally(cohort bytea not null, sequence bigint not null, stage bigint not null,
     outcome bigint not null, shard bigint not null, n bigint not null,
     primary key(cohort, sequence, stage, outcome, shard));
CREATE TABLE task(kind bigint not null, subject bigint not null, state bigint not null,
     fence bigint not null, lease bigint not null, tries bigint not null, why text, primary key(kind, subject));
CREATE TABLE token(hash bytea primary key, label text not null, uses bigint not null, auto bigint not null,
     lab bigint not null, expires bigint not null);
INSERT INTO "token" VALUES(X'6CF0277C96F615402E944296CEF3FCC7F4705E79DA9DF59B9D8D2067CA27E260','pumps',3,0,0,1795821255264);
INSERT INTO "token" VALUES(X'A10C908C0B5C811ADBCF3F51F842072AC001970A3FCE28092AC9E0E6F94EB7DC','valves',3,0,0,1795821255281);
CREATE TABLE trust(epoch bigint primary key, statement bytea not null, signatures bytea not null);
INSERT INTO "trust" VALUES(1,X'736170776F6F642D74727573742D2D0A01000101010100004034998F68D654C2D1F590CA2939AFF40100000000000000C7BE6E7400000000D0D2D389D261963A0F38E02CC17CE150DB527EDE5353C1C419A4E7FE1950283F9B59EC3A172F74F78D597A36166C7EB00A4B0696099C495A800B4CB042F735466C6CA94820ED9E710EA150A73D1F1E4C7B41577D8856322AD4A2EF66FD296906',X'01161CECE8EF2F95F08FFD50A7B2F9C663D64CE8FFEB70E43495B3C9B108537074A95225CB3E083E0D169634ADF50E275194B126A5BA0B3E88F2543153159A5EC681DF3842021B8E08');
INSERT INTO "trust" VALUES(2,X'736170776F6F642D74727573742D2D0A01000101010100004034998F68D654C2D1F590CA2939AFF40200000000000000C7BE6E7400000000D0D2D389D261963A0F38E02CC17CE150DB527EDE5353C1C419A4E7FE1950283F9B59EC3A172F74F78D597A36166C7EB00A4B0696099C495A800B4CB042F735466C6CA94820ED9E710EA150A73D1F1E4C7B41577D8856322AD4A2EF66FD296906',X'01161CECE8EF2F95F05C7B218A9FDFE3C4974907147A929D60CEC0219DB197245B7F00D969AA0C76A6A869839EB88511A74D691AF35D111CA5269E777AE834DE33A8D0EBF9FB46CB01');
INSERT INTO "trust" VALUES(3,X'736170776F6F642D74727573742D2D0A01000101010100004034998F68D654C2D1F590CA2939AFF40300000000000000474A306B00000000D0D2D389D261963A0F38E02CC17CE150DB527EDE5353C1C419A4E7FE1950283F9B59EC3A172F74F78D597A36166C7EB00A4B0696099C495A800B4CB042F735466C6CA94820ED9E710EA150A73D1F1E4C7B41577D8856322AD4A2EF66FD296906',X'01161CECE8EF2F95F0E8A25003ED42FDF0E756A97932A5CF2F0C80807031BDF1882DE2958483B1164A946B7F4373F5D2B4667495652BC5439FFCC7E128992D034C4F6F35D821B79508');
CREATE TABLE upload(round bigint not null, device bytea not null, artifact bytea not null,
     state bigint not null, hash bytea, bytes bigint, tokens bigint, rank bigint, norm double precision,
     shape bytea, why text, at bigint not null, primary key(round, device));
CREATE INDEX device_cohort on device(cohort, seen);
CREATE INDEX device_offered on device(cohort, offered, offered_first);
CREATE INDEX device_state on device(state);
CREATE UNIQUE INDEX round_open on round(cohort) where state = 1;
CREATE INDEX round_state on round(state);
CREATE UNIQUE INDEX upload_once on upload(device, artifact) where state in (2, 3);
CREATE INDEX upload_at on upload(at) where bytes is not null;
CREATE INDEX upload_hash on upload(hash);
