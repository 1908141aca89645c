//! What the demo promises to those who start it and to those who call it.

#[path = "programs/balancer.rs"]
#[allow(
    clippy::disallowed_methods,
    clippy::panic,
    reason = "tests, whose deadlines are in real time"
)]
mod balancer;
mod programs;

use std::net::{TcpListener, TcpStream};

use balancer::Balancer;
use programs::{Demo, Running, call, cells, demo, finish, open, output, until};

const GOOD_ORDER: &str = r#"{"sku": "a-1", "quantity": 2}"#;

#[test]
fn one_line_says_where_it_listens_and_an_interrupt_ends_it_cleanly() {
    let mut demo = Demo::start(&[]);
    assert_ne!(demo.address.port(), 0);
    assert_eq!(demo.get("/v1/prices/a-1", "checkout").status, 200);
    demo.running.signal("INT");
    assert_eq!(demo.running.ended().code(), Some(0));
    assert_eq!(demo.running.line(), None, "the ready line was the only one");
}

#[test]
fn a_termination_ends_it_cleanly_with_requests_under_way() {
    let mut demo = Demo::start(&[]);
    let headers = [("x-client-id", "checkout")];
    let open = open(demo.address, "GET", "/v1/slow?ms=30000", &headers, "");
    until("the request is in flight", || {
        (demo.top("checkout")?[4] == "1").then_some(())
    });
    demo.running.signal("TERM");
    assert_eq!(demo.running.ended().code(), Some(0));
    drop(open);
}

#[test]
fn a_bad_argument_ends_it_before_it_listens() {
    for (args, said) in [
        (&["--bogus"][..], "unknown argument \"--bogus\""),
        (&["stray"], "unknown argument \"stray\""),
        (&["--config"], "--config needs a value"),
        (&["--redis"], "--redis needs a value"),
        (&["--listen"], "is not an address"),
        (&["--listen", "nowhere"], "is not an address"),
        (&["--claimed=yes"], "takes no value"),
        (&["--webhook", "/page"], "is not an address"),
        (&["--webhook", "https://h/page"], "is not an address"),
    ] {
        let ended = output(demo().args(args));
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
        assert!(ended.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_configuration_error_ends_it_before_it_listens_and_shows_no_secret() {
    let file = std::env::temp_dir().join(format!("callerid-demo-{}.toml", std::process::id()));
    let text = "[default]\nquota = \"10/fortnight\"\n[fleet]\nredis = \"redis://u:hunter2@h\"\n";
    std::fs::write(&file, text).unwrap();
    let raw = file.with_extension("raw.toml");
    std::fs::write(&raw, "[default]\nquota = \"1\\u001b[2J/s\"\n").unwrap();
    let raw_flag = format!("--config={}", raw.display());
    let file_flag = format!("--config={}", file.display());
    for (args, said) in [
        (
            &[&*file_flag][..],
            "default.quota: \"10/fortnight\" is not a rate",
        ),
        (&[&file_flag], "fleet.redis: holds a password"),
        (&["--config", "/no/such/file.toml"], "/no/such/file.toml"),
        (&["--redis", "hunter2"], "fleet.redis: is not an address"),
        (&[&raw_flag], "default.quota: \"1\\u{1b}[2J/s"),
    ] {
        let ended = output(
            demo()
                .args(["--no-traffic", "--listen", "127.0.0.1:0"])
                .args(args),
        );
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
        assert!(!stderr.contains('\u{1b}'), "{stderr:?}");
        assert!(ended.stdout.is_empty(), "{args:?}");
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_file(&raw).unwrap();
}

#[test]
fn an_address_in_use_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = output(demo().args(["--no-traffic", "--listen", &address]));
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains(&format!("cannot listen on {address}")),
        "{stderr}"
    );
    assert!(ended.stdout.is_empty());
}

#[test]
fn the_crowd_is_seen_and_the_glance_names_it() {
    let running = Running::start(demo().args(["--listen", "127.0.0.1:0"]));
    let mut demo = Demo::ready(running);
    until("every team has a line", || {
        let teams = [
            "checkout",
            "search",
            "mobile-bff",
            "__unknown__",
            "__exempt__",
        ];
        teams
            .iter()
            .all(|team| demo.top(team).is_some())
            .then_some(())
    });
    let glance = until("a glance with checkout in it", || {
        demo.running
            .line()
            .filter(|line| line.starts_with("checkout "))
    });
    assert!(glance.contains('%'), "{glance}");
    demo.running.signal("INT");
    assert_eq!(demo.running.ended().code(), Some(0));
}

#[test]
fn the_header_is_verified_unless_it_is_only_claimed() {
    for (flags, provenance) in [(&[][..], "verified"), (&["--claimed"], "claimed")] {
        let demo = Demo::start(flags);
        assert_eq!(demo.get("/v1/prices/a-1", "checkout").status, 200);
        assert_eq!(demo.top("checkout").unwrap()[1], provenance);
        let labels = [("source", "header"), ("provenance", provenance)];
        assert_eq!(demo.metric("callerid_identified_total", &labels), 1.0);
    }
}

#[test]
fn a_bad_order_gets_a_problem_and_its_detail_is_counted() {
    let demo = Demo::start(&[]);
    assert_eq!(demo.order("checkout", GOOD_ORDER).status, 201);
    let bad = [
        ("not json", "not_json", None),
        ("[]", "not_an_object", None),
        (r#"{"quantity": 1}"#, "missing", Some("sku")),
        (r#"{"sku": 1, "quantity": 1}"#, "wrong_type", Some("sku")),
        (r#"{"sku": "a"}"#, "missing", Some("quantity")),
        (
            r#"{"sku": "a", "quantity": 0}"#,
            "out_of_range",
            Some("quantity"),
        ),
        (
            r#"{"sku": "a", "quantity": 1.5}"#,
            "out_of_range",
            Some("quantity"),
        ),
    ];
    for (nth, (body, code, field)) in bad.into_iter().enumerate() {
        let caller = format!("caller-{nth}");
        let answer = demo.order(&caller, body);
        assert_eq!(answer.status, 422, "{body}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(problem["code"], code, "{body}");
        assert_eq!(problem["field"].as_str(), field, "{body}");
        let row = demo.top(&caller).unwrap();
        assert_eq!(row[7], "validation=1", "{row:?}");
        let detail = format!("validation {code} {} x1", field.unwrap_or("-"));
        assert_eq!((&*row[8], &*row[12]), ("-", &*detail));
    }
}

#[test]
fn an_order_without_a_body_or_with_too_large_a_one_is_refused() {
    let demo = Demo::start(&[]);
    assert_eq!(demo.order("checkout", "").status, 422);
    assert_eq!(demo.order("checkout", &" ".repeat(20_000)).status, 413);
    let row = demo.top("checkout").unwrap();
    assert!(row[7].contains("validation=1") && row[7].contains("client_error=1"));
}

#[test]
fn every_route_answers_as_it_says() {
    let demo = Demo::start(&[]);
    for (path, status) in [
        ("/v1/prices/a-1", 200),
        ("/v1/slow?ms=1", 200),
        ("/v1/slow?ms=soon", 400),
        ("/v1/stream?chunks=3&ms=1", 200),
        ("/v1/stream?chunks=-1", 400),
        ("/v1/fail", 500),
        ("/v1/orders", 405),
        ("/healthz", 200),
        ("/nowhere", 404),
    ] {
        assert_eq!(demo.get(path, "checkout").status, status, "{path}");
    }
    let stream = demo.get("/v1/stream?chunks=3&ms=0", "checkout");
    assert_eq!(stream.body, "chunk\n".repeat(3));
    let long = demo.get(&format!("/v1/prices/{}", "x".repeat(65)), "checkout");
    assert_eq!(long.status, 404);
}

#[test]
fn a_head_request_ends_ok() {
    let demo = Demo::start(&[]);
    let headers = [("x-client-id", "checkout")];
    let answer = call(demo.address, "HEAD", "/v1/prices/a-1", &headers, "");
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let row = demo.top("checkout").unwrap();
    assert_eq!((row[4].as_str(), row[6].as_str()), ("0", "1"), "{row:?}");
    assert_eq!(row[11], "HEAD /v1/prices/{sku}");
}

#[test]
fn a_path_that_clients_invent_is_no_route() {
    let demo = Demo::start(&[]);
    let page = "/callerid/x";
    for path in ["/v1/secret-1", "/v1/secret-2", page, "/wp-login.php"] {
        assert_eq!(demo.get(path, "scanner").status, 404);
    }
    let metrics = demo.metrics();
    let routes: Vec<_> = metrics
        .iter()
        .filter(|sample| sample.name == "callerid_route_requests_total")
        .map(|sample| {
            let label = |name: &str| sample.labels[name].clone();
            (
                label("caller"),
                label("route"),
                label("fault"),
                sample.value,
            )
        })
        .collect();
    let route = |caller: &str, count| (caller.into(), "unmatched".into(), "caller".into(), count);
    assert!(routes.contains(&route("scanner", 3.0)), "{routes:?}");
    assert_eq!(routes.len(), 1, "the page is not counted: {routes:?}");
}

#[test]
fn the_table_is_shown_on_this_machine_and_not_through_a_proxy() {
    let demo = Demo::start(&[]);
    let top = |headers: &[(&str, &str)]| {
        call(demo.address, "GET", "/callerid/top.txt", headers, "").status
    };
    assert_eq!(top(&[]), 200);
    assert_eq!(top(&[("x-client-id", "checkout")]), 200);
    for header in [
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "x-forwarded-proto",
        "X-Real-IP",
        "X-Envoy-External-Address",
        "Via",
    ] {
        assert_eq!(top(&[(header, "127.0.0.1")]), 403, "{header}");
    }
}

/// nginx as most people write it down says by no header for whom it asks.
#[test]
fn a_proxy_that_says_nothing_of_itself_is_no_browser_on_this_machine() {
    let demo = Demo::start(&[]);
    let there = demo.address;
    let plain = Balancer::plain_nginx(there, "");
    let named = Balancer::plain_nginx(
        there,
        "proxy_http_version 1.1; proxy_set_header Host $host;",
    );
    for (proxy, host) in [
        (&plain, "prices.example"),
        (&plain, "localhost"),
        (&named, "prices.example"),
    ] {
        let stream = TcpStream::connect(proxy.address).unwrap();
        let request =
            format!("GET /callerid/top.txt HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = finish(stream, &request);
        assert_eq!(answer.status, 403, "{host}: {}", answer.body);
    }
    // What is said of the service itself goes through.
    let stream = TcpStream::connect(plain.address).unwrap();
    let health = finish(
        stream,
        "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    );
    assert_eq!(health.status, 200);
}

/// What is said of a log is read by programs too.
#[test]
fn a_log_that_goes_to_a_file_has_neither_colours_nor_a_line_for_each_event() {
    let folder = std::env::temp_dir().join(format!("callerid-demo-log-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let state = folder.join("state.json");
    let mut demo = Demo::start(&["--state", state.to_str().unwrap()]);
    demo.running.signal("INT");
    assert_eq!(demo.running.ended().code(), Some(0));
    let said = demo.running.logged("detection learns anew").unwrap();
    assert!(!said.contains('\u{1b}'), "{said:?}");
    assert!(!demo.running.all_said().contains("callerid::events"));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_state_that_cannot_be_kept_is_an_error_at_the_start() {
    let bad = "/no/such\u{1b}[31m/state.json";
    for (state, said) in [
        (
            "/dev/full",
            "/dev/full cannot be read: it is not a regular file",
        ),
        (
            "/no/such/state.json",
            "/no/such/state.json cannot be written",
        ),
        (bad, "/no/such\\u{1b}[31m/state.json cannot be written"),
    ] {
        let ended =
            output(demo().args(["--listen", "127.0.0.1:0", "--no-traffic", "--state", state]));
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(said), "{stderr:?}");
        assert!(!stderr.contains('\u{1b}'), "{stderr:?}");
        assert!(ended.stdout.is_empty());
    }
}

#[test]
fn neither_scrape_nor_table_is_counted() {
    let demo = Demo::start(&[]);
    for _ in 0..3 {
        demo.plain("/metrics");
        demo.plain("/callerid/top.txt");
        call(demo.address, "POST", "/metrics", &[], "x");
    }
    assert_eq!(demo.metric("callerid_requests_started_total", &[]), 0.0);
    demo.plain("/healthz");
    assert_eq!(
        demo.metric(
            "callerid_requests_started_total",
            &[("caller", "__exempt__")]
        ),
        1.0
    );
}

#[test]
fn a_name_can_break_neither_a_line_nor_a_column() {
    let demo = Demo::start(&[]);
    let names = ["#comment", "#", "-", r#"a"b\c"#, "<script>", "${jndi:x}"];
    for name in names {
        assert_eq!(demo.get("/v1/prices/a-1", name).status, 200);
    }
    let text = demo.plain("/callerid/top.txt").body;
    let rows: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("# "))
        .map(cells)
        .collect();
    assert_eq!(rows.len(), names.len(), "{text}");
    for row in &rows {
        assert_eq!(row.len(), 13, "{row:?}");
        let name = row[0].strip_prefix('\\').unwrap_or(&row[0]);
        assert!(names.contains(&name), "{row:?}");
    }
    for name in ["two words", "__other__", "ip:1.2.3.4", &"x".repeat(65)] {
        assert_eq!(demo.get("/v1/prices/a-1", name).status, 200);
    }
    assert_eq!(demo.top("__invalid__").unwrap()[5], "4");
}

#[test]
fn the_heaviest_caller_comes_first() {
    let demo = Demo::start(&[]);
    for (caller, times) in [("light", 1), ("heavy", 9), ("middle", 4)] {
        for _ in 0..times {
            demo.get("/v1/prices/a-1", caller);
        }
    }
    let text = demo.plain("/callerid/top.txt").body;
    let names: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("# "))
        .map(|line| cells(line)[0].clone())
        .collect();
    assert_eq!(names, ["heavy", "middle", "light"], "{text}");
}

#[test]
fn bad_input_a_full_disk_and_another_writer_leave_the_state_whole_and_the_api_alone() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("attacked");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("state.json");
    let state = file.to_str().unwrap();
    let demo = Demo::start(&["--state", state]);
    let serves = || assert_eq!(demo.get("/v1/prices/a-1", "checkout").status, 200);
    serves();
    let json = ("content-type", "application/json");
    let post = |demo: &Demo, action: &str, body: &str| {
        let path = format!("/callerid/v1/do/{action}");
        call(demo.address, "POST", &path, &[json], body)
    };
    // A body that does not come: it is answered in the end.
    let slow = |length: &'static str| {
        let headers = [json, ("content-length", length)];
        open(
            demo.address,
            "POST",
            "/callerid/v1/do/incident",
            &headers,
            "",
        )
    };
    let never = slow("40");
    for _ in 0..100 {
        drop(slow("400"));
    }
    assert_eq!(post(&demo, "incident", r#"{"name": "one"}"#).status, 200);
    let kept = std::fs::read(&file).unwrap();
    let long = format!(r#"{{"name": "{}"}}"#, "x".repeat(201));
    let longer = format!(r#"{{"name": "{}"}}"#, "x".repeat(100_000));
    let deep = "[".repeat(60_000);
    for (action, body, status) in [
        ("incident", r#"{"name": "#, 400),
        ("incident", r#"[null, "two"]"#, 400),
        ("incident", &deep, 400),
        ("incident", r#"{"name": "two", "eta": 1e999}"#, 400),
        ("incident", r#"{"name": "two", "eta": 1}"#, 422),
        ("incident", &long, 422),
        ("incident", &longer, 413),
        (
            "clamp",
            r#"{"caller": "nobody", "quota": "5/s", "seconds": 60}"#,
            404,
        ),
        (
            "clamp",
            r#"{"caller": "checkout", "quota": "5/fortnight", "seconds": 60}"#,
            422,
        ),
        ("block", r#"{"caller": "checkout", "seconds": -1}"#, 400),
        ("explode", "{}", 404),
    ] {
        let answer = post(&demo, action, body);
        let shown = body.get(..60).unwrap_or(body);
        assert_eq!(answer.status, status, "{action} {shown}: {}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        serves();
    }
    // The disk is full, for this file.
    for (action, body) in [
        ("incident", r#"{"name": "two"}"#),
        ("block", r#"{"caller": "checkout", "seconds": 60}"#),
    ] {
        std::os::unix::fs::symlink("/dev/full", folder.join("state.json.draft")).unwrap();
        let full = post(&demo, action, body);
        assert_eq!(full.status, 507, "{}", full.body);
        assert!(
            full.body.contains("No space left on device"),
            "{}",
            full.body
        );
        serves();
    }
    assert_eq!(std::fs::read(&file).unwrap(), kept);
    // There is room again.
    assert_eq!(post(&demo, "incident", r#"{"name": "two"}"#).status, 200);
    serves();

    // Somebody else writes the same file, which is said.
    let other = Demo::start(&["--state", state]);
    assert_eq!(post(&other, "incident", r#"{"name": "three"}"#).status, 200);
    assert_eq!(post(&demo, "incident", r#"{"name": "four"}"#).status, 200);
    until("it is said", || {
        let said = demo.running.all_said();
        said.contains("another program writes the state file")
            .then_some(())
    });
    assert!(!other.running.all_said().contains("another program"));
    assert_eq!(finish(never, "").status, 408);
    serves();
    std::fs::remove_dir_all(folder).unwrap();
}
