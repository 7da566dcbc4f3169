//! The command `settings-check`: prints limits, conditions and messages that cannot be right.

use std::io::Write;

use serde_json::json;

use super::{CliContext, CommandError};
use crate::{
    http::settings_check_bodies::{FindingGroup, SettingsCheck, SettingsFinding},
    services::settings_check::SettingsChecker,
};

/// Number of patron groups that a line lists.
const GROUPS_SHOWN_MAX: usize = 5;

/// Runs the command. Returns `false` if a finding is an error.
pub(super) async fn run(context: &CliContext, out: &mut impl Write) -> Result<bool, CommandError> {
    let tenant = context.enabled_tenant().await?;
    let checker = SettingsChecker::without_calls(context.clock.clone());
    let checked = checker.check(&context.db, &tenant, None).await?;
    let body = SettingsCheck::new(&checked);
    if context.json {
        writeln!(out, "{}", json!(body))?;
        return Ok(!checked.has_errors());
    }
    writeln!(
        out,
        "{}  {} limits, {} conditions, {} findings; the command does not check whether patron groups exist",
        tenant.id,
        checked.limits,
        checked.conditions,
        checked.findings.len()
    )?;
    for finding in &body.findings {
        writeln!(out, "{}", format_line(finding))?;
    }
    Ok(!checked.has_errors())
}

/// Returns severity, kind, condition and patron groups, then the effect.
fn format_line(finding: &SettingsFinding) -> String {
    let SettingsFinding { kind, severity, measure, effect, .. } = finding;
    let mut line = format!("{severity:<7}  {kind}");
    if let Some(measure) = measure {
        line.push_str(&format!("  {measure}"));
    }
    let groups = &finding.patron_groups;
    if !groups.is_empty() {
        let shown = groups.iter().take(GROUPS_SHOWN_MAX).map(|group: &FindingGroup| &*group.id);
        line.push_str(&format!("  group {}", shown.collect::<Vec<_>>().join(", ")));
        if groups.len() > GROUPS_SHOWN_MAX {
            line.push_str(&format!(" and {} more", groups.len() - GROUPS_SHOWN_MAX));
        }
    }
    if let [limit] = finding.patron_block_limit_ids.as_slice() {
        line.push_str(&format!("  limit {limit}"));
    }
    line.push_str(&format!("  {effect}"));
    if let Some(patrons) = finding.patrons_with_open_items {
        line.push_str(&format!(" Patrons with open items: {patrons}."));
    }
    line
}
