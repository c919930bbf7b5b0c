-- name: keep
-- What an operation says.
insert into outbox_payloads (position, content, vectors, checksum)
values (:position, :content, :vectors, row_checksum('outbox_payloads', :position, :content, :vectors));

-- name: forget_one
-- Remove the payload of one operation.
delete from outbox_payloads where position = :position;

-- name: forget_done
-- Remove the payloads of the operations of a run that are done.
delete from outbox_payloads
where position in (select position from outbox
                   where user_id = :user_id and instance_id = :instance_id and number <= :number
                     and quarantined_at is null);

-- name: accept_damaged
-- Keep a damaged payload as it is: its operation is in quarantine, and the file is not damaged beyond that.
update outbox_payloads set checksum = row_checksum('outbox_payloads', position, content, vectors)
where position = :position;

-- name: forget_orphans
-- Remove what belongs to no operation, after rows were lost to damage.
delete from outbox_payloads where position not in (select position from outbox);

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from outbox_payloads
where row_is_intact(checksum, 'outbox_payloads', position, content, vectors);
