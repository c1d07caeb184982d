//! Who is at the other end of the unix socket, as the kernel and the user database say.

use crate::engine::Actor;

/// The user behind `uid` with the groups that `/etc/group` lists; the bare number if the database does not know it.
pub fn actor(uid: u32, gid: u32) -> Actor {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    actor_from(uid, gid, &passwd, &groups)
}

fn actor_from(uid: u32, gid: u32, passwd: &str, groups: &str) -> Actor {
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let user = passwd
        .lines()
        .map(fields)
        .find(|line| line.get(2).is_some_and(|id| *id == uid.to_string()))
        .and_then(|line| line.into_iter().next())
        .unwrap_or_else(|| uid.to_string());
    let groups = groups
        .lines()
        .map(fields)
        .filter(|line| {
            let own = line.get(2).is_some_and(|id| *id == gid.to_string());
            own || line
                .get(3)
                .is_some_and(|members| members.split(',').any(|member| member == user))
        })
        .filter_map(|line| line.into_iter().next())
        .collect();
    Actor {
        user,
        groups,
        from: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_groups_come_from_the_database_and_unknown_ids_stay_numbers() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\n";
        let groups = "users:x:100:\npayments:x:200:bob,ann\nother:x:300:bob\n";
        let expected = Actor {
            user: "ann".to_owned(),
            groups: vec!["users".to_owned(), "payments".to_owned()],
            from: None,
        };
        assert_eq!(actor_from(1000, 100, passwd, groups), expected);
        assert_eq!(
            actor_from(4711, 9, passwd, groups),
            Actor {
                user: "4711".to_owned(),
                groups: Vec::new(),
                from: None,
            }
        );
    }
}
