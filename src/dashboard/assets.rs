//! What the page is made of, embedded: nothing is built, nothing comes from elsewhere.

use http::{HeaderMap, Response, header};
use sha2::{Digest, Sha256};

use super::answer::{Body, asset};

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// The page, in which the table for readers without a script takes the place of `{{callers}}`.
pub(super) const PAGE: &str = include_str!("page/index.html");

/// Files by name.
const FILES: [(&str, &str, &[u8]); 12] = [
    ("style.css", STYLE, include_bytes!("page/style.css")),
    ("main.js", SCRIPT, include_bytes!("page/main.js")),
    ("api.js", SCRIPT, include_bytes!("page/api.js")),
    ("dom.js", SCRIPT, include_bytes!("page/dom.js")),
    ("chart.js", SCRIPT, include_bytes!("page/chart.js")),
    ("table.js", SCRIPT, include_bytes!("page/table.js")),
    ("links.js", SCRIPT, include_bytes!("page/links.js")),
    ("caller.js", SCRIPT, include_bytes!("page/caller.js")),
    ("brake.js", SCRIPT, include_bytes!("page/brake.js")),
    ("uplot.js", SCRIPT, include_bytes!("page/vendor/uplot.js")),
    ("uplot.css", STYLE, include_bytes!("page/vendor/uplot.css")),
    ("icon.svg", "image/svg+xml", include_bytes!("page/icon.svg")),
];

pub(super) fn find(name: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let (_, kind, bytes) = FILES.iter().find(|(known, ..)| *known == name)?;
    let hash = Sha256::digest(bytes);
    let etag: String = hash
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let etag = format!("\"{etag}\"");
    let known = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|value| value.as_bytes() == etag.as_bytes());
    Some(asset(kind, bytes, &etag, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_vendored_is_what_was_published() {
        // The files of npm's `uplot` 1.6.32, as they are.
        for (name, published) in [
            (
                "uplot.js",
                "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
            ),
            (
                "uplot.css",
                "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
            ),
        ] {
            let (_, _, bytes) = FILES.iter().find(|(known, ..)| *known == name).unwrap();
            let hash = Sha256::digest(bytes);
            let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hash, published, "{name}");
        }
        let licence = include_str!("page/vendor/LICENSE-uPlot");
        assert!(licence.starts_with("The MIT License"), "{licence}");
    }

    #[test]
    fn the_page_runs_under_its_own_policy() {
        for (name, _, bytes) in &FILES {
            let text = String::from_utf8_lossy(bytes);
            if name.ends_with(".js") && !name.starts_with("uplot") {
                for way_in in [
                    "innerHTML",
                    "outerHTML",
                    "insertAdjacentHTML",
                    "document.write",
                    "eval(",
                    "localStorage",
                    "sessionStorage",
                    "document.cookie",
                ] {
                    assert!(!text.contains(way_in), "{name}: {way_in}");
                }
            }
            assert!(!text.contains("@import"), "{name}");
        }
        for inline in [
            "style=\"", "<style", "onclick", "onload", "http://", "https://",
        ] {
            assert!(!PAGE.contains(inline), "{inline}");
        }
        assert!(!PAGE.contains("<script>"));
    }

    #[test]
    fn an_asset_that_is_known_is_not_sent_again() {
        let first = find("main.js", &HeaderMap::new()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(find("main.js", &headers).unwrap().status(), 304);
        assert!(find("other.js", &headers).is_none());
    }
}
