-- name: bind
-- The users the running transaction may see and write.
select memory.bind_users(:users);

-- name: state
-- What a cache at `version` compares itself with.
select incarnation, version, node_count, relationship_count, entity_count, tombstone_floor,
       (select max(written_at) from memory.tombstones where user_id = :user_id and version > :version) as last_deletion
from memory.user_metadata where user_id = :user_id;

-- name: deleted_since
-- The memories a cache at `version` must drop.
select node_id, version from memory.tombstones where user_id = :user_id and version > :version order by version;

-- name: news
-- What caches of several users are missing, each since its version; nothing of a user who never wrote.
select asked.place, news.o_incarnation as incarnation, news.o_version as version, news.o_node_count as node_count,
       news.o_relationship_count as relationship_count, news.o_entity_count as entity_count,
       news.o_tombstone_floor as tombstone_floor, news.o_last_deletion as last_deletion, news.o_changes as changes
from unnest(:users::text[], :versions::bigint[]) with ordinality as asked (user_id, version, place)
cross join lateral memory.news_of(asked.user_id, asked.version) as news;

-- name: touch
-- After rows were changed by hand: counts anew and makes every cache load the user afresh.
select memory.touch_user(:user_id);
