//! The ingest page: partitions that are behind, and incidents. The page asks no broker, so it needs none.

use actix_web::HttpResponse;
use askama::Template;

use super::{
    acts::{ReasonForm, Submission},
    home::INCIDENTS_MAX,
    response::PageError,
    shell::Shell,
    texts::Texts,
    visit::Visit,
    words,
};
use crate::{
    clock,
    http::{ApiError, extract::tenant::path_id},
    services::{
        ingest::incidents::{self as service, Resolution},
        operator_actions::{Act, Action},
    },
    store::{
        self,
        ingest::{
            incidents::{self, StoredIncident},
            instance_reports::BehindPartition,
        },
    },
};

#[derive(Template)]
#[template(path = "ingest.html")]
struct IngestPage {
    shell: Shell,
    state: String,
    partitions: Vec<PartitionRow>,
    incidents: Vec<IncidentRow>,
    may_resolve: bool,
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
    resolution: Option<String>,
    detail: String,
}

/// Returns the page.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let load = async {
        let report = visit.certainty().await?;
        let id = &visit.tenant.id;
        let list = async |db: &mut store::Connection| {
            incidents::list(db, Some(id), false, INCIDENTS_MAX).await
        };
        let incidents = store::read(&visit.db, list).await?;
        let shell = visit.shell_with("ingest", Some(&report)).await;
        let state = words::ingest(visit.texts, &report);
        let row = |incident| IncidentRow::new(visit.texts, incident);
        let mut behind = report.behind;
        behind.sort_by_key(|found| (!found.is_stopped, -found.lag));
        Ok::<_, ApiError>(IngestPage {
            shell,
            state,
            partitions: behind.into_iter().map(PartitionRow::from).collect(),
            incidents: incidents.into_iter().map(row).collect(),
            may_resolve: visit.may(Action::ResolveIncident),
        })
    };
    visit.render(load).await
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
        let resolution = |at| {
            let at = clock::format_instant(at);
            texts.fill("ingest.resolved", &[("by", &by), ("at", &at)])
        };
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
