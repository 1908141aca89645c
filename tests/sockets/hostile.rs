//! Clients that mean harm, under limits: streams that are reset as soon as they are open, bodies that never come, heads
//! that are too large, connections that are cut in the middle of a refusal, answers that nobody waited for. At the end
//! nothing is held, and every request that entered was either let in or refused.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use callerid::clock::MonotonicClock;
use callerid::{Callers, Ceiling, Clock as _, Policy, Quota, identify};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::servers;

struct Attacked {
    callers: Callers,
    address: SocketAddr,
    runtime: tokio::runtime::Runtime,
    listening: usize,
}

/// A service with every limit there is, most of them soon reached.
fn attacked(default: Policy) -> Attacked {
    let callers = Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .default_policy(default)
        .ceiling(Ceiling::new(3).hard_max(6))
        .manual_tick()
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let address = runtime.block_on(servers::hyper(callers.layer()));
    let listening = runtime.metrics().num_alive_tasks();
    Attacked {
        callers,
        address,
        runtime,
        listening,
    }
}

fn limits() -> Policy {
    Policy::new()
        .quota(Quota::per_hour(1).burst(60))
        .max_in_flight(4)
        .max_streams(2)
}

impl Attacked {
    fn attack<T>(&self, attack: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(Duration::from_secs(30), attack).await };
        let done = self.runtime.block_on(limited);
        done.unwrap_or_else(|_| panic!("it hangs: {:#?}", self.callers.snapshot()))
    }

    /// Waits until every connection is over; then nothing is held, and everything is accounted for.
    fn survive(self) -> (u64, u64) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.runtime.metrics().num_alive_tasks() > self.listening {
            assert!(Instant::now() < deadline, "{:#?}", self.callers.snapshot());
            std::thread::sleep(Duration::from_millis(5));
            // Who was refused while it still sent is left alone for a moment.
            self.callers.tick(MonotonicClock::new().now());
        }
        drop(self.runtime);
        let snapshot = self.callers.snapshot();
        assert_eq!(snapshot.ceiling.as_ref().unwrap().in_flight, 0);
        for caller in &snapshot.callers {
            let counts = &caller.counts;
            let ended = counts.by_class.total() + counts.refused.total();
            assert_eq!(
                (counts.started, 0),
                (ended, counts.in_flight),
                "{}",
                caller.name
            );
        }
        let Some(bad) = snapshot.caller("bad") else {
            return (0, 0);
        };
        (bad.counts.by_class.total(), bad.counts.refused.total())
    }

    /// A good caller is served, before the connections of the bad one are over.
    async fn serves_others(&self) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = b"GET /ok HTTP/1.1\r\nhost: x\r\nx-client-id: good\r\nconnection: close\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block without tables or compression.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.extend([0, name.len() as u8]);
        block.extend(name.bytes());
        block.push(value.len() as u8);
        block.extend(value.bytes());
    }
    block
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes
}

fn request(path: &str) -> Vec<u8> {
    block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("x-client-id", "bad"),
    ])
}

#[test]
fn a_thousand_streams_of_which_each_is_reset_at_once_hold_nothing() {
    let attacked = attacked(limits());
    attacked.attack(async {
        for connection in 0..10 {
            let mut stream = TcpStream::connect(attacked.address).await.unwrap();
            let mut bytes = preface();
            let headers = request(if connection % 2 == 0 {
                "/hang"
            } else {
                "/stream"
            });
            for number in 0..1_000_u32 {
                let id = 2 * number + 1;
                bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &headers));
                bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
            }
            // Who has had enough hangs up.
            let _ = stream.write_all(&bytes).await;
            attacked.serves_others().await;
        }
    });
    let (_, _) = attacked.survive();
}

#[test]
fn a_thousand_streams_that_are_left_open_are_refused_but_for_a_few_and_end_with_their_connection() {
    let attacked = attacked(limits());
    attacked.attack(async {
        let mut stream = TcpStream::connect(attacked.address).await.unwrap();
        let mut bytes = preface();
        let headers = request("/hang");
        for number in 0..1_000_u32 {
            bytes.extend(frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                2 * number + 1,
                &headers,
            ));
        }
        let (mut read, mut write) = stream.split();
        let writing = async {
            let _ = write.write_all(&bytes).await;
        };
        let reading = async {
            let mut answers = vec![0; 65_536];
            let refused = || {
                let snapshot = attacked.callers.snapshot();
                snapshot
                    .caller("bad")
                    .map_or(0, |bad| bad.counts.refused.total())
            };
            // The server takes in two hundred at once, and resets what is beyond without asking us.
            while refused() < 100 {
                assert!(read.read(&mut answers).await.unwrap() > 0);
            }
        };
        tokio::join!(writing, reading);
        let bad = attacked.callers.snapshot();
        let bad = bad.caller("bad").unwrap();
        assert_eq!(bad.counts.in_flight, 3, "the ceiling");
        attacked.serves_others().await;
    });
    let (admitted, refused) = attacked.survive();
    assert_eq!(admitted, 3);
    assert!(refused >= 100, "{refused}");
}

#[test]
fn bodies_that_never_come_and_connections_that_are_cut_amid_a_refusal_hold_nothing() {
    let attacked = attacked(limits());
    let sent: u64 = attacked.attack(async {
        let mut open = Vec::new();
        for number in 0..200 {
            let mut stream = TcpStream::connect(attacked.address).await.unwrap();
            // Not "hang": hyper does not see who has gone while a handler leaves the body unread.
            let path = ["slow", "stream", "ok"][number % 3];
            let head = format!(
                "POST /{path} HTTP/1.1\r\nhost: x\r\nx-client-id: bad\r\ncontent-length: 1000\r\n\r\nx"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            match number % 4 {
                // A byte now and then, and never the last.
                0 | 1 => open.push(stream),
                2 => {
                    stream.set_zero_linger().unwrap();
                    drop(stream);
                }
                _ => {
                    // In the middle of the answer, if there is one.
                    let a_while = Duration::from_millis(20);
                    let _ = tokio::time::timeout(a_while, stream.read(&mut [0; 16])).await;
                    stream.set_zero_linger().unwrap();
                    drop(stream);
                }
            }
        }
        for stream in &mut open {
            let _ = stream.write_all(b"x").await;
        }
        attacked.serves_others().await;
        200
    });
    let (admitted, refused) = attacked.survive();
    // A connection that was cut at once may not have been read.
    assert!((sent - 50..=sent).contains(&(admitted + refused)));
    assert!(refused > 0);
}

#[test]
fn a_head_of_a_megabyte_is_no_request_and_harms_nobody() {
    let attacked = attacked(limits());
    attacked.attack(async {
        let long = "x".repeat(1 << 20);
        for field in ["x-client-id", "x-forwarded-for", "cookie"] {
            let mut stream = TcpStream::connect(attacked.address).await.unwrap();
            let head = format!("GET /ok HTTP/1.1\r\nhost: x\r\n{field}: {long}\r\n\r\n");
            // The server may hang up before it has read all.
            let _ = stream.write_all(head.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(!answer.starts_with(b"HTTP/1.1 200"), "{field}");
            attacked.serves_others().await;
        }
        // As much as the server lets through: it is a name that is too long, and no caller's.
        let long = "x".repeat(60_000);
        let mut stream = TcpStream::connect(attacked.address).await.unwrap();
        let head = format!(
            "GET /ok HTTP/1.1\r\nhost: x\r\nx-client-id: {long}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    });
    let snapshot = attacked.callers.snapshot();
    let names: Vec<_> = snapshot
        .callers
        .iter()
        .map(|caller| &*caller.name)
        .collect();
    assert_eq!(names, ["good", "__invalid__"]);
    assert_eq!(attacked.survive(), (0, 0));
}

#[test]
fn requests_that_are_sent_without_waiting_have_an_answer_each() {
    // A quota alone: those who are told to wait and do not lose their connection.
    let attacked = attacked(Policy::new().quota(Quota::per_hour(1).burst(60)));
    let statuses = attacked.attack(async {
        let mut statuses = Vec::new();
        for _ in 0..4 {
            let mut stream = TcpStream::connect(attacked.address).await.unwrap();
            let one = "GET /ok HTTP/1.1\r\nhost: x\r\nx-client-id: bad\r\n\r\n";
            let last =
                "GET /ok HTTP/1.1\r\nhost: x\r\nx-client-id: bad\r\nconnection: close\r\n\r\n";
            let all = one.repeat(49) + last;
            stream.write_all(all.as_bytes()).await.unwrap();
            let mut answers = Vec::new();
            stream.read_to_end(&mut answers).await.unwrap();
            let answers = String::from_utf8_lossy(&answers).into_owned();
            let mut lines = answers.split("HTTP/1.1 ").skip(1);
            statuses.extend(lines.by_ref().map(|answer| answer[..3].to_owned()));
        }
        statuses
    });
    let count = |status: &str| statuses.iter().filter(|is| *is == status).count() as u64;
    assert_eq!((count("200"), count("429")), (60, 140));
    assert_eq!(attacked.survive(), (60, 140));
}
