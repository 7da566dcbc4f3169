//! Rejects forms of other sites. A page has no session and no token: the browser reports where a request comes from.

use actix_web::{
    Error, HttpRequest, ResponseError,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode, Uri,
        header::{HOST, HeaderMap, ORIGIN},
    },
    middleware::Next,
};

use super::{response::PageError, texts::Texts};
use crate::http::ApiError;

/// Responds with 403 to a request that may change something, unless a page of this console sent it.
pub(super) async fn require_same_origin(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if is_read || is_same_origin(request.headers()) {
        return next.call(request).await.map(ServiceResponse::map_into_boxed_body);
    }
    let response = rejection(request.request());
    Ok(request.into_response(response))
}

fn rejection(request: &HttpRequest) -> actix_web::HttpResponse {
    let text = Texts::of(request).text("error.otherSite");
    let error = ApiError::Text(StatusCode::FORBIDDEN, text.to_owned());
    PageError::new(request, error).error_response()
}

/// Returns whether the browser says that the request comes from a page of the same origin. Browsers send
/// `Sec-Fetch-Site` over TLS and to this host, and otherwise `Origin` alone.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all("Sec-Fetch-Site").peekable();
    if sites.peek().is_some() {
        return sites.all(|site| site.as_bytes() == b"same-origin");
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(ORIGIN), text(HOST)) else { return false };
    let origin = origin.parse::<Uri>().ok();
    origin.is_some_and(|origin| {
        origin.authority().is_some_and(|authority| authority.as_str().eq_ignore_ascii_case(host))
    })
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn decides(headers: &[(&'static str, &'static str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        is_same_origin(&map)
    }

    #[test]
    fn only_a_page_of_the_same_origin_may_act() {
        let host = ("host", "127.0.0.1:8082");
        for (headers, expected) in [
            (vec![host], false),
            (vec![host, ("sec-fetch-site", "same-origin")], true),
            (vec![host, ("sec-fetch-site", "same-site")], false),
            (vec![host, ("sec-fetch-site", "cross-site")], false),
            // An address that the reader types sends no form.
            (vec![host, ("sec-fetch-site", "none")], false),
            (vec![host, ("origin", "http://127.0.0.1:8082")], true),
            (vec![host, ("origin", "https://127.0.0.1:8082")], true),
            (vec![host, ("origin", "http://127.0.0.1:8083")], false),
            (vec![host, ("origin", "http://evil.example")], false),
            (vec![host, ("origin", "null")], false),
            (vec![("origin", "http://127.0.0.1:8082")], false),
            (
                vec![host, ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
                false,
            ),
            // Where both are present, the one that no page can set decides.
            (
                vec![host, ("origin", "http://127.0.0.1:8082"), ("sec-fetch-site", "cross-site")],
                false,
            ),
        ] {
            assert_eq!(decides(&headers), expected, "{headers:?}");
        }
    }
}
