-- name: add
-- What a task wrote; a write that is there stays.
insert into checkpoint_writes (line, checkpoint_id, task_id, idx, task_path, channel, kind, content, checksum)
values (:line, :checkpoint_id, :task_id, :idx, :task_path, :channel, :kind, :content,
        row_checksum('checkpoint_writes', :line, :checkpoint_id, :task_id, :idx, :task_path, :channel, :kind, :content))
on conflict (line, checkpoint_id, task_id, idx) do nothing;

-- name: replace
-- What a task wrote; it takes the place of an earlier one.
insert into checkpoint_writes (line, checkpoint_id, task_id, idx, task_path, channel, kind, content, checksum)
values (:line, :checkpoint_id, :task_id, :idx, :task_path, :channel, :kind, :content,
        row_checksum('checkpoint_writes', :line, :checkpoint_id, :task_id, :idx, :task_path, :channel, :kind, :content))
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

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from checkpoint_writes
where row_is_intact(checksum, 'checkpoint_writes', line, checkpoint_id, task_id, idx, task_path, channel, kind, content);
