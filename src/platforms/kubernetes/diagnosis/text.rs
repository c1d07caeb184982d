//! Other people's words in ours: one line, bounded, and without what must not be read by everybody.

/// The most letters of a text that is passed on.
const MOST: usize = 300;
/// The most letters of a line of a log.
const MOST_LINE: usize = 200;
/// The most lines of a log.
const MOST_LINES: usize = 3;

/// What stands before a secret.
const NAMES: [&str; 11] = [
    "password",
    "passwd",
    "pwd",
    "secret",
    "token",
    "api_key",
    "apikey",
    "api-key",
    "access_key",
    "private_key",
    "authorization",
];
/// Words that say what went wrong, in the usual languages.
const TELLING: [&str; 6] = ["panic:", "fatal", "error", "exception", "caused by", "exec format"];

/// A text on one line, redacted and bounded.
pub(super) fn clip(text: &str) -> String {
    shorten(&redacted(&one_line(text)), MOST)
}

/// The last lines of a log that tell something, on one line; `None` if there are none.
pub(super) fn last_words(log: &str) -> Option<String> {
    let lines: Vec<String> = log.lines().map(one_line).filter(|line| !line.is_empty()).collect();
    let tail = lines.len().saturating_sub(MOST_LINES - 1);
    let tells = |line: &&String| {
        let line = line.to_lowercase();
        TELLING.iter().any(|word| line.contains(word))
    };
    // Below the line that tells what happened there is often only where it happened.
    let telling = lines[..tail].iter().rev().find(tells).or_else(|| lines[..tail].last());
    let chosen: Vec<String> = telling
        .into_iter()
        .chain(&lines[tail..])
        .map(|line| shorten(&redacted(line), MOST_LINE))
        .collect();
    (!chosen.is_empty()).then(|| chosen.join(" | "))
}

fn one_line(text: &str) -> String {
    // Colours are sequences that begin with ESC and end with a letter.
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => drop(letters.find(char::is_ascii_alphabetic)),
            letter if letter.is_control() || letter.is_whitespace() => plain.push(' '),
            letter => plain.push(letter),
        }
    }
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most - 1).collect();
    format!("{}…", kept.trim_end())
}

/// The text without values of passwords and tokens, credentials in addresses, and signed tokens.
pub(super) fn redacted(text: &str) -> String {
    let mut clean = String::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let hidden = after_name(rest)
            .or_else(|| after_scheme(rest))
            .or_else(|| in_address(rest));
        let at_word = clean
            .chars()
            .next_back()
            .is_none_or(|before| !before.is_ascii_alphanumeric());
        if let Some((kept, skipped)) = hidden {
            clean.push_str(&rest[..kept]);
            clean.push('…');
            rest = &rest[kept + skipped..];
        } else if at_word && rest.starts_with("eyJ") && value_length(rest) > 20 {
            clean.push('…');
            rest = &rest[value_length(rest)..];
        } else {
            clean.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    clean
}

/// `password=…`, `"token": "…"`: how much to keep, and how much to leave out.
fn after_name(text: &str) -> Option<(usize, usize)> {
    let starts = |name: &&&str| {
        text.get(..name.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(name))
    };
    let name = NAMES.iter().find(starts)?;
    let after = &text[name.len()..];
    let sign = after.trim_start_matches(['"', '\'', ' ']);
    let value = sign.strip_prefix([':', '='])?;
    let value = value.trim_start_matches(['=', ' ']);
    let (quote, inner) = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => (Some(quote), &value[1..]),
        _ => (None, value),
    };
    let scheme = ["Bearer ", "Basic "].iter().find(|scheme| {
        inner
            .get(..scheme.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(scheme))
    });
    let inner = &inner[scheme.map_or(0, |scheme| scheme.len())..];
    let length = match quote {
        Some(quote) => inner.find(quote).unwrap_or(inner.len()),
        None => value_length(inner),
    };
    (length > 0).then(|| (text.len() - inner.len(), length))
}

/// `Bearer …`.
fn after_scheme(text: &str) -> Option<(usize, usize)> {
    let scheme = "bearer ";
    let head = text.get(..scheme.len())?;
    let length = value_length(&text[scheme.len()..]);
    (head.eq_ignore_ascii_case(scheme) && length > 7).then_some((scheme.len(), length))
}

/// `://user:password@`.
fn in_address(text: &str) -> Option<(usize, usize)> {
    let rest = text.strip_prefix("://")?;
    let host = &rest[..rest.find(['/', ' ', '"']).unwrap_or(rest.len())];
    let at = host.rfind('@')?;
    host[..at].contains(':').then_some((3, at))
}

fn value_length(text: &str) -> usize {
    text.find([' ', ',', ';', '&', '"', '\'', '}', ')'])
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
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
            (
                "Authorization: Bearer abcdefghijkl rest",
                "Authorization: Bearer … rest",
            ),
            ("sent bearer abcdefghijkl", "sent bearer …"),
            (
                "dial postgres://app:hunter2@db:5432/shop failed",
                "dial postgres://…@db:5432/shop failed",
            ),
            ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.x", "got …"),
            ("unexpected token at line 4", "unexpected token at line 4"),
            ("secret \"tls\" not found", "secret \"tls\" not found"),
            ("GET http://app:8080/healthz", "GET http://app:8080/healthz"),
            ("grüße: password=ü", "grüße: password=…"),
        ];
        for (text, wanted) in cases {
            assert_eq!(redacted(text), wanted);
        }
    }

    #[test]
    fn last_words_are_few_plain_and_telling() {
        assert_eq!(last_words("\n \n"), None);
        let go = "starting\npanic: no config\n\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:7 +0x1d\n";
        assert_eq!(
            last_words(go).unwrap(),
            "panic: no config | main.main() | /src/main.go:7 +0x1d"
        );
        assert_eq!(last_words("one\n\u{1b}[31mtwo\u{1b}[0m\n").unwrap(), "one | two");
        let long = last_words(&"x".repeat(5000)).unwrap();
        assert_eq!(long.chars().count(), MOST_LINE);
    }
}
