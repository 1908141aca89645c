//! What is said to the Redis, and how its answers are read. Nothing that it says is believed without a look.

use std::pin::Pin;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, Pipeline, RedisError, RedisResult, Script, Value};

use super::link::Trouble;
use crate::admit::quota::Quota;

const BUCKET: &str = include_str!("gcra.lua");
const REPLICAS: &str = include_str!("replicas.lua");

/// How long a connection may take; nobody waits for it.
const CONNECTING: Duration = Duration::from_secs(1);
/// After so many seconds a replica that is not heard of is gone.
const GONE: u32 = 5;

/// What one bucket is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) digest: [u8; 16],
    pub(super) quota: Quota,
    /// As many as can be had, up to so many;
    pub(super) want: u32,
    /// or none, if there are fewer than this.
    pub(super) least: u32,
}

/// What one bucket gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) granted: u32,
    /// Microseconds until the next token is there; negative where more are there already.
    pub(super) next: i64,
}

/// What a round of questions brought.
pub(super) struct Replies {
    /// In the order of the questions.
    pub(super) buckets: Vec<Result<Reply, Trouble>>,
    /// How many replicas there are, if that was asked.
    pub(super) replicas: Option<Result<u32, Trouble>>,
}

/// How a connection is made.
pub(super) type Open = Box<dyn Fn(AsyncConnectionConfig) -> Opening + Send + Sync>;
type Opening = Pin<Box<dyn Future<Output = RedisResult<MultiplexedConnection>> + Send>>;

/// To a server, over TCP.
pub(super) fn to(client: redis::Client) -> Open {
    Box::new(move |config| {
        let client = client.clone();
        Box::pin(async move {
            client
                .get_multiplexed_async_connection_with_config(&config)
                .await
        })
    })
}

/// Where to ask, and as whom.
pub(super) struct Exchange {
    open: Open,
    /// What all keys of the fleet begin with.
    prefix: String,
    /// This replica.
    name: String,
    bucket: Script,
    replicas: Script,
}

impl Exchange {
    /// The address has been looked at: [`super::Fleet::problems`].
    pub(super) fn new(open: Open, namespace: &str, name: String) -> Self {
        Self {
            open,
            prefix: format!("callerid:{namespace}:"),
            name,
            bucket: Script::new(BUCKET),
            replicas: Script::new(REPLICAS),
        }
    }

    /// A connection.
    pub(super) fn connect(
        &self,
    ) -> impl Future<Output = Result<MultiplexedConnection, Trouble>> + Send + 'static {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTING))
            .set_response_timeout(None); // the budget of a round is ours
        let connecting = (self.open)(config);
        async move {
            match tokio::time::timeout(CONNECTING, connecting).await {
                Ok(made) => made.map_err(|error| trouble_of(&error)),
                Err(_) => Err(Trouble::Timeout),
            }
        }
    }

    /// Asks all in one pipeline; what the server has forgotten of our scripts it is told again.
    pub(super) async fn ask(
        &self,
        connection: &mut MultiplexedConnection,
        wants: &[Want],
        count: bool,
    ) -> Result<Replies, Trouble> {
        let mut values = self.send(connection, wants, count, false).await?;
        if values.iter().any(is_forgotten) {
            let forgotten = |at: usize| values.get(at).is_some_and(is_forgotten);
            let again = wants.iter().enumerate().filter(|(at, _)| forgotten(*at));
            let (places, again): (Vec<usize>, Vec<Want>) =
                again.map(|(at, want)| (at, *want)).unzip();
            let count = count && forgotten(wants.len());
            let told = self.send(connection, &again, count, true).await?;
            let places = places.into_iter().chain(count.then_some(wants.len()));
            for (at, value) in places.zip(told) {
                if let Some(place) = values.get_mut(at) {
                    *place = value;
                }
            }
        }
        let mut values = values.into_iter();
        let buckets = wants.iter().zip(&mut values);
        let buckets = buckets
            .map(|(want, value)| read_bucket(want, &value))
            .collect();
        let replicas = values.next().filter(|_| count);
        Ok(Replies {
            buckets,
            replicas: replicas.map(|value| read_count(&value)),
        })
    }

    async fn send(
        &self,
        connection: &mut MultiplexedConnection,
        wants: &[Want],
        count: bool,
        load: bool,
    ) -> Result<Vec<Value>, Trouble> {
        let mut pipe = Pipeline::with_capacity(wants.len() + 3);
        pipe.ignore_errors();
        if load {
            for text in [BUCKET, REPLICAS] {
                pipe.cmd("SCRIPT").arg("LOAD").arg(text).ignore();
            }
        }
        for want in wants {
            let micros = 1e6 / want.quota.rate();
            pipe.cmd("EVALSHA")
                .arg(self.bucket.get_hash())
                .arg(1)
                .arg(self.key(&want.digest))
                .arg(micros)
                .arg(want.quota.max_burst())
                .arg(want.want)
                .arg(want.least);
        }
        if count {
            pipe.cmd("EVALSHA")
                .arg(self.replicas.get_hash())
                .arg(1)
                .arg(self.key_of_replicas())
                .arg(&self.name)
                .arg(GONE);
        }
        let values: Vec<Value> = pipe
            .query_async(connection)
            .await
            .map_err(|error| trouble_of(&error))?;
        let asked = wants.len() + usize::from(count);
        (values.len() == asked)
            .then_some(values)
            .ok_or(Trouble::Protocol)
    }

    /// Says that this replica ends.
    pub(super) async fn leave(&self, connection: &mut MultiplexedConnection) {
        let mut leave = redis::cmd("ZREM");
        leave.arg(self.key_of_replicas()).arg(&self.name);
        // Where it fails, the others notice after a few seconds.
        let _: Result<Value, _> = leave.query_async(connection).await;
    }

    fn key(&self, digest: &[u8; 16]) -> String {
        format!("{}{:032x}", self.prefix, u128::from_be_bytes(*digest))
    }

    fn key_of_replicas(&self) -> String {
        format!("{}replicas", self.prefix)
    }
}

fn is_forgotten(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

fn read_bucket(want: &Want, value: &Value) -> Result<Reply, Trouble> {
    let fields = match value {
        Value::Array(fields) => fields.as_slice(),
        Value::ServerError(_) => return Err(Trouble::Script),
        _ => return Err(Trouble::Protocol),
    };
    let [Value::Int(granted), Value::Int(next)] = fields else {
        return Err(Trouble::Protocol);
    };
    let granted = u32::try_from(*granted).ok();
    let granted = granted.filter(|granted| *granted <= want.want);
    // No bucket takes longer to fill, but for the millionth of a token that the script forgives.
    let longest = 1e6 * f64::from(want.quota.max_burst()) / want.quota.rate();
    let longest = (longest * (1.0 + 1e-6)).ceil() as i64 + 2;
    match granted {
        Some(granted) if (-longest..=longest).contains(next) => Ok(Reply {
            granted,
            next: *next,
        }),
        _ => Err(Trouble::Protocol),
    }
}

impl Reply {
    /// How long until `tokens` are there, of this quota.
    pub(super) fn wait(&self, tokens: u32, quota: &Quota) -> Duration {
        let more = 1e6 * f64::from(tokens.saturating_sub(1)) / quota.rate();
        let micros = self.next.saturating_add(more.ceil() as i64);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

fn read_count(value: &Value) -> Result<u32, Trouble> {
    match value {
        Value::Int(count) => u32::try_from(*count).map_err(|_| Trouble::Protocol),
        Value::ServerError(_) => Err(Trouble::Script),
        _ => Err(Trouble::Protocol),
    }
}

fn trouble_of(error: &RedisError) -> Trouble {
    match error.kind() {
        _ if error.is_timeout() => Trouble::Timeout,
        ErrorKind::Server(_) | ErrorKind::Extension => Trouble::Script,
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Trouble::Protocol,
        _ => Trouble::Connect,
    }
}
