//! The command `tenants`: lists the enabled tenants, and enables one for development.

use std::io::Write;

use serde_json::json;

use super::{CliContext, CommandError, MODULE_ID};
use crate::{
    clock,
    services::{
        operator_actions::{Act, ActEnd, Action},
        tenant_lifecycle::java_switch,
        tenants::TenantRegistry,
    },
    store::{Schema, tenants},
};

/// Actions on tenants.
#[derive(Debug, clap::Subcommand)]
pub enum TenantCommand {
    /// List the enabled tenants with the completeness of their history
    List,
    /// Enable or upgrade a tenant without a gateway, for development. A running instance fills it
    Enable,
}

/// Runs the command. Returns `false` if a listed tenant is not migrated to this version.
pub(super) async fn run(
    context: &CliContext,
    action: &TenantCommand,
    out: &mut impl Write,
) -> Result<bool, CommandError> {
    match action {
        TenantCommand::List => list(context, out).await,
        TenantCommand::Enable => enable(context, out).await,
    }
}

async fn list(context: &CliContext, out: &mut impl Write) -> Result<bool, CommandError> {
    let mut enabled: Vec<_> = tenants::list_enabled(&context.db).await?.into_iter().collect();
    enabled.retain(|(id, _)| context.tenant.as_ref().is_none_or(|tenant| tenant == id));
    enabled.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut are_current = true;
    for (id, (enabled_at, completeness)) in enabled {
        let is_current = java_switch::is_current(&context.db, &Schema::of(&id)).await?;
        are_current &= is_current;
        let since = clock::format_instant(enabled_at);
        if context.json {
            let line = json!({
                "tenant": id.as_str(), "enabledAt": since, "completeness": completeness.name(),
                "migrated": is_current,
            });
            writeln!(out, "{line}")?;
        } else {
            let state = if is_current { "" } else { "  not migrated to this version" };
            writeln!(out, "{id}  enabled since {since}  {}{state}", completeness.name())?;
        }
    }
    Ok(are_current)
}

async fn enable(context: &CliContext, out: &mut impl Write) -> Result<bool, CommandError> {
    let Some(tenant) = &context.tenant else {
        return Err(CommandError::Argument("tenants enable requires --tenant".to_owned()));
    };
    let registry = TenantRegistry::new(context.db.clone(), context.clock.clone());
    let work = async { Ok(registry.enable(tenant, MODULE_ID).await?) };
    let act = Act::on(Action::EnableTenant, tenant);
    let end_of = |_: &Vec<String>| ActEnd::done(json!({}));
    let messages = context.record_in_module(act, work, end_of).await?;
    if context.json {
        let line = json!({ "tenant": tenant.as_str(), "enabled": true, "messages": messages });
        writeln!(out, "{line}")?;
    } else {
        for message in messages {
            writeln!(out, "{message}")?;
        }
        writeln!(out, "{tenant}  enabled")?;
    }
    Ok(true)
}
