-- Vectors by the text they were made of, per user: what an embedder has said once it is not asked again, and the vectors
-- of a user whose memories are here while Postgres is away. `space` is the model with its dimensions; nobody's vectors
-- are looked up for somebody else. Times are microseconds since 1970, UTC.
create table cached_vectors (
    user_id   text    not null,
    space     text    not null,
    text_hash blob    not null,
    vector    blob    not null,
    kept_at   integer not null,
    checksum  integer not null,
    primary key (user_id, space, text_hash)
) strict;
