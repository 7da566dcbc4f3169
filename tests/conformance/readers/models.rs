//! Models of the clients that read `GET /automated-patron-blocks/{userId}`. A model interprets a response as
//! its client does (docs/contract/insight.md#1-clients).

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::screens;

/// The result of a client, or the reason of its failure.
pub(super) type Reading = Result<Value, String>;

/// A client with its request and its interpretation of the response.
pub(super) struct Reader {
    pub(super) name: &'static str,
    pub(super) accept: &'static str,
    /// Query of the client's request.
    pub(super) query: Option<&'static str>,
    /// Interprets the body of a response with status 200.
    pub(super) read: fn(&str) -> Reading,
}

const JSON: &str = "application/json";
const JSON_OR_TEXT: &str = "application/json, text/plain";
const PAGE: Option<&str> = Some("limit=2000");

/// All readers, by name.
pub(super) const READERS: [Reader; 7] = [
    Reader { name: "edge-sip2", accept: JSON, query: None, read: edge_sip2 },
    Reader { name: "edge-users", accept: "*/*", query: None, read: edge_users },
    Reader { name: "mod-circulation", accept: JSON_OR_TEXT, query: None, read: mod_circulation },
    Reader { name: "mod-inn-reach", accept: JSON, query: None, read: mod_inn_reach },
    Reader { name: "mod-ncip", accept: JSON_OR_TEXT, query: None, read: mod_ncip },
    Reader { name: "ui-checkout", accept: "*/*", query: None, read: ui_checkout },
    Reader { name: "ui-users", accept: "*/*", query: PAGE, read: ui_users },
];

/// The flags of a block in the order of the actions.
pub(super) const FLAGS: [&str; 3] = ["blockBorrowing", "blockRenewals", "blockRequests"];

fn object(body: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(body).map_err(|error| error.to_string())
}

/// Returns the array of blocks.
pub(super) fn blocks(body: &str) -> Result<Vec<Value>, String> {
    let blocks = object(body)?.remove("automatedPatronBlocks");
    blocks.as_ref().and_then(Value::as_array).cloned().ok_or_else(|| "no blocks".to_owned())
}

/// Returns a flag, or `None` if it is null or missing.
fn flag(block: &Value, name: &str) -> Result<Option<bool>, String> {
    match &block[name] {
        Value::Null => Ok(None),
        Value::Bool(flag) => Ok(Some(*flag)),
        other => Err(format!("{name} is {other}")),
    }
}

fn is_set(block: &Value, name: &str) -> Result<bool, String> {
    Ok(flag(block, name)?.unwrap_or(false))
}

/// Creates one error per block of the action; the message of the block is the text of the error.
fn mod_circulation(body: &str) -> Reading {
    let blocks = blocks(body)?;
    let errors = |name: &str| -> Reading {
        let mut errors = Vec::new();
        for block in &blocks {
            if is_set(block, name)? {
                errors.push(circulation_error(block["message"].as_str()));
            }
        }
        Ok(json!(errors))
    };
    let [borrowing, renewals, requests] = FLAGS;
    Ok(json!({
        "check-out": errors(borrowing)?, "renewal": errors(renewals)?, "request": errors(requests)?,
    }))
}

/// Returns one error of mod-circulation's response with status 422.
pub(super) fn circulation_error(message: Option<&str>) -> Value {
    json!({
        "message": message, "parameters": [], "code": "USER_IS_BLOCKED_AUTOMATICALLY",
        "overridableBlock": {
            "name": "patronBlock",
            "missingPermissions": ["circulation.override-patron-block.post"],
        },
    })
}

/// The list of mod-inn-reach: the value of the last member with an unknown name. The class knows no name of a
/// list.
struct ResultList(Option<Vec<InnReachBlock>>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InnReachBlock {
    #[serde(rename = "patronBlockConditionId")]
    _condition: Option<Uuid>,
    block_borrowing: Option<bool>,
    #[serde(rename = "blockRenewals")]
    _block_renewals: Option<bool>,
    block_requests: Option<bool>,
    #[serde(rename = "message")]
    _message: Option<String>,
}

impl<'de> Deserialize<'de> for ResultList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ResultListVisitor)
    }
}

struct ResultListVisitor;

impl<'de> Visitor<'de> for ResultListVisitor {
    type Value = ResultList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<ResultList, A::Error> {
        let mut list = Some(Vec::new());
        while let Some(name) = members.next_key::<String>()? {
            match name.as_str() {
                "totalRecords" | "total_records" => {
                    members.next_value::<i32>()?;
                }
                "resultInfo" => {
                    members.next_value::<IgnoredAny>()?;
                }
                _ => list = members.next_value()?,
            }
        }
        Ok(ResultList(list))
    }
}

/// Allows a request unless a block of the list blocks borrowing or requests. A list of null is an empty list.
fn mod_inn_reach(body: &str) -> Reading {
    let ResultList(list) = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let is_blocked = list
        .into_iter()
        .flatten()
        .any(|block| block.block_borrowing == Some(true) || block.block_requests == Some(true));
    Ok(json!({ "requestAllowed": !is_blocked }))
}

/// Marks a user as blocked at the first set flag. A null flag before it is an exception.
fn edge_users(body: &str) -> Reading {
    for block in blocks(body)? {
        for name in FLAGS {
            if flag(&block, name)?.ok_or_else(|| format!("{name} is null"))? {
                return Ok(json!({ "blocked": true }));
            }
        }
    }
    Ok(json!({ "blocked": false }))
}

/// The screen message for a block without a text.
pub(super) const SIP2_MESSAGE: &str = "There are unresolved issues with your account.";

/// Sets the fourteen positions of the patron status: a block of borrowing sets all of them. Each block becomes
/// a screen message.
fn edge_sip2(body: &str) -> Reading {
    let (mut status, mut messages) = ([false; 14], Vec::new());
    let [borrowing, renewals, requests] = FLAGS;
    for block in blocks(body)? {
        if is_set(&block, borrowing)? {
            status = [true; 14];
        }
        // The second position denies renewals, the third recalls, and the fourth hold requests.
        status[1] |= is_set(&block, renewals)?;
        status[2] |= is_set(&block, requests)?;
        status[3] |= is_set(&block, requests)?;
        let message = block["message"].as_str().filter(|message| !message.trim().is_empty());
        messages.push(message.unwrap_or(SIP2_MESSAGE).to_owned());
    }
    let status = status.map(|is_set| if is_set { 'Y' } else { ' ' });
    Ok(json!({ "patronStatus": String::from_iter(status), "screenMessages": messages }))
}

/// Copies the members of the response into the user, then checks the flags of the user's blocks.
fn mod_ncip(body: &str) -> Reading {
    let personal = json!({ "firstName": "Edda", "lastName": "Dahl" });
    let mut user = json!({
        "id": "4ccf4d0e-6f0e-4b43-b0f5-c1b5f6d0a9b4", "barcode": "20000007", "active": true,
        "personal": personal, "group": "undergraduate", "code": "main", "manualblocks": [],
    });
    for (name, value) in object(body)? {
        user[name] = value;
    }
    let is_active = user["active"].as_bool().ok_or("active is no boolean")?;
    let blocks = user["automatedPatronBlocks"].as_array().ok_or("no blocks")?;
    let [borrowing, _, requests] = FLAGS;
    let (mut lookup, mut check_out) = (!is_active, !is_active);
    for block in blocks {
        check_out |= is_set(block, borrowing)?;
        lookup |= is_set(block, borrowing)? || is_set(block, requests)?;
    }
    let name = |member: &str| user["personal"][member].as_str().ok_or(format!("no {member}"));
    let text = |is_blocked: bool| if is_blocked { "BLOCKED" } else { "OK" };
    Ok(json!({
        "user": format!("{}, {}", name("lastName")?, name("firstName")?),
        "lookup": text(lookup), "checkOut": text(check_out),
    }))
}

/// Shows a modal while the patron has a block of borrowing.
fn ui_checkout(body: &str) -> Reading {
    Ok(screens::check_out_modal(&[], &blocks(body)?))
}

/// Shows a table on the page of the user, and a modal before a renewal.
fn ui_users(body: &str) -> Reading {
    let blocks = blocks(body)?;
    Ok(json!({
        "details": screens::details_table(&[], &blocks),
        "renewal": screens::renewal_modal(&[], &blocks),
    }))
}
