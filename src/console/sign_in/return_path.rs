//! The page to which a person returns after the sign-in.

use actix_web::http::Uri;
use serde::{Deserialize, Serialize};
use url::Url;

/// Longest path in bytes; a cookie contains it. A longer one is replaced by that without its query, or by the first page.
const BYTES_MAX: usize = 600;

/// The place of the pages of a tenant, below the public URL.
const TENANT_PAGES: &str = "tenants/";

/// A path with a query, relative to the public URL: a page of a tenant, or the first page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct ReturnPath(String);

impl ReturnPath {
    /// Returns the path of a requested page.
    pub(super) fn of(requested: &Uri) -> Self {
        let whole = requested.path_and_query().map_or("", |path| path.as_str());
        let candidates = [whole, requested.path()].map(|path| path.trim_start_matches('/'));
        let chosen = candidates.into_iter().find(|path| path.len() <= BYTES_MAX);
        Self(chosen.unwrap_or_default().to_owned())
    }

    /// Returns the address of the page below `public_url`. Anything else than a page of a tenant becomes the first page.
    /// No address leads to another site, or to another application of the host.
    pub(super) fn address(&self, public_url: &Url) -> Url {
        let target = public_url.join(&format!("./{}", self.0)).ok();
        let pages = format!("{}{TENANT_PAGES}", public_url.path());
        let is_page =
            |url: &Url| url.origin() == public_url.origin() && url.path().starts_with(&pages);
        target.filter(is_page).unwrap_or_else(|| public_url.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn returned(requested: &str, public: &str) -> String {
        let path = ReturnPath::of(&requested.parse().unwrap());
        path.address(&Url::parse(public).unwrap()).to_string()
    }

    #[test]
    fn only_pages_of_the_console_are_returned_to() {
        const PUBLIC: &str = "https://a.example/";
        for (requested, expected) in [
            ("/tenants/north/home", "https://a.example/tenants/north/home"),
            (
                "/tenants/north/parked?query=a%3D%3Db&x=1",
                "https://a.example/tenants/north/parked?query=a%3D%3Db&x=1",
            ),
            ("//tenants/north/home", "https://a.example/tenants/north/home"),
            ("/", PUBLIC),
            ("/?x=1", PUBLIC),
            ("//evil.example/tenants/", PUBLIC),
            ("/\\evil.example", PUBLIC),
            ("/https://evil.example/tenants/", PUBLIC),
            ("/javascript:alert(1)", PUBLIC),
            ("/tenants/../sign-out", PUBLIC),
            ("/tenants/%2e%2e/sign-out", PUBLIC),
            ("/tenants/..%2fsign-out", "https://a.example/tenants/..%2fsign-out"),
            ("/sign-in/callback?code=1", PUBLIC),
            ("http://evil.example/tenants/north/home", "https://a.example/tenants/north/home"),
        ] {
            assert_eq!(returned(requested, PUBLIC), expected, "{requested}");
        }
    }

    #[test]
    fn path_below_the_public_url_is_not_left() {
        const PUBLIC: &str = "https://a.example/b/c/";
        for (requested, expected) in [
            ("/tenants/north/home?x", "https://a.example/b/c/tenants/north/home?x"),
            ("/tenants/../../other/tenants/", PUBLIC),
            ("/../tenants/north", PUBLIC),
            ("/", PUBLIC),
        ] {
            assert_eq!(returned(requested, PUBLIC), expected, "{requested}");
        }
    }

    #[test]
    fn long_path_loses_its_query_first() {
        let query = "q".repeat(BYTES_MAX);
        let path = format!("/tenants/north/parked?query={query}");
        assert_eq!(returned(&path, "https://a.example"), "https://a.example/tenants/north/parked");
        let path = format!("/tenants/{query}");
        assert_eq!(returned(&path, "https://a.example"), "https://a.example/");
    }
}
