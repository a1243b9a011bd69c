-- Added to quiet.sql, it makes a database noisy: session state is set by everything that can run a function without a
-- word in the text of the query. Each way leads to `app.tag`, and each kind of state has a function of its own.
CREATE FUNCTION brand(v text) RETURNS text LANGUAGE plpgsql AS
  $$BEGIN RETURN set_config('app.tag', v, false); END$$;
CREATE FUNCTION brand_sql(v text) RETURNS text LANGUAGE sql AS $$SELECT set_config('app.tag', v, false)$$;
CREATE FUNCTION brand_atomic(v text) RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT set_config('app.tag', v, false); END;
CREATE FUNCTION brand_definer(v text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS
  $$BEGIN RETURN set_config('app.tag', v, false); END$$;
CREATE FUNCTION brand_dynamic(v text) RETURNS text LANGUAGE plpgsql AS
  $$BEGIN EXECUTE format('SET app.tag = %L', v); RETURN v; END$$;
-- A lie, as indexes, constraints and generated columns need it.
CREATE FUNCTION brand_still(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
  $$BEGIN RETURN set_config('app.tag', v, false); END$$;
CREATE FUNCTION brand_both(a text, b text) RETURNS text LANGUAGE sql AS $$SELECT set_config('app.tag', b, false)$$;
CREATE PROCEDURE brand_called(v text) LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('app.tag', v, false); END$$;

CREATE OPERATOR <=# (FUNCTION = brand_both, LEFTARG = text, RIGHTARG = text);

CREATE TYPE label AS (v text);
CREATE FUNCTION label_text(v label) RETURNS text LANGUAGE plpgsql AS
  $$BEGIN RETURN set_config('app.tag', v.v, false); END$$;
CREATE CAST (label AS text) WITH FUNCTION label_text(label);

CREATE DOMAIN branded AS text CHECK (brand_still(VALUE) IS NOT NULL);

CREATE AGGREGATE brand_all (text) (SFUNC = brand_both, STYPE = text, INITCOND = '');

CREATE TABLE checked (tag text CHECK (brand_still(tag) IS NOT NULL));
CREATE TABLE indexed (tag text);
CREATE INDEX ON indexed (brand_still(tag));
CREATE TABLE generated (tag text, same text GENERATED ALWAYS AS (brand_still(tag)) STORED);
CREATE TABLE defaulted (n int, tag text DEFAULT brand(current_setting('application_name')));

CREATE FUNCTION brand_new() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN PERFORM set_config('app.tag', NEW.tag, false); RETURN NEW; END$$;
CREATE FUNCTION brand_old() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN PERFORM set_config('app.tag', OLD.tag, false); RETURN OLD; END$$;
CREATE TABLE triggered (tag text);
CREATE TRIGGER brand BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION brand_new();
CREATE TABLE parted (tag text) PARTITION BY HASH (tag);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TRIGGER brand AFTER INSERT ON parted_0 FOR EACH ROW EXECUTE FUNCTION brand_new();
CREATE TRIGGER brand AFTER INSERT ON parted_1 FOR EACH ROW EXECUTE FUNCTION brand_new();
CREATE TABLE parents (tag text PRIMARY KEY);
CREATE TABLE children (tag text PRIMARY KEY REFERENCES parents ON DELETE CASCADE);
CREATE TRIGGER brand AFTER DELETE ON children FOR EACH ROW EXECUTE FUNCTION brand_old();
CREATE RULE also AS ON INSERT TO parents WHERE NEW.tag LIKE 'rule %' DO INSTEAD SELECT brand(NEW.tag);

CREATE VIEW seen AS SELECT tag, brand(tag) AS branded FROM orders;

CREATE TABLE guarded (tag text);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
CREATE POLICY guards ON guarded FOR INSERT WITH CHECK (brand(tag) IS NOT NULL);

CREATE FUNCTION brand_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
  DECLARE made record;
  BEGIN
    FOR made IN SELECT object_identity FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE 'public.event\_%' LOOP
      PERFORM set_config('app.tag', replace(made.object_identity, 'public.event_', ''), false);
    END LOOP;
  END$$;
CREATE EVENT TRIGGER brand ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION brand_ddl();

-- Other kinds of state.
CREATE FUNCTION tune(v int) RETURNS text LANGUAGE sql AS $$SELECT set_config('work_mem', v::text, false)$$;
CREATE FUNCTION dwell(v text) RETURNS text LANGUAGE plpgsql AS
  $$BEGIN EXECUTE format('SET TIME ZONE %L', v); RETURN v; END$$;
CREATE FUNCTION become(v text) RETURNS text LANGUAGE plpgsql AS
  $$BEGIN EXECUTE format('SET ROLE %I', v); RETURN v; END$$;
CREATE FUNCTION stash(v text) RETURNS text LANGUAGE plpgsql AS $$
  BEGIN
    EXECUTE format('CREATE TEMP TABLE scratch AS SELECT %L::text AS tag', v);
    EXECUTE 'GRANT ALL ON pg_temp.scratch TO PUBLIC';
    RETURN v;
  END$$;
CREATE FUNCTION stash_path(v text) RETURNS text LANGUAGE plpgsql SET search_path = pg_temp AS $$
  BEGIN
    EXECUTE format('CREATE TABLE scratch AS SELECT %L::text AS tag', v);
    EXECUTE 'GRANT ALL ON scratch TO PUBLIC';
    RETURN v;
  END$$;
CREATE FUNCTION seize(a int, b int) RETURNS boolean LANGUAGE sql AS $$SELECT pg_try_advisory_lock(a, b)$$;
CREATE FUNCTION hear(v text) RETURNS text LANGUAGE plpgsql AS $$BEGIN EXECUTE format('LISTEN %I', v); RETURN v; END$$;
CREATE FUNCTION keep(n text, v text) RETURNS text LANGUAGE plpgsql AS
  $$BEGIN EXECUTE format('PREPARE %I AS SELECT %L::text', n, v); RETURN v; END$$;
CREATE FUNCTION hold(n text, v text) RETURNS text LANGUAGE plpgsql AS
  $$BEGIN EXECUTE format('DECLARE %I CURSOR WITH HOLD FOR SELECT %L::text', n, v); RETURN v; END$$;
CREATE FUNCTION sow(v double precision) RETURNS void LANGUAGE sql AS $$SELECT setseed(v)$$;

GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
