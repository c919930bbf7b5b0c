-- Files of langgraph-checkpoint-sqlite, for what its classes do not tell.

-- name: columns
-- The columns of the two tables, to know whether it is such a file.
select m.name as table_name, c.name as column_name
from sqlite_master m, pragma_table_info(m.name) c
where m.type = 'table';

-- name: checkpoints
-- Which checkpoints there are, oldest first within a thread and namespace.
select thread_id, checkpoint_ns, checkpoint_id
from checkpoints
order by thread_id, checkpoint_ns, checkpoint_id;

-- name: checkpoints_of_line
-- The ids of the checkpoints of a thread and namespace.
select checkpoint_id
from checkpoints
where thread_id = :thread_id
  and checkpoint_ns = :namespace;

-- name: writes
-- The places of the writes of a checkpoint, in no order.
select task_path, task_id, idx, channel
from writes
where thread_id = :thread_id
  and checkpoint_ns = :namespace
  and checkpoint_id = :checkpoint_id;

-- name: writes_without_paths
-- The same in a file from before there were paths.
select '' as task_path, task_id, idx, channel
from writes
where thread_id = :thread_id
  and checkpoint_ns = :namespace
  and checkpoint_id = :checkpoint_id;
