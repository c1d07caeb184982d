//! Hooks on this machine: commands, one after the other, in the background.
//!
//! A daemon that dies takes the command's process group with it where it can, and the next one begins the point anew: a
//! command may run twice, and has to bear that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::engine::HookReport;
use crate::platforms::PlatformError;
use crate::platforms::hooking::HookRunner;
use crate::smoke;
use crate::spec::{HookPoint, HookSpec};

/// The commands of one release.
pub struct LocalHooks {
    hooks: Vec<HookSpec>,
    env: BTreeMap<String, String>,
    wake: Arc<Notify>,
    begun: Option<Begun>,
}

struct Begun {
    at: HookPoint,
    report: Arc<Mutex<Option<HookReport>>>,
    task: AbortHandle,
}

impl Drop for Begun {
    fn drop(&mut self) {
        // A command that is dropped is killed with its process group.
        self.task.abort();
    }
}

impl LocalHooks {
    /// The commands among `hooks`; `env` is what they are told, and `wake` is told when they have ended.
    pub fn new(hooks: &[HookSpec], env: BTreeMap<String, String>, wake: Arc<Notify>) -> Self {
        Self {
            hooks: hooks.to_vec(),
            env,
            wake,
            begun: None,
        }
    }
}

#[async_trait]
impl HookRunner for LocalHooks {
    async fn run(&mut self, at: HookPoint) -> Result<Option<HookReport>, PlatformError> {
        let begun = match &self.begun {
            Some(begun) if begun.at == at => begun,
            _ => {
                let hooks: Vec<HookSpec> = self.hooks.iter().filter(|hook| hook.at() == at).cloned().collect();
                let mut env = self.env.clone();
                env.insert("WADE_HOOK".to_owned(), at.label().to_owned());
                let report = Arc::new(Mutex::new(None));
                let (shared, wake) = (Arc::clone(&report), Arc::clone(&self.wake));
                let task = tokio::spawn(async move {
                    let ended = all(at, &hooks, &env).await;
                    *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
                    wake.notify_one();
                });
                let task = task.abort_handle();
                self.begun.insert(Begun { at, report, task })
            }
        };
        Ok(begun.report.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

async fn all(at: HookPoint, hooks: &[HookSpec], env: &BTreeMap<String, String>) -> HookReport {
    let mut names = Vec::new();
    for hook in hooks {
        let HookSpec::Command(command) = hook else { continue };
        let name = hook.name();
        if let Err(why) = smoke::program(&command.command, hook.within(), env).await {
            return HookReport {
                at,
                passed: false,
                summary: format!("hook {name} ({at}) failed: {why}"),
            };
        }
        names.push(name);
    }
    HookReport {
        at,
        passed: true,
        summary: format!("hooks {at} ended well: {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{CommandHook, Span};

    fn shell(script: &str, within: Span) -> HookSpec {
        HookSpec::Command(CommandHook {
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            at: HookPoint::BeforeStart,
            within: Some(within),
        })
    }

    async fn ended(hooks: &[HookSpec]) -> HookReport {
        let wake = Arc::new(Notify::new());
        let env = BTreeMap::from([("WADE_RELEASE".to_owned(), "7".to_owned())]);
        let mut runner = LocalHooks::new(hooks, env, Arc::clone(&wake));
        loop {
            if let Some(report) = runner.run(HookPoint::BeforeStart).await.expect("it answers") {
                return report;
            }
            wake.notified().await;
        }
    }

    #[tokio::test]
    async fn commands_run_one_after_the_other_until_one_fails() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("said");
        let say = |word: &str| format!("echo {word} $WADE_RELEASE $WADE_HOOK >> {}", file.display());
        let minute = Span::secs(60);
        let well = ended(&[shell(&say("first"), minute), shell(&say("second"), minute)]).await;
        assert!(well.passed, "{well:?}");
        let failed = ended(&[shell("echo no table; exit 3", minute), shell(&say("never"), minute)]).await;
        assert!(!failed.passed);
        assert!(
            failed.summary.contains("ended with 3") && failed.summary.contains("no table"),
            "{}",
            failed.summary
        );
        let said = std::fs::read_to_string(&file).expect("they wrote");
        assert_eq!(said, "first 7 beforeStart\nsecond 7 beforeStart\n");
    }

    #[tokio::test]
    async fn a_command_that_does_not_end_is_killed() {
        let failed = ended(&[shell("sleep 60", Span::millis(200))]).await;
        assert!(!failed.passed && failed.summary.contains("killed"), "{failed:?}");
    }
}
