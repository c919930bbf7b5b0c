-- Checkpoints of threads. A line is one namespace of one thread, and everything else belongs to a line. Times are
-- microseconds since 1970, UTC.

-- `collected` counts how often values of the line were removed: what a process remembers of them is void then.
create table checkpoint_lines (
    line      integer primary key autoincrement,
    thread_id text    not null,
    namespace text    not null,
    collected integer not null,
    checksum  integer not null,
    unique (thread_id, namespace)
) strict;

-- `body` is the checkpoint without its large values. `held` is a JSON object of the channels that have a value: the
-- version under which it is kept in checkpoint_values, or null for a small one inside the body. Since
-- `retired_at` a checkpoint is gone for everybody, but DeltaChannels are still rebuilt from it: of later checkpoints, and
-- of one that a run may yet put which began with it. With 0 only what is needed by those that are there is left of it.
create table checkpoints (
    line          integer not null,
    checkpoint_id text    not null,
    parent_id     text,
    metadata      text    not null,
    held          text    not null,
    retired_at    integer,
    kind          text    not null,
    body          blob    not null,
    written_at    integer not null,
    checksum      integer not null,
    unique (line, checkpoint_id)
) strict;

-- Few are out of sight and whole; each will have to be looked at once more.
create index checkpoints_spared on checkpoints (line) where retired_at > 0;

-- The value of a channel at one version, whichever checkpoints have it. A list is kept by its elements: `content` holds
-- those that no earlier version had, `layout` says how the list is put together: JSON of an ordinal, how many elements
-- are taken from the list `base` rows back, and the runs that follow them: [how many rows back, first element, length].
create table checkpoint_values (
    value    integer primary key,
    line     integer not null,
    channel  text    not null,
    version  text    not null,
    kind     text    not null,
    content  blob    not null,
    base     integer,
    layout   text,
    checksum integer not null,
    unique (line, channel, version)
) strict;

-- What the tasks of a checkpoint wrote. They may come before their checkpoint does.
create table checkpoint_writes (
    line          integer not null,
    checkpoint_id text    not null,
    task_id       text    not null,
    idx           integer not null,
    task_path     text    not null,
    channel       text    not null,
    kind          text    not null,
    content       blob    not null,
    checksum      integer not null,
    unique (line, checkpoint_id, task_id, idx)
) strict;

-- What is kept of single threads, where that differs from what is kept of all. Ages in microseconds.
create table checkpoint_rules (
    thread_id text    not null unique,
    keep_last integer,
    max_age   integer,
    max_idle  integer,
    checksum  integer not null
) strict;
