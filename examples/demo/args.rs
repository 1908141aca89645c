//! The command line.

use std::ffi::OsString;

use axum::http::Uri;

pub(crate) const USAGE: &str = "\
usage: demo [--listen ADDR] [--no-traffic] [--claimed] [--config FILE] [--redis URL] [--state FILE]
            [--alertmanager URL] [--webhook URL]

  --listen ADDR  where to listen; default 127.0.0.1:3000, port 0 picks a free one
  --no-traffic   serve only, without the simulated callers
  --claimed      the header x-client-id is only a claim, as without a gateway in front
  --config FILE  policies, as in callerid.toml; read again when the file changes
  --redis URL    where replicas share quotas; then every quota is counted over all of them, unless it says otherwise
  --state FILE   where incidents, pins and clamps are kept over a restart
  --alertmanager URL  pages people through this Alertmanager, such as http://127.0.0.1:9093 (see examples/notify)
  --webhook URL       pages people by a POST of JSON to this address";

/// What to do.
#[derive(PartialEq, Eq)]
pub(crate) enum Parsed {
    Run(Box<Args>),
    Help,
}

/// Not `Debug`: the address of a Redis may hold a password.
#[derive(PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) listen: String,
    pub(crate) no_traffic: bool,
    pub(crate) claimed: bool,
    pub(crate) config: Option<OsString>,
    pub(crate) redis: Option<String>,
    pub(crate) state: Option<OsString>,
    pub(crate) alertmanager: Option<Uri>,
    pub(crate) webhook: Option<Uri>,
}

impl Args {
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, String> {
        let mut parsed = Self {
            listen: "127.0.0.1:3000".to_owned(),
            no_traffic: false,
            claimed: false,
            config: None,
            redis: None,
            state: None,
            alertmanager: None,
            webhook: None,
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let arg = text(arg)?;
            let mut value = |flag: &str, inline: &Option<String>| match inline {
                Some(value) => Ok(value.clone()),
                None => args
                    .next()
                    .map(text)
                    .unwrap_or_else(|| Err(format!("{flag} needs a value"))),
            };
            let (flag, inline) = match arg.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (arg.as_str(), None),
            };
            match (flag, &inline) {
                ("--listen", _) => {
                    parsed.listen = address(value(flag, &inline).unwrap_or_default())?
                }
                ("--config", _) => parsed.config = Some(value(flag, &inline)?.into()),
                ("--state", _) => parsed.state = Some(value(flag, &inline)?.into()),
                ("--alertmanager", _) => {
                    let base = value(flag, &inline)?;
                    let alerts = format!("{}/api/v2/alerts", base.trim_end_matches('/'));
                    parsed.alertmanager = Some(url(flag, &alerts)?);
                }
                ("--webhook", _) => parsed.webhook = Some(url(flag, &value(flag, &inline)?)?),
                ("--redis", _) => parsed.redis = Some(value(flag, &inline)?),
                ("--no-traffic", None) => parsed.no_traffic = true,
                ("--claimed", None) => parsed.claimed = true,
                ("--help" | "-h", None) => return Ok(Parsed::Help),
                ("--no-traffic" | "--claimed" | "--help", Some(_)) => {
                    return Err(format!("{flag} takes no value"));
                }
                _ => return Err(format!("unknown argument {arg:?}")),
            }
        }
        Ok(Parsed::Run(Box::new(parsed)))
    }
}

fn text(arg: OsString) -> Result<String, String> {
    arg.into_string()
        .map_err(|arg| format!("argument {arg:?} is not UTF-8"))
}

fn address(value: String) -> Result<String, String> {
    let port = value.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(value),
        _ => Err(format!(
            "--listen {value:?} is not an address; use one such as 127.0.0.1:3000"
        )),
    }
}

fn url(flag: &str, value: &str) -> Result<Uri, String> {
    crate::pager::receiver(value).map_err(|problem| format!("{flag} {problem}"))
}
