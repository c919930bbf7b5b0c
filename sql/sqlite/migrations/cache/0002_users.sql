-- Users' memories as a process last read them from Postgres, so that the next one begins with them. Many rows of a user
-- make one row here, a bucket: a load reads few of them, a change writes few of them.
--
-- A missing bucket has no checksum that could be wrong, so each user has a seal, written in the same transaction: how many
-- rows there are, and the sum of the checksums of the buckets. Times are microseconds since 1970, UTC.
create table cached_users (
    user_id              text    not null primary key,
    deployment           text    not null,
    incarnation          text    not null,
    version              integer not null,
    node_count           integer not null,
    relationship_count   integer not null,
    node_buckets         integer not null,
    relationship_buckets integer not null,
    digest               integer not null,
    bytes                integer not null,
    latest_stamp         integer not null,
    confirmed_at         integer not null,
    used_at              integer not null,
    checksum             integer not null
) strict;

create table cached_buckets (
    user_id  text    not null,
    kind     text    not null check (kind in ('nodes', 'relationships')),
    bucket   integer not null,
    body     blob    not null,
    checksum integer not null,
    primary key (user_id, kind, bucket)
) strict;
