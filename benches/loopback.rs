//! End to end: an axum server in a process of its own, 64 connections that are kept alive, and the server's processor
//! time per request, bare, with callerid, and with what people install today.
//!
//! ```text
//! cargo bench --all-features --bench loopback
//! cargo bench --all-features --bench loopback -- --quick
//! ```
//!
//! The bench starts itself once for each server; the load comes from this process. Rounds are interleaved, and each
//! is compared with the bare one beside it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

use crate::support::contenders::{Kind, routed};
use crate::support::figures::{median, quick, spread, verdict};
use crate::support::proc::{calm, now, process_time, since};
use crate::support::{builder, install_recorder};

mod support;

const CONNECTIONS: usize = 64;
const KINDS: [Kind; 5] = [
    Kind::Bare,
    Kind::Callerid,
    Kind::Trace,
    Kind::Governor,
    Kind::Stack,
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--serve") {
        let kind = args
            .get(at + 1)
            .and_then(|kind| kind.parse().ok())
            .and_then(|kind: usize| KINDS.get(kind));
        return kind.map_or(ExitCode::FAILURE, |kind| serve(*kind));
    }
    calm();
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loopback: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The server: one thread, and callerid's.
fn serve(kind: Kind) -> ExitCode {
    let exporter = install_recorder();
    let callers = builder().build().expect("valid settings");
    let app = routed(kind, &callers).route("/metrics", get(async move || exporter.render()));
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        println!("{address}");
        // The parent keeps our standard input open: when it ends, so do we.
        std::thread::spawn(|| {
            let _ = std::io::stdin().lines().count();
            std::process::exit(0);
        });
        let _ = std::io::stdout().flush();
        axum::serve(listener, app).await.expect("the server serves");
    });
    ExitCode::SUCCESS
}

struct Server {
    child: Child,
    connections: Vec<TcpStream>,
    address: String,
}

impl Server {
    async fn start(at: usize) -> std::io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--serve", &at.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        let mut address = String::new();
        BufReader::new(stdout).read_line(&mut address)?;
        let address = address.trim().to_owned();
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let connection = TcpStream::connect(&address).await?;
            connection.set_nodelay(true)?;
            connections.push(connection);
        }
        Ok(Self {
            child,
            connections,
            address,
        })
    }

    /// Sends `each` requests over every connection; returns the latencies.
    async fn round(&mut self, each: usize) -> std::io::Result<Vec<Duration>> {
        let tasks: Vec<_> = self
            .connections
            .drain(..)
            .enumerate()
            .map(|(client, connection)| tokio::spawn(converse(connection, client, each)))
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            let (connection, taken) = task.await??;
            self.connections.push(connection);
            latencies.extend(taken);
        }
        Ok(latencies)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn converse(
    mut connection: TcpStream,
    client: usize,
    each: usize,
) -> std::io::Result<(TcpStream, Vec<Duration>)> {
    let request = format!(
        "GET /v1/prices/ABC HTTP/1.1\r\nhost: prices.example\r\nuser-agent: checkout/2.31 (linux; x86_64)\r\n\
         accept: application/json\r\naccept-encoding: gzip, br\r\naccept-language: en\r\n\
         authorization: Bearer eyJhbGciOiJFUzI1NiJ9.e30.c2lnbmF0dXJl\r\ncache-control: no-cache\r\n\
         x-request-id: 4bf92f35-77b3-4da6-a3ce-929d0e0e4736\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nx-client-id: client-{client:05}\r\n\r\n"
    );
    let mut answer = [0; 1024];
    let mut latencies = Vec::with_capacity(each);
    for _ in 0..each {
        let begun = now();
        connection.write_all(request.as_bytes()).await?;
        let mut read = 0;
        // The answer ends with the brace of its body.
        while read == 0 || answer.get(read - 1) != Some(&b'}') {
            let more = connection
                .read(answer.get_mut(read..).unwrap_or_default())
                .await?;
            if more == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            read += more;
        }
        if !answer.starts_with(b"HTTP/1.1 200") {
            return Err(std::io::Error::other("the server refuses"));
        }
        latencies.push(since(begun));
    }
    Ok((connection, latencies))
}

fn measure() -> std::io::Result<()> {
    let (rounds, each) = if quick() { (3, 50) } else { (31, 200) };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut servers = Vec::new();
        for at in 0..KINDS.len() {
            let mut server = Server::start(at).await?;
            server.round(100).await?;
            servers.push(server);
        }
        let mut costs = vec![Vec::new(); KINDS.len()];
        let mut over = vec![Vec::new(); KINDS.len()];
        let mut middles = vec![Vec::new(); KINDS.len()];
        for round in 0..rounds {
            let mut cost = [0.0; KINDS.len()];
            for turn in 0..KINDS.len() {
                let at = (turn + round) % KINDS.len();
                let server = &mut servers[at];
                let pid = server.child.id();
                let begun = process_time(pid);
                let latencies = server.round(each).await?;
                // The thread `callerid` is part of it.
                let spent = process_time(pid) - begun;
                cost[at] = spent.as_secs_f64() * 1e6 / latencies.len() as f64;
                let mut micros: Vec<_> = latencies
                    .iter()
                    .map(|time| time.as_secs_f64() * 1e6)
                    .collect();
                middles[at].push(median(&mut micros));
            }
            for at in 0..KINDS.len() {
                costs[at].push(cost[at]);
                over[at].push(cost[at] / cost[0] - 1.0);
            }
            // A scrape now and then, outside of what is measured, so that samples do not pile up.
            for server in &servers {
                let mut scrape = TcpStream::connect(&server.address).await?;
                scrape
                    .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    .await?;
                scrape.read_to_end(&mut Vec::new()).await?;
            }
        }
        println!(
            "axum over loopback, {CONNECTIONS} connections, medians of {rounds} interleaved rounds"
        );
        println!(
            "  {:<24} {:>16} {:>10} {:>6} {:>9}",
            "", "CPU/request, us", "over bare", "+-%", "p50, us"
        );
        for (at, kind) in KINDS.into_iter().enumerate() {
            let (cost, noise) = spread(&mut costs[at]);
            let (share, middle) = (median(&mut over[at]) * 100.0, median(&mut middles[at]));
            println!(
                "  {:<24} {cost:>16.2} {share:>+9.1}% {noise:>6.1} {middle:>9.0}",
                kind.name()
            );
        }
        verdict(
            "CPU time over bare axum, %",
            median(&mut over[1]) * 100.0,
            8.0,
            15.0,
            "",
            false,
        );
        Ok(())
    })
}
