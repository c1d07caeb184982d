//! What a schema cannot say: whether the fields of a Rollout make sense together.
//!
//! Every check adds its own fault and looks at the typed value alone, so a Rollout that arrives over the API is checked
//! like one from a file. Silence is respected: what neither the rollout nor its strategy says is `plan`'s to fill in,
//! and what can only be known when both are laid over each other is checked by [`super::resolve`].
//!
//! Beside faults there are [`Note`]s: true, worth a line before a release, and nobody's mistake.

mod analysis;
mod strategy;
mod workload;

use super::config::Config;
use super::fault::{Fault, Path};
use super::rollout::{
    API_VERSION, AddressFrom, Finish, Freeze, GateSpec, Limits, Mode, NotifySpec, OpenWindow, Rollout, Step, Strategy,
    StrategyChoice, StrategyFile, UrlFrom, Windows, Workload,
};
use super::values::Span;
use super::windows::{end_of_window, time_of_day, zone};

pub(super) use analysis::{check_analysis, check_sources};
pub(super) use strategy::{check_fit, check_steps, check_strategy};

/// `limits.ready` if not said.
pub const DEFAULT_READY: Span = Span::secs(300);
/// `limits.settle` if not said.
pub const DEFAULT_SETTLE: Span = Span::secs(5);

/// Something worth saying about a valid rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The field it is about.
    pub path: Path,
    /// One sentence.
    pub text: String,
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.text)
    }
}

/// Everything that is wrong with the meaning of `rollout`, without places; empty if nothing is.
pub fn validate(rollout: &Rollout) -> Vec<Fault> {
    let mut faults = Vec::new();
    check_head(&rollout.api_version, &rollout.kind, "Rollout", &mut faults);
    check_label(&Path::of("metadata.name"), &rollout.metadata.name, &mut faults);
    if let Some(namespace) = &rollout.metadata.namespace {
        check_label(&Path::of("metadata.namespace"), namespace, &mut faults);
    }
    let spec = &rollout.spec;
    workload::check(rollout, &mut faults);
    match &spec.strategy {
        StrategyChoice::Named(named) => {
            let path = Path::of("spec.strategy.with");
            if let Some(steps) = named.with.as_ref().and_then(|with| with.steps.as_ref()) {
                check_steps(&path.key("steps"), steps, &mut faults);
            }
            if let Some(matching) = named.with.as_ref().and_then(|with| with.matching.as_ref()) {
                strategy::check_match(&path.key("match"), matching, &mut faults);
            }
        }
        StrategyChoice::Inline(strategy) => {
            let path = Path::of("spec.strategy");
            check_strategy(&path, strategy, &mut faults);
            check_fit(&path, rollout, strategy, &mut faults);
        }
    }
    check_analysis(&Path::of("spec.analysis"), &spec.analysis, &mut faults);
    check_gates(&spec.gates, &mut faults);
    if let Some(windows) = &spec.windows {
        check_windows(windows, &mut faults);
    }
    check_limits(&Path::of("spec.limits"), &spec.limits, &mut faults);
    check_finish(rollout, &mut faults);
    check_notify(rollout, &mut faults);
    super::hooks::check(rollout, &mut faults);
    faults
}

/// Everything that is wrong with the meaning of a strategy file, without places; empty if nothing is.
pub fn validate_strategy(file: &StrategyFile) -> Vec<Fault> {
    let mut faults = Vec::new();
    check_head(&file.api_version, &file.kind, "Strategy", &mut faults);
    check_label(&Path::of("metadata.name"), &file.metadata.name, &mut faults);
    check_strategy(&Path::of("spec.strategy"), &file.spec.strategy, &mut faults);
    check_analysis(&Path::of("spec.analysis"), &file.spec.analysis, &mut faults);
    check_limits(&Path::of("spec.limits"), &file.spec.limits, &mut faults);
    faults
}

/// Everything that is wrong with the meaning of the daemon's configuration; empty if nothing is.
pub(super) fn validate_config(config: &Config) -> Vec<Fault> {
    let mut faults = Vec::new();
    check_head(&config.api_version, &config.kind, "Config", &mut faults);
    if let Some(http) = &config.http {
        let address = http.listen.parse::<std::net::SocketAddr>();
        if !address.is_ok_and(|address| address.ip().is_loopback()) {
            let fault = Fault::new(
                Path::of("http.listen"),
                "the daemon takes commands over HTTP on loopback only, at an address with a port",
            );
            faults.push(fault.found(format!("`{}`", http.listen)).help(
                "only loopback addresses are allowed, like `127.0.0.1:7711`; put a proxy with TLS in front for others",
            ));
        }
    }
    faults
}

/// What is worth saying about a valid rollout.
pub fn notes(rollout: &Rollout) -> Vec<Note> {
    let spec = &rollout.spec;
    let mut notes = workload::notes(rollout);
    if spec.mode == Mode::Observe {
        notes.push(Note {
            path: Path::of("spec.mode"),
            text: "Wade only says what it would have done: it shifts no traffic and takes nothing back".to_owned(),
        });
        if !spec.gates.is_empty() {
            notes.push(Note {
                path: Path::of("spec.gates"),
                text: "gates stop nothing while `mode` is `observe`".to_owned(),
            });
        }
    }
    notes
}

fn check_head(api_version: &str, kind: &str, expected: &str, faults: &mut Vec<Fault>) {
    for (field, value, expected) in [("apiVersion", api_version, API_VERSION), ("kind", kind, expected)] {
        if value != expected {
            let fault = Fault::new(Path::of(field), "Wade does not read this").found(format!("`{value}`"));
            faults.push(fault.help(format!("write `{field}: {expected}`")));
        }
    }
}

/// A name as DNS takes it (RFC 1123 label), because it becomes part of names elsewhere.
pub(super) fn check_label(path: &Path, name: &str, faults: &mut Vec<Fault>) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 63 || !name.chars().all(allowed) || name.starts_with('-') || name.ends_with('-')
    {
        let fault = Fault::new(path.clone(), "this is not a usable name").found(format!("`{name}`"));
        faults.push(fault.help("write at most 63 lower-case letters, digits and `-`, like `check-out2`, with a letter or digit at both ends"));
    }
}

fn check_finish(rollout: &Rollout, faults: &mut Vec<Fault>) {
    if rollout.spec.finish == Finish::Rolling && matches!(rollout.spec.workload, Workload::Process(_)) {
        let fault = Fault::new(Path::of("spec.finish"), "there is no rolling update on one machine");
        faults.push(fault.found("`rolling`").help("leave it out, or write `full`"));
    }
}

fn check_notify(rollout: &Rollout, faults: &mut Vec<Fault>) {
    let path = Path::of("spec.notify");
    for (index, notify) in rollout.spec.notify.iter().enumerate() {
        let (word, from) = match notify {
            NotifySpec::Slack(from) => ("slack", from),
            NotifySpec::Webhook(from) => ("webhook", from),
        };
        let path = path.index(index).key(word);
        let in_cluster = matches!(rollout.spec.workload, Workload::Deployment(_));
        let (path, said) = match from {
            AddressFrom::SecretRef(name) if !in_cluster => {
                let fault = Fault::new(path.key("secretRef"), "there are no Secrets on one machine");
                faults.push(
                    fault
                        .found(format!("`{name}`"))
                        .help("name a file or a variable: `urlFrom: {file: /etc/wade/slack}`"),
                );
                continue;
            }
            AddressFrom::SecretRef(name) => (path.key("secretRef"), name),
            AddressFrom::UrlFrom(UrlFrom::Env(name)) => (path.key("urlFrom").key("env"), name),
            AddressFrom::UrlFrom(UrlFrom::File(name)) => (path.key("urlFrom").key("file"), name),
        };
        if said.contains("://") {
            // The address itself must not stand here, and not in this fault either.
            let fault = Fault::new(path, "this is an address, and whoever reads it may post there");
            faults.push(fault.help("keep the address in a Secret, a file or a variable, and name that"));
        } else if said.trim().is_empty() {
            faults.push(Fault::new(path, "nothing is named").help("name where the address is kept, like `shop-slack`"));
        }
    }
}

fn check_gates(gates: &[GateSpec], faults: &mut Vec<Fault>) {
    let path = Path::of("spec.gates");
    for (index, gate) in gates.iter().enumerate() {
        let path = path.index(index);
        // Every strategy ends at 100 %, so a gate before any weight above zero has a stage behind it.
        if gate.before.is_zero() {
            let fault = Fault::new(
                path.key("before"),
                "no stage is behind this gate: nothing has a weight of 0%",
            );
            faults.push(
                fault
                    .found("`0%`")
                    .help("name the weight it stands before, like `before: 50%`"),
            );
        }
        if let Some(first) = gates[..index].iter().position(|other| other.before == gate.before) {
            let problem = format!("gates[{first}] already stands before {}", gate.before);
            faults.push(Fault::new(path.key("before"), problem).help("join the two: list all approvers in one gate"));
        }
        strategy::check_approvers(&path.key("approvers"), &gate.approvers, faults);
        check_not_zero(
            &path.key("expires"),
            gate.expires,
            "a gate that expires at once never opens",
            faults,
        );
    }
}

fn check_windows(windows: &Windows, faults: &mut Vec<Fault>) {
    let path = Path::of("spec.windows");
    for (index, window) in windows.open.iter().enumerate() {
        check_open_window(&path.key("open").index(index), window, faults);
    }
    for (index, freeze) in windows.freezes.iter().enumerate() {
        check_freeze(&path.key("freezes").index(index), freeze, faults);
    }
}

fn check_open_window(path: &Path, window: &OpenWindow, faults: &mut Vec<Fault>) {
    let problems = [
        ("from", time_of_day(&window.from).err()),
        ("to", end_of_window(&window.to).err()),
        ("zone", zone(&window.zone).err()),
    ];
    faults.extend(
        problems
            .into_iter()
            .filter_map(|(field, problem)| Some(sentence(path.key(field), &problem?))),
    );
    if window.from == window.to {
        let fault = Fault::new(path.key("to"), "the window ends when it begins").found(format!("`{}`", window.to));
        faults.push(fault.help("write `from: 00:00` and `to: 24:00` for the whole day"));
    }
    for (index, day) in window.days.iter().enumerate() {
        if window.days[..index].contains(day) {
            let fault = Fault::new(path.key("days").index(index), format!("{day:?} is written twice"));
            faults.push(fault.help("remove one"));
        }
    }
}

fn check_freeze(path: &Path, freeze: &Freeze, faults: &mut Vec<Fault>) {
    match freeze.span() {
        Ok((from, to)) if from >= to => {
            let fault = Fault::new(path.key("to"), "the freeze ends before it begins")
                .found(format!("`{}` after `from: {}`", freeze.to, freeze.from));
            faults.push(fault.help("write a later moment; a plain date includes the whole day"));
        }
        Ok(_) => {}
        Err(problem) => {
            // The sentence begins with the text that could not be read, which tells the field.
            let field = ["from", "to"]
                .into_iter()
                .zip([&freeze.from, &freeze.to])
                .find(|(_, text)| problem.starts_with(&format!("`{text}`")))
                .map_or("zone", |(field, _)| field);
            faults.push(sentence(path.key(field), &problem));
        }
    }
    if freeze.why.trim().is_empty() {
        let fault = Fault::new(path.key("why"), "the freeze has no reason");
        faults.push(fault.help("say why; everybody who is stopped by it reads this"));
    }
}

pub(super) fn check_limits(path: &Path, limits: &Limits, faults: &mut Vec<Fault>) {
    for (field, limit) in [
        ("ready", limits.ready),
        ("smoke", limits.smoke),
        ("gate", limits.gate),
        ("release", limits.release),
    ] {
        check_not_zero(&path.key(field), limit, "nothing can be done in no time", faults);
    }
    let said = limits.ready.or(limits.settle).is_some();
    let (ready, settle) = (
        limits.ready.unwrap_or(DEFAULT_READY),
        limits.settle.unwrap_or(DEFAULT_SETTLE),
    );
    if said && settle >= ready {
        let field = if limits.settle.is_some() { "settle" } else { "ready" };
        let fault = Fault::new(path.key(field), "no revision could become ready in time")
            .found(format!("settle {settle}, ready {ready}"));
        faults.push(fault.help("`ready` bounds the whole start, so it has to be longer than `settle`"));
    }
    if let (Some(release), Some(ready)) = (limits.release, limits.ready)
        && release <= ready
    {
        let fault = Fault::new(path.key("release"), "the whole release is shorter than its first part")
            .found(format!("release {release}, ready {ready}"));
        faults.push(fault.help("write a longer `release` or a shorter `ready`"));
    }
}

/// The first share of traffic that the new version gets, unless it gets everything at once.
fn first_weight(strategy: &Strategy) -> Option<super::values::Weight> {
    let steps = match strategy {
        Strategy::Canary(canary) => &canary.steps,
        Strategy::Ab(ab) => &ab.steps,
        Strategy::Shadow(shadow) => &shadow.steps,
        Strategy::BlueGreen(_) => return None,
    };
    steps.iter().find_map(|step| match step {
        Step::Weight(step) => Some(step.weight),
        Step::Pause(_) | Step::Gate(_) => None,
    })
}

pub(super) fn check_not_zero(path: &Path, span: Option<Span>, problem: &str, faults: &mut Vec<Fault>) {
    if span.is_some_and(|span| span.0.is_zero()) {
        let fault = Fault::new(path.clone(), problem).found("`0s`");
        faults.push(fault.help("write a longer time, or remove the line for the default"));
    }
}

fn check_url_path(path: &Path, text: &str, faults: &mut Vec<Fault>) {
    let usable = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains('#');
    if !usable {
        let fault = Fault::new(path.clone(), "this is not a path").found(format!("`{text}`"));
        faults.push(fault.help("write the path alone, beginning with `/`, like `/healthz`; Wade knows the address"));
    }
}

/// A token of RFC 9110, section 5.6.2: header names, cookie names, methods.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn check_header(path: &Path, name: &str, value: &str, faults: &mut Vec<Fault>) {
    if !is_token(name) {
        let fault = Fault::new(path.clone(), "this is not a header name").found(format!("`{name}`"));
        faults.push(fault.help("write letters, digits and `-`, like `X-Request-Id`, without the colon"));
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        let fault = Fault::new(path.clone(), "a header cannot hold line breaks or control characters");
        faults.push(fault.found(format!("`{value}`")).help("write the value on one line"));
    }
}

/// A fault from a sentence of the form "what is wrong; what to write".
fn sentence(path: Path, text: &str) -> Fault {
    let (problem, help) = text.rsplit_once("; ").unwrap_or((text, ""));
    Fault::new(path, problem).help(help)
}

#[cfg(test)]
mod tests {
    use super::super::read_rollout;

    /// What is said of a rollout that notifies like this.
    fn said(workload: &str, notify: &str) -> String {
        let text = format!(
            "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: x}}\nspec:\n  workload: {workload}\n  notify: [{notify}]\n"
        );
        read_rollout(&text, "x.yaml").map_or_else(|faults| faults.to_string(), |_| String::new())
    }

    #[test]
    fn who_is_told_is_referred_to_and_reachable_from_where_it_runs() {
        let (deployment, process) = ("{deployment: x}", "{process: {command: [./x]}}");
        assert_eq!(
            said(
                deployment,
                "{slack: {secretRef: shop-slack}}, {webhook: {urlFrom: {env: X}}}"
            ),
            ""
        );
        assert_eq!(said(process, "{slack: {urlFrom: {file: /etc/slack}}}"), "");
        let secret = said(process, "{slack: {secretRef: shop-slack}}");
        assert!(secret.contains("spec.notify[0].slack.secretRef"), "{secret}");
        let address = said(deployment, "{webhook: {urlFrom: {env: \"https://hooks.example/T0\"}}}");
        assert!(
            address.contains("this is an address") && !address.contains("hooks.example/T0"),
            "{address}"
        );
        assert!(said(deployment, "{webhook: {urlFrom: {file: \"\"}}}").contains("nothing is named"));
    }
}
