//! Where instances write: `<data>/output/<service>/<revision>/<slot>.log`.
//!
//! The process holds the file itself (opened for appending), so its output survives the daemon. That is why rotation
//! copies and truncates instead of renaming: the process keeps writing to the same file. What it writes between the
//! end of the copy and the truncation is lost, typically well under a millisecond of output. Between two looks
//! (`rotate_every`) a file may grow past its limit; of such a file the newest `max_bytes` are kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::ledger::SlotKey;
use super::spec::OutputRule;
use crate::redact::redact;

/// Lines shown of an instance's last output.
pub(super) const SHOWN_LINES: usize = 10;

/// Bytes read for them: a program that writes longer lines shows fewer.
const SHOWN_BYTES: u64 = 4096;

/// Characters shown of one line.
const SHOWN_CHARS: usize = 300;

/// The directories of output below the data directory.
#[derive(Clone, Debug)]
pub(super) struct Outputs {
    root: PathBuf,
}

impl Outputs {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            root: data_dir.join("output"),
        }
    }

    pub(super) fn path(&self, key: &SlotKey) -> PathBuf {
        self.root
            .join(&key.service)
            .join(&key.revision)
            .join(format!("{}.log", key.slot))
    }

    /// Opens the slot's file for the next process, which finds it `len` bytes long.
    pub(super) fn open(&self, key: &SlotKey) -> io::Result<(File, u64)> {
        let path = self.path(key);
        fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        let file = private().append(true).open(path)?;
        let len = file.metadata()?.len();
        Ok((file, len))
    }

    /// The last lines that were written after `from`, made safe to print.
    pub(super) fn last_lines(&self, key: &SlotKey, from: u64) -> Vec<String> {
        tail(&self.path(key), from).unwrap_or_default()
    }

    /// Rotates the slot's file if it has outgrown the rule. True if it did.
    pub(super) fn rotate(&self, key: &SlotKey, rule: &OutputRule) -> io::Result<bool> {
        let path = self.path(key);
        let len = fs::metadata(&path)?.len();
        if len <= rule.max_bytes {
            return Ok(false);
        }
        if rule.files > 0 {
            for number in (1..rule.files).rev() {
                rename_if_there(&numbered(&path, number), &numbered(&path, number + 1))?;
            }
            let mut source = File::open(&path)?;
            source.seek(SeekFrom::Start(len.saturating_sub(rule.max_bytes)))?;
            let mut copy = private().write(true).truncate(true).open(numbered(&path, 1))?;
            // What is appended while copying comes along, up to the limit again.
            io::copy(&mut source.take(rule.max_bytes), &mut copy)?;
        }
        OpenOptions::new().write(true).open(&path)?.set_len(0)?;
        Ok(true)
    }

    /// Deletes the output of the service's removed revisions, except of the `kept` last written.
    pub(super) fn prune(&self, service: &str, is_live: impl Fn(&str) -> bool, kept: usize) -> io::Result<()> {
        let mut removed: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(self.root.join(service))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.file_name().to_str().is_some_and(|name| !is_live(name)) {
                removed.push((last_write(&entry.path()), entry.path()));
            }
        }
        removed.sort();
        let surplus = removed.len().saturating_sub(kept);
        removed
            .drain(..surplus)
            .try_for_each(|(_, path)| fs::remove_dir_all(path))
    }
}

/// Output may hold personal data: for the daemon's user only. A service of another user is given the open file.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    path.with_extension(format!("log.{number}"))
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn last_write(directory: &Path) -> SystemTime {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let times = files.filter_map(|file| file.metadata().ok()?.modified().ok());
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn tail(path: &Path, from: u64) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    // Shorter than where this launch began: it was truncated since, so all of it is newer.
    let from = if from > len { 0 } else { from };
    let start = from.max(len.saturating_sub(SHOWN_BYTES));
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(SHOWN_BYTES).read_to_end(&mut bytes)?;
    // Before it is cut into lines: a private key has many.
    let text = redact(&String::from_utf8_lossy(&bytes));
    let lines: Vec<&str> = text.lines().collect();
    // A window that starts in mid-line shows half a line, unless that is all there is.
    let cut = usize::from(start > from && lines.len() > 1);
    let shown = lines[cut..].len().min(SHOWN_LINES);
    Ok(lines[lines.len() - shown..]
        .iter()
        .map(|line| printable(line))
        .collect())
}

/// Output goes to terminals, web pages and sentences of the record: no control characters.
fn printable(line: &str) -> String {
    let safe = line
        .trim_end()
        .chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c });
    safe.take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn key(revision: &str) -> SlotKey {
        SlotKey {
            service: "web".into(),
            revision: revision.into(),
            slot: 0,
        }
    }

    #[test]
    fn rotation_keeps_the_newest_bytes_and_a_bounded_number_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = Outputs::new(dir.path());
        let rule = OutputRule { max_bytes: 4, files: 2 };
        let (mut writer, _) = outputs.open(&key("a")).unwrap();
        let mut rotate = |text: &str| {
            writer.write_all(text.as_bytes()).unwrap();
            outputs.rotate(&key("a"), &rule).unwrap()
        };
        assert_eq!(
            [
                rotate("aa"),
                rotate("bbbb"),
                rotate("cccccc"),
                rotate("dddddd"),
                rotate("e")
            ],
            [false, true, true, true, false]
        );
        let path = outputs.path(&key("a"));
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(
            [read(&path), read(&numbered(&path, 1)), read(&numbered(&path, 2))],
            ["e", "dddd", "cccc"]
        );
        assert!(!numbered(&path, 3).exists());
    }

    #[test]
    fn last_lines_are_of_this_launch_only_and_safe_to_print() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = Outputs::new(dir.path());
        let (mut file, _) = outputs.open(&key("a")).unwrap();
        file.write_all(b"old\n").unwrap();
        let (mut file, from) = outputs.open(&key("a")).unwrap();
        file.write_all(b"new \x1b[31mred\xff\n").unwrap();
        assert_eq!(outputs.last_lines(&key("a"), from), ["new \u{fffd}[31mred\u{fffd}"]);
        for line in 0..1000 {
            writeln!(file, "line {line}").unwrap();
        }
        let expected: Vec<_> = (990..1000).map(|line| format!("line {line}")).collect();
        assert_eq!(outputs.last_lines(&key("a"), from), expected);
        assert_eq!(outputs.last_lines(&key("missing"), 0), Vec::<String>::new());
    }

    #[test]
    fn output_of_removed_revisions_is_pruned_oldest_first_and_live_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = Outputs::new(dir.path());
        for (age, revision) in [(40, "live"), (30, "a"), (20, "b"), (10, "c")] {
            let (file, _) = outputs.open(&key(revision)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 - age))
                .unwrap();
        }
        outputs.prune("web", |revision| revision == "live", 2).unwrap();
        let left = ["live", "a", "b", "c"].map(|revision| outputs.path(&key(revision)).exists());
        assert_eq!(left, [true, false, true, true]);
    }
}
