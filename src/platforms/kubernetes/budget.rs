//! Room for the canary beside stable: quotas exactly, nodes roughly.
//!
//! A quota is a sum that the API server keeps, so what it allows can be worked out to the byte. A node is the
//! scheduler's business; here only what it looks at first (requests, selectors, taints), so the answer is a warning and
//! never a refusal. LimitRanges are not read: a request that one would fill in counts as nothing.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::isolation::matches;
use crate::apiserver::value::{condition, flag, list, name, text};

/// Parts of a unit: quantities go down to `n`.
const NANO: i128 = 1_000_000_000;

/// An amount of something, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i128);

impl Quantity {
    /// A whole number.
    pub const fn whole(number: u32) -> Self {
        Self(number as i128 * NANO)
    }

    /// What Kubernetes writes: `500m`, `64Mi`, `1.5`, `2e3`. What is finer than a billionth is rounded up, as there.
    pub fn parse(text: &str) -> Option<Self> {
        let number_ends = text
            .find(|c: char| !c.is_ascii_digit() && !"+-.".contains(c))
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(number_ends);
        let (negative, digits) = match number.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.len() + part.len() == 0 || part.contains('.') || digits.contains(['+', '-']) {
            return None;
        }
        let mantissa: i128 = format!("{whole}{part}").parse().ok()?;
        let (times, over) = scale(suffix)?;
        let over = over.checked_mul(10_i128.checked_pow(u32::try_from(part.len()).ok()?)?)?;
        let amount = mantissa.checked_mul(times)?;
        let amount = amount.checked_add(over - 1)?.checked_div(over)?;
        Some(Self(if negative { -amount } else { amount }))
    }

    fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// How often `part` goes into this.
    fn holds(self, part: Self) -> u32 {
        match part.0 {
            ..=0 => u32::MAX,
            part => u32::try_from((self.0 / part).max(0)).unwrap_or(u32::MAX),
        }
    }
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not Ki: 1024 pods are 1024 pods.
        const BINARY: [(&str, u32); 3] = [("Ti", 40), ("Gi", 30), ("Mi", 20)];
        let whole = self.0 / NANO;
        if self.0 % NANO != 0 {
            return write!(f, "{}m", self.0.unsigned_abs().div_ceil(1_000_000));
        }
        let fits = |unit: &&(&str, u32)| whole != 0 && whole % (1 << unit.1) == 0;
        match BINARY.iter().find(fits) {
            Some((suffix, bits)) => write!(f, "{}{suffix}", whole >> bits),
            None => write!(f, "{whole}"),
        }
    }
}

/// What a suffix multiplies by and divides by, in billionths.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    const THOUSANDS: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(power) = THOUSANDS.iter().position(|one| *one == suffix) {
        return Some((NANO * 1000_i128.pow(power as u32), 1));
    }
    if let Some(power) = BINARY.iter().position(|one| *one == suffix) {
        return Some((NANO << (10 * power), 1));
    }
    match suffix {
        "n" => Some((1, 1)),
        "u" => Some((1000, 1)),
        "m" => Some((1_000_000, 1)),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128
                .checked_pow(exponent.unsigned_abs())
                .filter(|_| exponent.abs() <= 18)?;
            Some(if exponent < 0 { (NANO, power) } else { (NANO * power, 1) })
        }
    }
}

/// Amounts by resource name.
type Amounts = BTreeMap<String, Quantity>;

/// Whether the quotas of a namespace leave room for so many more pods of a template.
///
/// # Errors
/// Which quota does not, of which resource, and for how many pods there is room.
pub fn quota_room(quotas: &[Value], template: &Value, more_pods: u32) -> Result<(), String> {
    for quota in quotas.iter().filter(|quota| covers(quota, template)) {
        let hard = quota.pointer("/status/hard").or_else(|| quota.pointer("/spec/hard"));
        for (resource, hard) in hard.and_then(Value::as_object).into_iter().flatten() {
            let used = quota.pointer("/status/used").and_then(|used| used.get(resource));
            let (Some(hard), Some(used)) = (quantity(hard), used.map_or(Some(Quantity(0)), quantity)) else {
                continue;
            };
            let Some(each) = each_pod(template, resource).filter(|each| *each > Quantity(0)) else {
                continue;
            };
            let fit = hard.minus(used).holds(each);
            if fit < more_pods {
                return Err(format!(
                    "quota {} has room for {fit} of {more_pods} more pods: {used} of {hard} {resource} are used, and \
                     each pod needs {each}",
                    name(quota)
                ));
            }
        }
    }
    Ok(())
}

/// How many more pods find a place, roughly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// How many were asked for.
    pub wanted: u32,
    /// How many find a place.
    pub fits: u32,
    /// What each node lacks that does not take them all.
    pub nodes: Vec<String>,
}

impl Room {
    /// That there is too little room, if so, in one sentence.
    pub fn shortage(&self) -> Option<String> {
        const SHOWN: usize = 5;
        if self.fits >= self.wanted {
            return None;
        }
        let mut shown = self.nodes.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
        if self.nodes.len() > SHOWN {
            shown = format!("{shown}; and {} more nodes", self.nodes.len() - SHOWN);
        }
        Some(format!(
            "the nodes seem to have room for {} of {} more pods ({shown}); add nodes, or give the canary fewer pods",
            self.fits, self.wanted
        ))
    }
}

/// How many more pods of a template the nodes take. `pods` are all pods of the cluster, as far as they can be read; what
/// cannot be seen counts as free.
pub fn node_room(nodes: &[Value], pods: &[Value], template: &Value, more: u32) -> Room {
    let needs = requests(template);
    let mut room = Room {
        wanted: more,
        fits: 0,
        nodes: Vec::new(),
    };
    for node in nodes {
        let (fits, why) = match unfit(node, template) {
            Some(why) => (0, why),
            None => fits_on(node, pods, &needs),
        };
        room.fits = room.fits.saturating_add(fits);
        if fits < more {
            room.nodes.push(format!("{}: {why}", name(node)));
        }
    }
    room
}

/// How many pods a node takes, and what it is short of first.
fn fits_on(node: &Value, pods: &[Value], needs: &Amounts) -> (u32, String) {
    let over = |pod: &&Value| !["Succeeded", "Failed"].contains(&text(pod, "/status/phase"));
    let mut here: Vec<Amounts> = Vec::new();
    for pod in pods
        .iter()
        .filter(|pod| text(pod, "/spec/nodeName") == name(node))
        .filter(over)
    {
        here.push(requests(pod));
    }
    let free = |resource: &str| {
        let all = node
            .pointer("/status/allocatable")
            .and_then(|all| all.get(resource))
            .and_then(quantity);
        let taken = here.iter().filter_map(|pod| pod.get(resource));
        taken.fold(all.unwrap_or_default(), |free, taken| free.minus(*taken))
    };
    let wanted = needs.iter().filter(|(_, each)| **each > Quantity(0));
    let least = wanted.map(|(resource, each)| (free(resource).holds(*each), resource.as_str(), *each));
    let (fits, resource, each) = least.min().unwrap_or((u32::MAX, "pods", Quantity(0)));
    let left = free(resource).max(Quantity(0));
    (fits, format!("{left} {resource} free, each pod needs {each}"))
}

/// Why a node takes none of these pods whatever it has free.
fn unfit(node: &Value, template: &Value) -> Option<String> {
    if flag(node, "/spec/unschedulable") {
        return Some("cordoned".to_owned());
    }
    if condition(node, "Ready").is_some_and(|ready| text(ready, "/status") != "True") {
        return Some("not ready".to_owned());
    }
    let labels = node
        .pointer("/metadata/labels")
        .cloned()
        .unwrap_or_else(|| Value::Object(Map::new()));
    let selector = template.pointer("/spec/nodeSelector").cloned();
    if selector.is_some_and(|selector| !matches(&json!({ "matchLabels": selector }), &labels)) {
        return Some("other labels than nodeSelector asks for".to_owned());
    }
    let terms = list(
        template,
        "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
    );
    // What compares numbers or names nodes is not read here, so such a term may hold.
    let read = |term: &Value| {
        let known = ["In", "NotIn", "Exists", "DoesNotExist"];
        let plain = list(term, "/matchExpressions")
            .iter()
            .all(|one| known.contains(&text(one, "/operator")));
        plain && list(term, "/matchFields").is_empty()
    };
    if !terms.is_empty() && !terms.iter().any(|term| !read(term) || matches(term, &labels)) {
        return Some("other labels than nodeAffinity asks for".to_owned());
    }
    let tolerations = list(template, "/spec/tolerations");
    let taint = list(node, "/spec/taints").iter().find(|taint| {
        let binds = ["NoSchedule", "NoExecute"].contains(&text(taint, "/effect"));
        binds && !tolerations.iter().any(|one| tolerates(one, taint))
    })?;
    Some(format!("taint {} is not tolerated", text(taint, "/key")))
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let same = |at: &str| text(toleration, at) == text(taint, at);
    let any = |at: &str| text(toleration, at).is_empty();
    let exists = text(toleration, "/operator") == "Exists";
    (any("/effect") || same("/effect")) && (same("/key") || (any("/key") && exists)) && (exists || same("/value"))
}

/// Whether a quota counts pods of this template. A scope that is not known here counts them: better a word too much.
fn covers(quota: &Value, template: &Value) -> bool {
    let best_effort = requests(template).len() == 1 && limits(template).is_empty();
    let by_scope = |scope: &Value| match scope.as_str().unwrap_or_default() {
        // Pods of a Deployment never have a deadline.
        "Terminating" => false,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        _ => true,
    };
    let by_selector = |one: &Value| match (text(one, "/scopeName"), text(one, "/operator")) {
        ("PriorityClass", operator) => {
            let class = json!(text(template, "/spec/priorityClassName"));
            let among = list(one, "/values").contains(&class);
            match operator {
                "In" => among,
                "NotIn" => !among,
                "DoesNotExist" => class == json!(""),
                _ => class != json!(""),
            }
        }
        (scope, _) => by_scope(&json!(scope)),
    };
    list(quota, "/spec/scopes").iter().all(by_scope)
        && list(quota, "/spec/scopeSelector/matchExpressions")
            .iter()
            .all(by_selector)
}

/// What one pod takes of a quota's resource; `None` if quotas of it have nothing to do with pods.
fn each_pod(template: &Value, resource: &str) -> Option<Quantity> {
    match resource {
        "pods" | "count/pods" => Some(Quantity::whole(1)),
        "cpu" | "memory" | "ephemeral-storage" => requests(template).get(resource).copied(),
        _ => match resource.split_once('.') {
            Some(("requests", of)) => requests(template).get(of).copied(),
            Some(("limits", of)) => limits(template).get(of).copied(),
            _ => None,
        },
    }
}

/// What a pod asks for, itself among it.
fn requests(pod: &Value) -> Amounts {
    let mut all = total(pod, |container| {
        // What has a limit and no request asks for its limit.
        let mut wanted = amounts(container, "/resources/limits");
        wanted.extend(amounts(container, "/resources/requests"));
        wanted
    });
    all.extend(amounts(pod, "/spec/resources/requests"));
    for (resource, overhead) in amounts(pod, "/spec/overhead") {
        let sum = all.get(&resource).copied().unwrap_or_default().plus(overhead);
        all.insert(resource, sum);
    }
    all.insert("pods".to_owned(), Quantity::whole(1));
    all
}

fn limits(pod: &Value) -> Amounts {
    let mut all = total(pod, |container| amounts(container, "/resources/limits"));
    all.extend(amounts(pod, "/spec/resources/limits"));
    all
}

/// The sum over the containers, or what an init container needs beside the sidecars before it, if that is more.
fn total(pod: &Value, of: impl Fn(&Value) -> Amounts) -> Amounts {
    let mut sidecars = Amounts::new();
    let mut most = Amounts::new();
    for init in list(pod, "/spec/initContainers") {
        let mut together = sidecars.clone();
        add(&mut together, &of(init));
        if text(init, "/restartPolicy") == "Always" {
            sidecars = together.clone();
        }
        raise(&mut most, &together);
    }
    let mut running = sidecars;
    for container in list(pod, "/spec/containers") {
        add(&mut running, &of(container));
    }
    raise(&mut most, &running);
    most
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (resource, amount) in more {
        let total = sum.get(resource).copied().unwrap_or_default().plus(*amount);
        sum.insert(resource.clone(), total);
    }
}

fn raise(most: &mut Amounts, other: &Amounts) {
    for (resource, amount) in other {
        let highest = most.get(resource).copied().unwrap_or_default().max(*amount);
        most.insert(resource.clone(), highest);
    }
}

fn amounts(object: &Value, at: &str) -> Amounts {
    let all = object.pointer(at).and_then(Value::as_object).into_iter().flatten();
    all.filter_map(|(resource, amount)| Some((resource.clone(), quantity(amount)?)))
        .collect()
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text),
        Value::Number(number) => Quantity::parse(&number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Value {
        json!({"spec": {"containers": [
            {"name": "app", "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}},
            {"name": "proxy", "resources": {"limits": {"cpu": "0.05", "memory": "32Mi"}}},
        ]}})
    }

    #[expect(clippy::needless_pass_by_value, reason = "it reads as a literal where it is called")]
    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    #[test]
    fn quantities_are_read_exactly() {
        let cases = [
            ("1", "1"),
            ("0.5", "500m"),
            ("500m", "500m"),
            ("1500m", "1500m"),
            (".5", "500m"),
            ("64Mi", "64Mi"),
            ("67108864", "64Mi"),
            ("1e3", "1000"),
            ("1E3", "1000"),
            ("5E", "5000000000000000000"),
            ("128974848000m", "123Mi"),
            ("1.5Gi", "1536Mi"),
            ("100k", "100000"),
            ("2e-3", "2m"),
            ("1n", "1m"),
        ];
        for (text, shown) in cases {
            assert_eq!(Quantity::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for text in [
            "",
            "m",
            "1.2.3",
            "1 Gi",
            "1x",
            "--1",
            "1-2",
            "99999999999999999999999999999999999999999",
            "1e99",
        ] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
        assert_eq!(
            Quantity::parse("0.0000000001").unwrap(),
            Quantity::parse("1n").unwrap(),
            "rounded up"
        );
        assert!(Quantity::parse("-1").unwrap() < Quantity::default());
    }

    #[test]
    fn a_pod_needs_the_sum_or_its_hungriest_init_container() {
        let shown = |all: Amounts| {
            all.iter()
                .map(|(of, amount)| format!("{of} {amount}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        assert_eq!(shown(requests(&template())), "cpu 300m, memory 96Mi, pods 1");
        assert_eq!(shown(limits(&template())), "cpu 50m, memory 160Mi");
        let mut with_init = template();
        with_init["spec"]["initContainers"] = json!([
            {"name": "mesh", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
            {"name": "migrate", "resources": {"requests": {"cpu": "1", "memory": "32Mi"}}},
        ]);
        with_init["spec"]["overhead"] = json!({"memory": "16Mi"});
        assert_eq!(shown(requests(&with_init)), "cpu 1100m, memory 112Mi, pods 1");
    }

    #[test]
    fn a_quota_says_for_how_many_pods_there_is_room() {
        let cases = [
            (quota(json!({"pods": "5"}), json!({"pods": "4"})), 1, ""),
            (
                quota(json!({"pods": "5"}), json!({"pods": "4"})),
                4,
                "quota q has room for 1 of 4 more pods: 4 of 5 pods are used, and each pod needs 1",
            ),
            (
                quota(json!({"requests.cpu": "2"}), json!({"requests.cpu": "1200m"})),
                4,
                "quota q has room for 2 of 4 more pods: 1200m of 2 requests.cpu are used, and each pod needs 300m",
            ),
            (
                quota(json!({"requests.cpu": "2400m"}), json!({"requests.cpu": "1200m"})),
                4,
                "",
            ),
            (
                quota(json!({"limits.memory": "1Gi"}), json!({"limits.memory": "900Mi"})),
                1,
                "quota q has room for 0 of 1 more pods: 900Mi of 1Gi limits.memory are used, and each pod needs 160Mi",
            ),
            (
                quota(json!({"requests.nvidia.com/gpu": "0", "services": "0"}), json!({})),
                4,
                "",
            ),
            (
                quota(json!({"pods": "1"}), json!({"pods": "3"})),
                1,
                "quota q has room for 0 of 1 more pods: 3 of 1 pods are used, and each pod needs 1",
            ),
        ];
        for (quota, more, wanted) in cases {
            let said = quota_room(&[quota], &template(), more).err().unwrap_or_default();
            assert_eq!(said, wanted);
        }
    }

    #[test]
    fn quotas_for_other_pods_do_not_count() {
        let none = || quota(json!({"pods": "0"}), json!({}));
        let scoped = |scope: &str| {
            let mut quota = none();
            quota["spec"]["scopes"] = json!([scope]);
            quota
        };
        let priority = |operator: &str| {
            let mut quota = none();
            quota["spec"]["scopeSelector"] = json!({"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]});
            quota
        };
        let mut high = template();
        high["spec"]["priorityClassName"] = json!("high");
        let cases = [
            (scoped("Terminating"), template(), true),
            (scoped("NotTerminating"), template(), false),
            (scoped("BestEffort"), template(), true),
            (
                scoped("BestEffort"),
                json!({"spec": {"containers": [{"name": "app"}]}}),
                false,
            ),
            (scoped("NotBestEffort"), template(), false),
            (priority("In"), template(), true),
            (priority("In"), high, false),
            (priority("Exists"), template(), true),
        ];
        for (quota, template, room) in cases {
            assert_eq!(
                quota_room(std::slice::from_ref(&quota), &template, 1).is_ok(),
                room,
                "{quota}"
            );
        }
    }

    fn node(name: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"zone": "a"}}, "spec": {},
               "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"},
                          "conditions": [{"type": "Ready", "status": "True"}]}})
    }

    fn placed(node: &str, cpu: &str, phase: &str) -> Value {
        json!({"spec": {"nodeName": node, "containers": [{"name": "x", "resources": {"requests": {"cpu": cpu}}}]},
               "status": {"phase": phase}})
    }

    #[test]
    fn nodes_are_counted_by_what_they_have_free() {
        let pods = [
            placed("a", "1300m", "Running"),
            placed("a", "2", "Succeeded"),
            placed("b", "500m", "Running"),
        ];
        let room = node_room(&[node("a"), node("b")], &pods, &template(), 4);
        assert_eq!((room.fits, room.shortage()), (2 + 5, None));
        let room = node_room(&[node("a")], &pods, &template(), 4);
        assert_eq!(
            room.shortage().unwrap(),
            "the nodes seem to have room for 2 of 4 more pods (a: 700m cpu free, each pod needs 300m); add nodes, or \
             give the canary fewer pods"
        );
    }

    #[test]
    fn nodes_that_take_none_say_why() {
        type Edit<'a> = &'a dyn Fn(&mut Value, &mut Value);
        let taint = |node: &mut Value| {
            node["spec"]["taints"] = json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]);
        };
        let affinity = |term: Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}});
        let cases: [(Edit<'_>, &str); 9] = [
            (&|node, _| node["spec"]["unschedulable"] = json!(true), "a: cordoned"),
            (
                &|node, _| node["status"]["conditions"][0]["status"] = json!("Unknown"),
                "a: not ready",
            ),
            (&|node, _| taint(node), "a: taint gpu is not tolerated"),
            (
                &|node, template| {
                    taint(node);
                    template["spec"]["tolerations"] = json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]);
                },
                "",
            ),
            (
                &|node, template| {
                    taint(node);
                    template["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
                },
                "",
            ),
            (
                &|node, _| node["spec"]["taints"] = json!([{"key": "x", "effect": "PreferNoSchedule"}]),
                "",
            ),
            (
                &|_, template| template["spec"]["nodeSelector"] = json!({"zone": "b"}),
                "a: other labels than nodeSelector asks for",
            ),
            (
                &|_, template| {
                    let term = json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]});
                    template["spec"]["affinity"] = affinity(term);
                },
                "a: other labels than nodeAffinity asks for",
            ),
            (
                &|_, template| {
                    let term = json!({"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]});
                    template["spec"]["affinity"] = affinity(term);
                },
                "",
            ),
        ];
        for (edit, wanted) in cases {
            let (mut node, mut template) = (node("a"), template());
            edit(&mut node, &mut template);
            let room = node_room(&[node], &[], &template, 1);
            assert_eq!(room.nodes.join(", "), wanted);
            assert_eq!(room.fits == 0, !wanted.is_empty(), "{wanted}");
        }
    }
}
