//! Routes that are counted apart and left alone: probes, the scrape, our own pages.

/// Paths of probes and of the scrape; a trailing `*` stands for any rest.
pub(crate) const DEFAULT: [&str; 6] = [
    "/healthz",
    "/livez",
    "/readyz",
    "/metrics",
    "/callerid/*",
    "/grpc.health.v1.Health/*",
];

#[derive(Clone, Debug)]
pub(crate) struct Exempt {
    exact: Vec<Box<str>>,
    prefixes: Vec<Box<str>>,
    /// For each byte that may follow the first slash, whether a pattern has it there: one look spares most
    /// requests all comparisons.
    second_byte: [bool; 256],
    /// Whether a pattern is so short that it has no second byte.
    any: bool,
}

impl Exempt {
    /// The paths that the patterns name, or the patterns that are none.
    pub(crate) fn new<S: AsRef<str>>(
        patterns: impl IntoIterator<Item = S>,
    ) -> Result<Self, Vec<String>> {
        let mut exempt = Self {
            exact: Vec::new(),
            prefixes: Vec::new(),
            second_byte: [false; 256],
            any: false,
        };
        let mut problems = Vec::new();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let (path, any_rest) = match pattern.strip_suffix('*') {
                Some(path) => (path, true),
                None => (pattern, false),
            };
            if !path.starts_with('/') || path.contains('*') {
                problems.push(format!(
                    "exempt: {pattern:?} is not a path; use `/healthz`, or `/internal/*` for everything below"
                ));
                continue;
            }
            match path.as_bytes().get(1) {
                Some(byte) => exempt.second_byte[usize::from(*byte)] = true,
                None => exempt.any = true,
            }
            if any_rest {
                exempt.prefixes.push(path.into());
            } else {
                exempt.exact.push(path.into());
            }
        }
        if problems.is_empty() {
            Ok(exempt)
        } else {
            Err(problems)
        }
    }

    #[inline]
    pub(crate) fn matches(&self, path: &str) -> bool {
        let may = path
            .as_bytes()
            .get(1)
            .is_some_and(|byte| self.second_byte[usize::from(*byte)]);
        (may || self.any) && self.compare(path)
    }

    fn compare(&self, path: &str) -> bool {
        self.exact.iter().any(|exact| **exact == *path)
            || self
                .prefixes
                .iter()
                .any(|prefix| path.as_bytes().starts_with(prefix.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_whole_or_by_prefix() {
        let exempt = Exempt::new(DEFAULT).unwrap();
        for path in [
            "/healthz",
            "/metrics",
            "/callerid/",
            "/callerid/top.txt",
            "/grpc.health.v1.Health/Check",
        ] {
            assert!(exempt.matches(path), "{path}");
        }
        for path in [
            "/",
            "/healthz/",
            "/healthzz",
            "/callerid",
            "/v1/healthz",
            "/HEALTHZ",
            "",
        ] {
            assert!(!exempt.matches(path), "{path}");
        }
    }

    #[test]
    fn the_root_can_be_exempt_and_so_can_everything() {
        let root = Exempt::new(["/"]).unwrap();
        assert!(root.matches("/") && !root.matches("/v1"));
        assert!(Exempt::new(["/*"]).unwrap().matches("/v1"));
    }

    #[test]
    fn what_is_no_path_is_said() {
        let problems = Exempt::new(["healthz", "/a/*/b", "/ok"]).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
