-- name: has_vectors
-- Whether the store was set up to search by vectors; null where there is no store.
select case when to_regclass('store') is not null then to_regclass('store_vectors') is not null end;

-- name: count
-- How many items there are.
select count(*) from store where expires_at is null or expires_at > now();

-- name: items
-- All that have not expired, those that changed first coming first.
select prefix, key, value::text as value, created_at, updated_at, expires_at, ttl_minutes
from store
where expires_at is null or expires_at > now()
order by updated_at, prefix, key;

-- name: vectors
-- The vectors of some items.
select v.prefix, v.key, v.field_name as field, v.embedding::real[] as embedding, v.updated_at
from store_vectors v
join unnest(:prefixes::text[], :keys::text[]) as wanted (prefix, key) on v.prefix = wanted.prefix and v.key = wanted.key;
