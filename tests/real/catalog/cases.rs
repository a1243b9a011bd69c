//! What is created in an empty database, and what the verdict is then.

/// One rule, or a near miss.
pub struct Case {
    /// The first version of PostgreSQL that has it.
    pub since: u32,
    /// What is there before, and quiet.
    pub before: &'static str,
    /// What is created.
    pub sql: &'static str,
    /// The name that makes the database noisy by it; none if it stays quiet.
    pub noisy: Option<&'static str>,
}

const fn noisy(before: &'static str, sql: &'static str, name: &'static str) -> Case {
    Case { since: 13, before, sql, noisy: Some(name) }
}

const fn quiet(sql: &'static str) -> Case {
    Case { since: 13, before: "", sql, noisy: None }
}

const fn since(since: u32, case: Case) -> Case {
    Case { since, ..case }
}

const TABLE: &str = "CREATE SEQUENCE s; CREATE TABLE t (id bigint DEFAULT nextval('s'), a text, x double precision)";

pub const CASES: &[Case] = &[
    // Bodies.
    noisy(
        "",
        "CREATE FUNCTION f(text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.tenant', $1, false) $$",
        "function public.f: set_config",
    ),
    noisy(
        "",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET app.tenant = 'x'; END $$",
        "function public.f: SET",
    ),
    noisy(
        "",
        "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'S' || 'ET a.b = 1'; END $$",
        "function public.p: EXECUTE",
    ),
    noisy(
        "",
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'CREATE TEMP TABLE x (a int)'",
        "function public.f: TEMP",
    ),
    noisy(
        "",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN UPDATE pg_settings SET setting = 'x'; END $$",
        "function public.f: pg_settings",
    ),
    noisy("", "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'LISTEN x'", "function public.f: listen"),
    noisy(
        "",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DO E'\\x42EGIN END'; END $$",
        "function public.f: DO",
    ),
    noisy(
        "",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT U&\"\\0073et_config\"('a.b', 'c', false) $$",
        "function public.f: U&\"",
    ),
    noisy(
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1; SELECT pg_advisory_lock(1); SELECT 1'",
        "function public.f: advisory_lock",
    ),
    noisy(
        "",
        "CREATE FUNCTION f(a text DEFAULT set_config('a.b', 'c', false)) RETURNS text LANGUAGE sql AS 'SELECT a'",
        "function public.f: set_config",
    ),
    since(
        14,
        noisy(
            "",
            "CREATE FUNCTION f() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT set_config('a.b', 'c', false); END",
            "function public.f: set_config",
        ),
    ),
    since(
        14,
        noisy(
            "",
            "CREATE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC UPDATE pg_settings SET setting = 'c' WHERE name = 'a.b'; END",
            "function public.p: pg_settings",
        ),
    ),
    since(
        14,
        quiet(
            "CREATE TABLE t (a int); CREATE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC UPDATE t SET a = 1; SELECT pg_advisory_xact_lock(1); END",
        ),
    ),
    quiet(
        "CREATE TABLE t (a int, temp int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN -- set it
        NEW.a := 1; UPDATE t SET temp = 1; PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
        CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.a > 1) EXECUTE FUNCTION f()",
    ),
    // Settings of functions.
    noisy(
        "",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = public, pg_temp AS 'SELECT 1'",
        "function public.f: SET search_path=public, pg_temp",
    ),
    noisy(
        "",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET app.x = 'y' AS 'SELECT 1'",
        "function public.f: SET app.x=y",
    ),
    noisy(
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER FUNCTION f() SET timezone = 'UTC'",
        "function public.f: SET TimeZone=UTC",
    ),
    quiet(
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET work_mem = '8MB' AS 'SELECT 1'",
    ),
    // Languages and compiled code.
    noisy(
        "",
        "CREATE FUNCTION f(text, text, boolean) RETURNS text LANGUAGE internal AS 'set_config_by_name'",
        "function public.f: language internal",
    ),
    noisy(
        "",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE c AS '$libdir/lo', 'lo_manage'",
        "function public.f: language c",
    ),
    noisy(
        "CREATE LANGUAGE other HANDLER plpgsql_call_handler",
        "CREATE FUNCTION f() RETURNS int LANGUAGE other AS 'BEGIN RETURN 1; END'",
        "function public.f: language other",
    ),
    noisy("", "CREATE EXTENSION dblink", "extension dblink: C functions that are not known"),
    noisy("", "CREATE EXTENSION tablefunc", "extension tablefunc: C functions that are not known"),
    noisy("", "CREATE EXTENSION isn", "extension isn: C functions that are not known"),
    // Triggers on events, foreign tables.
    noisy(
        "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()",
        "event trigger e",
    ),
    since(
        17,
        noisy(
            "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
            "CREATE EVENT TRIGGER e ON login EXECUTE FUNCTION f()",
            "login trigger e",
        ),
    ),
    quiet(
        "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f(); ALTER EVENT TRIGGER e DISABLE",
    ),
    noisy(
        "CREATE EXTENSION file_fdw; CREATE SERVER x FOREIGN DATA WRAPPER file_fdw",
        "CREATE FOREIGN TABLE far (a text) SERVER x OPTIONS (filename '/dev/null')",
        "foreign table public.far",
    ),
    // Stored expressions.
    noisy(TABLE, "ALTER TABLE t ALTER a SET DEFAULT set_config('a.b', 'c', false)", "default public.t.a: set_config"),
    noisy(TABLE, "ALTER TABLE t ALTER id SET DEFAULT currval('s')", "default public.t.id: currval"),
    noisy(
        TABLE,
        "ALTER TABLE t ADD CONSTRAINT c CHECK (set_config('a.b', a, false) <> '')",
        "constraint public.c: set_config",
    ),
    noisy(
        "",
        "CREATE DOMAIN d AS text CHECK (set_config('a.b', VALUE, false) <> '')",
        "constraint public.d_check: set_config",
    ),
    noisy("", "CREATE DOMAIN d AS text DEFAULT set_config('a.b', 'c', false)", "domain public.d: set_config"),
    noisy(TABLE, "CREATE VIEW v AS SELECT set_config('a.b', a, false) FROM t", "view public.v: set_config"),
    noisy(
        "",
        "CREATE MATERIALIZED VIEW v AS SELECT pg_try_advisory_lock(1) WITH NO DATA",
        "view public.v: pg_try_advisory_lock",
    ),
    noisy("", "CREATE VIEW v AS SELECT name, setting FROM pg_settings", "view public.v: pg_settings"),
    noisy(TABLE, "CREATE RULE r AS ON INSERT TO t DO ALSO SELECT setseed(0.5)", "rule of public.t: setseed"),
    noisy(TABLE, "CREATE POLICY p ON t USING (set_config('a.b', a, false) <> '')", "policy of public.t: set_config"),
    noisy(
        TABLE,
        "CREATE POLICY p ON t WITH CHECK (pg_try_advisory_lock(id))",
        "policy of public.t: pg_try_advisory_lock",
    ),
    noisy(
        "CREATE TABLE t (a text); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW WHEN (set_config('a.b', NEW.a, false) <> '') EXECUTE FUNCTION f()",
        "trigger public.g: set_config",
    ),
    since(
        14,
        noisy(
            TABLE,
            "CREATE STATISTICS st ON id, (lower(set_config('a.b', a, false))) FROM t",
            "statistics public.st: set_config",
        ),
    ),
    // Only the immutable may stand in an index, a generated column or a partition key: by a function, whose body is read.
    noisy(
        TABLE,
        "CREATE FUNCTION f(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT set_config($$a.b$$, $1, false)'; CREATE INDEX i ON t (f(a))",
        "function public.f: set_config",
    ),
    quiet(
        "CREATE TABLE t (a text, b text GENERATED ALWAYS AS (lower(a)) STORED, c int GENERATED BY DEFAULT AS IDENTITY CHECK (c > 1)); CREATE INDEX i ON t (lower(a)) WHERE b > ''; CREATE TABLE p (a text) PARTITION BY HASH (lower(a))",
    ),
    quiet(
        "CREATE TABLE t (a text); ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (a = current_setting('app.tenant', true) AND a = CURRENT_USER)",
    ),
    quiet(
        "CREATE VIEW v AS SELECT 1 AS a, 'set_config(currval)'::text AS b; CREATE RULE r AS ON INSERT TO v DO INSTEAD NOTIFY x",
    ),
    // PostgreSQL's own functions by another way.
    noisy("", "CREATE OPERATOR !! (rightarg = double precision, procedure = setseed)", "operator public.!!: setseed"),
    noisy(
        "",
        "CREATE CAST (bigint AS boolean) WITH FUNCTION pg_try_advisory_lock(bigint)",
        "cast (bigint AS boolean): pg_try_advisory_lock",
    ),
    noisy(
        "",
        "CREATE AGGREGATE g(text, boolean) (sfunc = set_config, stype = text, initcond = 'a.b')",
        "aggregate public.g: set_config",
    ),
    quiet(
        "CREATE OPERATOR === (leftarg = text, rightarg = text, procedure = texteq); CREATE AGGREGATE g(int) (sfunc = int4pl, stype = int); CREATE TYPE m AS ENUM ('a'); CREATE TYPE r AS RANGE (subtype = text); CREATE DOMAIN d AS text DEFAULT 'x' CHECK (VALUE <> 'set_config')",
    ),
    noisy("CREATE EXTENSION pg_trgm", "CREATE VIEW v AS SELECT set_limit(0.5)", "view public.v: set_limit"),
    // Somebody's temporary objects are nobody else's.
    quiet(
        "CREATE TEMP TABLE x (a bigint DEFAULT lastval() CHECK (a <> lastval())); CREATE TEMP VIEW y AS SELECT lastval()",
    ),
    quiet(PGBENCH),
    quiet(DJANGO),
];

/// As `pgbench --initialize --foreign-keys` makes them.
const PGBENCH: &str = "
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
CREATE TABLE pgbench_tellers (tid int NOT NULL PRIMARY KEY, bid int, tbalance int, filler char(84)) WITH (fillfactor=100);
CREATE TABLE pgbench_accounts (aid int NOT NULL PRIMARY KEY, bid int, abalance int, filler char(84)) WITH (fillfactor=100);
CREATE TABLE pgbench_branches (bid int NOT NULL PRIMARY KEY, bbalance int, filler char(88)) WITH (fillfactor=100);
ALTER TABLE pgbench_tellers ADD FOREIGN KEY (bid) REFERENCES pgbench_branches;
ALTER TABLE pgbench_history ADD FOREIGN KEY (aid) REFERENCES pgbench_accounts ON DELETE SET NULL;
TRUNCATE TABLE pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers; ANALYZE pgbench_accounts";

/// As Django's migrations make them, with what projects add: citext, trigram and partial indexes, search vectors, checks.
const DJANGO: &str = "
CREATE EXTENSION citext; CREATE EXTENSION pg_trgm; CREATE EXTENSION hstore; CREATE EXTENSION btree_gist;
CREATE TABLE django_migrations (id bigint NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, app varchar(255) NOT NULL, applied timestamptz NOT NULL);
CREATE TABLE django_session (session_key varchar(40) NOT NULL PRIMARY KEY, session_data text NOT NULL, expire_date timestamptz NOT NULL);
CREATE TABLE auth_user (id serial PRIMARY KEY, email citext NOT NULL UNIQUE, is_staff boolean NOT NULL, date_joined timestamptz DEFAULT now() NOT NULL);
CREATE TABLE shop_order (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id int NOT NULL REFERENCES auth_user DEFERRABLE INITIALLY DEFERRED,
 quantity int NOT NULL CONSTRAINT shop_order_quantity_check CHECK (quantity >= 0), attributes hstore, data jsonb DEFAULT '{}' NOT NULL,
 title text, search tsvector GENERATED ALWAYS AS (to_tsvector('english', coalesce(title, ''))) STORED, during tstzrange,
 EXCLUDE USING gist (user_id WITH =, during WITH &&));
CREATE INDEX django_session_key_like ON django_session (session_key varchar_pattern_ops);
CREATE INDEX shop_order_open ON shop_order (user_id) WHERE (quantity > 0 AND NOT (data ? 'closed'));
CREATE INDEX shop_order_title ON shop_order USING gin (upper(title) gin_trgm_ops);
CREATE INDEX shop_order_search ON shop_order USING gin (search);
CREATE FUNCTION shop_touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Set what the application leaves out.
    IF NEW.title IS NULL THEN
        NEW.title := 'none';
    ELSE
        UPDATE auth_user
           SET date_joined = now()
         WHERE id = NEW.user_id AND 'reset' <> NEW.title;
    END IF;
    INSERT INTO django_session VALUES ('k', 'v', now()) ON CONFLICT (session_key) DO UPDATE SET session_data = excluded.session_data;
    PERFORM pg_notify('orders', NEW.id::text);
    RETURN NEW;
END $$;
CREATE TRIGGER shop_touch BEFORE INSERT OR UPDATE OF title ON shop_order FOR EACH ROW WHEN (NEW.quantity > 0) EXECUTE FUNCTION shop_touch();
CREATE CONSTRAINT TRIGGER shop_late AFTER INSERT ON shop_order DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION shop_touch();
CREATE VIEW shop_open AS SELECT o.id, u.email, row_number() OVER (PARTITION BY user_id ORDER BY o.id) AS n, count(*) FILTER (WHERE quantity > 1) OVER () AS c
 FROM shop_order o JOIN auth_user u ON u.id = o.user_id WHERE o.search @@ plainto_tsquery('english', 'x');
CREATE MATERIALIZED VIEW shop_daily AS SELECT date_trunc('day', date_joined) AS day, sum(id) FROM auth_user GROUP BY 1";

/// 2 000 functions, 500 tables with defaults, checks and indexes, 300 views.
pub const LARGE: &str = "
DO $do$ BEGIN
 FOR n IN 1..500 LOOP
  EXECUTE format('CREATE TABLE t%s (id serial PRIMARY KEY, a text DEFAULT lower(%L) CHECK (a <> %L), b int, c timestamptz DEFAULT now())', n, n, n);
  EXECUTE format('CREATE INDEX ON t%s (lower(a)) WHERE b > %s', n, n);
 END LOOP;
 FOR n IN 1..300 LOOP
  EXECUTE format('CREATE VIEW v%s AS SELECT x.id, x.a, y.b, row_number() OVER (ORDER BY x.c) AS r FROM t%s x JOIN t%s y USING (id) WHERE y.b > %s', n, n, n + 1, n);
 END LOOP;
 FOR n IN 1..2000 LOOP
  EXECUTE format('CREATE FUNCTION f%s(i int) RETURNS int LANGUAGE plpgsql AS %L', n,
   'DECLARE total int := 0; BEGIN ' || repeat(format('UPDATE t%s SET b = b + i WHERE id = i AND a <> ''x''; total := total + %s; ', n % 500 + 1, n), 15) || ' RETURN total; END');
 END LOOP;
END $do$";
