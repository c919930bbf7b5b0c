-- name: holder
-- Who has a lease, and until when by its own word.
select owner, until
from leases
where name = :name and row_is_intact(checksum, 'leases', position, :name, owner, until);

-- name: take
-- Take a lease, or have it longer, unless another owner has it; one that ends too late is of a clock that was set back.
insert into leases (position, name, owner, until, checksum)
select place, :name, :owner, :until, row_checksum('leases', place, :name, :owner, :until)
from (select coalesce((select position from leases where name = :name),
                      (select max(position) + 1 from leases), 1) as place)
where true
on conflict (name) do update set owner = excluded.owner, until = excluded.until, checksum = excluded.checksum
where leases.owner in (:owner, :dead) or leases.until <= :now or leases.until > :furthest;

-- name: release
-- Give a lease back.
delete from leases where name = :name and owner = :owner;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from leases
where row_is_intact(checksum, 'leases', position, name, owner, until);
