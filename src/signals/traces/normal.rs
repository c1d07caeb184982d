//! What stays the same when the same thing happens twice: names of operations and messages of errors without the
//! numbers, ids, addresses and quotations that differ each time.
//!
//! Everything here ends up on screens and in logs, and anybody who can send a span wrote it. So control characters and
//! marks that turn the direction of text are taken out, and everything has a greatest length.

/// The longest name of an operation, in bytes.
pub const MAX_OPERATION: usize = 120;
/// The longest kind of an error, in bytes.
pub const MAX_KIND: usize = 96;
/// The longest message of an error, in bytes.
pub const MAX_MESSAGE: usize = 160;
/// More of a message than this is not even read.
const MAX_READ: usize = 1024;
/// What stands for whatever differs.
const ANY: char = '?';
/// Runs of hexadecimal digits from this length on are ids, if there is a decimal digit among them.
const MIN_HEX: usize = 6;

/// An operation's name: parts of a path that are ids become `?` (`GET /users/?/orders`).
pub fn operation(name: &str) -> String {
    let mut out = String::new();
    let text = clean(name);
    for (i, part) in text.split('/').enumerate() {
        if i > 0 {
            out.push('/');
        }
        for (j, word) in part.split(' ').enumerate() {
            if j > 0 {
                out.push(' ');
            }
            if is_id(word) { out.push(ANY) } else { out.push_str(word) }
        }
    }
    bounded(out.trim(), MAX_OPERATION)
}

/// An error's kind as it was written, fit to be shown.
pub fn kind(kind: &str) -> String {
    bounded(clean(kind).trim(), MAX_KIND)
}

/// An error's message without what differs from one error to the next. Only its first line is looked at: what follows
/// is a stack.
pub fn message(message: &str) -> String {
    let first = message.trim_start().lines().next().unwrap_or_default();
    let text = without_quotations(&clean(first));
    let words: Vec<String> = text.split_whitespace().map(word).collect();
    bounded(&words.join(" "), MAX_MESSAGE)
}

/// The start of the text, without characters that do something to a screen.
fn clean(text: &str) -> String {
    let read = &text[..floor(text, MAX_READ)];
    read.chars()
        .map(|c| if c.is_control() || turns_text(c) { ' ' } else { c })
        .collect()
}

/// Marks that reorder text or take no room.
const fn turns_text(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

fn bounded(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = floor(text, most - '…'.len_utf8());
    format!("{}…", text[..end].trim_end())
}

/// The largest index up to `most` at which the text may be cut.
fn floor(text: &str, most: usize) -> usize {
    text.floor_char_boundary(most)
}

/// Quotations become `?`. An apostrophe inside of a word is none, nor is a quote that is not closed.
fn without_quotations(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let opens = matches!(c, '"' | '`') || (c == '\'' && !before.is_alphanumeric());
        let close = if opens { after.find(c) } else { None };
        match close {
            Some(end) => {
                out.push(ANY);
                rest = &after[end + c.len_utf8()..];
            }
            None => {
                out.push(c);
                rest = after;
            }
        }
        before = c;
    }
    out
}

/// One word: an id, an address or an e-mail address becomes `?`, digits inside of other words do.
fn word(word: &str) -> String {
    let core = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '[' && c != ']');
    if core.is_empty() || !has_digit(core) && !is_mail(core) {
        return word.to_owned();
    }
    if is_id(core) || is_address(core) || is_mail(core) {
        return word.replacen(core, "?", 1);
    }
    let mut out = String::with_capacity(word.len());
    // `Foo@1f3a9c:12` is a name and two ids.
    let mut part = String::new();
    for c in word.chars() {
        if c.is_alphanumeric() {
            part.push(c);
            continue;
        }
        push_part(&mut out, &part);
        part.clear();
        out.push(c);
    }
    push_part(&mut out, &part);
    out
}

fn push_part(out: &mut String, part: &str) {
    if is_id(part) {
        out.push(ANY);
        return;
    }
    let mut in_digits = false;
    for c in part.chars() {
        if !c.is_ascii_digit() {
            out.push(c);
        } else if !in_digits {
            out.push(ANY);
        }
        in_digits = c.is_ascii_digit();
    }
}

fn has_digit(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_digit())
}

/// A number, a UUID, or a run of hexadecimal digits.
fn is_id(text: &str) -> bool {
    let plain = text.strip_prefix("0x").unwrap_or(text);
    let digits = !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_digit());
    let hex = plain.len() >= MIN_HEX && has_digit(plain) && plain.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    digits || hex
}

/// An IP address with or without a port, a time or a version: digits and what stands between them.
fn is_address(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_hexdigit() || matches!(b, b'.' | b':' | b'-' | b'[' | b']' | b'%'))
}

fn is_mail(text: &str) -> bool {
    text.split_once('@')
        .is_some_and(|(user, host)| !user.is_empty() && host.contains('.') && !host.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lose_what_differs_each_time() {
        let table = [
            (
                "upstream 10.0.0.7:8443 refused after 30ms",
                "upstream ? refused after ?ms",
            ),
            ("connect to [2001:db8::1]:443 failed", "connect to ? failed"),
            ("no row for id 7f3c1b2a-9d4e-4f6a-8b1c-2d3e4f5a6b7c", "no row for id ?"),
            (
                "user 'bob' can't pay \"42 EUR\" with `card`",
                "user ? can't pay ? with ?",
            ),
            (
                "object java.lang.Object@1f3a9c0 is null",
                "object java.lang.Object@? is null",
            ),
            ("GET http://cart/items/991?q=1: 503", "GET http://cart/items/??q=?: ?"),
            ("bob@example.com: mailbox full", "?: mailbox full"),
            ("pointer 0xdeadbeef01 is bad", "pointer ? is bad"),
            ("first line\n  at frame 1\n  at frame 2", "first line"),
            ("deadline exceeded", "deadline exceeded"),
            ("an 'unclosed quote", "an 'unclosed quote"),
            ("", ""),
        ];
        for (written, expected) in table {
            assert_eq!(message(written), expected, "{written}");
        }
    }

    #[test]
    fn operations_lose_ids_and_keep_versions() {
        let table = [
            ("GET /users/123/orders", "GET /users/?/orders"),
            ("GET /v1/users/7f3c1b2a-9d4e-4f6a-8b1c-2d3e4f5a6b7c", "GET /v1/users/?"),
            ("POST /pay", "POST /pay"),
            ("shop.Cart/Add", "shop.Cart/Add"),
            ("  ", ""),
        ];
        for (written, expected) in table {
            assert_eq!(operation(written), expected, "{written}");
        }
    }

    #[test]
    fn nothing_that_does_something_to_a_screen_gets_through_and_nothing_is_long() {
        assert_eq!(message("a\u{1b}[31mred\u{202e}txt"), "a [?mred txt");
        assert_eq!(kind("Bad\r\nType"), "Bad  Type");
        for made in [
            message(&"ä".repeat(10_000)),
            kind(&"ä".repeat(10_000)),
            operation(&"ä/".repeat(10_000)),
        ] {
            assert!(made.len() <= MAX_MESSAGE, "{} bytes", made.len());
            assert!(made.ends_with('…'));
        }
    }
}
