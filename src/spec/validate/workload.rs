//! The workload, its variables, where its traffic comes in and the smoke tests that ask it.

use std::net::SocketAddr;

use super::super::fault::{Fault, Path, clip};
use super::super::rollout::{
    HttpSmoke, ProcessWorkload, Ready, Rollout, SmokeTest, Source, StrategyChoice, Traffic, Workload,
};
use super::super::strategies::builtin;
use super::super::vars::{self, CONTRACT, VERSION};
use super::{Note, check_header, check_label, check_not_zero, check_url_path, first_weight, is_token};

pub(super) fn check(rollout: &Rollout, faults: &mut Vec<Fault>) {
    let spec = &rollout.spec;
    check_variables(rollout, faults);
    match &spec.workload {
        Workload::Process(process) => check_process(rollout, process, faults),
        Workload::Deployment(name) => check_label(&Path::of("spec.workload.deployment"), name, faults),
    }
    if let Some(traffic) = &spec.traffic {
        check_traffic(traffic, faults);
    }
    for (index, test) in spec.smoke.iter().enumerate() {
        let path = Path::of("spec.smoke").index(index);
        let within = match test {
            SmokeTest::Http(http) => {
                check_http(&path, http, faults);
                http.within
            }
            SmokeTest::Grpc(grpc) => grpc.within,
            SmokeTest::Command(command) => {
                check_program(&path.key("command"), &command.command, faults);
                command.within
            }
        };
        check_not_zero(&path.key("within"), within, "no answer comes in no time", faults);
        let portless = matches!(&spec.workload, Workload::Process(process) if process.port.is_none());
        if portless && !matches!(test, SmokeTest::Command(_)) {
            let fault = Fault::new(path, "the processes have no port to ask");
            faults.push(fault.help("write `port: auto` in `spec.workload.process`, or test with a `command`"));
        }
    }
}

fn check_variables(rollout: &Rollout, faults: &mut Vec<Fault>) {
    let path = Path::of("spec.variables");
    for (name, variable) in &rollout.spec.variables {
        let path = path.key(name);
        let reserved = if name == VERSION {
            Some("`version` is always declared; which ones are accepted is said in `spec.versions`")
        } else if CONTRACT.contains(&name.as_str()) || name.starts_with("WADE_") {
            Some("Wade gives this one to every process itself; choose another name")
        } else {
            None
        };
        if let Some(help) = reserved {
            faults.push(Fault::new(path.clone(), format!("`{name}` is reserved")).help(help));
        }
        let usable = name.len() <= 64
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !usable {
            let fault = Fault::new(path.clone(), "this is not a usable name").found(format!("`{name}`"));
            faults.push(fault.help("write letters, digits and `_`, a letter first, at most 64"));
        }
        if let Some(default) = &variable.default
            && !variable.one_of.is_empty()
            && !variable.one_of.contains(default)
        {
            let fault = Fault::new(path.key("default"), "the default is none of the accepted values");
            faults.push(
                fault
                    .found(format!("`{default}`"))
                    .help(format!("write one of {}", clip(&variable.one_of.join(", ")))),
            );
        }
    }
}

/// Whether every process has a value for `name` without anybody declaring it.
fn given_by_wade(name: &str) -> bool {
    name == VERSION || CONTRACT.contains(&name)
}

fn check_process(rollout: &Rollout, process: &ProcessWorkload, faults: &mut Vec<Fault>) {
    let path = Path::of("spec.workload.process");
    let spec = &rollout.spec;
    check_program(&path.key("command"), &process.command, faults);

    let mut names: Vec<&str> = vec![VERSION];
    names.extend(
        spec.variables
            .keys()
            .map(String::as_str)
            .filter(|name| !given_by_wade(name)),
    );
    names.extend(
        CONTRACT
            .iter()
            .filter(|name| **name != "PORT" || process.port.is_some()),
    );
    let arguments = process
        .command
        .iter()
        .enumerate()
        .map(|(index, text)| (path.key("command").index(index), text));
    let environment = process.env.iter().map(|(name, text)| (path.key("env").key(name), text));
    let workdir = process.workdir.iter().map(|text| (path.key("workdir"), text));
    for (path, text) in arguments.chain(environment).chain(workdir) {
        if let Err(error) = vars::check(text, &names) {
            let sentence = error.to_string();
            let mut fault = super::sentence(path.clone(), &sentence).found(format!("`{text}`"));
            if text.contains("${PORT}") && process.port.is_none() {
                fault.help = "write `port: auto` in `spec.workload.process`, which gives PORT a value".to_owned();
            }
            faults.push(fault);
        }
        if text.contains('\0') {
            faults.push(Fault::new(path, "a process cannot be given a zero byte").help("remove it"));
        }
    }
    for name in process.env.keys() {
        let path = path.key("env").key(name);
        if CONTRACT.contains(&name.as_str()) || name.starts_with("WADE_") {
            let fault = Fault::new(path.clone(), format!("`{name}` is given by Wade itself"));
            faults.push(fault.help("remove it, or pass its value under another name, like `MY_PORT: ${PORT}`"));
        } else if name.is_empty() || name.contains(['=', '\0']) {
            let fault = Fault::new(path.clone(), "this is not a name for the environment").found(format!("`{name}`"));
            faults.push(fault.help("write letters, digits and `_`"));
        }
    }
    if let Some(metrics) = &process.metrics {
        check_url_path(&path.key("metrics").key("path"), &metrics.path, faults);
    }
    match &process.ready {
        Some(Ready::Http(ready)) => check_url_path(&path.key("ready").key("http"), ready, faults),
        Some(Ready::Tcp(false)) => {
            let fault = Fault::new(path.key("ready").key("tcp"), "`tcp: false` checks nothing");
            faults.push(
                fault
                    .found("`false`")
                    .help("write `tcp: true`, or another check: `http` or `command`"),
            );
        }
        Some(Ready::Command(command)) => check_program(&path.key("ready").key("command"), command, faults),
        Some(Ready::Tcp(true)) | None => {}
    }
    if process.user.as_ref().is_some_and(|user| user.trim().is_empty()) {
        faults.push(Fault::new(path.key("user"), "the user has no name").help("write a user name, or remove the line"));
    }
    check_port(rollout, process, &path, faults);
}

/// A port and what needs one must come together.
fn check_port(rollout: &Rollout, process: &ProcessWorkload, path: &Path, faults: &mut Vec<Fault>) {
    let asks_port = matches!(process.ready, Some(Ready::Http(_) | Ready::Tcp(true)));
    let has_traffic = rollout.spec.traffic.is_some();
    if process.port.is_none() {
        if has_traffic {
            let fault = Fault::new(
                Path::of("spec.traffic"),
                "requests come in, but the processes have no port",
            );
            faults.push(fault.help("write `port: auto` in `spec.workload.process` and listen on `${PORT}`"));
        }
        if asks_port {
            let fault = Fault::new(path.key("ready"), "this asks the port, but the processes have none");
            faults.push(fault.help("write `port: auto`, or check with a `command`"));
        }
        if process.metrics.is_some() {
            let fault = Fault::new(
                path.key("metrics"),
                "metrics are read from the port, but the processes have none",
            );
            faults.push(fault.help("write `port: auto`, or remove the line"));
        }
        return;
    }
    // A worker may well have a port for its metrics or health alone.
    let other_use = asks_port
        || process.metrics.is_some()
        || matches!(rollout.spec.analysis.source, Some(Source::Scrape(_)))
        || rollout
            .spec
            .smoke
            .iter()
            .any(|test| !matches!(test, SmokeTest::Command(_)));
    if !has_traffic && !other_use {
        let fault = Fault::new(path.key("port"), "the processes get a port that nothing uses");
        faults.push(fault.help("say where requests come in, `traffic: {listen: 127.0.0.1:8080}`, or remove `port`"));
    }
}

fn check_program(path: &Path, command: &[String], faults: &mut Vec<Fault>) {
    if command.first().is_none_or(|program| program.trim().is_empty()) {
        let fault = Fault::new(path.clone(), "there is no program to start");
        faults.push(fault.help("write the program first, then its arguments, like `[./hello, --port, \"${PORT}\"]`"));
    }
}

fn check_traffic(traffic: &Traffic, faults: &mut Vec<Fault>) {
    let path = Path::of("spec.traffic");
    if let Some(listen) = &traffic.listen
        && listen.parse::<SocketAddr>().is_err()
    {
        let help = match listen.rsplit_once(':') {
            Some(("" | "*", port)) => format!("write the address too: `127.0.0.1:{port}`, or `0.0.0.0:{port}` for all"),
            Some(("localhost", port)) => format!("write the address in numbers: `127.0.0.1:{port}`"),
            _ => "write an address and a port, like `127.0.0.1:8080`; port 0 takes a free one".to_owned(),
        };
        let fault = Fault::new(path.key("listen"), "this is not an address to listen on").found(format!("`{listen}`"));
        faults.push(fault.help(help));
    }
    if let Some(sticky) = &traffic.sticky {
        let path = path.key("sticky");
        if !is_token(&sticky.cookie) {
            let fault = Fault::new(path.key("cookie"), "this is not the name of a cookie");
            faults.push(
                fault
                    .found(format!("`{}`", sticky.cookie))
                    .help("write letters, digits, `-` and `_`, like `wade-side`"),
            );
        }
        check_not_zero(
            &path.key("ttl"),
            sticky.ttl,
            "a cookie that lives for no time keeps nobody",
            faults,
        );
    }
    check_not_zero(
        &path.key("answerWithin"),
        traffic.answer_within,
        "no answer comes in no time",
        faults,
    );
}

fn check_http(path: &Path, http: &HttpSmoke, faults: &mut Vec<Fault>) {
    check_url_path(&path.key("http"), &http.http, faults);
    if let Some(method) = &http.method
        && (!is_token(method) || method.chars().any(|c| c.is_ascii_lowercase()))
    {
        let fault = Fault::new(path.key("method"), "this is not an HTTP method").found(format!("`{method}`"));
        faults.push(fault.help("write it in capitals, like `POST`"));
    }
    for (field, headers) in [("headers", &http.headers), ("expectHeaders", &http.expect_headers)] {
        for (name, value) in headers {
            check_header(&path.key(field).key(name), name, value, faults);
        }
    }
    for query in http.json.keys() {
        if let Err(error) = serde_json_path::JsonPath::parse(query) {
            let fault = Fault::new(path.key("json").key(query), format!("this is not a JSON path: {error}"));
            faults.push(
                fault
                    .found(format!("`{query}`"))
                    .help("write it as RFC 9535 does, like `$.status` or `$.items[0].id`"),
            );
        }
    }
}

pub(super) fn notes(rollout: &Rollout) -> Vec<Note> {
    let spec = &rollout.spec;
    let mut notes = Vec::new();
    let listen = spec.traffic.as_ref().and_then(|traffic| traffic.listen.as_ref());
    if let Some(address) = listen.and_then(|listen| listen.parse::<SocketAddr>().ok())
        && !address.ip().is_loopback()
    {
        notes.push(Note {
            path: Path::of("spec.traffic.listen"),
            text: format!("{address} can be reached from other machines, without TLS"),
        });
    }
    let Workload::Process(process) = &spec.workload else {
        return notes;
    };
    let strategy = match &spec.strategy {
        StrategyChoice::Inline(strategy) => Some(strategy),
        StrategyChoice::Named(named) => builtin(&named.name).map(|file| &file.spec.strategy),
    };
    let instances = process.instances.unwrap_or(1);
    let Some(weight) = strategy.and_then(first_weight) else {
        return notes;
    };
    let needed = (f64::from(instances) * weight.fraction()).ceil().max(1.0);
    let path = Path::of("spec.workload.process.instances");
    if spec.traffic.is_none() {
        let share = 100.0 * needed / f64::from(instances);
        notes.push(Note {
            path,
            text: format!(
                "without `traffic` the share of instances is the split: the first step of {weight} is {needed} of {instances} ({share:.0}%)"
            ),
        });
    } else if needed < f64::from(instances) {
        notes.push(Note {
            path,
            text: format!(
                "the first step of {weight} starts {needed} of {instances} instances; more follow as it grows"
            ),
        });
    }
    notes
}
