//! Whether a text may have a listed word at all: nearly none has, and the path of a query should not pay for the search.
//!
//! Shift-and over one machine word (Baeza-Yates and Gonnet, 1992): three letters of each word are looked for at once, with
//! a shift, an `and` and an `or` a byte.

/// Three letters of each listed word; every occurrence of the word has them.
const PIECES: [&[u8; 3]; 21] = [
    b"_co",  // set_config
    b"ngs",  // pg_settings
    b"tem",  // temp, temporary, pg_temp
    b"vis",  // advisory
    b"rrv",  // currval
    b"stv",  // lastval
    b"tse",  // setseed
    b"dbl",  // dblink
    b"o_x",  // query_to_xml, cursor_to_xml
    b"ts_",  // ts_stat, ts_rewrite
    b"u&\"", // Unicode identifiers
    b"hol",  // hold
    b"sst",  // crosstab
    b"t_l",  // set_limit
    b"ctb",  // connectby
    b"h_t",  // xpath_table
    b"cku",  // backup
    b"pli",  // replication
    b"d_s",  // pg_prepared_statement
    b"xec",  // execute
    b"t_s",  // current_setting
];

/// For each byte the places of the pieces where it fits; both cases of a letter.
const FITS: [u64; 256] = {
    let mut fits = [0_u64; 256];
    let mut at = 0;
    while at < PIECES.len() * 3 {
        let letter = PIECES[at / 3][at % 3];
        fits[letter as usize] |= 1 << at;
        fits[letter.to_ascii_uppercase() as usize] |= 1 << at;
        at += 1;
    }
    fits
};
const STARTS: u64 = every_third(0);
const ENDS: u64 = every_third(2);

const fn every_third(first: usize) -> u64 {
    let mut bits = 0;
    let mut at = first;
    while at < PIECES.len() * 3 {
        bits |= 1 << at;
        at += 3;
    }
    bits
}

/// False only if no listed word is in the text, and no statement after the first.
pub fn may_have_words(text: &[u8]) -> bool {
    let mut state = 0_u64;
    let mut found = 0;
    for byte in text {
        state = ((state << 1) | STARTS) & FITS[usize::from(*byte)];
        found |= state;
    }
    found & ENDS != 0 || has_second_statement(text)
}

/// A semicolon that is not the last thing of the text.
fn has_second_statement(text: &[u8]) -> bool {
    memchr::memchr(b';', text).is_some_and(|at| text[at + 1..].iter().any(|byte| !byte.is_ascii_whitespace()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::session::scan::WORDS;

    #[test]
    fn every_listed_word_is_noticed_in_either_case_and_anywhere() {
        for word in WORDS.iter().filter(|word| **word != ";") {
            for text in [word.to_string(), word.to_uppercase(), format!("select 1, {word} from t"), format!("xx{word}")]
            {
                assert!(may_have_words(text.as_bytes()), "{text}");
            }
        }
    }

    #[test]
    fn ordinary_texts_are_not_searched_and_further_statements_are() {
        assert!(!may_have_words(b"SELECT abalance FROM pgbench_accounts WHERE aid = 12345;"));
        assert!(!may_have_words(b"update t set a = $1 where b = $2"));
        assert!(may_have_words(b"select 1; select 2"));
        assert!(!may_have_words(b""));
    }
}
