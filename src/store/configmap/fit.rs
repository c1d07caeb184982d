//! What is let go of so that the record fits into a ConfigMap, and in which order.
//!
//! An API server takes 1 MiB, and a record that cannot be written stops a release: so nothing here is refused for its
//! size while a release runs. What is worth least goes first: courses and verdicts of entries of old releases, old releases, verdicts
//! of old entries of this one, its oldest entries. The newest entries stay as they are as long as that is possible at
//! all, because a repeated write is recognised by them.

use std::collections::BTreeSet;

use super::texts::{Key, Texts, encode};
use crate::engine::Entry;
use crate::judge::Course;
use crate::store::{ReleaseRecord, StoreError, codec};

/// Finished releases and revisions, bytes.
pub(super) const PAST_BYTES: usize = 256 << 10;
/// The history of the running release, bytes.
pub(super) const HISTORY_BYTES: usize = 192 << 10;
/// The whole, bytes: leaves room for commands and for what the server keeps beside.
pub(super) const MOST: usize = 768 << 10;
/// A release that has to begin with more than this is refused before anything is touched: it would have no room for what
/// happens.
pub(super) const MOST_AT_BEGIN: usize = 512 << 10;
/// Entries that are left as they are.
const NEWEST: usize = 8;
/// To so many characters a sentence is cut when nothing else is left to cut.
const SENTENCE: usize = 500;

/// Makes the record fit.
pub(super) fn fit(texts: &mut Texts) -> Result<(), StoreError> {
    fit_history(texts, HISTORY_BYTES)?;
    fit_past(texts, PAST_BYTES)?;
    let over = |texts: &Texts| texts.size().saturating_sub(MOST);
    if over(texts) > 0 {
        let past = texts.text(Key::Releases).len() + texts.text(Key::Revisions).len();
        fit_past(texts, past.saturating_sub(over(texts)))?;
    }
    if over(texts) > 0 {
        let history = texts.text(Key::History).len();
        fit_history(texts, history.saturating_sub(over(texts)))?;
    }
    for least in [Key::Course, Key::Judge, Key::Verdict] {
        if over(texts) > 0 && !texts.text(least).is_empty() {
            tracing::warn!(
                rollout = texts.rollout_name(),
                key = least.word(),
                bytes = texts.text(least).len(),
                "the record is too long; this part of it is not kept"
            );
            texts.set(least, String::new());
        }
    }
    Ok(())
}

fn fit_history(texts: &mut Texts, most: usize) -> Result<(), StoreError> {
    if texts.text(Key::History).len() <= most {
        return Ok(());
    }
    let mut lines: Vec<String> = texts.lines(Key::History).map(str::to_owned).collect();
    let mut size: usize = lines.iter().map(|line| line.len() + 1).sum();
    let old = lines.len().saturating_sub(NEWEST);
    shorten(&mut lines[..old], &mut size, most, without_verdict)?;
    let mut gone = 0;
    while size > most && gone < old {
        size -= lines[gone].len() + 1;
        gone += 1;
    }
    let mut lines = lines.split_off(gone);
    shorten(&mut lines, &mut size, most, without_verdict)?;
    shorten(&mut lines, &mut size, most, cut)?;
    while size > most && lines.len() > 1 {
        size -= lines.remove(0).len() + 1;
    }
    texts.set(Key::History, lines.join("\n"));
    Ok(())
}

/// Changes entries from the oldest on, until the whole is small enough.
fn shorten(
    lines: &mut [String],
    size: &mut usize,
    most: usize,
    change: fn(&mut Entry) -> bool,
) -> Result<(), StoreError> {
    for line in lines {
        if *size <= most {
            break;
        }
        // One that cannot be read is for `load` to complain about.
        let Ok(mut entry) = codec::decode::<Entry>(line) else {
            continue;
        };
        if change(&mut entry) {
            *size -= line.len();
            *line = encode(&entry)?;
            *size += line.len();
        }
    }
    Ok(())
}

fn without_verdict(entry: &mut Entry) -> bool {
    entry.verdict.take().is_some()
}

fn cut(entry: &mut Entry) -> bool {
    let end = entry.reason.char_indices().nth(SENTENCE).map(|(at, _)| at);
    if let Some(end) = end {
        entry.reason.truncate(end);
        entry.reason.push('…');
    }
    end.is_some()
}

fn fit_past(texts: &mut Texts, most: usize) -> Result<(), StoreError> {
    let small = |texts: &Texts| texts.text(Key::Releases).len() + texts.text(Key::Revisions).len() <= most;
    let Some(rollout) = texts.get::<super::texts::Rollout>(Key::Rollout)? else {
        return Ok(());
    };
    let current: Option<super::texts::Current> = texts.get(Key::Current)?;
    let over = current.as_ref().is_some_and(|current| current.ended.is_some());
    let kept = (rollout.kept.max(1) as usize).saturating_sub(usize::from(over));
    let named: BTreeSet<String> = current
        .iter()
        .flat_map(|current| [Some(&current.canary), current.stable.as_ref()])
        .flatten()
        .map(|revision| revision.id.clone())
        .chain(rollout.stable)
        .collect();
    let count = texts.lines(Key::Releases).count();
    if small(texts) && count <= kept {
        return Ok(());
    }
    let mut past: Vec<ReleaseRecord> = texts.readable(Key::Releases);
    past.truncate(kept);
    put_past(texts, &past, &named)?;
    for index in (0..past.len()).rev() {
        if small(texts) {
            break;
        }
        past[index].history.iter_mut().for_each(|entry| entry.verdict = None);
        past[index].course = Course::default();
        put_past(texts, &past, &named)?;
    }
    while !small(texts) && past.pop().is_some() {
        put_past(texts, &past, &named)?;
    }
    Ok(())
}

/// Writes the finished releases, with the revisions that they and `named` need.
fn put_past(texts: &mut Texts, past: &[ReleaseRecord], named: &BTreeSet<String>) -> Result<(), StoreError> {
    texts.put_lines(Key::Releases, past)?;
    let mut revisions = texts.revisions();
    revisions.retain(|known| {
        let id = &known.revision.id;
        let names = |record: &ReleaseRecord| {
            record.canary.id == *id || record.stable.as_ref().is_some_and(|stable| stable.id == *id)
        };
        named.contains(id) || past.iter().any(names)
    });
    texts.put_lines(Key::Revisions, &revisions)
}
