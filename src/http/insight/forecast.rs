//! `patron-blocks-insight`: the patrons whom time alone will block.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{ACCEPT, CONTENT_DISPOSITION},
    },
};

use super::{forecast_bodies::Forecast, forecast_csv};
use crate::{
    http::{
        ApiError,
        error::Violation,
        extract::{
            paging::{list_range, parameter},
            tenant::TenantRequest,
        },
        openapi,
    },
    services::forecast::{ForecastError, ForecastPeriod},
};

/// Lists the patrons whom time alone will block until an instant, from stored due dates, grace periods and
/// recalls. The patron group is the stored one: the service calls no other module.
#[utoipa::path(
    get,
    path = "/patron-blocks/forecast",
    operation_id = "getForecast",
    summary = "List the patrons whom time alone will block",
    params(
        (
            "until" = DateTime<Utc>, Query,
            description = "End of the forecast: an instant in the future, at most 400 days ahead",
        ),
        (
            "format" = Option<String>, Query,
            description = "`json` or `csv`; by default `csv` if the header `Accept` names `text/csv` and not \
                `application/json`. CSV contains the first 100,000 patrons, whatever `offset` and `limit` are",
        ),
        openapi::ListPaging,
    ),
    responses(
        (
            status = 200, description = "The counts and a page of patrons, the earliest block first",
            content((Forecast = "application/json"), (String = "text/csv")),
        ),
        openapi::Invalid,
        openapi::ServiceUnavailable,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    context: TenantRequest,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let TenantRequest { state, db, tenant, .. } = &context;
    let until = parameter(&request, "until")?.filter(|until| !until.is_empty());
    let until = until.ok_or_else(|| Violation::missing("until"))?;
    let period = ForecastPeriod::parse(state.clock.now(), &until)
        .map_err(|rule| Violation::custom(rule, "until", until))?;
    let is_csv = requests_csv(&request)?;
    let (limit, offset) = list_range(&request)?;
    let policy = state.evaluator.policies.get(db, tenant).await.map_err(ApiError::Store)?;
    let forecast = state.forecasts.get(db, tenant, policy, period).await?;
    if is_csv {
        return Ok(HttpResponse::Ok()
            .content_type("text/csv; charset=utf-8; header=present")
            .insert_header((CONTENT_DISPOSITION, "attachment; filename=\"forecast.csv\""))
            .streaming(forecast_csv::chunks(forecast)));
    }
    Ok(HttpResponse::Ok().json(Forecast::page(&forecast, limit as usize, offset as usize)))
}

/// Returns whether the response is CSV. The parameter takes precedence over the header.
fn requests_csv(request: &HttpRequest) -> Result<bool, ApiError> {
    match parameter(request, "format")?.as_deref() {
        Some("csv") => Ok(true),
        Some("json") => Ok(false),
        None | Some("") => {
            Ok(accepts(request, "text/csv") && !accepts(request, "application/json"))
        }
        Some(format) => {
            Err(Violation::custom("format must be json or csv", "format", format).into())
        }
    }
}

/// Returns whether the header `Accept` names this type.
fn accepts(request: &HttpRequest, media_type: &str) -> bool {
    let lines = request.headers().get_all(ACCEPT).filter_map(|line| line.to_str().ok());
    let mut ranges = lines.flat_map(|line| line.split(','));
    ranges.any(|range| {
        range.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(media_type))
    })
}

impl From<ForecastError> for ApiError {
    fn from(error: ForecastError) -> Self {
        match error {
            ForecastError::Store(error) => error.into(),
            ForecastError::Busy => Self::Text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }
}
