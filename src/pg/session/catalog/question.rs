//! What the catalog is asked. Works on PostgreSQL 13 to 18, on a standby, for a role without rights.
//!
//! Three messages in one read-only transaction that is rolled back: [`opening`], which pins what the answers depend on
//! (above all `search_path`: then nothing of the database's own can stand for a name or an operator of PostgreSQL's) and
//! takes the pulse; [`reading`], if that has changed; [`CLOSING`]. Literals that have a backslash stand
//! between dollars, because a client may have switched `standard_conforming_strings` off.
//!
//! Temporary objects are left out: they are their own session's, and no harmless one.

use std::fmt::Write as _;

/// The most rows that one statement of the reading answers with; one more means that there are too many.
pub const ROWS: usize = 20_000;
/// The longest body that is sent, in bytes.
pub const BODY: usize = 64 * 1024;

/// How the transaction begins. Each setting holds from the next statement on.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY NOT DEFERRABLE; \
SET LOCAL search_path TO pg_catalog, pg_temp; \
SET LOCAL statement_timeout TO 10000; \
SET LOCAL idle_in_transaction_session_timeout TO 0; \
SET LOCAL max_parallel_workers_per_gather TO 0; \
SET LOCAL jit TO off; \
WITH lasting AS MATERIALIZED (SELECT oid FROM pg_class WHERE relpersistence <> 't') \
SELECT current_setting('server_version_num'), getdatabaseencoding(), concat_ws(' '";

/// All that the reading looks at.
const LOOKED_AT: [&str; 21] = [
    "pg_proc",
    "pg_language",
    "pg_extension",
    "pg_event_trigger",
    "pg_foreign_table",
    "pg_foreign_server",
    "pg_operator",
    "pg_cast",
    "pg_aggregate",
    "pg_amproc",
    "pg_policy",
    "pg_statistic_ext",
    "pg_partitioned_table",
    "pg_type WHERE typtype = 'd'",
    "pg_trigger WHERE tgqual IS NOT NULL",
    "pg_index WHERE indexprs IS NOT NULL AND indrelid IN (SELECT oid FROM lasting)",
    "pg_index WHERE indpred IS NOT NULL AND indrelid IN (SELECT oid FROM lasting)",
    "pg_rewrite WHERE ev_class IN (SELECT oid FROM lasting)",
    "pg_attrdef WHERE adrelid IN (SELECT oid FROM lasting)",
    "pg_constraint WHERE contype = 'c' AND conrelid = 0",
    "pg_constraint WHERE contype = 'c' AND conrelid IN (SELECT oid FROM lasting)",
];

/// What the transaction begins with. Answers with one row: the version (`server_version_num`), the server's encoding,
/// and the *pulse*: counts and sums of `xmin` of all that the reading looks at. Every change but a removal puts a newer
/// transaction's number in an older one's place, so that the sum grows, and a removal lowers the count: what was
/// committed in between is seen, in whatever order the transactions had begun.
pub fn opening() -> String {
    let mut sql = String::from(BEGIN);
    for what in LOOKED_AT {
        // Writing into a String cannot fail.
        let _ = write!(sql, ", (SELECT concat(count(*), ':', sum(xmin::text::bigint)) FROM {what})");
    }
    sql + ", (SELECT oid FROM pg_database WHERE datname = current_database()))"
}

/// How the transaction ends: nothing of it is left.
pub const CLOSING: &str = "ROLLBACK";

/// C functions that touch the session: PostgreSQL's own, and `pg_trgm`'s `set_limit`. By symbol, so that aliases count.
const SYMBOLS: &str = "set_config_by_name,setseed,drandom_setseed,dblink_connect,set_limit,currval_oid,lastval,be_lo_open,\
pg_advisory_lock_int8,pg_advisory_lock_shared_int8,pg_advisory_lock_int4,pg_advisory_lock_shared_int4,\
pg_try_advisory_lock_int8,pg_try_advisory_lock_shared_int8,pg_try_advisory_lock_int4,\
pg_try_advisory_lock_shared_int4,pg_advisory_unlock_int8,pg_advisory_unlock_shared_int8,pg_advisory_unlock_int4,\
pg_advisory_unlock_shared_int4,pg_advisory_unlock_all,query_to_xml,query_to_xmlschema,query_to_xml_and_xmlschema,\
cursor_to_xml,cursor_to_xmlschema,ts_stat1,ts_stat2,tsquery_rewrite_query,pg_prepared_statement,\
pg_create_physical_replication_slot,pg_create_logical_replication_slot,pg_copy_physical_replication_slot_a,\
pg_copy_physical_replication_slot_b,pg_copy_logical_replication_slot_a,pg_copy_logical_replication_slot_b,\
pg_copy_logical_replication_slot_c,pg_replication_origin_session_setup,pg_replication_origin_session_reset,\
pg_replication_origin_xact_setup,pg_replication_origin_xact_reset,pg_start_backup,pg_stop_backup,pg_stop_backup_v2,\
pg_backup_start,pg_backup_stop";

/// The statement that ends the connections that `postgres_fdw` keeps, as one session asks for itself after `DISCARD ALL`;
/// an empty one if there may be some that nothing ends, none where that extension is not.
pub const FAR_NOW: &str = "SELECT coalesce(\
(SELECT pg_catalog.format('SELECT %s', p.oid::pg_catalog.regprocedure) FROM pg_catalog.pg_proc AS p \
WHERE p.proname OPERATOR(pg_catalog.=) 'postgres_fdw_disconnect_all' \
AND p.probin OPERATOR(pg_catalog.=) '$libdir/postgres_fdw' LIMIT 1), \
(SELECT '' FROM pg_catalog.pg_foreign_server AS s \
JOIN pg_catalog.pg_foreign_data_wrapper AS w ON w.oid OPERATOR(pg_catalog.=) s.srvfdw \
JOIN pg_catalog.pg_proc AS h ON h.oid OPERATOR(pg_catalog.=) w.fdwhandler::pg_catalog.oid \
WHERE h.prosrc OPERATOR(pg_catalog.=) 'postgres_fdw_handler' LIMIT 1))";

/// Routines: what each says, in which language, with which settings. Equal bodies come once. Functions of the language
/// `internal` are PostgreSQL's own by another name (aggregates and ranges have some).
const ROUTINES: &str = "
SELECT 'extension', e.extname, '' FROM pg_extension e
 WHERE EXISTS (SELECT 1 FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
  WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
  AND d.deptype = 'e' AND p.prolang IN (SELECT oid FROM pg_language WHERE lanname = 'c'));
SELECT 'compiled', concat(n.nspname, '.', p.proname), l.lanname FROM pg_proc p
 JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE p.oid >= 16384 AND (l.lanname = 'internal' AND p.prosrc = ANY ('{symbols}'::text[])
  OR l.lanname = 'c' AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
   AND d.objid = p.oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'))
 ORDER BY 2 LIMIT {rows};
SELECT 'language', min(concat(n.nspname, '.', p.proname)), l.lanname FROM pg_proc p
 JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE l.lanname NOT IN ('c', 'internal', 'sql', 'plpgsql') GROUP BY l.lanname ORDER BY 2 LIMIT {rows};
SELECT 'setting', min(concat(n.nspname, '.', p.proname)), s.entry FROM pg_proc p
 JOIN pg_namespace n ON n.oid = p.pronamespace, unnest(p.proconfig) s(entry) GROUP BY s.entry ORDER BY 2 LIMIT {rows};
SELECT 'long', concat(n.nspname, '.', p.proname), '' FROM pg_proc p
 JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE l.lanname IN ('sql', 'plpgsql') AND octet_length(p.prosrc) > {body} ORDER BY 2 LIMIT {rows};
SELECT 'body', min(concat(n.nspname, '.', p.proname)), p.prosrc FROM pg_proc p
 JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE l.lanname IN ('sql', 'plpgsql') AND octet_length(p.prosrc) <= {body} GROUP BY p.prosrc LIMIT {rows}";

/// What is noisy by being there.
const OBJECTS: &str = "
SELECT CASE WHEN evtevent = 'login' THEN 'login trigger' ELSE 'event trigger' END, evtname, '' FROM pg_event_trigger
 WHERE evtenabled <> 'D' ORDER BY 2 LIMIT {rows};
SELECT 'foreign table', concat(n.nspname, '.', c.relname), '' FROM pg_foreign_table f
 JOIN pg_class c ON c.oid = f.ftrelid JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 2 LIMIT {rows}";

/// What ends the connections that `postgres_fdw` keeps (PostgreSQL 14), where this role may call it; and whether there is
/// anything that it could keep connections to.
const FAR: &str = "
SELECT 'disconnect', format('%I.%I()', n.nspname, p.proname), '' FROM pg_proc p
 JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE p.prosrc = 'postgres_fdw_disconnect_all' AND l.lanname = 'c' AND p.probin = '$libdir/postgres_fdw'
 AND p.pronargs = 0 AND has_function_privilege(p.oid, 'EXECUTE') AND has_schema_privilege(n.oid, 'USAGE') LIMIT 1;
SELECT 'far server', s.srvname, '' FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
 JOIN pg_proc h ON h.oid = w.fdwhandler WHERE h.prosrc = 'postgres_fdw_handler' LIMIT 1";

/// Built-in functions under another name.
const ALIASES: &str = "
WITH touching AS MATERIALIZED (SELECT oid FROM pg_proc WHERE prosrc = ANY ('{symbols}'::text[])
  AND prolang IN (SELECT oid FROM pg_language WHERE lanname IN ('c', 'internal'))),
 used(kind, name, func) AS (
  SELECT 'operator', concat(n.nspname, '.', o.oprname), f.func::oid FROM pg_operator o
   JOIN pg_namespace n ON n.oid = o.oprnamespace, LATERAL (VALUES (o.oprcode), (o.oprrest), (o.oprjoin)) f(func)
  UNION ALL SELECT 'cast', format('(%s AS %s)', castsource::regtype, casttarget::regtype), castfunc FROM pg_cast
  UNION ALL SELECT 'aggregate', concat(n.nspname, '.', p.proname), f.func::oid FROM pg_aggregate a
   JOIN pg_proc p ON p.oid = a.aggfnoid JOIN pg_namespace n ON n.oid = p.pronamespace, LATERAL (VALUES
    (a.aggtransfn), (a.aggfinalfn), (a.aggcombinefn), (a.aggserialfn), (a.aggdeserialfn), (a.aggmtransfn),
    (a.aggminvtransfn), (a.aggmfinalfn)) f(func)
  UNION ALL SELECT 'operator class of', a.amproclefttype::regtype::text, a.amproc::oid FROM pg_amproc a)
SELECT kind, name, (SELECT proname FROM pg_proc WHERE oid = func) FROM used WHERE func IN (SELECT oid FROM touching) ORDER BY 2 LIMIT {rows}";

/// Stored expressions: parsed trees, in which functions stand by number.
const TREES: &str = "
WITH touching AS MATERIALIZED (SELECT oid FROM pg_proc WHERE prosrc = ANY ('{symbols}'::text[])
  AND prolang IN (SELECT oid FROM pg_language WHERE lanname IN ('c', 'internal'))),
 told AS MATERIALIZED (SELECT oid FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace
  AND relname IN ('pg_settings', 'pg_prepared_statements')),
 pattern AS MATERIALIZED (SELECT concat(
   $$:(?:funcid|opfuncid|aggfnoid|winfnoid) ($$, (SELECT string_agg(oid::text, '|') FROM touching),
   $$)\\M|:relid ($$, (SELECT string_agg(oid::text, '|') FROM told), $$)\\M$$) AS re),
 tree(kind, schema, name, tree) AS (
  SELECT 'default', c.relnamespace, concat(c.relname, '.', a.attname), d.adbin::text FROM pg_attrdef d
   JOIN pg_class c ON c.oid = d.adrelid JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
   WHERE c.relpersistence <> 't'
  UNION ALL SELECT 'constraint', k.connamespace, k.conname, k.conbin::text FROM pg_constraint k
   LEFT JOIN pg_class c ON c.oid = k.conrelid
   WHERE k.conbin IS NOT NULL AND c.relpersistence IS DISTINCT FROM 't'
  UNION ALL SELECT 'domain', typnamespace, typname, typdefaultbin::text FROM pg_type WHERE typdefaultbin IS NOT NULL
  UNION ALL SELECT 'index', c.relnamespace, c.relname, concat(i.indexprs::text, i.indpred::text) FROM pg_index i
   JOIN pg_class c ON c.oid = i.indexrelid
   WHERE (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL) AND c.relpersistence <> 't'
  UNION ALL SELECT CASE r.rulename WHEN '_RETURN' THEN 'view' ELSE 'rule of' END, c.relnamespace, c.relname,
   concat(r.ev_qual::text, r.ev_action::text) FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
   WHERE r.oid >= 16384 AND c.relpersistence <> 't'
  UNION ALL SELECT 'policy of', c.relnamespace, c.relname, concat(p.polqual::text, p.polwithcheck::text)
   FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
  UNION ALL SELECT 'trigger', c.relnamespace, t.tgname, t.tgqual::text FROM pg_trigger t
   JOIN pg_class c ON c.oid = t.tgrelid WHERE t.tgqual IS NOT NULL
  UNION ALL SELECT 'partition key of', c.relnamespace, c.relname, p.partexprs::text FROM pg_partitioned_table p
   JOIN pg_class c ON c.oid = p.partrelid WHERE p.partexprs IS NOT NULL
  UNION ALL SELECT 'function', pronamespace, proname, proargdefaults::text FROM pg_proc
   WHERE oid >= 16384 AND proargdefaults IS NOT NULL{since_14})
SELECT t.kind, concat(n.nspname, '.', t.name), (SELECT string_agg(DISTINCT coalesce((SELECT proname::text FROM pg_proc WHERE oid = m[1]::oid),
   (SELECT relname::text FROM pg_class WHERE oid = m[2]::oid)), ', ') FROM regexp_matches(t.tree, (SELECT re FROM pattern), 'g') m)
 FROM tree t LEFT JOIN pg_namespace n ON n.oid = t.schema
 WHERE t.tree ~ (SELECT re FROM pattern) ORDER BY 2 LIMIT {rows}";

/// What PostgreSQL 14 added to [`TREES`]: bodies of BEGIN ATOMIC, expressions in extended statistics.
const SINCE_14: &str = "
  UNION ALL SELECT 'function', pronamespace, proname, prosqlbody::text FROM pg_proc
   WHERE oid >= 16384 AND prosqlbody IS NOT NULL
  UNION ALL SELECT 'statistics', stxnamespace, stxname, stxexprs::text FROM pg_statistic_ext WHERE stxexprs IS NOT NULL";

/// The reading for a server of this version (`server_version_num`) and encoding: several statements, whose rows have
/// three columns: kind, name, detail. Texts come in the server's own encoding, in which no byte of a longer character
/// looks like one of ASCII.
pub fn reading(version: u32, encoding: &str) -> String {
    // It is put between quotes, and comes from a server that could be anybody's.
    let encoding: String = encoding.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let mut sql = format!("SET LOCAL client_encoding TO '{encoding}';");
    if version >= 170_000 {
        sql.push_str(" SET LOCAL transaction_timeout TO 0;");
    }
    let symbols = ["{", SYMBOLS, "}"].concat();
    for (n, part) in [OBJECTS, FAR, ROUTINES, ALIASES, TREES].into_iter().enumerate() {
        let part = part
            .replace("{since_14}", if version >= 140_000 { SINCE_14 } else { "" })
            .replace("{symbols}", &symbols)
            .replace("{body}", &BODY.to_string())
            .replace("{rows}", &(ROWS + 1).to_string());
        // Writing into a String cannot fail.
        let _ = write!(sql, "{}{part}", if n == 0 { "" } else { ";" });
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_asked_what_it_knows() {
        let sql = |version| reading(version, "UTF8");
        assert!(!sql(130_023).contains("prosqlbody") && sql(140_000).contains("prosqlbody"));
        assert!(!sql(169_999).contains("transaction_timeout") && sql(170_000).contains("transaction_timeout"));
        for version in [130_000, 180_000] {
            let sql = sql(version);
            assert!(!sql.contains("{rows}") && !sql.contains("{symbols}") && !sql.contains("{since"), "{sql}");
        }
    }

    #[test]
    fn an_encoding_cannot_break_out() {
        assert!(reading(150_000, "UTF8'; DROP x --").starts_with("SET LOCAL client_encoding TO 'UTF8DROPx';"));
    }
}
