//! The command line: the service, and commands for operators, for all tenants. A command calls the same
//! function as the HTTP interface, if that offers the action.

mod dead_letters;
mod explain;
mod forecast;
mod incidents;
mod rebuild;
mod settings_check;
mod tenants;

use std::{future::Future, io::Write, sync::Arc, time::Duration};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource};
use serde_json::json;
use uuid::Uuid;

use crate::{
    clock::Clock,
    config::{self, Config, InvalidSetting, with_property_names},
    event::{TenantId, parse_uuid},
    services::{
        forecast::ForecastError,
        ingest::{
            Ingest,
            dead_letters::{DeadLetterService, schema_of},
            ingest_store::PgIngestStore,
        },
        maintenance::counter_check,
        operator_actions::{
            Act, ActEnd, ActError, Action, ActionLog, Door, Operator, parse_reason,
        },
        tenant_lifecycle::java_switch,
        tenants::{Tenant, TenantRegistry},
    },
    store::{self, Db, PoolSettings, migrate, operator_actions},
};

/// The id of this module, as FOLIO's descriptors write it.
const MODULE_ID: &str = concat!(env!("CARGO_PKG_NAME"), "-", env!("CARGO_PKG_VERSION"));

/// Level of the log of a command if `LOG_LEVEL` is not set: the output of a command has no log lines.
const COMMAND_LOG_LEVEL: &str = "error";

/// Decides whether a patron may borrow, renew or request, from circulation events in Kafka.
#[derive(Debug, Parser)]
#[command(name = "mod-patron-blocks", version, about)]
pub struct CommandLine {
    /// What to run; without a command, the service
    #[command(subcommand)]
    pub program: Option<Program>,
    /// The settings
    #[command(flatten)]
    pub config: Config,
}

/// What the executable runs.
#[derive(Debug, Subcommand)]
pub enum Program {
    /// Run the service (the default)
    Serve,
    /// Print the completions of a shell, for its completion folder
    Completions {
        /// Shell: bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
    /// A command for operators
    #[command(flatten)]
    Operator(Command),
}

impl CommandLine {
    /// Returns the definition of the command line. Every command accepts the settings, and only `--help`
    /// lists them. The name of a value is the flag of the setting.
    pub fn definition() -> clap::Command {
        Self::command().mut_args(|arg| match arg.get_long() {
            Some(flag) if config::is_setting(&arg) => {
                let value_name = flag.replace('-', "_").to_uppercase();
                arg.global(true).hide_short_help(true).value_name(value_name)
            }
            _ => arg,
        })
    }

    /// Parses the arguments and the environment of this process: what to run, and the settings or every
    /// invalid setting. Ends the process after `--help`, or if an argument is unknown.
    pub fn parse_process() -> (Option<Program>, Result<Config, Vec<InvalidSetting>>) {
        let command = with_property_names(Self::definition());
        let (matches, mut config) = Config::read(command, std::env::args_os());
        let program = matches
            .subcommand()
            .map(|_| Program::from_arg_matches(&matches).unwrap_or_else(|problem| problem.exit()));
        let is_command = !matches!(program, None | Some(Program::Serve));
        if let Ok(config) = &mut config
            && is_command
            && is_default(&matches, "log_level")
        {
            config.log.level = COMMAND_LOG_LEVEL.to_owned();
        }
        (program, config)
    }
}

/// Returns whether neither the command line nor the environment sets an argument.
fn is_default(matches: &ArgMatches, id: &str) -> bool {
    let deepest = matches.subcommand().map_or(matches, |(_, below)| below);
    deepest.value_source(id) == Some(ValueSource::DefaultValue)
}

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
        /// Reason of the act, for the log of acts
        #[arg(long)]
        reason: Option<String>,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Explain the blocks of a patron, with the loans to return and the amount to pay
    Explain(explain::ExplainArguments),
    /// List the patrons whom time alone will block until an instant
    Forecast(forecast::ForecastArguments),
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
        /// Reason of the act, for the log of acts
        #[arg(long, global = true)]
        reason: Option<String>,
        /// Action on dead letters
        #[command(subcommand)]
        action: dead_letters::DeadLetterCommand,
    },
    /// List or resolve incidents, such as gaps, stopped partitions, and tenants with unwritable tables
    Incidents {
        /// Only incidents of this tenant and of tenant collections
        #[arg(long, global = true)]
        tenant: Option<String>,
        /// Print one JSON object per line
        #[arg(long, global = true)]
        json: bool,
        /// Reason of the act, for the log of acts
        #[arg(long, global = true)]
        reason: Option<String>,
        /// Action on incidents
        #[command(subcommand)]
        action: incidents::IncidentCommand,
    },
    /// Find limits, conditions and messages that cannot be right, without calls of other modules
    SettingsCheck {
        /// Tenant to check
        #[arg(long)]
        tenant: String,
        /// Print one JSON object, as the HTTP interface returns
        #[arg(long)]
        json: bool,
    },
    /// List the enabled tenants, or enable one for development
    Tenants {
        /// Only this tenant
        #[arg(long, global = true)]
        tenant: Option<String>,
        /// Reason of the act, for the log of acts
        #[arg(long, global = true)]
        reason: Option<String>,
        /// Print one JSON object per line
        #[arg(long, global = true)]
        json: bool,
        /// Action on tenants
        #[command(subcommand)]
        action: tenants::TenantCommand,
    },
    /// Return the tables of a tenant to the Java module of the same name, with the current state, and disable
    /// the tenant in this module. All other data of the tenant is deleted, so check its dead letters first
    GiveBack {
        /// Tenant to return
        #[arg(long)]
        tenant: String,
        /// Reason of the act, for the log of acts
        #[arg(long)]
        reason: Option<String>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
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
    /// A read of the service failed.
    #[error(transparent)]
    SharedStore(Arc<store::Error>),
    /// The forecast could not be computed.
    #[error(transparent)]
    Forecast(#[from] ForecastError),
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

impl ActError for CommandError {
    fn hides_the_end(&self) -> bool {
        match self {
            Self::Store(error) => error.hides_the_end(),
            // The act goes on when a reader such as `head` closes the pipe.
            Self::Output(_) => true,
            _ => false,
        }
    }
}

/// Rows per page of a list.
const PAGE_ROWS: i64 = 1000;

/// The name of the operator in logs and in resolved incidents.
const OPERATOR: &str = "command line";

/// Prints the completions of a shell.
pub fn print_completions(shell: clap_complete::Shell, out: &mut impl Write) {
    let mut definition = CommandLine::definition();
    let name = definition.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut definition, name, &mut script);
    // A reader such as `head` may have closed the pipe.
    let _ = out.write_all(&script);
}

/// Runs a command. Returns `false` if the command found a problem, such as wrong counters or an open
/// incident.
pub async fn run(
    command: &Command,
    config: &Config,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    match command {
        Command::Check { tenant, repair, reason, json } => {
            let context = CliContext::new(config, tenant.as_deref(), *json)?
                .with_reason(reason.as_deref())?;
            check_counters(&context, *repair, out).await
        }
        Command::Explain(arguments) => {
            let context = CliContext::new(config, Some(arguments.tenant()), arguments.json())?;
            explain::run(config, &context, arguments, out).await
        }
        Command::Forecast(arguments) => {
            let context = CliContext::new(config, Some(arguments.tenant()), arguments.json())?;
            forecast::run(&context, arguments, out).await
        }
        Command::Rebuild(arguments) => {
            let context = CliContext::new(config, arguments.tenant(), arguments.json())?
                .with_reason(arguments.reason())?;
            rebuild::run(config, &context, arguments, out).await
        }
        Command::GiveBack { tenant, reason, json } => {
            let context =
                CliContext::new(config, Some(tenant), *json)?.with_reason(reason.as_deref())?;
            give_back(&context, out).await
        }
        Command::DeadLetters { tenant, json, reason, action } => {
            let context = CliContext::new(config, tenant.as_deref(), *json)?
                .with_reason(reason.as_deref())?;
            dead_letters::run(&context, action, out).await
        }
        Command::Incidents { tenant, json, reason, action } => {
            let context = CliContext::new(config, tenant.as_deref(), *json)?
                .with_reason(reason.as_deref())?;
            incidents::run(&context, action, out).await
        }
        Command::SettingsCheck { tenant, json } => {
            let context = CliContext::new(config, Some(tenant), *json)?;
            settings_check::run(&context, out).await
        }
        Command::Tenants { tenant, reason, json, action } => {
            let context = CliContext::new(config, tenant.as_deref(), *json)?
                .with_reason(reason.as_deref())?;
            tenants::run(&context, action, out).await
        }
    }
}

async fn check_counters(
    context: &CliContext,
    repair: bool,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    let mut reports = counter_check::check(&context.db, context.tenant.as_ref()).await?;
    for report in &mut reports {
        if repair && !report.wrong.is_empty() {
            let act = Act::on_tenant(Action::RepairCounters)
                .with_detail(json!({ "patrons": report.wrong.len() }));
            let work = async { Ok(counter_check::repair(&context.db, report).await?) };
            let end_of = |&(): &()| ActEnd::done(json!({}));
            context.record_for(Some(&report.tenant), act, work, end_of).await?;
        }
        report.repaired = repair;
        if context.json {
            let line = json!({
                "tenant": report.tenant.as_str(), "wrong": report.wrong, "repaired": report.repaired,
            });
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{report}")?;
        }
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
    reason: Option<String>,
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
        let dead_letters = DeadLetterService::new(db.clone(), config.kafka.environment(), ingest);
        Ok(Self { db, tenant, json, dead_letters, clock, reason: None })
    }
}

impl CliContext {
    /// Sets the reason of the command's acts.
    fn with_reason(self, reason: Option<&str>) -> Result<Self, CommandError> {
        let invalid = |rule| CommandError::Argument(format!("--reason {rule}"));
        let reason = reason.map(parse_reason).transpose().map_err(invalid)?;
        Ok(Self { reason, ..self })
    }

    /// Enters an act in the log of the command's tenant, or of the module without a tenant, does the act, and enters its
    /// end.
    async fn record<T>(
        &self,
        act: Act,
        work: impl Future<Output = Result<T, CommandError>>,
        end_of: impl FnOnce(&T) -> ActEnd,
    ) -> Result<T, CommandError> {
        self.record_for(self.tenant.as_ref(), act, work, end_of).await
    }

    /// Like [`CliContext::record`], for this tenant. The log of the module has the act if the schema of the tenant is
    /// absent, or from before the log.
    async fn record_for<T>(
        &self,
        tenant: Option<&TenantId>,
        act: Act,
        work: impl Future<Output = Result<T, CommandError>>,
        end_of: impl FnOnce(&T) -> ActEnd,
    ) -> Result<T, CommandError> {
        let (schema, act) = match tenant {
            Some(tenant) => {
                let schema = schema_of(Some(tenant));
                match operator_actions::has_log(&self.db, &schema).await? {
                    true => (schema, act),
                    false => (schema_of(None), act.with_tenant(tenant)),
                }
            }
            None => (schema_of(None), act),
        };
        let (name, door) = (OPERATOR.into(), Door::CommandLine);
        let operator = Operator { name, door, reason: self.reason.clone(), request_id: None };
        let log = ActionLog { db: &self.db, schema: &schema };
        log.record(&operator, &act, work, end_of).await.map(|(_, done)| done)
    }

    /// Like [`CliContext::record`], in the log of the module, for an act on a whole tenant. The tables of the module may
    /// not exist before.
    async fn record_in_module<T>(
        &self,
        act: Act,
        work: impl Future<Output = Result<T, CommandError>>,
        end_of: impl FnOnce(&T) -> ActEnd,
    ) -> Result<T, CommandError> {
        migrate::module(&self.db).await?;
        self.record_for(None, act, work, end_of).await
    }

    /// Returns the tenant of the command if it is enabled.
    async fn enabled_tenant(&self) -> Result<Arc<Tenant>, CommandError> {
        let Some(id) = &self.tenant else {
            return Err(CommandError::Argument("--tenant is required".to_owned()));
        };
        let registry = TenantRegistry::new(self.db.clone(), self.clock.clone());
        let not_enabled = || CommandError::Argument(format!("tenant {id} is not enabled"));
        registry.find(id).await?.ok_or_else(not_enabled)
    }
}

async fn give_back(context: &CliContext, out: &mut impl Write) -> Result<bool, CommandError> {
    let Some(tenant) = &context.tenant else { return Ok(false) };
    let now = context.clock.now();
    let work =
        async { Ok(java_switch::return_to_java(&context.db, tenant, MODULE_ID, now).await?) };
    let end_of = |summaries: &u64| ActEnd::done(json!({ "returnedSummaries": summaries }));
    let act = Act::on(Action::GiveBackTenant, tenant);
    let summaries = context.record_in_module(act, work, end_of).await?;
    if context.json {
        let line = json!({ "tenant": tenant.as_str(), "returnedSummaries": summaries });
        writeln!(out, "{line}")?;
        return Ok(true);
    }
    writeln!(
        out,
        "{tenant}: returned {summaries} summaries to the Java module and disabled the tenant"
    )?;
    Ok(true)
}

fn parse_id(text: &str) -> Result<Uuid, CommandError> {
    parse_uuid(text).ok_or_else(|| CommandError::Argument(format!("{text:?} is not a UUID")))
}
