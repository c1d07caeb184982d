//! Whose rights a process gets. Root is never an accident: it takes a root daemon *and* somebody's written consent.
//!
//! Users come from `/etc/passwd` only; others (LDAP) are given as `uid:gid`. The standard library drops all
//! supplementary groups when it changes the user.

use std::fs;

use super::diagnosis::{Diagnosis, Problem};
use super::spec::RunAs;

/// The user that a process becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Name and home directory, where known.
    pub(super) entry: Option<(String, String)>,
}

/// Whom to become on this machine; none is "stay who we are".
pub(super) fn resolve(run_as: &RunAs, object: &str) -> Result<Option<Account>, Diagnosis> {
    let me = rustix::process::geteuid().as_raw();
    // An unreadable file is an empty one: then no name is known, and the sentence about that says which file was read.
    choose(
        run_as,
        me,
        &fs::read_to_string("/etc/passwd").unwrap_or_default(),
        object,
    )
}

fn choose(run_as: &RunAs, me: u32, passwd: &str, object: &str) -> Result<Option<Account>, Diagnosis> {
    let name = match run_as {
        RunAs::Daemon { allow_root } if me == 0 && !allow_root => {
            return Err(Diagnosis::new(
                Problem::RootRefused,
                object,
                "Wade runs as root and the service names no user, so it would run as root too",
                "name a `user`, or say `allowRoot: true` if that is meant",
            ));
        }
        RunAs::Daemon { .. } => return Ok(None),
        RunAs::User(name) => name,
    };
    let Some(account) = find(name, passwd) else {
        return Err(Diagnosis::new(
            Problem::UserUnavailable,
            object,
            format!("there is no user `{name}` in /etc/passwd"),
            "create the user, or write `uid:gid` for one that is managed elsewhere",
        ));
    };
    if account.uid == 0 {
        return Err(Diagnosis::new(
            Problem::RootRefused,
            object,
            format!("user `{name}` is root"),
            "name another user, or leave it out and say `allowRoot: true` if that is meant",
        ));
    }
    if me == account.uid {
        return Ok(None);
    }
    if me != 0 {
        return Err(Diagnosis::new(
            Problem::UserUnavailable,
            object,
            format!("Wade runs as user {me} and cannot become `{name}`"),
            "start Wade as root or as that user, or leave the user out",
        ));
    }
    Ok(Some(account))
}

fn find(name: &str, passwd: &str) -> Option<Account> {
    if let Some((uid, gid)) = name.split_once(':') {
        return Some(Account {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            entry: None,
        });
    }
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [found, _, uid, gid, _, home, ..] = fields[..] else {
            return None;
        };
        let entry = Some((found.to_owned(), home.to_owned()));
        (found == name).then_some(())?;
        Some(Account {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            entry,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\nweb:x:33:34:Web:/srv:/bin/false\n";

    #[test]
    fn root_takes_a_root_daemon_and_consent() {
        let user = |name: &str| RunAs::User(name.into());
        let web = Account {
            uid: 33,
            gid: 34,
            entry: Some(("web".into(), "/srv".into())),
        };
        let numeric = Account {
            uid: 1000,
            gid: 1001,
            entry: None,
        };
        let cases = [
            (RunAs::Daemon { allow_root: false }, 0, Err(Problem::RootRefused)),
            (RunAs::Daemon { allow_root: true }, 0, Ok(None)),
            (RunAs::Daemon { allow_root: false }, 1000, Ok(None)),
            (user("web"), 0, Ok(Some(web))),
            (user("web"), 33, Ok(None)),
            (user("web"), 1000, Err(Problem::UserUnavailable)),
            (user("toor"), 0, Err(Problem::RootRefused)),
            (user("0:0"), 0, Err(Problem::RootRefused)),
            (user("1000:1001"), 0, Ok(Some(numeric))),
            (user("nobody-here"), 0, Err(Problem::UserUnavailable)),
            (user("1000:"), 0, Err(Problem::UserUnavailable)),
        ];
        for (run_as, me, expected) in cases {
            assert_eq!(
                choose(&run_as, me, PASSWD, "x").map_err(|d| d.what),
                expected,
                "{run_as:?} as {me}"
            );
        }
    }
}
