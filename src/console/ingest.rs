//! The ingest page: partitions that are behind, and incidents. The page asks no broker, so it needs none.

use std::collections::{BTreeMap, HashMap};

use actix_web::HttpResponse;
use askama::Template;
use chrono::{DateTime, Utc};

use super::{
    acts::{ReasonForm, Submission},
    home::INCIDENTS_MAX,
    response::PageError,
    shell::Shell,
    sparkline::Sparkline,
    texts::Texts,
    visit::Visit,
    words::{self, Dated},
};
use crate::{
    clock,
    http::{ApiError, extract::tenant::path_id},
    services::{
        evaluation::certainty::{BEHIND_MAX, CertaintyReport},
        ingest::incidents::{self as service, Resolution},
        operator_actions::{Act, Action},
    },
    store::{
        self, Schema,
        ingest::{
            incidents::{self, StoredIncident},
            instance_reports::BehindPartition,
            positions::{self, Position},
        },
    },
};

#[derive(Template)]
#[template(path = "ingest.html")]
struct IngestPage {
    shell: Shell,
    state: String,
    partitions: Vec<PartitionRow>,
    topics: Vec<TopicRow>,
    lag: Option<Sparkline>,
    incidents: Vec<IncidentRow>,
    may_resolve: bool,
}

/// A topic with applied records of the tenant.
struct TopicRow {
    name: String,
    partitions: usize,
    /// The records that are not applied; `None` if the number is unknown.
    lag: Option<i64>,
    /// The time of the last applied record.
    last_record_at: Option<String>,
}

struct PartitionRow {
    topic: String,
    partition: i32,
    lag: i64,
    as_of: Option<String>,
    is_stopped: bool,
}

struct IncidentRow {
    id: String,
    meaning: String,
    topic: String,
    partition: i32,
    offsets: String,
    raised_at: String,
    resolution: Option<Dated>,
    detail: String,
}

/// Returns the page.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let load = async {
        let report = visit.certainty().await?;
        let id = &visit.tenant.id;
        let list = async |db: &mut store::Connection| {
            let incidents = incidents::list(&mut *db, Some(id), false, INCIDENTS_MAX).await?;
            let mut positions = positions::list(&mut *db, &visit.tenant.schema).await?;
            // For a shared topic, the position of the module applies.
            positions.extend(positions::list(db, &Schema::module()).await?);
            Ok((incidents, positions))
        };
        let (incidents, positions) = store::read(&visit.db, list).await?;
        let shell = visit.shell_with("ingest", Some(&report)).await;
        let state = words::ingest(visit.texts, &report);
        let row = |incident| IncidentRow::new(visit.texts, incident);
        let topics = topics(positions, &report);
        let lags = visit.state.evaluator.freshness.lags.of(id);
        let lags: Vec<f64> = lags.into_iter().map(|lag| lag as f64).collect();
        let lag = Sparkline::new(visit.texts, &lags, visit.texts.text("home.lastHour"));
        let mut behind = report.behind;
        behind.sort_by_key(|found| (!found.is_stopped, -found.lag));
        Ok::<_, ApiError>(IngestPage {
            shell,
            state,
            partitions: behind.into_iter().map(PartitionRow::from).collect(),
            topics,
            lag,
            incidents: incidents.into_iter().map(row).collect(),
            may_resolve: visit.may(Action::ResolveIncident),
        })
    };
    visit.render(load).await
}

/// Returns the topics with their positions, by name.
fn topics(positions: HashMap<(String, i32), Position>, report: &CertaintyReport) -> Vec<TopicRow> {
    // The report has the oldest partitions only, and none without a comparison with the log.
    let is_known = report.certainty.as_of.is_some() && report.behind.len() < BEHIND_MAX;
    let mut by_name: BTreeMap<String, (usize, Option<DateTime<Utc>>)> = BTreeMap::new();
    for ((topic, _), position) in positions {
        let (partitions, last) = by_name.entry(topic).or_default();
        *partitions += 1;
        *last = position.last_record_at.max(*last);
    }
    for found in &report.behind {
        by_name.entry(found.topic.clone()).or_default();
    }
    let row = |(name, (partitions, last)): (String, (usize, Option<DateTime<Utc>>))| {
        let behind = report.behind.iter().filter(|found| found.topic == name);
        let lag = is_known.then(|| behind.map(|found| found.lag).sum());
        TopicRow { name, partitions, lag, last_record_at: last.map(clock::format_instant) }
    };
    by_name.into_iter().map(row).collect()
}

/// Resolves an incident. A stopped partition resumes.
pub(super) async fn resolve(submission: Submission<ReasonForm>) -> Result<HttpResponse, PageError> {
    let Submission { visit, form } = submission;
    let operator = visit.operator(Action::ResolveIncident, &form.reason)?;
    let not_a_uuid = || ApiError::bad_request(visit.texts.text("error.incidentId"));
    let id = path_id(visit.path_part("id"), not_a_uuid).map_err(|error| visit.failed(error))?;
    let (state, tenant, by) = (visit.state.clone(), visit.tenant.clone(), operator.name.clone());
    let work = async move {
        let (db, now) = (state.operators.db(), state.clock.now());
        Ok(service::resolve(&db, Some(&tenant.id), id, &by, now).await?)
    };
    let act = Act::on(Action::ResolveIncident, id);
    let (number, _) = visit.act(operator, act, work, Resolution::act_end).await?;
    Ok(visit.redirect_after("ingest", number))
}

impl From<BehindPartition> for PartitionRow {
    fn from(found: BehindPartition) -> Self {
        let BehindPartition { topic, partition, lag, as_of, is_stopped } = found;
        Self { topic, partition, lag, as_of: as_of.map(clock::format_instant), is_stopped }
    }
}

impl IncidentRow {
    fn new(texts: &'static Texts, incident: StoredIncident) -> Self {
        let by = incident.resolved_by.unwrap_or_else(|| texts.text("ingest.byUnknown").to_owned());
        let (from, to) = (incident.from_offset, incident.to_offset);
        let resolution = |at| Dated::at(texts.around("ingest.resolved", "at", &[("by", &by)]), at);
        Self {
            id: incident.id.to_string(),
            meaning: words::incident(texts, &incident.kind).to_owned(),
            topic: incident.topic,
            partition: incident.partition,
            offsets: texts.fill("ingest.offsets", &[("from", &from), ("to", &to)]),
            raised_at: clock::format_instant(incident.raised_at),
            resolution: incident.resolved_at.map(resolution),
            detail: incident.detail,
        }
    }
}
