//! The files of the status page, built into the binary.

use std::sync::LazyLock;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::error::{ApiError, refuse_method};

struct Asset {
    path: &'static str,
    content_type: &'static str,
    body: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! assets {
    ($($path:literal: $content_type:expr,)+) => {
        &[$(Asset {
            path: concat!("/", $path),
            content_type: $content_type,
            body: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/ui/", $path)),
        },)+]
    };
}

static ASSETS: &[Asset] = assets! {
    "index.html": HTML,
    "style.css": CSS,
    "icon.svg": SVG,
    "app.js": SCRIPT,
    "api.js": SCRIPT,
    "dom.js": SCRIPT,
    "parts.js": SCRIPT,
    "views/overview.js": SCRIPT,
    "views/resources.js": SCRIPT,
    "views/resource.js": SCRIPT,
    "views/proposals.js": SCRIPT,
    "views/orphans.js": SCRIPT,
    "views/executions.js": SCRIPT,
};

/// The strong validators of [`ASSETS`], in their order.
static TAGS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| {
    const DIGITS: usize = 32;
    ASSETS
        .iter()
        .map(|asset| {
            let hash = hex::encode(Sha256::digest(asset.body));
            HeaderValue::from_str(&format!("\"{}\"", &hash[..DIGITS])).expect("hex digits are a header value")
        })
        .collect()
});

/// The first parts of addresses that the page itself answers.
const VIEWS: &[&str] = &["", "resources", "tenants", "proposals", "orphans", "executions"];

/// Everything that is no route: a file of the page, one of its views, or nothing.
pub(super) async fn page(request: Request) -> Response {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return refuse_method(request.method().as_str(), "GET, HEAD");
    }
    let path = request.uri().path();
    if let Some(at) = ASSETS.iter().position(|asset| asset.path == path) {
        return answer(at, StatusCode::OK, request.headers());
    }
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    if VIEWS.contains(&first) {
        return answer(0, StatusCode::OK, request.headers());
    }
    // A person who mistyped gets the page, which says so; a program gets JSON.
    let accepts = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/html") && first != "api" {
        return answer(0, StatusCode::NOT_FOUND, &HeaderMap::new());
    }
    ApiError::not_found("there is nothing at this address", "The API begins at /api/v1/overview, the page at /.")
        .into_response()
}

fn answer(at: usize, status: StatusCode, asked: &HeaderMap) -> Response {
    let (asset, tag) = (&ASSETS[at], &TAGS[at]);
    // The file may be kept, but is asked for again each time: after an upgrade nobody sees half of the old page.
    let headers = [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    if matches_tag(asked, tag) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type))];
    (status, headers, content_type, asset.body).into_response()
}

fn matches_tag(asked: &HeaderMap, tag: &HeaderValue) -> bool {
    asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_and_runs_nothing_from_elsewhere() {
        for asset in ASSETS {
            let text = std::str::from_utf8(asset.body).expect("the files of the page are text");
            // Names of XML namespaces are never loaded.
            let text = text.replace("http://www.w3.org/", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{} names another host", asset.path);
            assert!(!text.contains("innerHTML") && !text.contains("insertAdjacentHTML"), "{}", asset.path);
        }
        let index = std::str::from_utf8(ASSETS[0].body).expect("the page is text");
        assert_eq!(ASSETS[0].path, "/index.html");
        assert!(!index.contains("style=") && !index.contains("<style") && !index.contains(" on"), "inline code");
    }

    #[test]
    fn every_file_of_the_page_is_served() {
        let mut files = Vec::new();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("ui");
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the folder is there") {
                let path = entry.expect("it can be read").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(format!("/{}", path.strip_prefix(&root).expect("it is below").display()));
                }
            }
        }
        files.sort();
        let mut served: Vec<&str> = ASSETS.iter().map(|asset| asset.path).collect();
        served.sort_unstable();
        assert_eq!(served, files);
    }
}
