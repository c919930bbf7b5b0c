-- name: keep
-- Remember a value, or replace the one there.
insert into cached_values (bucket, key, value, checksum)
values (:bucket, :key, :value, row_checksum('cached_values', :bucket, :key, :value))
on conflict (bucket, key) do update set value = excluded.value, checksum = excluded.checksum;

-- name: get
-- The value of a key. The checksum is compared with the key asked for, so that a damaged index cannot lead elsewhere.
select value from cached_values
where bucket = :bucket and key = :key
  and row_is_intact(checksum, 'cached_values', :bucket, :key, value);

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from cached_values
where row_is_intact(checksum, 'cached_values', bucket, key, value);
