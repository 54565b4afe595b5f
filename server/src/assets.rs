//! The site folder, inside the program (in debug builds: read from disk).

use app::site::Assets;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/../target/site"]
#[allow_missing = true]
struct Site;

/// Files with their hash in the name never change.
const FOREVER: &str = "public, max-age=31536000, immutable";
/// The few others are asked for again after an hour.
const HOUR: &str = "public, max-age=3600";

/// Where the pages find style and islands.
pub(crate) fn manifest() -> Assets {
    let text = Site::get("manifest.txt")
        .map(|f| String::from_utf8_lossy(&f.data).into_owned())
        .unwrap_or_default();
    let find = |name: &str| {
        text.lines()
            .filter_map(|l| l.split_once(' '))
            .find(|(n, _)| *n == name)
            .map(|(_, path)| path.to_owned())
            .unwrap_or_default()
    };
    Assets {
        css: find("turnpike.css"),
        js: find("turnpike.js"),
        wasm: find("turnpike.wasm"),
        boot: find("boot.js"),
    }
}

/// `/pkg/{*file}`.
pub(crate) async fn package(Path(file): Path<String>, headers: HeaderMap) -> Response {
    serve(&format!("pkg/{file}"), &headers, FOREVER)
}

/// A file of `public/`.
pub(crate) fn public(name: &str, headers: &HeaderMap) -> Response {
    serve(name, headers, HOUR)
}

fn serve(path: &str, headers: &HeaderMap, cache: &'static str) -> Response {
    let kind = match path.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("wasm") => "application/wasm",
        Some("svg") => "image/svg+xml",
        Some("txt") => "text/plain; charset=utf-8",
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let takes_brotli = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|e| e.trim().starts_with("br")));
    let packed = if takes_brotli {
        Site::get(&format!("{path}.br"))
    } else {
        None
    };
    let encoded = packed.is_some();
    let Some(file) = packed.or_else(|| Site::get(path)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut response = file.data.into_owned().into_response();
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    out.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if encoded {
        out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("br"));
    }
    response
}
