//! The text that all replicas share, read by somebody who is none of them.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisResult};
use tokio::sync::Mutex;

use super::board::{LARGEST, TOKEN, key};
use super::settings::Fleet;

/// For the connection, and for the answer.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Reader {
    client: redis::Client,
    key: String,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Reader {
    /// Everything that is wrong with the fleet, or who reads what it shares.
    pub(crate) fn new(fleet: &Fleet) -> Result<Self, Vec<String>> {
        let problems = fleet.problems();
        let url = fleet.redis.as_deref();
        let client = url.and_then(|url| redis::Client::open(url).ok());
        match client {
            Some(client) if problems.is_empty() => Ok(Self {
                client,
                key: key(fleet.namespace.as_deref().unwrap_or_default()),
                connection: Mutex::default(),
            }),
            None if problems.is_empty() => Err(vec!["fleet.redis: is missing".to_owned()]),
            _ => Err(problems),
        }
    }

    /// The text as it is now; empty where nobody has shared anything yet, and none where the Redis does not answer.
    pub(crate) async fn text(&self) -> Option<String> {
        let mut held = self.connection.lock().await;
        // A connection that was lost while nobody asked is made anew once.
        for _ in 0..2 {
            let fresh = held.is_none();
            if fresh {
                *held = self.connect().await;
            }
            let connection = held.as_mut()?;
            let mut ask = redis::cmd("GETRANGE");
            ask.arg(&self.key).arg(0).arg(LARGEST);
            let said: RedisResult<String> = ask.query_async(connection).await;
            match said {
                Ok(whole) => return Some(whole.get(TOKEN..).unwrap_or_default().to_owned()),
                Err(_) => *held = None,
            }
            if fresh {
                return None;
            }
        }
        None
    }

    async fn connect(&self) -> Option<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let connecting = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        // The timeout of the connection leaves the look-up of the name out.
        tokio::time::timeout(PATIENCE, connecting).await.ok()?.ok()
    }
}
