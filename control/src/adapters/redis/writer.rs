//! The one task that writes: what is owed, then facts in batches; void routes that readers met; and a look at the markers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Value;
use tidegate_control_core::ports::cache::Fact;

use super::backlog::Batch;
use super::calls::Call;
use super::link::Answer;
use super::shared::{Rest, Shared, now_s};

/// Facts of one batch.
const BATCH_MAX: usize = 1_024;
/// How soon a flush is noticed, and how long a repair waits after something could not be written.
const PULSE: Duration = Duration::from_secs(1);
/// While probes are under way.
const NAP: Duration = Duration::from_millis(20);

pub async fn run(shared: Arc<Shared>) {
    let mut markers = Markers::new(&shared);
    let (mut pulse_at, mut repair_at) = (Duration::ZERO, Duration::ZERO);
    let mut well = false;
    while !shared.is_closed() {
        if !well || shared.now() >= pulse_at {
            // Facts are not spent on finding out whether the server is there.
            well = markers.look(&shared).await && shared.is_well();
            pulse_at = shared.now() + PULSE;
        }
        if !well {
            tokio::time::sleep(shared.shut_for().clamp(NAP, PULSE)).await;
            continue;
        }
        if !shared.has_work() {
            wait(&shared, pulse_at.saturating_sub(shared.now())).await;
            continue;
        }
        let repair = shared.backlog().owed() > 0 && shared.now() >= repair_at;
        let batch = shared.take(BATCH_MAX, repair);
        if batch.facts.is_empty() {
            shared.wrote(Rest::Nothing);
            if !sweep(&shared).await {
                wait(&shared, NAP).await;
            }
            continue;
        }
        let rest = write(&shared, batch).await;
        if !matches!(rest, Rest::Nothing) {
            repair_at = shared.now() + PULSE;
            well = !matches!(rest, Rest::All(_));
        }
        shared.wrote(rest);
    }
    shared.idle.notify_waiters();
}

async fn wait(shared: &Shared, most: Duration) {
    let _ = tokio::time::timeout(most, shared.wake.notified()).await;
}

async fn write(shared: &Shared, batch: Batch) -> Rest {
    let now_s = now_s();
    let mut calls: Vec<Call<'_>> = Vec::with_capacity(batch.facts.len());
    let ends: Vec<usize> = batch
        .facts
        .iter()
        .map(|fact| {
            calls.extend(shared.speaker.say(fact, now_s));
            calls.len()
        })
        .collect();
    let Some(answers) = shared.ask(&shared.writing, &calls).await else { return Rest::All(batch) };
    if !calls.is_empty() && answers.iter().all(|answer| matches!(answer, Answer::Away)) {
        return Rest::All(batch);
    }
    let Batch { facts, repair } = batch;
    let (mut failed, mut from) = (Vec::new(), 0);
    let (mut refused, mut reason) = (0, None);
    for (fact, end) in facts.into_iter().zip(ends) {
        match judge(&answers[from..end]) {
            Verdict::Done => {
                shared.counters.writes_done.fetch_add(1, Ordering::Relaxed);
            }
            Verdict::Away => failed.push(fact),
            Verdict::Refused(code) => {
                refused += 1;
                reason = code.or(reason);
                match fact {
                    // What stands of the stream is old now. A server without memory still deletes.
                    Fact::Head { .. } | Fact::Hot(_) | Fact::Queue(_) => failed.push(fact),
                    // Said again until there is room: a user who has gone must not stay here for good.
                    Fact::Online { .. } | Fact::Offline(_) if code.is_some() => failed.push(fact),
                    _ => {}
                }
            }
        }
        from = end;
    }
    shared.counters.writes_refused.fetch_add(refused, Ordering::Relaxed);
    if let Some(code) = reason {
        tracing::warn!(refused, code, "Redis refused writes");
    }
    if failed.is_empty() { Rest::Nothing } else { Rest::Some(Batch { facts: failed, repair }) }
}

enum Verdict<'a> {
    Done,
    Away,
    /// With the server's reason; `None`: there was nothing to be said, since a name is too long to be listed.
    Refused(Option<&'a str>),
}

fn judge(answers: &[Answer]) -> Verdict<'_> {
    let mut verdict = if answers.is_empty() { Verdict::Refused(None) } else { Verdict::Done };
    for answer in answers {
        match answer {
            Answer::Away => return Verdict::Away,
            Answer::Value(Value::ServerError(error)) => verdict = Verdict::Refused(Some(error.code())),
            Answer::Value(_) => {}
        }
    }
    verdict
}

/// Removes void routes that readers met. False: there were none.
async fn sweep(shared: &Shared) -> bool {
    let met = shared.take_sweeps();
    let calls: Vec<Call<'_>> = met.iter().map(|(uid, tag)| shared.speaker.drop_routes(uid, [tag.0.to_vec()])).collect();
    // Those that were not removed are met again.
    !calls.is_empty() && shared.ask(&shared.writing, &calls).await.is_some()
}

/// A key for each tag that nobody deletes and that has no time to live: when it is gone, so is everything else.
struct Markers {
    mine: String,
    seen: Vec<Option<Vec<u8>>>,
}

impl Markers {
    fn new(shared: &Shared) -> Markers {
        let mut bytes = [0u8; 8];
        // Without randomness two nodes write the same marker, and a flush that falls between their looks is found later.
        let _ = getrandom::fill(&mut bytes);
        Markers {
            mine: format!("{:016x}", u64::from_le_bytes(bytes)),
            seen: vec![None; shared.speaker.keys.markers().len()],
        }
    }

    /// False: no server answered.
    async fn look(&mut self, shared: &Shared) -> bool {
        let mut calls = Vec::new();
        for key in shared.speaker.keys.markers() {
            let unique = format!("{}-{}", self.mine, shared.now().as_millis());
            calls.push(Call::command("SET", key.clone()).arg(unique).arg("NX"));
            calls.push(Call::command("GET", key));
        }
        let Some(answers) = shared.ask(&shared.writing, &calls).await else { return false };
        let answered = answers.iter().any(|answer| matches!(answer, Answer::Value(_)));
        for (seen, answer) in self.seen.iter_mut().zip(answers.into_iter().skip(1).step_by(2)) {
            let Answer::Value(Value::BulkString(found)) = answer else { continue };
            if seen.as_ref().is_some_and(|seen| *seen != found) {
                shared.emptied.fetch_add(1, Ordering::AcqRel);
                tracing::warn!("Redis was emptied: what stood in it is written again as it is used");
            }
            *seen = Some(found);
        }
        answered
    }
}
