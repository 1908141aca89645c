//! Load balancers in front of replicas, with a bounded budget of connections, retries and outlier marking.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A balancer that runs until it is dropped.
pub(crate) struct Balancer {
    child: Child,
    directory: PathBuf,
    pub(crate) address: SocketAddr,
    stats: Option<SocketAddr>,
}

/// What HAProxy says of a replica.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) status: String,
    pub(crate) answered: u64,
    pub(crate) times_down: u64,
    pub(crate) retries: u64,
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}

impl Balancer {
    /// nginx that tries the next replica after an error, a timeout and 502 to 504, and takes one out for five
    /// seconds after three of them.
    pub(crate) fn nginx(replicas: &[SocketAddr]) -> Self {
        let address = free();
        let mut servers = String::new();
        for replica in replicas {
            let _ = writeln!(servers, "server {replica} max_fails=3 fail_timeout=5s;");
        }
        let text = format!(
            "daemon off;\nworker_processes 1;\npid nginx.pid;\nerror_log error.log warn;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\naccess_log off;\nclient_body_temp_path body;\nproxy_temp_path proxy;\n\
             fastcgi_temp_path fastcgi;\nuwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\n\
             upstream replicas {{\n{servers}keepalive 64;\n}}\n\
             server {{\nlisten {address};\nlocation / {{\nproxy_pass http://replicas;\nproxy_http_version 1.1;\n\
             proxy_set_header Connection \"\";\nproxy_connect_timeout 1s;\nproxy_read_timeout 2s;\n\
             proxy_next_upstream error timeout http_502 http_503 http_504;\n}}\n}}\n}}\n"
        );
        Self::start("nginx", &text, address, None, Self::run_nginx)
    }

    /// nginx with nothing but `proxy_pass`, and what else is said.
    pub(crate) fn plain_nginx(there: SocketAddr, more: &str) -> Self {
        let address = free();
        let text = format!(
            "daemon off;\nworker_processes 1;\npid nginx.pid;\nerror_log error.log warn;\n\
             events {{ worker_connections 64; }}\n\
             http {{\naccess_log off;\nclient_body_temp_path body;\nproxy_temp_path proxy;\n\
             fastcgi_temp_path fastcgi;\nuwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\n\
             server {{\nlisten {address};\nlocation / {{\nproxy_pass http://{there};\n{more}\n}}\n}}\n}}\n"
        );
        Self::start("nginx", &text, address, None, Self::run_nginx)
    }

    fn run_nginx(directory: &std::path::Path) -> Command {
        let mut command = Command::new("nginx");
        command
            .arg("-e")
            .arg("error.log")
            .arg("-c")
            .arg(directory.join("balancer.conf"));
        command.arg("-p").arg(directory);
        command
    }

    /// HAProxy with a budget of 64 connections to each replica, that tries again elsewhere after a 503, and takes a
    /// replica out after ten errors in a row until two of its checks have passed.
    pub(crate) fn haproxy(replicas: &[SocketAddr]) -> Self {
        let (address, stats) = (free(), free());
        let mut servers = String::new();
        for (number, replica) in replicas.iter().enumerate() {
            let _ = writeln!(
                servers,
                "  server r{number} {replica} maxconn 64 check inter 1s fall 3 rise 2 observe layer7 error-limit 10 on-error mark-down"
            );
        }
        let text = format!(
            "global\n  maxconn 2000\n\
             defaults\n  mode http\n  timeout connect 1s\n  timeout client 10s\n  timeout server 2s\n  timeout queue 1s\n\
             \x20 retries 2\n  retry-on conn-failure empty-response response-timeout 503\n  option redispatch\n\
             frontend in\n  bind {address}\n  default_backend replicas\n\
             frontend stats\n  bind {stats}\n  stats enable\n  stats uri /\n\
             backend replicas\n  balance roundrobin\n  option httpchk GET /healthz\n{servers}"
        );
        Self::start("haproxy", &text, address, Some(stats), |directory| {
            let mut command = Command::new("haproxy");
            command
                .arg("-db")
                .arg("-q")
                .arg("-f")
                .arg(directory.join("balancer.conf"));
            command
        })
    }

    fn start(
        program: &str,
        text: &str,
        address: SocketAddr,
        stats: Option<SocketAddr>,
        command: impl FnOnce(&std::path::Path) -> Command,
    ) -> Self {
        let name = format!(
            "callerid-{program}-{}-{}",
            std::process::id(),
            address.port()
        );
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        std::fs::write(directory.join("balancer.conf"), text).expect("a file");
        let said = std::fs::File::create(directory.join("said.log")).expect("a file");
        // Both live in /usr/sbin, which is not on everybody's path.
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let child = command(&directory)
            .env("PATH", path)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; `tests/run` installs it"));
        let mut balancer = Self {
            child,
            directory,
            address,
            stats,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        for address in std::iter::once(address).chain(stats) {
            while std::net::TcpStream::connect(address).is_err() {
                let ended = balancer.child.try_wait().expect("it is ours");
                assert!(
                    ended.is_none() && Instant::now() < deadline,
                    "{program} does not start: {}",
                    balancer.log()
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        balancer
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        let read = |name| std::fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        read("said.log") + &read("error.log")
    }

    /// HAProxy's own counts of each replica.
    pub(crate) fn replicas(&self) -> Vec<Replica> {
        use std::io::{Read, Write};
        let address = self.stats.expect("HAProxy has statistics");
        let mut stream = std::net::TcpStream::connect(address).expect("it answers");
        stream
            .write_all(b"GET /;csv HTTP/1.0\r\n\r\n")
            .expect("it reads");
        let mut page = String::new();
        stream
            .read_to_string(&mut page)
            .expect("it answers in text");
        let mut lines = page.lines().skip_while(|line| !line.starts_with("# "));
        let names: Vec<_> = lines
            .next()
            .unwrap_or_default()
            .trim_start_matches("# ")
            .split(',')
            .collect();
        let rows = lines.map(|line| line.split(',').collect::<Vec<_>>());
        let field = |row: &[&str], name| {
            let at = names
                .iter()
                .position(|known| *known == name)
                .expect("HAProxy has this field");
            row.get(at).copied().unwrap_or_default().to_owned()
        };
        let number = |row: &[&str], name| field(row, name).parse().unwrap_or(0);
        rows.filter(|row| {
            row.first() == Some(&"replicas") && row.get(1).is_some_and(|name| name.starts_with('r'))
        })
        .map(|row| Replica {
            status: field(&row, "status"),
            answered: number(&row, "hrsp_2xx")
                + number(&row, "hrsp_4xx")
                + number(&row, "hrsp_5xx"),
            times_down: number(&row, "chkdown"),
            retries: number(&row, "wretr") + number(&row, "wredis"),
        })
        .collect()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // Asked to end, nginx ends its workers too.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
