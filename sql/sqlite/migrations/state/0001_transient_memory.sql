-- What an agent notes down while it works on one thread. Times are microseconds since 1970, UTC.
--
-- Every table of this file has a rowid and ends with `checksum`, which covers its other columns in their order: that is
-- how a damaged file is noticed and how its rows are recognised when they are saved from it.
create table transient_memories (
    position     integer primary key autoincrement,
    thread_id    text    not null,
    node_id      text    not null,
    context_type text    not null,
    content      text    not null,
    content_kind text    not null check (content_kind in ('text', 'json')),
    summary      text,
    tags         text    not null,
    metadata     text    not null,
    importance   real    not null,
    confidence   real    not null,
    relates_to   text    not null,
    depends_on   text    not null,
    created_at   integer not null,
    expires_at   integer,
    checksum     integer not null,
    unique (thread_id, node_id)
) strict;

create index transient_memories_of_thread on transient_memories (thread_id, position);
create index transient_memories_expired on transient_memories (expires_at) where expires_at is not null;
