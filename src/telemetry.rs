//! Logging: one line an event on stderr, for people on a terminal and as JSON elsewhere.
//!
//! Names, texts and errors in a log may come from a client, so no control character of theirs reaches it:
//! a client cannot forge a line, move a cursor or hide what follows (bidirectional overrides count, too).

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One readable line an event, with colours on a terminal unless NO_COLOR is set.
    Human,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level is no filter, such as `info` or `warn,poolkeeper=debug`.
    #[error("log level {filter:?}: {source}")]
    Filter {
        /// What was asked for.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before.
    #[error("logging is set up already")]
    Twice,
}

/// Sets up logging for the process. `level` is a level, or directives (`warn,poolkeeper=debug`); without it RUST_LOG
/// holds, then `info`.
///
/// # Errors
/// When the filter cannot be read, or logging is set up already.
pub fn init(format: LogFormat, level: Option<&str>) -> Result<(), Error> {
    let filter = filter(level.map(str::to_owned).or_else(|| std::env::var("RUST_LOG").ok()))?;
    let terminal = io::stderr().is_terminal();
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    let set = if human(format, terminal) {
        builder.with_ansi(colours).with_writer(io::stderr).event_format(Human).try_init()
    } else {
        builder.json().flatten_event(true).with_writer(JsonStderr).try_init()
    };
    set.map_err(|_| Error::Twice)
}

fn human(format: LogFormat, terminal: bool) -> bool {
    match format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    }
}

/// A bare level is Poolkeeper's own; its libraries speak from `warn` on unless directives name them.
fn filter(text: Option<String>) -> Result<EnvFilter, Error> {
    let text = text.filter(|text| !text.trim().is_empty()).unwrap_or_else(|| "info".to_owned());
    let filter = match text.trim().parse::<Level>() {
        Ok(level) if level > Level::WARN => format!("warn,poolkeeper={level}"),
        _ => text,
    };
    EnvFilter::try_new(&filter).map_err(|source| Error::Filter { filter, source })
}

/// Whether a character must not reach a log as it is: control characters (C0, DEL, C1), line and paragraph
/// separators, and the marks that turn the direction of text.
fn unsafe_in_log(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Writes text with every unsafe character escaped as Rust does it: `\n`, `\u{1b}`.
struct Escaping<W>(W);

impl<W: fmt::Write> fmt::Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| unsafe_in_log(*c)) {
            self.0.write_str(&rest[..at])?;
            match c {
                '\n' | '\r' | '\t' => write!(self.0, "{}", c.escape_default())?,
                _ => write!(self.0, "{}", c.escape_unicode())?,
            }
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// Text that is safe in a log or on a terminal: control characters are escaped.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Writing into a String cannot fail.
    let _ = Escaping(&mut out).write_str(text);
    out
}

/// An error with all that caused it, as far as its own words do not say it: libraries leave that to whoever shows them.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

/// `2026-11-03T10:00:00Z  INFO what happened database=orders size=5`
struct Human;

impl<S, N> FormatEvent<S, N> for Human
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let colours = writer.has_ansi_escapes();
        let (level, colour) = match *event.metadata().level() {
            Level::ERROR => ("ERROR", "31"),
            Level::WARN => (" WARN", "33"),
            Level::INFO => (" INFO", "32"),
            Level::DEBUG => ("DEBUG", "34"),
            Level::TRACE => ("TRACE", "35"),
        };
        SystemTime.format_time(&mut writer)?;
        if colours {
            write!(writer, " \x1b[{colour}m{level}\x1b[0m ")?;
        } else {
            write!(writer, " {level} ")?;
        }
        let mut fields = Fields { message: String::new(), rest: String::new() };
        event.record(&mut fields);
        write!(writer, "{}", fields.message)?;
        match (fields.rest.is_empty(), colours) {
            (true, _) => {}
            (false, true) => write!(writer, "\x1b[2m{}\x1b[0m", fields.rest)?,
            (false, false) => writer.write_str(&fields.rest)?,
        }
        // Poolkeeper's own modules are named by what they say; a library's are not.
        if !event.metadata().target().starts_with("poolkeeper") {
            write!(writer, " ({})", event.metadata().target())?;
        }
        writeln!(writer)
    }
}

/// Collects an event's fields, escaped.
struct Fields {
    message: String,
    /// ` name=value` of each other field.
    rest: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a String cannot fail, but a Debug of somebody else may: then what it wrote stands.
        let _ = match field.name() {
            "message" => write!(Escaping(&mut self.message), "{value:?}"),
            name => write!(Escaping(&mut self.rest), " {name}={value:?}"),
        };
    }
}

/// JSON lines to stderr. JSON itself escapes C0 only; the rest of the unsafe characters are escaped here, which is
/// right anywhere in a JSON text, since outside of strings it has none of them.
struct JsonStderr;

impl<'a> MakeWriter<'a> for JsonStderr {
    type Writer = JsonEscaping<io::Stderr>;
    fn make_writer(&'a self) -> Self::Writer {
        JsonEscaping(io::stderr())
    }
}

/// Escapes unsafe characters in whole JSON lines.
struct JsonEscaping<W>(W);

impl<W: Write> Write for JsonEscaping<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // The formatter writes each event as one whole line of UTF-8.
        let text = String::from_utf8_lossy(line);
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            if c != '\n' && unsafe_in_log(c) {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            } else {
                out.push(c);
            }
        }
        self.0.write_all(out.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn an_error_says_what_caused_it_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot connect")]
        struct Outer(#[source] std::io::Error);
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(super::causes(&Outer(refused())), "cannot connect: connection refused");
        let twice = std::io::Error::other(Outer(refused()));
        assert_eq!(super::causes(&twice), "cannot connect: connection refused");
    }

    const NASTY: &str = "a\n2026 INFO forged\x1b[2J\u{9b}31m\x7f\u{202e}\r\0z";

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log_nasty() {
        tracing::warn!(text = NASTY, shown = %NASTY, debug = ?NASTY, count = 7, "client said {NASTY}");
    }

    fn assert_one_clean_line(log: &str) {
        let line = log.strip_suffix('\n').unwrap();
        assert!(!line.chars().any(unsafe_in_log), "{line:?}");
        assert!(line.contains("forged"));
        assert!(line.contains("count"));
    }

    #[test]
    fn no_control_character_reaches_a_human_log() {
        let sink = Sink::default();
        let to = sink.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone()).event_format(Human).finish();
        tracing::subscriber::with_default(subscriber, log_nasty);
        assert_one_clean_line(&String::from_utf8(sink.0.lock().unwrap().clone()).unwrap());
    }

    #[test]
    fn no_control_character_reaches_a_json_log() {
        let sink = Sink::default();
        let to = sink.clone();
        let subscriber =
            tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || JsonEscaping(to.clone())).finish();
        tracing::subscriber::with_default(subscriber, log_nasty);
        let log = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_one_clean_line(&log);
        let object: serde_json::Value = serde_json::from_str(&log).unwrap();
        assert_eq!(object["text"], NASTY, "nothing is lost");
        assert_eq!(object["message"], format!("client said {NASTY}"));
    }

    #[test]
    fn a_human_line_reads_well() {
        let sink = Sink::default();
        let to = sink.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(true).with_writer(move || to.clone()).event_format(Human).finish();
        tracing::subscriber::with_default(subscriber, || tracing::info!(database = "orders", "applied"));
        let log = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(log.contains(" \x1b[32m INFO\x1b[0m applied\x1b[2m database=orders\x1b[0m"), "{log:?}");
    }

    #[test]
    fn formats_and_filters() {
        assert!(human(LogFormat::Auto, true) && !human(LogFormat::Auto, false));
        assert!(human(LogFormat::Human, false) && !human(LogFormat::Json, true));
        assert_eq!(filter(None).unwrap().to_string(), "poolkeeper=info,warn");
        assert_eq!(filter(Some("DEBUG".into())).unwrap().to_string(), "poolkeeper=debug,warn");
        assert_eq!(filter(Some("error".into())).unwrap().to_string(), "error");
        assert_eq!(filter(Some("warn,poolkeeper=debug".into())).unwrap().to_string(), "poolkeeper=debug,warn");
        let error = filter(Some("poolkeeper=loud".into())).unwrap_err().to_string();
        assert!(error.contains("poolkeeper=loud"), "{error}");
    }

    #[test]
    fn escaping_leaves_ordinary_text_alone() {
        assert_eq!(escape("Grüße, 世界 \\ \"x\""), "Grüße, 世界 \\ \"x\"");
        assert_eq!(escape("a\tb\x1b"), "a\\tb\\u{1b}");
    }
}
