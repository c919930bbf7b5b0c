-- Run by the embedded server's psql as its superuser after initdb, and safe to run again: an owner for the schema, a role
-- for the running library that owns nothing, and their database.
\set ON_ERROR_STOP on
select 'create role hybrid_memory_owner login' where not exists (select from pg_roles where rolname = 'hybrid_memory_owner') \gexec
select 'create role hybrid_memory login' where not exists (select from pg_roles where rolname = 'hybrid_memory') \gexec
select 'create database hybrid_memory owner hybrid_memory_owner template template0' where not exists (select from pg_database where datname = 'hybrid_memory') \gexec
\connect hybrid_memory
create extension if not exists vector;
