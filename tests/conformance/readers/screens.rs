//! Models of the screens that show manual and automated blocks together. The manual blocks are those of
//! mod-feesfines.

use std::{cmp::Reverse, collections::BTreeSet};

use chrono::{DateTime, NaiveDate};
use serde_json::{Value, json};

use crate::support::payloads::now;

/// The number of blocks in a modal.
const MODAL_ROWS: usize = 3;

/// Returns whether a date in JavaScript is this day or later. A missing member is now, and null is no date.
fn is_today_or_later(date: Option<&Value>) -> bool {
    let Some(date) = date else { return true };
    let day: Option<NaiveDate> = date
        .as_str()
        .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
        .map(|at| at.date_naive());
    day.is_some_and(|day| day >= now().date_naive())
}

/// Sorts by a date of the metadata, the latest first. A block without the date comes first, and equal dates
/// retain their order.
fn sorted<'a>(blocks: impl IntoIterator<Item = &'a Value>, date: &str) -> Vec<&'a Value> {
    let mut blocks: Vec<&Value> = blocks.into_iter().collect();
    blocks.sort_by_key(|block| {
        let date = block["metadata"][date].as_str();
        Reverse((date.is_none(), date))
    });
    blocks
}

/// Returns the text of a block.
fn text(block: &Value) -> &str {
    let texts = [block["desc"].as_str(), block["message"].as_str()];
    texts.into_iter().flatten().find(|text| !text.is_empty()).unwrap_or("")
}

fn is_true(block: &Value, name: &str) -> bool {
    block[name] == json!(true)
}

/// Returns the rows of the table on the page of a user.
pub(super) fn details_table(manual: &[Value], automated: &[Value]) -> Value {
    let all = automated.iter().chain(manual);
    let visible = all.filter(|block| is_today_or_later(block.get("expirationDate")));
    let row = |block: &Value| {
        let actions = [
            ("borrowing", "blockBorrowing"),
            ("renewals", "blockRenewals"),
            ("requests", "blockRequests"),
        ];
        let blocks = |name: &str, flag: &str| is_true(block, name) || is_true(block, flag);
        let blocked = actions.into_iter().filter(|(name, flag)| blocks(name, flag));
        let blocked: Vec<&str> = blocked.map(|(action, _)| action).collect();
        let kind = block["type"].as_str().unwrap_or("Automated");
        json!([kind, text(block), blocked.join(", ")])
    };
    json!(sorted(visible, "createdDate").into_iter().map(row).collect::<Vec<_>>())
}

/// Returns the rows of a modal and whether further blocks exist. Rows need distinct keys.
fn modal(blocks: Vec<&Value>) -> Value {
    let further = blocks.len() > MODAL_ROWS;
    let shown: Vec<_> = sorted(blocks, "updatedDate").into_iter().take(MODAL_ROWS).collect();
    let keys = shown.iter().filter_map(|block| {
        let names = ["id", "patronBlockConditionId"];
        names.into_iter().find_map(|name| block[name].as_str())
    });
    let keys: BTreeSet<&str> = keys.collect();
    let rows: Vec<&str> = shown.iter().map(|block| text(block)).collect();
    json!({ "rows": rows, "further": further, "distinctKeys": keys.len() == rows.len() })
}

/// Returns the modal of ui-users before a renewal. The modal ignores the date of expiration.
pub(super) fn renewal_modal(manual: &[Value], automated: &[Value]) -> Value {
    let all = automated.iter().chain(manual);
    let blocks = |block: &&Value| is_true(block, "renewals") || is_true(block, "blockRenewals");
    modal(all.filter(blocks).collect())
}

/// Returns the modal of ui-checkout.
pub(super) fn check_out_modal(manual: &[Value], automated: &[Value]) -> Value {
    let manual = manual.iter().filter(|block| is_true(block, "borrowing"));
    let manual = manual.filter(|block| is_today_or_later(block.get("expirationDate")));
    let automated = automated.iter().filter(|block| is_true(block, "blockBorrowing"));
    modal(automated.chain(manual).collect())
}
