-- What every other table stands on: the record of migrations, the identity of this database, and the binding of
-- statements to users.

create table memory.schema_migrations (
  number integer primary key,
  name text not null,
  checksum text not null,
  applied_at timestamptz not null default clock_timestamp()
);

-- One row. `epoch` changes when the data are not the continuation of what a client has seen (a restored backup).
create table memory.deployment (
  singleton boolean primary key default true check (singleton),
  epoch uuid not null default gen_random_uuid(),
  runtime_roles text[] not null default '{}',
  stats_refreshed_at timestamptz,
  created_at timestamptz not null default now()
);
insert into memory.deployment default values;

-- The users the running transaction may see. An unset or reset setting is empty and matches nobody.
create function memory.bound() returns text[]
language sql stable parallel safe
as $$ select nullif(current_setting('memory.users', true), '')::text[] $$;

-- Only where Citus is installed does its setting have a value. That of a setting which nobody defines becomes empty, for
-- as long as the connection lasts, once it was set in some transaction.
create function memory.on_citus() returns boolean
language sql stable parallel safe
as $$ select coalesce(current_setting('citus.propagate_set_commands', true), '') <> '' $$;

-- SET takes no parameters and set_config does not reach Citus workers; %L quotes, so any user id is safe here.
create function memory.bind_users(p_users text[]) returns void
language plpgsql volatile
as $$
begin
  if memory.on_citus() then
    execute 'set local citus.propagate_set_commands = ''local''';
  end if;
  execute format('set local memory.users = %L', coalesce(p_users, '{}')::text);
end
$$;

-- Maintenance across users. Anyone may set it; only the owner's policy honours it.
create function memory.set_scope(p_scope text) returns void
language plpgsql volatile
as $$
begin
  if memory.on_citus() then
    execute 'set local citus.propagate_set_commands = ''local''';
  end if;
  execute format('set local memory.scope = %L', p_scope);
end
$$;

revoke all on function memory.on_citus() from public;
revoke all on function memory.bound() from public;
revoke all on function memory.bind_users(text[]) from public;
revoke all on function memory.set_scope(text) from public;
