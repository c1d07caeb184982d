//! Resource limits, set by the process on itself before it becomes the service.
//!
//! Setting them from outside after the start would be a race: the program may have allocated, or started children, by
//! then. So a limited service starts as `wade __exec --memory=… --open-files=… -- program args`, which limits itself
//! and becomes the program: same pid, same start time, same environment.
//!
//! Memory is `RLIMIT_DATA` (private writable memory; since Linux 4.7 this includes anonymous maps) and not `RLIMIT_AS`:
//! Go, the JVM and V8 reserve far more address space than they use, and would not even start. It is per process: each
//! child has the whole limit again. A limit for a service as a whole needs cgroups, which is a container runtime's work.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::spec::Limits;

/// The words between the launcher and the program.
pub(super) fn arguments(limits: &Limits) -> Vec<String> {
    let memory = limits.memory_bytes.map(|bytes| format!("--memory={bytes}"));
    let open_files = limits.open_files.map(|files| format!("--open-files={files}"));
    memory.into_iter().chain(open_files).chain(["--".to_owned()]).collect()
}

/// Sets limits on this process and becomes the program. `args` are the words after the hidden verb:
/// `[--memory=BYTES] [--open-files=N] -- PROGRAM [ARG...]`. For `main`, before any thread is started: print the error
/// to standard error (it is the service's log) and exit with 126.
///
/// Returns only if that failed, with a sentence.
pub fn exec_with_limits(args: impl IntoIterator<Item = OsString>) -> io::Error {
    match parse(args) {
        Ok((limits, program, args)) => {
            let set = [
                (Resource::Data, limits.memory_bytes),
                (Resource::Nofile, limits.open_files),
            ];
            for (resource, limit) in set {
                if let Err(error) = limit.map_or(Ok(()), |limit| restrict(resource, limit)) {
                    return error;
                }
            }
            let error = Command::new(&program).args(args).exec();
            io::Error::new(
                error.kind(),
                format!("cannot become {}: {error}", program.to_string_lossy()),
            )
        }
        Err(sentence) => io::Error::new(io::ErrorKind::InvalidInput, sentence),
    }
}

fn restrict(resource: Resource, limit: u64) -> io::Result<()> {
    // Never above what this process was given: raising takes privileges, and a smaller ceiling was somebody's decision.
    let ceiling = getrlimit(resource).maximum.map_or(limit, |maximum| maximum.min(limit));
    setrlimit(
        resource,
        Rlimit {
            current: Some(ceiling),
            maximum: Some(ceiling),
        },
    )
    .map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot set the limit {resource:?} to {ceiling}: {error}"),
        )
    })
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<(Limits, OsString, Vec<OsString>), String> {
    let mut limits = Limits::default();
    let mut args = args.into_iter();
    for word in args.by_ref() {
        let text = word.to_string_lossy();
        let number = |value: &str| {
            value
                .parse()
                .map_err(|_| format!("`{text}` is not a limit, write a whole number"))
        };
        if text == "--" {
            break;
        } else if let Some(value) = text.strip_prefix("--memory=") {
            limits.memory_bytes = Some(number(value)?);
        } else if let Some(value) = text.strip_prefix("--open-files=") {
            limits.open_files = Some(number(value)?);
        } else {
            return Err(format!(
                "`{text}` is not a limit, expected --memory=BYTES, --open-files=N or --"
            ));
        }
    }
    let program = args.next().ok_or("no program was named, put it after --")?;
    Ok((limits, program, args.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn written_limits_are_read_back() {
        let limits = Limits {
            memory_bytes: Some(1024),
            open_files: Some(64),
        };
        let mut args = arguments(&limits);
        args.extend(["/bin/app".into(), "--memory=not-ours".into()]);
        let read = parse(args.into_iter().map(OsString::from));
        assert_eq!(read, Ok((limits, "/bin/app".into(), words(&["--memory=not-ours"]))));
    }

    #[test]
    fn a_wrong_word_is_refused_by_name() {
        assert_eq!(
            parse(words(&["--cpu=1"])).unwrap_err().split(',').next(),
            Some("`--cpu=1` is not a limit")
        );
        assert!(parse(words(&["--memory=1G", "--", "app"])).is_err());
        assert!(parse(words(&["--"])).is_err());
    }
}
