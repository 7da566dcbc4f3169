//! The command `explain`: the blocks of a patron in words, with the way out.

use std::{io::Write, sync::Arc};

use serde_json::json;
use uuid::Uuid;

use super::{CliContext, CommandError, parse_id};
use crate::{
    blocks::{Action, ExplainedLimit, Explanation, Measure, Threshold, WayOut},
    clock,
    config::Config,
    http::explanation_bodies,
    kafka::UserTopics,
    okapi::{Caller, ModuleClient, Users},
    services::evaluation::{
        EvaluationRequest, Evaluator,
        explanations::{ExplainedPatron, ExplanationMode, ITEMS_MAX},
    },
};

/// The options of the command.
#[derive(Debug, clap::Args)]
pub struct ExplainArguments {
    /// Tenant of the patron
    #[arg(long)]
    tenant: String,
    /// User id of the patron
    #[arg(long)]
    user: String,
    /// Print the JSON body of the HTTP interface
    #[arg(long)]
    json: bool,
}

impl ExplainArguments {
    pub(super) fn tenant(&self) -> &str {
        &self.tenant
    }

    pub(super) fn json(&self) -> bool {
        self.json
    }
}

/// Runs the command. Returns `false` if the counters of the patron differed from the rows.
pub(super) async fn run(
    config: &Config,
    context: &CliContext,
    arguments: &ExplainArguments,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    let user = parse_id(&arguments.user)?;
    let patron = load(config, context, user).await?;
    if context.json {
        let body = explanation_bodies::Explanation::new(&patron, ITEMS_MAX as usize);
        writeln!(out, "{}", json!(body))?;
    } else {
        let limits = patron.limits();
        write_patron(&patron, &patron.explain(&limits), out)?;
    }
    Ok(!patron.counters_differ)
}

/// Loads the patron as a request without a token would.
async fn load(
    config: &Config,
    context: &CliContext,
    user: Uuid,
) -> Result<ExplainedPatron, CommandError> {
    let tenant = context.enabled_tenant().await?;
    let client = ModuleClient::new(config.okapi.breaker).map_err(CommandError::Client)?;
    let users = Users::new(client, config.okapi.users_timeout);
    let topics = Arc::new(UserTopics::default());
    let (clock, okapi) = (context.clock.clone(), config.okapi.clone());
    let evaluator = Arc::new(Evaluator::new(clock, users, okapi, topics));
    let caller = Caller {
        okapi_url: config.okapi.gateway().url,
        is_foreign_gateway: false,
        tenant: tenant.id.to_string(),
        token: None,
        request_id: None,
    };
    let request = EvaluationRequest { db: context.db.clone(), tenant, user, caller };
    evaluator.explain(&request, ExplanationMode::FULL).await.map_err(CommandError::SharedStore)
}

fn write_patron(
    patron: &ExplainedPatron,
    explanation: &Explanation<'_>,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let at = clock::format_instant(patron.now);
    let group = patron.group.as_deref().unwrap_or("unknown");
    writeln!(out, "Patron {} at {at}", patron.user)?;
    writeln!(out, "Patron group {group} ({})", patron.source.name())?;
    let (loans, fees) = (patron.measures.open_loans, patron.measures.open_fees_fines);
    writeln!(out, "{loans} open loans, {fees} open fees/fines")?;
    if patron.counters_differ {
        writeln!(
            out,
            "The stored counters differed from these rows; check --repair repairs them if this command could not."
        )?;
    }
    writeln!(out)?;
    for explained in &explanation.actions {
        let state = if explained.because.is_empty() { "allowed" } else { "blocked" };
        writeln!(out, "{}: {state}", title(explained.action))?;
        let blocking = explanation.limits.iter();
        for limit in blocking.filter(|limit| limit.finding.blocked.contains(explained.action)) {
            writeln!(out, "  {}", reason(limit, explained.action))?;
        }
        match &explained.way_out {
            Some(way_out) => write_way_out(way_out, out)?,
            None if !explained.because.is_empty() => {
                writeln!(out, "  No way out was computed: there are more than {ITEMS_MAX} items")?;
            }
            None => {}
        }
    }
    if let Some(next) = explanation.next {
        let at = clock::format_instant(next.at);
        let measure = noun(next.measure);
        writeln!(out, "\nNext: the limit of {measure} is reached at {at} if nothing changes")?;
    }
    Ok(())
}

fn title(action: Action) -> &'static str {
    match action {
        Action::Borrowing => "Borrowing",
        Action::Renewals => "Renewals",
        Action::Requests => "Requests",
    }
}

fn noun(measure: Measure) -> &'static str {
    match measure {
        Measure::ChargedOut => "items charged out",
        Measure::LostItems => "lost items",
        Measure::OverdueItems => "overdue items",
        Measure::OverdueRecalls => "overdue recalls",
        Measure::RecallOverdueDays => "days that a recall is overdue",
        Measure::FeeFineBalance => "fees/fines",
    }
}

fn reason(limit: &ExplainedLimit<'_>, action: Action) -> String {
    let finding = &limit.finding;
    let measured = finding.measured.map(|measured| measured.to_json().to_string());
    let measured = measured.unwrap_or_default();
    let noun = finding.measure().map(noun).unwrap_or_default();
    match finding.threshold(action) {
        Some(Threshold::Count(count)) => format!("{measured} {noun}; blocked from {count} on"),
        Some(Threshold::Above(sum)) => format!("{measured} of {noun}; blocked above {sum}"),
        None => format!("{measured} {noun}"),
    }
}

fn write_way_out(way_out: &WayOut, out: &mut impl Write) -> std::io::Result<()> {
    if way_out.only_when_nothing_is_open {
        writeln!(out, "  Way out: only with no open item at all")?;
    }
    if let Some(returns) = &way_out.returns {
        writeln!(out, "  Way out: return {} of the loans", returns.suggested.len())?;
        for loan in &returns.suggested {
            let required = if returns.required.contains(loan) { "  required" } else { "" };
            writeln!(out, "    {loan}{required}")?;
        }
        let others = returns.alternatives.len();
        if others > 0 {
            writeln!(out, "    or, instead of one of these, another of {others} loans")?;
        }
    }
    if let Some(payment) = &way_out.payment {
        writeln!(out, "  Way out: pay {}", payment.amount)?;
        for fee in &payment.fees_fines {
            writeln!(out, "    {fee}")?;
        }
    }
    for caveat in &way_out.caveats {
        writeln!(out, "  Note: {}", caveat.name())?;
    }
    Ok(())
}
