-- Operations that were acknowledged while Postgres did not answer, until they are in it. Times are microseconds since
-- 1970, UTC.
--
-- A user's queue is the order of `position` among the operations that are not in quarantine. Its first operation is the
-- head: it alone has a `turn`, after which users are served, and it waits until `not_before`. `payload_hash` covers what
-- the operation says; the row's checksum covers the row.
create table outbox (
    position       integer primary key autoincrement,
    user_id        text    not null,
    incarnation    text,
    instance_id    text    not null,
    number         integer not null,
    kind           text    not null,
    bytes          integer not null,
    payload_hash   integer not null,
    queued_at      integer not null,
    attempts       integer not null,
    not_before     integer not null,
    turn           integer,
    quarantined_at integer,
    reason         text,
    checksum       integer not null,
    unique (user_id, instance_id, number)
) strict;

create index outbox_queues on outbox (user_id, position) where quarantined_at is null;
create index outbox_heads on outbox (not_before, turn) where turn is not null;
create index outbox_ages on outbox (queued_at) where quarantined_at is null;
create index outbox_quarantine on outbox (user_id, position) where quarantined_at is not null;

-- What the operations say, apart from them: a damaged content leaves its operation behind, so that it is missed.
create table outbox_payloads (
    position integer primary key,
    content  blob    not null,
    vectors  blob    not null,
    checksum integer not null
) strict;

-- How much there is, so that nobody has to count.
create table outbox_totals (
    position    integer primary key check (position = 1),
    queued      integer not null,
    quarantined integer not null,
    bytes       integer not null,
    checksum    integer not null
) strict;

insert into outbox_totals values (1, 0, 0, 0, row_checksum('outbox_totals', 1, 0, 0, 0));

-- Which process does what only one of them may do at a time.
create table leases (
    position integer primary key,
    name     text    not null unique,
    owner    text    not null,
    until    integer not null,
    checksum integer not null
) strict;
