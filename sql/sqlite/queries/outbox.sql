-- name: place_of_next
-- The place after the last one ever given.
select coalesce((select seq + 1 from sqlite_sequence where name = 'outbox'), 1);

-- name: head
-- Where a user's queue begins, or nothing when it is empty.
select position
from outbox
where user_id = :user_id and quarantined_at is null
  and row_is_intact(checksum, 'outbox', position, :user_id, incarnation, instance_id, number, kind, bytes,
                    payload_hash, queued_at, attempts, not_before, turn, quarantined_at, reason)
order by position
limit 1;

-- name: add
-- An operation at the end; one with that number that is there already stays.
insert into outbox (position, user_id, incarnation, instance_id, number, kind, bytes, payload_hash, queued_at,
                    attempts, not_before, turn, quarantined_at, reason, checksum)
values (:position, :user_id, :incarnation, :instance_id, :number, :kind, :bytes, :payload_hash, :queued_at, :attempts,
        :not_before, :turn, :quarantined_at, :reason,
        row_checksum('outbox', :position, :user_id, :incarnation, :instance_id, :number, :kind, :bytes,
                     :payload_hash, :queued_at, :attempts, :not_before, :turn, :quarantined_at, :reason))
on conflict (user_id, instance_id, number) do nothing;

-- name: hash_of
-- The hash of what an operation says.
select payload_hash
from outbox
where user_id = :user_id and instance_id = :instance_id and number = :number
  and row_is_intact(checksum, 'outbox', position, :user_id, incarnation, :instance_id, :number, kind, bytes,
                    payload_hash, queued_at, attempts, not_before, turn, quarantined_at, reason);

-- name: due
-- Users whose queues may go on now, by turn; waiting for longer than anybody asks for is a clock that was set back.
select user_id
from (
    select *
    from (
        select * from outbox
        where turn is not null and not_before <= :now and user_id not in (select value from json_each(:besides))
        order by not_before, turn
        limit :most
    )
    union all
    select *
    from (
        select * from outbox
        where turn is not null and not_before > :furthest and user_id not in (select value from json_each(:besides))
        order by not_before, turn
        limit :most
    )
)
where row_is_intact(checksum, 'outbox', position, user_id, incarnation, instance_id, number, kind, bytes,
                    payload_hash, queued_at, attempts, not_before, turn, quarantined_at, reason)
limit :most;

-- name: users
-- Everybody with a queue.
select user_id
from outbox
where turn is not null
  and row_is_intact(checksum, 'outbox', position, user_id, incarnation, instance_id, number, kind, bytes,
                    payload_hash, queued_at, attempts, not_before, turn, quarantined_at, reason);

-- name: queue_of
-- The beginning of a user's queue: at most so many operations, none after so many bytes; damaged payloads among them.
select queue.position, queue.user_id, queue.incarnation, queue.instance_id, queue.number, queue.kind, queue.bytes,
       queue.payload_hash, queue.queued_at, queue.attempts, queue.not_before, queue.quarantined_at, queue.reason,
       payload.content, payload.vectors
from (
    select *, sum(bytes) over (order by position) - bytes as bytes_before
    from (
        select * from outbox
        where user_id = :user_id and quarantined_at is null
          and row_is_intact(checksum, 'outbox', position, :user_id, incarnation, instance_id, number, kind, bytes,
                            payload_hash, queued_at, attempts, not_before, turn, quarantined_at, reason)
        order by position
        limit :most
    )
) as queue
left join outbox_payloads as payload on payload.position = queue.position
where queue.bytes_before < :most_bytes
order by queue.position;

-- name: quarantined
-- What is in quarantine, of all users or of one, or of the places given; damaged payloads are among it.
select queue.position, queue.user_id, queue.incarnation, queue.instance_id, queue.number, queue.kind, queue.bytes,
       queue.payload_hash, queue.queued_at, queue.attempts, queue.not_before, queue.quarantined_at, queue.reason,
       payload.content, payload.vectors
from (
    select * from outbox
    where quarantined_at is not null
      and (:user_id is null or user_id = :user_id)
      and (:positions is null or position in (select value from json_each(:positions)))
      and position > :after
      and row_is_intact(checksum, 'outbox', position, user_id, incarnation, instance_id, number, kind, bytes,
                        payload_hash, queued_at, attempts, not_before, turn, quarantined_at, reason)
    order by position
    limit :most
) as queue
left join outbox_payloads as payload on payload.position = queue.position
order by queue.position;

-- name: page
-- Everything after a place, in order; damaged payloads are among it.
select queue.position, queue.user_id, queue.incarnation, queue.instance_id, queue.number, queue.kind, queue.bytes,
       queue.payload_hash, queue.queued_at, queue.attempts, queue.not_before, queue.quarantined_at, queue.reason,
       payload.content, payload.vectors
from (
    select * from outbox
    where position > :after
      and row_is_intact(checksum, 'outbox', position, user_id, incarnation, instance_id, number, kind, bytes,
                        payload_hash, queued_at, attempts, not_before, turn, quarantined_at, reason)
    order by position
    limit :most
) as queue
left join outbox_payloads as payload on payload.position = queue.position
order by queue.position;

-- name: counts
-- How many operations of each user wait, and since when; those that wait longest come first.
select user_id, count(*), min(queued_at)
from outbox
where quarantined_at is null
  and row_is_intact(checksum, 'outbox', position, user_id, incarnation, instance_id, number, kind, bytes,
                    payload_hash, queued_at, attempts, not_before, turn, quarantined_at, reason)
group by user_id
order by min(position)
limit :most;

-- name: oldest
-- When the operation was queued that waits longest.
select queued_at
from outbox
where quarantined_at is null
  and row_is_intact(checksum, 'outbox', position, user_id, incarnation, instance_id, number, kind, bytes,
                    payload_hash, queued_at, attempts, not_before, turn, quarantined_at, reason)
order by queued_at
limit 1;

-- name: older
-- Operations that wait since before a moment, the oldest first.
select position
from outbox
where quarantined_at is null and queued_at < :before
  and row_is_intact(checksum, 'outbox', position, user_id, incarnation, instance_id, number, kind, bytes,
                    payload_hash, queued_at, attempts, not_before, turn, quarantined_at, reason)
order by queued_at
limit :most;

-- name: make_head
-- Let a user's first operation be the head of the queue. Its turn comes after those of all heads there are.
update outbox set
    turn = :turn,
    checksum = row_checksum('outbox', position, user_id, incarnation, instance_id, number, kind, bytes,
                            payload_hash, queued_at, attempts, not_before, :turn, quarantined_at, reason)
where position = :position and turn is null;

-- name: make_missing_heads
-- Give every queue that has lost its head to damage a new one.
update outbox set
    turn = position,
    checksum = row_checksum('outbox', position, user_id, incarnation, instance_id, number, kind, bytes,
                            payload_hash, queued_at, attempts, not_before, position, quarantined_at, reason)
where turn is null
  and position in (select min(position) from outbox where quarantined_at is null group by user_id);

-- name: postpone
-- Let a user's queue wait, and say why.
update outbox set
    attempts = :attempts, not_before = :not_before, reason = :reason,
    checksum = row_checksum('outbox', position, user_id, incarnation, instance_id, number, kind, bytes,
                            payload_hash, queued_at, :attempts, :not_before, turn, quarantined_at, :reason)
where user_id = :user_id and quarantined_at is null and turn is not null;

-- name: quarantine
-- Take an operation out of its queue.
update outbox set
    not_before = 0, turn = null, quarantined_at = :quarantined_at, reason = :reason,
    checksum = row_checksum('outbox', position, user_id, incarnation, instance_id, number, kind, bytes,
                            payload_hash, queued_at, attempts, 0, null, :quarantined_at, :reason)
where position = :position and quarantined_at is null
returning user_id, instance_id, number, kind;

-- name: position_of
-- The place of an operation that waits.
select position
from outbox
where user_id = :user_id and instance_id = :instance_id and number = :number and quarantined_at is null
  and row_is_intact(checksum, 'outbox', position, :user_id, incarnation, :instance_id, :number, kind, bytes,
                    payload_hash, queued_at, attempts, not_before, turn, quarantined_at, reason);

-- name: remove_done
-- Remove the operations of a run that are done.
delete from outbox
where user_id = :user_id and instance_id = :instance_id and number <= :number and quarantined_at is null
returning bytes;

-- name: remove_one
-- Remove an operation from quarantine.
delete from outbox where position = :position and quarantined_at is not null
returning bytes;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from outbox
where row_is_intact(checksum, 'outbox', position, user_id, incarnation, instance_id, number, kind, bytes,
                    payload_hash, queued_at, attempts, not_before, turn, quarantined_at, reason);
