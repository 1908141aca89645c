//! `callerid.toml`: what it means, and what is said of mistakes in it.

use callerid::clock::ManualClock;
use callerid::events::{Change, Kind};
use callerid::{Callers, Mode, Quota, Reason};

use crate::log::logged;
use crate::support::{File, Rig, START, builder, claimed};

fn rig(files: &[&File]) -> Rig {
    Rig::new(|builder| {
        files
            .iter()
            .fold(builder, |builder, file| builder.config(&file.0).unwrap())
    })
}

/// Every field there is, as the guide shows it.
const WHOLE: &str = include_str!("../../examples/callerid.toml");

#[test]
fn the_whole_file_of_the_guide_has_no_mistake() {
    let clock = ManualClock::at(START);
    let read = builder(&clock).config("examples/callerid.toml");
    assert_eq!(read.err().map(|error| error.to_string()), None);
}

#[test]
fn the_whole_file_is_understood() {
    // A Redis is asked for in `tests/fleet`.
    let (alone, _fleet) = WHOLE.split_once("\n[fleet]").unwrap();
    let file = File::new(alone);
    let rig = rig(&[&file]);
    assert_eq!(
        rig.burst("checkout", 400),
        300,
        "the burst is the caller's, the quota the tier's"
    );
    assert_eq!(rig.burst("anybody", 1_100), 1_000);
    assert_eq!(rig.get("legacy-importer"), 429, "a block that ends");
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
    let anonymous = || http::Request::get("/").body(String::new()).unwrap();
    let admitted = (0..300).filter(|_| rig.ask(anonymous()).0 == 200).count();
    assert_eq!(admitted, 300);
    assert_eq!(rig.counts("__unknown__").would_refuse[Reason::Quota], 100);
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
    let ours = rig
        .callers
        .events()
        .into_iter()
        .rfind(|event| event.kind == Kind::Ours);
    let pin = ours.unwrap().pin().unwrap().clone();
    assert_eq!(
        (pin.pin, pin.text.as_deref()),
        (Change::Config, Some("read again"))
    );
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
        Ok(callers) => {
            let callers = callers.unwrap();
            println!("mode {}", Callers::mode(&callers));
            file.write("mode = \"off\"\n");
            callers.reload([&file.0]).unwrap();
            println!("reloaded {}", callers.mode());
        }
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
    let said = run("shadow");
    assert!(said.contains("mode shadow") && said.contains("reloaded shadow"));
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

#[test]
fn trap_26_rates_are_shown_as_they_were_understood_at_the_start_and_at_a_reload() {
    let file = File::new(WHOLE);
    let mut rig_of_file = None;
    let said = logged(|| rig_of_file = Some(rig(&[&file])));
    let shown = |said: &[String]| {
        let lines = said.iter().filter(|line| line.contains("limits in force"));
        lines.cloned().collect::<Vec<_>>()
    };
    assert_eq!(
        shown(&said),
        [
            "INFO callerid::admit: callerid: limits in force mode=enforce quotas=\"default 500/s, burst 1000; \
             caller.checkout.route.\\\"POST /v1/orders\\\" 10/s, burst 20; provenance.claimed.total 1000/s, burst 1000; \
             provenance.unknown 200/s, burst 200; tier.batch 100/s, burst 100\""
        ]
    );
    let mut many = "mode = \"shadow\"\n".to_owned();
    for n in 0..1_000 {
        many += &format!("[caller.c{n:03}]\nquota = \"{n}/min\"\n").replace("\"0/min", "\"7/min");
    }
    many += "[caller.keyed]\napi_key = [{ id = \"k\", sha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\" }]\n";
    let few = "mode = \"shadow\"\n";
    let callers = rig_of_file.unwrap().callers;
    let reload = |text: &str| {
        file.write(text);
        let said = logged(|| callers.reload([&file.0]).unwrap());
        shown(&said)
    };
    let [said] = &reload(few)[..] else { panic!() };
    assert!(said.ends_with("mode=shadow quotas=\"none\""), "{said}");
    drop(callers);
    file.write(&many);
    let said = logged(|| drop(rig(&[&file])));
    let [said] = &shown(&said)[..] else {
        panic!("{said:?}")
    };
    assert!(said.contains("caller.c001 1/min, burst 1; "), "{said}");
    assert!(said.ends_with("; and 984 more\""), "{said}");
    assert!(said.len() < 1_000 && !said.contains("9f86"), "{said}");
}

#[test]
fn costs_quotas_of_routes_streams_and_totals_of_the_file_are_in_force() {
    use http_body_util::BodyExt;
    use tower::{Layer, Service};
    let file = File::new(
        r#"
[provenance.claimed]
total = "3/s"
[caller.spender]
quota = "10/s"
cost."POST /v1/orders" = 5
[caller.router]
route."GET /v1/slow".quota = "2/s"
[caller.streamer]
max_in_flight = 1
max_streams = 1
"#,
    );
    let rig = rig(&[&file]);
    let admitted = |requests: usize,
                    method: &str,
                    path: &str,
                    header: &str,
                    name: &dyn Fn(usize) -> String| {
        let admitted = (0..requests).filter(|number| {
            let request = http::Request::builder().method(method).uri(path);
            let request = request
                .header(header, name(*number))
                .body(String::new())
                .unwrap();
            rig.ask(request).0 == 200
        });
        admitted.count()
    };
    let named = |name: &'static str| move |_| name.to_owned();
    assert_eq!(
        admitted(9, "POST", "/v1/orders", "x-client-id", &named("spender")),
        2
    );
    assert_eq!(
        admitted(9, "GET", "/v1/slow", "x-client-id", &named("router")),
        2
    );
    assert_eq!(
        admitted(9, "GET", "/v1/quick", "x-client-id", &named("router")),
        9
    );
    let claims = |number| format!("claimed-by-{number}");
    assert_eq!(admitted(9, "GET", "/", "x-claimed", &claims), 3);
    // A stream leaves its place to a request after ten seconds.
    let inner = tower::service_fn(async |_: http::Request<String>| {
        Ok::<_, std::convert::Infallible>(http::Response::new(crate::in_flight::Endless))
    });
    let mut service = rig.callers.layer().layer(inner);
    let stream = service.call(crate::support::from("streamer"));
    let mut stream = crate::support::now(stream).unwrap().into_body();
    assert_eq!(rig.get("streamer"), 429);
    rig.wait(10_000);
    for _ in 0..2 {
        crate::support::now(stream.frame()).unwrap().unwrap();
    }
    assert_eq!(rig.get("streamer"), 200);
}
