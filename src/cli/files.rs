//! Reading files that a caller names, with all their faults.

use std::collections::BTreeMap;
use std::path::Path;

use super::exit::Failure;
use crate::spec::{Resolved, Rollout, StrategyFile, read_rollout, read_strategy, resolve};

/// Files larger than this are something else.
const MAX_FILE: u64 = 1 << 20;

/// The text of a file.
///
/// # Errors
/// It cannot be read, is too large or is no text: exit 2.
pub fn text(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let failed = |what: String| Failure::usage(format!("{shown}: {what}"));
    let metadata =
        std::fs::metadata(path).map_err(|error| failed(format!("cannot be read: {error}; name an existing file")))?;
    if metadata.is_dir() {
        return Err(failed("is a folder; name the files in it".to_owned()));
    }
    if metadata.len() > MAX_FILE {
        return Err(failed(format!(
            "{} bytes are too many; the limit is {MAX_FILE}",
            metadata.len()
        )));
    }
    let bytes = std::fs::read(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|_| failed("is not UTF-8 text; save it as UTF-8".to_owned()))
}

/// A rollout with what its strategy resolves to.
pub struct Read {
    /// As written.
    pub rollout: Rollout,
    /// With its strategy.
    pub resolved: Resolved,
}

/// Reads a rollout alone, without its strategy.
///
/// # Errors
/// All faults of the file: exit 2.
pub fn policy(path: &Path) -> Result<Rollout, Failure> {
    read_rollout(&text(path)?, &path.display().to_string()).map_err(|faults| Failure::usage(faults.to_string()))
}

/// Reads a rollout and finds its strategy.
///
/// # Errors
/// All faults of the file: exit 2.
pub fn rollout(path: &Path, strategies: &BTreeMap<String, StrategyFile>) -> Result<Read, Failure> {
    let (text, source) = (text(path)?, path.display().to_string());
    let rollout = read_rollout(&text, &source).map_err(|faults| Failure::usage(faults.to_string()))?;
    let resolved = resolve(&rollout, strategies)
        .map_err(|faults| Failure::usage(faults.located_in(&text, &source).to_string()))?;
    Ok(Read { rollout, resolved })
}

/// Every strategy of a folder, by name; none if no folder is given.
///
/// # Errors
/// The folder cannot be read, or a strategy in it has faults: exit 2.
pub fn strategies(folder: Option<&Path>) -> Result<BTreeMap<String, StrategyFile>, Failure> {
    let Some(folder) = folder else {
        return Ok(BTreeMap::new());
    };
    let entries = std::fs::read_dir(folder).map_err(|error| {
        Failure::usage(format!(
            "{}: {error}; name the folder with your strategies",
            folder.display()
        ))
    })?;
    let mut found = BTreeMap::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path
            .extension()
            .is_some_and(|ending| ending == "yaml" || ending == "yml")
        {
            let strategy = read_strategy(&text(&path)?, &path.display().to_string())
                .map_err(|faults| Failure::usage(faults.to_string()))?;
            found.insert(strategy.metadata.name.clone(), strategy);
        }
    }
    Ok(found)
}
