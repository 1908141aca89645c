//! What is said of mistakes in `callerid.toml`.

use callerid::clock::ManualClock;

use crate::support::{File, START, builder};

fn problems(text: &str) -> Vec<String> {
    let clock = ManualClock::at(START);
    let file = File::new(text);
    match builder(&clock).config(&file.0) {
        Err(error) => error.problems().map(str::to_owned).collect(),
        // What another file might still have mended.
        Ok(builder) => builder.build().err().map_or_else(Vec::new, |error| {
            error.problems().map(str::to_owned).collect()
        }),
    }
}

#[test]
fn every_mistake_has_its_path_and_its_remedy() {
    for (text, problem) in [
        (
            "[caller.checkout]\nquota = \"10/fortnight\"",
            "caller.checkout.quota: \"10/fortnight\" is not a rate; use N/s, N/min or N/h",
        ),
        (
            "[default]\nquota = 500",
            "default.quota: 500 is not a text; put it in quotes",
        ),
        (
            "[default]\nquota = \"0/s\"",
            "default.quota: \"0/s, burst 1\" lets nothing through; use `block = true`, or leave the quota out",
        ),
        (
            "[default]\nquota = \"1/s\"\nburst = -5",
            "default.burst: -5 is not a whole number; use 1 to 4294967295",
        ),
        (
            "[default]\nburst = 0",
            "default.burst: 0 lets nothing through; use 1 or more",
        ),
        (
            "[default]\nquota = \"1/h\"\nburst = 4000000000",
            "default.burst: \"1/h, burst 4000000000\" takes longer than a year to fill; use a smaller burst",
        ),
        (
            "[default]\nmax_in_flight = 0",
            "default.max_in_flight: 0 lets nothing through; use 1 or more",
        ),
        (
            "[default]\nmax_streams = 0",
            "default.max_streams: 0 lets nothing through; use 1 or more",
        ),
        (
            "[tier.a]\nweight = 0",
            "tier.a.weight: is not a weight; use a number above 0, at most 1000",
        ),
        (
            "[tier.a]\nweight = \"2\"",
            "tier.a.weight: \"2\" is not a number",
        ),
        (
            "[default]\nmode = \"off\"",
            "default.mode: \"off\" is none of enforce, shadow",
        ),
        (
            "mode = \"on\"",
            "mode: \"on\" is not a mode; use off, observe, shadow or enforce",
        ),
        (
            "[default]\nscope = \"fleet\"",
            "default.scope: \"fleet\" needs [fleet]; add it with a namespace, or use \"instance\"",
        ),
        (
            "[default]\ntotal = \"1/s\"",
            "default.total: is not a field; use one of allow, block, block_until, burst, cost, max_in_flight, max_streams, mode, quota, route, scope, weight",
        ),
        (
            "[default]\nallow = 1",
            "default.allow: 1 is not true or false",
        ),
        (
            "[default]\nquota = \"2/s\"\ncost.\"POST /x\" = 3",
            "default",
        ),
        (
            "[caller.a]\nquota = \"2/s\"\ncost.\"POST /x\" = 3",
            "caller.a.cost.\"POST /x\": 3 is above the burst of \"2/s, burst 2\"; use a burst of 3 or more",
        ),
        (
            "[caller.a]\ncost.\"POST /x\" = 0",
            "caller.a.cost.\"POST /x\": 0 is not a cost; use 1 or more",
        ),
        (
            "[caller.a]\ncost.\"POST /x\" = \"5\"",
            "caller.a.cost.\"POST /x\": \"5\" is not a whole number; use 1 to 4294967295",
        ),
        (
            "[caller.a]\ncost.\"orders\" = 2",
            "caller.a.cost.\"orders\": is not a route; use a method and a template, such as \"GET /v1/prices/{sku}\"",
        ),
        (
            "[caller.a]\nroute.\"GET /x\".quota = \"1\"",
            "caller.a.route.\"GET /x\".quota: \"1\" is not a rate; use N/s, N/min or N/h",
        ),
        (
            "[caller.a]\nroute.\"GET /x\".burst = 0",
            "caller.a.route.\"GET /x\".burst: 0 lets nothing through; use 1 or more",
        ),
        (
            "[caller.a]\ntier = \"gold\"",
            "caller.a.tier: there is no tier \"gold\"; add [tier.gold]",
        ),
        (
            "[caller.a]\nblock_until = \"2020-01-01T00:00:00Z\"",
            "caller.a.block_until: is in the past; use a later time, or leave it out",
        ),
        (
            "[caller.a]\nblock_until = \"soon\"",
            "caller.a.block_until: \"soon\" is not a time; use one such as \"2026-12-01T00:00:00Z\"",
        ),
        (
            "[caller.a]\nblock = true\nblock_until = \"2030-01-01T00:00:00Z\"",
            "caller.a.block: has an end in `block_until`; leave one of the two out",
        ),
        (
            "[caller.a]\nexpect = { factor = 2, until = \"2020-01-01T00:00:00Z\" }",
            "caller.a.expect.until: is in the past; use a later time, or leave `expect` out",
        ),
        (
            "[caller.a]\nexpect = { factor = 2 }",
            "caller.a.expect.until: is missing; what is expected has an end",
        ),
        (
            "[on_runaway]\nmode = \"shadow\"",
            "on_runaway.clamp: is missing; say how many times the caller's own baseline",
        ),
        (
            "[caller.a]\nroute.\"GET /x\".burst = 5",
            "caller.a.route.\"GET /x\".burst: there is no quota for this route; add `quota` beside it",
        ),
        (
            "[caller.a]\nroute.\"GET /x\" = { quota = \"1/h\", burst = 4000000000 }",
            "caller.a.route.\"GET /x\".burst: \"1/h, burst 4000000000\" takes longer than a year to fill; use a smaller burst",
        ),
        (
            "[tier.t]\nroute.\"GET /x\".quota = \"1/h\"\n[caller.a]\ntier = \"t\"\nroute.\"GET /x\".burst = 4000000000",
            "caller.a.route.\"GET /x\".burst: \"1/h, burst 4000000000\" takes longer than a year to fill; use a smaller burst",
        ),
        (
            "[provenance.claimed]\ntotal = \"2/s\"\ncost.\"POST /x\" = 3",
            "provenance.claimed.cost.\"POST /x\": 3 is above the burst of total \"2/s, burst 2\"; use a burst of 3 or more",
        ),
        (
            "[caller.\"a.b\"]\ntier = \"c.d\"",
            "caller.\"a.b\".tier: there is no tier \"c.d\"; add [tier.\"c.d\"]",
        ),
        (
            "[ceiling]\nmax_in_flight = 9\nadaptive = { min = 5, max = 2 }",
            "ceiling.adaptive.max: is below adaptive.min; use at least as much",
        ),
        (
            "[ceiling]\nmax_in_flight = 9\nadaptive = { min = 0, max = 2 }",
            "ceiling.adaptive.min: 0 lets nothing through; use 1 or more",
        ),
        (
            "[ceiling]\nmax_in_flight = 9\nadaptive = { min = 5 }",
            "ceiling.adaptive.max: is missing; an adaptive ceiling has a least and a most",
        ),
        (
            "[ceiling]\nmax_in_flight = 9\nadaptive = { min = 5, max = 9, mode = \"enforce\" }",
            "ceiling.adaptive.mode: \"enforce\" is not offered",
        ),
        (
            "[caller.a]\nexpect = { factor = 0.5 }",
            "caller.a.expect.factor: is not a factor; use 1 or more",
        ),
        (
            "[caller.a]\naccept = \"all\"",
            "caller.a.accept: \"all\" is none of claimed, verified",
        ),
        (
            "[caller.a]\napi_key = [{ id = \"k\", sha256 = \"abc\" }]",
            "caller.a.api_key \"k\": not a SHA-256 hash; use 64 hexadecimal digits",
        ),
        (
            "[caller.a]\napi_key = [{ id = \"k\" }]",
            "caller.a.api_key: [0] needs an `id` and a `sha256`",
        ),
        (
            "[caller.a]\napi_key = [\"k\"]",
            "caller.a.api_key: [0] is not a table; use { id = \"..\", sha256 = \"..\" }",
        ),
        ("[caller.\"ip:1\"]", "caller.ip:1: not a name"),
        ("[caller]\na = 1", "caller.a: is not a table"),
        (
            "[caller.a]\nqouta = \"1/s\"",
            "caller.a.qouta: is not a field; use one of accept, ",
        ),
        (
            "[ceiling]\nmode = \"shadow\"",
            "ceiling.max_in_flight: is missing; say how many requests the service takes in at once",
        ),
        (
            "[ceiling]\nmax_in_flight = 0",
            "ceiling.max_in_flight: 0 lets nothing through; use 1 or more",
        ),
        (
            "[ceiling]\nmax_in_flight = 10\nhard_max = 5",
            "ceiling.hard_max: is below max_in_flight; use at least as much",
        ),
        (
            "[on_runaway]\nclamp = 0.5",
            "on_runaway.clamp: is not a factor; use 1 or more, times the caller's own baseline",
        ),
        (
            "[provenance.proven]\nquota = \"1/s\"",
            "provenance.proven: is not a field; use one of claimed, inferred, unknown, verified",
        ),
        (
            "[provenance.claimed]\nscope = \"fleet\"\n[default]\nquota = \"2\"",
            "provenance.claimed.scope: \"fleet\" needs [fleet]; add it with a namespace, or use \"instance\"",
        ),
        (
            "[fleet]\nredis = \"redis://h\"",
            "fleet.namespace: is missing; name the service and its environment, such as \"prices-prod\"",
        ),
        (
            "[fleet]\nnamespace = \"prices prod\"",
            "fleet.namespace: \"prices prod\" is not a name; use 1 to 64 letters, digits, `-`, `_` and `.`",
        ),
        (
            "[fleet]\nnamespace = \"x\"",
            "fleet.redis: is missing; use { env = \"REDIS_URL\" } or \"redis://host:6379\"",
        ),
        (
            "[fleet]\nnamespace = \"x\"\nredis = { env = \"CALLERID_NO_SUCH_VARIABLE\" }",
            "fleet.redis: CALLERID_NO_SUCH_VARIABLE is not set; put the address into the environment",
        ),
        (
            "[fleet]\nnamespace = \"x\"\nredis = { env = \"redis://u:hunter2@h\" }",
            "fleet.redis: env is not the name of a variable; use one such as { env = \"REDIS_URL\" }",
        ),
        (
            "[fleet]\nnamespace = \"x\"\nredis = \"hidden words\"",
            "fleet.redis: is not an address; use one such as redis://host:6379, in { env = \"REDIS_URL\" } where it has a password",
        ),
        (
            "[fleet]\nnamespace = \"x\"\nredis = \"redis+unix:///s?pass=secret\"",
            "fleet.redis: holds a password; put the address into the environment: { env = \"REDIS_URL\" }",
        ),
        (
            "[fleet]\nnamespace = \"x\"\nmode = \"local\"",
            "fleet.replicas: is missing; without a Redis replicas cannot count each other",
        ),
        (
            "[fleet]\nnamespace = \"x\"\nredis = \"redis://h\"\nreplicas = 0",
            "fleet.replicas: 0 is not a number of replicas; use 1 or more",
        ),
        (
            "[fleet]\nmode = \"best\"",
            "fleet.mode: \"best\" is none of leased, strict, local",
        ),
        (
            "[fleet]\nredis = \"redis://u:secret@h\"",
            "fleet.redis: holds a password; put the address into the environment: { env = \"REDIS_URL\" }",
        ),
        (
            "exempt = [\"healthz\"]",
            "exempt: \"healthz\" is not a path",
        ),
        ("exempt = [1]", "exempt: 1 is not a path; put it in quotes"),
        (
            "limits = 1",
            "limits: is not a field; use one of caller, ceiling, default, exempt, fleet, mode, on_runaway, provenance, tier",
        ),
    ] {
        let said = problems(text);
        assert!(
            said.iter().any(|said| said.starts_with(problem)),
            "{text}\nwanted {problem}\nsaid {said:#?}"
        );
    }
}

#[test]
fn all_mistakes_are_said_at_once() {
    let said = problems(
        "mode = 1\n[default]\nquota = \"x\"\nburst = 0\n[caller.a]\nblok = true\n[fleet]\n",
    );
    assert_eq!(said.len(), 6, "{said:#?}");
    let said = problems("[fleet]\nredis = \"redis://:secret@h\"\n");
    assert_eq!(said.len(), 2, "{said:#?}");
}

#[test]
fn what_is_no_toml_is_said_with_its_line_and_without_its_text() {
    let said = problems("mode = \"enforce\"\n[caller.a]\nowner = hunter2\n");
    assert!(said[0].contains("line 3"), "{said:?}");
    assert!(!said[0].contains("hunter2"), "{said:?}");
}

#[test]
fn what_is_there_twice_is_said_with_its_line_its_name_and_the_remedy() {
    for (text, said) in [
        (
            "[caller.a]\nowner = \"x\"\n[caller.a]\nowner = \"y\"\n",
            "line 3: caller.a is",
        ),
        (
            "caller.a.owner = \"x\"\n [caller.\"a\"] # again\n",
            "line 2: caller.\"a\" is",
        ),
        (
            "[caller.a]\nowner = \"x\"\nowner = \"hunter2\"\n",
            "line 3: owner is",
        ),
    ] {
        let problems = problems(text);
        let said = format!("{said} there twice; write all that it says in one place");
        assert!(problems[0].ends_with(&said), "{problems:?}");
        assert_eq!(problems.len(), 1);
    }
}

#[test]
fn every_kind_of_bad_input_is_said_at_once() {
    let said = problems(
        r#"
[default]
quota = "10/fortnight"
burst = -5
[caller.batch]
quota = "2/s"
cost."POST /v1/orders" = 3
[caller.checkout]
tier = "gold"
max_in_flight = 0
block_until = "2020-01-01T00:00:00Z"
[fleet]
namespace = "prices-prod"
redis = "redis://:hunter2@redis:6379"
"#,
    );
    let wanted = [
        "caller.batch.cost.\"POST /v1/orders\": 3 is above the burst of \"2/s, burst 2\"; use a burst of 3 or more",
        "caller.checkout.block_until: is in the past; use a later time, or leave it out",
        "caller.checkout.max_in_flight: 0 lets nothing through; use 1 or more",
        "caller.checkout.tier: there is no tier \"gold\"; add [tier.gold]",
        "default.burst: -5 is not a whole number; use 1 to 4294967295",
        "default.quota: \"10/fortnight\" is not a rate; use N/s, N/min or N/h",
        "fleet.redis: holds a password; put the address into the environment: { env = \"REDIS_URL\" }",
    ];
    assert_eq!(said, wanted);
}

#[test]
fn trap_17_a_key_in_clear_is_never_repeated() {
    for text in [
        "[caller.a]\napi_key = \"s3cret\"",
        "[caller.a]\napi_key = [\"s3cret\"]",
        "[caller.a]\napi_key = [{ id = \"k\", sha256 = \"s3cret\" }]",
    ] {
        let said = problems(text).join(" ");
        assert!(!said.is_empty() && !said.contains("s3cret"), "{said}");
    }
}

#[test]
fn mistakes_of_several_files_are_said_together_and_what_another_file_mends_is_none() {
    let clock = ManualClock::at(START);
    let roster = File::new("[caller.a]\ntier = \"batch\"\n");
    let service = File::new("[tier.batch]\nquota = \"5/s\"\n");
    let read = |files: &[&File]| {
        let config = |builder: callerid::Builder, file: &&File| builder.config(&file.0).unwrap();
        files.iter().fold(builder(&clock), config).build()
    };
    assert!(read(&[&roster, &service]).is_ok());
    let callers = read(&[&service, &roster]).unwrap();
    let in_code = builder(&clock)
        .config(&roster.0)
        .unwrap()
        .tier("batch", callerid::Policy::new());
    assert!(in_code.build().is_ok());
    assert!(read(&[&roster]).is_err());
    roster.write("[caller.a]\ntier = \n");
    service.write("[tier.batch]\nquota = 5\n");
    let error = callers.reload([&roster.0, &service.0]).unwrap_err();
    let problems: Vec<_> = error.problems().collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
}
