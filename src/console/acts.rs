//! Acts of a reader: the permission, the reason, the entry in the log of acts, and the notice about the end.

use std::{future::Future, time::Duration};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    dev::Payload,
    http::StatusCode,
    web::{Form, FormConfig},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::{
    response::{self, PageError},
    texts::Texts,
    visit::Visit,
};
use crate::{
    http::{ApiError, extract::tenant},
    services::operator_actions::{
        Act, ActEnd, Action, ActionLog, Door, Operator, REASON_CHARS, parse_reason,
    },
};

/// Time after which a page no longer waits for the end of an act. The act goes on.
const ACT_TIMEOUT: Duration = Duration::from_secs(15);

/// Largest form, in bytes: a query of 8 KiB, with each byte escaped, and a reason.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// The name of an operator of the console port without sign-in, which knows no user.
const CONSOLE_PORT_OPERATOR: &str = "console-port";

/// A form with a reason only.
#[derive(Debug, Deserialize)]
pub(super) struct ReasonForm {
    pub(super) reason: String,
}

/// A form that a page sent, with its visit.
pub(super) struct Submission<T> {
    pub(super) visit: Visit,
    pub(super) form: T,
}

impl<T: DeserializeOwned + 'static> FromRequest for Submission<T> {
    type Error = PageError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self, PageError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let form = Form::<T>::from_request(request, payload);
        let request = request.clone();
        Box::pin(async move {
            let invalid = |error: actix_web::Error| {
                let text = Texts::of(&request).fill("error.form", &[("cause", &error)]);
                PageError::new(&request, ApiError::bad_request(text))
            };
            let form = form.await.map_err(invalid)?.into_inner();
            let visit = Visit::from_request(&request, &mut Payload::None).await?;
            Ok(Self { visit, form })
        })
    }
}

/// Returns the limit of forms.
pub(super) fn form_config() -> FormConfig {
    FormConfig::default().limit(FORM_BYTES_MAX)
}

impl Visit {
    /// Returns an error page if the reader may not take an action.
    pub(super) fn require(&self, action: Action) -> Result<(), PageError> {
        if self.may(action) {
            return Ok(());
        }
        let text = match (super::roles::permission(action), &self.session) {
            (None, _) => self.texts.text("error.commandLineOnly").to_owned(),
            (Some(_), Some(_)) => self.texts.text("error.readsOnly").to_owned(),
            (Some(permission), None) => {
                self.texts.fill("error.permission", &[("permission", &permission)])
            }
        };
        Err(self.failed(ApiError::Text(StatusCode::FORBIDDEN, text)))
    }

    /// Returns an error page about a field of a form.
    pub(super) fn invalid(&self, rule: &'static str) -> PageError {
        self.refused(StatusCode::BAD_REQUEST, rule)
    }

    /// Returns an error page with the text of a key.
    pub(super) fn refused(&self, status: StatusCode, rule: &'static str) -> PageError {
        self.failed(ApiError::Text(status, self.texts.text(rule).to_owned()))
    }

    /// Returns who takes an action for this reason, or an error page if the reader may not, or gives no reason.
    pub(super) fn operator(&self, action: Action, reason: &str) -> Result<Operator, PageError> {
        self.require(action)?;
        let invalid = |_| {
            let (min, max) = (REASON_CHARS.start(), REASON_CHARS.end());
            let text = self.texts.fill("error.reason", &[("min", min), ("max", max)]);
            self.failed(ApiError::Text(StatusCode::UNPROCESSABLE_ENTITY, text))
        };
        let reason = parse_reason(reason).map_err(invalid)?;
        let request = self.request();
        let name = match &self.session {
            Some(session) => session.name.clone().into(),
            None if self.has_gateway => {
                tenant::acting_user(request).unwrap_or_else(|| "unknown".to_owned()).into()
            }
            None => CONSOLE_PORT_OPERATOR.into(),
        };
        let request_id = tenant::request_id(request);
        Ok(Operator { name, door: Door::Console, reason: Some(reason), request_id })
    }

    /// Enters an act in the log of acts, does the act, and enters its end. Returns the number of the act and its
    /// result. The act goes on if the browser leaves.
    pub(super) async fn act<T: 'static>(
        &self,
        operator: Operator,
        act: Act,
        work: impl Future<Output = Result<T, ApiError>> + 'static,
        end_of: impl FnOnce(&T) -> ActEnd + 'static,
    ) -> Result<(i64, T), PageError> {
        // Pages wait for each other on the connection of the console, and an entry must not.
        let (db, tenant) = (self.state.operators.db(), self.tenant.clone());
        let running = actix_web::rt::spawn(async move {
            let log = ActionLog { db: &db, schema: &tenant.schema };
            log.record(&operator, &act, work, end_of).await
        });
        let ended = timeout(ACT_TIMEOUT, running).await;
        self.restart_time_limit();
        let text = match ended {
            Ok(Ok(ended)) => return ended.map_err(|error| self.failed(error)),
            Ok(Err(_)) => "error.actEndedEarly",
            Err(_) => "error.actTakesLong",
        };
        Err(self.refused(StatusCode::GATEWAY_TIMEOUT, text))
    }

    /// Redirects to `path`, relative to the root of the console, with a notice about an act.
    pub(super) fn redirect_after(&self, path: &str, number: i64) -> HttpResponse {
        let root = response::root_of(self.request().path());
        let separator = if path.contains('?') { '&' } else { '?' };
        response::see_other(format!("{root}{path}{separator}act={number}"))
    }
}
