//! Tags that tell of a change of the catalog.

/// Whether a CommandComplete tag is one of statements that may have defined something: the catalog has to be read again.
///
/// `CALL` is none: in a quiet database no procedure defines what could make it noisy, and in a noisy one it does not
/// matter.
pub fn defines(tag: &[u8]) -> bool {
    let word = memchr::memchr(b' ', tag).map_or(tag, |end| &tag[..end]);
    match word {
        b"SELECT" | b"INSERT" | b"UPDATE" | b"DELETE" | b"MERGE" | b"FETCH" | b"MOVE" | b"COPY" => false,
        b"DISCARD" | b"DEALLOCATE" | b"CLOSE" | b"SAVEPOINT" | b"RELEASE" | b"SHOW" | b"CALL" => false,
        b"SET" | b"RESET" | b"LISTEN" | b"UNLISTEN" | b"NOTIFY" | b"EXPLAIN" | b"ANALYZE" | b"VACUUM" => false,
        b"CHECKPOINT" | b"LOCK" | b"TRUNCATE" | b"BEGIN" => false,
        _ => !matches!(
            tag,
            // COMMIT PREPARED is another: what it commits was defined by who knows whom.
            b"COMMIT"
                | b"ROLLBACK"
                | b"START TRANSACTION"
                | b"PREPARE"
                | b"PREPARE TRANSACTION"
                | b"ROLLBACK PREPARED"
                | b"DECLARE CURSOR"
        ),
    }
}

/// Whether a CommandComplete tag is one of statements that bring code into the database or take it away, or a way to
/// other servers: what a scrub undoes has to be found out anew. (Tables count from the next reading on: they are often
/// temporary.)
pub fn brings_code(tag: &[u8]) -> bool {
    let verb = memchr::memchr(b' ', tag).map_or(0, |at| at + 1);
    let what = match &tag[..verb] {
        b"CREATE " | b"ALTER " | b"DROP " => &tag[verb..],
        _ => &[],
    };
    matches!(
        what,
        b"FUNCTION"
            | b"PROCEDURE"
            | b"ROUTINE"
            | b"VIEW"
            | b"MATERIALIZED VIEW"
            | b"SCHEMA"
            | b"AGGREGATE"
            | b"OPERATOR"
            | b"CAST"
            | b"RULE"
            | b"POLICY"
            | b"DOMAIN"
            | b"EVENT TRIGGER"
            | b"EXTENSION"
            | b"SERVER"
            | b"FOREIGN TABLE"
    ) || tag == b"DO"
        || tag == b"IMPORT FOREIGN SCHEMA"
        || tag == b"COMMIT PREPARED"
}
