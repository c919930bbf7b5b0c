-- name: create_migrations
-- The record of what was applied to this file.
create table if not exists schema_migrations (
    number     integer primary key,
    name       text    not null,
    checksum   text    not null,
    applied_at integer not null
) strict;

-- name: has_migrations
-- Whether the record is there: a new file has none.
select exists (select 1 from sqlite_schema where type = 'table' and name = 'schema_migrations');

-- name: applied
-- What was applied to this file.
select number, name, checksum from schema_migrations order by number;

-- name: record
-- Note a migration as applied, in its transaction.
insert into schema_migrations (number, name, checksum, applied_at)
values (:number, :name, :checksum, cast(unixepoch('subsec') * 1000000 as integer));

-- name: tables
-- Our own tables.
select name from sqlite_schema where type = 'table' and name not like 'sqlite%' order by name;

-- name: columns
-- The columns of a table in their order; `key` is 1 for a column that stands for the rowid.
select info.name, info.pk = 1 and info.type = 'INTEGER' as key
from pragma_table_info(:table) as info
order by info.cid;
