//! The command `rebuild`: requests rebuilds, runs them in this process, and prints progress and report.

use std::{io::Write, sync::Arc, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{CliContext, CommandError, OPERATOR, parse_id};
use crate::{
    config::{Config, RebuildConfig},
    event::TenantId,
    http::rebuild_bodies::{self, DifferingPatron},
    kafka::BrokerClient,
    okapi::{Caller, ModuleClient, Storage},
    services::{
        operator_actions::{Act, ActEnd, Action},
        rebuild::{RebuildRequest, Rebuilds, RequestedRebuilds, Source, describe_patron},
        tenants::{Tenant, TenantRegistry},
    },
    store::{
        jobs,
        rebuild::{
            differences,
            rebuilds::{self, DifferenceCounts, Progress, Rebuild, Status, Summary},
        },
        tenants,
    },
};

/// Interval between checks of the rebuilds' status.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Maximum number of patrons in a text report.
const PATRONS_SHOWN_MAX: i64 = 20;

/// Patrons per page of a JSON report.
const PAGE_PATRONS: i64 = 500;

/// Scope, source and mode of a rebuild.
#[derive(Debug, clap::Args)]
pub struct RebuildArguments {
    /// Tenant to rebuild
    #[arg(long, required_unless_present = "all_tenants")]
    tenant: Option<String>,
    /// Rebuild all enabled tenants, and read the topics that they share once
    #[arg(long, conflicts_with_all = ["tenant", "user", "id", "token"])]
    all_tenants: bool,
    /// Source to read: topics, inbox, or storage
    #[arg(long, default_value = "topics")]
    source: String,
    /// Start of the read: earliest, a date-time, or topics as topic/partition@offset, separated by commas
    #[arg(long, default_value = "earliest")]
    from: String,
    /// Rebuild only this patron
    #[arg(long)]
    user: Option<String>,
    /// Set to inbox if the inbox covers the records that the topics no longer contain
    #[arg(long)]
    covered_by: Option<String>,
    /// Merge the records of the topics, even if records are missing, and drop no stored state
    #[arg(long)]
    fill: bool,
    /// Report the differences without applying them (default); apply them later with --apply --id
    #[arg(long)]
    dry_run: bool,
    /// Apply the differences
    #[arg(long, conflicts_with = "dry_run")]
    apply: bool,
    /// Apply the differences of this earlier rebuild, without a new comparison
    #[arg(long, requires = "apply", conflicts_with_all = ["source", "from", "user", "covered_by", "fill"])]
    id: Option<String>,
    /// Token for requests to the storage modules through OKAPI_URL
    #[arg(long, env = "OKAPI_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Reason of the rebuild, for the log of acts
    #[arg(long)]
    reason: Option<String>,
    /// Print one JSON object for the rebuild, then one JSON object per line for each patron with differences
    #[arg(long)]
    json: bool,
}

impl RebuildArguments {
    /// Returns the tenant's id as given, not yet validated.
    pub(super) fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    pub(super) fn json(&self) -> bool {
        self.json
    }

    fn to_request(&self) -> Result<RebuildRequest, CommandError> {
        let mut body = json!({ "source": self.source, "from": self.from, "dryRun": !self.apply, "fill": self.fill });
        if let Some(user) = &self.user {
            (body["scope"], body["userId"]) = (json!("user"), json!(user));
        }
        if let Some(covering) = &self.covered_by {
            body["coveredBy"] = json!(covering);
        }
        RebuildRequest::from_json(&body)
            .map_err(|refused| CommandError::Argument(refused.to_string()))
    }
}

/// Requests the rebuilds, runs those that no other instance runs, and prints the reports. Returns `true` if
/// each rebuild is done or compared, skipped no record, and needs no approval.
pub(super) async fn run(
    config: &Config,
    context: &CliContext,
    arguments: &RebuildArguments,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    let tenants = Arc::new(TenantRegistry::new(context.db.clone(), context.clock.clone()));
    let broker = Arc::new(BrokerClient::new(&config.kafka).map_err(CommandError::Kafka)?);
    let storage =
        Storage::new(ModuleClient::new(config.okapi.breaker).map_err(CommandError::Client)?);
    let service = Arc::new(Rebuilds::new(
        (context.db.clone(), config.database.login.clone()),
        tenants.clone(),
        context.clock.clone(),
        (config.kafka.clone(), broker, storage),
        RebuildConfig { concurrency: 1, ..config.rebuild },
    ));
    let requested = request_rebuilds(context, &service, arguments).await?;
    let rebuilds = requested.rebuilds.clone();
    let stop = CancellationToken::new();
    let caller = Caller {
        okapi_url: config.okapi.gateway().url,
        is_foreign_gateway: false,
        tenant: arguments.tenant.clone().unwrap_or_default(),
        token: arguments.token.clone(),
        request_id: None,
    };
    let working = tokio::spawn(service.run_requested(requested, caller, stop.clone()));
    let ended = watch_progress(context, &rebuilds).await;
    stop.cancel();
    let _ = working.await;
    let mut is_good = true;
    for rebuild in ended? {
        let Some(tenant) = tenants.find(&rebuild.tenant).await? else { continue };
        if arguments.all_tenants && !context.json {
            writeln!(out, "tenant {}", rebuild.tenant)?;
        }
        is_good &= print_report(context, &tenant, &rebuild, out).await?;
    }
    Ok(is_good)
}

/// Inserts the requested rebuilds, or requests the application of an earlier rebuild.
async fn request_rebuilds(
    context: &CliContext,
    service: &Rebuilds,
    arguments: &RebuildArguments,
) -> Result<RequestedRebuilds, CommandError> {
    if arguments.all_tenants {
        let ask = arguments.to_request()?;
        if ask.source == Source::Storage {
            let rule = "source storage requires --tenant, because a token belongs to one tenant";
            return Err(CommandError::Argument(rule.to_owned()));
        }
        let mut all: Vec<TenantId> =
            tenants::list_enabled(&context.db).await?.into_keys().collect();
        all.sort();
        let work = async { Ok(service.request_all(&context.db, &all, &ask, OPERATOR).await?) };
        let act = Act::on_tenant(Action::RequestRebuild)
            .with_detail(json!({ "request": ask.to_json(), "tenants": all.len() }));
        return context.record(act, work, |_| ActEnd::done(json!({}))).await;
    }
    let tenant = context.enabled_tenant().await?;
    let rebuild_id = match &arguments.id {
        Some(earlier) => {
            let id = parse_id(earlier)?;
            let work = async {
                let is_requested = rebuilds::request_apply(&context.db, &tenant.id, id).await?;
                let rule = "the tenant has no compared rebuild with this id";
                is_requested.then_some(()).ok_or_else(|| CommandError::Argument(rule.to_owned()))
            };
            let act = Act::on(Action::ApplyRebuild, id);
            context.record(act, work, |()| ActEnd::done(json!({}))).await?;
            id
        }
        None => {
            let ask = arguments.to_request()?;
            let work = async { Ok(service.request(&context.db, &tenant, &ask, OPERATOR).await?) };
            let act = Act::on_tenant(Action::RequestRebuild)
                .with_detail(json!({ "request": ask.to_json() }));
            context.record(act, work, |id| ActEnd::done(json!({ "rebuildId": id }))).await?
        }
    };
    Ok(RequestedRebuilds { rebuilds: vec![(tenant.id.clone(), rebuild_id)], read_group: None })
}

/// Shows the progress until each rebuild has ended or waits for an operator. After Ctrl-C, cancels the
/// rebuilds and waits until they have ended.
async fn watch_progress(
    context: &CliContext,
    requested: &[(TenantId, Uuid)],
) -> Result<Vec<Rebuild>, CommandError> {
    let bar = ProgressBar::new(0);
    let style =
        ProgressStyle::with_template("{msg:>18} {wide_bar} {human_pos}/{human_len}  {prefix}");
    bar.set_style(style.expect("the template is a valid constant"));
    let ids: Vec<Uuid> = requested.iter().map(|(_, id)| *id).collect();
    let mut poll_timer = interval(POLL_INTERVAL);
    loop {
        tokio::select! {
            _ = poll_timer.tick() => {}
            _ = tokio::signal::ctrl_c() => {
                for (tenant, id) in requested {
                    rebuilds::cancel(&context.db, tenant, *id).await?;
                }
                bar.set_message("cancelling");
            }
        }
        let all = jobs::find_all(&context.db, &ids).await?;
        if all.len() < ids.len() {
            let problem = "a rebuild no longer exists, because its tenant was purged";
            return Err(CommandError::Argument(problem.to_owned()));
        }
        let is_at_rest =
            |rebuild: &Rebuild| rebuild.status.has_ended() || rebuild.status == Status::Compared;
        let ended = all.iter().filter(|rebuild| is_at_rest(rebuild)).count();
        if ended == all.len() {
            bar.finish_and_clear();
            return Ok(all);
        }
        match &*all {
            [one] => show_progress(&bar, &Progress::from_job(one)?),
            all => {
                bar.set_message("tenants");
                bar.set_length(all.len() as u64);
                bar.set_position(ended as u64);
            }
        }
    }
}

fn show_progress(bar: &ProgressBar, progress: &Progress) {
    bar.set_message(progress.stage.clone().unwrap_or_else(|| "waiting".to_owned()));
    bar.set_length(progress.total.unwrap_or_default());
    bar.set_position(progress.done.unwrap_or_default());
    let remaining = Duration::from_secs(progress.seconds_left.unwrap_or_default() as u64);
    let (rate, remaining) =
        (progress.rate.unwrap_or_default(), indicatif::HumanDuration(remaining));
    bar.set_prefix(format!("{rate:.0}/s, {remaining} left"));
}

async fn print_report(
    context: &CliContext,
    tenant: &Tenant,
    rebuild: &Rebuild,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    let summary = Summary::from_job(rebuild)?;
    let skipped_records = summary.as_ref().map_or(0, |summary| summary.skipped_records);
    let needs_approval =
        rebuild.status == Status::Compared && rebuild.request["dryRun"] == json!(false);
    let is_good = matches!(rebuild.status, Status::Done | Status::Compared)
        && skipped_records == 0
        && !needs_approval;
    if context.json {
        writeln!(out, "{}", json!(rebuild_bodies::Rebuild::from_job(rebuild.clone())?))?;
        let mut offset = 0;
        while print_page(context, tenant, rebuild.id, offset, out).await? {
            offset += PAGE_PATRONS;
        }
        return Ok(is_good);
    }
    writeln!(out, "rebuild {}: {}", rebuild.id, rebuild.status.name())?;
    for line in rebuild.error.iter().chain(&rebuild.messages) {
        writeln!(out, "{line}")?;
    }
    if let Some(summary) = &summary {
        print_summary(summary, out)?;
        print_patrons(context, tenant, (rebuild, summary), out).await?;
    }
    Ok(is_good)
}

fn print_summary(summary: &Summary, out: &mut impl Write) -> Result<(), CommandError> {
    writeln!(
        out,
        "{} patrons have differences; {} have wrong counters; blocks imposed on {}, lifted from {}",
        summary.patrons, summary.wrong_counters, summary.blocks_imposed, summary.blocks_lifted
    )?;
    for (what, counts) in [("loans", summary.loans), ("fees/fines", summary.fees_fines)] {
        let DifferenceCounts { only_current, only_in_source, different, insignificant } = counts;
        writeln!(
            out,
            "{what}: {only_current} open only here, {only_in_source} open only in the source, {different} \
             different, {insignificant} with insignificant differences"
        )?;
    }
    Ok(())
}

/// Prints the first patrons with differences, and the next step of the operator.
async fn print_patrons(
    context: &CliContext,
    tenant: &Tenant,
    (rebuild, summary): (&Rebuild, &Summary),
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let source = match rebuild.request["source"].as_str() {
        Some("inbox") => "the inbox",
        Some("storage") => "storage",
        _ => "the topics",
    };
    let schema = &tenant.schema;
    let patrons =
        differences::list_patrons(&context.db, schema, rebuild.id, PATRONS_SHOWN_MAX, 0).await?;
    let users: Vec<Uuid> = patrons.iter().map(|patron| patron.user_id).collect();
    let differences = differences::list_of_patrons(&context.db, schema, rebuild.id, &users).await?;
    for patron in &patrons {
        for line in describe_patron(patron, &differences, source) {
            writeln!(out, "  {}: {line}", patron.user_id)?;
        }
    }
    if rebuild.status == Status::Compared && summary.patrons > 0 {
        writeln!(
            out,
            "nothing was changed; to apply the differences, use --apply --id {}",
            rebuild.id
        )?;
    }
    Ok(())
}

/// Prints a page of patrons. Returns `true` if more may remain.
async fn print_page(
    context: &CliContext,
    tenant: &Tenant,
    id: Uuid,
    offset: i64,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    let schema = &tenant.schema;
    let patrons = differences::list_patrons(&context.db, schema, id, PAGE_PATRONS, offset).await?;
    let users: Vec<Uuid> = patrons.iter().map(|patron| patron.user_id).collect();
    let differences = differences::list_of_patrons(&context.db, schema, id, &users).await?;
    let is_empty = patrons.is_empty();
    for patron in patrons {
        writeln!(out, "{}", json!(DifferingPatron::new(patron, &differences)))?;
    }
    Ok(!is_empty)
}
