//! What makes a revision: what the processes *are*, not how they are run.
//!
//! Two specs have the same identity if and only if these are equal: the command as written, the environment as written,
//! the working directory as written, whose rights and which limits it has, and the *content* of the program (found
//! through `PATH`) and of each listed file. So editing a listed script is a new revision without any version number,
//! and a checkout in another directory is the same one.
//!
//! Not part of it: port, readiness, stopping, output, the number of instances: changing those changes nothing about
//! what was judged. Not seen at all: shared libraries, interpreters named in a first line, files that are not listed.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::diagnosis::{Diagnosis, Problem};
use super::launch;
use super::spec::{ProcessSpec, RunAs};

/// The most files read for one identity; a listed directory that large is not a revision's content.
pub const MAX_FILES: usize = 10_000;

/// Characters of a revision's name: 48 bits, enough for the few hundred revisions of a service's life.
const ID_CHARS: usize = 12;

/// A revision's name: the first 12 hexadecimal digits of a SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RevisionId(String);

impl RevisionId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of what `spec` runs. A relative `workdir` starts at `base_dir`; relative files and a relative program
/// start at the working directory. Reads every file: call it off the async threads.
///
/// # Errors
/// When the program or a listed file cannot be found or read, or a listed directory holds more than [`MAX_FILES`].
pub fn identity(spec: &ProcessSpec, base_dir: &Path) -> Result<RevisionId, Diagnosis> {
    let object = "the revision's identity";
    let fail = |path: &Path, error: &io::Error| {
        let detail = format!("{} cannot be read: {error}", path.display());
        Diagnosis::new(
            Problem::InvalidSpec,
            object,
            detail,
            "correct `files`, or the rights of that file",
        )
    };
    let Some(program) = spec.command.first() else {
        let try_this = "give a program and its arguments as a list";
        return Err(Diagnosis::new(
            Problem::InvalidSpec,
            object,
            "the command is empty",
            try_this,
        ));
    };
    let workdir = base_dir.join(&spec.workdir);
    let program = launch::resolve(program, &workdir, &launch::path_of(&spec.env), object)?;

    let mut sum = Sum::new("wade revision 1");
    sum.list("command", spec.command.iter().map(String::as_bytes));
    sum.list(
        "env",
        spec.env
            .iter()
            .flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]),
    );
    sum.item("workdir", spec.workdir.as_os_str().as_encoded_bytes());
    match &spec.run_as {
        RunAs::Daemon { allow_root } => sum.item("daemon's user", &[u8::from(*allow_root)]),
        RunAs::User(name) => sum.item("user", name.as_bytes()),
    }
    for (name, limit) in [
        ("memory", spec.limits.memory_bytes),
        ("open files", spec.limits.open_files),
    ] {
        sum.item(
            name,
            limit
                .map(u64::to_be_bytes)
                .as_ref()
                .map_or(&[], |bytes| bytes.as_slice()),
        );
    }
    sum.item("program", &digest(&program).map_err(|e| fail(&program, &e))?);
    let mut left = MAX_FILES;
    for listed in &spec.files {
        let path = workdir.join(listed);
        for file in walk(&path, &mut left).map_err(|e| fail(&path, &e))? {
            let inside = file.strip_prefix(&path).unwrap_or(&file);
            sum.item("listed", listed.as_os_str().as_encoded_bytes());
            sum.item("inside", inside.as_os_str().as_encoded_bytes());
            sum.item("content", &digest(&file).map_err(|e| fail(&file, &e))?);
        }
    }
    Ok(RevisionId(sum.finish()))
}

/// The files at or below `path`, in the order of their names. Links are followed to files, not into directories.
fn walk(path: &Path, left: &mut usize) -> io::Result<Vec<PathBuf>> {
    *left = left
        .checked_sub(1)
        .ok_or_else(|| io::Error::other(format!("more than {MAX_FILES} files are listed")))?;
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    entries.sort();
    entries.retain(|entry| !(entry.is_symlink() && entry.is_dir()));
    let mut files = Vec::new();
    for entry in entries {
        files.append(&mut walk(&entry, left)?);
    }
    Ok(files)
}

fn digest(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut sum = Sha256::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(sum.finalize().into()),
            read => sum.update(&chunk[..read]),
        }
    }
}

/// A hash over named items, each with its length: no two lists of items give the same bytes.
struct Sum(Sha256);

impl Sum {
    fn new(purpose: &str) -> Self {
        let mut sum = Self(Sha256::new());
        sum.bytes(purpose.as_bytes());
        sum
    }

    fn item(&mut self, name: &str, value: &[u8]) {
        self.list(name, [value]);
    }

    fn list<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a [u8]>) {
        let values: Vec<&[u8]> = values.into_iter().collect();
        self.bytes(name.as_bytes());
        self.length(values.len());
        values.into_iter().for_each(|value| self.bytes(value));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.update(bytes);
    }

    fn length(&mut self, length: usize) {
        self.0
            .update(u64::try_from(length).expect("a length fits into 64 bits").to_be_bytes());
    }

    fn finish(self) -> String {
        let hex = self
            .0
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        hex[..ID_CHARS].to_owned()
    }
}

/// A launch token: differs for every launch of every supervisor on this machine, without chance.
pub(super) fn launch_token(data_dir: &Path, key: &super::ledger::SlotKey, restarts: u32, at_micros: i64) -> String {
    let mut sum = Sum::new("wade launch 1");
    sum.item("data", data_dir.as_os_str().as_encoded_bytes());
    sum.list(
        "slot",
        [key.service.as_bytes(), key.revision.as_bytes(), &key.slot.to_be_bytes()],
    );
    sum.list(
        "launch",
        [restarts.to_be_bytes().as_slice(), at_micros.to_be_bytes().as_slice()],
    );
    sum.finish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::spec::{OutputRule, Port, Ready, StopRule, StopSignal};
    use super::*;

    fn checkout() -> (tempfile::TempDir, ProcessSpec) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(dir.path().join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(dir.path().join("assets/deep")).unwrap();
        fs::write(dir.path().join("assets/deep/a.css"), "a").unwrap();
        fs::write(dir.path().join("notes.txt"), "not listed").unwrap();
        let mut spec = ProcessSpec::new(vec!["./run.sh".into(), "${PORT}".into()], ".".into());
        spec.files = vec!["assets".into()];
        (dir, spec)
    }

    #[test]
    fn the_same_content_in_another_place_is_the_same_revision() {
        let (here, spec) = checkout();
        let (there, same) = checkout();
        let id = identity(&spec, here.path()).unwrap();
        assert_eq!(id, identity(&same, there.path()).unwrap());
        assert_eq!(id.as_str().len(), ID_CHARS);
    }

    #[test]
    fn what_it_is_changes_the_identity() {
        let (dir, spec) = checkout();
        let before = identity(&spec, dir.path()).unwrap();
        let changes: [(&str, &dyn Fn(&mut ProcessSpec)); 7] = [
            ("argument", &|s| s.command.push("-v".into())),
            ("arguments split elsewhere", &|s| s.command[1] = "${POR".into()),
            ("env", &|s| drop(s.env.insert("A".into(), "1".into()))),
            ("user", &|s| s.run_as = RunAs::User("web".into())),
            ("memory", &|s| s.limits.memory_bytes = Some(1)),
            ("open files", &|s| s.limits.open_files = Some(1)),
            ("files", &|s| s.files.clear()),
        ];
        for (what, change) in changes {
            let mut changed = spec.clone();
            change(&mut changed);
            assert_ne!(identity(&changed, dir.path()).unwrap(), before, "{what}");
        }
        for (file, content) in [
            ("assets/deep/a.css", "b"),
            ("assets/deep/b.css", ""),
            ("run.sh", "#!/bin/sh\n:\n"),
        ] {
            let before = identity(&spec, dir.path()).unwrap();
            fs::write(dir.path().join(file), content).unwrap();
            assert_ne!(identity(&spec, dir.path()).unwrap(), before, "{file}");
        }
    }

    #[test]
    fn how_it_is_run_does_not_change_the_identity() {
        let (dir, spec) = checkout();
        let mut changed = spec.clone();
        changed.port = Port::Fixed(8080);
        changed.ready = Ready::Http {
            path: "/healthz".into(),
        };
        changed.stop = StopRule {
            signal: StopSignal::Quit,
            drain: std::time::Duration::ZERO,
        };
        changed.output = OutputRule { max_bytes: 1, files: 0 };
        let before = identity(&spec, dir.path()).unwrap();
        assert_eq!(identity(&changed, dir.path()).unwrap(), before);
        fs::write(dir.path().join("notes.txt"), "still not listed").unwrap();
        assert_eq!(identity(&spec, dir.path()).unwrap(), before);
    }

    #[test]
    fn a_missing_listed_file_is_named() {
        let (dir, mut spec) = checkout();
        spec.files.push("missing.toml".into());
        let diagnosis = identity(&spec, dir.path()).unwrap_err();
        assert_eq!(diagnosis.what, Problem::InvalidSpec);
        assert!(
            diagnosis.to_string().contains("missing.toml cannot be read"),
            "{diagnosis}"
        );
    }

    #[test]
    fn a_program_is_found_through_the_path_of_its_environment() {
        let (dir, mut spec) = checkout();
        spec.command[0] = "run.sh".into();
        assert_eq!(identity(&spec, dir.path()).unwrap_err().what, Problem::CommandNotFound);
        spec.env.insert("PATH".into(), dir.path().display().to_string());
        identity(&spec, dir.path()).unwrap();
    }
}
