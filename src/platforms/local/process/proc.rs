//! Reads `/proc`: which process is which, who is in a group, who holds a port.
//!
//! A number alone never names a process: numbers are reused. Two facts do: pid with start time, and a launch token in
//! the environment. A process *group* is ours exactly as long as its number was not given to a new process, and the
//! kernel does not give out a number that still names a group.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::ledger::ProcessId;

/// The environment variable that carries the launch token.
pub(super) const TOKEN_VARIABLE: &str = "WADE_LAUNCH";

/// What `/proc/<pid>/stat` says, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) zombie: bool,
    pub(super) group: u32,
    pub(super) start_ticks: u64,
}

/// Who listens on a port of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listener {
    Nobody,
    /// These processes, by number.
    Processes(BTreeSet<u32>),
    /// Somebody, and this daemon may not see who.
    Hidden,
}

pub(super) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// proc(5): the name is in parentheses and may contain both parentheses and spaces, so fields count from the last one.
fn parse_stat(line: &str) -> Option<Stat> {
    let mut fields = line.get(line.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?; // field 3
    let group = fields.nth(1)?.parse().ok()?; // field 5
    let start_ticks = fields.nth(16)?.parse().ok()?; // field 22
    Some(Stat {
        zombie: matches!(state, "Z" | "X"),
        group,
        start_ticks,
    })
}

/// The identity of the process that has this number now; none if it ended.
pub(super) fn identify(pid: u32) -> Option<ProcessId> {
    let seen = stat(pid)?;
    Some(ProcessId {
        pid,
        start_ticks: seen.start_ticks,
        boot: boot_id(),
    })
}

/// Whether exactly this process still runs; a zombie does not.
pub(super) fn alive(id: &ProcessId) -> bool {
    stat(id.pid).is_some_and(|seen| !seen.zombie && seen.start_ticks == id.start_ticks) && boot_id() == id.boot
}

/// The present boot; empty where `/proc` hides it, which makes all boots the same one.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

/// Kills by the kernel for want of memory since boot, of any process. Growth across a death by SIGKILL is a strong hint.
pub(super) fn oom_kills() -> Option<u64> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?
        .trim()
        .parse()
        .ok()
}

/// The name that the process goes by, for sentences.
pub(super) fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}

/// All running processes that carry this token, with their state.
pub(super) fn with_token(token: &str) -> Vec<(u32, Stat)> {
    running().filter(|(pid, _)| has_token(*pid, token)).collect()
}

/// Whether this process carries the token. A program that overwrites its environment (some do, for their title) loses
/// it, so "no" proves nothing.
pub(super) fn has_token(pid: u32, token: &str) -> bool {
    let wanted = format!("{TOKEN_VARIABLE}={token}");
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|env| env.split(|b| *b == 0).any(|v| v == wanted.as_bytes()))
}

/// The running members of the group that `leader` began, itself included.
pub(super) fn members(leader: &ProcessId) -> Vec<u32> {
    // A process of that number which is not the leader means that the group was empty and its number given away.
    if boot_id() != leader.boot || stat(leader.pid).is_some_and(|seen| seen.start_ticks != leader.start_ticks) {
        return Vec::new();
    }
    running()
        .filter(|(_, seen)| seen.group == leader.pid)
        .map(|(pid, _)| pid)
        .collect()
}

/// Sends `signal` to the group that `leader` began, if anybody is left in it.
pub(super) fn signal_group(leader: &ProcessId, signal: Signal) {
    if members(leader).is_empty() {
        return;
    }
    if let Some(pid) = to_pid(leader.pid) {
        // ESRCH: the last member went between the look and the call, which is what was wanted.
        let _gone_is_fine = kill_process_group(pid, signal);
    }
}

/// Ends whatever is left of a launch: its group, and who left the group but kept the token.
pub(super) fn sweep(leader: &ProcessId, token: &str) {
    signal_group(leader, Signal::KILL);
    sweep_token(token);
}

/// Ends every process that carries the token.
pub(super) fn sweep_token(token: &str) {
    for (pid, _) in with_token(token) {
        if let Some(pid) = to_pid(pid) {
            let _gone_is_fine = kill_process(pid, Signal::KILL);
        }
    }
}

/// Who listens on this TCP port, on any address.
pub(super) fn listener(port: u16) -> Listener {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets: BTreeSet<String> = tables.iter().flat_map(|table| listening(table, port)).collect();
    if sockets.is_empty() {
        return Listener::Nobody;
    }
    let holders: BTreeSet<u32> = running()
        .map(|(pid, _)| pid)
        .filter(|pid| holds_socket(*pid, &sockets))
        .collect();
    if holders.is_empty() {
        Listener::Hidden
    } else {
        Listener::Processes(holders)
    }
}

/// The sockets in LISTEN on `port`, as their links in `/proc/<pid>/fd` read.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    let rows = table
        .lines()
        .skip(1)
        .map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && row[1].ends_with(&suffix) && row[3] == LISTEN)
        .map(|row| format!("socket:[{}]", row[9]))
        .collect()
}

fn holds_socket(pid: u32, sockets: &BTreeSet<String>) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|entry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_str().is_some_and(|target| sockets.contains(target)))
    })
}

fn running() -> impl Iterator<Item = (u32, Stat)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            std::str::from_utf8(entry.file_name().as_bytes())
                .ok()?
                .parse::<u32>()
                .ok()
        })
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .filter(|(_, seen)| !seen.zombie)
}

pub(super) fn to_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_name_with_parentheses_and_spaces() {
        let line = "42 (a ) R (b) Z 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 0 0 18446744073709551615";
        assert_eq!(
            parse_stat(line),
            Some(Stat {
                zombie: true,
                group: 7,
                start_ticks: 98765
            })
        );
        assert_eq!(parse_stat("42 (cut off"), None);
    }

    #[test]
    fn only_sockets_in_listen_on_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 111 1 0 100 0 0 10 0\n\
             1: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000 0 0 222 1 0 100 0 0 10 0\n\
             2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 333 1 0 100 0 0 10 0\n";
        assert_eq!(listening(table, 8080), ["socket:[111]"]);
    }

    #[test]
    fn a_listener_of_this_process_is_found_by_its_port() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(
            listener(port),
            Listener::Processes(BTreeSet::from([std::process::id()]))
        );
        drop(socket);
        assert_eq!(listener(port), Listener::Nobody);
    }

    #[test]
    fn another_start_time_is_another_process() {
        let me = identify(std::process::id()).unwrap();
        assert!(alive(&me));
        let earlier = ProcessId {
            start_ticks: me.start_ticks - 1,
            ..me.clone()
        };
        assert!(!alive(&earlier));
        assert_eq!(members(&earlier), Vec::<u32>::new());
        assert!(!alive(&ProcessId {
            boot: "another".into(),
            ..me
        }));
    }
}
