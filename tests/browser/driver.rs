//! A real browser without a window, driven over WebDriver by Debian's `chromedriver`.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::programs::{Running, open};

/// The demo's outage comes after more than a minute.
const DEADLINE: Duration = Duration::from_secs(240);

/// Asks again and again until there is an answer.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// `chromedriver`, which ends its browsers when it ends.
pub(crate) struct Driver {
    address: SocketAddr,
    _running: Running,
}

impl Driver {
    pub(crate) fn start() -> Self {
        // Of several that start at once one may find its port taken, and ends.
        let started = (0..5).find_map(|_| {
            let running = Running::start(Command::new("chromedriver").arg("--port=0"));
            let mut lines = std::iter::from_fn(|| running.line());
            let port = lines.find_map(|line| {
                let port = line.split("successfully on port ").nth(1)?;
                port.trim_end_matches('.').parse().ok()
            })?;
            Some((running, port))
        });
        let (running, port) =
            started.expect("chromedriver says its port; install it with tests/run");
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            _running: running,
        }
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let headers = [("content-type", "application/json")];
        // It keeps connections open whatever it is asked: the length says where an answer ends.
        let mut stream = BufReader::new(open(self.address, method, path, &headers, &body));
        let mut line = String::new();
        let mut read = || {
            line.clear();
            stream
                .read_line(&mut line)
                .map_err(|error| error.to_string())?;
            Ok::<_, String>(line.trim().to_ascii_lowercase())
        };
        let status = read()?;
        let mut length = 0;
        loop {
            let field = read()?;
            if field.is_empty() {
                break;
            }
            if let Some(value) = field.strip_prefix("content-length:") {
                length = value
                    .trim()
                    .parse()
                    .map_err(|_| format!("no length: {field}"))?;
            }
        }
        let mut body = vec![0; length];
        stream
            .read_exact(&mut body)
            .map_err(|error| error.to_string())?;
        let mut value: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        if status.contains(" 200 ") {
            Ok(value["value"].take())
        } else {
            let problem = &value["value"];
            Err(format!("{}: {}", problem["error"], problem["message"]))
        }
    }

    /// A browser with nothing in it.
    pub(crate) fn browser(&self) -> Browser<'_> {
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ];
        let session = self.ask(
            "POST",
            "/session",
            &json!({"capabilities": {"alwaysMatch": {
                "goog:chromeOptions": {"args": args},
                "goog:loggingPrefs": {"browser": "ALL"},
            }}}),
        );
        let session = session.expect("chromium starts; install it with tests/run");
        let id = session["sessionId"].as_str().expect("a session has an id");
        let browser = Browser {
            driver: self,
            path: format!("/session/{id}"),
        };
        browser.size(1440, 1000);
        browser
    }
}

/// One browser.
pub(crate) struct Browser<'d> {
    driver: &'d Driver,
    path: String,
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        let _ = self.driver.ask("DELETE", &self.path, &Value::Null);
    }
}

impl Browser<'_> {
    fn post(&self, path: &str, body: &Value) -> Value {
        let done = self
            .driver
            .ask("POST", &format!("{}{path}", self.path), body);
        done.unwrap_or_else(|problem| panic!("{path} {body}: {problem}"))
    }

    fn devtools(&self, command: &str, params: &Value) -> Value {
        self.post(
            "/goog/cdp/execute",
            &json!({"cmd": command, "params": params}),
        )
    }

    pub(crate) fn open(&self, url: &str) {
        self.post("/url", &json!({"url": url}));
    }

    pub(crate) fn size(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
    }

    /// `light` or `dark`.
    pub(crate) fn scheme(&self, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({"features": [feature]}),
        );
    }

    /// What a script returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// The text of the first element, if it is there and shown.
    pub(crate) fn text(&self, selector: &str) -> Option<String> {
        let selector = Value::from(selector);
        let found = self.run(&format!(
            "const e = document.querySelector({selector}); return e && e.checkVisibility() ? e.innerText : null"
        ));
        found.as_str().map(str::to_owned)
    }

    /// Waits until the first element has this in its text.
    pub(crate) fn shows(&self, selector: &str, text: &str) -> String {
        until(&format!("{selector} shows {text:?}"), || {
            self.text(selector).filter(|found| found.contains(text))
        })
    }

    /// Clicks as a person does: on what is there and not covered. What was drawn anew meanwhile is looked for again.
    pub(crate) fn click(&self, xpath: &str) {
        until(&format!("{xpath} is clicked"), || {
            let path = format!("{}/element/{}/click", self.path, self.find(xpath));
            match self.driver.ask("POST", &path, &json!({})) {
                Ok(_) => Some(()),
                Err(problem) if problem.contains("stale element") => None,
                Err(problem) => panic!("{xpath}: {problem}"),
            }
        });
    }

    pub(crate) fn write(&self, xpath: &str, text: &str) {
        let element = self.find(xpath);
        self.post(&format!("/element/{element}/clear"), &json!({}));
        self.post(&format!("/element/{element}/value"), &json!({"text": text}));
    }

    fn find(&self, xpath: &str) -> String {
        let path = format!("{}/element", self.path);
        until(xpath, || {
            let found = self
                .driver
                .ask("POST", &path, &json!({"using": "xpath", "value": xpath}));
            let found = found.ok()?;
            let (_, id) = found.as_object()?.iter().next()?;
            Some(id.as_str()?.to_owned())
        })
    }

    /// Presses keys one after another. `\u{E004}` is Tab, `\u{E007}` Enter, `\u{E00C}` Escape.
    pub(crate) fn press(&self, keys: &str) {
        let strokes: Vec<_> = keys
            .chars()
            .flat_map(|key| {
                ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()}))
            })
            .collect();
        self.post(
            "/actions",
            &json!({"actions": [{"type": "key", "id": "keys", "actions": strokes}]}),
        );
    }

    /// What the clipboard holds.
    pub(crate) fn clipboard(&self) -> String {
        let grant = json!({"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]});
        self.devtools("Browser.grantPermissions", &grant);
        let script = "const done = arguments[arguments.length - 1];
            navigator.clipboard.readText().then(done, (error) => done(String(error)))";
        let text = self.post("/execute/async", &json!({"args": [], "script": script}));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Writes what is seen to a file in the target folder, for people to look at.
    pub(crate) fn screenshot(&self, name: &str, whole: bool) -> PathBuf {
        let shot = self.devtools(
            "Page.captureScreenshot",
            &json!({"format": "png", "captureBeyondViewport": whole}),
        );
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
        std::fs::create_dir_all(&folder).expect("the target folder can be written");
        let file = folder.join(format!("{name}.png"));
        let png = from_base64(shot["data"].as_str().expect("a screenshot has data"));
        assert!(png.starts_with(b"\x89PNG"), "{name}");
        std::fs::write(&file, png).expect("the target folder can be written");
        file
    }

    /// What the browser complains of: errors in scripts, what the policy forbids.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({"type": "browser"}));
        let entries = log.as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING")
            .map(|entry| entry["message"].to_string())
            .collect()
    }

    /// What axe-core finds to be a serious or critical obstacle, on the page as it is now.
    pub(crate) fn obstacles(&self) -> Vec<String> {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/browser/node_modules/axe-core/axe.min.js"
        );
        let axe = std::fs::read_to_string(file).unwrap_or_else(|error| {
            panic!("{file}: {error}; tests/run installs it (npm ci --prefix tests/browser)")
        });
        self.run(&format!("{axe}; return null"));
        let found = self.post(
            "/execute/async",
            &json!({"args": [], "script": "
                const done = arguments[arguments.length - 1];
                axe.run({resultTypes: ['violations']}).then((found) => done(found.violations), (error) => done(String(error)))"}),
        );
        let found = found
            .as_array()
            .unwrap_or_else(|| panic!("axe-core: {found}"));
        found
            .iter()
            .filter(|violation| {
                ["serious", "critical"]
                    .iter()
                    .any(|impact| violation["impact"] == *impact)
            })
            .map(|violation| {
                let nodes = violation["nodes"].as_array().into_iter().flatten();
                let where_: Vec<_> = nodes.map(|node| node["html"].to_string()).take(3).collect();
                format!("{}: {} {where_:?}", violation["id"], violation["help"])
            })
            .collect()
    }
}

fn from_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0_u32, 0);
    for digit in text
        .bytes()
        .filter_map(|c| DIGITS.iter().position(|digit| *digit == c))
    {
        bits = bits << 6 | digit as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    bytes
}
