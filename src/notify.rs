//! Telling people and programs what a release does: Slack, or any address that takes JSON.
//!
//! It must never delay or fail a release. So it listens to the notices that everybody can follow, in a task of its own,
//! with a bounded queue and a task per address, [`TRIES`] tries and [`Patience`]. What cannot be delivered is dropped,
//! and said.
//!
//! Addresses are secrets: whoever knows one may post there. They come from a file, a variable or a Secret, are never
//! written down and never shown; a target is called by where its address is kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;

use crate::controller::Notice;
use crate::engine::{Event, Outcome, Phase};
use crate::redact::redact;
use crate::spec::{AddressFrom, NotifySpec, UrlFrom};
use crate::store::{Pipeline, ReleaseRecord};

/// How often a message is tried.
pub const TRIES: u32 = 3;
/// Messages that wait for one address.
const QUEUE: usize = 32;
/// The longest address.
const MOST_ADDRESS: usize = 4096;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// The release begins.
    Began,
    /// It waits for a person.
    Waits,
    /// It goes back to stable.
    Back,
    /// It does not come to an end by itself.
    Stuck,
    /// It is over.
    Ended,
}

/// One message, as a webhook gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// What happened.
    pub event: What,
    /// The rollout.
    pub rollout: String,
    /// Its namespace; none on one machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The release's number.
    pub release: u64,
    /// The version that served before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The version that is released.
    pub version: String,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Whether the promotion was proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proven: Option<bool>,
    /// Why, in one sentence: the same as everywhere.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// Who asked for the release.
    pub by: String,
    /// The commit, its author and the pipeline's page.
    #[serde(flatten)]
    pub pipeline: Pipeline,
}

impl Message {
    /// What stays the same in all messages about a release.
    pub fn about(record: &ReleaseRecord, namespace: Option<&str>) -> Self {
        Self {
            event: What::Began,
            rollout: record.key.rollout.clone(),
            namespace: namespace.map(str::to_owned),
            release: record.key.number,
            from: record.stable.as_ref().map(|stable| stable.version.clone()),
            version: record.canary.version.clone(),
            outcome: None,
            proven: None,
            reason: String::new(),
            at: record.created,
            by: record.by.user.clone(),
            pipeline: record.pipeline.clone(),
        }
    }

    /// What is worth telling of a notice, if it is about this release.
    fn of(&self, notice: &Notice) -> Option<Self> {
        let Notice::Entry { key, entry, phase } = notice else {
            return None;
        };
        if key.rollout != self.rollout || key.number != self.release {
            return None;
        }
        let event = match (&entry.event, phase) {
            (_, Phase::Done(_)) => What::Ended,
            (Event::Admitted, _) => What::Began,
            (Event::Retreated { .. }, _) => What::Back,
            (Event::GotStuck { .. }, _) => What::Stuck,
            (Event::SmokePassed | Event::StageEnded { .. } | Event::AskedForProof, Phase::Gated { .. }) => What::Waits,
            _ => return None,
        };
        let outcome = match phase {
            Phase::Done(outcome) => Some(outcome),
            _ => None,
        };
        Some(Self {
            event,
            outcome: outcome.map(|outcome| outcome.label().to_owned()),
            proven: match outcome {
                Some(Outcome::Promoted { proven }) => Some(*proven),
                _ => None,
            },
            // It has been redacted where it was read; this is the last door before it leaves.
            reason: redact(&entry.reason),
            at: entry.at,
            ..self.clone()
        })
    }

    /// One line for people.
    pub fn text(&self) -> String {
        let place = self
            .namespace
            .as_ref()
            .map(|name| format!("{name}, "))
            .unwrap_or_default();
        let versions = match &self.from {
            Some(from) => format!("{from} → {}", self.version),
            None => self.version.clone(),
        };
        let what = match (self.event, self.outcome.as_deref(), self.proven) {
            (What::Began, ..) => "began",
            (What::Waits, ..) => "waits for a person",
            (What::Back, ..) => "goes back to stable",
            (What::Stuck, ..) => "is stuck and needs a person",
            (What::Ended, Some("Promoted"), Some(false)) => "Promoted, unproven",
            (What::Ended, outcome, _) => outcome.unwrap_or("ended"),
        };
        let page = self
            .pipeline
            .url
            .as_ref()
            .map(|url| format!(" {url}"))
            .unwrap_or_default();
        format!(
            "{} {versions} ({place}release {}) {what}: {}{page}",
            self.rollout, self.release, self.reason
        )
    }
}

/// What a target understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Slack,
    Json,
}

/// Somebody who is told.
#[derive(Clone)]
pub struct Target {
    form: Form,
    /// Where its address is kept.
    label: String,
    address: reqwest::Url,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({})", self.label)
    }
}

/// Reads what Secrets hold.
#[async_trait::async_trait]
pub trait Secrets: Send + Sync {
    /// The value of `url` in a Secret.
    ///
    /// # Errors
    /// Why it cannot be read, in one sentence.
    async fn url(&self, secret: &str) -> Result<String, String>;
}

/// There are no Secrets here.
pub struct NoSecrets;

#[async_trait::async_trait]
impl Secrets for NoSecrets {
    async fn url(&self, _: &str) -> Result<String, String> {
        Err("there are no Secrets on one machine".to_owned())
    }
}

/// Finds the addresses. One that cannot be found is no reason against a release: it is left out, with a sentence.
pub async fn targets(wanted: &[NotifySpec], secrets: &dyn Secrets) -> (Vec<Target>, Vec<String>) {
    let (mut found, mut complaints) = (Vec::new(), Vec::new());
    for spec in wanted {
        let (form, word, from) = match spec {
            NotifySpec::Slack(from) => (Form::Slack, "slack", from),
            NotifySpec::Webhook(from) => (Form::Json, "webhook", from),
        };
        let label = format!("{word} ({})", kept(from));
        match address(from, secrets).await {
            Ok(address) => found.push(Target { form, label, address }),
            Err(why) => complaints.push(format!("nobody is told by {label}: {why}")),
        }
    }
    (found, complaints)
}

fn kept(from: &AddressFrom) -> String {
    match from {
        AddressFrom::SecretRef(name) => format!("Secret {name}"),
        AddressFrom::UrlFrom(UrlFrom::Env(name)) => format!("variable {name}"),
        AddressFrom::UrlFrom(UrlFrom::File(path)) => format!("file {path}"),
    }
}

async fn address(from: &AddressFrom, secrets: &dyn Secrets) -> Result<reqwest::Url, String> {
    let text = match from {
        AddressFrom::SecretRef(name) => secrets.url(name).await?,
        AddressFrom::UrlFrom(UrlFrom::Env(name)) => {
            std::env::var(name).map_err(|_| "it is not set, or no text".to_owned())?
        }
        AddressFrom::UrlFrom(UrlFrom::File(path)) => {
            let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
            if size > MOST_ADDRESS as u64 {
                return Err(format!("{size} bytes are no address"));
            }
            std::fs::read_to_string(path).map_err(|error| error.to_string())?
        }
    };
    // Nothing of the text may get into a message, not even when it is wrong.
    let url: reqwest::Url = text.trim().parse().map_err(|_| "it holds no URL".to_owned())?;
    if matches!(url.scheme(), "http" | "https") && text.len() <= MOST_ADDRESS {
        Ok(url)
    } else {
        Err("it holds no http or https URL".to_owned())
    }
}

/// How much patience an address gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For one answer.
    pub answer_within: Duration,
    /// Between two tries.
    pub between: Duration,
    /// For all that waits to be sent when the release is over.
    pub finish_within: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer_within: Duration::from_secs(5),
            between: Duration::from_secs(1),
            finish_within: Duration::from_secs(20),
        }
    }
}

/// Whom to tell, and how.
pub struct Told {
    /// Who, as the plan says.
    pub wanted: Vec<NotifySpec>,
    /// Where Secrets are.
    pub secrets: Arc<dyn Secrets>,
    /// The client to send with.
    pub client: reqwest::Client,
    /// What is patience here.
    pub patience: Patience,
}

/// Tells about one release until it is over, from its notices. It runs beside the release, which does not wait for it:
/// not for a Secret, not for an address. What goes wrong is given to `early` while the release runs; what goes wrong with
/// the last messages comes back.
pub async fn follow(
    about: Message,
    mut notices: broadcast::Receiver<Notice>,
    told: Told,
    early: impl Fn(String) + Send + Sync + 'static,
) -> Vec<String> {
    let (found, complaints) = targets(&told.wanted, told.secrets.as_ref()).await;
    complaints.into_iter().for_each(&early);
    let trouble = Arc::new(Trouble {
        early: Box::new(early),
        late: Mutex::new(None),
    });
    let (mut queues, mut tasks) = (Vec::new(), Vec::new());
    for target in found {
        let (queue, messages) = mpsc::channel(QUEUE);
        queues.push(queue);
        let (client, patience, trouble) = (told.client.clone(), told.patience, Arc::clone(&trouble));
        tasks.push(tokio::spawn(send_all(target, messages, client, patience, trouble)));
    }
    loop {
        let notice = match notices.recv().await {
            Ok(notice) => notice,
            // Nothing of this may hold a release up, so messages may be lost when it is very slow.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => break,
        };
        if let Some(message) = about.of(&notice) {
            if message.event == What::Ended {
                *trouble.late() = Some(Vec::new());
            }
            for queue in &queues {
                // A full queue means an address that does not answer, which its task says.
                let _ = queue.try_send(message.clone());
            }
            if message.event == What::Ended {
                break;
            }
        }
    }
    drop(queues);
    let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
    let all = futures_util::future::join_all(tasks);
    if tokio::time::timeout(told.patience.finish_within, all).await.is_err() {
        aborts.iter().for_each(tokio::task::AbortHandle::abort);
        trouble.say("not everybody could be told in time".to_owned());
    }
    let late = trouble.late().take();
    late.unwrap_or_default()
}

/// Where it is said that a message could not be delivered: to the release's followers, or, once it is over, to whoever
/// waits for the end.
struct Trouble {
    early: Box<dyn Fn(String) + Send + Sync>,
    late: Mutex<Option<Vec<String>>>,
}

impl Trouble {
    fn late(&self) -> MutexGuard<'_, Option<Vec<String>>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, sentence: String) {
        match self.late().as_mut() {
            Some(late) => late.push(sentence),
            None => (self.early)(sentence),
        }
    }
}

async fn send_all(
    target: Target,
    mut messages: mpsc::Receiver<Message>,
    client: reqwest::Client,
    patience: Patience,
    trouble: Arc<Trouble>,
) {
    while let Some(message) = messages.recv().await {
        if let Err(why) = send(&target, &message, &client, patience).await {
            trouble.say(format!("{} could not be told: {why}", target.label));
        }
    }
}

async fn send(target: &Target, message: &Message, client: &reqwest::Client, patience: Patience) -> Result<(), String> {
    let body = body(target.form, message);
    let mut tried = 0;
    loop {
        tried += 1;
        let request = client.post(target.address.clone()).timeout(patience.answer_within);
        let why = match request.json(&body).send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => {
                let status = answer.status();
                let why = format!("it answered {status}");
                if !status.is_server_error() && !matches!(status.as_u16(), 408 | 429) {
                    return Err(why);
                }
                why
            }
            Err(error) if error.is_timeout() => format!("no answer within {:?}", patience.answer_within),
            Err(error) if error.is_connect() => "it cannot be connected to".to_owned(),
            // The error would name the address.
            Err(error) => error.without_url().to_string(),
        };
        if tried == TRIES {
            return Err(format!("{why}, tried {TRIES} times"));
        }
        tokio::time::sleep(patience.between).await;
    }
}

fn body(form: Form, message: &Message) -> Value {
    match form {
        // Slack takes these three as markup.
        Form::Slack => {
            let text = message.text();
            json!({ "text": text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;") })
        }
        Form::Json => {
            let mut body = serde_json::to_value(message).unwrap_or_default();
            body["text"] = json!(message.text());
            body
        }
    }
}

#[cfg(test)]
#[path = "notify/tests.rs"]
mod tests;
