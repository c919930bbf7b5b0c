-- What there is of checkpoints, for whoever compares one file with another. Retired ones count: a DeltaChannel is rebuilt
-- from them.

-- name: checkpoints
-- Every checkpoint; those of a line together, oldest first.
select l.thread_id, l.namespace, c.checkpoint_id
from checkpoint_lines l
join checkpoints c on c.line = l.line
where row_is_intact(c.checksum, 'checkpoints', c.line, c.checkpoint_id, c.parent_id, c.metadata, c.held, c.retired_at,
                    c.kind, c.body, c.written_at)
order by l.line, c.checkpoint_id;

-- name: ids_of_line
-- The ids of a line's checkpoints.
select checkpoint_id
from checkpoints
where line = (select line from checkpoint_lines where thread_id = :thread_id and namespace = :namespace)
  and row_is_intact(checksum, 'checkpoints', line, checkpoint_id, parent_id, metadata, held, retired_at, kind, body,
                    written_at);

-- name: checkpoint
-- A checkpoint by its id.
select l.line, l.thread_id, l.namespace, c.checkpoint_id, c.parent_id, c.metadata, c.held, c.kind, c.body, c.written_at
from checkpoint_lines l
join checkpoints c on c.line = l.line
where l.thread_id = :thread_id and l.namespace = :namespace and c.checkpoint_id = :checkpoint_id
  and row_is_intact(c.checksum, 'checkpoints', c.line, c.checkpoint_id, c.parent_id, c.metadata, c.held, c.retired_at,
                    c.kind, c.body, c.written_at);

-- name: places_of_writes
-- Where the writes of a checkpoint belong, in the order in which they are applied.
select task_path, task_id, idx, channel
from checkpoint_writes
where line = (select line from checkpoint_lines where thread_id = :thread_id and namespace = :namespace)
  and checkpoint_id = :checkpoint_id
  and row_is_intact(checksum, 'checkpoint_writes', line, checkpoint_id, task_id, idx, task_path, channel, kind, content)
order by task_path, task_id, idx;
