//! What an update makes of the record, and what a new release does: texts in, texts out.
//!
//! Everything that follows from an entry (who is stable, which revision is quarantined) changes with it, as in the
//! store on SQLite, so that one patch carries all of it or nothing.

use jiff::Timestamp;

use super::fit::{self, fit};
use super::texts::{Commands, Current, Key, KnownRevision, Rollout, Texts, encode};
use crate::engine::{Entry, Event, Outcome, Phase, State};
use crate::store::shared::{CreateError, MAX_QUARANTINED, NewRelease, Quarantine};
use crate::store::{ReleaseKey, ReleaseRecord, Revision, StoreError, Update, codec};

/// The record after `update`; `None` if it says so already (a repetition, or a late arrival of something older).
pub(super) fn apply(texts: &Texts, key: &ReleaseKey, update: &Update) -> Result<Option<Texts>, StoreError> {
    if texts.number(Key::Number)? != key.number {
        return Err(StoreError::Unknown(key.clone()));
    }
    let before: State = texts
        .get(Key::State)?
        .ok_or_else(|| texts.damaged(Key::State, "it is missing"))?;
    let last = texts.number(Key::Next)?.saturating_sub(1);
    let new = new_entries(texts, last, &update.entries)?;
    let end = last + new.len() as u64;
    if update.state.next_entry != end + 1 {
        if update.state.next_entry <= end && new.is_empty() {
            return Ok(None);
        }
        let why = format!(
            "its history ends with entry {end} and its state expects entry {} next",
            update.state.next_entry
        );
        return Err(texts.damaged(Key::Next, &why));
    }
    let mut after = texts.clone();
    after.put_readable(Key::State, &update.state)?;
    if let Some(verdict) = &update.verdict {
        after.put(Key::Verdict, verdict)?;
    }
    if let Some(course) = &update.course {
        after.put(Key::Course, course)?;
    }
    if let Some(judge) = update.judge.as_ref().filter(|_| update.state.outcome().is_none()) {
        after.put(Key::Judge, judge)?;
    }
    append(&mut after, new)?;
    for entry in new.iter().filter(|entry| entry.event == Event::Adopted) {
        let current: Current = current(&after)?;
        serve(&mut after, &current.canary, entry.at)?;
    }
    if let (Some(outcome), None) = (update.state.outcome(), before.outcome()) {
        let at = new.last().map_or(update.state.since, |entry| entry.at);
        end_release(&mut after, outcome, &before, at)?;
    }
    fit(&mut after)?;
    Ok((after != *texts).then_some(after))
}

/// Those that are not recorded yet; the others must be the recorded ones.
fn new_entries<'a>(texts: &Texts, last: u64, entries: &'a [Entry]) -> Result<&'a [Entry], StoreError> {
    let mut known = 0;
    for (index, entry) in entries.iter().enumerate() {
        if entry.number <= last {
            same(texts, last, entry)?;
            known = index + 1;
        } else if entry.number != last + 1 + (index - known) as u64 {
            let why = format!("entry {} does not follow; those between are missing", entry.number);
            return Err(texts.damaged(Key::History, &why));
        }
    }
    Ok(&entries[known..])
}

/// An entry that is recorded already must be this one. Its verdict and long words may have been let go of since.
fn same(texts: &Texts, last: u64, entry: &Entry) -> Result<(), StoreError> {
    let back = usize::try_from(last - entry.number).unwrap_or(usize::MAX);
    let Some(line) = texts.lines(Key::History).nth_back(back) else {
        return Ok(());
    };
    let known: Entry = codec::decode(line).map_err(|why| texts.damaged(Key::History, &why))?;
    let equal = known.number == entry.number && known.at == entry.at && known.event == entry.event;
    if equal && known.cause == entry.cause {
        return Ok(());
    }
    let why = format!(
        "another entry is recorded as number {}; two controllers have written, or this is a bug in Wade",
        entry.number
    );
    Err(texts.damaged(Key::History, &why))
}

fn append(texts: &mut Texts, new: &[Entry]) -> Result<(), StoreError> {
    let Some(last) = new.last() else { return Ok(()) };
    let mut history = texts.text(Key::History).to_owned();
    for entry in new {
        if !history.is_empty() {
            history.push('\n');
        }
        history.push_str(&encode(entry)?);
    }
    texts.set(Key::History, history);
    texts.set(Key::Next, (last.number + 1).to_string());
    Ok(())
}

fn current(texts: &Texts) -> Result<Current, StoreError> {
    texts
        .get(Key::Current)?
        .ok_or_else(|| texts.damaged(Key::Current, "it is missing"))
}

/// The judge goes with its release; the last verdict, the course and the entries stay as evidence.
fn end_release(texts: &mut Texts, outcome: &Outcome, before: &State, at: Timestamp) -> Result<(), StoreError> {
    let mut over = current(texts)?;
    over.ended = Some(at);
    texts.put_readable(Key::Current, &over)?;
    texts.set(Key::Judge, String::new());
    if !outcome.quarantines() {
        return Ok(());
    }
    let mut rollout = texts.rollout(at)?;
    rollout.quarantined.retain(|known| known.revision != over.canary.id);
    let quarantine = Quarantine {
        revision: over.canary.id,
        release: over.key.number,
        reason: retreat(texts, before).unwrap_or_else(|| outcome.label().to_owned()),
        at,
    };
    rollout.quarantined.insert(0, quarantine);
    rollout.quarantined.truncate(MAX_QUARANTINED as usize);
    rollout.updated = at;
    texts.put_readable(Key::Rollout, &rollout)
}

/// Why a release went back, in the words of its history.
fn retreat(texts: &Texts, before: &State) -> Option<String> {
    let entries = texts.lines(Key::History).rev();
    let said = entries
        .filter_map(|line| codec::decode::<Entry>(line).ok())
        .find(|entry| matches!(entry.event, Event::Retreated { .. }))
        .map(|entry| entry.reason);
    said.or_else(|| match &before.phase {
        Phase::Returning(_, retreat) => Some(retreat.reason.clone()),
        _ => None,
    })
}

/// Makes `revision` the one that serves. Serving ends a quarantine: somebody has seen it work.
pub(super) fn serve(texts: &mut Texts, revision: &Revision, at: Timestamp) -> Result<(), StoreError> {
    let mut revisions = texts.revisions();
    let first = revisions
        .iter()
        .find(|known| known.revision.id == revision.id)
        .and_then(|known| known.first_served);
    revisions.retain(|known| known.revision.id != revision.id);
    revisions.push(KnownRevision {
        revision: revision.clone(),
        first_served: first.or(Some(at)),
        last_served: Some(at),
    });
    texts.put_lines(Key::Revisions, &revisions)?;
    let mut rollout = texts.rollout(at)?;
    rollout.stable = Some(revision.id.clone());
    rollout.quarantined.retain(|known| known.revision != revision.id);
    rollout.updated = at;
    texts.put_readable(Key::Rollout, &rollout)
}

/// The revision that serves.
pub(super) fn stable(texts: &Texts, rollout: &Rollout) -> Option<Revision> {
    let id = rollout.stable.as_ref()?;
    let found = texts.revisions().into_iter().find(|known| known.revision.id == *id);
    found.map(|known| known.revision)
}

/// The record with a new release as its current one; the one before moves to the finished ones.
pub(super) fn begin(texts: &Texts, new: &NewRelease, now: Timestamp) -> Result<Texts, CreateError> {
    let mut after = texts.clone();
    let mut rollout = texts.rollout(now)?;
    let last = texts.number(Key::Number)?;
    if let Some(record) = texts.current()? {
        if record.state.outcome().is_none() {
            let phase = record.state.phase.label().to_owned();
            return Err(CreateError::Running { key: record.key, phase });
        }
        set_aside(&mut after, record)?;
    }
    let key = ReleaseKey {
        rollout: texts.rollout_name().to_owned(),
        number: rollout.next_number.max(last + 1),
    };
    rollout.next_number = key.number + 1;
    rollout.updated = now;
    after.put_readable(Key::Rollout, &rollout)?;
    let current = Current {
        key: key.clone(),
        canary: new.canary.clone(),
        stable: stable(&after, &rollout),
        by: new.by.clone(),
        reason: new.reason.clone(),
        deploy_window: new.deploy_window,
        pipeline: new.pipeline.clone(),
        created: now,
        ended: None,
    };
    after.put_readable(Key::Current, &current)?;
    after.set(Key::Number, key.number.to_string());
    after.set(Key::Next, "1".to_owned());
    after.put(Key::Plan, &new.plan)?;
    after.put_readable(Key::State, &State::new(now))?;
    let commands = Commands {
        release: key.number,
        ..Commands::default()
    };
    after.put_readable(Key::Commands, &commands)?;
    for empty in [Key::Judge, Key::Verdict, Key::Course, Key::History] {
        after.set(empty, String::new());
    }
    fit(&mut after)?;
    if after.size() > fit::MOST_AT_BEGIN {
        let why = format!(
            "{key} would take {} KiB, and a ConfigMap holds 1024: its pod templates or its plan are too long",
            after.size() >> 10
        );
        return Err(StoreError::Unavailable { what: "written", why }.into());
    }
    Ok(after)
}

/// Moves a finished release to the others. Pod templates are kept once per revision, not once per release.
fn set_aside(texts: &mut Texts, mut record: ReleaseRecord) -> Result<(), StoreError> {
    let mut revisions = texts.revisions();
    for revision in [Some(&mut record.canary), record.stable.as_mut()].into_iter().flatten() {
        let known = revisions.iter_mut().find(|known| known.revision.id == revision.id);
        if known.is_none() {
            revisions.push(KnownRevision {
                revision: revision.clone(),
                first_served: None,
                last_served: None,
            });
        }
        revision.workload = serde_json::Value::Null;
    }
    texts.put_lines(Key::Revisions, &revisions)?;
    let line = encode(&record)?;
    let releases: Vec<&str> = std::iter::once(line.as_str())
        .chain(texts.lines(Key::Releases))
        .collect();
    let releases = releases.join("\n");
    texts.set(Key::Releases, releases);
    Ok(())
}
