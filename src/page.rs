//! The frame of the pages for people, of the sidecar and of the operator: one document, no external assets, light and
//! dark, moved by a small script and whole without it.
//!
//! Markup is escaped by the template engine (maud); whatever comes from outside goes through [`plain`] as well, which takes
//! control characters and changes of direction out. Styles and script are allowed by their hashes and nothing else is.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::http::header::{CONTENT_SECURITY_POLICY, ContentType, REFERRER_POLICY};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Seconds between two looks of a browser without script.
const REFRESH: u32 = 5;

/// What a browser may do with a page.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
    format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// How good a thing is. Colour never says it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// To be looked at.
    Warn,
    /// Broken.
    Bad,
    /// Neither.
    Plain,
}

impl Tone {
    /// The class of the style sheet.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Plain => "",
        }
    }
}

/// The answer with a whole page: `top` is its head line, `main` what follows; both are kept up to date.
pub fn respond(title: &str, top: &Markup, main: &Markup) -> HttpResponse {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                link rel="icon" href="data:,";
                title { (plain(title)) }
                style { (PreEscaped(STYLE)) }
                noscript { meta http-equiv="refresh" content=(REFRESH); }
            }
            body {
                div class="lost" role="status" {}
                header class="top" { (top) }
                main { (main) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    HttpResponse::Ok()
        .content_type(ContentType::html())
        .insert_header((CONTENT_SECURITY_POLICY, POLICY.as_str()))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .body(page.into_string())
}

/// Text from outside without control characters: still to be escaped as markup, which the template does.
pub fn plain(text: &str) -> String {
    crate::telemetry::escape(text)
}

/// A word in a coloured field.
pub fn pill(tone: Tone, text: &str) -> Markup {
    html! { span class={ "pill " (tone.class()) } { (plain(text)) } }
}

/// One entry of a list of facts: its name and its value.
pub fn fact(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// A time for people: `350 µs`, `12 ms`, `3.2 s`, `4 min`, `5 h`, `12 d`.
pub fn span(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 0.001 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s if s < 90.0 => (s, "s"),
        s if s < 5_400.0 => (s / 60.0, "min"),
        s if s < 172_800.0 => (s / 3_600.0, "h"),
        s => (s / 86_400.0, "d"),
    };
    let digits = usize::from(value < 10.0 && value.fract() >= 0.05);
    format!("{value:.digits$} {unit}")
}

/// A count with a thin space between thousands.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use actix_web::body::MessageBody;

    use super::*;

    #[test]
    fn a_page_allows_its_own_style_and_script_alone_and_escapes() {
        let nasty = "</script><img src=x onerror=alert(1)>\u{202e}\u{1b}[2J&\"'";
        let text = html! { p title=(plain(nasty)) { (plain(nasty)) } };
        let response = respond(nasty, &text, &html! { (pill(Tone::Bad, nasty)) });
        let header = |name: &str| response.headers().get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        let body = response.into_body().try_into_bytes().unwrap();
        let body = std::str::from_utf8(&body).unwrap();
        assert!(!body.contains("<img") && !body.contains('\u{202e}') && !body.contains('\u{1b}'), "{body}");
        assert_eq!(body.matches("&lt;img src=x").count(), 4, "title, attribute, text, pill");
        assert_eq!(body.matches("</script>").count(), 1);
        assert!(!body.contains("style=") && !body.contains("http://") && !body.contains("https://"), "no assets");
    }

    #[test]
    fn the_hashes_are_of_what_is_sent() {
        assert!(!STYLE.contains("</style") && !SCRIPT.contains("</script") && !SCRIPT.contains("<!--"));
        assert!(!STYLE.contains('\r') && !SCRIPT.contains('\r'), "a browser would hash other bytes");
    }

    #[test]
    fn numbers_read_well() {
        let spans = [0.000_35, 0.0125, 1.0, 3.24, 59.6, 240.0, 7_200.0, 1_036_800.0].map(span);
        assert_eq!(spans, ["350 µs", "12 ms", "1 s", "3.2 s", "60 s", "4 min", "2 h", "12 d"]);
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
    }
}
