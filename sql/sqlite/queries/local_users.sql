-- name: put
-- Where a user's memory stands now.
insert into local_users (user_id, incarnation, version, node_count, relationship_count, entity_count, last_activity,
                         checksum)
values (:user_id, :incarnation, :version, :node_count, :relationship_count, :entity_count, :last_activity,
        row_checksum('local_users', :user_id, :incarnation, :version, :node_count, :relationship_count, :entity_count,
                     :last_activity))
on conflict (user_id) do update set
    incarnation = excluded.incarnation, version = excluded.version, node_count = excluded.node_count,
    relationship_count = excluded.relationship_count, entity_count = excluded.entity_count,
    last_activity = excluded.last_activity, checksum = excluded.checksum;

-- name: get
-- Where a user's memory stands.
select incarnation, version, node_count, relationship_count, entity_count, last_activity
from local_users
where user_id = :user_id
  and row_is_intact(checksum, 'local_users', :user_id, incarnation, version, node_count, relationship_count,
                    entity_count, last_activity);

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from local_users
where row_is_intact(checksum, 'local_users', user_id, incarnation, version, node_count, relationship_count,
                    entity_count, last_activity);
