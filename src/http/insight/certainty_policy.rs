//! `patron-blocks-insight`: the policy about evaluations that are not certain.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::{
    blocks::{CertaintyPolicy, CertaintyState, Reactions, StateReactions, UncertainReaction},
    http::{
        ApiError,
        error::Violation,
        extract::{body::JsonBody, record::Record, tenant::TenantRequest},
        openapi,
    },
    services::operator_actions::{Act, ActEnd, Action},
    store::settings::certainty_policy,
};

/// Allowed values of `lateSeconds`. Below five seconds, the refresh of each second would count as late.
const LATE_SECONDS: [u32; 2] = [5, 86_400];

/// Allowed values of `askDeadlineMs`. Clients of an evaluation wait no longer than the upper value.
const ASK_DEADLINE_MS: [u32; 2] = [100, 4_000];

/// Maximum length of the message in characters.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// Returns the policy of the tenant, or the default policy.
#[utoipa::path(
    get,
    path = "/patron-blocks/certainty-policy",
    operation_id = "getCertaintyPolicy",
    summary = "Get the policy about evaluations that are not certain",
    responses(
        (status = 200, body = PolicyBody, description = "The policy"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(context: TenantRequest) -> Result<HttpResponse, ApiError> {
    let TenantRequest { db, tenant, .. } = &context;
    let stored = certainty_policy::load(db, &tenant.schema, &tenant.id).await?;
    let policy: CertaintyPolicy =
        stored.policy.and_then(|stored| serde_json::from_value(stored).ok()).unwrap_or_default();
    Ok(HttpResponse::Ok().json(policy))
}

/// Replaces the policy. A policy that blocks while evaluations are late may stop all desks, so the request has to
/// confirm it; the error has the number of late evaluations of the last day.
#[utoipa::path(
    put,
    path = "/patron-blocks/certainty-policy",
    operation_id = "putCertaintyPolicy",
    summary = "Replace the policy about evaluations that are not certain",
    request_body(content = PolicyRequest, content_type = "application/json"),
    responses(
        (status = 204, description = "Replaced"),
        openapi::Invalid,
        openapi::Common,
        openapi::BodyNotRead,
    ),
)]
pub(in crate::http) async fn put(
    json_body: JsonBody,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let JsonBody { context, body } = json_body;
    let record = Record::read(&request, &body)?;
    let policy = parse(&record)?;
    let is_confirmed = record.optional_boolean("confirm")?.unwrap_or_default();
    if !is_confirmed {
        require_no_stop(&context, &policy)?;
    }
    let TenantRequest { state, db, tenant, acting_user, .. } = &context;
    let act =
        Act::on_tenant(Action::ReplaceCertaintyPolicy).with_detail(json!({ "policy": policy }));
    let (schema, by, policy) = (&tenant.schema, acting_user.as_deref(), json!(policy));
    let work = async { Ok(certainty_policy::replace(db, schema, &policy, by).await?) };
    context.record(act, work, |()| ActEnd::done(json!({}))).await?;
    state.evaluator.policies.invalidate(&tenant.id);
    Ok(HttpResponse::NoContent().finish())
}

/// Rejects a policy that blocks an action while evaluations are late.
fn require_no_stop(context: &TenantRequest, policy: &CertaintyPolicy) -> Result<(), ApiError> {
    let late = CertaintyState::Late;
    if policy.reactions(late).actions_with(UncertainReaction::Block).is_empty() {
        return Ok(());
    }
    let (evaluator, now) = (&context.state.evaluator, context.state.clock.now());
    let (of_state, all) = evaluator.counts.in_last_day(&context.tenant.id, late, now);
    let rule = format!(
        "may stop all desks, so the body needs \"confirm\": true; {of_state} of {all} evaluations of this \
         instance in the last 24 hours were late"
    );
    Err(Violation::custom(rule, "policy.late", UncertainReaction::Block.name()).into())
}

fn parse(record: &Record) -> Result<CertaintyPolicy, ApiError> {
    let members = ["lateSeconds", "policy", "askDeadlineMs", "message", "confirm"];
    require_members(&record.0, &members, "the body")?;
    let default = CertaintyPolicy::default();
    let message = record.optional_string("message")?.unwrap_or(&default.message).trim();
    let length = message.chars().count();
    if length == 0 || length > MESSAGE_CHARS_MAX || message.contains('\0') {
        let rule = format!("must have 1 to {MESSAGE_CHARS_MAX} characters, none of them NUL");
        let excerpt: String = message.chars().take(50).filter(|c| *c != '\0').collect();
        return Err(Violation::custom(rule, "message", excerpt).into());
    }
    Ok(CertaintyPolicy {
        late_seconds: number(record, "lateSeconds", LATE_SECONDS, default.late_seconds)?,
        ask_deadline_ms: number(record, "askDeadlineMs", ASK_DEADLINE_MS, default.ask_deadline_ms)?,
        message: message.to_owned(),
        policy: match record.get("policy") {
            Some(policy) => state_reactions(policy)?,
            None => StateReactions::default(),
        },
    })
}

fn number(
    record: &Record,
    name: &str,
    [min, max]: [u32; 2],
    default: u32,
) -> Result<u32, ApiError> {
    let Some(value) = record.get(name) else { return Ok(default) };
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.filter(|number| (min..=max).contains(number)).ok_or_else(|| {
        let rule = format!("must be an integer from {min} to {max}");
        Violation::custom(rule, name, value.to_string()).into()
    })
}

fn state_reactions(policy: &Value) -> Result<StateReactions, ApiError> {
    let states = object(policy, "policy")?;
    require_members(states, &["late", "incomplete", "doubtful"], "policy")?;
    let of = |state: &str| reactions(states.get(state), &format!("policy.{state}"));
    Ok(StateReactions {
        late: of("late")?,
        incomplete: of("incomplete")?,
        doubtful: of("doubtful")?,
    })
}

fn reactions(value: Option<&Value>, key: &str) -> Result<Reactions, ApiError> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(Reactions::default());
    };
    let actions = object(value, key)?;
    require_members(actions, &["borrowing", "renewals", "requests"], key)?;
    let of = |action: &str| match actions.get(action) {
        None | Some(Value::Null) => Ok(UncertainReaction::default()),
        Some(named) => {
            let found =
                UncertainReaction::ALL.into_iter().find(|one| Some(one.name()) == named.as_str());
            found.ok_or_else(|| {
                let names = UncertainReaction::ALL.map(UncertainReaction::name).join(", ");
                let rule = format!("must be one of {names}");
                ApiError::from(Violation::custom(
                    rule,
                    &format!("{key}.{action}"),
                    named.to_string(),
                ))
            })
        }
    };
    Ok(Reactions {
        borrowing: of("borrowing")?,
        renewals: of("renewals")?,
        requests: of("requests")?,
    })
}

fn object<'a>(value: &'a Value, key: &str) -> Result<&'a Map<String, Value>, ApiError> {
    let rule = || Violation::custom("must be an object", key, value.to_string()).into();
    value.as_object().ok_or_else(rule)
}

fn require_members(object: &Map<String, Value>, names: &[&str], key: &str) -> Result<(), ApiError> {
    match object.keys().find(|name| !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(unknown) => {
            let rule = format!("must be one of {}", names.join(", "));
            Err(Violation::custom(rule, key, unknown).into())
        }
    }
}

names!(ReactionName { AsKnown, Block, Allow, Ask });

/// The reactions for the actions; an absent one is `as-known`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CertaintyReactions)]
#[expect(dead_code, reason = "schema of the policy")]
struct ReactionsSchema {
    #[schema(nullable = false)]
    borrowing: Option<ReactionName>,
    #[schema(nullable = false)]
    renewals: Option<ReactionName>,
    #[schema(nullable = false)]
    requests: Option<ReactionName>,
}

/// The reactions by state.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CertaintyStateReactions)]
#[expect(dead_code, reason = "schema of the policy")]
struct StateReactionsSchema {
    #[schema(nullable = false)]
    late: Option<ReactionsSchema>,
    #[schema(nullable = false)]
    incomplete: Option<ReactionsSchema>,
    #[schema(nullable = false)]
    doubtful: Option<ReactionsSchema>,
}

/// The policy about evaluations that are not certain.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = CertaintyPolicy)]
#[expect(dead_code, reason = "schema of the policy")]
struct PolicyBody {
    /// Age in seconds from which an evaluation is late.
    #[schema(minimum = 5, maximum = 86_400)]
    late_seconds: u32,
    policy: StateReactionsSchema,
    /// Longest time in milliseconds that an evaluation waits for the storage modules.
    #[schema(minimum = 100, maximum = 4_000)]
    ask_deadline_ms: u32,
    /// Message of the block that `block` adds.
    #[schema(min_length = 1, max_length = 1_000)]
    message: String,
}

/// A new policy; an absent member has its default.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = CertaintyPolicyRequest)]
#[expect(dead_code, reason = "schema of the policy")]
struct PolicyRequest {
    #[schema(minimum = 5, maximum = 86_400, nullable = false)]
    late_seconds: Option<u32>,
    #[schema(nullable = false)]
    policy: Option<StateReactionsSchema>,
    #[schema(minimum = 100, maximum = 4_000, nullable = false)]
    ask_deadline_ms: Option<u32>,
    #[schema(min_length = 1, max_length = 1_000, nullable = false)]
    message: Option<String>,
    /// Required for a policy that blocks while evaluations are late.
    #[schema(nullable = false)]
    confirm: Option<bool>,
}
