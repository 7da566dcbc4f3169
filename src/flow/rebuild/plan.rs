//! Which part of the topics is to be read, and whether they still hold all that is asked for.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::{
    ask::{From, Source, Start},
    work::{Failure, Work},
};
use crate::{
    event::{Environment, TenantId, Topic, stamp::Horizon},
    flow::{outcome::At, takeover::Span},
    kafka::{Broker, Look, Looked, reader::Part},
    store::{self, Schema, incidents, positions},
};

/// By how much the time of an event may be later than that of its record (events contract 6.4).
const CLOCKS: TimeDelta = TimeDelta::minutes(5);

/// Since when all is there of what was written from a time on.
pub(super) fn complete_from(time: DateTime<Utc>) -> Horizon {
    Horizon::at(time.checked_add_signed(CLOCKS).unwrap_or(DateTime::<Utc>::MAX_UTC))
}

/// What is to be read of the log, and how much of it was not there any more.
pub(super) struct Plan {
    pub(super) parts: BTreeMap<At, Part>,
    pub(super) complete_since: Option<Horizon>,
    pub(super) lacks_before: Option<DateTime<Utc>>,
    /// What whoever asked has to know.
    pub(super) problem: Option<String>,
}

impl Plan {
    fn of_no_topics(complete_since: Horizon, problem: Option<String>) -> Self {
        let complete_since = Some(complete_since);
        Self { parts: BTreeMap::new(), complete_since, lacks_before: None, problem }
    }
}

/// Looks at what there is.
pub(super) async fn plan(work: &Work) -> Result<Plan, Failure> {
    match work.ask.source {
        Source::Inbox => return of_inbox(work).await,
        // It knows nothing of what happened: what is known here is kept, and what it says is merged.
        Source::Storage => return Ok(Plan::of_no_topics(Horizon::NEVER, None)),
        Source::Topics => {}
    }
    let now = store::now(work.db()).await?;
    let (environment, id) = (work.kafka.environment.clone(), work.tenant.id.clone());
    let asked = work.ask_broker(move |broker| places(&broker, &environment, &id));
    let (places, spans) = asked.await?;
    let mut parts = BTreeMap::new();
    for at in &places {
        let Some(Span { start, end }) = spans.get(at) else {
            return Err(Failure::Away("a partition has no leader"));
        };
        parts.insert(at.clone(), Part { next: *start, end: *end });
    }
    let mut lacks_before = None;
    let missing = missing(work, &parts, now).await?;
    let wanted = match &work.ask.from {
        From::Earliest => None,
        From::Time(time) => {
            let time = *time;
            let first = work.ask_broker(move |broker| broker.since(&places, time)).await?;
            for (at, part) in &mut parts {
                *part = part.since(first.get(at).copied());
            }
            Some(time)
        }
        From::Places(places) => {
            parts = only(&parts, places)?;
            None
        }
    };
    let missing = missing.filter(|(_, until)| wanted.is_none_or(|wanted| *until > wanted));
    let complete_since = match missing {
        missing if work.ask.fill => {
            lacks_before = missing.map(|(_, until)| until);
            Some(Horizon::NEVER)
        }
        None => wanted.map(complete_from),
        Some((at, until)) if work.ask.covered_by_inbox => {
            let since = covered_by_inbox(work, &at, until).await?;
            Some(complete_from(wanted.map_or(since, |wanted| since.max(wanted))))
        }
        Some((at, until)) => {
            return Err(Failure::Refused(format!(
                "topic {}, partition {}, does not hold what was written before {}: what happened until then \
                 can't be told from it; say that the inbox covers it (coveredBy), or begin later (from)",
                at.0,
                at.1,
                until.to_rfc3339_opts(SecondsFormat::Secs, true),
            )));
        }
    };
    Ok(Plan { parts, complete_since, lacks_before, problem: None })
}

/// What the inbox may be asked for. Of what is older than all that it has, it says nothing.
async fn of_inbox(work: &Work) -> Result<Plan, Failure> {
    let mut tx = work.begin().await?;
    let since = work.inbox_extent(&mut tx).await?.complete_since();
    let told = since.to_rfc3339_opts(SecondsFormat::Secs, true);
    match work.ask.from {
        From::Time(time) if time < since => Err(Failure::Refused(format!(
            "the inbox has everything since {told} only: begin then or later (from), or ask the storage modules"
        ))),
        From::Time(time) => Ok(Plan::of_no_topics(complete_from(time), None)),
        From::Earliest | From::Places(_) => {
            let problem = format!(
                "the inbox has everything since {told} only: what happened before stays as it is known here"
            );
            Ok(Plan::of_no_topics(complete_from(since), Some(problem)))
        }
    }
}

/// Since when the inbox has everything, if that is long enough for what a topic lacks until an instant.
async fn covered_by_inbox(
    work: &Work,
    (topic, partition): &At,
    until: DateTime<Utc>,
) -> Result<DateTime<Utc>, Failure> {
    let mut tx = work.begin().await?;
    let since = work.inbox_extent(&mut tx).await?.complete_since();
    if since <= until {
        return Ok(since);
    }
    let told = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    Err(Failure::Refused(format!(
        "topic {topic}, partition {partition}, does not hold what was written before {}, and the inbox has \
         everything since {} only: begin later (from), or ask the storage modules",
        told(until),
        told(since),
    )))
}

/// Those of the partitions that are asked for, from where that is said.
fn only(parts: &BTreeMap<At, Part>, asked: &[Start]) -> Result<BTreeMap<At, Part>, Failure> {
    let mut only = BTreeMap::new();
    for Start { topic, partition, offset } in asked {
        let is_asked = |at: &At| *at.0 == **topic && partition.is_none_or(|n| n == at.1);
        let found = parts.iter().filter(|(at, _)| is_asked(at));
        let before = only.len();
        only.extend(found.map(|(at, part)| {
            let next = part.next.max(offset.unwrap_or_default()).min(part.end);
            (at.clone(), Part { next, end: part.end })
        }));
        if only.len() == before {
            let place = From::Places(vec![Start {
                topic: topic.clone(),
                partition: *partition,
                offset: None,
            }]);
            return Err(Failure::Refused(format!(
                "{place} is none of the tenant's topics that there are"
            )));
        }
    }
    Ok(only)
}

type Places = (Vec<At>, std::collections::HashMap<At, Span>);

/// The tenant's topics, and those of all collections: they may hold records of any tenant.
fn places(
    broker: &Broker,
    environment: &Environment,
    tenant: &TenantId,
) -> Result<Places, crate::kafka::Error> {
    let own = |topic: &Topic| topic.tenant.as_ref().is_none_or(|id| id == tenant);
    let mut names = broker.topics()?;
    names.retain(|name| environment.parse(name).as_ref().is_some_and(own));
    let places = broker.partitions(&names)?;
    let spans = broker.spans(&places)?;
    Ok((places, spans))
}

/// When the first record of a place was written, or `now` where none is there. A place that did not answer says
/// nothing of that: taken for empty, a slow broker would make a rebuild fail for good.
fn began(looked: &Looked, at: &At, now: DateTime<Utc>) -> Result<DateTime<Utc>, Failure> {
    let records = looked.get(at).ok_or(Failure::Away("a partition was not read in time"))?;
    Ok(records.first().map_or(now, |record| record.at))
}

/// The place whose log begins latest, where one does not hold everything that was ever written to it:
/// retention has cut it, or it was made anew. Tells from when on it does.
async fn missing(
    work: &Work,
    parts: &BTreeMap<At, Part>,
    now: DateTime<Utc>,
) -> Result<Option<(At, DateTime<Utc>)>, Failure> {
    let cut = parts.iter().filter(|(_, part)| part.next > 0);
    let look = |(at, part): (&At, &Part)| Look { at: at.clone(), from: part.next, records: 1 };
    let looks: Vec<Look> = cut.map(look).collect();
    let cut: Vec<At> = looks.iter().map(|look| look.at.clone()).collect();
    let looked = work.ask_broker(move |broker| Ok(broker.look(&looks))).await?;
    let mut missing = Vec::with_capacity(cut.len());
    for at in cut {
        let began = began(&looked, &at, now)?;
        missing.push((at, began));
    }
    let mut tx = work.begin().await?;
    for gap in incidents::gaps(&mut *tx, &work.tenant.id).await? {
        let at = (Arc::from(gap.topic), gap.partition);
        if parts.contains_key(&at) {
            missing.push((at, gap.until));
        }
    }
    // What was read once and is there no more, or can't be seen: nothing of it can be read again.
    for schema in [&*work.tenant.schema, &Schema::module()] {
        for ((topic, partition), position) in positions::list(&mut *tx, schema).await? {
            let at = (Arc::from(topic), partition);
            if position.next_offset > 0 && !parts.contains_key(&at) {
                missing.push((at, now));
            }
        }
    }
    Ok(missing.into_iter().max_by_key(|(_, until)| *until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_did_not_answer_is_not_called_empty() {
        let [slow, empty] = [0, 1].map(|partition| (Arc::from("topic"), partition));
        let looked = Looked::from([(empty.clone(), Vec::new())]);
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(began(&looked, &empty, now).unwrap(), now);
        let failure = began(&looked, &slow, now).unwrap_err();
        assert!(failure.may_pass(), "{failure}");
    }
}
