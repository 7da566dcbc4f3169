//! The command `dead-letters`: lists, shows, retries and discards dead letters.

use std::io::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{CliContext, CommandError, OPERATOR, PAGE_ROWS, parse_id};
use crate::{
    cql::{Condition, Query},
    services::{
        ingest::dead_letters::{REQUEST_TIMEOUT, RetryOutcome, RetryReport, schema_of},
        operator_actions::{Act, ActEnd, Action},
    },
    store::{
        Schema,
        ingest::{
            dead_letters::{self, DeadLetterHead, StoredDeadLetter},
            discarded_dead_letters::{self, DiscardedHead},
        },
    },
};

/// Actions on dead letters.
#[derive(Debug, clap::Subcommand)]
pub enum DeadLetterCommand {
    /// List dead letters
    List(DeadLetterFilter),
    /// Show one dead letter with its bytes
    Show {
        /// Id of the dead letter
        id: String,
    },
    /// Apply dead letters again, through the normal ingest
    Retry(DeadLetterFilter),
    /// Discard dead letters without applying them; `restore` parks them again for some days
    Discard(DeadLetterFilter),
    /// List the dead letters that were discarded last
    ListDiscarded,
    /// Park a discarded dead letter again
    Restore {
        /// Id of the dead letter
        id: String,
    },
}

/// The selection of dead letters.
#[derive(Debug, Default, clap::Args)]
pub struct DeadLetterFilter {
    /// Only the dead letter with this id
    #[arg(long)]
    id: Option<String>,
    /// Only dead letters with this reason, such as bad_field
    #[arg(long)]
    reason: Option<String>,
    /// Only dead letters of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only dead letters of this partition
    #[arg(long)]
    partition: Option<i32>,
    /// Only dead letters about this member or header
    #[arg(long)]
    field: Option<String>,
}

pub(super) async fn run(
    context: &CliContext,
    action: &DeadLetterCommand,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    let schema = schema_of(context.tenant.as_ref());
    match action {
        DeadLetterCommand::List(filter) => {
            let mut after = None;
            while let Some(page) = filter.page(context, &mut after).await? {
                for dead_letter in page {
                    writeln!(out, "{}", format_line(&dead_letter, context.json))?;
                }
            }
        }
        DeadLetterCommand::Show { id } => {
            let Some(letter) = dead_letters::find(&context.db, &schema, parse_id(id)?).await?
            else {
                return Err(CommandError::Argument(format!("dead letter {id} does not exist")));
            };
            let payload = letter.record.payload.as_deref().unwrap_or_default();
            if context.json {
                let mut line = to_json(&letter.head());
                line["payloadBase64"] = STANDARD.encode(payload).into();
                writeln!(out, "{line}")?;
            } else {
                writeln!(out, "{}", format_line(&letter.head(), false))?;
                out.write_all(payload)?;
                writeln!(out)?;
            }
        }
        DeadLetterCommand::Retry(chosen) => return retry(context, &schema, chosen, out).await,
        DeadLetterCommand::ListDiscarded => {
            for head in discarded_dead_letters::list(&context.db, &schema, PAGE_ROWS).await? {
                writeln!(out, "{}", format_discarded(&head, context.json))?;
            }
        }
        DeadLetterCommand::Restore { id } => {
            let id = parse_id(id)?;
            let work = async {
                let is_restored = context.dead_letters.restore(&schema, id, OPERATOR).await?;
                let unknown =
                    || CommandError::Argument(format!("dead letter {id} is not discarded"));
                is_restored.then_some(()).ok_or_else(unknown)
            };
            let act = Act::on(Action::RestoreRecord, id);
            context.record(act, work, |()| ActEnd::done(json!({}))).await?;
            if context.json {
                writeln!(out, "{}", json!({ "id": id, "restored": true }))?;
            } else {
                writeln!(out, "restored")?;
            }
        }
        DeadLetterCommand::Discard(chosen) => {
            let id = chosen.id.as_deref().map(parse_id).transpose()?;
            let work = async {
                Ok(match id {
                    Some(id) => {
                        u64::from(context.dead_letters.discard(&schema, id, OPERATOR).await?)
                    }
                    None => discard_all(context, &schema, chosen).await?,
                })
            };
            let end_of = |discarded: &u64| ActEnd::done(json!({ "discarded": discarded }));
            let act = chosen.act(Action::DiscardRecord, Action::DiscardRecords);
            let discarded = context.record(act, work, end_of).await?;
            if context.json {
                writeln!(out, "{}", json!({ "discarded": discarded }))?;
            } else {
                writeln!(out, "discarded: {discarded}")?;
            }
        }
    }
    Ok(true)
}

/// Retries the selected dead letters. Returns whether all were applied.
async fn retry(
    context: &CliContext,
    schema: &Schema,
    filter: &DeadLetterFilter,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    let act = filter.act(Action::RetryRecord, Action::RetryRecords);
    let end_of = |report: &RetryReport| match filter.id {
        Some(_) if report.still_parked > 0 => ActEnd::rejected("the record is still parked"),
        _ => report.act_end(),
    };
    let report = context.record(act, retry_each(context, schema, filter, out), end_of).await?;
    Ok(report.still_parked == 0)
}

async fn retry_each(
    context: &CliContext,
    schema: &Schema,
    filter: &DeadLetterFilter,
    out: &mut impl Write,
) -> Result<RetryReport, CommandError> {
    let (mut report, mut after) = (RetryReport::default(), None);
    while let Some(page) = filter.page(context, &mut after).await? {
        for DeadLetterHead { id, .. } in page {
            // One at a time: each dead letter may have megabytes. Another operator may have removed the dead
            // letter.
            let Some(letter) = dead_letters::find(&context.db, schema, id).await? else { continue };
            let (applied, why) = match context.dead_letters.retry(letter).await? {
                RetryOutcome::Applied => (true, "applied".to_owned()),
                RetryOutcome::StillParked(why) => (false, why),
            };
            if applied {
                report.applied += 1;
            } else {
                report.still_parked += 1;
            }
            if context.json {
                writeln!(out, "{}", json!({ "id": id, "applied": applied, "why": why }))?;
            } else {
                writeln!(out, "{id}  {}{why}", if applied { "" } else { "not applied: " })?;
            }
        }
    }
    Ok(report)
}

/// Discards all matching dead letters, without a time limit.
async fn discard_all(
    context: &CliContext,
    schema: &Schema,
    chosen: &DeadLetterFilter,
) -> Result<u64, CommandError> {
    let mut all = 0;
    loop {
        let (service, condition) = (&context.dead_letters, chosen.condition());
        let done = service.discard_all(schema, &condition, OPERATOR, REQUEST_TIMEOUT).await?;
        all += done.discarded;
        if done.continue_after.is_none() {
            return Ok(all);
        }
    }
}

impl DeadLetterFilter {
    /// Returns an act on the dead letter with the id, or on all dead letters of the condition.
    fn act(&self, on_one: Action, on_many: Action) -> Act {
        match &self.id {
            Some(id) => Act::on(on_one, id),
            None => Act::on(on_many, self.condition()),
        }
    }

    fn condition(&self) -> Condition {
        let fields = [
            ("reason", self.reason.clone()),
            ("topic", self.topic.clone()),
            ("partition", self.partition.map(|partition| partition.to_string())),
            ("field", self.field.clone()),
        ];
        Condition::all_equal(fields.into_iter().filter_map(|(name, text)| Some((name, text?))))
    }

    /// Returns the page after `after` and advances `after`, or returns `None` after the last page.
    async fn page(
        &self,
        context: &CliContext,
        after: &mut Option<Uuid>,
    ) -> Result<Option<Vec<DeadLetterHead>>, CommandError> {
        let schema = schema_of(context.tenant.as_ref());
        let page = match &self.id {
            Some(_) if after.is_some() => Vec::new(),
            Some(id) => {
                let found = dead_letters::find(&context.db, &schema, parse_id(id)?).await?;
                found.iter().map(StoredDeadLetter::head).collect()
            }
            None => {
                let query = Query::from(self.condition());
                dead_letters::list(&context.db, &schema, &query, *after, (0, PAGE_ROWS)).await?
            }
        };
        let Some(last) = page.last() else { return Ok(None) };
        *after = Some(last.id);
        Ok(Some(page))
    }
}

fn to_json(letter: &DeadLetterHead) -> Value {
    let DeadLetterHead { id, reason, field, rule, topic, partition, offset, received_at, .. } =
        letter;
    json!({
        "id": id, "reason": reason, "field": field, "rule": rule, "receivedAt": received_at,
        "topic": topic, "partition": partition, "offset": offset,
    })
}

fn format_discarded(head: &DiscardedHead, json: bool) -> String {
    let DiscardedHead { id, discarded_at, reason, rule, topic, partition, offset } = head;
    if json {
        let line = json!({
            "id": id, "discardedAt": discarded_at, "reason": reason, "rule": rule, "topic": topic,
            "partition": partition, "offset": offset,
        });
        return line.to_string();
    }
    format!("{id}  discarded {discarded_at}  {reason}  {topic}/{partition}/{offset}  {rule}")
}

fn format_line(letter: &DeadLetterHead, json: bool) -> String {
    if json {
        return to_json(letter).to_string();
    }
    let DeadLetterHead { id, reason, field, rule, topic, partition, offset, .. } = letter;
    let field = field.as_deref().unwrap_or("");
    format!("{id}  {reason}  {topic}/{partition}/{offset}  {field} {rule}")
}
