-- Computed values that can be computed again. Every row ends with a checksum of its other columns in their order: a
-- flipped bit makes a row that is not served instead of a wrong one.
create table cached_values (
    bucket   text    not null,
    key      text    not null,
    value    blob    not null,
    checksum integer not null,
    primary key (bucket, key)
) strict;
