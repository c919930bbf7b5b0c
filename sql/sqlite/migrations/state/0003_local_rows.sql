-- Users' memories where there is no Postgres: the same rows as there, with what the next write is merged by, so that they
-- can move to a Postgres later. Times are microseconds since 1970, UTC; stamps, clocks and checks are those of Postgres.
--
-- No foreign keys: rows saved from a damaged file come in any order. Postgres has every row up to the version `delivered`.
-- Of a user who `is_copy` nothing was written here since the rows were fetched from there. Rows of a user who is not in
-- `local_users` are half of such a copy, and nobody reads them.
create table local_users (
    user_id            text    not null primary key check (user_id <> ''),
    incarnation        text    not null,
    version            integer not null,
    node_count         integer not null,
    relationship_count integer not null,
    entity_count       integer not null,
    last_activity      integer not null,
    delivered          integer not null,
    is_copy            integer not null check (is_copy in (0, 1)),
    checksum           integer not null
) strict;

create table local_nodes (
    user_id          text    not null,
    node_id          text    not null,
    context_type     text    not null check (context_type <> ''),
    content          text    not null,
    content_kind     text    not null check (content_kind in ('text', 'json')),
    summary          text    not null,
    tags             text    not null,
    metadata         text    not null,
    importance       real    not null check (importance between 0 and 1),
    confidence       real    not null check (confidence between 0 and 1),
    external_id      text,
    thread_id        text,
    seq              integer,
    namespace        text,
    key              text,
    version          integer not null,
    written_at       integer not null,
    written_by       text    not null,
    created_at       integer not null,
    updated_at       integer not null,
    last_accessed_at integer not null,
    access_count     integer not null,
    expires_at       integer,
    content_hash     text,
    field_clocks     text    not null,
    checksum         integer not null,
    primary key (user_id, node_id),
    check ((namespace is null) = (key is null))
) strict;

create unique index local_nodes_entity
    on local_nodes (user_id, content ->> '$.entity_system', content ->> '$.entity_id')
    where context_type = 'domain_entity';
create index local_nodes_content on local_nodes (user_id, content_hash) where content_hash is not null;
create index local_nodes_thread on local_nodes (user_id, thread_id, seq) where thread_id is not null;
create index local_nodes_version on local_nodes (user_id, version);
create index local_nodes_expiry on local_nodes (expires_at, user_id) where expires_at is not null;

create table local_relationships (
    user_id           text    not null,
    from_node_id      text    not null,
    to_node_id        text    not null,
    relationship_type text    not null check (relationship_type <> ''),
    strength          real    not null check (strength between 0 and 1),
    metadata          text    not null,
    version           integer not null,
    written_at        integer not null,
    written_by        text    not null,
    created_at        integer not null,
    updated_at        integer not null,
    checksum          integer not null,
    primary key (user_id, from_node_id, to_node_id, relationship_type)
) strict;

create index local_relationships_reverse on local_relationships (user_id, to_node_id);
create index local_relationships_version on local_relationships (user_id, version);

create table local_tombstones (
    user_id    text    not null,
    node_id    text    not null,
    version    integer not null,
    written_at integer not null,
    written_by text    not null,
    checksum   integer not null,
    primary key (user_id, node_id)
) strict;

create index local_tombstones_version on local_tombstones (user_id, version);

-- Vectors as little-endian numbers of 32 bits.
create table local_vectors (
    user_id      text    not null,
    node_id      text    not null,
    field        text    not null,
    model        text    not null,
    vector       blob    not null check (length(vector) between 4 and 16000),
    content_hash text,
    version      integer not null,
    checksum     integer not null,
    primary key (user_id, node_id, field, model)
) strict;

create index local_vectors_version on local_vectors (user_id, version);

-- The last operation of each process that was applied for a user; a repeat is at or below it.
create table local_watermarks (
    user_id     text    not null,
    instance_id text    not null,
    seq         integer not null,
    updated_at  integer not null,
    checksum    integer not null,
    primary key (user_id, instance_id)
) strict;

-- What Postgres has counted of a memory already: how often it was reported and read is told by difference.
create table local_counts (
    user_id  text    not null,
    node_id  text    not null,
    reports  integer not null,
    reads    integer not null,
    checksum integer not null,
    primary key (user_id, node_id)
) strict;
