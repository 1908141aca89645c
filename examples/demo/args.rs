//! The command line.

use std::ffi::OsString;

pub(crate) const USAGE: &str = "\
usage: demo [--listen ADDR] [--no-traffic] [--claimed]

  --listen ADDR  where to listen; default 127.0.0.1:3000, port 0 picks a free one
  --no-traffic   serve only, without the simulated callers
  --claimed      the header x-client-id is only a claim, as without a gateway in front";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    Run(Args),
    Help,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) listen: String,
    pub(crate) no_traffic: bool,
    pub(crate) claimed: bool,
}

impl Args {
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, String> {
        let mut parsed = Self {
            listen: "127.0.0.1:3000".to_owned(),
            no_traffic: false,
            claimed: false,
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let arg = text(arg)?;
            let (flag, inline) = match arg.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (arg.as_str(), None),
            };
            match (flag, &inline) {
                ("--listen", _) => {
                    let value = match inline {
                        Some(value) => value,
                        None => text(args.next().unwrap_or_default())?,
                    };
                    parsed.listen = address(value)?;
                }
                ("--no-traffic", None) => parsed.no_traffic = true,
                ("--claimed", None) => parsed.claimed = true,
                ("--help" | "-h", None) => return Ok(Parsed::Help),
                ("--config" | "--redis", _) => {
                    return Err(format!("{flag} needs a later version of callerid"));
                }
                ("--no-traffic" | "--claimed" | "--help", Some(_)) => {
                    return Err(format!("{flag} takes no value"));
                }
                _ => return Err(format!("unknown argument {arg:?}")),
            }
        }
        Ok(Parsed::Run(parsed))
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
