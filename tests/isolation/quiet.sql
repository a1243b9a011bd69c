-- A database in which nothing that users have defined can touch the session: run as its administrator.
-- What is tagged by a client is written by its session and read by it alone.
CREATE SCHEMA one;
CREATE SCHEMA two;
CREATE SCHEMA three;
CREATE TABLE one.place AS SELECT 'one' AS name;
CREATE TABLE two.place AS SELECT 'two' AS name;
CREATE TABLE three.place AS SELECT 'three' AS name;
CREATE TABLE public.place AS SELECT 'public' AS name;
CREATE SCHEMA "We, ird";

-- Everybody makes a temporary table of this name, too.
CREATE TABLE public.scratch AS SELECT 'permanent' AS tag;

CREATE SEQUENCE tickets;
CREATE SEQUENCE invoices;
CREATE TABLE orders (id bigint PRIMARY KEY DEFAULT nextval('invoices'), tag text NOT NULL);
CREATE INDEX ON orders (tag);

CREATE TABLE copied (tag text NOT NULL, n int NOT NULL);
CREATE INDEX ON copied (tag);

-- Row-level security by a setting of the transaction.
CREATE TABLE documents (tenant text NOT NULL, body text NOT NULL);
INSERT INTO documents SELECT 'tenant' || n, 'tenant' || n || '-' || i FROM generate_series(0, 199) n, generate_series(1, 2) i;
CREATE INDEX ON documents (tenant);
ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
ALTER TABLE documents FORCE ROW LEVEL SECURITY;
CREATE POLICY tenants ON documents USING (tenant = current_setting('app.tenant_id', true));

-- Harmless functions: their plans are kept by the session, with the time zone under which they were made.
CREATE FUNCTION noon() RETURNS bigint LANGUAGE plpgsql AS
  $$BEGIN RETURN extract(epoch FROM timestamptz '2020-01-01 12:00'); END$$;
CREATE FUNCTION second_of_january() RETURNS boolean LANGUAGE plpgsql AS
  $$BEGIN RETURN '02/01/2020'::date = make_date(2020, 1, 2); END$$;
CREATE FUNCTION say(what text) RETURNS text LANGUAGE plpgsql AS
  $$BEGIN RAISE NOTICE 'said %', what; RETURN what; END$$;
CREATE FUNCTION fail(what text) RETURNS text LANGUAGE plpgsql AS
  $$BEGIN RAISE EXCEPTION 'failed %', what; END$$;

GRANT ALL ON SCHEMA public, one, two, three TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA one TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA two TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA three TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC;
