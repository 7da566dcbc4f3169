//! Redirects the address of a page that ends with a slash. The router would find the page, but a browser resolves the
//! relative links of the page against its address.

use actix_web::{
    Error, HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, Uri,
        header::{CACHE_CONTROL, LOCATION, REFERRER_POLICY},
    },
    middleware::Next,
};

use super::{GATEWAY_ROOT, LOOPBACK_TENANTS};

/// Redirects a page with a slash at the end of its address. It precedes the middleware that removes the slash.
pub async fn redirect_trailing_slash(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let Some(location) = target(request.uri()).filter(|_| is_read) else {
        return next.call(request).await.map(ServiceResponse::map_into_left_body);
    };
    let response = HttpResponse::PermanentRedirect()
        .insert_header((LOCATION, location))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((REFERRER_POLICY, "same-origin"))
        .finish();
    Ok(request.into_response(response).map_into_right_body())
}

/// Returns the address without the slash, relative to the address with it; `None` if it is no such page.
fn target(uri: &Uri) -> Option<String> {
    let path = uri.path();
    // Neither port has the pages of the other one, so its redirect leads to an address without a page.
    let is_page = [GATEWAY_ROOT, LOOPBACK_TENANTS]
        .iter()
        .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/')));
    let trimmed = path.trim_end_matches('/');
    let slashes = path.len() - trimmed.len();
    if !is_page || slashes == 0 {
        return None;
    }
    let name = trimmed.rsplit('/').next().unwrap_or_default();
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    Some(format!("{}{name}{query}", "../".repeat(slashes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_with_a_slash_have_another_address() {
        for (uri, location) in [
            ("/patron-blocks/console/home/?a=b/", Some("../home?a=b/")),
            ("/patron-blocks/console/", Some("../console")),
            ("/patron-blocks/console/home//", Some("../../home")),
            ("/tenants/northlib/", Some("../northlib")),
            ("/patron-blocks/console/home?a=b/", None),
            ("/patron-blocks/console", None),
            ("/patron-block-limits/", None),
            ("/", None),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(target(&uri).as_deref(), location, "{uri}");
        }
    }
}
