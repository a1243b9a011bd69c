//! Whether a text may have a listed word at all: nearly none has, and the path of a query should not pay for the search.
//!
//! Three letters of each word are looked for at once, a bit for each word: three look-ups in tables, two `and` and an `or`
//! a byte, none of which waits for the byte before.

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

/// For each of the three places and each byte the pieces that it fits there; both cases of a letter.
const FITS: [[u32; 256]; 3] = {
    let mut fits = [[0_u32; 256]; 3];
    let mut at = 0;
    while at < PIECES.len() * 3 {
        let (piece, place) = (at / 3, at % 3);
        let letter = PIECES[piece][place];
        fits[place][letter as usize] |= 1 << piece;
        fits[place][letter.to_ascii_uppercase() as usize] |= 1 << piece;
        at += 1;
    }
    fits
};

/// False only if no listed word is in the text, and no statement after the first.
pub fn may_have_words(text: &[u8]) -> bool {
    has_pieces(text) || has_second_statement(text)
}

fn has_pieces(text: &[u8]) -> bool {
    let fit = |place: usize, byte: u8| FITS[place][usize::from(byte)];
    let fits = |at: &[u8]| fit(0, at[0]) & fit(1, at[1]) & fit(2, at[2]);
    let (mut rest, mut found) = (text, 0);
    // Eight places at a time: each byte is read once for the three that it may be of.
    while let Some(block) = rest.first_chunk::<10>() {
        found |= (0..8).fold(0, |found, at| found | fits(&block[at..at + 3]));
        rest = &rest[8..];
    }
    rest.windows(3).fold(found, |found, at| found | fits(at)) != 0
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
