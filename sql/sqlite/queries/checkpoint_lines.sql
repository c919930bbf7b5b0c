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

-- name: remove_if_empty
-- Remove a line that has nothing left.
delete from checkpoint_lines
where line = :line
  and not exists (select 1 from checkpoints c where c.line = :line)
  and not exists (select 1 from checkpoint_writes w where w.line = :line);

-- name: size_of_page
-- How many checkpoints the next lines have, when the first and the last of them were written, and whether some went out
-- of sight before a moment and are whole yet.
select l.line, l.thread_id,
       (select count(*) from checkpoints c where c.line = l.line),
       (select c.written_at from checkpoints c where c.line = l.line order by c.checkpoint_id limit 1),
       (select c.written_at from checkpoints c where c.line = l.line order by c.checkpoint_id desc limit 1),
       exists (
           select 1 from checkpoints c
           where c.line = l.line and c.retired_at > 0 and c.retired_at <= :spared_until)
from checkpoint_lines l
where l.line > :after
order by l.line
limit :page;

-- name: size_of_threads
-- All threads: when something was last stored, the last step of the graph itself, how many checkpoints and bytes.
with kept (line, last, number, bytes) as (
        select line, max(written_at), count(*) - count(retired_at),
               sum(octet_length(metadata) + octet_length(held) + octet_length(body))
        from checkpoints group by line),
    held (line, bytes) as (select line, sum(octet_length(content)) from checkpoint_values group by line),
    written (line, bytes) as (select line, sum(octet_length(content)) from checkpoint_writes group by line)
select l.thread_id, max(kept.last),
       max(case when l.namespace = '' then (
           select c.metadata ->> '$.step' from checkpoints c
           where c.line = l.line and c.retired_at is null order by c.checkpoint_id desc limit 1) end),
       sum(kept.number), sum(kept.bytes + coalesce(held.bytes, 0) + coalesce(written.bytes, 0))
from checkpoint_lines l
join kept on kept.line = l.line
left join held on held.line = l.line
left join written on written.line = l.line
group by l.thread_id
order by 2 desc, 1;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from checkpoint_lines
where row_is_intact(checksum, 'checkpoint_lines', line, thread_id, namespace, collected);
