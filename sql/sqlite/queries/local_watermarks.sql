-- name: put
-- How far the operations of a process were applied.
insert into local_watermarks (user_id, instance_id, seq, updated_at, checksum)
values (:user_id, :instance_id, :seq, :updated_at,
        row_checksum('local_watermarks', :user_id, :instance_id, :seq, :updated_at))
on conflict (user_id, instance_id) do update set
    seq = excluded.seq, updated_at = excluded.updated_at, checksum = excluded.checksum;

-- name: get
-- How far the operations of a process were applied.
select seq
from local_watermarks
where user_id = :user_id and instance_id = :instance_id
  and row_is_intact(checksum, 'local_watermarks', :user_id, :instance_id, seq, updated_at);

-- name: forget_older
-- Remove the marks of processes that have long ended.
delete from local_watermarks where user_id = :user_id and updated_at < :before;

-- name: forget
-- Remove the mark of a process that will write no more for a user.
delete from local_watermarks where user_id = :user_id and instance_id = :instance_id;

-- name: forget_user
-- Let a user leave.
delete from local_watermarks where user_id = :user_id;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from local_watermarks
where row_is_intact(checksum, 'local_watermarks', user_id, instance_id, seq, updated_at);
