//! What a daemon does not do for whoever may write a Rollout: no command, no file, no variable, no address of its own.
//!
//! A step of a pipeline acts with its caller's rights, so a Rollout may say what it likes there. A daemon acts for others
//! with rights that they do not have and from a place that they cannot reach. So what a Rollout names is either in its own
//! namespace (pods, Secrets) or at a host that an administrator allowed; everything else is refused, in words.
//!
//! Addresses are read by a grammar that is smaller than that of URLs: what two readers might read differently (users,
//! escapes, backslashes, numbers for addresses) is not an address here. Redirects are followed nowhere in Wade.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::rollout::{AddressFrom, NotifySpec, SmokeTest, Source, TraceStore, UrlFrom};

/// Hosts that an administrator allowed: `prometheus.monitoring`, or `*.monitoring.svc` for everything below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts(pub Vec<String>);

impl AllowedHosts {
    /// Whether `url` may be asked.
    ///
    /// # Errors
    /// Why not, in one sentence that does not repeat the address: it may be a secret.
    pub fn allow(&self, url: &str) -> Result<(), String> {
        allowed_target(url, &self.0)
    }

    /// What of this a daemon refuses, one sentence each.
    pub fn faults(
        &self,
        smoke: &[SmokeTest],
        source: Option<&Source>,
        traces: Option<&TraceStore>,
        notify: &[NotifySpec],
    ) -> Vec<String> {
        let smoke = smoke.iter().filter_map(smoke_fault);
        let source = source.and_then(|source| match source {
            Source::Scrape(_) => None,
            Source::Prometheus(source) => {
                self.address_fault("analysis.source", &source.url, source.token_file.as_deref())
            }
        });
        let traces = traces.map(TraceStore::address).and_then(|address| {
            self.address_fault("analysis.traces.from", &address.url, address.token_file.as_deref())
        });
        let notify = notify.iter().filter_map(notify_fault);
        smoke.chain(source).chain(traces).chain(notify).collect()
    }

    fn address_fault(&self, place: &str, url: &str, token_file: Option<&str>) -> Option<String> {
        if token_file.is_some() {
            return Some(format!(
                "{place}.tokenFile names a file of the daemon's, which no Rollout may; leave it out"
            ));
        }
        self.allow(url).err().map(|why| format!("{place}.url: {why}"))
    }
}

/// What a daemon refuses of a smoke test.
pub fn smoke_fault(test: &SmokeTest) -> Option<String> {
    match test {
        SmokeTest::Http(_) | SmokeTest::Grpc(_) => None,
        SmokeTest::Command(_) => Some(
            "smoke: a daemon in a cluster runs no commands; ask over http or grpc, or release by a step of a pipeline"
                .to_owned(),
        ),
    }
}

/// What a daemon refuses of somebody to be told.
pub fn notify_fault(told: &NotifySpec) -> Option<String> {
    let (NotifySpec::Slack(from) | NotifySpec::Webhook(from)) = told;
    match from {
        AddressFrom::SecretRef(_) => None,
        AddressFrom::UrlFrom(UrlFrom::Env(_) | UrlFrom::File(_)) => Some(
            "notify: a daemon in a cluster reads no variable and no file of its own for a Rollout; keep the address in a Secret of the namespace (secretRef)"
                .to_owned(),
        ),
    }
}

/// Whether a daemon may send a request to `url` because a Rollout, or a Secret that it names, says so.
///
/// # Errors
/// Why not, in one sentence that does not repeat the address: it may be a secret.
pub fn allowed_target(url: &str, hosts: &[String]) -> Result<(), String> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .ok_or("it is not an http or https address")?;
    if rest
        .bytes()
        .any(|byte| byte.is_ascii_control() || byte == b' ' || byte == b'\\')
    {
        return Err("the address holds characters that no address has".to_owned());
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = host(&rest[..end]).ok_or("the address's host is not a plain name with, at most, a port")?;
    if let Some(why) = address(&host).and_then(forbidden) {
        return Err(format!("the host is {why}, where a daemon asks nothing for others"));
    }
    if hosts.iter().any(|allowed| is_named(&host, allowed)) {
        Ok(())
    } else {
        Err("the host is not one that an administrator allowed (--allow-host)".to_owned())
    }
}

/// The host of `host[:port]`, in small letters.
fn host(authority: &str) -> Option<String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some("80"))?)
        }
        None => authority.rsplit_once(':').unwrap_or((authority, "80")),
    };
    port.parse::<u16>().ok()?;
    let bracketed = authority.starts_with('[');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let named = !host.is_empty() && host.bytes().all(plain) && !host.starts_with('.');
    // Numbers that are not four plain ones are addresses to some readers and names to others.
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.to_ascii_lowercase().starts_with("0x");
    let odd = number && host.parse::<Ipv4Addr>().is_err();
    (bracketed || (named && !odd)).then(|| host.trim_end_matches('.').to_ascii_lowercase())
}

fn address(host: &str) -> Option<IpAddr> {
    host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Addresses that mean this very pod, or what only a machine's own processes should reach: the metadata of a cloud.
fn forbidden(address: IpAddr) -> Option<&'static str> {
    let metadata_v6 = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match address {
        IpAddr::V4(v4) if v4.is_loopback() => Some("the daemon itself"),
        IpAddr::V6(v6) if v6.is_loopback() => Some("the daemon itself"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("link-local"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local"),
        IpAddr::V6(v6) if v6 == metadata_v6 => Some("a cloud's metadata"),
        // Alibaba Cloud's metadata.
        IpAddr::V4(v4) if v4 == Ipv4Addr::new(100, 100, 100, 200) => Some("a cloud's metadata"),
        _ if address.is_unspecified() || address.is_multicast() => Some("no single host"),
        IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0 => Some("no single host"),
        _ => None,
    }
}

/// Whether an administrator's entry names the host. Wildcards stand for names, never for addresses.
fn is_named(host: &str, allowed: &str) -> bool {
    let allowed = allowed.trim_matches(['[', ']']).to_ascii_lowercase();
    match allowed.strip_prefix("*.") {
        Some(below) => {
            !below.is_empty()
                && address(host).is_none()
                && host
                    .strip_suffix(below)
                    .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        }
        None => !allowed.is_empty() && host == allowed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(url: &str) -> bool {
        let hosts = [
            "prom.monitoring",
            "*.hooks.example",
            "10.0.0.7",
            "169.254.169.254",
            "localhost.evil",
            "[2001:db8::1]",
        ];
        allowed_target(url, &hosts.map(str::to_owned)).is_ok()
    }

    #[test]
    fn only_hosts_that_an_administrator_named_are_asked() {
        for fine in [
            "http://prom.monitoring",
            "http://prom.monitoring:9090/api/v1",
            "https://PROM.monitoring./x?y#z",
            "https://a.hooks.example/T0/B0",
            "https://a.b.hooks.example",
            "http://10.0.0.7:80",
            "http://[2001:db8::1]:8080/x",
        ] {
            assert!(allowed(fine), "{fine}");
        }
        for refused in [
            "",
            "prom.monitoring",
            "file:///etc/passwd",
            "gopher://prom.monitoring",
            "HTTP://prom.monitoring",
            "http://",
            "http:///x",
            "http://hooks.example",
            "http://evilhooks.example",
            "http://.hooks.example",
            "http://prom.monitoring.evil",
            "http://prom.monitoring@evil/",
            "http://evil#@prom.monitoring",
            "http://evil\\@prom.monitoring",
            "http://evil/@prom.monitoring",
            "http://prom.monitoring:99999",
            "http://prom.monitoring:80@evil",
            "http://prom.monitoring%2eevil",
            "http://prom.monitoring\n",
            "http://prom.monitoring evil",
            "http://10.0.0.8",
            "http://2130706433/",
            "http://127.1",
            "http://0x7f.1",
            "http://[::1",
            "http://[::1]x",
            "http://[prom.monitoring]",
        ] {
            assert!(!allowed(refused), "{refused}");
        }
    }

    #[test]
    fn no_administrator_can_allow_the_metadata_of_a_machine_by_mistake() {
        let all: Vec<String> = [
            "169.254.169.254",
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "fd00:ec2::254",
            "fe80::1",
            "100.100.100.200",
            "::ffff:169.254.169.254",
            "*.254",
            "*",
            "*.",
            "224.0.0.1",
        ]
        .map(str::to_owned)
        .to_vec();
        for url in [
            "http://169.254.169.254/latest/meta-data",
            "http://127.0.0.1:9090",
            "http://[::1]/",
            "http://0.0.0.0/",
            "http://[fd00:ec2::254]/",
            "http://[fe80::1]/",
            "http://100.100.100.200/",
            "http://[::ffff:169.254.169.254]/",
            "http://224.0.0.1/",
            "http://anything.else/",
        ] {
            assert!(allowed_target(url, &all).is_err(), "{url}");
        }
    }

    #[test]
    fn a_rollout_makes_a_daemon_run_nothing_and_read_nothing_of_its_own() {
        let smoke: Vec<SmokeTest> =
            serde_json::from_str(r#"[{"http": "/x"}, {"command": ["cat", "/etc/shadow"]}]"#).expect("smoke tests");
        let source: Source = serde_json::from_str(
            r#"{"prometheus": {"url": "http://prom", "tokenFile": "/var/run/secrets/token", "canary": "a", "stable": "b"}}"#,
        )
        .expect("a source");
        let store: TraceStore =
            serde_json::from_str(r#"{"tempo": {"url": "http://169.254.169.254"}}"#).expect("a store");
        let notify: Vec<NotifySpec> = serde_json::from_str(
            r#"[{"webhook": {"secretRef": "own"}}, {"slack": {"urlFrom": {"env": "PATH"}}}, {"webhook": {"urlFrom": {"file": "/x"}}}]"#,
        )
        .expect("people to tell");
        let faults = AllowedHosts(vec!["prom".to_owned()]).faults(&smoke, Some(&source), Some(&store), &notify);
        let places: Vec<&str> = faults
            .iter()
            .filter_map(|fault| fault.split([':', ' ']).next())
            .collect();
        assert_eq!(
            places,
            [
                "smoke",
                "analysis.source.tokenFile",
                "analysis.traces.from.url",
                "notify",
                "notify"
            ]
        );
        assert_eq!(
            AllowedHosts::default().faults(&smoke[..1], None, None, &notify[..1]),
            Vec::<String>::new()
        );
    }
}
