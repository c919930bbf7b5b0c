-- name: put
-- What is kept of a thread from now on.
insert into checkpoint_rules (thread_id, keep_last, max_age, max_idle, checksum)
values (:thread_id, :keep_last, :max_age, :max_idle,
        row_checksum('checkpoint_rules', :thread_id, :keep_last, :max_age, :max_idle))
on conflict (thread_id) do update set
    keep_last = excluded.keep_last, max_age = excluded.max_age, max_idle = excluded.max_idle,
    checksum = excluded.checksum;

-- name: all
-- The rules of all threads that have one.
select thread_id, keep_last, max_age, max_idle from checkpoint_rules
where row_is_intact(checksum, 'checkpoint_rules', thread_id, keep_last, max_age, max_idle);

-- name: remove_thread
-- Let a thread be kept as all are.
delete from checkpoint_rules where thread_id = :thread_id;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from checkpoint_rules
where row_is_intact(checksum, 'checkpoint_rules', thread_id, keep_last, max_age, max_idle);
