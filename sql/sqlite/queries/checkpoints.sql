-- name: put
-- A checkpoint; the same one again replaces it. Where its line is not as remembered, it has none, and none is an error.
insert or replace into checkpoints
    (line, checkpoint_id, parent_id, metadata, held, retired_at, kind, body, written_at, checksum)
values ((select line from checkpoint_lines
         where line = :line and collected = :collected and thread_id = :thread_id and namespace = :namespace),
        :checkpoint_id, :parent_id, :metadata, :held, null, :kind, :body, :written_at,
        row_checksum('checkpoints', :line, :checkpoint_id, :parent_id, :metadata, :held, null, :kind, :body,
                      :written_at));

-- name: one
-- A checkpoint of a line by its id, with its parent if that is there.
select c.checkpoint_id, p.checkpoint_id, c.metadata, c.held, c.kind, c.body, c.written_at
from checkpoints c
left join checkpoints p on p.line = c.line and p.checkpoint_id = c.parent_id and p.retired_at is null
where c.line = :line and c.checkpoint_id = :checkpoint_id and c.retired_at is null
  and row_is_intact(c.checksum, 'checkpoints', :line, :checkpoint_id, c.parent_id, c.metadata, c.held, c.retired_at,
                    c.kind, c.body, c.written_at);

-- name: newest
-- The newest checkpoint of a line, with its parent if that is there.
select c.checkpoint_id, p.checkpoint_id, c.metadata, c.held, c.kind, c.body, c.written_at
from checkpoints c
left join checkpoints p on p.line = c.line and p.checkpoint_id = c.parent_id and p.retired_at is null
where c.line = :line and c.retired_at is null
  and row_is_intact(c.checksum, 'checkpoints', :line, c.checkpoint_id, c.parent_id, c.metadata, c.held, c.retired_at,
                    c.kind, c.body, c.written_at)
order by c.checkpoint_id desc
limit 1;

-- name: page_of_line
-- A page of a line's checkpoints below an id, newest first, whose metadata has all of `filter`. A blob is above all ids.
select c.line, :thread_id, :namespace, c.checkpoint_id, p.checkpoint_id, c.metadata, c.held, c.kind, c.body,
       c.written_at
from checkpoints c
left join checkpoints p on p.line = c.line and p.checkpoint_id = c.parent_id and p.retired_at is null
where c.line = (select line from checkpoint_lines where thread_id = :thread_id and namespace = :namespace)
  and c.retired_at is null
  and (:checkpoint_id is null or c.checkpoint_id = :checkpoint_id)
  and c.checkpoint_id < coalesce(:below, x'')
  and not exists (
      select 1 from json_each(:filter) wanted
      where not exists (
          select 1 from json_each(c.metadata) has
          where has.key = wanted.key and has.value is wanted.value
            and (has.type = wanted.type or (has.type in ('integer', 'real') and wanted.type in ('integer', 'real'))))
        and (wanted.type <> 'null'
             or exists (select 1 from json_each(c.metadata) has where has.key = wanted.key and has.type <> 'null')))
  and row_is_intact(c.checksum, 'checkpoints', c.line, c.checkpoint_id, c.parent_id, c.metadata, c.held, c.retired_at,
                    c.kind, c.body, c.written_at)
order by c.checkpoint_id desc
limit :page;

-- name: place_of_newest
-- The newest id below one in each line of a thread, or of all threads; null where there is none.
select (select max(c.checkpoint_id) from checkpoints c
        where c.line = l.line and c.checkpoint_id < coalesce(:below, x'')),
       l.line
from checkpoint_lines l
where l.thread_id between coalesce(:thread_id, '') and coalesce(:thread_id, x'');

-- name: place_of_older
-- The next id of a line below one.
select max(checkpoint_id) from checkpoints where line = :line and checkpoint_id < :below;

-- name: of_keys
-- Those of some checkpoints that are in sight and whose metadata has all of `filter`, newest first: `keys` is a JSON
-- array of [checkpoint id, line].
select c.line, l.thread_id, l.namespace, c.checkpoint_id, p.checkpoint_id, c.metadata, c.held, c.kind, c.body,
       c.written_at
from json_each(:keys) wanted
cross join checkpoints c on c.checkpoint_id = wanted.value ->> 0 and c.line = wanted.value ->> 1
join checkpoint_lines l on l.line = c.line
left join checkpoints p on p.line = c.line and p.checkpoint_id = c.parent_id and p.retired_at is null
where c.retired_at is null
  and not exists (
      select 1 from json_each(:filter) asked
      where not exists (
          select 1 from json_each(c.metadata) has
          where has.key = asked.key and has.value is asked.value
            and (has.type = asked.type or (has.type in ('integer', 'real') and asked.type in ('integer', 'real'))))
        and (asked.type <> 'null'
             or exists (select 1 from json_each(c.metadata) has where has.key = asked.key and has.type <> 'null')))
  and row_is_intact(c.checksum, 'checkpoints', c.line, c.checkpoint_id, c.parent_id, c.metadata, c.held, c.retired_at,
                    c.kind, c.body, c.written_at)
order by c.checkpoint_id desc, c.line desc;

-- name: ancestors
-- The next `page` ancestors of a checkpoint, nearest first, retired ones too.
with recursive chain (checkpoint_id, distance) as (
    select parent_id, 1 from checkpoints where line = :line and checkpoint_id = :checkpoint_id
    union all
    select c.parent_id, chain.distance + 1 from chain
    join checkpoints c on c.line = :line and c.checkpoint_id = chain.checkpoint_id
    where chain.distance < :page)
select c.checkpoint_id, c.parent_id, c.metadata, c.held, c.kind, c.body, c.written_at
from chain
join checkpoints c on c.line = :line and c.checkpoint_id = chain.checkpoint_id
where row_is_intact(c.checksum, 'checkpoints', :line, c.checkpoint_id, c.parent_id, c.metadata, c.held, c.retired_at,
                    c.kind, c.body, c.written_at)
order by chain.distance;

-- name: all_of_line
-- How the checkpoints of a line hang together, and what each holds; newest first.
select checkpoint_id, parent_id, held, retired_at, metadata ->> '$.counters_since_delta_snapshot',
       metadata -> '$.parents' ->> '$.""', written_at
from checkpoints
where line = :line
  and row_is_intact(checksum, 'checkpoints', :line, checkpoint_id, parent_id, metadata, held, retired_at, kind, body,
                    written_at)
order by checkpoint_id desc;

-- name: of_runs
-- The checkpoints that runs made, a JSON array of their ids.
select line, checkpoint_id from checkpoints
where metadata ->> '$.run_id' in (select value from json_each(:run_ids))
  and row_is_intact(checksum, 'checkpoints', line, checkpoint_id, parent_id, metadata, held, retired_at, kind, body,
                    written_at);

-- name: hide
-- Take checkpoints of a line out of sight, a JSON array of their ids.
update checkpoints
set retired_at = :retired_at,
    checksum = row_checksum('checkpoints', line, checkpoint_id, parent_id, metadata, held, :retired_at, kind, body,
                            written_at)
where line = :line and checkpoint_id in (select value from json_each(:ids));

-- name: reduce
-- Take a checkpoint out of sight and keep of its values those in `held`.
update checkpoints
set retired_at = 0, held = :held,
    checksum = row_checksum('checkpoints', line, checkpoint_id, parent_id, metadata, :held, 0, kind, body, written_at)
where line = :line and checkpoint_id = :checkpoint_id;

-- name: remove
-- Remove checkpoints of a line, a JSON array of their ids.
delete from checkpoints where line = :line and checkpoint_id in (select value from json_each(:ids));

-- name: remove_thread
-- Remove all checkpoints of a thread.
delete from checkpoints where line in (select line from checkpoint_lines where thread_id = :thread_id);

-- name: forget_orphans
-- Remove what is of no thread any more, after lines were lost to damage: their numbers may be given to others.
delete from checkpoints where line not in (select line from checkpoint_lines);

-- name: copy
-- Give a line all checkpoints of another one.
insert into checkpoints (line, checkpoint_id, parent_id, metadata, held, retired_at, kind, body, written_at, checksum)
select :target, checkpoint_id, parent_id, metadata, held, retired_at, kind, body, written_at,
       row_checksum('checkpoints', :target, checkpoint_id, parent_id, metadata, held, retired_at, kind, body,
                    written_at)
from checkpoints
where line = :source
  and row_is_intact(checksum, 'checkpoints', :source, checkpoint_id, parent_id, metadata, held, retired_at, kind, body,
                    written_at);

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from checkpoints
where row_is_intact(checksum, 'checkpoints', line, checkpoint_id, parent_id, metadata, held, retired_at, kind, body,
                    written_at);
