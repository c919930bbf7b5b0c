-- name: put
-- A checkpoint; the same one again replaces it.
insert into checkpoints (line, checkpoint_id, parent_id, metadata, held, kind, body, written_at, checksum)
values (:line, :checkpoint_id, :parent_id, :metadata, :held, :kind, :body, :written_at,
        row_checksum('checkpoints', :line, :checkpoint_id, :parent_id, :metadata, :held, :kind, :body, :written_at))
on conflict (line, checkpoint_id) do update set
    parent_id = excluded.parent_id, metadata = excluded.metadata, held = excluded.held, kind = excluded.kind,
    body = excluded.body, written_at = excluded.written_at, checksum = excluded.checksum;

-- name: one
-- A checkpoint of a line by its id.
select checkpoint_id, parent_id, metadata, held, kind, body, written_at from checkpoints
where line = :line and checkpoint_id = :checkpoint_id
  and row_is_intact(checksum, 'checkpoints', :line, :checkpoint_id, parent_id, metadata, held, kind, body, written_at);

-- name: newest
-- The newest checkpoint of a line.
select checkpoint_id, parent_id, metadata, held, kind, body, written_at from checkpoints
where line = :line
  and row_is_intact(checksum, 'checkpoints', :line, checkpoint_id, parent_id, metadata, held, kind, body, written_at)
order by checkpoint_id desc
limit 1;

-- name: page_of_line
-- A page of a line's checkpoints, newest first, whose metadata has all of `filter`.
select c.line, :thread_id, :namespace, c.checkpoint_id, c.parent_id, c.metadata, c.held, c.kind, c.body, c.written_at
from checkpoints c
where c.line = (select line from checkpoint_lines where thread_id = :thread_id and namespace = :namespace)
  and (:checkpoint_id is null or c.checkpoint_id = :checkpoint_id)
  and (:before is null or c.checkpoint_id < :before)
  and (:last_id is null or c.checkpoint_id < :last_id)
  and not exists (
      select 1 from json_each(:filter) wanted
      where not exists (
          select 1 from json_each(c.metadata) has
          where has.key = wanted.key and has.value is wanted.value
            and (has.type = wanted.type or (has.type in ('integer', 'real') and wanted.type in ('integer', 'real'))))
        and (wanted.type <> 'null'
             or exists (select 1 from json_each(c.metadata) has where has.key = wanted.key and has.type <> 'null')))
  and row_is_intact(c.checksum, 'checkpoints', c.line, c.checkpoint_id, c.parent_id, c.metadata, c.held, c.kind, c.body,
                    c.written_at)
order by c.checkpoint_id desc
limit :page;

-- name: page
-- The same over all namespaces of a thread, or of all threads.
select l.line, l.thread_id, l.namespace, c.checkpoint_id, c.parent_id, c.metadata, c.held, c.kind, c.body, c.written_at
from checkpoint_lines l
join checkpoints c on c.line = l.line
where (:thread_id is null or l.thread_id = :thread_id)
  and (:checkpoint_id is null or c.checkpoint_id = :checkpoint_id)
  and (:before is null or c.checkpoint_id < :before)
  and (:last_id is null or (c.checkpoint_id, c.line) < (:last_id, :last_line))
  and not exists (
      select 1 from json_each(:filter) wanted
      where not exists (
          select 1 from json_each(c.metadata) has
          where has.key = wanted.key and has.value is wanted.value
            and (has.type = wanted.type or (has.type in ('integer', 'real') and wanted.type in ('integer', 'real'))))
        and (wanted.type <> 'null'
             or exists (select 1 from json_each(c.metadata) has where has.key = wanted.key and has.type <> 'null')))
  and row_is_intact(c.checksum, 'checkpoints', c.line, c.checkpoint_id, c.parent_id, c.metadata, c.held, c.kind, c.body,
                    c.written_at)
order by c.checkpoint_id desc, c.line desc
limit :page;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from checkpoints
where row_is_intact(checksum, 'checkpoints', line, checkpoint_id, parent_id, metadata, held, kind, body, written_at);
