//! From a spec to a process: resolve what is named, then start it with exactly the environment it should have.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::diagnosis::{Diagnosis, Problem};
use super::ledger::SlotKey;
use super::limits;
use super::proc::{self, Listener, TOKEN_VARIABLE};
use super::spec::{Limits, Port, ProcessSpec};
use super::user::{self, Account};

/// What services inherit from the daemon. Nothing else: its environment may hold tokens.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];

/// Where programs are looked for when nobody says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How many free ports are tried before the machine is called full.
const PORT_TRIES: usize = 50;

/// Everything decided about one launch, before anything has happened.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) workdir: PathBuf,
    pub(super) account: Option<Account>,
    limits: Limits,
}

/// Resolves the spec for one slot on this machine as it is now.
pub(super) fn prepare(spec: &ProcessSpec, key: &SlotKey, port: Option<u16>) -> Result<Launch, Diagnosis> {
    let object = key.to_string();
    let account = user::resolve(&spec.run_as, &object)?;
    if !spec.workdir.is_dir() {
        let shown = spec.workdir.display();
        let seen = if spec.workdir.exists() {
            "is not a directory"
        } else {
            "does not exist"
        };
        let detail = format!("the working directory {shown} {seen}");
        return Err(Diagnosis::new(
            Problem::WorkdirMissing,
            object,
            detail,
            "create it or correct `workdir`",
        ));
    }
    let env = environment(spec, key, port, account.as_ref());
    let program = resolve(&spec.command[0], &spec.workdir, &env["PATH"], &object)?;
    let args = spec.command[1..].iter().map(|word| with_port(word, port)).collect();
    Ok(Launch {
        program,
        args,
        env,
        workdir: spec.workdir.clone(),
        account,
        limits: spec.limits,
    })
}

impl Launch {
    /// Starts it in its own process group, without input, writing to `output`.
    pub(super) fn spawn(
        &self,
        token: &str,
        output: &File,
        launcher: &[String],
        object: &str,
    ) -> Result<Child, Diagnosis> {
        let mut command = self.command(launcher);
        command.env(TOKEN_VARIABLE, token);
        let files = output.try_clone().and_then(|copy| Ok((copy, output.try_clone()?)));
        let (out, err) = files.map_err(|e| self.explain(&e, object))?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        command.spawn().map_err(|error| self.explain(&error, object))
    }

    fn command(&self, launcher: &[String]) -> Command {
        let mut command = match launcher {
            [program, first @ ..] if self.limits != Limits::default() => {
                let mut command = Command::new(program);
                command
                    .args(first)
                    .args(limits::arguments(&self.limits))
                    .arg(&self.program);
                command
            }
            _ => Command::new(&self.program),
        };
        command.args(&self.args);
        self.dress(&mut command);
        command
    }

    /// The surroundings that the service and its readiness command share.
    pub(super) fn dress(&self, command: &mut Command) {
        command.env_clear().envs(&self.env).current_dir(&self.workdir);
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
    }

    fn explain(&self, error: &io::Error, object: &str) -> Diagnosis {
        let program = self.program.display();
        let whose = match &self.account {
            Some(account) => format!("user {}", account.uid),
            None => "Wade's user".to_owned(),
        };
        let (what, detail, try_this) = match error.kind() {
            io::ErrorKind::NotFound => (
                Problem::CommandNotFound,
                format!("{program} is there, but the interpreter in its first line (or its loader) is not"),
                "correct the first line of the script or install the interpreter".to_owned(),
            ),
            io::ErrorKind::PermissionDenied => (
                Problem::PermissionDenied,
                format!("{whose} may not execute {program} in {}", self.workdir.display()),
                "check the rights of the file and of every directory above it and above the working directory"
                    .to_owned(),
            ),
            // ENOEXEC: std has no stable kind for it.
            _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => (
                Problem::NotExecutable,
                format!("{program} is not a program for this machine"),
                "give a script a first line like #!/bin/sh, or build the program for this architecture".to_owned(),
            ),
            _ => (
                Problem::CannotStart,
                format!("starting {program} failed: {error}"),
                "see the machine's limits on processes, memory and open files".to_owned(),
            ),
        };
        Diagnosis::new(what, object, detail, try_this)
    }
}

fn environment(
    spec: &ProcessSpec,
    key: &SlotKey,
    port: Option<u16>,
    account: Option<&Account>,
) -> BTreeMap<String, String> {
    let mut env = inherited();
    if let Some((name, home)) = account.and_then(|account| account.entry.as_ref()) {
        env.extend([("HOME", home), ("USER", name), ("LOGNAME", name)].map(|(k, v)| (k.to_owned(), v.clone())));
    } else if account.is_some() {
        // The daemon's home is not theirs.
        env.remove("HOME");
    }
    env.extend(
        spec.env
            .iter()
            .map(|(name, value)| (name.clone(), with_port(value, port))),
    );
    env.extend(port.map(|port| ("PORT".to_owned(), port.to_string())));
    env.insert("WADE_SERVICE".to_owned(), key.service.clone());
    env.insert("WADE_REVISION".to_owned(), key.revision.clone());
    env.insert("WADE_INSTANCE".to_owned(), key.slot.to_string());
    env
}

/// What every service inherits, always with a `PATH`.
pub(super) fn inherited() -> BTreeMap<String, String> {
    let set = INHERITED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    let mut env: BTreeMap<_, _> = set.collect();
    env.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
    env
}

fn with_port(text: &str, port: Option<u16>) -> String {
    port.map_or_else(|| text.to_owned(), |port| text.replace("${PORT}", &port.to_string()))
}

/// The file that `program` names: with a `/` from `workdir`, otherwise the first executable one in `path`.
pub(super) fn resolve(program: &str, workdir: &Path, path: &str, object: &str) -> Result<PathBuf, Diagnosis> {
    let found = if program.contains('/') {
        let file = workdir.join(program);
        if !file.exists() {
            let detail = format!("{} does not exist", file.display());
            let try_this = "correct the command; a relative program starts at `workdir`";
            return Err(Diagnosis::new(Problem::CommandNotFound, object, detail, try_this));
        }
        file
    } else {
        // Relative entries would depend on where the daemon was started.
        let directories = path
            .split(':')
            .map(Path::new)
            .filter(|directory| directory.is_absolute());
        let files: Vec<PathBuf> = directories
            .map(|d| d.join(program))
            .filter(|file| file.is_file())
            .collect();
        let Some(file) = files.iter().find(|file| is_executable(file)).or(files.first()) else {
            let detail = format!("`{program}` is in no directory of PATH ({path})");
            let try_this = "install it, add its directory to PATH in `env`, or give its full path";
            return Err(Diagnosis::new(Problem::CommandNotFound, object, detail, try_this));
        };
        file.clone()
    };
    if is_executable(&found) {
        return Ok(found);
    }
    let shown = found.display();
    let (detail, try_this) = if found.is_dir() {
        (
            format!("{shown} is a directory"),
            "name the program inside it".to_owned(),
        )
    } else {
        (format!("{shown} is not executable"), format!("run `chmod +x {shown}`"))
    };
    Err(Diagnosis::new(Problem::NotExecutable, object, detail, try_this))
}

fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The port for the next launch. `taken` are those that other slots were given.
///
/// Asking the kernel and letting go again leaves a moment in which somebody else may take it; then the program fails to
/// bind, ends, and the restart asks again.
pub(super) fn choose_port(port: Port, taken: impl Fn(u16) -> bool, object: &str) -> Result<Option<u16>, Diagnosis> {
    match port {
        Port::None => Ok(None),
        Port::Fixed(port) => match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => Ok(Some(port)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(port_in_use(port, object)),
            Err(error) => Err(Diagnosis::new(
                Problem::CannotStart,
                object,
                format!("port {port} cannot be used: {error}"),
                "use an automatic port, or one above 1023",
            )),
        },
        Port::Auto => {
            let ask = || Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port());
            for _ in 0..PORT_TRIES {
                match ask() {
                    Ok(port) if taken(port) => {}
                    Ok(port) => return Ok(Some(port)),
                    Err(error) => return Err(no_port(object, &error)),
                }
            }
            Err(no_port(
                object,
                &io::Error::other("every port offered is promised to another instance"),
            ))
        }
    }
}

fn no_port(object: &str, error: &io::Error) -> Diagnosis {
    let detail = format!("no free loopback port was found: {error}");
    Diagnosis::new(
        Problem::CannotStart,
        object,
        detail,
        "see `ss -tan` for what uses the machine's ports",
    )
}

/// Says who holds the port.
pub(super) fn port_in_use(port: u16, object: &str) -> Diagnosis {
    let holder = match proc::listener(port) {
        Listener::Processes(pids) => {
            let named: Vec<_> = pids
                .iter()
                .map(|pid| format!("{} (pid {pid})", proc::name(*pid)))
                .collect();
            named.join(", ")
        }
        Listener::Nobody | Listener::Hidden => "another process".to_owned(),
    };
    Diagnosis::new(
        Problem::PortInUse,
        object,
        format!("port {port} is held by {holder}"),
        "end that process, or use an automatic port",
    )
}

/// Whether a file with this name would be the first choice, for messages and identity.
pub(super) fn path_of(env: &BTreeMap<String, String>) -> String {
    env.get("PATH")
        .cloned()
        .unwrap_or_else(|| inherited().remove("PATH").unwrap_or_else(|| DEFAULT_PATH.to_owned()))
}

/// The readiness command of a launch, resolved like its program.
pub(super) fn probe_command(launch: &Launch, words: &[String], object: &str) -> Result<Command, Diagnosis> {
    let program = resolve(&words[0], &launch.workdir, &launch.env["PATH"], object)?;
    let port = launch.env.get("PORT").and_then(|port| port.parse().ok());
    let mut command = Command::new(program);
    command.args(
        words[1..]
            .iter()
            .map(|word| with_port(word, port))
            .map(|word| OsStr::new(&word).to_owned()),
    );
    launch.dress(&mut command);
    // No launch token: a probe must never be taken for the service.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    Ok(command)
}
