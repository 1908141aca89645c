//! A Redis that a test starts, stops and misuses.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::programs::{Running, until};

/// A server on a port of its own, which it gets again when it is started again.
pub(crate) struct Redis {
    pub(crate) port: u16,
    folder: PathBuf,
    more: Vec<String>,
    running: Option<Running>,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let mut redis = Self::reserved(&[]);
        redis.run();
        redis
    }

    /// A port on which nothing listens yet.
    pub(crate) fn reserved(more: &[&str]) -> Self {
        // Below those that connections go out from: nobody takes it before the server does, or while it is down.
        let port = std::iter::repeat_with(|| fastrand::u16(10_000..32_000))
            .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
            .unwrap();
        let folder =
            std::env::temp_dir().join(format!("callerid-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            port,
            folder,
            more: more.iter().map(|&arg| arg.to_owned()).collect(),
            running: None,
        }
    }

    pub(crate) fn run(&mut self) {
        let mut server = Command::new("redis-server");
        server
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(&self.folder)
            .args(&self.more)
            .stdin(Stdio::null());
        self.running = Some(Running::start(&mut server));
        until("the Redis listens", || {
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn signal(&self, name: &str) {
        self.running.as_ref().unwrap().signal(name);
    }

    pub(crate) fn kill(&mut self) {
        self.running = None; // SIGKILL, and waited for
    }

    /// What kills it from another thread.
    pub(crate) fn killer(&self) -> impl Fn() + Send + Sync + 'static {
        let id = self.running.as_ref().unwrap().id();
        move || {
            let kill = format!("kill -KILL {id}");
            assert!(
                Command::new("sh")
                    .args(["-c", &kill])
                    .status()
                    .unwrap()
                    .success()
            );
        }
    }

    /// What the server says to a command: the text of its reply, one line for each element.
    pub(crate) fn say(&self, words: &[&str]) -> Vec<String> {
        self.say_all(&[words])
    }

    /// The same to one command after the other, over one connection.
    pub(crate) fn say_all(&self, commands: &[&[&str]]) -> Vec<String> {
        let mut connection = self.connection();
        let said = commands.iter().map(|words| connection.say(words));
        said.flatten().collect()
    }

    pub(crate) fn connection(&self) -> Connection {
        Connection::new(self.port)
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.say(&["KEYS", "*"])
    }

    /// The keys of buckets.
    pub(crate) fn buckets(&self) -> Vec<String> {
        let keys = self.keys().into_iter();
        keys.filter(|key| !key.ends_with(":replicas") && !key.ends_with(":shared"))
            .collect()
    }
}

/// A connection that stays.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    fn new(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn say(&mut self, words: &[&str]) -> Vec<String> {
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            write!(command, "${}\r\n{word}\r\n", word.len()).unwrap();
        }
        self.0.get_mut().write_all(command.as_bytes()).unwrap();
        read(&mut self.0)
    }
}

/// How often the server of this port was given a command.
pub(crate) fn calls(port: u16, command: &str) -> usize {
    let stats = Connection::new(port)
        .say(&["INFO", "commandstats"])
        .join("\n");
    let prefix = format!("cmdstat_{command}:calls=");
    let calls = stats.lines().find_map(|line| line.strip_prefix(&prefix));
    let calls = calls.and_then(|rest| rest.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

fn read(from: &mut impl BufRead) -> Vec<String> {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    let (kind, rest) = line.trim_end().split_at(1);
    match kind {
        "*" => {
            let count: usize = rest.parse().unwrap();
            (0..count).flat_map(|_| read(from)).collect()
        }
        "$" if rest == "-1" => Vec::new(),
        "$" => {
            let mut text = vec![0; rest.parse::<usize>().unwrap() + 2];
            from.read_exact(&mut text).unwrap();
            vec![String::from_utf8_lossy(&text[..text.len() - 2]).into_owned()]
        }
        _ => vec![rest.to_owned()],
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.running = None;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
