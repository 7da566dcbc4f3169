//! Limits and conditions: the limits of each patron group, beside the findings of the settings check. One form sets one
//! limit.

use std::{collections::BTreeMap, time::Duration};

use actix_web::{HttpResponse, http::StatusCode};
use askama::Template;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    acts::Submission, response::PageError, shell::Shell, texts::Texts, visit::Visit, words,
};
use crate::{
    blocks::{Limit, Measure, SettingsFinding, Severity},
    event::parse_uuid,
    http::{
        ApiError,
        api::{
            limits::{self as api, CheckedLimit},
            settings_writer::SettingsWriter,
        },
        extract::{record::Record, tenant},
    },
    services::{
        evaluation::policy::Policy,
        operator_actions::{Act, ActEnd, Action},
        settings_check::CheckedSettings,
    },
    store::{
        self,
        settings::{limits, records},
    },
};

/// Longest wait for the names of patron groups. The page shows ids without them.
const NAMES_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Template)]
#[template(path = "limits.html")]
struct LimitsPage {
    shell: Shell,
    conditions: Vec<ConditionRow>,
    groups: Vec<GroupRow>,
    findings: Vec<FindingRow>,
    may_change: bool,
}

struct ConditionRow {
    id: Uuid,
    name: &'static str,
    blocks: String,
    message: String,
}

struct GroupRow {
    id: String,
    name: String,
    /// The values of the limits, in the order of the conditions.
    values: Vec<String>,
}

struct FindingRow {
    severity: &'static str,
    /// The class of the style.
    class: &'static str,
    kind: &'static str,
    effect: String,
    /// The conditions and patron groups that it concerns.
    about: Vec<String>,
}

/// The form of one limit.
#[derive(Debug, Deserialize)]
pub(super) struct LimitForm {
    group: String,
    condition: String,
    /// The new value; empty removes the limit.
    value: String,
    reason: String,
}

/// Returns the page.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let load = async {
        let schema = &visit.tenant.schema;
        let policy = store::read(&visit.db, async |db| Policy::load(db, schema).await).await?;
        let checked = check(&visit).await?;
        let may_change = visit.may(Action::ChangeLimit)
            && visit.may(Action::CreateLimit)
            && visit.may(Action::DeleteLimit);
        let shell = visit.shell("limits").await;
        Ok::<_, ApiError>(LimitsPage::new(shell, &policy, &checked, may_change))
    };
    visit.render(load).await
}

/// Checks the settings, with the patron groups of mod-users if they arrive in time.
async fn check(visit: &Visit) -> Result<CheckedSettings, ApiError> {
    let checker = &visit.state.settings_checker;
    if visit.has_gateway {
        let with_groups = checker.check(&visit.db, &visit.tenant, Some(&visit.caller));
        if let Ok(checked) = timeout(NAMES_TIMEOUT, with_groups).await {
            return Ok(checked?);
        }
    }
    Ok(checker.check(&visit.db, &visit.tenant, None).await?)
}

/// Sets, changes or removes one limit.
pub(super) async fn change(submission: Submission<LimitForm>) -> Result<HttpResponse, PageError> {
    let Submission { visit, form } = submission;
    let LimitForm { group, condition, value, reason } = form;
    let uuid = |text: &str, rule| parse_uuid(text.trim()).ok_or_else(|| visit.invalid(rule));
    let group = uuid(&group, "error.group")?;
    let condition = uuid(&condition, "error.condition")?;
    let schema = &visit.tenant.schema;
    let load =
        async { Ok(store::read(&visit.db, async |db| Policy::load(db, schema).await).await?) };
    let policy = visit.within(load).await?;
    let of_pair = |limit: &&Limit| limit.condition == Some(condition);
    let group = group.to_string();
    let stored: Vec<&Limit> = policy.limits_of(&group).filter(of_pair).collect();
    let (stored, value) = match (&*stored, value.trim()) {
        ([_, _, ..], _) => {
            return Err(visit.refused(StatusCode::CONFLICT, "error.severalLimits"));
        }
        ([], "") => {
            return Err(visit.refused(StatusCode::CONFLICT, "error.noLimit"));
        }
        (limits, value) => (limits.first().map(|limit| limit.id), value),
    };
    let action = match (stored, value) {
        (None, _) => Action::CreateLimit,
        (Some(_), "") => Action::DeleteLimit,
        (Some(_), _) => Action::ChangeLimit,
    };
    let operator = visit.operator(action, &reason)?;
    let checked = match action {
        Action::DeleteLimit => None,
        _ => {
            let number = value.parse::<f64>().ok().filter(|number| number.is_finite());
            let number = number.ok_or_else(|| visit.invalid("error.value"))?;
            let limit = visit.within(checked_limit(&visit, stored, &group, condition, number));
            Some(limit.await?)
        }
    };
    let id = stored.or(checked.as_ref().map(|limit| limit.id)).unwrap_or_default();
    let act = Act::on(action, id);
    let act = match &checked {
        Some(limit) => act.with_detail(limit.summary()),
        None => act,
    };
    let (state, tenant) = (visit.state.clone(), visit.tenant.clone());
    let by = tenant::acting_user(visit.request()).filter(|_| visit.has_gateway);
    let work = async move {
        let db = state.operators.db();
        let by = by.as_deref();
        let writer = SettingsWriter { state: &state, db: &db, tenant: &tenant, by };
        match (stored, checked) {
            (None, Some(limit)) => match api::create_first(writer, limit, &group).await? {
                true => Ok(Value::Null),
                false => Err(preceded("error.limitSetSince")),
            },
            (Some(id), Some(limit)) => api::replace(writer, id, limit).await.map_err(or_removed),
            (_, None) => api::remove(writer, id).await.map_err(or_removed),
        }
    };
    let end_of = |before: &Value| ActEnd::done(json!({ "before": before }));
    let (number, _) = visit.act(operator, act, work, end_of).await?;
    Ok(visit.redirect_after("limits", number))
}

/// Returns the error of an act that another operator has preceded.
fn preceded(rule: &'static str) -> ApiError {
    ApiError::Text(StatusCode::CONFLICT, Texts::english().text(rule).to_owned())
}

/// Replaces the error about a limit that no longer exists.
fn or_removed(error: ApiError) -> ApiError {
    match error {
        ApiError::Text(StatusCode::NOT_FOUND, _) => preceded("error.limitRemovedSince"),
        error => error,
    }
}

/// Returns the limit of the form if it follows the rules of the HTTP interface. The other members of a stored limit stay.
async fn checked_limit(
    visit: &Visit,
    stored: Option<Uuid>,
    group: &str,
    condition: Uuid,
    value: f64,
) -> Result<CheckedLimit, ApiError> {
    let schema = &visit.tenant.schema;
    let record = match stored {
        Some(id) => {
            let find = async |db: &mut store::Connection| {
                records::find(db, schema, &limits::RECORDS, id).await
            };
            store::read(&visit.db, find).await?
        }
        None => None,
    };
    let new = || json!({ "id": Uuid::new_v4(), "patronGroupId": group, "conditionId": condition });
    let mut record = record.unwrap_or_else(new);
    record["value"] = json!(value);
    CheckedLimit::new(Record::from_members(record.as_object().cloned().unwrap_or_default()))
}

impl LimitsPage {
    fn new(shell: Shell, policy: &Policy, checked: &CheckedSettings, may_change: bool) -> Self {
        let texts = shell.texts;
        let conditions = Measure::ALL.map(|measure| ConditionRow::new(texts, measure, policy));
        // Ids of groups are equal in upper and lower case.
        let mut groups: BTreeMap<String, String> = BTreeMap::new();
        for limit in &policy.limits {
            groups.insert(limit.patron_group.to_lowercase(), limit.patron_group.clone());
        }
        for group in checked.groups.iter().flatten() {
            groups.entry(group.id.to_lowercase()).or_insert_with(|| group.id.clone());
        }
        let mut groups: Vec<GroupRow> =
            groups.into_values().map(|id| GroupRow::new(texts, id, policy, checked)).collect();
        groups.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        let (findings, conditions) = (FindingRow::list(texts, checked), conditions.into());
        Self { shell, conditions, groups, findings, may_change }
    }
}

impl FindingRow {
    /// Returns one row for all findings of a kind with the same effect.
    fn list(texts: &'static Texts, checked: &CheckedSettings) -> Vec<Self> {
        let mut rows: Vec<Self> = Vec::new();
        for finding in &checked.findings {
            let of_condition = finding.condition.and_then(Measure::from_condition_id);
            let condition = of_condition.map(|measure| words::measure(texts, measure).to_owned());
            let name = |id: &String| checked.group_name(id).unwrap_or(id).to_owned();
            let groups = finding.groups.iter().map(name);
            let new = Self::new(texts, finding);
            let same = |row: &&mut Self| row.kind == new.kind && row.effect == new.effect;
            match rows.iter_mut().find(same) {
                Some(row) => row.about.extend(condition.into_iter().chain(groups)),
                None => {
                    let about = condition.into_iter().chain(groups).collect();
                    rows.push(Self { about, ..new });
                }
            }
        }
        rows
    }

    fn new(texts: &'static Texts, finding: &SettingsFinding) -> Self {
        let (severity, class) = match finding.kind.severity() {
            Severity::Error => ("limits.error", "bad"),
            Severity::Warning => ("limits.warning", "warn"),
            Severity::Info => ("limits.info", ""),
        };
        let (kind, effect) = (finding.kind.name(), finding.effect.clone());
        Self { severity: texts.text(severity), class, kind, effect, about: Vec::new() }
    }
}

impl ConditionRow {
    fn new(texts: &'static Texts, measure: Measure, policy: &Policy) -> Self {
        let id = measure.condition_id();
        let stored = policy.conditions.iter().find(|condition| condition.id == id);
        let blocks = stored.map(|condition| condition.blocks).unwrap_or_default();
        Self {
            id,
            name: words::measure(texts, measure),
            blocks: words::actions(texts, blocks),
            message: stored.map(|condition| condition.message.clone()).unwrap_or_default(),
        }
    }
}

impl GroupRow {
    fn new(texts: &'static Texts, id: String, policy: &Policy, checked: &CheckedSettings) -> Self {
        let value_of = |measure: Measure| {
            let of_condition = |limit: &&Limit| limit.condition == Some(measure.condition_id());
            let no_value = || texts.text("limits.noValue").to_owned();
            let values = policy
                .limits_of(&id)
                .filter(of_condition)
                .map(|limit| limit.value.map_or_else(no_value, |value| value.to_string()));
            // Another module may have stored several limits of one condition.
            let both = |all: String, value: String| {
                texts.fill("limits.several", &[("all", &all), ("value", &value)])
            };
            values.reduce(both).unwrap_or_default()
        };
        let values = Measure::ALL.map(value_of).into();
        Self { name: checked.group_name(&id).unwrap_or_default().to_owned(), values, id }
    }
}
