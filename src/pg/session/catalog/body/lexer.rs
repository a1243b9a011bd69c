//! Tokens of SQL and PL/pgSQL, as PostgreSQL's `scan.l` finds them with standard_conforming_strings on.

/// One token; white space and comments are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// A word without quotes: keyword or name. Numbers too.
    Word(&'a [u8]),
    /// What stands between double quotes.
    Quoted(&'a [u8]),
    /// A string of whatever kind, without its quotes.
    Text(&'a [u8]),
    /// A name with Unicode escapes, which can be any.
    Unicode,
    /// Any other byte.
    Other(u8),
}

/// The tokens of a text.
#[derive(Debug)]
pub struct Lexer<'a> {
    rest: &'a [u8],
}

impl<'a> Lexer<'a> {
    /// From the beginning.
    pub fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }

    /// Takes `n` bytes.
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(n.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn skip_blank(&mut self) {
        loop {
            let blank = self.rest.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == 0x0b).count();
            self.take(blank);
            match self.rest {
                [b'-', b'-', ..] => {
                    // As in PostgreSQL's scanner, either ends it.
                    let end = memchr::memchr2(b'\n', b'\r', self.rest).unwrap_or(self.rest.len());
                    self.take(end);
                }
                [b'/', b'*', ..] => self.skip_comment(),
                _ => return,
            }
        }
    }

    /// Comments may hold others.
    fn skip_comment(&mut self) {
        let mut depth = 0_usize;
        while !self.rest.is_empty() {
            match self.rest {
                [b'/', b'*', ..] => {
                    self.take(2);
                    depth += 1;
                }
                [b'*', b'/', ..] => {
                    self.take(2);
                    depth -= 1;
                    if depth == 0 {
                        return;
                    }
                }
                _ => {
                    self.take(1);
                }
            }
        }
    }

    /// What stands before the next `quote`, which is taken too; a doubled one is part of it. `escapes`: so is one after
    /// a backslash.
    fn quoted(&mut self, quote: u8, escapes: bool) -> &'a [u8] {
        let whole = self.rest;
        let mut at = 0;
        while let Some(&byte) = whole.get(at) {
            if byte == quote {
                if whole.get(at + 1) != Some(&quote) {
                    break;
                }
                at += 1;
            } else if escapes && byte == b'\\' {
                at += 1;
            }
            at += 1;
        }
        self.take(at + 1);
        &whole[..at.min(whole.len())]
    }

    /// A string between two `$tag$`, if one begins here.
    fn dollar(&mut self) -> Option<&'a [u8]> {
        let tag = self.rest[1..].iter().position(|byte| !is_word(*byte) || *byte == b'$')?;
        let delimiter = &self.rest[..tag + 2];
        if !delimiter.ends_with(b"$") || delimiter[1].is_ascii_digit() {
            return None;
        }
        self.take(delimiter.len());
        let text = self.rest;
        let end = memchr::memmem::find(text, delimiter).unwrap_or(text.len());
        self.take(end + delimiter.len());
        Some(&text[..end])
    }

    fn word(&mut self) -> Token<'a> {
        let end = self.rest.iter().position(|byte| !is_word(*byte)).unwrap_or(self.rest.len());
        let (word, after) = self.rest.split_at(end);
        let letter = match word {
            [letter] => letter.to_ascii_lowercase(),
            _ => 0,
        };
        match (letter, after) {
            (b'u', [b'&', b'"', ..]) => {
                self.take(end + 2);
                self.quoted(b'"', false);
                Token::Unicode
            }
            (b'u', [b'&', b'\'', ..]) => {
                self.take(end + 2);
                Token::Text(self.quoted(b'\'', false))
            }
            (b'e', [b'\'', ..]) => {
                self.take(end + 1);
                Token::Text(self.quoted(b'\'', true))
            }
            // B'', N'' and X'' are a letter and a string.
            _ => Token::Word(self.take(end)),
        }
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blank();
        let byte = *self.rest.first()?;
        Some(match byte {
            b'\'' => {
                self.take(1);
                Token::Text(self.quoted(b'\'', false))
            }
            b'"' => {
                self.take(1);
                Token::Quoted(self.quoted(b'"', false))
            }
            b'$' => match self.dollar() {
                Some(text) => Token::Text(text),
                None => Token::Other(self.take(1)[0]),
            },
            byte if is_word(byte) => self.word(),
            byte => {
                self.take(1);
                Token::Other(byte)
            }
        })
    }
}

/// Whether a byte can be part of a name.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}
