-- name: now
-- How many operations wait, how many are in quarantine, and the bytes of both.
select queued, quarantined, bytes
from outbox_totals
where position = 1 and row_is_intact(checksum, 'outbox_totals', position, queued, quarantined, bytes);

-- name: change
-- Count what came, went, or changed sides.
update outbox_totals set
    queued = queued + :queued, quarantined = quarantined + :quarantined, bytes = bytes + :bytes,
    checksum = row_checksum('outbox_totals', 1, queued + :queued, quarantined + :quarantined, bytes + :bytes)
where position = 1;

-- name: recount
-- Count anew, after rows were lost to damage.
update outbox_totals set
    queued = counted.queued, quarantined = counted.quarantined, bytes = counted.bytes,
    checksum = row_checksum('outbox_totals', 1, counted.queued, counted.quarantined, counted.bytes)
from (
    select count(*) filter (where quarantined_at is null) as queued, count(quarantined_at) as quarantined,
           coalesce(sum(bytes), 0) as bytes
    from outbox
) as counted
where position = 1;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from outbox_totals
where row_is_intact(checksum, 'outbox_totals', position, queued, quarantined, bytes);
