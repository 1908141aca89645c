//! What operators may do, what is kept of it over a restart, and what bad input gets.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use callerid::Mode;
use callerid::dashboard::{Access, Grant};
use callerid::events::{Change, Kind, Pin};
use http_body_util::Full;
use serde_json::{Value, json};

use super::access::tokens;
use super::visit::{Answer, NOW, Page, Table, request, table, with};

const JSON: (&str, &str) = ("content-type", "application/json");

async fn post(page: &Page, path: &str, body: &str, headers: &[(&'static str, &str)]) -> Answer {
    let mut post = with(request("POST", path, Some("127.0.0.1")), &[JSON]);
    post = with(post, headers);
    *post.body_mut() = Full::from(body.to_owned());
    page.ask(post).await
}

async fn act(page: &Page, action: &str, body: Value) -> Answer {
    post(page, &format!("/v1/do/{action}"), &body.to_string(), &[]).await
}

/// A state file in a folder that goes with it.
struct State(PathBuf);

impl State {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("callerid-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder.join("state.json"))
    }

    fn table(&self) -> Table {
        table(|builder| builder.state_file(&self.0).service("prices").instance("a1"))
    }

    /// What is in the file, once it is so: a thread of its own writes what the program did.
    async fn until(&self, so: impl Fn(&Value) -> bool) {
        for _ in 0..600 {
            let kept = fs::read(&self.0).unwrap_or_default();
            if serde_json::from_slice(&kept).is_ok_and(|kept| so(&kept)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!(
            "not within thirty seconds: {:?}",
            fs::read_to_string(&self.0)
        );
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.parent().unwrap());
    }
}

#[tokio::test]
async fn a_write_needs_the_permission_and_our_own_page() {
    let table = table(|builder| builder);
    table.send("x-client-id", "checkout", 200, 1).await;
    let clamp = json!({"caller": "checkout", "quota": "5/s", "seconds": 60}).to_string();
    let path = "/v1/do/clamp";

    // Looking is not operating.
    let looking = table.page(Access::local());
    let refused = post(&looking, path, &clamp, &[]).await;
    assert_eq!(refused.status, 403);
    assert!(
        refused.problem().contains("operating is not"),
        "{}",
        refused.body
    );
    let by_token = table.page(tokens());
    let bearer = |token: &'static str| [("authorization", token)];
    assert_eq!(post(&by_token, path, &clamp, &[]).await.status, 401);
    assert_eq!(
        post(&by_token, path, &clamp, &bearer("Bearer look"))
            .await
            .status,
        403
    );
    assert_eq!(
        post(&by_token, path, &clamp, &bearer("Bearer acts"))
            .await
            .status,
        403
    );

    let page = table.page(Access::local_operator());
    for foreign in [
        ("origin", "https://evil.example"),
        ("origin", "http://localhost:3001"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("host", "evil.example"),
        ("x-forwarded-for", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1"),
    ] {
        assert_eq!(
            post(&page, path, &clamp, &[foreign]).await.status,
            403,
            "{foreign:?}"
        );
    }
    // What a foreign page can send without being asked.
    let plain = post(&page, path, &clamp, &[("content-type", "text/plain")]).await;
    assert_eq!(plain.status, 415);
    assert_eq!(page.get(path).await.status, 405);
    assert!(
        table
            .callers
            .events()
            .iter()
            .all(|event| event.kind != Kind::Policy)
    );

    let own = [
        ("origin", "http://localhost:3000"),
        ("sec-fetch-site", "same-origin"),
    ];
    assert_eq!(post(&page, path, &clamp, &own).await.status, 200);
    assert_eq!(
        post(&by_token, path, &clamp, &bearer("Bearer act"))
            .await
            .json()["author"],
        "alice"
    );
}

#[tokio::test]
async fn a_clamp_holds_and_is_an_event_with_its_author() {
    let table = table(|builder| builder.instance("a1"));
    table.send("x-client-id", "checkout", 200, 1).await;
    let page = table.page(Access::local_operator());
    let done = act(
        &page,
        "clamp",
        json!({"caller": "checkout", "quota": "5/s", "seconds": 60}),
    )
    .await;
    assert_eq!(
        done.json(),
        json!({
            "scope": "replica", "instance": "a1", "author": "local", "mode": "enforce",
            "in_force": {"by": "clamp", "quota": "5/s, burst 5", "scope": "instance"},
        })
    );
    table.send("x-client-id", "checkout", 200, 20).await;
    let refused = || {
        let snapshot = table.callers.snapshot();
        snapshot.caller("checkout").unwrap().counts.refused.total()
    };
    assert_eq!(refused(), 15);
    let event: Value =
        serde_json::from_str(&table.callers.events().last().unwrap().to_json()).unwrap();
    assert_eq!(
        (&event["kind"], &event["author"], &event["caller"]),
        (&"policy".into(), &"local".into(), &"checkout".into())
    );
    table.pass(1);
    assert_eq!(
        page.get("/v1/overview").await.json()["braked"]["checkout"],
        "5/s"
    );

    // A block takes its place, and a release ends it.
    assert_eq!(
        act(&page, "block", json!({"caller": "checkout", "seconds": 60}))
            .await
            .status,
        200
    );
    table.send("x-client-id", "checkout", 200, 4).await;
    assert_eq!(refused(), 19);
    assert_eq!(
        act(&page, "release", json!({"caller": "checkout"}))
            .await
            .status,
        200
    );
    table.send("x-client-id", "checkout", 200, 4).await;
    assert_eq!(refused(), 19);
    assert_eq!(
        act(&page, "release", json!({"caller": "checkout"}))
            .await
            .status,
        404
    );

    // It ends by itself.
    act(&page, "block", json!({"caller": "checkout", "seconds": 2})).await;
    table.pass(3);
    table.send("x-client-id", "checkout", 200, 4).await;
    assert_eq!(refused(), 19);
}

#[tokio::test]
async fn a_brake_says_when_the_switch_lets_it_refuse_nothing() {
    let table = table(|builder| builder.mode(Mode::Shadow));
    table.send("x-client-id", "checkout", 200, 1).await;
    let page = table.page(Access::local_operator());
    for (action, body) in [
        (
            "clamp",
            json!({"caller": "checkout", "quota": "5/s", "seconds": 60}),
        ),
        ("block", json!({"caller": "checkout", "seconds": 60})),
    ] {
        assert_eq!(
            act(&page, action, body).await.json()["mode"],
            "shadow",
            "{action}"
        );
    }
    table.pass(1);
    assert_eq!(page.get("/v1/overview").await.json()["mode"], "shadow");
    table.send("x-client-id", "checkout", 200, 9).await;
    let counts = table.callers.snapshot().caller("checkout").unwrap().counts;
    assert_eq!(
        (counts.refused.total(), counts.would_refuse.total()),
        (0, 9)
    );
}

#[tokio::test]
async fn one_caller_has_its_pins_and_changes_however_long_ago() {
    let table = table(|builder| builder);
    table.send("x-client-id", "checkout", 200, 1).await;
    table.send("x-client-id", "search", 200, 1).await;
    let page = table.page(Access::local_operator());
    for (action, body) in [
        (
            "pin",
            json!({"caller": "checkout", "pin": "deploy", "version": "v1"}),
        ),
        (
            "pin",
            json!({"caller": "search", "pin": "deploy", "version": "v2"}),
        ),
        (
            "clamp",
            json!({"caller": "checkout", "quota": "5/s", "seconds": 60}),
        ),
    ] {
        assert_eq!(act(&page, action, body).await.status, 200);
    }
    table.pass(300);
    let drill = page.get("/v1/caller?name=checkout").await.json();
    let events = drill["events"].as_array().unwrap();
    let kinds: Vec<_> = events.iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["pin", "policy"], "{drill}");
    assert_eq!(events[0]["version"], "v1");
    let overview = page.get("/v1/overview?span=2m").await.json();
    let told = overview["events"].as_array().unwrap();
    assert!(
        told.iter().all(|event| event["kind"] != "pin"),
        "{overview}"
    );
}

#[tokio::test]
async fn a_proven_caller_and_a_claim_of_its_name_are_two_and_each_is_held_by_itself() {
    let table = table(|builder| builder);
    table.send("x-claimed-id", "checkout", 200, 1).await;
    table.send("x-client-id", "checkout", 200, 4).await;
    table.send("x-claimed-id", "checkout", 422, 2).await;
    table.pass(1);
    let page = table.page(Access::local_operator());
    let shown = async || {
        let overview = page.get("/v1/overview").await.json();
        let lines = overview["callers"].as_array().unwrap().iter();
        let line = |line: &Value| (line["caller"].to_string(), line["refused_total"].as_u64());
        let mut lines: Vec<_> = lines.map(line).collect();
        lines.sort();
        lines
    };
    let two = |claimed, proven| {
        [
            ("\"checkout\"".to_owned(), Some(proven)),
            ("\"claimed:checkout\"".to_owned(), Some(claimed)),
        ]
    };
    assert_eq!(shown().await, two(0, 0));
    let drill = page.get("/v1/caller?name=claimed:checkout").await.json();
    assert_eq!(drill["provenance"], "claimed", "{drill}");

    let hold = |caller: &str| json!({"caller": caller, "seconds": 60});
    assert_eq!(
        act(&page, "block", hold("claimed:checkout")).await.status,
        200
    );
    table.send("x-claimed-id", "checkout", 200, 3).await;
    table.send("x-client-id", "checkout", 200, 3).await;
    table.pass(1);
    assert_eq!(shown().await, two(3, 0), "the claim alone is held");
    assert_eq!(
        act(&page, "release", json!({"caller": "claimed:checkout"}))
            .await
            .status,
        200
    );
    assert_eq!(act(&page, "block", hold("checkout")).await.status, 200);
    table.send("x-claimed-id", "checkout", 200, 5).await;
    table.send("x-client-id", "checkout", 200, 5).await;
    table.pass(1);
    assert_eq!(shown().await, two(3, 5), "the proven one alone is held");
}

#[tokio::test]
async fn bad_input_gets_a_clear_answer_and_changes_nothing() {
    let table = table(|builder| builder);
    table.send("x-client-id", "checkout", 200, 1).await;
    let page = table.page(Access::local_operator());
    let before = table.callers.events().len();
    for (action, body, status, said) in [
        (
            "clamp",
            json!({"caller": "nobody", "quota": "5/s", "seconds": 9}),
            404,
            "no such caller",
        ),
        (
            "clamp",
            json!({"caller": "__other__", "quota": "5/s", "seconds": 9}),
            422,
            "provenance",
        ),
        (
            "clamp",
            json!({"caller": "checkout", "quota": "5/fortnight", "seconds": 9}),
            422,
            "use N/s",
        ),
        (
            "clamp",
            json!({"caller": "checkout", "quota": "0/s", "seconds": 9}),
            422,
            "quota",
        ),
        (
            "clamp",
            json!({"caller": "checkout", "seconds": 9}),
            422,
            "quota",
        ),
        (
            "clamp",
            json!({"caller": "checkout", "quota": "5/s", "seconds": 0}),
            422,
            "seconds",
        ),
        (
            "clamp",
            json!({"caller": "checkout", "quota": "5/s", "seconds": -1}),
            400,
            "body",
        ),
        (
            "clamp",
            json!({"caller": "checkout", "quota": "5/s", "seconds": 9, "qouta": 1}),
            400,
            "qouta",
        ),
        (
            "block",
            json!({"caller": "checkout", "quota": "5/s", "seconds": 9}),
            422,
            "clamp",
        ),
        ("block", json!([]), 400, "body"),
        (
            "expect",
            json!({"caller": "checkout", "factor": 0.5, "seconds": 9}),
            422,
            "factor",
        ),
        ("ack", json!({"id": "x"}), 404, "no runaway"),
        (
            "pin",
            json!({"pin": "party", "text": "x"}),
            422,
            "deploy, flag",
        ),
        ("pin", json!({"pin": "deploy"}), 422, "version"),
        (
            "pin",
            json!({"pin": "deploy", "version": "v".repeat(101)}),
            422,
            "version",
        ),
        (
            "pin",
            json!({"pin": "deploy", "text": "é".repeat(129)}),
            422,
            "text",
        ),
        (
            "pin",
            json!({"pin": "deploy", "text": "x", "t": 1e12}),
            422,
            "future",
        ),
        (
            "pin",
            json!({"pin": "flag", "text": "off\n* 09:00 anna did it"}),
            422,
            "text: holds a control character",
        ),
        (
            "pin",
            json!({"pin": "deploy", "version": "\u{1b}[31m7"}),
            422,
            "version: holds a control character",
        ),
        ("mode", json!({"mode": "on"}), 422, "mode"),
        ("incident", json!({"body": "x"}), 422, "name"),
        (
            "incident",
            json!({"name": "x", "eta": NOW - 1}),
            422,
            "eta: is in the past",
        ),
        ("incident", json!({"name": "x", "eta": "soon"}), 400, "eta"),
        (
            "incident",
            json!({"name": "x".repeat(201)}),
            422,
            "201 characters",
        ),
        (
            "incident",
            json!({"id": "none", "body": "x"}),
            404,
            "no such incident",
        ),
        (
            "incident",
            json!({"name": "x", "state": "fixed"}),
            400,
            "fixed",
        ),
        ("party", json!({}), 404, "action"),
    ] {
        let answer = act(&page, action, body.clone()).await;
        assert_eq!(answer.status, status, "{action} {body}: {}", answer.body);
        let problem = answer.problem();
        assert!(problem.contains(said), "{action} {body}: {problem}");
    }
    for (body, status) in [
        ("{", 400),
        ("", 400),
        ("\u{0}", 400),
        (&*" ".repeat(70_000), 413),
    ] {
        assert_eq!(post(&page, "/v1/do/clamp", body, &[]).await.status, status);
    }
    assert_eq!(table.callers.events().len(), before);
    assert!(table.callers.incidents().is_empty());
}

#[tokio::test]
async fn an_incident_with_its_estimate_is_there_for_another_reader() {
    let table = table(|builder| builder.service("prices"));
    let page = table.page(Access::local_operator());
    let opened = act(
        &page,
        "incident",
        json!({
            "name": "Prices are <b>slow</b>", "body": "checkout sends six times as much", "impact": "major",
            "eta": NOW + 1_800, "fallback": "use yesterday's list",
        }),
    )
    .await;
    assert_eq!(opened.status, 200, "{}", opened.body);
    let id = opened.json()["incident"]["id"].as_str().unwrap().to_owned();
    let reader = table.page(tokens());
    let read = |path: &'static str| {
        let get = request("GET", path, Some("10.9.8.7"));
        reader.ask(with(get, &[("authorization", "Bearer look")]))
    };
    let summary = read("/summary.json").await.json();
    assert_eq!(summary["status"]["indicator"], "major");
    assert_eq!(summary["components"][0]["status"], "partial_outage");
    let incident = &summary["incidents"][0];
    assert_eq!(incident["status"], "investigating");
    assert_eq!(incident["eta"], "2025-10-09T09:23:20Z");
    assert_eq!(
        incident["incident_updates"][0]["body"],
        "checkout sends six times as much"
    );
    assert!(
        !summary.to_string().contains("local"),
        "no names of operators: {summary}"
    );
    let html = read("/status").await.body;
    assert!(
        html.contains("2025-10-09T09:23:20Z") && html.contains("&lt;b&gt;slow"),
        "{html}"
    );
    let events = page.get("/v1/events").await.json();
    let told = events["events"].as_array().unwrap().last().unwrap();
    assert_eq!([&told["kind"], &told["author"]], ["incident", "local"]);

    act(
        &page,
        "incident",
        json!({"id": id, "state": "resolved", "body": "over"}),
    )
    .await;
    let summary = read("/api/v2/summary.json").await.json();
    assert_eq!(
        (&summary["status"]["indicator"], &summary["incidents"]),
        (&"none".into(), &json!([]))
    );
    assert_eq!(
        read("/v1/incidents").await.json()["incidents"][0]["status"],
        "resolved"
    );
}

#[tokio::test]
async fn incidents_pins_and_brakes_survive_a_restart() {
    let state = State::new("restart");
    {
        let table = state.table();
        table.send("x-client-id", "checkout", 200, 1).await;
        table.send("x-client-id", "search", 200, 1).await;
        table.send("x-client-id", "crawler", 200, 1).await;
        let page = table.page(Access::local_operator());
        for (action, body) in [
            ("incident", json!({"name": "slow"})),
            (
                "pin",
                json!({"caller": "checkout", "pin": "deploy", "version": "v42", "t": NOW - 60}),
            ),
            (
                "clamp",
                json!({"caller": "checkout", "quota": "5/s", "seconds": 600}),
            ),
            ("block", json!({"caller": "search", "seconds": 600})),
            ("block", json!({"caller": "crawler", "seconds": 1})),
        ] {
            assert_eq!(act(&page, action, body).await.status, 200, "{action}");
        }
        // What the program does is kept too, and what has ended is not.
        table.callers.deployed("search", "v7");
        table.pass(5);
        let so = |kept: &Value| {
            kept["pins"].as_array().unwrap().len() == 2
                && kept["brakes"].as_array().unwrap().len() == 2
        };
        state.until(so).await;
    }
    let (tell, told) = std::sync::mpsc::channel();
    let again = table(|builder| {
        let builder = builder.state_file(&state.0).service("prices");
        builder
            .instance("a1")
            .on_event(move |event| _ = tell.send(event.kind))
    });
    assert_eq!(again.callers.incidents()[0].name, "slow");
    // What was said before the restart is no news.
    assert_eq!(told.try_iter().filter(|kind| *kind == Kind::Pin).count(), 0);
    let pins: Vec<_> = again
        .callers
        .events()
        .iter()
        .filter(|event| event.kind == Kind::Pin)
        .map(|event| serde_json::from_str::<Value>(&event.to_json()).unwrap())
        .map(|pin| ["t", "at", "caller", "author"].map(|field| pin[field].clone()))
        .collect();
    assert_eq!(
        pins,
        [
            [
                json!(NOW),
                json!(NOW - 60),
                json!("checkout"),
                json!("local")
            ],
            [json!(NOW), json!(NOW), json!("search"), json!("program")]
        ]
    );
    // By whom it is held is known still.
    let held = again.callers.events().into_iter().filter_map(|event| {
        let event: Value = serde_json::from_str(&event.to_json()).unwrap();
        (event["kind"] == "policy").then(|| [&event["change"], &event["author"]].map(Value::clone))
    });
    let still = [json!("still held, as before the restart"), json!("local")];
    assert_eq!(held.collect::<Vec<_>>(), [still.clone(), still]);
    // Who is held is told so, and not by whom.
    let own = with(request("GET", "/me", None), &[("x-client-id", "search")]);
    let page = again.page(Access::from_fn(|_| Grant::nothing().self_service()));
    let held = page.ask(own).await.json()["held"].clone();
    assert_eq!(
        held,
        json!({"caller": "search", "quota": null, "until": (NOW + 600) as f64})
    );
    for (caller, let_in) in [("checkout", 5), ("search", 0), ("crawler", 10)] {
        again.send("x-client-id", caller, 200, 10).await;
        let snapshot = again.callers.snapshot();
        let counts = snapshot.caller(caller).unwrap().counts;
        assert_eq!(counts.by_class.total(), let_in, "{caller}");
    }
}

#[tokio::test]
async fn what_is_no_number_is_not_kept_and_what_was_kept_before_can_still_be_read() {
    let state = State::new("no-number");
    {
        let table = state.table();
        for factor in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            table
                .callers
                .expect("checkout", factor, Duration::from_secs(600));
        }
        let mut pin = Pin::new(Change::Cache).text("flushed").at(f64::INFINITY);
        assert_eq!(pin.at, None);
        pin.at = Some(f64::NAN);
        table.callers.pin(pin);
        table
            .callers
            .expect("search", 20.0, Duration::from_secs(600));
        table.pass(5);
        let so = |kept: &Value| kept["pins"].as_array().is_some_and(|pins| pins.len() == 1);
        state.until(so).await;
    }
    let kept: Value = serde_json::from_slice(&fs::read(&state.0).unwrap()).unwrap();
    let expected = kept["expected"].as_array().unwrap();
    assert_eq!(expected.len(), 1, "{kept}");
    assert_eq!(expected[0]["caller"], "search");
    let again = state.table().callers.events();
    let pin = again.iter().find(|event| event.kind == Kind::Pin).unwrap();
    assert_eq!(pin.pin().unwrap().text.as_deref(), Some("flushed"));
}

#[tokio::test]
async fn a_pin_is_said_now_and_was_when_it_says_also_one_that_an_older_version_has_kept() {
    let table = table(|builder| builder);
    let page = table.page(Access::local_operator());
    let pin = json!({"pin": "flag", "text": "sale", "t": NOW - 3_600});
    assert_eq!(act(&page, "pin", pin).await.status, 200);
    let said = page.get("/v1/events").await.json();
    let said = said["events"].as_array().unwrap().last().unwrap();
    let times = |event: &Value| [&event["t"], &event["at"]].map(|t| t.as_f64().unwrap());
    assert_eq!(times(said), [NOW as f64, (NOW - 3_600) as f64]);
    assert_eq!([&said["text"], &said["author"]], ["sale", "local"]);

    let state = State::new("older");
    let old = json!({"v": 1, "pins": [{"t": NOW - 60, "caller": null, "pin": "cache", "version": null, "text": "flushed", "on": null}]});
    fs::write(&state.0, old.to_string()).unwrap();
    let events = state.table().callers.events();
    let kept = events.iter().find(|event| event.kind == Kind::Pin).unwrap();
    let kept = serde_json::from_str(&kept.to_json()).unwrap();
    assert_eq!(times(&kept), [(NOW - 60) as f64; 2]);
}

#[tokio::test]
async fn a_clamp_ends_when_it_was_to_end_also_after_a_restart() {
    let state = State::new("instant");
    {
        let table = state.table();
        table.send("x-client-id", "loud", 200, 1).await;
        table.clock.advance(Duration::from_millis(750));
        let block = json!({"caller": "loud", "seconds": 2});
        let page = table.page(Access::local_operator());
        assert_eq!(act(&page, "block", block).await.status, 200);
    }
    let again = state.table();
    let served = async |table: &Table| {
        table.send("x-client-id", "loud", 200, 1).await;
        let snapshot = table.callers.snapshot();
        snapshot.caller("loud").unwrap().counts.by_class.total()
    };
    again.clock.advance(Duration::from_millis(2_700));
    assert_eq!(served(&again).await, 0);
    again.clock.advance(Duration::from_millis(100));
    assert_eq!(served(&again).await, 1);
}

#[tokio::test]
async fn a_state_file_that_cannot_be_written_leaves_all_as_it_was() {
    let state = State::new("full");
    let table = state.table();
    table.send("x-client-id", "checkout", 200, 1).await;
    let page = table.page(Access::local_operator());
    assert_eq!(
        act(&page, "incident", json!({"name": "before"}))
            .await
            .status,
        200
    );
    let written = fs::read(&state.0).unwrap();
    // Where the file is written first there is a folder: root may write anywhere else.
    fs::create_dir(state.0.with_file_name("state.json.draft")).unwrap();
    let clamp =
        |keep: bool| json!({"caller": "checkout", "quota": "5/s", "seconds": 60, "keep": keep});
    for (action, body) in [
        ("incident", json!({"name": "after"})),
        ("clamp", clamp(true)),
    ] {
        let answer = act(&page, action, body).await;
        assert_eq!(answer.status, 507, "{action}");
        assert!(
            answer.problem().contains("nothing was changed"),
            "{}",
            answer.body
        );
    }
    assert_eq!(fs::read(&state.0).unwrap(), written);
    assert_eq!(table.callers.incidents().len(), 1);
    table.send("x-client-id", "checkout", 200, 20).await;
    let refused = |table: &Table| {
        table
            .callers
            .snapshot()
            .caller("checkout")
            .unwrap()
            .counts
            .refused
            .total()
    };
    assert_eq!(refused(&table), 0, "requests are as they were");
    // The brake does not need the disk, if told so.
    assert_eq!(act(&page, "clamp", clamp(false)).await.status, 200);
    table.send("x-client-id", "checkout", 200, 20).await;
    assert_eq!(refused(&table), 15);
    // Nor does what is said, which is told to be forgotten by a restart.
    let pin = json!({"pin": "flag", "text": "new cache"});
    let expect = json!({"caller": "checkout", "factor": 3.0, "seconds": 60});
    for (action, body) in [("pin", &pin), ("expect", &expect)] {
        let answer = act(&page, action, body.clone()).await;
        assert_eq!(answer.status, 200, "{action}");
        let told = answer.json()["not_kept"].to_string();
        assert!(told.contains("could not be written"), "{action}: {told}");
    }
    assert_eq!(fs::read(&state.0).unwrap(), written);
    fs::remove_dir(state.0.with_file_name("state.json.draft")).unwrap();
    let answer = act(&page, "pin", pin).await.json();
    assert!(answer["not_kept"].is_null(), "{answer}");
    let kept = fs::read_to_string(&state.0).unwrap();
    assert_eq!(kept.matches("new cache").count(), 2, "{kept}");
}

#[tokio::test]
async fn the_status_alone_reads_the_file_of_the_service() {
    use callerid::dashboard::{Grant, StatusPage};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    let state = State::new("alone");
    let status = StatusPage::new(&state.0);
    let open = status
        .clone()
        .access(Access::from_fn(|_| Grant::nothing().read()));
    let ask = |page: StatusPage, path: &'static str, peer| async move {
        let (head, body) = page
            .oneshot(request("GET", path, peer))
            .await
            .unwrap()
            .into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            head.status.as_u16(),
            String::from_utf8(body.to_vec()).unwrap(),
        )
    };
    assert_eq!(ask(status, "/", Some("10.0.0.1")).await.0, 403);
    let table = state.table();
    let page = table.page(Access::local_operator());
    act(&page, "incident", json!({"name": "slow", "eta": NOW + 60})).await;
    drop((table, page));
    let (code, html) = ask(open.clone(), "/", Some("10.0.0.1")).await;
    assert!(
        code == 200 && html.contains("slow") && html.contains("prices"),
        "{html}"
    );
    assert_eq!(ask(open.clone(), "/style.css", None).await.0, 200);
    let (_, summary) = ask(open.clone(), "/summary.json", None).await;
    assert!(summary.contains("2025-10-09T08:54:20Z"), "{summary}");
    assert_eq!(ask(open, "/v1/overview", None).await.0, 404);
}

#[test]
fn a_state_file_that_never_could_be_written_is_an_error_at_the_start_and_names_the_file() {
    let state = State::new("never");
    let folder = state.0.parent().unwrap();
    let refused = |path: &std::path::Path| {
        let builder = callerid::Callers::builder()
            .identify(callerid::identify::header("x-client-id"))
            .state_file(path);
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains("state_file: "), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
        error
    };
    // A device without an end is not read to it.
    assert!(refused("/dev/full".as_ref()).contains("not a regular file"));
    assert!(refused("/dev/zero".as_ref()).contains("not a regular file"));
    assert!(refused(folder).contains("not a regular file"));
    assert!(refused(&folder.join("no/such/state.json")).contains("cannot be written"));
    // A folder in the place of the draft, as root may write anywhere.
    fs::create_dir(folder.join("state.json.draft")).unwrap();
    assert!(refused(&state.0).contains("cannot be written"));
    fs::remove_dir(folder.join("state.json.draft")).unwrap();
    drop(state.table());
    assert!(!folder.join("state.json.draft").exists());
}

#[tokio::test]
async fn an_incident_that_is_over_is_shown_for_a_day() {
    let table = table(|builder| builder);
    let page = table.page(Access::local_operator());
    let posted = act(&page, "incident", json!({"name": "slow"})).await.json();
    let over = json!({"id": posted["incident"]["id"], "state": "resolved", "body": "mended"});
    table.pass(60);
    assert_eq!(act(&page, "incident", over).await.status, 200);
    table.pass(1);
    let overview = page.get("/v1/overview").await.json();
    assert_eq!(overview["incidents"], json!([]));
    assert_eq!(overview["recent"][0]["updates"][1]["body"], "mended");
    let day = Duration::from_secs(86_400);
    table.callers.tick(table.clock.advance(day));
    let overview = page.get("/v1/overview").await.json();
    assert_eq!(overview["recent"], json!([]));
    assert!(page.get("/status").await.body.contains("mended"));
}
