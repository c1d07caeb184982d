//! Text of others without what opens doors: passwords, tokens, keys, credentials in addresses.
//!
//! What a container writes before it dies, what a server answers, what an error quotes: all of it gets into sentences
//! that Wade records, shows, writes into Events and sends to people. So it passes through [`redact`] first, as close as
//! possible to where it was read.
//!
//! It looks for forms, not for the secrets themselves, which it does not know: a name that announces one (`password=`,
//! `Authorization:`, `--token …`), the usual shapes (JSON web tokens, AWS, GitHub, GitLab and Slack keys, private keys in
//! PEM) and user information in addresses. **It cannot find** a password that stands alone in a sentence, nor one that is
//! split over two texts. Better too much hidden than too little: `user@` in an address goes as well.

/// What stands for what was left out.
const HIDDEN: char = '…';

/// What stands before a secret.
const NAMES: [&str; 17] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "client_secret",
    "secret",
    "token",
    "api_key",
    "apikey",
    "api-key",
    "access_key",
    "private_key",
    "credential",
    "signature",
    "authorization",
    "set-cookie",
    "cookie",
];
/// Names whose value is the rest of the line, unless a known scheme says where it ends.
const LINES: [&str; 3] = ["authorization", "set-cookie", "cookie"];
/// Schemes of `Authorization` with one word after them.
const SCHEMES: [&str; 3] = ["bearer ", "basic ", "token "];
/// How keys of well-known makers begin, and how many letters follow at least.
const KEYS: [(&str, usize); 14] = [
    ("AKIA", 16),
    ("ASIA", 16),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghs_", 20),
    ("ghu_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("xapp-", 10),
    ("sk_live_", 10),
    ("sk-", 20),
    ("eyJ", 18),
];
/// How a private key begins and ends in PEM.
const PEM: (&str, &str) = ("-----BEGIN ", "-----END ");

/// The text without the values of passwords and tokens, credentials in addresses, keys and signed tokens; `…` stands in
/// their place. Doing it twice changes nothing more.
pub fn redact(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let at_word = clean
            .chars()
            .next_back()
            .is_none_or(|before| !before.is_ascii_alphanumeric());
        let hidden = after_name(rest, in_flag(&clean))
            .or_else(|| after_scheme(rest).filter(|_| at_word))
            .or_else(|| in_address(rest))
            .or_else(|| private_key(rest))
            .or_else(|| key(rest).filter(|_| at_word));
        if let Some((kept, skipped)) = hidden {
            clean.push_str(&rest[..kept]);
            clean.push(HIDDEN);
            rest = &rest[kept + skipped..];
        } else {
            clean.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    clean
}

/// Whether what comes belongs to a flag of a command line, `--db-`.
fn in_flag(clean: &str) -> bool {
    let word = clean.rsplit(char::is_whitespace).next().unwrap_or_default();
    word.starts_with("--")
}

fn begins(text: &str, word: &str) -> bool {
    text.get(..word.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(word))
}

/// `password=…`, `"token": "…"`, `--secret …`: how much to keep, and how much to leave out.
fn after_name(text: &str, in_flag: bool) -> Option<(usize, usize)> {
    let name = NAMES.iter().find(|name| begins(text, name))?;
    let after = &text[name.len()..];
    let sign = after.trim_start_matches(['"', '\'', ' ', '\\']);
    let value = match sign.strip_prefix([':', '=']) {
        Some(value) => value.trim_start_matches(['=', ' ', '\t', '>']),
        None if in_flag => after.strip_prefix(' ')?,
        None => return None,
    };
    // A quote inside of a quoted text has a backslash before it, and so has the one at its end.
    let bare = value.trim_start_matches('\\');
    let nested = bare.len() < value.len();
    let (quote, inner) = match bare.chars().next() {
        Some(quote @ ('"' | '\'')) => (Some(quote), &bare[1..]),
        _ => (None, value),
    };
    let scheme = SCHEMES.iter().find(|scheme| begins(inner, scheme));
    let inner = &inner[scheme.map_or(0, |scheme| scheme.len())..];
    let length = match quote {
        Some(_) if nested => inner.find('\\').unwrap_or(inner.len()),
        Some(quote) => quoted_length(inner, quote),
        None if scheme.is_none() && LINES.contains(name) => inner.find(['\n', '\r']).unwrap_or(inner.len()),
        None => value_length(inner),
    };
    (length > 0 && !is_hidden(&inner[..length])).then(|| (text.len() - inner.len(), length))
}

/// `Bearer …`.
fn after_scheme(text: &str) -> Option<(usize, usize)> {
    let scheme = SCHEMES[..2].iter().find(|scheme| begins(text, scheme))?;
    let value = &text[scheme.len()..];
    let length = value_length(value);
    // "Basic authentication" is no secret.
    let telling = |value: &str| value.contains(|letter: char| !letter.is_ascii_lowercase());
    (length > 7 && (*scheme == SCHEMES[0] || telling(&value[..length]))).then_some((scheme.len(), length))
}

/// `://user:password@`.
fn in_address(text: &str) -> Option<(usize, usize)> {
    let rest = text.strip_prefix("://")?;
    let end = |letter: char| matches!(letter, '/' | '"' | '?' | '#') || letter.is_whitespace();
    let host = &rest[..rest.find(end).unwrap_or(rest.len())];
    let at = host.rfind('@')?;
    (at > 0 && !is_hidden(&host[..at])).then_some((3, at))
}

/// A private key in PEM, to its end or, where it was cut off, to the text's.
fn private_key(text: &str) -> Option<(usize, usize)> {
    let head = text.strip_prefix(PEM.0)?;
    let line = head.find("-----")?;
    if !head[..line].contains("PRIVATE KEY") {
        return None;
    }
    let kept = PEM.0.len() + line + "-----".len();
    let inner = &text[kept..];
    let length = inner.find(PEM.1).unwrap_or(inner.len());
    (length > 0 && !is_hidden(&inner[..length])).then_some((kept, length))
}

/// A key whose maker can be told by how it begins, and tokens that are signed JSON.
fn key(text: &str) -> Option<(usize, usize)> {
    let (prefix, least) = KEYS.iter().find(|(prefix, _)| text.starts_with(prefix))?;
    let part = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.' | '=' | '+' | '/');
    let length = text.find(|letter| !part(letter)).unwrap_or(text.len());
    (length >= prefix.len() + least).then(|| (0, value_length(text)))
}

fn is_hidden(text: &str) -> bool {
    text.chars().eq([HIDDEN])
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            letter if letter == quote => return at,
            _ => {}
        }
    }
    text.len()
}

fn value_length(text: &str) -> usize {
    let end = |letter: char| matches!(letter, ',' | ';' | '&' | '"' | '\'' | '}' | ')') || letter.is_whitespace();
    text.find(end).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_do_not_get_into_sentences() {
        let cases = [
            (
                "login failed, password=hunter2 for app",
                "login failed, password=… for app",
            ),
            ("DB_PASSWORD: hunter2", "DB_PASSWORD: …"),
            (r#"{"token":"abc def","user":"x"}"#, r#"{"token":"…","user":"x"}"#),
            (r#"{"token":"a\"b c","user":"x"}"#, r#"{"token":"…","user":"x"}"#),
            (r#"body "{\"password\":\"hunter2\"}""#, r#"body "{\"password\":\"…\"}""#),
            (
                "Authorization: Bearer abcdefghijkl rest",
                "Authorization: Bearer … rest",
            ),
            ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic …"),
            (
                "authorization: Digest username=\"a\", response=x\nnext",
                "authorization: …\nnext",
            ),
            ("Cookie: id=1; session=abc\nnext", "Cookie: …\nnext"),
            ("sent bearer abcdefghijkl", "sent bearer …"),
            ("use basic authentication", "use basic authentication"),
            (
                "dial postgres://app:hunter2@db:5432/shop failed",
                "dial postgres://…@db:5432/shop failed",
            ),
            ("clone https://abcdef@host/x", "clone https://…@host/x"),
            ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.x", "got …"),
            ("key AKIAIOSFODNN7EXAMPLE used", "key … used"),
            ("run --db-password hunter2 --port 1", "run --db-password … --port 1"),
            ("GET /x?a=1&token=abc&b=2", "GET /x?a=1&token=…&b=2"),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nxyz\n-----END RSA PRIVATE KEY----- after",
                "-----BEGIN RSA PRIVATE KEY-----…-----END RSA PRIVATE KEY----- after",
            ),
            ("unexpected token at line 4", "unexpected token at line 4"),
            ("secret \"tls\" not found", "secret \"tls\" not found"),
            ("GET http://app:8080/healthz", "GET http://app:8080/healthz"),
            ("password incorrect for app", "password incorrect for app"),
            ("grüße: password=ü", "grüße: password=…"),
        ];
        for (text, wanted) in cases {
            assert_eq!(redact(text), wanted);
        }
    }

    /// The ways in which a secret is written down; `{}` is where it stands.
    const FORMS: [&str; 16] = [
        "password={}",
        "PASSWORD: {}",
        "pwd='{}'",
        r#""secret": "{}""#,
        r#"\"token\": \"{}\""#,
        "Authorization: Bearer {}",
        "authorization: {}",
        "Cookie: session={}",
        "--api-key={}",
        "--token {}",
        "?access_key={}&x=1",
        "https://user:{}@host/path",
        "amqp://{}@host",
        "bearer {}",
        "eyJhbGciOiJIUzI1NiJ9.{}",
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    ];

    proptest! {
        #[test]
        fn no_form_lets_a_secret_through_whatever_stands_around_it(
            form in 0..FORMS.len(),
            secret in "[A-Za-z0-9+_.!$*-]{12,40}",
            before in "[^\"'\\\\a-zA-Z-]{0,12}",
            after in "\\PC{0,20}",
        ) {
            let text = format!("{before} {} {after}", FORMS[form].replace("{}", &secret));
            let clean = redact(&text);
            prop_assert!(!clean.contains(&secret), "{text:?} became {clean:?}");
        }

        #[test]
        fn doing_it_twice_changes_nothing_more(text in "\\PC{0,60}", form in 0..FORMS.len(), secret in "[a-z0-9]{8,20}") {
            let text = format!("{text} {}", FORMS[form].replace("{}", &secret));
            let once = redact(&text);
            let twice = redact(&once);
            prop_assert_eq!(twice, once);
        }

        #[test]
        fn plain_words_stay_as_they_are(text in "[a-z ]{0,80}") {
            prop_assume!(!text.contains("bearer"));
            prop_assert_eq!(redact(&text), text);
        }
    }
}
