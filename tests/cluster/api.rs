//! The API in a pod as `wade install --api` makes it, behind TLS, asked by ServiceAccounts with real tokens.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::account::Account;
use crate::support::daemon::{installed, look_after};
use crate::support::recorder::text;
use crate::support::scene::{NEW, QUICK};
use crate::support::space::{Sample, Space};
use crate::support::step::Step;
use crate::support::{now, seconds};

const LONG: Duration = Duration::from_secs(100);
/// The namespace that `wade install` uses: the policies know the daemon by its account there.
const SYSTEM: &str = "wade-system";
/// For whom callers' tokens have to be issued.
const AUDIENCE: &str = "wade";
const RBAC: &str = "rbac.authorization.k8s.io/v1";
/// The port of the API.
const PORT: u16 = 8443;
/// As many streams as there may be, and of one caller.
const STREAMS: usize = 500;
const OF_ONE: usize = 50;
/// What a pod may take at most, far below its limit of 256 MiB.
const MOST_KIB: u64 = 160 * 1024;

/// The daemon's Deployment for this test alone. Dropped, it is taken away.
struct Pod {
    space: Space,
    name: String,
}

impl Pod {
    /// What `wade install --api` prints, under a name of its own and told to look after one namespace; and a client that
    /// reaches it by the name in its certificate.
    async fn start(space: Space) -> (Self, Client) {
        installed(&space).await;
        let pod = Self {
            name: space.name.clone(),
            space,
        };
        let authority = pod.certificate().await;
        let applied = pod
            .space
            .node
            .try_kubectl(&["apply", "-f", "-"], &pod.manifest().await)
            .await;
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        // Ready is what its probe says: everything has been seen once.
        let place = format!("deployment/{}", pod.name);
        let words = ["-n", SYSTEM, "rollout", "status", &place, "--timeout=90s"];
        pod.space.node.kubectl(&words).await;
        let address = pod.about("{.items[0].status.podIP}").await;
        let address = format!("{address}:{PORT}").parse().expect("the pod has an address");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .tls_certs_only([Certificate::from_pem(&authority).expect("openssl wrote it")])
            .resolve("wade.wade-system", address)
            .timeout(LONG);
        (pod, client.build().expect("nothing of this is input"))
    }

    /// Makes the Secret with a certificate; what to trust.
    async fn certificate(&self) -> Vec<u8> {
        let place = self.space.node.run_folder().join(format!("{}-api", self.name));
        let (certificate, key) = (place.with_extension("crt"), place.with_extension("key"));
        let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=wade.wade-system \
                     -addext subjectAltName=DNS:wade.wade-system -addext basicConstraints=critical,CA:FALSE";
        let made = std::process::Command::new("openssl")
            .args(words.split_whitespace())
            .arg("-out")
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key)
            .output()
            .expect("the node was made with openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let files = [
            format!("--cert={}", certificate.display()),
            format!("--key={}", key.display()),
        ];
        let words = [
            "-n", SYSTEM, "create", "secret", "tls", &self.name, &files[0], &files[1],
        ];
        self.space.node.kubectl(&words).await;
        let authority = std::fs::read(&certificate).expect("it was written");
        for file in [certificate, key] {
            let _ = std::fs::remove_file(file);
        }
        authority
    }

    /// The Deployment as it is installed, beside other tests' and with one replica.
    async fn manifest(&self) -> String {
        let (name, image) = (&self.name, self.space.node.wade_image());
        let only = [
            format!("--arg=--only-namespace={name}"),
            format!("--arg=--home={name}"),
            format!("--arg=--audience={AUDIENCE}"),
        ];
        let words = ["install", "--manifests", "--api", "--replicas=1", "--image", image];
        let words: Vec<&str> = words.into_iter().chain(only.iter().map(String::as_str)).collect();
        let printed = Step::start(&self.space, &words).ends(Duration::from_secs(20)).await;
        let output = printed.output();
        let manifest = output
            .split("\n---\n")
            .find(|part| part.lines().any(|line| line == "kind: Deployment"))
            .expect("there is a Deployment");
        let mut deployment: Value = serde_saphyr::from_str(manifest).expect("it is YAML");
        deployment["metadata"]["name"] = json!(name);
        // Without the labels of what is installed, or others would take it for theirs.
        deployment["metadata"]["labels"] = json!({});
        let labels = json!({ "app": name });
        deployment["spec"]["selector"]["matchLabels"] = labels.clone();
        deployment["spec"]["template"]["metadata"]["labels"] = labels;
        deployment.to_string().replace("\"wade-tls\"", &json!(name).to_string())
    }

    async fn about(&self, path: &str) -> String {
        let (selector, path) = (format!("app={}", self.name), format!("jsonpath={path}"));
        let words = ["-n", SYSTEM, "get", "pods", "-l", &selector, "-o", &path];
        self.space.node.kubectl(&words).await
    }

    async fn log(&self) -> String {
        let place = format!("deployment/{}", self.name);
        self.space.node.kubectl(&["-n", SYSTEM, "logs", &place]).await
    }

    /// The most memory that the pod's process ever had, in KiB: the node is this machine.
    fn memory(&self) -> u64 {
        let argument = format!("--home={}", self.name);
        let processes = std::fs::read_dir("/proc").expect("this is Linux").flatten();
        let of = |folder: PathBuf| {
            let command = std::fs::read_to_string(folder.join("cmdline")).ok()?;
            command.split('\0').find(|word| **word == argument)?;
            let status = std::fs::read_to_string(folder.join("status")).ok()?;
            let mark = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            mark.split_whitespace().next()?.parse().ok()
        };
        let found = processes.map(|entry| entry.path()).find_map(of);
        found.expect("the pod's process is one of this machine")
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut log = self.space.node.kubectl_command();
            let of = format!("deployment/{}", self.name);
            let log = log.args(["-n", SYSTEM, "logs", &of, "--tail=60"]).output();
            eprintln!(
                "--- the pod's log\n{}",
                log.map_or_else(
                    |error| error.to_string(),
                    |log| String::from_utf8_lossy(&log.stdout).into_owned()
                )
            );
        }
        for kind in ["deployment", "secret"] {
            let mut command = self.space.node.kubectl_command();
            let words = [
                "-n",
                SYSTEM,
                "delete",
                kind,
                &self.name,
                "--ignore-not-found",
                "--wait=false",
            ];
            // Nothing depends on it: the names are this test's own.
            let _ = command.args(words).output();
        }
    }
}

/// The API as one caller asks it.
#[derive(Clone)]
struct Caller {
    client: Client,
    token: String,
}

impl Caller {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("https://wade.wade-system:{PORT}{path}");
        self.client.request(method, url).bearer_auth(&self.token)
    }

    async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.expect("it answers")
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (StatusCode, String) {
        let request = self.request(Method::POST, path).body(body);
        let answer = request.header("content-type", "application/json").send().await;
        let answer = answer.expect("it answers");
        (answer.status(), answer.text().await.unwrap_or_default())
    }

    /// A stream of server-sent events; the answer is not read yet.
    async fn follow(&self, path: &str) -> Response {
        let request = self.request(Method::GET, path).header("accept", "text/event-stream");
        request.send().await.expect("it answers")
    }
}

/// The numbers of the entries that a stream told until it ended, and whether it told the end.
async fn entries(stream: Response) -> (Vec<u64>, bool) {
    assert_eq!(stream.status(), StatusCode::OK);
    let told = stream.text().await.expect("it ends well");
    let ids = told.lines().filter_map(|line| line.strip_prefix("id: "));
    let numbers = ids.map(|id| id.parse().expect("a number")).collect();
    (numbers, told.contains("event: end\n"))
}

/// ServiceAccounts that may look at everything of Wade's in their namespace, and nothing else.
async fn followers(space: &Space, count: usize) {
    let account =
        |number| json!({"kind": "ServiceAccount", "name": format!("follower-{number}"), "namespace": space.name});
    let subjects: Vec<Value> = (0..count).map(account).collect();
    let made = |subject: &Value| {
        json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": subject["name"], "namespace": space.name}})
    };
    let about = json!({"name": "follower", "namespace": space.name});
    let mut items: Vec<Value> = subjects.iter().map(made).collect();
    items.push(json!({"apiVersion": RBAC, "kind": "Role", "metadata": about, "rules": [
        {"apiGroups": ["wade.dev"], "resources": ["rollouts", "releases"], "verbs": ["get", "list", "watch"]}]}));
    items.push(
        json!({"apiVersion": RBAC, "kind": "RoleBinding", "metadata": about, "subjects": subjects,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "follower"}}),
    );
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let applied = space.node.try_kubectl(&["apply", "-f", "-"], &list.to_string()).await;
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
}

/// A token of this account, for this audience if one is said.
async fn token(space: &Space, account: &str, audience: Option<&str>) -> String {
    let audience = audience.map(|audience| format!("--audience={audience}"));
    let words: Vec<&str> = ["create", "token", account]
        .into_iter()
        .chain(audience.as_deref())
        .collect();
    space.kubectl(&words).await.trim().to_owned()
}

/// What nobody may do, and what is no request at all: each refused in its own words, and the pod lives.
async fn refusals(space: &Space, deployer: &Caller, viewer: &Caller) {
    let rollouts = format!("/api/v1/namespaces/{}/rollouts", space.name);
    let nobody = Caller {
        token: "no-token-of-this-cluster".to_owned(),
        ..viewer.clone()
    };
    let elsewhere = Caller {
        token: token(space, "follower-0", None).await,
        ..viewer.clone()
    };
    assert_eq!(nobody.get(&rollouts).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        elsewhere.get(&rollouts).await.status(),
        StatusCode::UNAUTHORIZED,
        "a token for the API server is not one for this API"
    );
    assert_eq!(
        deployer.get("/api/v1/namespaces/default/rollouts").await.status(),
        StatusCode::FORBIDDEN
    );
    let (begin, command) = (format!("{rollouts}/app/releases"), format!("{rollouts}/app/commands"));
    let abort = json!({"kind": "abort", "reason": "because"}).to_string();
    let cases = [
        (viewer, &begin, release(space), StatusCode::FORBIDDEN),
        (viewer, &command, abort.clone(), StatusCode::FORBIDDEN),
        (deployer, &command, abort, StatusCode::FORBIDDEN),
        (deployer, &begin, "{\"target\":".to_owned(), StatusCode::BAD_REQUEST),
        (
            deployer,
            &begin,
            json!({"tarket": 1}).to_string(),
            StatusCode::BAD_REQUEST,
        ),
        (deployer, &begin, "[".repeat(100_000), StatusCode::BAD_REQUEST),
        (deployer, &begin, " ".repeat(300 * 1024), StatusCode::PAYLOAD_TOO_LARGE),
    ];
    for (caller, path, body, wanted) in cases {
        let words = body.chars().take(40).collect::<String>();
        let (status, said) = caller.post(path, body).await;
        assert_eq!(status, wanted, "{words}: {said}");
    }
    let head = deployer
        .request(Method::GET, &rollouts)
        .header("x-long", "x".repeat(32 * 1024));
    let head = head
        .send()
        .await
        .map_or(StatusCode::BAD_REQUEST, |answer| answer.status());
    assert!(head.is_client_error(), "a head of 32 KiB: {head}");
    let other = deployer
        .request(Method::DELETE, &rollouts)
        .send()
        .await
        .expect("it answers");
    assert_eq!(other.status(), StatusCode::METHOD_NOT_ALLOWED);
}

fn release(space: &Space) -> String {
    let set = json!({"image": space.node.image(NEW)});
    json!({"target": {"file": {"set": set, "path": null}}, "reason": "from a test"}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn the_api_in_a_pod_keeps_to_real_tokens_and_tells_500_followers_everything() {
    let space = Space::new("api-pod").await;
    space.deploy(&Sample::default()).await;
    let (pod, client) = Pod::start(space).await;
    let space = &pod.space;
    look_after(space, QUICK).await;
    followers(space, STREAMS / OF_ONE + 1).await;
    let rules = json!([
        {"apiGroups": ["wade.dev"], "resources": ["rollouts", "releases"], "verbs": ["get", "list", "watch", "create"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]}
    ]);
    let _account = Account::new(space, "deployer", &rules).await;
    let mut callers = Vec::new();
    for number in 0..=STREAMS / OF_ONE {
        callers.push(Caller {
            client: client.clone(),
            token: token(space, &format!("follower-{number}"), Some(AUDIENCE)).await,
        });
    }
    let deployer = Caller {
        client,
        token: token(space, "deployer", Some(AUDIENCE)).await,
    };
    refusals(space, &deployer, &callers[0]).await;

    let rollouts = format!("/api/v1/namespaces/{}/rollouts", space.name);
    let seen = callers[0].get(&rollouts).await;
    assert_eq!(seen.status(), StatusCode::OK);
    let seen = seen.text().await.expect("it is text");
    assert!(seen.contains("\"app\""), "{seen}");
    let (status, begun) = deployer.post(&format!("{rollouts}/app/releases"), release(space)).await;
    assert!(status.is_success(), "{status} {begun}");
    let begun: Value = serde_json::from_str(&begun).expect("it is JSON");
    assert_eq!(begun.pointer("/release/number"), Some(&json!(1)), "{begun}");

    let one = format!("{rollouts}/app/releases/1");
    let events = format!("{one}/events");
    let (quiet, started) = (pod.memory(), now());
    let mut streams = Vec::new();
    for caller in &callers[..STREAMS / OF_ONE] {
        let opening = (0..OF_ONE).map(|_| caller.follow(&events));
        for stream in futures_util::future::join_all(opening).await {
            assert_eq!(stream.status(), StatusCode::OK);
            streams.push(tokio::spawn(entries(stream)));
        }
    }
    let opened = seconds(started, now());
    let of_one_more = callers[0].follow(&events).await;
    let of_all_more = callers[STREAMS / OF_ONE].follow(&events).await;
    let refused = [of_one_more.status(), of_all_more.status()];
    assert_eq!(refused, [StatusCode::TOO_MANY_REQUESTS; 2], "one more is one too many");
    let mut told = Vec::new();
    for stream in streams {
        told.push(stream.await.expect("it was followed to its end"));
    }
    let most = pod.memory();
    println!("FIGURE 500 streams in a pod: opened in {opened:.1} s; memory {quiet} KiB before, {most} KiB at most");
    assert!(most < MOST_KIB, "{most} KiB");

    // Whatever each was told, it is all that there was.
    let record: Value = deployer.get(&one).await.json().await.expect("it is JSON");
    let last = record.pointer("/history").and_then(Value::as_array).map_or(0, Vec::len) as u64;
    assert!(last > 5, "{record}");
    let all = ((1..=last).collect::<Vec<_>>(), true);
    for (number, one) in told.iter().enumerate() {
        assert_eq!(*one, all, "follower {number}");
    }
    let name = format!("system:serviceaccount:{}:deployer", space.name);
    assert_eq!(text(&record, "/by/user"), name);
    let asked = [
        "get",
        "releases.wade.dev",
        "-o",
        "jsonpath={.items[*].spec.by} {.items[*].status.outcome}",
    ];
    assert_eq!(space.kubectl(&asked).await, format!("{name} Promoted"));
    let log = pod.log().await;
    let audit: Vec<&str> = log.lines().filter(|line| line.contains("wade::audit")).collect();
    let says = |words: &[&str]| audit.iter().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(says(&[&name, "deploy"]), "{audit:#?}");
    assert!(
        says(&["follower-0", "Forbidden"]),
        "what was refused is there too: {audit:#?}"
    );
    assert_eq!(
        pod.about("{.items[0].status.containerStatuses[0].restartCount}").await,
        "0"
    );
}
