//! Commands for operators: the functions of the HTTP interface, for all tenants.

mod rebuild;

use std::{io::Write, sync::Arc, time::Duration};

use clap::Subcommand;
use serde_json::json;
use uuid::Uuid;

use crate::{
    clock::Clock,
    config::Config,
    cql::{Condition, Query},
    event::{TenantId, parse_uuid},
    services::{
        ingest::{
            Ingest,
            dead_letters::{DeadLetterService, RetryOutcome, schema_of},
            incidents::{self, Resolution},
            ingest_store::PgIngestStore,
        },
        maintenance::counter_check,
        tenant_lifecycle::java_switch,
        tenants::TenantRegistry,
    },
    store::{
        self, Db, PoolSettings, Schema,
        ingest::dead_letters::{self, DeadLetterHead, StoredDeadLetter},
    },
};

/// The commands of the program.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Recount the loans and fees/fines of every patron, and compare the results with the stored counters
    Check {
        /// Check only this tenant
        #[arg(long)]
        tenant: Option<String>,
        /// Correct wrong counters
        #[arg(long)]
        repair: bool,
    },
    /// Rebuild the state of patrons from a source, report the differences, and apply them with --apply
    Rebuild(rebuild::RebuildArguments),
    /// List, show, retry or discard records that could not be applied
    DeadLetters {
        /// Tenant of the dead letters; without this option, dead letters of unknown tenants
        #[arg(long, global = true)]
        tenant: Option<String>,
        /// Print one JSON object per line
        #[arg(long, global = true)]
        json: bool,
        /// Action on dead letters
        #[command(subcommand)]
        action: DeadLetterCommand,
    },
    /// List or resolve incidents, such as gaps, stopped partitions, and tenants with unwritable tables
    Incidents {
        /// Only incidents of this tenant and of tenant collections
        #[arg(long, global = true)]
        tenant: Option<String>,
        /// Print one JSON object per line
        #[arg(long, global = true)]
        json: bool,
        /// Action on incidents
        #[command(subcommand)]
        action: IncidentCommand,
    },
    /// Return the tables of a tenant to the Java module of the same name, with the current state, and disable
    /// the tenant in this module. All other data of the tenant is deleted, so check its dead letters first
    GiveBack {
        /// Tenant to return
        #[arg(long)]
        tenant: String,
    },
}

/// Actions on dead letters.
#[derive(Debug, Subcommand)]
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
    /// Delete dead letters without applying them
    Discard(DeadLetterFilter),
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

/// Actions on incidents.
#[derive(Debug, Subcommand)]
pub enum IncidentCommand {
    /// List open incidents
    List,
    /// Acknowledge a gap, or resume a stopped partition
    Resolve {
        /// Id of the incident
        id: String,
    },
}

/// The cause of a failed command.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// An argument is invalid; the text names the argument and the rule.
    #[error("{0}")]
    Argument(String),
    /// A database statement failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The Kafka client could not be created.
    #[error("could not create a Kafka client")]
    Kafka(#[source] crate::kafka::Error),
    /// The HTTP client could not be created.
    #[error("could not create an HTTP client")]
    Client(#[source] crate::okapi::ClientError),
    /// The output could not be written.
    #[error("could not write the output")]
    Output(#[from] std::io::Error),
}

/// Rows per page of a list.
const PAGE_ROWS: i64 = 1000;

/// Runs a command. Returns `false` if the command found a problem, such as wrong counters or an open
/// incident.
pub async fn run(
    command: &Command,
    config: &Config,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    match command {
        Command::Check { tenant, repair } => {
            check_counters(config, tenant.as_deref(), *repair, out).await
        }
        Command::Rebuild(arguments) => {
            let context = CliContext::new(config, arguments.tenant(), arguments.json())?;
            rebuild::run(config, &context, arguments, out).await
        }
        Command::GiveBack { tenant } => {
            let context = CliContext::new(config, Some(tenant), false)?;
            give_back(&context, out).await
        }
        Command::DeadLetters { tenant, json, action } => {
            let context = CliContext::new(config, tenant.as_deref(), *json)?;
            run_dead_letters(&context, action, out).await
        }
        Command::Incidents { tenant, json, action } => {
            let context = CliContext::new(config, tenant.as_deref(), *json)?;
            run_incidents(&context, action, out).await
        }
    }
}

async fn check_counters(
    config: &Config,
    tenant: Option<&str>,
    repair: bool,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    let reports = counter_check::check(&config.database, tenant, repair).await?;
    for report in &reports {
        writeln!(out, "{report}")?;
    }
    Ok(repair || reports.iter().all(|report| report.wrong.is_empty()))
}

/// The resources and options of a command.
struct CliContext {
    db: Db,
    tenant: Option<TenantId>,
    json: bool,
    dead_letters: DeadLetterService,
    clock: Clock,
}

impl CliContext {
    fn new(config: &Config, tenant: Option<&str>, json: bool) -> Result<Self, CommandError> {
        let parse_tenant = |name: &str| {
            let invalid = || CommandError::Argument(format!("--tenant: an id {}", TenantId::RULE));
            TenantId::parse(name).ok_or_else(invalid)
        };
        let tenant = tenant.map(parse_tenant).transpose()?;
        let (database, clock) = (&config.database, Clock::system());
        let db = store::pool(
            &database.login,
            PoolSettings {
                name: "mod-patron-blocks cli",
                max_connections: 1,
                acquire_timeout: Duration::from_secs(5),
                statement_timeout: database.statement_timeout,
                verify_on_release: false,
            },
        );
        let tenants = Arc::new(TenantRegistry::new(db.clone(), clock.clone()));
        let ingest_store = PgIngestStore::new(db.clone(), tenants, clock.clone());
        let bad_record_limit = config.kafka.bad_record_limit;
        let ingest = Arc::new(Ingest::new(
            ingest_store,
            clock.clone(),
            database.statement_timeout,
            bad_record_limit,
        ));
        let dead_letters =
            DeadLetterService::new(db.clone(), config.kafka.environment.clone(), ingest);
        Ok(Self { db, tenant, json, dead_letters, clock })
    }
}

async fn run_dead_letters(
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
            writeln!(out, "{}", format_line(&letter.head(), context.json))?;
            out.write_all(letter.record.payload.as_deref().unwrap_or_default())?;
            writeln!(out)?;
        }
        DeadLetterCommand::Retry(chosen) => return retry(context, &schema, chosen, out).await,
        DeadLetterCommand::Discard(chosen) => {
            let discarded = match chosen.id.as_deref().map(parse_id).transpose()? {
                Some(id) => u64::from(context.dead_letters.discard(&schema, id, OPERATOR).await?),
                None => discard_all(context, &schema, chosen).await?,
            };
            writeln!(out, "discarded: {discarded}")?;
        }
    }
    Ok(true)
}

/// The name of the operator in logs and in resolved incidents.
const OPERATOR: &str = "command line";

async fn retry(
    context: &CliContext,
    schema: &Schema,
    filter: &DeadLetterFilter,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    let (mut all_applied, mut after) = (true, None);
    while let Some(page) = filter.page(context, &mut after).await? {
        for DeadLetterHead { id, .. } in page {
            // One at a time: each dead letter may have megabytes. Another operator may have removed the dead
            // letter.
            let Some(letter) = dead_letters::find(&context.db, schema, id).await? else { continue };
            let (applied, why) = match context.dead_letters.retry(letter).await? {
                RetryOutcome::Applied => (true, "applied".to_owned()),
                RetryOutcome::StillParked(why) => (false, why),
            };
            all_applied &= applied;
            if context.json {
                writeln!(out, "{}", json!({ "id": id, "applied": applied, "why": why }))?;
            } else {
                writeln!(out, "{id}  {}{why}", if applied { "" } else { "not applied: " })?;
            }
        }
    }
    Ok(all_applied)
}

/// Discards all matching dead letters, without a time limit.
async fn discard_all(
    context: &CliContext,
    schema: &Schema,
    chosen: &DeadLetterFilter,
) -> Result<u64, CommandError> {
    let mut all = 0;
    loop {
        let done = context.dead_letters.discard_all(schema, &chosen.condition(), OPERATOR).await?;
        all += done.discarded;
        if done.continue_after.is_none() {
            return Ok(all);
        }
    }
}

impl DeadLetterFilter {
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

fn format_line(letter: &DeadLetterHead, json: bool) -> String {
    let DeadLetterHead { id, reason, field, rule, topic, partition, offset, received_at, .. } =
        letter;
    if json {
        return json!({
            "id": id, "reason": reason, "field": field, "rule": rule, "receivedAt": received_at,
            "topic": topic, "partition": partition, "offset": offset,
        })
        .to_string();
    }
    let field = field.as_deref().unwrap_or("");
    format!("{id}  {reason}  {topic}/{partition}/{offset}  {field} {rule}")
}

async fn run_incidents(
    context: &CliContext,
    action: &IncidentCommand,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    match action {
        IncidentCommand::List => {
            let open = store::ingest::incidents::list(
                &context.db,
                context.tenant.as_ref(),
                true,
                PAGE_ROWS,
            )
            .await?;
            for raised in &open {
                if context.json {
                    writeln!(out, "{}", json!(raised))?;
                } else {
                    let store::ingest::incidents::StoredIncident {
                        id, kind, topic, partition, ..
                    } = raised;
                    let (from, to, detail) = (raised.from_offset, raised.to_offset, &raised.detail);
                    if raised.rebuild_id.is_some() {
                        writeln!(out, "{id}  {kind}: {detail}")?;
                        continue;
                    }
                    writeln!(out, "{id}  {kind}  {topic}/{partition}  {from} to {to}: {detail}")?;
                }
            }
            Ok(open.is_empty())
        }
        IncidentCommand::Resolve { id } => {
            let (id, now) = (parse_id(id)?, context.clock.now());
            let tenant = context.tenant.as_ref();
            match incidents::resolve(&context.db, tenant, id, OPERATOR, now).await? {
                Resolution::Resolved => {
                    writeln!(out, "resolved")?;
                    Ok(true)
                }
                Resolution::NotOpen => {
                    Err(CommandError::Argument(format!("no open incident has the id {id}")))
                }
                Resolution::Shared => {
                    let why = format!("incident {id} concerns a topic of several tenants");
                    Err(CommandError::Argument(format!(
                        "{why}; resolve the incident without --tenant"
                    )))
                }
            }
        }
    }
}

async fn give_back(context: &CliContext, out: &mut impl Write) -> Result<bool, CommandError> {
    const MODULE_ID: &str = concat!(env!("CARGO_PKG_NAME"), "-", env!("CARGO_PKG_VERSION"));
    let Some(tenant) = &context.tenant else { return Ok(false) };
    let summaries =
        java_switch::return_to_java(&context.db, tenant, MODULE_ID, context.clock.now()).await?;
    writeln!(
        out,
        "{tenant}: returned {summaries} summaries to the Java module and disabled the tenant"
    )?;
    Ok(true)
}

fn parse_id(text: &str) -> Result<Uuid, CommandError> {
    parse_uuid(text).ok_or_else(|| CommandError::Argument(format!("{text:?} is not a UUID")))
}
