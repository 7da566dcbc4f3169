//! The style and the script of the pages. A name contains a hash of the content, so a browser may cache a file.

use std::sync::LazyLock;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
};
use uuid::Uuid;

/// A file of the pages.
pub(super) struct Asset {
    /// The name, with a hash of the content.
    pub(super) name: String,
    content_type: &'static str,
    content: &'static str,
}

impl Asset {
    fn new(stem: &str, extension: &str, content_type: &'static str, content: &'static str) -> Self {
        let hash = Uuid::new_v5(&Uuid::NAMESPACE_URL, content.as_bytes()).simple();
        Self { name: format!("{stem}-{hash}.{extension}"), content_type, content }
    }
}

/// The style of all pages.
pub(super) static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("console", "css", "text/css; charset=utf-8", include_str!("assets/console.css"))
});

/// The script of all pages, which no page needs.
pub(super) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    let content_type = "text/javascript; charset=utf-8";
    Asset::new("console", "js", content_type, include_str!("assets/console.js"))
});

/// Returns a file by its name.
pub(super) async fn get(request: HttpRequest) -> HttpResponse {
    let name = request.match_info().query("name");
    match [&*STYLE, &*SCRIPT].into_iter().find(|asset| asset.name == name) {
        Some(asset) => HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, asset.content_type))
            .insert_header((CACHE_CONTROL, "private, max-age=31536000, immutable"))
            .body(asset.content),
        None => HttpResponse::NotFound().finish(),
    }
}
