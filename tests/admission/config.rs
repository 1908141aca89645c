//! `callerid.toml`: what it means, and what is said of mistakes in it.

use std::path::PathBuf;

use callerid::clock::ManualClock;
use callerid::{Callers, Mode, Quota, Reason};

use crate::support::{Rig, START, builder, claimed};

/// A file that goes when the test does.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("callerid-{}-{number}.toml", std::process::id());
        let file = Self(std::env::temp_dir().join(name));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn rig(files: &[&File]) -> Rig {
    Rig::new(|builder| {
        files
            .iter()
            .fold(builder, |builder, file| builder.config(&file.0).unwrap())
    })
}

fn problems(text: &str) -> Vec<String> {
    let clock = ManualClock::at(START);
    let file = File::new(text);
    let error = builder(&clock).config(&file.0).err();
    error.map_or_else(Vec::new, |error| {
        error.problems().map(str::to_owned).collect()
    })
}

const WHOLE: &str = r##"
mode = "enforce"
exempt = ["/healthz", "/livez", "/readyz", "/metrics", "/callerid/*", "/grpc.health.v1.Health/*"]
[default]
quota = "500/s"
burst = 1000
scope = "instance"
max_in_flight = 200
max_streams = 20
mode = "enforce"
[provenance.unknown]
quota = "200/s"
mode = "shadow"
[provenance.claimed]
total = "1000/s"
[tier.batch]
quota = "100/s"
weight = 0.5
[caller.checkout]
owner = "Payments"
contact = "#payments-oncall"
runbook = "https://wiki.example/checkout"
tier = "batch"
burst = 300
api_key = [{ id = "2026-11", sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", not_after = "2027-01-01T00:00:00Z" }]
cost."POST /v1/orders" = 5
route."POST /v1/orders".quota = "10/s"
expect = { factor = 20, until = "2026-12-01T18:00:00Z" }
[caller.night-batch]
accept = "claimed"
[caller.legacy-importer]
block = true
[caller.health-check]
allow = true
[ceiling]
max_in_flight = 512
mode = "enforce"
[on_runaway]
clamp = 1.5
mode = "shadow"
"##;

#[test]
fn the_whole_file_is_understood() {
    let file = File::new(WHOLE);
    let rig = rig(&[&file]);
    assert_eq!(
        rig.burst("checkout", 400),
        300,
        "the burst is the caller's, the quota the tier's"
    );
    assert_eq!(rig.burst("anybody", 1_100), 1_000);
    assert_eq!(rig.get("legacy-importer"), 403);
    assert_eq!(rig.burst("health-check", 2_000), 2_000);
    let policy = rig.caller("checkout").policy.unwrap();
    assert_eq!(
        (policy.quota, policy.weight, policy.max_in_flight),
        (Some(100.0), 0.5, Some(200))
    );
    assert_eq!(rig.caller("checkout").owner.as_deref(), Some("Payments"));
    assert_eq!(rig.ask(claimed("night-batch")).0, 200);
    assert!(
        rig.callers
            .snapshot()
            .caller("claimed:night-batch")
            .is_none()
    );
    assert_eq!(rig.callers.snapshot().ceiling.unwrap().max_in_flight, 512);
    let anonymous = || http::Request::get("/").body(()).unwrap();
    let admitted = (0..300).filter(|_| rig.ask(anonymous()).0 == 200).count();
    assert_eq!(admitted, 300);
    assert_eq!(rig.counts("__unknown__").would_refuse[Reason::Quota], 100);
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
            "default.scope: \"fleet\" needs [fleet] and the feature `redis` of callerid; use \"instance\"",
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
            "caller: a.tier: there is no tier \"gold\"; add [tier.gold]",
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
            "[fleet]\nnamespace = \"x\"",
            "fleet: needs the feature `redis` of callerid; build with it, or leave the table out",
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
    assert_eq!(said.len(), 5, "{said:#?}");
}

#[test]
fn what_is_no_toml_is_said_with_its_line_and_without_its_text() {
    let said = problems("mode = \"enforce\"\n[caller.a]\nowner = hunter2\n");
    assert!(said[0].contains("line 3"), "{said:?}");
    assert!(!said[0].contains("hunter2"), "{said:?}");
    let twice = problems("[caller.a]\nowner = \"x\"\n[caller.a]\nowner = \"y\"\n");
    assert!(
        twice[0].contains("line 3") && twice[0].contains("duplicate"),
        "{twice:?}"
    );
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
fn a_file_that_is_missing_is_named() {
    let clock = ManualClock::at(START);
    let error = builder(&clock)
        .config("/nowhere/callerid.toml")
        .unwrap_err();
    assert!(
        error.to_string().starts_with("/nowhere/callerid.toml: "),
        "{error}"
    );
}

#[test]
fn later_files_win_field_by_field() {
    let roster = File::new(
        "[default]\nquota = \"9/s\"\nburst = 90\nmax_in_flight = 4\n[caller.a]\nowner = \"A\"\nquota = \"5/s\"\n",
    );
    let service = File::new("[default]\nquota = \"3/s\"\n[caller.a]\ncontact = \"#a\"\n");
    let rig = rig(&[&roster, &service]);
    let a = rig.caller("a");
    assert_eq!(
        (a.owner.as_deref(), a.contact.as_deref()),
        (Some("A"), Some("#a"))
    );
    assert_eq!(rig.burst("a", 20), 5);
    assert_eq!(rig.burst("b", 20), 3, "a quota brings its own burst");
    assert_eq!(rig.caller("b").policy.unwrap().max_in_flight, Some(4));
}

#[test]
fn what_the_files_leave_open_the_program_says() {
    let file = File::new("[default]\nmax_in_flight = 2\n");
    let rig = Rig::new(|builder| {
        builder
            .quota(Quota::per_second(7).burst(9))
            .config(&file.0)
            .unwrap()
    });
    assert_eq!(rig.burst("a", 20), 9);
    assert_eq!(rig.caller("a").policy.unwrap().max_in_flight, Some(2));
}

#[test]
fn a_reload_leaves_other_buckets_and_inherits_debt() {
    let file = File::new("[default]\nquota = \"10/s\"\n[caller.a]\nquota = \"20/s\"\n");
    let rig = rig(&[&file]);
    assert_eq!((rig.burst("a", 50), rig.burst("b", 50)), (20, 10));
    file.write("[default]\nquota = \"10/s\"\n[caller.a]\nquota = \"30/s\"\n");
    rig.callers.reload([&file.0]).unwrap();
    assert_eq!(rig.burst("b", 50), 0, "its bucket is what it was");
    assert_eq!(rig.burst("a", 50), 10, "what was spent stays spent");
    for rate in [50, 10, 50, 10] {
        file.write(&format!(
            "[default]\nquota = \"10/s\"\n[caller.a]\nquota = \"{rate}/s\"\nburst = 10\n"
        ));
        rig.callers.reload([&file.0]).unwrap();
        assert_eq!(rig.burst("a", 50), 0, "to and fro is no way to more");
    }
    rig.wait(1_000);
    assert_eq!(rig.burst("a", 50), 10);
}

#[test]
fn a_broken_file_leaves_the_old_policies_in_force_and_says_so() {
    let file = File::new("[default]\nquota = \"2/s\"\n");
    let rig = rig(&[&file]);
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let value = |name: &str| {
        metrics::with_local_recorder(&recorder, || rig.callers.flush());
        let text = handle.render();
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .map(str::to_owned);
        line.unwrap_or_else(|| panic!("{name} in {text}"))
    };
    assert!(value("callerid_config_last_reload_successful").ends_with(" 1"));
    let hash = value("callerid_config_info");
    file.write("[default]\nquota = \"2 per second\"\n");
    let error = rig.callers.reload([&file.0]).unwrap_err();
    assert_eq!(error.problems().count(), 1);
    assert!(value("callerid_config_last_reload_successful").ends_with(" 0"));
    assert_eq!(value("callerid_config_info"), hash);
    assert_eq!(rig.burst("a", 5), 2);
    file.write("[default]\nquota = \"3/s\"\n");
    rig.callers.reload([&file.0]).unwrap();
    assert!(value("callerid_config_last_reload_successful").ends_with(" 1"));
    assert_eq!(rig.burst("b", 5), 3);
    assert!(value("callerid_quota_limit{caller=\"b\",scope=\"instance\"}").ends_with(" 3"));
    assert!(value("callerid_refused_total{caller=\"b\",reason=\"quota\"}").ends_with(" 2"));
    assert!(value("callerid_refused_total{caller=\"b\",reason=\"ceiling\"}").ends_with(" 0"));
    assert!(value("callerid_would_refuse_total{caller=\"b\",reason=\"quota\"}").ends_with(" 0"));
    assert!(value("callerid_mode{mode=\"enforce\"}").ends_with(" 1"));
}

#[test]
fn a_switch_that_a_person_moved_stays_when_the_file_says_what_it_said() {
    let file = File::new("mode = \"shadow\"\n[default]\nquota = \"2/s\"\n");
    let rig = rig(&[&file]);
    assert_eq!((rig.callers.mode(), rig.burst("a", 5)), (Mode::Shadow, 5));
    rig.callers.set_mode(Mode::Off);
    rig.callers.reload([&file.0]).unwrap();
    assert_eq!(rig.callers.mode(), Mode::Off);
    file.write("mode = \"enforce\"\n[default]\nquota = \"2/s\"\n");
    rig.callers.reload([&file.0]).unwrap();
    assert_eq!(rig.callers.mode(), Mode::Enforce);
}

/// Run by the test below, in a process with an environment of its own.
#[test]
#[ignore = "a part of the_environment_overrules_the_file"]
fn part_with_an_environment() {
    let file = File::new("mode = \"enforce\"\n");
    let clock = ManualClock::at(START);
    match builder(&clock)
        .config(&file.0)
        .map(callerid::Builder::build)
    {
        Ok(callers) => println!("mode {}", Callers::mode(&callers.unwrap())),
        Err(error) => println!("error {error}"),
    }
}

#[test]
fn the_environment_overrules_the_file() {
    let run = |mode: &str| {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "config::part_with_an_environment",
                "--ignored",
                "--nocapture",
            ])
            .env("CALLERID_MODE", mode)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run("shadow").contains("mode shadow"));
    assert!(run("loud").contains("error CALLERID_MODE: \"loud\" is not a mode"));
}

#[cfg(unix)]
#[test]
fn a_reload_follows_the_symbolic_links_of_a_config_map() {
    use std::os::unix::fs::symlink;
    let name = format!("callerid-map-{}", std::process::id());
    let root = std::env::temp_dir().join(name);
    for (version, rate) in [("..v1", "2/s"), ("..v2", "4/s")] {
        std::fs::create_dir_all(root.join(version)).unwrap();
        let text = format!("[default]\nquota = \"{rate}\"\n");
        std::fs::write(root.join(version).join("callerid.toml"), text).unwrap();
    }
    symlink("..v1", root.join("..data")).unwrap();
    symlink("..data/callerid.toml", root.join("callerid.toml")).unwrap();
    let path = root.join("callerid.toml");
    let rig = Rig::new(|builder| builder.config(&path).unwrap());
    assert_eq!(rig.burst("a", 9), 2);
    symlink("..v2", root.join("..tmp")).unwrap();
    std::fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
    rig.callers.reload([&path]).unwrap();
    assert_eq!(rig.burst("b", 9), 4);
    std::fs::remove_dir_all(&root).unwrap();
}
