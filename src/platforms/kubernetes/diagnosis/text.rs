//! Other people's words in ours: one line, bounded, and without what must not be read by everybody.

use crate::redact::redact;

/// The most letters of a text that is passed on.
const MOST: usize = 300;
/// The most letters of a line of a log.
const MOST_LINE: usize = 200;
/// The most lines of a log.
const MOST_LINES: usize = 3;

/// Words that say what went wrong, in the usual languages.
const TELLING: [&str; 6] = ["panic:", "fatal", "error", "exception", "caused by", "exec format"];

/// A text on one line, redacted and bounded.
pub(super) fn clip(text: &str) -> String {
    shorten(&redact(&one_line(text)), MOST)
}

/// The last lines of a log that tell something, on one line; `None` if there are none.
pub(super) fn last_words(log: &str) -> Option<String> {
    // Before it is cut into lines: a private key has many.
    let log = redact(log);
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
        .map(|line| shorten(&redact(line), MOST_LINE))
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

#[cfg(test)]
mod tests {
    use super::*;

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
