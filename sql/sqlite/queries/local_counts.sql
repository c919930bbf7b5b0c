-- name: add
-- Postgres counts, or will count, so much more of a memory by itself.
insert into local_counts (user_id, node_id, reports, reads, checksum)
values (:user_id, :node_id, :reports, :reads, row_checksum('local_counts', :user_id, :node_id, :reports, :reads))
on conflict (user_id, node_id) do update set
    reports = reports + excluded.reports, reads = reads + excluded.reads,
    checksum = row_checksum('local_counts', user_id, node_id, reports + excluded.reports, reads + excluded.reads);

-- name: forget
-- A memory was deleted: one with its id would be counted anew.
delete from local_counts where user_id = :user_id and node_id = :node_id;

-- name: forget_user
-- Let a user leave.
delete from local_counts where user_id = :user_id;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from local_counts where row_is_intact(checksum, 'local_counts', user_id, node_id, reports, reads);
