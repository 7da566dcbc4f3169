//! The command `forecast`: lists the patrons whom time alone will block.

use std::io::Write;

use serde_json::json;

use super::{CliContext, CommandError};
use crate::{
    blocks::{Action, Actions},
    clock::format_instant,
    http::forecast_bodies::{ForecastPatron, ForecastSummary},
    services::{
        evaluation::policy::Policy,
        forecast::{self, Forecast, ForecastPeriod, Forecasts},
    },
    store,
};

/// Tenant and end of a forecast.
#[derive(Debug, clap::Args)]
pub struct ForecastArguments {
    /// Tenant of the patrons
    #[arg(long)]
    tenant: String,
    /// End of the forecast: an instant such as 2026-09-18T22:00:00Z, at most 400 days ahead
    #[arg(long, value_name = "INSTANT")]
    until: String,
    /// Print one JSON object per line for each patron, then one JSON object with the counts
    #[arg(long)]
    json: bool,
}

impl ForecastArguments {
    /// Returns the tenant's id as given, not yet validated.
    pub(super) fn tenant(&self) -> &str {
        &self.tenant
    }

    pub(super) fn json(&self) -> bool {
        self.json
    }
}

/// Runs the command. Returns `true` also if patrons will be blocked.
pub(super) async fn run(
    context: &CliContext,
    arguments: &ForecastArguments,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    let period = ForecastPeriod::parse(context.clock.now(), &arguments.until)
        .map_err(|rule| CommandError::Argument(format!("--{rule}")))?;
    let tenant = context.enabled_tenant().await?;
    let load =
        async |connection: &mut store::Connection| Policy::load(connection, &tenant.schema).await;
    let policy = store::read(&context.db, load).await?;
    let forecasts = Forecasts::default();
    let forecast = forecasts.get(&context.db, &tenant, policy.into(), period).await?;
    if context.json {
        print_json(&forecast, out)?
    } else {
        print_text(&forecast, out)?
    }
    Ok(true)
}

fn print_json(forecast: &Forecast, out: &mut impl Write) -> Result<(), CommandError> {
    for patron in &forecast.patrons {
        writeln!(out, "{}", json!(ForecastPatron::from(patron)))?;
    }
    writeln!(out, "{}", json!(ForecastSummary::from(forecast)))?;
    Ok(())
}

fn print_text(forecast: &Forecast, out: &mut impl Write) -> Result<(), CommandError> {
    for patron in &forecast.patrons {
        let forecast::ForecastPatron { user, group, measure, .. } = patron;
        let (at, measure) = (format_instant(patron.at), measure.code());
        let limit = patron.limit_value.unwrap_or_default();
        let actions = describe(patron.become_blocked);
        writeln!(out, "{at}  {user}  group {group}  {measure} above {limit}  blocks {actions}")?;
    }
    let (counts, until) = (&forecast.counts, format_instant(forecast.until));
    writeln!(
        out,
        "until {until}: {} patrons, {} of them blocked already",
        counts.total, counts.already_blocked
    )?;
    for (measure, patrons) in &counts.by_measure {
        writeln!(out, "  {}: {patrons}", measure.code())?;
    }
    for (group, patrons) in &counts.by_group {
        writeln!(out, "  group {group}: {patrons}")?;
    }
    writeln!(out, "  patrons of unknown group: {}", counts.unknown_group)?;
    Ok(())
}

fn describe(actions: Actions) -> String {
    if actions.is_empty() {
        return "nothing else".to_owned();
    }
    actions.iter().map(Action::name).collect::<Vec<_>>().join(", ")
}
