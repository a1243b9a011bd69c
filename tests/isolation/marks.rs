//! How a session's values are marked.

/// The tag of a client's session.
pub fn tag(number: usize, turn: usize) -> String {
    format!("t{number:03}s{turn:05}e")
}

/// Tags in bytes that are not this session's; in capitals they stand in names of time zones.
pub fn foreign_tags(bytes: &[u8], own: &str) -> Vec<String> {
    let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    let is_tag = |w: &[u8]| {
        matches!((w[0], w[4], w[10]), (b't', b's', b'e') | (b'T', b'S', b'E')) && digits(&w[1..4]) && digits(&w[5..10])
    };
    let found = bytes.windows(own.len()).filter(|w| is_tag(w) && !w.eq_ignore_ascii_case(own.as_bytes()));
    found.map(|w| String::from_utf8_lossy(w).to_ascii_lowercase()).collect()
}
