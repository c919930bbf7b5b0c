-- name: add
-- What a task wrote; a write that is there stays. If its line is as remembered.
insert into checkpoint_writes (line, checkpoint_id, task_id, idx, task_path, channel, kind, content, checksum)
select :line, :checkpoint_id, :task_id, :idx, :task_path, :channel, :kind, :content,
       row_checksum('checkpoint_writes', :line, :checkpoint_id, :task_id, :idx, :task_path, :channel, :kind, :content)
from checkpoint_lines
where line = :line and thread_id = :thread_id and namespace = :namespace
on conflict (line, checkpoint_id, task_id, idx) do nothing;

-- name: replace
-- What a task wrote; it takes the place of an earlier one. If its line is as remembered.
insert into checkpoint_writes (line, checkpoint_id, task_id, idx, task_path, channel, kind, content, checksum)
select :line, :checkpoint_id, :task_id, :idx, :task_path, :channel, :kind, :content,
       row_checksum('checkpoint_writes', :line, :checkpoint_id, :task_id, :idx, :task_path, :channel, :kind, :content)
from checkpoint_lines
where line = :line and thread_id = :thread_id and namespace = :namespace
on conflict (line, checkpoint_id, task_id, idx) do update set
    task_path = excluded.task_path, channel = excluded.channel, kind = excluded.kind, content = excluded.content,
    checksum = excluded.checksum;

-- name: of_checkpoints
-- The writes of checkpoints, a JSON array of [line, checkpoint id], in the order in which they are applied.
select w.line, w.checkpoint_id, w.task_id, w.channel, w.kind, w.content
from json_each(:wanted) wanted
join checkpoint_writes w on w.line = wanted.value ->> 0 and w.checkpoint_id = wanted.value ->> 1
where row_is_intact(w.checksum, 'checkpoint_writes', w.line, w.checkpoint_id, w.task_id, w.idx, w.task_path, w.channel,
                    w.kind, w.content)
order by w.task_path, w.task_id, w.idx;

-- name: of_channels
-- What was written to channels at checkpoints of a line, in the order in which it is applied to each.
select w.checkpoint_id, w.task_id, w.channel, w.kind, w.content
from json_each(:ids) wanted
join checkpoint_writes w on w.line = :line and w.checkpoint_id = wanted.value
where w.channel in (select value from json_each(:channels))
  and row_is_intact(w.checksum, 'checkpoint_writes', w.line, w.checkpoint_id, w.task_id, w.idx, w.task_path, w.channel,
                    w.kind, w.content)
order by w.task_path, w.task_id, w.idx;

-- name: remove
-- Remove the writes of checkpoints of a line, a JSON array of their ids.
delete from checkpoint_writes where line = :line and checkpoint_id in (select value from json_each(:ids));

-- name: remove_other_channels
-- Remove what was written at a checkpoint to other channels than these.
delete from checkpoint_writes
where line = :line and checkpoint_id = :checkpoint_id and channel not in (select value from json_each(:channels));

-- name: remove_thread
-- Remove all writes of a thread.
delete from checkpoint_writes where line in (select line from checkpoint_lines where thread_id = :thread_id);

-- name: forget_orphans
-- Remove what is of no thread any more, after lines were lost to damage.
delete from checkpoint_writes where line not in (select line from checkpoint_lines);

-- name: copy
-- Give a line all writes of another one.
insert into checkpoint_writes (line, checkpoint_id, task_id, idx, task_path, channel, kind, content, checksum)
select :target, checkpoint_id, task_id, idx, task_path, channel, kind, content,
       row_checksum('checkpoint_writes', :target, checkpoint_id, task_id, idx, task_path, channel, kind, content)
from checkpoint_writes
where line = :source
  and row_is_intact(checksum, 'checkpoint_writes', :source, checkpoint_id, task_id, idx, task_path, channel, kind,
                    content);

-- name: remove_orphans
-- Remove the writes of checkpoints that are not there and older than one that is.
delete from checkpoint_writes
where line = :line
  and checkpoint_id < (select max(c.checkpoint_id) from checkpoints c where c.line = :line)
  and checkpoint_id not in (select c.checkpoint_id from checkpoints c where c.line = :line);

-- name: place_of_interrupt
-- Whether a checkpoint waits for an answer.
select exists (
    select 1 from checkpoint_writes
    where line = :line and checkpoint_id = :checkpoint_id and channel = '__interrupt__');

-- name: place_of_channels
-- At which checkpoints of a line something was written to channels, a JSON array.
select distinct checkpoint_id, channel
from checkpoint_writes
where line = :line and channel in (select value from json_each(:channels));

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from checkpoint_writes
where row_is_intact(checksum, 'checkpoint_writes', line, checkpoint_id, task_id, idx, task_path, channel, kind, content);
