//! What operators do from the command line: the same functions as over HTTP, for all tenants.

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
    flow::{
        check,
        incidents::{self, Resolution},
        ingest::Ingest,
        ledger::Database,
        redrive::{Outcome, Redrive, schema_of},
        switch,
        tenants::Tenants,
    },
    store::{
        self, Db, PoolSettings, Schema,
        dead_letters::{self, Head, Parked},
    },
};

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Recount every patron's loans and fees/fines and compare with the stored counters
    Check {
        /// Only this tenant
        #[arg(long)]
        tenant: Option<String>,
        /// Set wrong counters right
        #[arg(long)]
        repair: bool,
    },
    /// Rebuild what is known of a tenant's patrons, beside what is live: tell what differs, and put it right
    Rebuild(rebuild::Arguments),
    /// Records that could not be applied
    DeadLetters {
        /// Whose; without it, those whose tenant can't be told
        #[arg(long, global = true)]
        tenant: Option<String>,
        /// One JSON object a line
        #[arg(long, global = true)]
        json: bool,
        /// What to do with them
        #[command(subcommand)]
        what: Letters,
    },
    /// Gaps, stopped partitions, tenants that can't be written
    Incidents {
        /// Only this tenant's, and those of tenant collections
        #[arg(long, global = true)]
        tenant: Option<String>,
        /// One JSON object a line
        #[arg(long, global = true)]
        json: bool,
        /// What to do with them
        #[command(subcommand)]
        what: Incidents,
    },
    /// Give a tenant's tables back to the Java module of the same name, with what is known now, and
    /// disable the tenant here. What else was kept of it goes: look at its dead letters first
    GiveBack {
        /// The tenant
        #[arg(long)]
        tenant: String,
    },
}

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub enum Letters {
    /// List them
    List(Chosen),
    /// Show one, with its bytes
    Show {
        /// Its id
        id: String,
    },
    /// Try them again, through the same ingest
    Retry(Chosen),
    /// Throw them away
    Discard(Chosen),
}

/// Which dead letters.
#[derive(Debug, Default, clap::Args)]
pub struct Chosen {
    /// Only this one
    #[arg(long)]
    id: Option<String>,
    /// Only those parked for this reason, such as bad_field
    #[arg(long)]
    reason: Option<String>,
    /// Only those of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only those of this partition
    #[arg(long)]
    partition: Option<i32>,
    /// Only those about this member or header
    #[arg(long)]
    field: Option<String>,
}

/// What can be done with incidents.
#[derive(Debug, Subcommand)]
pub enum Incidents {
    /// List the open ones
    List,
    /// Take note of a gap, or let a stopped partition go on
    Resolve {
        /// The incident's id
        id: String,
    },
}

/// Why a command could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An argument that can't be used: which, and the rule.
    #[error("{0}")]
    Argument(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The Kafka client.
    #[error("could not make a Kafka client")]
    Kafka(#[source] crate::kafka::Error),
    /// The HTTP client.
    #[error("could not make an HTTP client")]
    Client(#[source] crate::okapi::ClientError),
    /// The output.
    #[error("could not write")]
    Output(#[from] std::io::Error),
}

/// Lines of a page of a list.
const PAGE: i64 = 1000;

/// Does it. `true` where all is well.
pub async fn run(
    command: &Command,
    config: &Config,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    match command {
        Command::Check { tenant, repair } => recount(config, tenant.as_deref(), *repair, out).await,
        Command::Rebuild(arguments) => {
            let desk = Desk::new(config, arguments.tenant(), arguments.json())?;
            rebuild::rebuild(config, &desk, arguments, out).await
        }
        Command::GiveBack { tenant } => {
            let desk = Desk::new(config, Some(tenant), false)?;
            give_back(&desk, out).await
        }
        Command::DeadLetters { tenant, json, what } => {
            let desk = Desk::new(config, tenant.as_deref(), *json)?;
            letters(&desk, what, out).await
        }
        Command::Incidents { tenant, json, what } => {
            let desk = Desk::new(config, tenant.as_deref(), *json)?;
            incident(&desk, what, out).await
        }
    }
}

async fn recount(
    config: &Config,
    tenant: Option<&str>,
    repair: bool,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let reports = check::check(&config.database, tenant, repair).await?;
    for report in &reports {
        writeln!(out, "{report}")?;
    }
    Ok(repair || reports.iter().all(|report| report.wrong.is_empty()))
}

/// What the commands work with.
struct Desk {
    db: Db,
    tenant: Option<TenantId>,
    json: bool,
    redrive: Redrive,
    clock: Clock,
}

impl Desk {
    fn new(config: &Config, tenant: Option<&str>, json: bool) -> Result<Self, Failure> {
        let named = |name: &str| {
            let told = || Failure::Argument(format!("--tenant: an id {}", TenantId::RULE));
            TenantId::parse(name).ok_or_else(told)
        };
        let tenant = tenant.map(named).transpose()?;
        let (database, clock) = (&config.database, Clock::system());
        let db = store::pool(
            &database.login,
            PoolSettings {
                name: "mod-patron-blocks console",
                most: 1,
                wait: Duration::from_secs(5),
                statement: database.statement,
                suspicious: false,
            },
        );
        let tenants = Arc::new(Tenants::new(db.clone(), clock.clone()));
        let ledger = Database::new(db.clone(), tenants, clock.clone());
        let rule = config.kafka.stop_rule;
        let ingest = Arc::new(Ingest::new(ledger, clock.clone(), database.statement, rule));
        let redrive = Redrive::new(db.clone(), config.kafka.environment.clone(), ingest);
        Ok(Self { db, tenant, json, redrive, clock })
    }
}

async fn letters(desk: &Desk, what: &Letters, out: &mut impl Write) -> Result<bool, Failure> {
    let schema = schema_of(desk.tenant.as_ref());
    match what {
        Letters::List(chosen) => {
            let mut after = None;
            while let Some(page) = chosen.page(desk, &mut after).await? {
                for letter in page {
                    writeln!(out, "{}", line(&letter, desk.json))?;
                }
            }
        }
        Letters::Show { id } => {
            let Some(letter) = dead_letters::find(&desk.db, &schema, id_of(id)?).await? else {
                return Err(Failure::Argument(format!("there is no dead letter {id}")));
            };
            writeln!(out, "{}", line(&letter.head(), desk.json))?;
            out.write_all(letter.record.payload.as_deref().unwrap_or_default())?;
            writeln!(out)?;
        }
        Letters::Retry(chosen) => return retry(desk, &schema, chosen, out).await,
        Letters::Discard(chosen) => {
            let discarded = match chosen.id.as_deref().map(id_of).transpose()? {
                Some(id) => u64::from(desk.redrive.discard(&schema, id, BY).await?),
                None => discard_all(desk, &schema, chosen).await?,
            };
            writeln!(out, "{discarded} thrown away")?;
        }
    }
    Ok(true)
}

/// The name of the operator in logs and in resolved incidents.
const BY: &str = "command line";

async fn retry(
    desk: &Desk,
    schema: &Schema,
    chosen: &Chosen,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let (mut all_applied, mut after) = (true, None);
    while let Some(page) = chosen.page(desk, &mut after).await? {
        for Head { id, .. } in page {
            // One at a time: each may be megabytes. Another operator may have removed it.
            let Some(letter) = dead_letters::find(&desk.db, schema, id).await? else { continue };
            let (applied, why) = match desk.redrive.retry(letter).await? {
                Outcome::Applied => (true, "applied".to_owned()),
                Outcome::StillParked(why) => (false, why),
            };
            all_applied &= applied;
            if desk.json {
                writeln!(out, "{}", json!({ "id": id, "applied": applied, "why": why }))?;
            } else {
                writeln!(out, "{id}  {}{why}", if applied { "" } else { "still parked: " })?;
            }
        }
    }
    Ok(all_applied)
}

/// Until none is left: nobody waits for an answer here.
async fn discard_all(desk: &Desk, schema: &Schema, chosen: &Chosen) -> Result<u64, Failure> {
    let mut all = 0;
    loop {
        let done = desk.redrive.discard_all(schema, &chosen.condition(), BY).await?;
        all += done.discarded;
        if done.continue_after.is_none() {
            return Ok(all);
        }
    }
}

impl Chosen {
    fn condition(&self) -> Condition {
        let fields = [
            ("reason", self.reason.clone()),
            ("topic", self.topic.clone()),
            ("partition", self.partition.map(|partition| partition.to_string())),
            ("field", self.field.clone()),
        ];
        Condition::all_equal(fields.into_iter().filter_map(|(name, text)| Some((name, text?))))
    }

    /// The next page, or nothing where `after` was the last; moves it on.
    async fn page(
        &self,
        desk: &Desk,
        after: &mut Option<Uuid>,
    ) -> Result<Option<Vec<Head>>, Failure> {
        let schema = schema_of(desk.tenant.as_ref());
        let page = match &self.id {
            Some(_) if after.is_some() => Vec::new(),
            Some(id) => {
                let found = dead_letters::find(&desk.db, &schema, id_of(id)?).await?;
                found.iter().map(Parked::head).collect()
            }
            None => {
                let query = Query::from(self.condition());
                dead_letters::list(&desk.db, &schema, &query, *after, (0, PAGE)).await?
            }
        };
        let Some(last) = page.last() else { return Ok(None) };
        *after = Some(last.id);
        Ok(Some(page))
    }
}

fn line(letter: &Head, json: bool) -> String {
    let Head { id, reason, field, rule, topic, partition, offset, received_at, .. } = letter;
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

async fn incident(desk: &Desk, what: &Incidents, out: &mut impl Write) -> Result<bool, Failure> {
    match what {
        Incidents::List => {
            let open = store::incidents::list(&desk.db, desk.tenant.as_ref(), true, PAGE).await?;
            for raised in &open {
                if desk.json {
                    writeln!(out, "{}", json!(raised))?;
                } else {
                    let store::incidents::Raised { id, kind, topic, partition, .. } = raised;
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
        Incidents::Resolve { id } => {
            let (id, now) = (id_of(id)?, desk.clock.now());
            let tenant = desk.tenant.as_ref();
            match incidents::resolve(&desk.db, tenant, id, BY, now).await? {
                Resolution::Resolved => {
                    writeln!(out, "resolved")?;
                    Ok(true)
                }
                Resolution::NotOpen => {
                    Err(Failure::Argument(format!("there is no open incident {id}")))
                }
                Resolution::Shared => {
                    let why = format!("incident {id} is about a topic that tenants share");
                    Err(Failure::Argument(format!("{why}: resolve it without --tenant")))
                }
            }
        }
    }
}

async fn give_back(desk: &Desk, out: &mut impl Write) -> Result<bool, Failure> {
    const MODULE_ID: &str = concat!(env!("CARGO_PKG_NAME"), "-", env!("CARGO_PKG_VERSION"));
    let Some(tenant) = &desk.tenant else { return Ok(false) };
    let summaries = switch::give_back(&desk.db, tenant, MODULE_ID, desk.clock.now()).await?;
    writeln!(out, "{tenant}: {summaries} summaries given back to the Java module, disabled here")?;
    Ok(true)
}

fn id_of(text: &str) -> Result<Uuid, Failure> {
    parse_uuid(text).ok_or_else(|| Failure::Argument(format!("{text:?} is not a UUID")))
}
