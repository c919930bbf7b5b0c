-- name: keep
-- Write a bucket of a user; its checksum goes into the user's seal.
insert into cached_buckets (user_id, kind, bucket, body, checksum)
values (:user_id, :kind, :bucket, :body, row_checksum('cached_buckets', :user_id, :kind, :bucket, :body))
on conflict (user_id, kind, bucket) do update set body = excluded.body, checksum = excluded.checksum
returning checksum;

-- name: of_user
-- All buckets of one kind.
select bucket, body, checksum from cached_buckets
where user_id = :user_id and kind = :kind
  and row_is_intact(checksum, 'cached_buckets', :user_id, :kind, bucket, body);

-- name: get
-- One bucket.
select bucket, body, checksum from cached_buckets
where user_id = :user_id and kind = :kind and bucket = :bucket
  and row_is_intact(checksum, 'cached_buckets', :user_id, :kind, :bucket, body);

-- name: forget
-- Remove all buckets of a user.
delete from cached_buckets where user_id = :user_id;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from cached_buckets
where row_is_intact(checksum, 'cached_buckets', user_id, kind, bucket, body);
