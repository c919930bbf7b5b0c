-- name: store
-- A note of a thread; the same node_id again replaces it in its place.
insert into transient_memories (position, thread_id, node_id, context_type, content, content_kind, summary, tags,
                                metadata, importance, confidence, relates_to, depends_on, created_at, expires_at,
                                checksum)
values (:position, :thread_id, :node_id, :context_type, :content, :content_kind, :summary, :tags,
        :metadata, :importance, :confidence, :relates_to, :depends_on, :created_at, :expires_at,
        row_checksum('transient_memories', :position, :thread_id, :node_id, :context_type, :content, :content_kind,
                     :summary, :tags, :metadata, :importance, :confidence, :relates_to, :depends_on, :created_at,
                     :expires_at))
on conflict (thread_id, node_id) do update set
    position = excluded.position, context_type = excluded.context_type, content = excluded.content,
    content_kind = excluded.content_kind, summary = excluded.summary, tags = excluded.tags,
    metadata = excluded.metadata, importance = excluded.importance, confidence = excluded.confidence,
    relates_to = excluded.relates_to, depends_on = excluded.depends_on, created_at = excluded.created_at,
    expires_at = excluded.expires_at, checksum = excluded.checksum;

-- name: place_of
-- Where this note stands, or the place after the last one ever given.
select coalesce(
    (select position from transient_memories where thread_id = :thread_id and node_id = :node_id),
    (select seq + 1 from sqlite_sequence where name = 'transient_memories'),
    1);

-- name: of_thread
-- A thread's notes in the order they were made, without the expired ones.
select node_id, thread_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence,
       relates_to, depends_on, created_at, expires_at
from transient_memories
where thread_id = :thread_id
  and (expires_at is null or expires_at > :now)
  and row_is_intact(checksum, 'transient_memories', position, :thread_id, node_id, context_type, content, content_kind,
                    summary, tags, metadata, importance, confidence, relates_to, depends_on, created_at, expires_at)
order by position;

-- name: one
-- One note of a thread, unless it has expired.
select node_id, thread_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence,
       relates_to, depends_on, created_at, expires_at
from transient_memories
where thread_id = :thread_id and node_id = :node_id
  and (expires_at is null or expires_at > :now)
  and row_is_intact(checksum, 'transient_memories', position, :thread_id, :node_id, context_type, content, content_kind,
                    summary, tags, metadata, importance, confidence, relates_to, depends_on, created_at, expires_at);

-- name: forget
-- Remove one note.
delete from transient_memories where thread_id = :thread_id and node_id = :node_id;

-- name: forget_thread
-- Remove all notes of a thread.
delete from transient_memories where thread_id = :thread_id;

-- name: forget_quiet_threads
-- Remove the threads in which nothing was noted since `before`.
delete from transient_memories
where thread_id in (select thread_id from transient_memories group by thread_id having max(created_at) < :before);

-- name: forget_expired
-- Remove what has expired.
delete from transient_memories where expires_at <= :now;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from transient_memories
where row_is_intact(checksum, 'transient_memories', position, thread_id, node_id, context_type, content, content_kind,
                    summary, tags, metadata, importance, confidence, relates_to, depends_on, created_at, expires_at);
