//! Sets up a tenant like Okapi and a librarian.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::header::LOCATION;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Service, ensure_success};
use crate::blocks::{Limit, Rules};

/// The id of the module in Okapi.
const MODULE_ID: &str = "mod-patron-blocks-2.0.0";

/// The time that the enabling of a tenant may take.
const ENABLE_TIMEOUT: Duration = Duration::from_secs(120);

/// The members of a tenant job that the setup reads.
#[derive(Deserialize)]
struct Job {
    complete: bool,
    error: Option<String>,
}

/// Enables the tenant and writes its conditions and limits. A second call changes nothing.
pub async fn set_up(service: &Service, rules: &Rules) -> anyhow::Result<()> {
    enable(service)
        .await
        .with_context(|| format!("tenant {} cannot be enabled", service.tenant))?;
    write_conditions(service, rules).await?;
    for limit in &rules.limits {
        write_limit(service, limit).await?;
    }
    Ok(())
}

/// Posts the tenant and polls its job until the job is complete.
async fn enable(service: &Service) -> anyhow::Result<()> {
    let answer = service
        .request(Method::POST, "/_/tenant")
        .json(&json!({ "module_to": MODULE_ID }))
        .send()
        .await
        .with_context(|| format!("no response from {}", service.url))?;
    let answer = ensure_success(answer, "POST", "/_/tenant").await?;
    let Some(job) = answer.headers().get(LOCATION) else { return Ok(()) };
    let job = job.to_str().context("the job's Location is not text")?.to_owned();

    let deadline = Instant::now() + ENABLE_TIMEOUT;
    let mut pause = Duration::from_millis(100);
    let done = loop {
        let state: Job = service.get(&job).await?;
        if state.complete {
            break state;
        }
        if Instant::now() > deadline {
            bail!("job {job} is not complete after {} s", ENABLE_TIMEOUT.as_secs());
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    };
    let deletion = service.request(Method::DELETE, &job).send().await?;
    ensure_success(deletion, "DELETE", &job).await?;
    done.error.map_or(Ok(()), |error| bail!("the job failed: {error}"))
}

/// Updates the flags and the message of each condition; the other members are unchanged.
async fn write_conditions(service: &Service, rules: &Rules) -> anyhow::Result<()> {
    let path = "/patron-block-conditions";
    let existing: Value = service.get(&format!("{path}?limit=100")).await?;
    let have = existing["patronBlockConditions"].as_array().context("no list of conditions")?;
    for wanted in &rules.conditions {
        let has_id = |one: &&Value| one["id"] == json!(wanted.id);
        let mut condition = have
            .iter()
            .find(has_id)
            .with_context(|| format!("the service has no condition \"{}\"", wanted.name))?
            .clone();
        condition["blockBorrowing"] = json!(wanted.block_borrowing);
        condition["blockRenewals"] = json!(wanted.block_renewals);
        condition["blockRequests"] = json!(wanted.block_requests);
        condition["message"] = json!(wanted.message);
        let path = format!("{path}/{}", wanted.id);
        let answer = service.request(Method::PUT, &path).json(&condition).send().await?;
        ensure_success(answer, "PUT", &path).await?;
    }
    Ok(())
}

/// Updates the limit, or creates it if it is missing.
async fn write_limit(service: &Service, limit: &Limit) -> anyhow::Result<()> {
    let path = format!("/patron-block-limits/{}", limit.id);
    let put = service.request(Method::PUT, &path).json(limit).send().await?;
    if put.status() != StatusCode::NOT_FOUND {
        return ensure_success(put, "PUT", &path).await.map(|_| ());
    }
    let path = "/patron-block-limits";
    let post = service.request(Method::POST, path).json(limit).send().await?;
    ensure_success(post, "POST", path).await.map(|_| ())
}
