//! What is said where a feature is missing.

#[cfg(test)]
mod tests {
    use callerid::Callers;

    /// Everything that is wrong with a file.
    fn problems(name: &str, text: &str) -> Vec<String> {
        let name = format!("callerid-features-{name}-{}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        let read = Callers::builder().config(&path);
        std::fs::remove_file(&path).unwrap();
        let problems = read.err().map(|error| {
            let problems = error.problems().map(str::to_owned);
            problems.collect()
        });
        problems.unwrap_or_default()
    }

    const NEEDED: &str =
        "fleet: needs the feature `redis` of callerid; build with it, or leave the table out";

    #[test]
    fn a_fleet_without_the_feature_is_an_error_with_its_path_and_its_remedy() {
        let fleet = "[fleet]\nnamespace = \"x\"\nredis = \"redis://localhost\"\n";
        assert_eq!(problems("alone", fleet), [NEEDED]);
    }

    #[test]
    fn it_is_said_together_with_all_else() {
        let text = "[default]\nscope = \"fleet\"\nquota = \"1/fortnight\"\n\
                    [fleet]\nmode = \"lent\"\nredis = \"redis://:hunter2@localhost\"\ncolour = 1\n";
        assert_eq!(
            problems("all", text),
            [
                "default.quota: \"1/fortnight\" is not a rate; use N/s, N/min or N/h",
                "default.scope: \"fleet\" needs [fleet] and the feature `redis` of callerid; use \"instance\"",
                "fleet.colour: is not a field; use one of mode, namespace, on_failure, redis, replicas",
                "fleet.mode: \"lent\" is none of leased, strict, local",
                "fleet.redis: holds a password; put the address into the environment: { env = \"REDIS_URL\" }",
                NEEDED,
            ]
        );
    }

    #[test]
    fn a_file_without_a_fleet_needs_no_feature() {
        assert!(problems("none", "[default]\nscope = \"instance\"\n").is_empty());
    }
}
