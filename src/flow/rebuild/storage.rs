//! Reading the storage modules into the shadow, page by page (http contract 8.2, 8.3).
//!
//! All of it speaks of five minutes before reading began: clocks differ, and what happened since may be in
//! a page or not (events contract 10). So events of that time or later count as if nothing had been read.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::value::RawValue;
use tokio::time::sleep;
use tracing::warn;
use uuid::Uuid;

use super::work::{Failure, Work};
use crate::{
    event::{Stamp, held, stamp::Horizon},
    okapi::{
        Caller,
        storage::{Kept, PAGE},
    },
    patron::Said,
    store::{laid, rebuilds, shadow},
    telemetry::Chain,
};

/// By how much clocks may differ.
pub(super) const MARGIN: TimeDelta = TimeDelta::minutes(5);

/// How long to wait before a page is asked for again; twice as long the next time.
const AGAIN: Duration = Duration::from_millis(250);

/// One page may take this many tries that wait for an answer to the last.
const TRIES: u32 = 3;

/// Reads what is not read yet. Whatever is not found among it is closed for whoever it speaks of.
pub(super) async fn read(work: &Work, state: &shadow::State) -> Result<(), Failure> {
    let Some(caller) = &work.caller else {
        return Err(Failure::Token("nobody's token is at hand".to_owned()));
    };
    let at = state.read_from - MARGIN;
    let mut tx = work.begin().await?;
    shadow::speak(&mut tx, &work.shadow, work.ask.scope, Horizon::at(at)).await?;
    work.commit(tx).await?;
    let place = state.place.as_deref();
    if place != Some(Kept::Accounts.name()) {
        let after = state.read_up_to.filter(|_| place.is_some());
        read_all(work, caller, Kept::Loans, after, at).await?;
    }
    let after = state.read_up_to.filter(|_| place == Some(Kept::Accounts.name()));
    read_all(work, caller, Kept::Accounts, after, at).await
}

async fn read_all(
    work: &Work,
    caller: &Caller,
    kept: Kept,
    mut after: Option<Uuid>,
    at: DateTime<Utc>,
) -> Result<(), Failure> {
    let stage = match kept {
        Kept::Loans => "reading loans",
        Kept::Accounts => "reading fees/fines",
    };
    work.progress.begin(stage, 0);
    loop {
        // Others go on while storage is waited for.
        work.turn.leave();
        let page = ask(work, caller, kept, after).await?;
        work.turn.take().await;
        let began = Instant::now();
        let last = page.last().and_then(|record| held::id(record.get()));
        let is_last = page.len() < PAGE;
        if !is_last && last <= after {
            let name = kept.name();
            return Err(Failure::Refused(format!("pages of {name} do not go on by id")));
        }
        let Learnt { said, unread, problems } = learn(kept, &page, at);
        let mut tx = work.begin().await?;
        shadow::note_unread(&mut tx, &work.shadow, &unread).await?;
        laid::add(&mut tx, &work.shadow, &said).await?;
        shadow::keep_place(&mut tx, &work.shadow, kept.name(), last.or(after)).await?;
        rebuilds::note_read(&mut tx, work.id, (said.loans.len(), said.fees.len()), &problems)
            .await?;
        work.commit(tx).await?;
        work.progress.add(page.len() as u64);
        if is_last {
            return Ok(());
        }
        after = last;
        work.pace.keep(began).await;
    }
}

/// What a page says.
#[derive(Default)]
struct Learnt {
    said: Said,
    /// Records that are open there and lack what they need: what is known of them stays.
    unread: Vec<Uuid>,
    /// What they lack.
    problems: Vec<String>,
}

fn learn(kept: Kept, page: &[Box<RawValue>], at: DateTime<Utc>) -> Learnt {
    let mut learnt = Learnt::default();
    for record in page {
        let (what, read) = match kept {
            Kept::Loans => ("loan", held::loan(record.get())),
            Kept::Accounts => ("account", held::account(record.get())),
        };
        let id = held::id(record.get());
        match read {
            Ok(fact) => {
                let stamp = fact.subject().map(|subject| Stamp::snapshot(at, subject));
                stamp.into_iter().for_each(|stamp| learnt.said.learn(stamp, &fact));
            }
            Err(reject) => {
                learnt.unread.extend(id);
                let id = id.map_or("without an id".to_owned(), |id| id.to_string());
                learnt.problems.push(format!("{what} {id} is passed over: {reject}"));
            }
        }
    }
    learnt
}

/// Asks for a page until it comes, for as long as a page may take.
async fn ask(
    work: &Work,
    caller: &Caller,
    kept: Kept,
    after: Option<Uuid>,
) -> Result<Vec<Box<RawValue>>, Failure> {
    let (began, patience) = (Instant::now(), work.setting.page_patience);
    let mut pause = AGAIN;
    loop {
        let timeout = (patience / TRIES).min(patience.saturating_sub(began.elapsed()));
        let error = match work.storage.page(caller, kept, work.ask.scope, after, timeout).await {
            Ok(page) => return Ok(page),
            Err(error) if error.is_of_the_token() => {
                return Err(Failure::Token(format!("{} {error}", kept.name())));
            }
            Err(error) if error.is_final() => {
                return Err(Failure::Refused(format!("{} {error}", kept.name())));
            }
            Err(error) => error,
        };
        let (kept, problem) = (kept.name(), Chain(&error).to_string());
        if began.elapsed() + pause >= patience {
            let seconds = patience.as_secs();
            let problem = format!("a page of {kept} could not be had for {seconds} s: {problem}");
            return Err(Failure::Refused(problem));
        }
        warn!(tenant = %work.tenant.id, rebuild.id = %work.id, problem, "rebuild: could not read a page of {kept} from storage; retrying");
        sleep(pause).await;
        pause *= 2;
    }
}
