-- name: place_of_next
-- The number of the next row.
select coalesce(max(value), 0) + 1 from checkpoint_values;

-- name: add
-- The value of a channel at a version; one that is there stays.
insert into checkpoint_values (value, line, channel, version, kind, content, base, layout, checksum)
values (:value, :line, :channel, :version, :kind, :content, :base, :layout,
        row_checksum('checkpoint_values', :value, :line, :channel, :version, :kind, :content, :base, :layout))
on conflict (line, channel, version) do nothing;

-- name: place_of_versions
-- Which of these versions of channels are kept.
select v.channel
from json_each(:versions) wanted
join checkpoint_values v on v.line = :line and v.channel = wanted.key and v.version = wanted.value;

-- name: newest_list
-- The newest list that a channel had.
select value, line, channel, version, kind, content, base, layout from checkpoint_values
where line = :line and channel = :channel and layout is not null
  and row_is_intact(checksum, 'checkpoint_values', value, :line, :channel, version, kind, content, base, layout)
order by version desc
limit 1;

-- name: of_versions
-- The values of channels at versions: `wanted` is a JSON array of [line, channel, version].
select v.value, v.line, v.channel, v.version, v.kind, v.content, v.base, v.layout
from json_each(:wanted) wanted
join checkpoint_values v on v.line = wanted.value ->> 0 and v.channel = wanted.value ->> 1
                        and v.version = wanted.value ->> 2
where row_is_intact(v.checksum, 'checkpoint_values', v.value, v.line, v.channel, v.version, v.kind, v.content, v.base,
                    v.layout);

-- name: size_of_versions
-- How much work it is to read the values of channels at versions and what was written at their checkpoint, in bytes. An
-- element of a list counts for `element` more: it may be one of few that are named again and again. What is more than
-- `most` anyhow is not looked into any further. `wanted` is a JSON array of [line, channel, version].
with recursive chain (value, base, layout, wanted) as (
        select v.value, v.base, v.layout, true from json_each(:wanted) wanted
        join checkpoint_values v on v.line = wanted.value ->> 0 and v.channel = wanted.value ->> 1
                                and v.version = wanted.value ->> 2
        union
        select v.value, v.base, v.layout, false from chain
        join checkpoint_values v on v.value = chain.value - chain.base
        where not wanted or :element * (chain.layout ->> '$[1]') <= :most),
    short (value, layout, wanted) as (
        select value, layout, wanted from chain where octet_length(layout) <= :most),
    parts (value, more) as (
        select value, coalesce(octet_length(layout), 0) from chain
        union all
        select value, :element * (layout ->> '$[1]') from short where wanted
        union all
        select short.value - (run.value ->> 0), iif(wanted, :element * (run.value ->> 2), 0)
        from short, json_each(layout, '$[2]') run)
select coalesce(sum(octet_length(v.content) + more), 0)
       + (select coalesce(sum(octet_length(w.content)), 0) from checkpoint_writes w
          where w.line = :line and w.checkpoint_id = :checkpoint_id)
from (select value, sum(more) as more from parts group by value) part
cross join checkpoint_values v on v.value = part.value;

-- name: bases
-- The lists that these lists begin with, all the way down; `values` is a JSON array of rows.
with recursive chain (value) as (
    select v.value - v.base from json_each(:values) head
    join checkpoint_values v on v.value = head.value and v.base is not null
    union
    select v.value - v.base from chain
    join checkpoint_values v on v.value = chain.value and v.base is not null)
select v.value, v.line, v.channel, v.version, v.kind, v.content, v.base, v.layout
from chain
join checkpoint_values v on v.value = chain.value
where row_is_intact(v.checksum, 'checkpoint_values', v.value, v.line, v.channel, v.version, v.kind, v.content, v.base,
                    v.layout);

-- name: of_rows
-- Values by their rows, a JSON array.
select v.value, v.line, v.channel, v.version, v.kind, v.content, v.base, v.layout
from json_each(:values) wanted
join checkpoint_values v on v.value = wanted.value
where row_is_intact(v.checksum, 'checkpoint_values', v.value, v.line, v.channel, v.version, v.kind, v.content, v.base,
                    v.layout);

-- name: lists_of_line
-- All lists of a line.
select value, line, channel, version, kind, content, base, layout from checkpoint_values
where line = :line and layout is not null
  and row_is_intact(checksum, 'checkpoint_values', value, :line, channel, version, kind, content, base, layout);

-- name: remove
-- Remove values, a JSON array of rows.
delete from checkpoint_values where value in (select value from json_each(:values));

-- name: unname
-- Values that only lists are put together from, a JSON array of rows: no checkpoint can name them any more.
update checkpoint_values
set version = '-' || value,
    checksum = row_checksum('checkpoint_values', value, line, channel, '-' || value, kind, content, base, layout)
where value in (select e.value from json_each(:values) e) and version <> '-' || value;

-- name: remove_unheld
-- Remove the values of a line, lists aside, that none of its checkpoints has.
delete from checkpoint_values
where line = :line and layout is null
  and (channel, version) not in (
      select held.key, held.value from checkpoints c, json_each(c.held) held
      where c.line = :line and held.value is not null);

-- name: remove_thread
-- Remove all values of a thread.
delete from checkpoint_values where line in (select line from checkpoint_lines where thread_id = :thread_id);

-- name: forget_orphans
-- Remove what is of no thread any more, after lines were lost to damage.
delete from checkpoint_values where line not in (select line from checkpoint_lines);

-- name: rows_of_line
-- The rows of a line and how their lists are put together.
select value, base, layout from checkpoint_values
where line = :line
  and row_is_intact(checksum, 'checkpoint_values', value, :line, channel, version, kind, content, base, layout)
order by value;

-- name: copy
-- Give a line values of another one: `moved` is a JSON array of [row, row of the copy, its base, its layout].
insert into checkpoint_values (value, line, channel, version, kind, content, base, layout, checksum)
select m.value ->> 1, :target, v.channel, v.version, v.kind, v.content, m.value ->> 2, m.value ->> 3,
       row_checksum('checkpoint_values', m.value ->> 1, :target, v.channel, v.version, v.kind, v.content,
                    m.value ->> 2, m.value ->> 3)
from json_each(:moved) m
join checkpoint_values v on v.value = m.value ->> 0;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from checkpoint_values
where row_is_intact(checksum, 'checkpoint_values', value, line, channel, version, kind, content, base, layout);
