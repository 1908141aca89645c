//! What the kernel knows: processor time and memory.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The time on the wall.
#[allow(clippy::disallowed_methods, reason = "a bench measures time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Since `then`, on the wall.
#[allow(clippy::disallowed_methods, reason = "a bench measures time")]
pub fn since(then: Instant) -> Duration {
    then.elapsed()
}

/// Processor time of this thread: what it costs, without the time in which another process had the core.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Resident memory of this process, in bytes.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.trim().parse().ok());
    kib.unwrap_or(0_u64) * 1024
}

/// How often this thread lost its core to another, not having waited for anything.
pub fn preemptions() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// Processor time of all threads of a process.
pub fn process_time(pid: u32) -> Duration {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Duration::ZERO;
    };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|stat| {
            stat.split_whitespace()
                .next()
                .and_then(|nanos| nanos.parse().ok())
        })
        .map(Duration::from_nanos)
        .sum()
}

/// A setting of the allocator, for the environment. The cache that glibc keeps for each thread stops at 1,032 bytes, and
/// a map of ten headers has 1,040: whether a request then finds a chunk or has some merged is luck, worth a thousand
/// instructions in either direction. With a larger cache everybody finds one.
pub const CALM: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_max=8192");

/// Starts this program again with [`CALM`], unless it runs with it.
pub fn calm() {
    if std::env::var_os(CALM.0).is_none()
        && let Ok(this) = std::env::current_exe()
    {
        let error = Command::new(this)
            .args(std::env::args_os().skip(1))
            .env(CALM.0, CALM.1)
            .exec();
        eprintln!("cannot start again with {}={}: {error}", CALM.0, CALM.1);
    }
}

/// A Redis of the bench's own, which ends with it.
pub struct Redis {
    server: Child,
    port: u16,
}

impl Redis {
    /// Starts one, and waits until it listens.
    ///
    /// # Errors
    ///
    /// When there is no redis-server, or it does not listen within ten seconds.
    pub fn start() -> io::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no"]);
        let server = command.stdout(Stdio::null()).spawn()?;
        let redis = Self { server, port };
        let begun = now();
        loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(_) => return Ok(redis),
                Err(error) if since(begun) > Duration::from_secs(10) => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
