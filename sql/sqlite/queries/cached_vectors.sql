-- name: keep
-- Remember the vector of a text.
insert into cached_vectors (user_id, space, text_hash, vector, kept_at, checksum)
values (:user_id, :space, :text_hash, :vector, :kept_at,
        row_checksum('cached_vectors', :user_id, :space, :text_hash, :vector, :kept_at))
on conflict (user_id, space, text_hash) do update set
    vector = excluded.vector, kept_at = excluded.kept_at, checksum = excluded.checksum;

-- name: get
-- The vector of a text.
select vector from cached_vectors
where user_id = :user_id and space = :space and text_hash = :text_hash
  and row_is_intact(checksum, 'cached_vectors', :user_id, :space, :text_hash, vector, kept_at);

-- name: make_room
-- Forget what was kept before a moment, and the oldest beyond so many bytes.
delete from cached_vectors
where rowid in (select rowid
                from (select rowid, kept_at, sum(length(vector)) over (order by kept_at desc, rowid) as bytes_so_far
                      from cached_vectors)
                where kept_at < :before or bytes_so_far > :most);

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from cached_vectors
where row_is_intact(checksum, 'cached_vectors', user_id, space, text_hash, vector, kept_at);
