//! The rollouts folder: which services there are, and what runs for them. Files decide; callers only fill in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::plan::{HistoryPlan, Measure, history_plan, measure};
use crate::platforms::local::LocalWorkload;
use crate::spec::{
    Bound, Faults, ProcessWorkload, Resolved, Rollout, StrategyFile, Workload, bind, expand, read_rollout,
    read_strategy, resolve,
};

/// Files larger than this are no rollouts.
const MAX_FILE: u64 = 1 << 20;

/// What the folder holds.
#[derive(Clone, Debug, Default)]
pub struct Rollouts {
    /// By the rollout's name.
    pub usable: BTreeMap<String, Usable>,
    /// What could not be read, as text for a person.
    pub faults: Vec<String>,
}

/// A rollout that can be released.
#[derive(Clone, Debug, PartialEq)]
pub struct Usable {
    /// Its file.
    pub path: PathBuf,
    /// As read.
    pub rollout: Rollout,
    /// With its strategy.
    pub resolved: Resolved,
}

impl Rollouts {
    /// Reads every `*.yaml` and `*.yml` of `folder`. A file with faults does not keep the others from being used.
    pub fn read(folder: &Path, strategies: Option<&Path>) -> Self {
        let mut rollouts = Self::default();
        let mut own = BTreeMap::new();
        for path in strategies.map(|folder| rollouts.files(folder)).unwrap_or_default() {
            match text(&path).and_then(|text| read_strategy(&text, &shown(&path)).map_err(|faults| faults.to_string()))
            {
                Ok(strategy) => {
                    own.insert(strategy.metadata.name.clone(), strategy);
                }
                Err(fault) => rollouts.faults.push(fault),
            }
        }
        for path in rollouts.files(folder) {
            match Usable::read(&path, &own) {
                Ok(usable) => {
                    if let Some(first) = rollouts.usable.get(usable.name()) {
                        let (name, first) = (usable.name(), shown(&first.path));
                        rollouts.faults.push(format!(
                            "{}: the rollout {name} is described by {first} already; keep one of the two",
                            shown(&path)
                        ));
                    } else {
                        rollouts.usable.insert(usable.name().to_owned(), usable);
                    }
                }
                Err(fault) => rollouts.faults.push(fault),
            }
        }
        rollouts
    }

    fn files(&mut self, folder: &Path) -> Vec<PathBuf> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                self.faults.push(format!(
                    "{}: {error}; create the folder and put one file per rollout there",
                    folder.display()
                ));
                return Vec::new();
            }
        };
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.extension()
                    .is_some_and(|ending| ending == "yaml" || ending == "yml")
            })
            .collect();
        files.sort();
        files
    }
}

impl Usable {
    /// Reads one rollout.
    ///
    /// # Errors
    /// All its faults, as text.
    pub fn read(path: &Path, strategies: &BTreeMap<String, StrategyFile>) -> Result<Self, String> {
        let text = text(path)?;
        let source = shown(path);
        let rollout = read_rollout(&text, &source).map_err(|faults| faults.to_string())?;
        let resolved = resolve(&rollout, strategies).map_err(|faults| faults.located_in(&text, &source).to_string())?;
        Ok(Self {
            path: path.to_owned(),
            rollout,
            resolved,
        })
    }

    /// The rollout's name.
    pub fn name(&self) -> &str {
        &self.rollout.metadata.name
    }

    /// The processes, if that is what it runs.
    pub fn process(&self) -> Option<&ProcessWorkload> {
        match &self.rollout.spec.workload {
            Workload::Process(process) => Some(process),
            Workload::Deployment(_) => None,
        }
    }

    /// How much of stable's history is kept, in which blocks.
    pub fn history(&self) -> HistoryPlan {
        history_plan(&self.resolved.analysis)
    }

    /// What is measured, and from where.
    pub fn measure(&self) -> Measure {
        measure(&self.resolved.analysis, &self.rollout.spec.workload)
    }

    /// The revision that these variables make: values, and what is to run.
    ///
    /// # Errors
    /// Undeclared or missing variables, a refused version: all at once, as text.
    pub fn workload(&self, set: &BTreeMap<String, String>) -> Result<(Bound, LocalWorkload), String> {
        let bound = bind(&self.rollout, set).map_err(|faults: Faults| faults.to_string())?;
        let process = self
            .process()
            .ok_or_else(|| format!("{}: only `process` workloads run here", self.name()))?;
        let mut process = process.clone();
        // PORT is every launch's own; the supervisor fills it in.
        let mut values = bound.values.clone();
        values.insert("PORT".to_owned(), "${PORT}".to_owned());
        let filled = |text: &str| expand(text, &values).map_err(|error| error.to_string());
        for part in &mut process.command {
            *part = filled(part)?;
        }
        for value in process.env.values_mut() {
            *value = filled(value)?;
        }
        if let Some(workdir) = &mut process.workdir {
            *workdir = filled(workdir)?;
        }
        let base_dir = self.path.parent().unwrap_or(Path::new("/")).to_owned();
        Ok((bound, LocalWorkload { process, base_dir }))
    }
}

fn text(path: &Path) -> Result<String, String> {
    let problem = |error: &dyn std::fmt::Display| format!("{}: cannot be read: {error}", shown(path));
    let size = std::fs::metadata(path).map_err(|error| problem(&error))?.len();
    if size > MAX_FILE {
        return Err(format!(
            "{}: {size} bytes are too many for a rollout; the limit is {MAX_FILE}",
            shown(path)
        ));
    }
    let bytes = std::fs::read(path).map_err(|error| problem(&error))?;
    String::from_utf8(bytes).map_err(|_| problem(&"it is not UTF-8 text"))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
