//! Who drives a rollout's releases on Kubernetes: one Lease, and the epoch that comes with it.
//!
//! The Lease `wade-<rollout>` keeps two steps from working at once in the ordinary case; it is the *epoch* that keeps
//! them apart in every case. Each change of the holder raises `leaseTransitions`, which is the epoch, above whatever the
//! record carries; the new holder writes it into the record first ([`Lease::hold`]), and from then on every write of the
//! one before is refused ([`super::configmap`]). So nothing rests on clocks agreeing: a wrong clock can end a live
//! holder's turn early, but cannot let two write.
//!
//! *When a holder counts as dead.* When its Lease has not changed for its duration while we watched, on our own clock (as
//! client-go judges it); or at first sight, when it was renewed longer ago than that and [`SKEW`] besides, so that a step
//! that follows a dead one need not watch a corpse.
//!
//! *When the server is away.* The holder keeps trying, and [`Held::is_fresh`] ends before anybody may take over: until it
//! is fresh again nothing forward may be done. Going back never asks.
//!
//! What it deliberately does not do: it waits for nobody (callers decide how long to ask again) and it does not look at
//! releases.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::StoreError;
use super::configmap::{self, ConfigMapStore};
use crate::apiserver::{ApiError, ApiServer, Fault, Kind, value};
use crate::clock::Clock;

/// Of so many renewals in a row that fail, one is said.
const SAID_EVERY: u32 = 30;
/// In place of a rollout's name, in Wade's own namespace: the Lease of the daemon that leads.
pub const LEADER: &str = "leader";
/// How long a holder that does not renew keeps its turn.
pub const DURATION: SignedDuration = SignedDuration::from_secs(15);
/// How far apart the clocks of two machines may be before a renewal looks older than it is.
pub const SKEW: SignedDuration = SignedDuration::from_secs(5);
/// How often it is renewed: a quarter of a write a second at most, together with the record about one.
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// How often a renewal that failed is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How often a Lease is looked at to see whether its holder lives.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often a write that somebody else got ahead of is tried again.
const TRIES: usize = 4;

/// The Lease of one rollout, seen from one process.
pub struct Lease {
    api: ApiServer,
    rollout: String,
    clock: Arc<dyn Clock>,
    /// The renewal that was seen last, and since when it is the last.
    seen: Mutex<Option<(String, Timestamp)>>,
}

/// Whether somebody else's turn is respected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Only if it is over.
    IfFree,
    /// Not at all: an abort takes over from a holder that hangs.
    Force,
}

/// What came of asking for the Lease.
#[derive(Debug)]
pub enum Claim {
    /// It is ours, renewed in the background.
    Held(Held),
    /// Somebody else has it.
    HeldBy(Holder),
}

/// Who has a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The identity it gave.
    pub who: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// When it last said that it lives, by its own clock.
    pub renewed: Option<Timestamp>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.who)?;
        if let Some(since) = self.since {
            write!(f, " since {since:.0}")?;
        }
        self.renewed
            .map_or(Ok(()), |renewed| write!(f, ", last heard of at {renewed:.0}"))
    }
}

/// Why the Lease could not be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The server did not do it.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The epoch could not be written into the record.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Lease {
    /// The Lease of a rollout; nothing is asked yet.
    pub fn new(api: &ApiServer, rollout: &str, clock: Arc<dyn Clock>) -> Self {
        Self {
            api: api.clone(),
            rollout: rollout.to_owned(),
            clock,
            seen: Mutex::new(None),
        }
    }

    /// Takes the Lease and makes the record's writes ours: what a process does before it drives a release. `identity`
    /// must be this process's alone (a restarted one is another).
    ///
    /// # Errors
    /// If the server or the record cannot be written.
    pub async fn hold(&self, store: &ConfigMapStore, identity: &str, manner: Manner) -> Result<Claim, LeaseError> {
        let mut failed = None;
        for _ in 0..TRIES {
            let floor = store.epoch().await?;
            let held = match self.claim(identity, floor, manner).await? {
                Claim::Held(held) => held,
                other => return Ok(other),
            };
            match store.take_over(held.epoch, identity).await {
                Ok(()) => return Ok(Claim::Held(held)),
                // Somebody has raised the epoch since it was read (a Lease that was deleted begins anew).
                Err(error @ StoreError::Fenced { .. }) => failed = Some(error),
                Err(error) => {
                    // It is not used, so it should not be in the next one's way either.
                    let _ = held.release().await;
                    return Err(error.into());
                }
            }
        }
        Err(failed.expect("the loop ends here only by a failure").into())
    }

    /// Takes the Lease, with an epoch above `floor`, if it is free or its holder is dead.
    ///
    /// # Errors
    /// Not reachable, not permitted.
    pub async fn acquire(&self, identity: &str, floor: u64) -> Result<Claim, ApiError> {
        self.claim(identity, floor, Manner::IfFree).await
    }

    /// Takes the Lease whoever has it.
    ///
    /// # Errors
    /// Not reachable, not permitted.
    pub async fn force(&self, identity: &str, floor: u64) -> Result<Claim, ApiError> {
        self.claim(identity, floor, Manner::Force).await
    }

    /// Whether nobody carries what it guards: it has been given back, has run out, or was never taken.
    ///
    /// # Errors
    /// Not reachable, not permitted.
    pub async fn is_free(&self) -> Result<bool, ApiError> {
        let object = self.api.get(Kind::Lease, &self.name()).await?;
        Ok(object.is_none_or(|there| holder(&there).is_none() || self.is_dead(&there, self.clock.now())))
    }

    /// Whether this version of the Lease, seen now, is one whose holder has fallen silent; asks nobody. To be called
    /// again and again with what a watch tells.
    pub fn looks_dead(&self, lease: &Value) -> bool {
        self.is_dead(lease, self.clock.now())
    }

    /// Whether somebody who lives has it, told by what they do and not by how they look: a holder that was killed a
    /// moment ago looks alive. True once it is seen to be renewed, which takes about [`RENEW_EVERY`]; false once it is
    /// free, which takes at most [`DURATION`].
    ///
    /// # Errors
    /// Not reachable, not permitted.
    pub async fn is_kept(&self) -> Result<bool, ApiError> {
        let mut first = None;
        loop {
            let there = self.api.get(Kind::Lease, &self.name()).await?;
            let Some(there) = there.filter(|there| holder(there).is_some() && !self.is_dead(there, self.clock.now()))
            else {
                return Ok(false);
            };
            let mark = mark(&there);
            if *first.get_or_insert_with(|| mark.clone()) != mark {
                return Ok(true);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Who has it; `None` if nobody does.
    ///
    /// # Errors
    /// Not reachable, not permitted.
    pub async fn holder(&self) -> Result<Option<Holder>, ApiError> {
        let object = self.api.get(Kind::Lease, &self.name()).await?;
        Ok(object.as_ref().and_then(holder))
    }

    async fn claim(&self, identity: &str, floor: u64, manner: Manner) -> Result<Claim, ApiError> {
        let mut wrote = None;
        let mut failed = None;
        for _ in 0..TRIES {
            let there = self.api.get(Kind::Lease, &self.name()).await?;
            let now = self.clock.now();
            let epoch = there.as_ref().map_or(0, transitions).max(floor) + 1;
            let asked = match there {
                // The answer to our own write was lost.
                Some(there) if wrote.is_some_and(|epoch| is(&there, identity, epoch)) => Ok(there),
                Some(there) => {
                    if let Some(holder) = holder(&there).filter(|_| !self.may_take(&there, identity, manner, now)) {
                        return Ok(Claim::HeldBy(holder));
                    }
                    let object = taken(there, identity, epoch, now);
                    self.api.replace(Kind::Lease, &self.name(), &object).await
                }
                None => self.api.create(Kind::Lease, &self.object(identity, epoch, now)).await,
            };
            match asked {
                Ok(object) => {
                    let epoch = transitions(&object);
                    return Ok(Claim::Held(self.held(identity, epoch, now, object)));
                }
                Err(error) => match error.fault {
                    Fault::Conflict(_) | Fault::Exists | Fault::NotFound => failed = Some(error),
                    Fault::Unreachable(_) => {
                        wrote = Some(epoch);
                        failed = Some(error);
                    }
                    _ => return Err(error),
                },
            }
        }
        Err(failed.expect("the loop ends here only by a failure"))
    }

    fn may_take(&self, there: &Value, identity: &str, manner: Manner, now: Timestamp) -> bool {
        let who = value::text(there, "/spec/holderIdentity");
        // An identity is one process's: this is a claim of ours that did not come to its end.
        manner == Manner::Force || who.is_empty() || who == identity || self.is_dead(there, now)
    }

    fn is_dead(&self, there: &Value, now: Timestamp) -> bool {
        let lasts = value::number(there, "/spec/leaseDurationSeconds")
            .and_then(|secs| i32::try_from(secs).ok())
            .map_or(DURATION, |secs| SignedDuration::from_secs(secs.into()));
        let mark = mark(there);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match seen.as_ref() {
            Some((last, since)) if *last == mark => *since,
            _ => {
                *seen = Some((mark, now));
                now
            }
        };
        let silent =
            value::time(there, "/spec/renewTime").is_none_or(|renewed| now.duration_since(renewed) > lasts + SKEW);
        silent || now.duration_since(since) >= lasts
    }

    fn name(&self) -> String {
        configmap::name(&self.rollout)
    }

    fn object(&self, identity: &str, epoch: u64, now: Timestamp) -> Value {
        let object = json!({
            "apiVersion": Kind::Lease.api_version(),
            "kind": Kind::Lease.name(),
            "metadata": {
                "name": self.name(),
                "namespace": self.api.namespace(),
                "labels": {configmap::ROLLOUT_LABEL: self.rollout, "app.kubernetes.io/managed-by": "wade"},
            },
        });
        taken(object, identity, epoch, now)
    }

    fn held(&self, identity: &str, epoch: u64, now: Timestamp, object: Value) -> Held {
        let keeper = Keeper {
            api: self.api.clone(),
            name: self.name(),
            identity: identity.to_owned(),
            epoch,
            clock: Arc::clone(&self.clock),
            renewed: Arc::new(Mutex::new(now)),
            lost: CancellationToken::new(),
        };
        Held {
            epoch,
            task: tokio::spawn(keeper.clone().keep(object)),
            keeper,
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({} in {})", self.name(), self.api.namespace())
    }
}

/// A Lease that is ours. Dropping it stops the renewal, so that it runs out; [`Self::release`] gives it back at once.
#[derive(Debug)]
pub struct Held {
    epoch: u64,
    keeper: Keeper,
    task: JoinHandle<()>,
}

impl Held {
    /// The number that every write of this holder carries.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Cancelled when somebody else has it: stop.
    pub fn lost(&self) -> CancellationToken {
        self.keeper.lost.clone()
    }

    /// Whether nobody can have taken it as dead yet. If not, nothing forward may be done; going back may.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        !self.keeper.lost.is_cancelled() && now.duration_since(self.keeper.renewed()) < DURATION
    }

    /// Gives it back: the next one gets it at once. One that is somebody else's by now is left alone.
    ///
    /// # Errors
    /// Not reachable; it runs out by itself then.
    pub async fn release(&self) -> Result<(), ApiError> {
        self.task.abort();
        let keeper = &self.keeper;
        let mut failed = None;
        for _ in 0..TRIES {
            let there = keeper.api.get(Kind::Lease, &keeper.name).await?;
            let Some(mut object) = there.filter(|there| is(there, &keeper.identity, keeper.epoch)) else {
                return Ok(());
            };
            object["spec"]["holderIdentity"] = Value::Null;
            match keeper.api.replace(Kind::Lease, &keeper.name, &object).await {
                Ok(_) => return Ok(()),
                // A renewal that was under way has arrived.
                Err(error) if error.is_conflict() => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Renews.
#[derive(Clone)]
struct Keeper {
    api: ApiServer,
    name: String,
    identity: String,
    epoch: u64,
    clock: Arc<dyn Clock>,
    /// When the last renewal that succeeded was begun, by our clock.
    renewed: Arc<Mutex<Timestamp>>,
    lost: CancellationToken,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keeper({} as {}, epoch {})", self.name, self.identity, self.epoch)
    }
}

impl Keeper {
    async fn keep(self, mut object: Value) {
        let mut pause = RENEW_EVERY;
        let mut missed = 0_u32;
        loop {
            tokio::time::sleep(pause).await;
            pause = match self.renew(&mut object).await {
                Ok(true) => {
                    if missed > 0 {
                        tracing::info!(lease = self.name, missed, "the lease is renewed again");
                    }
                    missed = 0;
                    RENEW_EVERY
                }
                Ok(false) => {
                    tracing::warn!(lease = self.name, "somebody else has the lease now");
                    self.lost.cancel();
                    return;
                }
                Err(error) => {
                    // A server that is away is away for every release: said at once, and then now and then.
                    if missed.is_multiple_of(SAID_EVERY) {
                        tracing::warn!(lease = self.name, missed, %error, "the lease was not renewed; trying again");
                    }
                    missed = missed.saturating_add(1);
                    RETRY_EVERY
                }
            };
        }
    }

    /// Whether it is still ours.
    async fn renew(&self, object: &mut Value) -> Result<bool, ApiError> {
        let began = self.clock.now();
        let mut next = object.clone();
        next["spec"]["renewTime"] = json!(micro(began));
        let done = match self.api.replace(Kind::Lease, &self.name, &next).await {
            Err(error) if error.is_conflict() || error.is_not_found() => self.look_again(began, error).await?,
            done => Some(done?),
        };
        let Some(done) = done else { return Ok(false) };
        *object = done;
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = began;
        Ok(true)
    }

    /// The Lease has changed, or is gone: renewed on top of what is there, made again, or lost (`None`).
    async fn look_again(&self, began: Timestamp, error: ApiError) -> Result<Option<Value>, ApiError> {
        match self.api.get(Kind::Lease, &self.name).await? {
            Some(there) if !is(&there, &self.identity, self.epoch) => Ok(None),
            Some(mut there) => {
                there["spec"]["renewTime"] = json!(micro(began));
                self.api.replace(Kind::Lease, &self.name, &there).await.map(Some)
            }
            None => {
                // Somebody deleted it. Whoever is quicker has it: an answer that it exists is looked at next time.
                tracing::warn!(lease = self.name, %error, "the lease was deleted; making it again");
                let object = json!({
                    "apiVersion": Kind::Lease.api_version(),
                    "kind": Kind::Lease.name(),
                    "metadata": {"name": self.name, "namespace": self.api.namespace()},
                });
                let object = taken(object, &self.identity, self.epoch, began);
                self.api.create(Kind::Lease, &object).await.map(Some)
            }
        }
    }

    fn renewed(&self) -> Timestamp {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Lease's object as the new holder writes it; the resourceVersion it was read with is its precondition.
fn taken(mut object: Value, identity: &str, epoch: u64, now: Timestamp) -> Value {
    object["spec"] = json!({
        "holderIdentity": identity,
        "leaseDurationSeconds": DURATION.as_secs(),
        "leaseTransitions": epoch,
        "acquireTime": micro(now),
        "renewTime": micro(now),
    });
    object
}

/// Kubernetes reads exactly six digits after the point here, and refuses others.
fn micro(time: Timestamp) -> String {
    format!("{time:.6}")
}

/// Another one after every renewal and every change of the holder.
fn mark(lease: &Value) -> String {
    let (who, renewed) = (
        value::text(lease, "/spec/holderIdentity"),
        value::text(lease, "/spec/renewTime"),
    );
    format!("{who} {} {renewed}", transitions(lease))
}

fn transitions(lease: &Value) -> u64 {
    value::number(lease, "/spec/leaseTransitions").unwrap_or(0)
}

fn holder(lease: &Value) -> Option<Holder> {
    let who = value::text(lease, "/spec/holderIdentity");
    (!who.is_empty()).then(|| Holder {
        who: who.to_owned(),
        since: value::time(lease, "/spec/acquireTime"),
        renewed: value::time(lease, "/spec/renewTime"),
    })
}

fn is(lease: &Value, identity: &str, epoch: u64) -> bool {
    value::text(lease, "/spec/holderIdentity") == identity && transitions(lease) == epoch
}

#[cfg(test)]
mod tests;
