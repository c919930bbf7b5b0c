-- name: facts
-- What must be known about a server before anything is done on it.
select current_setting('server_version_num')::int as version_number,
       current_setting('server_version') as version,
       current_user::text as role,
       current_database()::text as database,
       r.rolsuper as is_superuser,
       r.rolsuper or r.rolbypassrls as bypasses_row_security,
       has_database_privilege(current_database(), 'create') as may_create_schema,
       pg_database_size(current_database()) as database_bytes,
       (select e.extversion from pg_extension e where e.extname = 'vector') as vector_version,
       (select n.nspname::text from pg_extension e join pg_namespace n on n.oid = e.extnamespace
        where e.extname = 'vector') as vector_schema,
       (select a.default_version from pg_available_extensions a where a.name = 'vector') as vector_available,
       exists (select from pg_extension e where e.extname = 'citus') as is_citus
from pg_roles r
where r.rolname = current_user;

-- name: create_vector
-- Needs a superuser unless the administrator has marked the extension as trusted.
create extension if not exists vector;

-- name: database_exists
-- Whether --create-database has anything to do.
select exists (select from pg_database where datname = :database);

-- name: create_database_statement
-- CREATE DATABASE takes no parameters, so the server quotes the name.
select format('create database %I', :database::text);

-- name: role_exists
-- Whether a role can be granted anything.
select r.rolsuper or r.rolbypassrls from pg_roles r where r.rolname = :role;

-- name: ping
-- Whether the server answers.
select 1;

-- name: notice_lost_clients
-- The server stops what a client that has gone had begun, and its locks are free; servers on Windows cannot.
do $$
begin
  if version() !~* 'mingw|visual|windows' then
    set client_connection_check_interval = '1s';
  end if;
end
$$;
