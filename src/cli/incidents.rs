//! The command `incidents`: lists and resolves incidents.

use std::io::Write;

use serde_json::json;

use super::{CliContext, CommandError, OPERATOR, PAGE_ROWS, parse_id};
use crate::{
    http::Incident,
    services::{
        ingest::incidents::{self, Resolution},
        operator_actions::{Act, Action},
    },
    store::ingest::incidents::{StoredIncident, list},
};

/// Actions on incidents.
#[derive(Debug, clap::Subcommand)]
pub enum IncidentCommand {
    /// List open incidents
    List,
    /// Acknowledge a gap, or resume a stopped partition
    Resolve {
        /// Id of the incident
        id: String,
    },
}

pub(super) async fn run(
    context: &CliContext,
    action: &IncidentCommand,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    match action {
        IncidentCommand::List => {
            let open = list(&context.db, context.tenant.as_ref(), true, PAGE_ROWS).await?;
            let is_empty = open.is_empty();
            for raised in open {
                if context.json {
                    writeln!(out, "{}", json!(Incident::from(raised)))?;
                    continue;
                }
                let StoredIncident { id, kind, topic, partition, detail, .. } = &raised;
                if raised.rebuild_id.is_some() {
                    writeln!(out, "{id}  {kind}: {detail}")?;
                    continue;
                }
                let (from, to) = (raised.from_offset, raised.to_offset);
                writeln!(out, "{id}  {kind}  {topic}/{partition}  {from} to {to}: {detail}")?;
            }
            Ok(is_empty)
        }
        IncidentCommand::Resolve { id } => {
            let (id, now) = (parse_id(id)?, context.clock.now());
            let tenant = context.tenant.as_ref();
            let work =
                async { Ok(incidents::resolve(&context.db, tenant, id, OPERATOR, now).await?) };
            let act = Act::on(Action::ResolveIncident, id);
            match context.record(act, work, Resolution::act_end).await? {
                Resolution::Resolved => {
                    if context.json {
                        writeln!(out, "{}", json!({ "id": id, "resolved": true }))?;
                    } else {
                        writeln!(out, "resolved")?;
                    }
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
