-- name: find
-- The line of a namespace of a thread, and how often its values were collected.
select line, collected from checkpoint_lines
where thread_id = :thread_id and namespace = :namespace
  and row_is_intact(checksum, 'checkpoint_lines', line, :thread_id, :namespace, collected);

-- name: place_of_next
-- The number after the last one ever given.
select coalesce((select seq from sqlite_sequence where name = 'checkpoint_lines'), 0) + 1;

-- name: add
-- A new line.
insert into checkpoint_lines (line, thread_id, namespace, collected, checksum)
values (:line, :thread_id, :namespace, 0, row_checksum('checkpoint_lines', :line, :thread_id, :namespace, 0));

-- name: of_thread
-- The lines of a thread.
select line, namespace from checkpoint_lines
where thread_id = :thread_id
  and row_is_intact(checksum, 'checkpoint_lines', line, :thread_id, namespace, collected);

-- name: collected
-- Note that values of a line were removed.
update checkpoint_lines
set collected = collected + 1,
    checksum = row_checksum('checkpoint_lines', line, thread_id, namespace, collected + 1)
where line = :line;

-- name: remove_thread
-- Remove the lines of a thread.
delete from checkpoint_lines where thread_id = :thread_id;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from checkpoint_lines
where row_is_intact(checksum, 'checkpoint_lines', line, thread_id, namespace, collected);
