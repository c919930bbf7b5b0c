-- name: keep
-- Seal a user's buckets as they are now.
insert into cached_users (user_id, deployment, incarnation, version, node_count, relationship_count, node_buckets,
                          relationship_buckets, digest, bytes, latest_stamp, confirmed_at, used_at, checksum)
values (:user_id, :deployment, :incarnation, :version, :node_count, :relationship_count, :node_buckets,
        :relationship_buckets, :digest, :bytes, :latest_stamp, :confirmed_at, :used_at,
        row_checksum('cached_users', :user_id, :deployment, :incarnation, :version, :node_count, :relationship_count,
                     :node_buckets, :relationship_buckets, :digest, :bytes, :latest_stamp, :confirmed_at, :used_at))
on conflict (user_id) do update set
    deployment = excluded.deployment, incarnation = excluded.incarnation, version = excluded.version,
    node_count = excluded.node_count, relationship_count = excluded.relationship_count,
    node_buckets = excluded.node_buckets, relationship_buckets = excluded.relationship_buckets,
    digest = excluded.digest, bytes = excluded.bytes, latest_stamp = excluded.latest_stamp,
    confirmed_at = excluded.confirmed_at, used_at = excluded.used_at, checksum = excluded.checksum;

-- name: get
-- What a user's buckets must add up to.
select user_id, deployment, incarnation, version, node_count, relationship_count, node_buckets, relationship_buckets,
       digest, bytes, latest_stamp, confirmed_at, used_at
from cached_users
where user_id = :user_id
  and row_is_intact(checksum, 'cached_users', :user_id, deployment, incarnation, version, node_count,
                    relationship_count, node_buckets, relationship_buckets, digest, bytes, latest_stamp, confirmed_at,
                    used_at);

-- name: forget
-- Remove the seal of a user.
delete from cached_users where user_id = :user_id;

-- name: to_leave
-- Who makes room, of all users: whoever was not used since `before`, and the least recently used beyond `most` bytes.
select user_id
from (select cached_users.*, sum(bytes) over (order by used_at desc, user_id) as bytes_so_far from cached_users) as seal
where (used_at < :before or bytes_so_far > :most)
  and row_is_intact(checksum, 'cached_users', user_id, deployment, incarnation, version, node_count,
                    relationship_count, node_buckets, relationship_buckets, digest, bytes, latest_stamp, confirmed_at,
                    used_at);

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from cached_users
where row_is_intact(checksum, 'cached_users', user_id, deployment, incarnation, version, node_count, relationship_count,
                    node_buckets, relationship_buckets, digest, bytes, latest_stamp, confirmed_at, used_at);
