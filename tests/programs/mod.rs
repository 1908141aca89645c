//! Programs that tests start, talk to over real sockets, and end.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::disallowed_methods,
    reason = "deadlines of tests are in real time"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Asks again and again until there is an answer.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        thread::sleep(POLL);
    }
}

/// The demo, built as the tests are.
pub(crate) fn demo() -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    Command::new(BINARY.get_or_init(|| build("demo")))
}

/// An example, built as the tests are.
pub(crate) fn build(example: &str) -> PathBuf {
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--example", example, "--all-features", "--quiet"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    if cfg!(not(debug_assertions)) {
        build.arg("--release");
    }
    let built = build.output().expect("cargo runs");
    assert!(built.status.success(), "{example} does not build");
    String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == example)
        .find_map(|message| Some(message["executable"].as_str()?.into()))
        .expect("cargo says where it is")
}

/// A program that runs until it is told to end.
pub(crate) struct Running {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    said: Arc<Mutex<String>>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let said = Arc::new(Mutex::new(String::new()));
        let stdout = lines(child.stdout.take().expect("it is piped"), &said);
        let stderr = lines(child.stderr.take().expect("it is piped"), &said);
        Self {
            child,
            stdout,
            stderr,
            said,
        }
    }

    /// The next line of its standard output; `None` at its end.
    pub(crate) fn line(&self) -> Option<String> {
        match self.stdout.recv_timeout(DEADLINE) {
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            line => line.ok(),
        }
    }

    /// The first line of its log that contains `text`.
    pub(crate) fn logged(&self, text: &str) -> Option<String> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stderr.recv_timeout(left) {
                Ok(line) if line.contains(text) => return Some(line),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// All that it has said so far.
    pub(crate) fn all_said(&self) -> String {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.expect("sh runs").success(), "{kill}");
    }

    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is ours to wait for")
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        until("the program ends", || self.has_ended())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("the program said:\n{said}");
        }
    }
}

/// Reads all there is, so that the program never waits for us.
fn lines(pipe: impl Read + Send + 'static, said: &Arc<Mutex<String>>) -> Receiver<String> {
    let (tell, told) = mpsc::channel();
    let said = Arc::clone(said);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.push_str(&line);
            said.push('\n');
            drop(said);
            let _ = tell.send(line);
        }
    });
    told
}

/// A demo that serves.
pub(crate) struct Demo {
    pub(crate) running: Running,
    pub(crate) address: SocketAddr,
}

impl Demo {
    /// Starts it on a port of its own, without the simulated callers.
    pub(crate) fn start(more: &[&str]) -> Self {
        let mut command = demo();
        command
            .args(["--listen", "127.0.0.1:0", "--no-traffic"])
            .args(more);
        Self::ready(Running::start(&mut command))
    }

    pub(crate) fn ready(running: Running) -> Self {
        let line = running.line().expect("the demo says that it is ready");
        let address = line
            .strip_prefix("listening on http://")
            .and_then(|address| address.parse().ok());
        let address = address.expect("the ready line ends with the address");
        Self { running, address }
    }

    pub(crate) fn get(&self, path: &str, caller: &str) -> Answer {
        call(self.address, "GET", path, &[("x-client-id", caller)], "")
    }

    pub(crate) fn order(&self, caller: &str, body: &str) -> Answer {
        let headers = [
            ("x-client-id", caller),
            ("content-type", "application/json"),
        ];
        call(self.address, "POST", "/v1/orders", &headers, body)
    }

    pub(crate) fn plain(&self, path: &str) -> Answer {
        call(self.address, "GET", path, &[], "")
    }

    /// What the scrape says now.
    pub(crate) fn metrics(&self) -> Vec<Sample> {
        let answer = self.plain("/metrics");
        assert_eq!(answer.status, 200);
        samples(&answer.body)
    }

    /// The sum of a metric over the series that have these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum(&self.metrics(), name, labels)
    }

    /// The line of a caller in `top.txt`, cell by cell.
    pub(crate) fn top(&self, caller: &str) -> Option<Vec<String>> {
        let answer = self.plain("/callerid/top.txt");
        assert_eq!(answer.status, 200);
        answer
            .body
            .lines()
            .filter(|line| !line.starts_with("# "))
            .map(cells)
            .find(|cells| cells[0] == caller)
    }
}

pub(crate) fn cells(line: &str) -> Vec<String> {
    line.split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .map(str::to_owned)
        .collect()
}

pub(crate) fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("it runs")
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// Sends the head of a request, with a body, over a connection of its own.
pub(crate) fn open(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a timeout can be set");
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("content-length: {}\r\n", body.len());
    }
    let text = format!("{head}\r\n{body}");
    stream
        .write_all(text.as_bytes())
        .expect("the server reads the request");
    stream
}

/// Sends a request over a connection of its own and reads the whole answer.
pub(crate) fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    finish(open(address, method, path, headers, body), "")
}

/// Sends the rest of a request, and reads the whole answer.
pub(crate) fn finish(mut stream: TcpStream, rest: &str) -> Answer {
    // Who has heard enough may answer before all of it was sent, and hang up.
    let _ = stream.write_all(rest.as_bytes());
    let mut raw = Vec::new();
    if let Err(error) = stream.read_to_end(&mut raw) {
        assert!(!raw.is_empty(), "the server answers: {error}");
    }
    let text = String::from_utf8_lossy(&raw);
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers.get("transfer-encoding").map(String::as_str) == Some("chunked");
    Answer {
        status: status
            .and_then(|status| status.parse().ok())
            .expect("an answer has a status"),
        body: if chunked {
            unchunked(body)
        } else {
            body.to_owned()
        },
        headers,
    }
}

fn unchunked(mut raw: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = raw.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a chunk has a length");
        if length == 0 {
            break;
        }
        text.push_str(&rest[..length]);
        raw = rest[length..].trim_start_matches("\r\n");
    }
    text
}

/// A line of the exposition format.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// The samples of a scrape.
pub(crate) fn samples(text: &str) -> Vec<Sample> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.strip_suffix('}').expect("labels are closed");
            Sample {
                name: name.to_owned(),
                labels: labels
                    .split_terminator("\",")
                    .map(|label| {
                        let (key, value) = label.split_once("=\"").expect("a label has a value");
                        (key.to_owned(), value.trim_end_matches('"').to_owned())
                    })
                    .collect(),
                value: value.parse().expect("a value is a number"),
            }
        })
        .collect()
}

pub(crate) fn sum(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let has = |sample: &Sample, (key, value): &(&str, &str)| {
        sample.labels.get(*key).is_some_and(|label| label == value)
    };
    samples
        .iter()
        .filter(|sample| sample.name == name && labels.iter().all(|label| has(sample, label)))
        .map(|sample| sample.value)
        .sum()
}
